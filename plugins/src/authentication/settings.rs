//! What the operator writes about credentials: issuers, API keys, and what each route accepts.

use std::num::NonZeroU32;

use portcullis_api::{At, Cidrs, Environment, Millis, Role, Scope, SecretRef};
use schemars::JsonSchema;
use serde::Deserialize;

use super::api_key_uses::FailureSettings;

/// One issuer of tokens, `[issuers.NAME]`. The issuer decides the keys, and a key decides the algorithm.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// The exact `iss`.
    pub issuer: At<String>,
    /// Audiences of which the token must carry one. With `secret` the token names one audience, as a string.
    pub audiences: At<Vec<At<String>>>,
    /// Signature algorithms. HMAC and public-key algorithms do not mix.
    pub algorithms: At<Vec<At<Algorithm>>>,
    /// Where its keys are: `{ jwks_url = "https://…" }`, `{ discovery = "https://…/.well-known/openid-configuration" }`,
    /// `{ jwks_file = "…" }`, or `{ secret = "file:…" }` for HS256.
    pub keys: At<Keys>,
    /// How long a key set is used after it was fetched or read last, 10 minutes to 24 hours; 6 hours when not written.
    pub max_stale: Option<At<Millis>>,
    /// Networks that are not public (loopback, private, link-local, …) in which its key server may be nonetheless. When not
    /// written, keys are fetched from public addresses only.
    pub private_networks: Option<At<Cidrs>>,
    /// Where the claims that matter stand in the payload.
    pub claims: Claims,
    /// The exact `typ` of the token's header; when not written, `JWT`, `at+jwt` or none is accepted.
    pub typ: Option<At<String>>,
    /// Longest `exp - iat`, at most 7 days.
    #[serde(default = "max_lifetime")]
    pub max_lifetime: At<Millis>,
    /// How far `iat` and `nbf` may lie in the future, at most 30 s. `exp` has no leeway.
    #[serde(default = "clock_skew")]
    pub clock_skew: At<Millis>,
    /// Name of the issuer's role → viewer, developer, admin or owner. A role that is not listed is no role. When not
    /// written, the four names map to themselves.
    pub roles: Option<std::collections::BTreeMap<String, Role>>,
    /// Whether a token must name itself by `jti`: `"required"` (default) or `"optional"`, for providers that write none.
    #[serde(default)]
    pub jti: Presence,
    /// The cookie that carries this issuer's tokens for routes that accept `cookie:NAME`. Must start with `__Host-`.
    pub cookie: Option<At<String>>,
}

/// Whether something must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// It must.
    #[default]
    Required,
    /// It may.
    Optional,
}

/// Dotted paths into the token's payload.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// The tenant.
    pub tenant: At<String>,
    /// A role name or a list of them.
    pub roles: Option<At<String>>,
    /// Space-separated scopes or a list of them.
    pub scopes: Option<At<String>>,
    /// An object from names of environments to role names. On routes that name an `environment` the caller's role is the lesser
    /// of its role and the one for this environment; without one for it there is no access.
    pub environments: Option<At<String>>,
}

/// Where an issuer's keys are.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Keys {
    /// A JWKS document fetched over https, refreshed behind the traffic.
    JwksUrl(String),
    /// The document that says where the JWKS is (OpenID Connect Discovery, RFC 8414), fetched over https with it. Its
    /// `issuer` must be this issuer's, byte for byte.
    Discovery(String),
    /// A JWKS file, read again when it changes.
    JwksFile(std::path::PathBuf),
    /// A shared secret of at least 32 bytes, for HS256 of an issuer of your own.
    Secret(SecretRef),
}

/// Signature algorithms (RFC 7518, RFC 8037).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// Ed25519.
    EdDSA,
    /// RSA PKCS#1 v1.5 with SHA-256, 2048 to 8192 bits.
    RS256,
    /// RSA-PSS with SHA-256, 2048 to 8192 bits.
    PS256,
    /// HMAC with SHA-256, for an issuer with a shared secret.
    HS256,
}

const fn max_lifetime() -> At<Millis> {
    At::nowhere(Millis::from_secs(3600))
}
const fn clock_skew() -> At<Millis> {
    At::nowhere(Millis::from_secs(30))
}

/// Where fetched key sets are kept, `[key_sets]`. Without it a gateway that starts while an issuer is away answers its tokens
/// with 503 until the issuer is back.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeySetCopies {
    /// A folder that only the gateway's user may write to: the last good key set of each issuer whose keys are fetched, with
    /// its time. It is used for no longer than the issuer's `max_stale`.
    pub folder: At<std::path::PathBuf>,
}

