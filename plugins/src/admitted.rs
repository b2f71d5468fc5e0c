//! The proof that every control was asked.
//!
//! Invariant: `Admitted::new` takes one proof of each kind and there is no other constructor. Adding a control means
//! adding its proof here; the compiler then leads to the one place that must ask it.

use http::HeaderMap;
use portcullis_api::{Cleared, TenantId, Trail};

use crate::{
    authentication::{Authenticated, Caller},
    authorization::Authorized,
    bans::NotBanned,
    burst::Burst,
    csrf::SameSite,
    in_flight::{InFlight, UnderWay},
    ip_allowlist::{AddressAllowed, TenantAddressAllowed},
    login::{Attempt, Login, Unlocked},
    quota::{self, Quota},
    rate_limit::{self, Counted, RateLimit},
    scope::InScope,
    waf::{Inspected, Waf},
};

/// A request that every control has let through. Only this can be injected and forwarded.
pub struct Admitted {
    authenticated: Authenticated,
    authorized: Authorized,
    rate_limit: Cleared<RateLimit>,
    under_way: Option<UnderWay>,
    quota: Cleared<Quota>,
    waf: Cleared<Waf>,
    in_scope: InScope,
    login: Cleared<Login>,
}

/// One proof of each kind, in the order of the journey.
pub struct Proofs {
    /// Site and route admit the address.
    pub address: AddressAllowed,
    /// The client is not blocked.
    pub not_banned: NotBanned,
    /// The client keeps within the burst.
    pub burst: Cleared<Burst>,
    /// The client keeps within the limits that need no identity.
    pub rate_limit: Cleared<RateLimit>,
    /// Who calls.
    pub authenticated: Authenticated,
    /// A cookie's request comes from our own pages.
    pub same_site: SameSite,
    /// The caller may use this route, in this tenant.
    pub authorized: Authorized,
    /// The tenant admits the address.
    pub tenant_address: TenantAddressAllowed,
    /// No more requests are under way than may be.
    pub in_flight: Cleared<InFlight>,
    /// The caller keeps within the limits that need an identity.
    pub quota: Cleared<Quota>,
    /// What the request carries was judged, or is held back until it is.
    pub waf: Cleared<Waf>,
    /// What it asks for is confined to the tenant, where the route says so.
    pub in_scope: InScope,
    /// It is no login, or one that nothing locks.
    pub login: Cleared<Login>,
}

impl Admitted {
    /// Puts the proofs together.
    #[must_use]
    pub fn new(proofs: Proofs) -> Self {
        // Exhaustive on purpose: a proof that is added above must be taken here.
        let Proofs {
            address: _,
            not_banned: _,
            burst: _,
            rate_limit,
            authenticated,
            same_site: _,
            authorized,
            tenant_address: _,
            in_flight,
            quota,
            waf,
            in_scope,
            login,
        } = proofs;
        Self { authenticated, authorized, rate_limit, under_way: in_flight.into_proof(), quota, waf, in_scope, login }
    }

    /// The request is over: it is under way no more. Before, it is until this is dropped.
    pub fn over(&mut self) {
        drop(self.under_way.take());
    }

    /// Charges the limits what the head of the upstream's answer says that the request cost beyond what they counted.
    pub fn settle(&mut self, answer: &HeaderMap, trail: &mut Trail) {
        let stages = [(rate_limit::NAME, self.rate_limit.proof_mut()), (quota::NAME, self.quota.proof_mut())];
        for (control, counted) in stages {
            if let Some(counted) = counted {
                counted.settle(control, answer, trail);
            }
        }
    }

    /// The login that the upstream has judged, once.
    pub fn attempt(&mut self) -> Option<Attempt> {
        self.login.proof_mut().and_then(Unlocked::attempt)
    }

    /// Who calls.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        self.authenticated.caller()
    }

    /// The tenant the request runs for; `None` on a public route of a host without a fixed tenant.
    #[must_use]
    pub fn tenant(&self) -> Option<&TenantId> {
        self.authorized.tenant()
    }

    /// What goes upstream instead of what came, where the route confines it.
    #[must_use]
    pub const fn in_scope(&self) -> &InScope {
        &self.in_scope
    }

    /// What the limits counted, for the `RateLimit` fields of the answer.
    pub fn counted(&self) -> impl Iterator<Item = &Counted> {
        self.rate_limit.proof().into_iter().chain(self.quota.proof())
    }

    /// What the content inspection found; `None` when it is off, or in shadow after a refusal.
    #[must_use]
    pub fn inspected(&self) -> Option<&Inspected> {
        self.waf.proof()
    }
}
