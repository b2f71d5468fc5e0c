//! What is asked for, cut down to what the key has, and signed.

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis_api::{Environment, Fault, Role, Scope, UnixSeconds};
use serde::Serialize;

use super::{Deny, Rule, form::Form, holder::issuer_of};
use crate::authentication::{Authentication, Filters, Identity, Why, fault, jws, keys::KeySetState};

/// A token, and what is told of it (RFC 8693 2.2.1).
#[derive(Serialize)]
pub struct Granted {
    access_token: String,
    issued_token_type: &'static str,
    token_type: &'static str,
    expires_in: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
}

impl Granted {
    /// The answer's body.
    ///
    /// # Errors
    /// None is expected.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }
}

#[derive(Serialize)]
struct Header<'t> {
    alg: &'static str,
    kid: Option<&'t str>,
    typ: &'static str,
}

/// `typ` of every token of the exchange (RFC 9068 2.1).
pub(super) const TYP: &str = "at+jwt";

#[derive(Serialize)]
struct Claims<'t> {
    iss: &'t str,
    aud: &'t str,
    iat: UnixSeconds,
    exp: UnixSeconds,
    jti: &'t str,
    sub: String,
    tid: &'t str,
    env: &'t str,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    scp: Vec<&'t str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flt: Option<&'t Filters>,
    key_id: &'t str,
}

impl Authentication {
    /// The token that a verified key buys; the inner error is the asker's, the outer one ours.
    pub(super) fn mint(
        &self,
        rule: &Rule,
        key: &Identity,
        form: &Form<'_>,
        (id, now): (&str, UnixSeconds),
    ) -> Result<Result<Granted, Deny>, Fault> {
        let issuer = self.issuers.get(rule.issuer).ok_or_else(|| fault("an exchange without its issuer"))?;
        let (Some(environment), Some(key_id), Some(ends)) = (key.environment(), key.key_id(), key.expires()) else {
            return Err(fault("an API key without an environment, an id or an end"));
        };
        if form.audience.as_ref().is_some_and(|audience| **audience != *issuer.iss) {
            return Ok(Err(Deny::Target));
        }
        let scopes = match form.scope.as_deref().map_or_else(|| Ok(key.scopes().to_vec()), |asked| granted(key, asked))
        {
            Ok(scopes) => scopes,
            Err(deny) => return Ok(Err(deny)),
        };
        let role = match form.role {
            None => key.role(),
            Some(asked) => key.role().map(|has| has.min(asked)),
        };
        let filters = match narrowed(key.filters(), form.filters.as_ref()) {
            Ok(filters) => filters,
            Err(deny) => return Ok(Err(deny)),
        };
        let expires = now.saturating_add(rule.lifetime_s).min(ends);
        if expires <= now {
            return Ok(Err(Deny::Client(Why::ApiKeyExpired)));
        }
        let claims = Claims {
            iss: &issuer.iss,
            aud: &issuer.iss,
            iat: now,
            exp: expires,
            jti: id,
            sub: format!("{}:{key_id}", issuer_of(key.kind())),
            tid: key.tenant().as_str(),
            env: Environment::as_str(environment),
            role: role.map(Role::as_str),
            scp: scopes.iter().map(Scope::as_str).collect(),
            flt: filters.as_deref(),
            key_id,
        };
        let state = issuer.keys.load();
        let newest = match &**state {
            KeySetState::Missing { why } => return Err(fault(format!("no key of the exchange: {why}"))),
            KeySetState::Ready(keys) => keys.newest().ok_or_else(|| fault("no key of the exchange"))?,
        };
        let header = Header { alg: "HS256", kid: newest.kid.as_deref(), typ: TYP };
        let encoded = |json: Result<Vec<u8>, serde_json::Error>| {
            json.map(|json| URL_SAFE_NO_PAD.encode(json)).map_err(|_| fault("claims that cannot be written"))
        };
        let payload = serde_json::to_vec(&claims);
        // What could not be read back is not handed out.
        if payload.as_ref().is_ok_and(|payload| payload.len() > jws::PAYLOAD_BYTES_MAX) {
            return Ok(Err(Deny::Request("the token would be too large: ask for fewer scopes")));
        }
        let signing_input = format!("{}.{}", encoded(serde_json::to_vec(&header))?, encoded(payload)?);
        let signature =
            newest.sign(signing_input.as_bytes()).ok_or_else(|| fault("a key of the exchange does not sign"))?;
        let scope: Vec<&str> = claims.scp.clone();
        Ok(Ok(Granted {
            access_token: format!("{signing_input}.{}", URL_SAFE_NO_PAD.encode(signature)),
            issued_token_type: form.token_type.as_str(),
            token_type: "Bearer",
            expires_in: expires.saturating_sub(now),
            scope: (!scope.is_empty()).then(|| scope.join(" ")),
        }))
    }
}

/// Both, where there are both: what is asked for is never instead of what the key has.
fn narrowed<'f>(has: Option<&'f Filters>, asked: Option<&'f Filters>) -> Result<Option<Cow<'f, Filters>>, Deny> {
    match (has, asked) {
        (Some(has), Some(asked)) => {
            has.and(asked).map(|both| Some(Cow::Owned(both))).map_err(|error| Deny::Request(error.why()))
        }
        (Some(one), None) | (None, Some(one)) => Ok(Some(Cow::Borrowed(one))),
        (None, None) => Ok(None),
    }
}

/// Each scope that is asked for must be the key's.
fn granted(key: &Identity, asked: &str) -> Result<Vec<Scope>, Deny> {
    let mut scopes: Vec<Scope> = Vec::new();
    for name in asked.split(' ') {
        let scope = Scope::parse(name).map_err(|_| Deny::Scope("what is asked for is no scope"))?;
        if !key.has_scope(&scope) {
            return Err(Deny::Scope("the key does not have the scope"));
        }
        if !scopes.contains(&scope) {
            scopes.push(scope);
        }
    }
    Ok(scopes)
}
