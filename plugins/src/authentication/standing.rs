//! Whether what verified still stands: it was not revoked, and that can be told. Asked of each request, and again while one
//! goes on.

use std::sync::Arc;

use portcullis_api::{Fault, RouteId, Verdict};

use super::{Authentication, Deny, Failure, Identity, IssuerRule, Kind, NAME, RETRY_AFTER_S, STALE, Why, fault};
use crate::revocations::{Freshness, MaxStale, Target};

impl Authentication {
    /// Asked of whatever verified: now, in an earlier request, or as an API key.
    pub(super) fn unrevoked(&self, identity: Arc<Identity>) -> Result<Arc<Identity>, Failure> {
        match self.needs.revocations.revoked(identity.revocable()) {
            None => Ok(identity),
            Some(kind) => Err(ended(&identity, Why::revoked(kind))),
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

    /// How fresh what is known of revocations must be on a route.
    #[must_use]
    pub fn freshness(&self, route: RouteId) -> Freshness {
        self.route(route).map_or(Freshness::Strict, |rule| rule.freshness)
    }

    /// How long what is known of revocations may go without being confirmed.
    #[must_use]
    pub const fn max_stale(&self) -> &MaxStale {
        &self.max_stale
    }

    /// Asked of whoever came in with a request that still goes on: whether they would come in now, with the same credential.
    ///
    /// # Errors
    /// A [`Fault`] when it cannot be told whether it was revoked.
    pub fn still(&self, identity: &Identity, freshness: Freshness) -> Result<Verdict<(), Deny>, Fault> {
        let now = self.needs.clock.unix();
        let stands = match identity.kind() {
            Kind::ApiKey | Kind::Embed => {
                let table = self.needs.api_keys.table.load();
                if let Some(why) = table.why_away() {
                    return Err(fault(format!("the store of API keys: {why}")));
                }
                match table.stands(identity, now) {
                    Ok(()) if identity.is_exchanged() && self.exchange.is_none() => Err(Why::IssuerUnknown),
                    Ok(()) if identity.expires().is_none_or(|expires| now >= expires) => Err(Why::Expired),
                    stands => stands,
                }
            }
            Kind::User if !self.issues(identity) => Err(Why::IssuerUnknown),
            Kind::User | Kind::Agent if identity.expires().is_none_or(|expires| now >= expires) => Err(Why::Expired),
            Kind::User | Kind::Agent => Ok(()),
        };
        let stands = stands.map_err(|why| ended(identity, why));
        let unrevoked = stands.and_then(|()| match self.needs.revocations.revoked(identity.revocable()) {
            None => Ok(()),
            Some(kind) => Err(ended(identity, Why::revoked(kind))),
        });
        match unrevoked.and_then(|()| self.known(freshness)) {
            Ok(()) => Ok(Verdict::Pass(())),
            Err(Failure::Denied(deny)) => Ok(Verdict::Deny(deny)),
            Err(Failure::Unknown(fault)) => Err(fault),
            Err(Failure::UnknownKid { issuer, .. }) => Ok(Verdict::Deny(self.invalid(issuer, Why::KidUnknown))),
        }
    }

    /// Whether the issuer of a token is still one of ours, under its name and with its `iss`.
    fn issues(&self, identity: &Identity) -> bool {
        let is = |issuer: &&IssuerRule| &*issuer.name == identity.issuer();
        let target = |issuer: &IssuerRule| Target::Issuer { issuer: issuer.iss.clone() };
        self.issuers.iter().find(is).is_some_and(|issuer| identity.revocable().carries(&target(issuer)))
    }
}

fn ended(identity: &Identity, why: Why) -> Failure {
    let issuer = match identity.kind() {
        Kind::User => Some(identity.issuer().into()),
        Kind::ApiKey | Kind::Embed | Kind::Agent => None,
    };
    Failure::Denied(Deny::Invalid { why, issuer })
}
