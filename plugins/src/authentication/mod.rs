//! `authentication`: who calls. Exactly one credential, verified by the keys of the issuer that the operator wrote, or
//! nobody on a route that is public in writing.
//!
//! Order of a check: find the one credential (`credential.rs`); a token is looked up in the cache (`cache.rs`), else
//! parsed (`jws.rs`, `strict_json.rs`), its issuer chosen, its key selected (`keys.rs`), its signature verified, its
//! claims read (`claims.rs`), all in `token.rs`; where its key is unknown the issuer is asked once more; an API key is parsed and compared (`api_keys.rs`).
//!
//! Invariants: an [`Identity`] comes out of a verification or not at all. "Cannot tell" is a [`Fault`], "no" is a
//! [`Deny`], and a credential that is present is never overlooked, also on a public route.

mod agents;
mod api_key_check;
mod api_key_file;
mod api_key_issue;
mod api_key_kind;
mod api_key_ledger;
mod api_key_pepper;
mod api_key_record;
mod api_key_uses;
mod api_keys;
mod cache;
mod caller;
mod certificate;
mod check_issuers;
mod claims;
mod compile;
mod connection;
mod credential;
mod deny;
mod discovery;
pub mod exchange;
mod filters;
mod identity;
mod jwk;
mod jws;
mod key_server;
mod keys;
mod notes;
mod settings;
mod standing;
pub(crate) mod strict_json;
mod token;
mod told;

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use portcullis_api::{
    At, ClientIp, Clock, Control, ControlName, Environment, Facts, Fault, Issues, RouteId, RouteRef, Strict,
    UNAVAILABLE, UnixSeconds, Verdict,
};

pub(crate) use agents::is_agent_subject;
pub use agents::{AGENT_ISSUER, Agent, AgentName, CertificateMode, ClientCertificates, UriPattern, UriPatternError};
pub use api_key_file::{ApiKeyFileError, RECORDS_MAX, list_records};
pub use api_key_issue::{IssueRequest, Issued, LIFETIME_DEFAULT_S, add_record, issue, revoke_record};
pub use api_key_kind::KeyKind;
pub use api_key_ledger::{BadRow, Ledger, Made, OVERLAP_DEFAULT_S, OVERLAP_MAX_S, RotateRequest, Row};
pub use api_key_pepper::{PEPPERS_MAX, Peppers};
pub use api_key_record::LIFETIME_MAX_S;
pub use api_key_uses::{ApiKeyNeeds, FailureSettings, Failures, KeyUse, USE_INTERVAL_S};
pub use api_keys::ApiKeyTable;
pub(crate) use api_keys::is_api_key_id;
pub use cache::{CACHE_BYTES, VerifiedCache};
pub use certificate::{
    CERTIFICATE_LIFETIME_MAX_S, CertificateError, ClientCertificate, Shown, Standing, fingerprint, thumbprint,
};
pub(crate) use check_issuers::ISS_BYTES_MAX;
pub(crate) use claims::{JTI_BYTES_MAX, SID_BYTES_MAX, SUBJECT_BYTES_MAX, is_printable};
pub use credential::{X_API_KEY, credential_headers, sets_cookie, strip_cookie, strip_cookie_bytes};
pub(crate) use deny::MALFORMED_CHALLENGE;
pub use deny::{Ambiguity, Deny, INVALID, MALFORMED, REQUIRED, STALE, Why};
pub use discovery::{DiscoveryError, jwks_uri};
pub use filters::{FILTERS_BYTES_MAX, Filters, FiltersError, TERMS_MAX};
pub use identity::{API_KEY_ISSUER, Authenticated, Caller, Credential, Identity, Kind};
pub use jws::TOKEN_BYTES_MAX;
pub(crate) use jws::is_kid;
pub use key_server::{STALE_DEFAULT, check_url, may_be_asked};
pub use keys::{CannotTell, JWKS_BYTES_MAX, KeySet, KeySetError, KeySetState, KeySets, Renewing};
pub use notes::notes;
pub use settings::*;

use connection::bound;
use credential::{Known, Presented};

use crate::{
    rate_limit::Numbers,
    revocations::{Freshness, MaxStale, Revocations},
};

/// What the document says of credentials.
#[derive(Debug, Clone, Copy)]
pub struct Input<'d> {
    /// `[issuers]`.
    pub issuers: &'d BTreeMap<String, Issuer>,
    /// `[api_keys]`.
    pub api_keys: Option<&'d ApiKeys>,
    /// `[exchange]`.
    pub exchange: Option<&'d exchange::ExchangeSettings>,
    /// Each listener's name and `client_certificates`, in the order of their indexes.
    pub listeners: &'d [(&'d str, Option<&'d ClientCertificates>)],
    /// Each route.
    pub routes: &'d [Route<'d>],
    /// How old what is known of revocations may be.
    pub max_stale: &'d MaxStale,
}

