//! `authentication`: who calls. Exactly one credential, verified by the keys of the issuer that the operator wrote, or
//! nobody on a route that is public in writing.
//!
//! Order of a check: find the one credential (`credential.rs`); a token is looked up in the cache (`cache.rs`), else
//! parsed (`jws.rs`, `strict_json.rs`), its issuer chosen, its key selected (`keys.rs`), its signature verified, its
//! claims read (`claims.rs`); an API key is parsed and compared (`api_keys.rs`).
//!
//! Invariants: an [`Identity`] comes out of a verification or not at all. "Cannot tell" is a [`Fault`], "no" is a
//! [`Deny`], and a credential that is present is never overlooked, also on a public route.

mod api_key_check;
mod api_key_file;
mod api_key_issue;
mod api_key_ledger;
mod api_key_pepper;
mod api_key_record;
mod api_key_uses;
mod api_keys;
mod cache;
mod caller;
mod check_issuers;
mod claims;
mod compile;
mod credential;
mod deny;
mod identity;
mod jwk;
mod jws;
mod keys;
mod settings;
pub(crate) mod strict_json;

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use portcullis_api::{
    At, ClientIp, Clock, Control, ControlName, Environment, Facts, Fault, Issues, RouteId, RouteRef, Strict,
    UnixSeconds, Verdict,
};

pub use api_key_file::{ApiKeyFileError, RECORDS_MAX, list_records};
pub use api_key_issue::{IssueRequest, Issued, LIFETIME_DEFAULT_S, add_record, issue, revoke_record};
pub use api_key_ledger::{BadRow, Ledger, Made, OVERLAP_DEFAULT_S, OVERLAP_MAX_S, RotateRequest, Row};
pub use api_key_pepper::{PEPPERS_MAX, Peppers};
pub use api_key_record::LIFETIME_MAX_S;
pub use api_key_uses::{ApiKeyNeeds, FailureSettings, Failures, KeyUse, USE_INTERVAL_S};
pub use api_keys::ApiKeyTable;
pub(crate) use api_keys::is_api_key_id;
pub use cache::{CACHE_BYTES, VerifiedCache};
pub(crate) use check_issuers::ISS_BYTES_MAX;
pub(crate) use claims::{JTI_BYTES_MAX, SID_BYTES_MAX, SUBJECT_BYTES_MAX, is_printable};
pub use credential::{X_API_KEY, credential_headers, sets_cookie, strip_cookie, strip_cookie_bytes};
pub(crate) use deny::MALFORMED_CHALLENGE;
pub use deny::{Ambiguity, Deny, INVALID, MALFORMED, REQUIRED, Why};
pub use identity::{API_KEY_ISSUER, Authenticated, Caller, Credential, Identity, Kind};
pub use jws::TOKEN_BYTES_MAX;
pub(crate) use jws::is_kid;
pub use keys::{JWKS_BYTES_MAX, KeySet, KeySetError, KeySetState, KeySets};
pub use settings::*;

use caller::{identity_of, revocable};
use credential::{Known, Presented};

use crate::{rate_limit::Numbers, revocations::Revocations};

/// What the document says of credentials.
#[derive(Debug, Clone, Copy)]
pub struct Input<'d> {
    /// `[issuers]`.
    pub issuers: &'d BTreeMap<String, Issuer>,
    /// `[api_keys]`.
    pub api_keys: Option<&'d ApiKeys>,
    /// Each route's `auth`.
    pub routes: &'d [(RouteRef, &'d At<Auth>)],
}

/// What must be known: the canonical request and its route.
#[derive(Debug, Clone, Copy)]
pub struct Sees<'r> {
    /// The canonical request.
    pub facts: Facts<'r>,
    /// The settled address.
    pub client: ClientIp,
    /// The route it takes.
    pub route: RouteId,
}

/// What outlives every snapshot.
#[derive(Clone)]
pub struct Needs {
    /// Key sets by issuer.
    pub key_sets: Arc<dyn KeySets>,
    /// API keys.
    pub api_keys: ApiKeyNeeds,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Verified tokens.
    pub cache: Arc<VerifiedCache>,
    /// What was revoked.
    pub revocations: Arc<Revocations>,
}

/// The compiled control.
pub struct Authentication {
    issuers: Vec<IssuerRule>,
    routes: Vec<Option<RouteRule>>,
    known: Known,
    failures: Numbers,
    needs: Needs,
    settings_generation: u64,
}

/// One issuer, compiled.
struct IssuerRule {
    name: Arc<str>,
    iss: String,
    algorithms: Vec<Algorithm>,
    typ: Option<String>,
    claims: claims::Rules,
    keys: Arc<ArcSwap<KeySetState>>,
}

/// One route, compiled.
struct RouteRule {
    name: Arc<str>,
    absent: Absent,
    /// Whether tokens of an issuer are accepted in `Authorization`, by the issuer's index.
    bearer: Vec<bool>,
    /// Whether tokens of an issuer are accepted in its cookie, by the issuer's index.
    cookie: Vec<bool>,
    api_key: bool,
    environment: Option<Environment>,
    forward: ForwardCredentials,
}