/// API keys, `[api_keys]`: records in a `file` or in a `store`, exactly one of them.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiKeys {
    /// The file of key records: keyed hashes, never keys. Written by `portcullis keys issue`, read again when it changes.
    pub file: Option<At<std::path::PathBuf>>,
    /// The store of key records, followed within about a second: `"sqlite:keys.db"` for one gateway, or
    /// `"postgresql://user@host/database"` for several. A URL with a password is written as a `file:` or `env:` reference.
    /// PostgreSQL is spoken to over verified TLS; `?sslmode=disable` is possible to a loopback address only. Changes with a
    /// restart.
    pub store: Option<At<KeyStoreAt>>,
    /// The roots that the certificate of PostgreSQL is verified by, PEM. Changes with a restart.
    pub store_ca: Option<At<std::path::PathBuf>>,
    /// How long known keys go on while the store is away, in whole seconds from 1 s to 24 h; `1h` when not written. After
    /// that a request with an API key is 503.
    pub max_stale: Option<At<Millis>>,
    /// How many active keys a tenant may have in the store, 1 to 10,000; 100 when not written.
    pub keys_max: Option<At<NonZeroU32>>,
    /// The secret that keys the hashes, at least 32 bytes. It makes records, and verifies them.
    pub pepper: At<SecretRef>,
    /// Peppers from before this one, at most 7: they verify the records that were made with them.
    #[serde(default)]
    pub older_peppers: Vec<At<SecretRef>>,
    /// The first part of every key, 2 to 8 of a-z; `pck` when not written.
    pub brand: Option<At<Environment>>,
    /// How many keys that are none an address may try before the answer is 429 instead of 401.
    #[serde(default)]
    pub failures: FailureSettings,
}

/// Where the store of key records is.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String")]
pub enum KeyStoreAt {
    /// `sqlite:PATH`.
    Sqlite(std::path::PathBuf),
    /// A URL of PostgreSQL.
    Postgres(String),
    /// One that is kept elsewhere.
    PostgresAt(SecretRef),
}

impl<'de> Deserialize<'de> for KeyStoreAt {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::{Error, IntoDeserializer};
        let text = String::deserialize(deserializer)?;
        match text.split_once(':') {
            Some(("sqlite", path)) if !path.is_empty() && !path.starts_with("//") => Ok(Self::Sqlite(path.into())),
            Some(("postgresql" | "postgres", rest)) if rest.starts_with("//") => Ok(Self::Postgres(text)),
            Some(("file" | "env", _)) => SecretRef::deserialize(text.into_deserializer()).map(Self::PostgresAt),
            // The text is not echoed: a mistyped URL may carry a password.
            Some(_) | None => Err(D::Error::custom(
                "no store of this kind: write \"sqlite:PATH\", a URL (postgresql://user@host/database), or a `file:` or \
                 `env:` reference to one",
            )),
        }
    }
}

/// How a route is authenticated: `accept` or `public`, exactly one of them.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// `jwt:ISSUER` (Bearer), `cookie:ISSUER`, `api_key`, `exchange`, `certificate`.
    pub accept: Option<At<Vec<At<Accept>>>>,
    /// Why this route needs no credential. A credential that is present must still be valid.
    pub public: Option<At<String>>,
    /// Scopes that the caller must all have.
    #[serde(default)]
    pub scopes: Vec<At<Scope>>,
    /// The least role.
    pub role: Option<At<Role>>,
    /// The environment of this route: API keys must be of it, and tokens of issuers with `claims.environments` have their role
    /// in it.
    pub environment: Option<At<Environment>>,
    /// How long ago the caller may have signed in, by the token's `auth_time` (RFC 9470). A token without one is not enough.
    pub max_auth_age: Option<At<Millis>>,
    /// Whether the client's credential reaches the upstream.
    #[serde(default)]
    pub credentials: ForwardCredentials,
}

/// Whether the client's credential reaches the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ForwardCredentials {
    /// It is removed.
    #[default]
    Strip,
    /// It is passed on as it came.
    Forward,
}

/// One kind of credential.
#[derive(Debug, Clone, PartialEq, Eq, Hash, JsonSchema)]
#[schemars(with = "String")]
pub enum Accept {
    /// `jwt:ISSUER`: a Bearer token of this issuer.
    Jwt(String),
    /// `cookie:ISSUER`: a token of this issuer in its cookie.
    Cookie(String),
    /// `api_key`: in `Authorization: Bearer` or `X-Api-Key`.
    ApiKey,
    /// `exchange`: a Bearer token that an API key bought, see `[exchange]`.
    Exchange,
    /// `certificate`: of the connection, on listeners that ask for one.
    Certificate,
}

impl<'de> Deserialize<'de> for Accept {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.split_once(':') {
            None if text == "api_key" => Ok(Self::ApiKey),
            None if text == "exchange" => Ok(Self::Exchange),
            None if text == "certificate" => Ok(Self::Certificate),
            Some(("jwt", issuer)) if !issuer.is_empty() => Ok(Self::Jwt(issuer.to_owned())),
            Some(("cookie", issuer)) if !issuer.is_empty() => Ok(Self::Cookie(issuer.to_owned())),
            Some(_) | None => Err(serde::de::Error::custom(format!(
                "`{text}` is no kind of credential: write `jwt:ISSUER`, `cookie:ISSUER`, `api_key`, `exchange` or `certificate`"
            ))),
        }
    }
}
