//! Whether what verified still stands: it was not revoked, and that can be told. Asked of each request, and again while one
//! goes on.

use std::sync::Arc;

use portcullis_api::{Fault, RouteId, UnixSeconds, Verdict};

use super::{
    Authentication, Deny, Failure, Identity, IssuerRule, KeySetState, Kind, NAME, RETRY_AFTER_S, STALE, Why,
    certificate::Shown, fault,
};
use crate::revocations::{Freshness, MaxStale, Target};

impl Authentication {
    /// Asked of whatever verified: now, in an earlier request, or as an API key.
    pub(super) fn unrevoked(&self, identity: &Identity) -> Result<(), Failure> {
        match self.needs.revocations.revoked(identity.revocable()) {
            None => Ok(()),
            Some(kind) => Err(ended(identity, Why::revoked(kind))),
        }
    }

    /// Asked of whatever is not known as revoked: whether that would be known. Whoever is known as revoked is refused as
    /// such, however old what is known.
    pub(super) fn known(&self, freshness: Freshness) -> Result<(), Failure> {
        let age = self.needs.revocations.age(|| self.needs.clock.now());
        let max = self.max_stale.of(freshness);
        match max {
            Some(max) if age.exceeds(Some(max)) => {
                let route = freshness.as_str();
                let what = format!("what is revoked {age}, and a {route} route needs it within {max}").into();
                Err(Failure::Unknown(Fault { control: NAME, what, retry_after_s: RETRY_AFTER_S, code: STALE }))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The name of a route, `host/route`, by which it is found after a reload.
    #[must_use]
    pub fn route_name(&self, route: RouteId) -> Option<Arc<str>> {
        self.route(route).map(|rule| Arc::clone(&rule.name))
    }

    /// How fresh what is known of revocations must be on a route of this configuration.
    #[must_use]
    pub fn freshness(&self, route: RouteId) -> Freshness {
        self.route(route).map_or(Freshness::Strict, |rule| rule.freshness)
    }

    /// The same of a route by its name: as fresh as on any, on one that is gone.
    #[must_use]
    pub fn freshness_of(&self, route: &str) -> Freshness {
        let rule = self.routes.iter().flatten().find(|rule| *rule.name == *route);
        rule.map_or(Freshness::Strict, |rule| rule.freshness)
    }

    /// When the credential of an exchange ends by the clock, over the connection with this certificate.
    #[must_use]
    pub fn ends(&self, identity: &Identity, certificate: Option<&Shown<'_>>) -> Option<UnixSeconds> {
        let credential = match identity.kind() {
            Kind::ApiKey | Kind::Embed => self.needs.api_keys.table.load().expires(identity),
            Kind::User | Kind::Agent => None,
        };
        [credential, identity.expires(), certificate.map(|shown| shown.certificate.not_after())]
            .into_iter()
            .flatten()
            .min()
    }

    /// How long what is known of revocations may go without being confirmed.
    #[must_use]
    pub const fn max_stale(&self) -> &MaxStale {
        &self.max_stale
    }

    /// Asked of whoever came in with a request that still goes on: whether they would come in now, with the same credential
    /// and over the same connection.
    ///
    /// # Errors
    /// A [`Fault`] when it cannot be told whether it was revoked.
    pub fn still(
        &self,
        identity: &Identity,
        certificate: Option<&Shown<'_>>,
        freshness: Freshness,
    ) -> Result<Verdict<(), Deny>, Fault> {
        let now = self.needs.clock.unix();
        if let Some(Err(why)) = certificate.map(|shown| self.still_counts(shown, now)) {
            return Ok(Verdict::Deny(Deny::Invalid { why, issuer: None }));
        }
        let stands = match identity.kind() {
            Kind::ApiKey | Kind::Embed => {
                let table = self.needs.api_keys.table.load();
                if let Some(why) = table.why_away() {
                    return Err(fault(format!("the store of API keys: {why}")));
                }
                let issuer = self.exchange.as_ref().and_then(|exchange| self.issuers.get(exchange.issuer));
                match (table.stands(identity, now), issuer) {
                    (Ok(()), issuer) if identity.is_exchanged() => signed(issuer, identity, now)?,
                    (stands, _) => stands,
                }
            }
            Kind::User => signed(self.issuer_of(identity), identity, now)?,
            Kind::Agent => self.names(certificate, identity, now),
        };
        let stands = stands.map_err(|why| ended(identity, why));
        match stands.and_then(|()| self.unrevoked(identity)).and_then(|()| self.known(freshness)) {
            Ok(()) => Ok(Verdict::Pass(())),
            Err(Failure::Denied(deny)) => Ok(Verdict::Deny(deny)),
            Err(Failure::Unknown(fault)) => Err(fault),
            Err(Failure::UnknownKid { issuer, .. }) => Ok(Verdict::Deny(self.invalid(issuer, Why::KidUnknown))),
        }
    }

    /// Whether the connection's certificate names this agent, with these rights, under the rules that are in force.
    fn names(&self, certificate: Option<&Shown<'_>>, agent: &Identity, now: UnixSeconds) -> Result<(), Why> {
        let named = certificate.and_then(|shown| self.agent(shown, now).ok());
        let is_same = named.is_some_and(|named| {
            (named.tenant(), named.subject(), named.role(), named.scopes())
                == (agent.tenant(), agent.subject(), agent.role(), agent.scopes())
        });
        if is_same { Ok(()) } else { Err(Why::CertificateUnknown) }
    }

    /// The issuer of a token, if it is still one of ours, under its name and with its `iss`.
    fn issuer_of(&self, identity: &Identity) -> Option<&IssuerRule> {
        let is = |issuer: &&IssuerRule| &*issuer.name == identity.issuer();
        let target = |issuer: &IssuerRule| Target::Issuer { issuer: issuer.iss.clone() };
        self.issuers.iter().find(is).filter(|issuer| identity.revocable().carries(&target(issuer)))
    }
}

/// Whether a token would verify now, with the keys that its issuer has.
fn signed(issuer: Option<&IssuerRule>, identity: &Identity, now: UnixSeconds) -> Result<Result<(), Why>, Fault> {
    let Some(issuer) = issuer else { return Ok(Err(Why::IssuerUnknown)) };
    Ok(match &**issuer.keys.load() {
        KeySetState::Missing { why } => return Err(fault(format!("no key set of issuer {}: {why}", issuer.name))),
        KeySetState::Ready(keys) if !identity.signed_by().is_some_and(|key| keys.has(key)) => Err(Why::KidUnknown),
        KeySetState::Ready(_) if identity.expires().is_none_or(|expires| now >= expires) => Err(Why::Expired),
        KeySetState::Ready(_) => Ok(()),
    })
}

fn ended(identity: &Identity, why: Why) -> Failure {
    let issuer = match identity.kind() {
        Kind::User => Some(identity.issuer().into()),
        Kind::ApiKey | Kind::Embed | Kind::Agent => None,
    };
    Failure::Denied(Deny::Invalid { why, issuer })
}
