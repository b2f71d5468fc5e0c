//! `ip_allowlist`: which client addresses may pass.
//!
//! The lists of site, route, tenant grant and tenant are intersected: each list that exists must hold the address,
//! so one more list can only tighten. An empty list holds nobody. Site and route are asked before anything expensive
//! ([`IpAllowlist`]), the tenant's lists as soon as the tenant is known ([`TenantIpAllowlist`]).

mod ranges;
mod settings;

use std::{borrow::Cow, collections::HashMap};

use portcullis_api::{
    ClientIp, Code, Control, ControlName, Fault, Issues, Refusal, RouteId, Scoped, Strict, TenantId, Verdict,
};

use ranges::Ranges;
pub use settings::*;

/// The control's name.
pub const NAME: ControlName = ControlName::new("ip_allowlist");

/// The client's address is on the site's list and on the route's.
#[derive(Debug)]
pub struct AddressAllowed(());

/// The client's address is on each list that the tenant has.
#[derive(Debug)]
pub struct TenantAddressAllowed(());

/// Why an address may not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deny {
    /// A list does not hold it.
    NotListed(Layer),
}

/// Whose list refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// `[controls]`.
    Site,
    /// The route's own list.
    Route,
    /// The list in the tenant's grant.
    TenantGrant,
    /// The tenant's own list.
    TenantOwn,
}

const DENIED: Code =
    Code { name: "ip_allowlist.denied", status: 403, title: "Requests from this address are not accepted here" };

impl Refusal for Deny {
    const CODES: &'static [Code] = &[DENIED];

    fn code(&self) -> Code {
        match self {
            Self::NotListed(_) => DENIED,
        }
    }

    fn detail(&self) -> Option<Cow<'_, str>> {
        let Self::NotListed(layer) = self;
        Some(Cow::Borrowed(match layer {
            Layer::Site => "not on the site's list",
            Layer::Route => "not on the route's list",
            Layer::TenantGrant => "not on the list of the tenant's grant",
            Layer::TenantOwn => "not on the tenant's own list",
        }))
    }
}

/// The lists of site and route.
#[derive(Debug)]
pub struct IpAllowlist {
    site: Ranges,
    /// By route id. `None`: the route has no list of its own.
    routes: Box<[Option<Ranges>]>,
}

/// What must be known for the lists of site and route.
#[derive(Debug, Clone, Copy)]
pub struct Sees {
    /// The settled address.
    pub client: ClientIp,
    /// Where the request goes.
    pub route: RouteId,
}

impl IpAllowlist {
    /// Whether the site's list lets this client in: for what the gateway answers itself, on no route.
    #[must_use]
    pub fn site(&self, client: ClientIp) -> Verdict<(), Deny> {
        if self.site.contains(client.ip()) { Verdict::Pass(()) } else { Verdict::Deny(Deny::NotListed(Layer::Site)) }
    }
}

impl Control for IpAllowlist {
    const NAME: ControlName = NAME;
    type Settings<'d> = Scoped<'d, Settings, Tenant>;
    type Sees<'r> = Sees;
    type Proof = AddressAllowed;
    type Deny = Deny;
    type Needs = ();
    type Posture = Strict;

    fn compile(settings: Scoped<'_, Settings, Tenant>, (): &(), _: &mut Issues) -> Option<Self> {
        let Scoped { site, routes, tenants: _ } = settings;
        let Settings { allow } = site;
        let of_route = |list: &Settings| Ranges::new(&list.allow.value);
        Some(Self {
            site: Ranges::new(&allow.value),
            routes: routes.iter().map(|(_, list)| list.map(of_route)).collect(),
        })
    }

    async fn check(&self, sees: Sees) -> Result<Verdict<AddressAllowed, Deny>, Fault> {
        let ip = sees.client.ip();
        if !self.site.contains(ip) {
            return Ok(Verdict::Deny(Deny::NotListed(Layer::Site)));
        }
        let Some(route) = self.routes.get(sees.route.index()) else {
            // A route of another snapshot: passing would skip its list.
            return Err(Fault {
                control: NAME,
                what: "no such route in this snapshot".into(),
                retry_after_s: 1,
                code: portcullis_api::UNAVAILABLE,
            });
        };
        if route.as_ref().is_some_and(|list| !list.contains(ip)) {
            return Ok(Verdict::Deny(Deny::NotListed(Layer::Route)));
        }
        Ok(Verdict::Pass(AddressAllowed(())))
    }
}

/// The lists of tenants.
#[derive(Debug)]
pub struct TenantIpAllowlist {
    tenants: HashMap<TenantId, TenantLists>,
}

#[derive(Debug)]
struct TenantLists {
    grant: Option<Ranges>,
    own: Option<Ranges>,
}

/// What must be known for a tenant's lists.
#[derive(Debug, Clone, Copy)]
pub struct TenantSees<'r> {
    /// The settled address.
    pub client: ClientIp,
    /// The tenant the request runs for. Without one no tenant's list applies.
    pub tenant: Option<&'r TenantId>,
}

impl Control for TenantIpAllowlist {
    const NAME: ControlName = NAME;
    type Settings<'d> = Scoped<'d, Settings, Tenant>;
    type Sees<'r> = TenantSees<'r>;
    type Proof = TenantAddressAllowed;
    type Deny = Deny;
    type Needs = ();
    type Posture = Strict;

    fn compile(settings: Scoped<'_, Settings, Tenant>, (): &(), _: &mut Issues) -> Option<Self> {
        let list = |layer: Option<&Tenant>| layer.map(|Tenant { allow }| Ranges::new(&allow.value));
        let lists = |(tenant, layers): &(TenantId, portcullis_api::Layers<'_, Tenant>)| {
            (tenant.clone(), TenantLists { grant: list(layers.grant), own: list(layers.own) })
        };
        Some(Self { tenants: settings.tenants.iter().map(lists).collect() })
    }

    async fn check<'r>(&'r self, sees: TenantSees<'r>) -> Result<Verdict<TenantAddressAllowed, Deny>, Fault> {
        let ip = sees.client.ip();
        let refuses = |list: &Option<Ranges>| list.as_ref().is_some_and(|list| !list.contains(ip));
        Ok(match sees.tenant.and_then(|tenant| self.tenants.get(tenant)) {
            Some(lists) if refuses(&lists.grant) => Verdict::Deny(Deny::NotListed(Layer::TenantGrant)),
            Some(lists) if refuses(&lists.own) => Verdict::Deny(Deny::NotListed(Layer::TenantOwn)),
            Some(_) | None => Verdict::Pass(TenantAddressAllowed(())),
        })
    }
}

#[cfg(test)]
mod tests;