/// What a request without a credential is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Absent {
    Refused,
    Anonymous,
}

/// Why a credential gave no identity.
enum Failure {
    Denied(Deny),
    Unknown(Fault),
}

const NAME: ControlName = ControlName::new("authentication");
/// Key sets are tried again within this many seconds.
const RETRY_AFTER_S: u32 = 5;
/// `typ` of a token whose issuer does not pin one (RFC 7519 5.1, RFC 9068 2.1).
const TYPES: &[&str] = &["JWT", "at+jwt"];

impl Authentication {
    /// Whether the configuration has an issuer of this name.
    #[must_use]
    pub fn knows_issuer(&self, name: &str) -> bool {
        self.iss(name).is_some()
    }

    /// The `iss` of the issuer of this name.
    #[must_use]
    pub fn iss(&self, name: &str) -> Option<&str> {
        self.issuers.iter().find(|issuer| &*issuer.name == name).map(|issuer| issuer.iss.as_str())
    }

    /// The names of all issuers.
    pub fn issuer_names(&self) -> impl Iterator<Item = &str> {
        self.issuers.iter().map(|issuer| &*issuer.name)
    }
}

impl Control for Authentication {
    const NAME: ControlName = NAME;
    type Settings<'d> = Input<'d>;
    type Sees<'r> = Sees<'r>;
    type Proof = Authenticated;
    type Deny = Deny;
    type Needs = Needs;
    type Posture = Strict;

    fn compile(settings: Input<'_>, needs: &Needs, issues: &mut Issues) -> Option<Self> {
        compile::compile(settings, needs, issues)
    }

    fn check<'r>(
        &'r self,
        sees: Sees<'r>,
    ) -> impl Future<Output = Result<Verdict<Authenticated, Deny>, Fault>> + Send + 'r {
        std::future::ready(self.decide(sees))
    }
}