/// What the document says of one route.
#[derive(Debug, Clone)]
pub struct Route<'d> {
    /// Its id and name.
    pub route: RouteRef,
    /// How requests are authenticated.
    pub auth: &'d At<Auth>,
    /// How fresh what is known of revocations must be.
    pub revocation: &'d At<Freshness>,
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
    /// The certificate of its connection, where the client showed one.
    pub certificate: Option<Shown<'r>>,
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
    /// Whom certificates name, by the listener's index.
    certificates: Vec<Option<agents::Rules>>,
    known: Known,
    failures: Numbers,
    needs: Needs,
    settings_generation: u64,
    max_stale: MaxStale,
    exchange: Option<exchange::Rule>,
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
    /// Whether the certificate of the connection is a credential here.
    certificate: bool,
    environment: Option<Environment>,
    forward: ForwardCredentials,
    freshness: Freshness,
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
    /// The key that it names is not in its issuer's set.
    UnknownKid {
        issuer: usize,
        kid: String,
    },
}

const NAME: ControlName = ControlName::new("authentication");
/// Key sets are tried again within this many seconds.
const RETRY_AFTER_S: u32 = 5;

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
        self.decide(sees)
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

    async fn decide(&self, sees: Sees<'_>) -> Result<Verdict<Authenticated, Deny>, Fault> {
        let Some(route) = self.route(sees.route) else { return Err(fault("a route without authentication rules")) };
        let now = self.needs.clock.unix();
        // Whatever the route accepts: the listener asked for it, so one that no longer counts ends all that rests on it.
        if let Some(shown) = &sees.certificate
            && let Err(why) = self.still_counts(shown, now)
        {
            return Ok(Verdict::Deny(Deny::Invalid { why, issuer: None }));
        }
        let presented = match self.known.find(&sees.facts) {
            Ok(presented) => presented,
            Err(ambiguity) => return Ok(Verdict::Deny(Deny::Malformed(ambiguity))),
        };
        let verified = match (presented, sees.certificate.filter(|_| route.certificate)) {
            (Some(_), Some(_)) => return Ok(Verdict::Deny(Deny::Malformed(Ambiguity::Several))),
            (None, Some(shown)) => self.agent(&shown, now),
            (Some(presented), None) => {
                let verified = match self.verify(route, presented, now) {
                    Err(Failure::UnknownKid { issuer, kid }) => {
                        self.renew(issuer, &kid).await.and_then(|()| self.verify(route, presented, now))
                    }
                    verified => verified,
                };
                let certificate = sees.certificate.map(|shown| shown.certificate);
                verified.and_then(|identity| bound(identity, certificate))
            }
            (None, None) => {
                return Ok(match route.absent {
                    Absent::Refused => Verdict::Deny(Deny::Required),
                    Absent::Anonymous => Verdict::Pass(Authenticated::new(Caller::Anonymous)),
                });
            }
        };
        let verified = verified.and_then(|identity| self.held(identity, route, now));
        let verified = verified.and_then(|identity| self.unrevoked(&identity).map(|()| identity));
        let known = verified.and_then(|identity| self.known(route.freshness).map(|()| identity));
        match known.and_then(|identity| self.permitted(identity, &sees, route, now)) {
            Ok(identity) => {
                let there = route.environment.as_ref().and_then(|place| identity.there(place)).map(Arc::clone);
                Ok(Verdict::Pass(Authenticated::new(Caller::Verified(there.unwrap_or(identity)))))
            }
            Err(Failure::Denied(deny)) => Ok(Verdict::Deny(self.counted(deny, sees.client))),
            Err(Failure::Unknown(fault)) => Err(fault),
            // Its issuer was asked, and does not have it.
            Err(Failure::UnknownKid { issuer, .. }) => Ok(Verdict::Deny(self.invalid(issuer, Why::KidUnknown))),
        }
    }

    /// Has the issuer's keys fetched anew, as far as that is allowed.
    async fn renew(&self, issuer: usize, kid: &str) -> Result<(), Failure> {
        let name = self.issuers.get(issuer).map_or("", |issuer| &*issuer.name);
        self.needs.key_sets.unknown_kid(name, kid).await.map_err(|CannotTell { why }| {
            Failure::Unknown(fault(format!("whether issuer {name} has a key of this name is not known: {why}")))
        })
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

    fn no(&self, issuer: usize, why: Why) -> Failure {
        Failure::Denied(self.invalid(issuer, why))
    }

    fn invalid(&self, issuer: usize, why: Why) -> Deny {
        let issuer = self.issuers.get(issuer).map(|issuer| Arc::clone(&issuer.name));
        Deny::Invalid { why, issuer }
    }
}

fn no(why: Why) -> Failure {
    Failure::Denied(Deny::Invalid { why, issuer: None })
}

fn fault(what: impl Into<std::borrow::Cow<'static, str>>) -> Fault {
    Fault { control: NAME, what: what.into(), retry_after_s: RETRY_AFTER_S, code: UNAVAILABLE }
}

#[cfg(test)]
mod tests;