impl Authentication {
    /// Headers that the upstream of a route that strips credentials must not see. Cookies are told by
    /// [`Self::cookie_names`].
    #[must_use]
    pub fn credential_headers(&self) -> &'static [&'static str] {
        if self.known.api_key_prefix.is_some() { credential_headers() } else { &["authorization"] }
    }

    /// The cookies that carry credentials. For [`strip_cookie`].
    pub fn cookie_names(&self) -> impl Iterator<Item = &str> {
        self.known.cookies.iter().map(|cookie| cookie.name.as_str())
    }

    /// Whether the client's credential reaches the upstream of this route. An unknown route strips.
    #[must_use]
    pub fn forward_credentials(&self, route: RouteId) -> ForwardCredentials {
        self.route(route).map_or(ForwardCredentials::Strip, |rule| rule.forward)
    }

    fn route(&self, route: RouteId) -> Option<&RouteRule> {
        self.routes.get(route.index()).and_then(Option::as_ref)
    }

    fn decide(&self, sees: Sees<'_>) -> Result<Verdict<Authenticated, Deny>, Fault> {
        let Some(route) = self.route(sees.route) else { return Err(fault("a route without authentication rules")) };
        let presented = match self.known.find(&sees.facts) {
            Ok(presented) => presented,
            Err(ambiguity) => return Ok(Verdict::Deny(Deny::Malformed(ambiguity))),
        };
        let Some(presented) = presented else {
            return Ok(match route.absent {
                Absent::Refused => Verdict::Deny(Deny::Required),
                Absent::Anonymous => Verdict::Pass(Authenticated::new(Caller::Anonymous)),
            });
        };
        let now = self.needs.clock.unix();
        let verified = self.verify(route, presented, now).and_then(|identity| self.unrevoked(identity));
        match verified.and_then(|identity| self.permitted(identity, &sees, route, now)) {
            Ok(identity) => Ok(Verdict::Pass(Authenticated::new(Caller::Verified(identity)))),
            Err(Failure::Denied(deny)) => Ok(Verdict::Deny(self.counted(deny, sees.client))),
            Err(Failure::Unknown(fault)) => Err(fault),
        }
    }

    /// Asked of whatever verified: now, in an earlier request, or as an API key.
    fn unrevoked(&self, identity: Arc<Identity>) -> Result<Arc<Identity>, Failure> {
        let Some(kind) = self.needs.revocations.revoked(identity.revocable()) else { return Ok(identity) };
        let issuer = match identity.kind() {
            Kind::User => Some(identity.issuer().into()),
            Kind::ApiKey => None,
        };
        Err(Failure::Denied(Deny::Invalid { why: Why::revoked(kind), issuer }))
    }

    fn verify(&self, route: &RouteRule, presented: Presented<'_>, now: UnixSeconds) -> Result<Arc<Identity>, Failure> {
        match presented {
            Presented::OtherScheme => Err(no(Why::Scheme)),
            Presented::ApiKey(key) => self.api_key(route, key, now),
            Presented::Bearer(token) => self.token(&route.bearer, Credential::Bearer, None, token, now),
            Presented::Cookie { issuer, token } => {
                self.token(&route.cookie, Credential::Cookie, Some(issuer), token, now)
            }
        }
    }

    /// `accepted` tells by issuer whether the route takes its tokens from this place; `bound` is the issuer whose
    /// cookie it is.
    fn token(
        &self,
        accepted: &[bool],
        credential: Credential,
        bound: Option<usize>,
        token: &[u8],
        now: UnixSeconds,
    ) -> Result<Arc<Identity>, Failure> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(no(Why::TokenTooLong));
        }
        let admits =
            |index: usize| accepted.get(index).copied().unwrap_or(false) && bound.is_none_or(|issuer| issuer == index);
        let key = VerifiedCache::key(credential, token);
        if let Some(entry) = self.needs.cache.get(&key) {
            if self.still_good(&entry, now) {
                return if admits(entry.issuer) {
                    Ok(Arc::clone(&entry.identity))
                } else {
                    Err(self.no(entry.issuer, Why::IssuerNotAccepted))
                };
            }
            self.needs.cache.forget(&key);
        }

        let jws = jws::parse(token).map_err(no)?;
        let iss = jws.payload.member("iss").and_then(strict_json::Json::text).ok_or_else(|| no(Why::IssuerForm))?;
        let found = self.issuers.iter().enumerate().find(|(_, issuer)| issuer.iss == iss);
        let Some((index, issuer)) = found else { return Err(no(Why::IssuerUnknown)) };
        if !admits(index) {
            return Err(self.no(index, Why::IssuerNotAccepted));
        }
        let Signed { claims, keys_generation, kid } =
            self.signed_claims(issuer, &jws, now).map_err(|failure| match failure {
                Stop::Why(why) => self.no(index, why),
                Stop::Fault(fault) => Failure::Unknown(fault),
            })?;
        let expires = claims.expires;
        let revocable = revocable(issuer, &claims, kid, jws.signing_input);
        let identity = Arc::new(identity_of(issuer, claims, credential, revocable));
        self.needs.cache.insert(
            key,
            cache::Entry {
                identity: Arc::clone(&identity),
                issuer: index,
                settings_generation: self.settings_generation,
                keys_generation,
                expires,
            },
        );
        Ok(identity)
    }

    /// Whether what was verified once would be verified again now.
    fn still_good(&self, entry: &cache::Entry, now: UnixSeconds) -> bool {
        if entry.settings_generation != self.settings_generation || now >= entry.expires {
            return false;
        }
        let Some(issuer) = self.issuers.get(entry.issuer) else { return false };
        match &**issuer.keys.load() {
            KeySetState::Missing { .. } => false,
            KeySetState::Ready(keys) => keys.generation() == entry.keys_generation,
        }
    }

    /// Verifies the signature and reads the claims; also tells which keys did it.
    fn signed_claims(&self, issuer: &IssuerRule, jws: &jws::Jws<'_>, now: UnixSeconds) -> Result<Signed, Stop> {
        let typ_fits = match (&issuer.typ, &jws.header.typ) {
            (Some(pinned), Some(typ)) => pinned == typ,
            (Some(_), None) => false,
            (None, Some(typ)) => TYPES.contains(&typ.as_str()),
            (None, None) => true,
        };
        if !typ_fits {
            return Err(Stop::Why(Why::Typ));
        }
        if !issuer.algorithms.contains(&jws.header.algorithm) {
            return Err(Stop::Why(Why::AlgorithmNotAllowed));
        }
        let state = issuer.keys.load();
        let keys = match &**state {
            KeySetState::Missing { why } => {
                return Err(Stop::Fault(fault(format!("no key set of issuer {}: {why}", issuer.name))));
            }
            KeySetState::Ready(keys) => keys,
        };
        let key = keys.select(jws.header.kid.as_deref(), jws.header.algorithm).map_err(|why| {
            if why == Why::KidUnknown {
                self.needs.key_sets.unknown_kid(&issuer.name);
            }
            Stop::Why(why)
        })?;
        key.verify(jws.signing_input, &jws.signature).map_err(Stop::Why)?;
        let claims = claims::read(&jws.payload, &issuer.claims, now).map_err(Stop::Why)?;
        Ok(Signed { claims, keys_generation: keys.generation(), kid: key.kid.clone() })
    }

    fn no(&self, issuer: usize, why: Why) -> Failure {
        let issuer = self.issuers.get(issuer).map(|issuer| Arc::clone(&issuer.name));
        Failure::Denied(Deny::Invalid { why, issuer })
    }
}

/// What the signature of a token's issuer stands for.
struct Signed {
    claims: claims::Claims,
    keys_generation: u128,
    /// Of the key that verified it, which is not always what the token says.
    kid: Option<String>,
}

/// Why a token of a known issuer gave no claims.
enum Stop {
    Why(Why),
    Fault(Fault),
}

fn no(why: Why) -> Failure {
    Failure::Denied(Deny::Invalid { why, issuer: None })
}

fn fault(what: impl Into<std::borrow::Cow<'static, str>>) -> Fault {
    Fault { control: NAME, what: what.into(), retry_after_s: RETRY_AFTER_S }
}

#[cfg(test)]
mod tests;
