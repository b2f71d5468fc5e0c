//! The compiled set: one named field a control, called in a straight line by the gateway's journey.
//!
//! Adding a control: a field here, its settings in [`Inputs`], its proof in [`crate::admitted::Proofs`].

use std::{collections::BTreeMap, hash::RandomState, num::NonZeroU32, sync::Arc};

use arc_swap::ArcSwap;
use portcullis_api::{
    At, Clock, Control, Gate, Issues, Layers, Micros, RouteRef, Scoped, Switch, TenantId, UnixSeconds,
};

use crate::{
    authentication::{
        self, Accept, ApiKeyNeeds, ApiKeys, Auth, Authentication, Issuer, KeySetState, KeySets, Renewing, VerifiedCache,
    },
    authorization::{self, Authorization},
    bans::{self, BanTable, Bans},
    burst::{self, Burst},
    cors,
    csrf::{self, Csrf},
    in_flight::{self, InFlight, RouteInFlight},
    ip_allowlist::{self, IpAllowlist, TenantIpAllowlist},
    login::{self, Login, RouteLogin},
    quota::Quota,
    rate_limit::{self, ApiKeyCallers, KeyHasher, Limit, RateLimit, RouteLimits, Rules, Table, TenantLimit},
    revocations::{Freshness, MaxStale, Revocations},
    scope::{self, RouteScope, Scope, ScopeRoute},
    waf::{self, Waf},
};

/// Every control of a snapshot.
#[expect(missing_docs, reason = "each is documented in its own module")]
pub struct Controls {
    pub ip_allowlist: Gate<IpAllowlist>,
    pub bans: Gate<Bans>,
    pub burst: Gate<Burst>,
    pub rate_limit: Gate<RateLimit>,
    pub authentication: Gate<Authentication>,
    pub csrf: Gate<Csrf>,
    pub authorization: Gate<Authorization>,
    pub tenant_ip_allowlist: Gate<TenantIpAllowlist>,
    pub in_flight: Gate<InFlight>,
    pub quota: Gate<Quota>,
    pub waf: Gate<Waf>,
    pub scope: Gate<Scope>,
    pub login: Gate<Login>,
}

/// What the document says to the controls.
pub struct Inputs<'d> {
    /// `controls.ip_allowlist`.
    pub ip_allowlist: &'d ip_allowlist::Settings,
    /// `controls.burst`.
    pub burst: &'d Switch<burst::Settings>,
    /// `controls.waf`.
    pub waf: &'d Switch<waf::Settings>,
    /// `controls.login`.
    pub login: &'d login::Settings,
    /// `[issuers]`.
    pub issuers: &'d BTreeMap<String, Issuer>,
    /// `[api_keys]`.
    pub api_keys: Option<&'d ApiKeys>,
    /// `[exchange]`.
    pub exchange: Option<&'d authentication::exchange::ExchangeSettings>,
    /// Each listener's name and `client_certificates`, in the order of their indexes.
    pub listeners: Vec<(&'d str, Option<&'d authentication::ClientCertificates>)>,
    /// `revocations.max_stale`.
    pub max_stale: Option<&'d MaxStale>,
    /// `[limits]`.
    pub limits: &'d BTreeMap<String, Limit>,
    /// `[in_flight]`.
    pub in_flight: &'d BTreeMap<String, in_flight::Settings>,
    /// Every route, in the order of their ids.
    pub routes: Vec<RouteInput<'d>>,
    /// Every tenant that the document names.
    pub tenants: Vec<TenantInput<'d>>,
}

/// What one route says to the controls.
pub struct RouteInput<'d> {
    /// Its id and name.
    pub route: RouteRef,
    /// How it is authenticated.
    pub auth: &'d At<Auth>,
    /// How fresh what is known of revocations must be.
    pub revocation: &'d At<Freshness>,
    /// The methods it admits.
    pub methods: &'d [At<String>],
    /// Its limits by name.
    pub limits: &'d [At<String>],
    /// Its limits of requests under way, by name.
    pub in_flight: &'d [At<String>],
    /// Its class.
    pub class: Option<rate_limit::Class>,
    /// Its own address list.
    pub ip_allowlist: Option<&'d ip_allowlist::Settings>,
    /// Its own numbers for content.
    pub waf: Option<&'d waf::Override>,
    /// How what it asks for is confined to the tenant.
    pub scope: Option<&'d At<ScopeRoute>>,
    /// Whether and how it is a login.
    pub login: Option<&'d login::LoginRoute>,
    /// The tenant of its host, where that is fixed.
    pub fixed_tenant: Option<&'d TenantId>,
    /// Whether its path has a `{tenant}` segment.
    pub tenant_in_path: authorization::TenantInPath,
    /// The cross-origin rules of its host.
    pub cors: Option<&'d cors::Settings>,
}

/// What one tenant's two layers say to the controls.
pub struct TenantInput<'d> {
    /// The tenant.
    pub tenant: TenantId,
    /// Its address lists.
    pub ip_allowlist: Layers<'d, ip_allowlist::Tenant>,
    /// Its limits by name.
    pub limits: Layers<'d, BTreeMap<String, TenantLimit>>,
    /// Its limits of requests under way, by name.
    pub in_flight: Layers<'d, BTreeMap<String, in_flight::Tenant>>,
    /// Its numbers for content.
    pub waf: Layers<'d, waf::Override>,
}

/// Stores and clocks. They outlive every snapshot.
#[derive(Clone)]
pub struct Needs {
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// Who is blocked.
    pub bans: Arc<BanTable>,
    /// Failed logins and locks.
    pub login: login::Needs,
    /// Counters of limits, in this process or shared.
    pub limits: rate_limit::Needs,
    /// Requests under way.
    pub in_flight: in_flight::Needs,
    /// Counters of `burst`: a table of its own, so that a flood of addresses pushes no quota out.
    pub burst: burst::Needs,
    /// The issuers' keys.
    pub key_sets: Arc<dyn KeySets>,
    /// API keys.
    pub api_keys: ApiKeyNeeds,
    /// Verified tokens.
    pub cache: Arc<VerifiedCache>,
    /// What was revoked.
    pub revocations: Arc<Revocations>,
}

impl Controls {
    /// Compiles every control. All of them are tried, so that every issue is found.
    #[must_use]
    pub fn compile(inputs: &Inputs<'_>, needs: &Needs, issues: &mut Issues) -> Option<Self> {
        let (ip_allowlist, tenant_ip_allowlist) = ip_allowlist(inputs, issues);
        let bans = bans(inputs, needs, issues);
        let burst = match inputs.burst {
            Switch::Off => Some(Gate::off()),
            Switch::On(settings) => {
                Burst::compile(settings, &needs.burst, issues).map(|burst| Gate::adjustable(burst, settings.mode))
            }
        };
        let (rate_limit, quota) = limits(inputs, needs, issues);
        let in_flight = in_flight(inputs, needs, issues);
        let authentication = authentication(inputs, needs, issues);
        let csrf: Vec<_> = inputs.routes.iter().map(|route| (route.route.clone(), route.cors)).collect();
        let csrf = Csrf::compile(csrf::Input { routes: &csrf }, &(), issues);
        let authorization = authorization(inputs, needs, issues);
        let waf = waf(inputs, issues);
        let scope = scope(inputs, issues);
        let login = login(inputs, needs, issues);
        Some(Self {
            ip_allowlist: Gate::strict(ip_allowlist?),
            bans: Gate::strict(bans?),
            burst: burst?,
            rate_limit: Gate::adjustable(rate_limit?, portcullis_api::Mode::Enforce),
            authentication: Gate::strict(authentication?),
            csrf: Gate::strict(csrf?),
            authorization: Gate::strict(authorization?),
            tenant_ip_allowlist: Gate::strict(tenant_ip_allowlist?),
            in_flight: Gate::adjustable(in_flight?, portcullis_api::Mode::Enforce),
            quota: Gate::adjustable(quota?, portcullis_api::Mode::Enforce),
            waf: waf?,
            scope: Gate::strict(scope?),
            login: Gate::adjustable(login?, inputs.login.mode),
        })
    }
}

fn ip_allowlist(inputs: &Inputs<'_>, issues: &mut Issues) -> (Option<IpAllowlist>, Option<TenantIpAllowlist>) {
    let routes: Vec<_> = inputs.routes.iter().map(|route| (route.route.clone(), route.ip_allowlist)).collect();
    let tenants: Vec<_> = inputs.tenants.iter().map(|tenant| (tenant.tenant.clone(), tenant.ip_allowlist)).collect();
    let scoped = Scoped { site: inputs.ip_allowlist, routes: &routes, tenants: &tenants };
    (IpAllowlist::compile(scoped, &(), issues), TenantIpAllowlist::compile(scoped, &(), issues))
}

/// The numbers of blocks stand with the content limits; without those only `burst` makes violations, by the defaults.
fn bans(inputs: &Inputs<'_>, needs: &Needs, issues: &mut Issues) -> Option<Bans> {
    let needs = bans::Needs { table: needs.bans.clone(), clock: needs.clock.clone() };
    match inputs.waf {
        Switch::Off => Bans::compile(&waf::Violations::default(), &needs, issues),
        Switch::On(settings) => Bans::compile(&settings.violations, &needs, issues),
    }
}

fn limits(inputs: &Inputs<'_>, needs: &Needs, issues: &mut Issues) -> (Option<RateLimit>, Option<Quota>) {
    let Some(rules) = rules(inputs, issues) else { return (None, None) };
    (RateLimit::compile(rules.clone(), &needs.limits, issues), Quota::compile(rules, &needs.limits, issues))
}

fn rules(inputs: &Inputs<'_>, issues: &mut Issues) -> Option<Arc<Rules>> {
    let routes: Vec<_> = inputs
        .routes
        .iter()
        .map(|route| RouteLimits {
            route: &route.route,
            names: route.limits,
            methods: route.methods,
            class: route.class,
            api_keys: api_key_callers(&route.auth.value),
        })
        .collect();
    let tenants: Vec<_> = inputs.tenants.iter().map(|tenant| (tenant.tenant.clone(), tenant.limits)).collect();
    let in_flight: Vec<_> = inputs.in_flight.keys().map(String::as_str).collect();
    let input = rate_limit::Input { limits: inputs.limits, routes: &routes, tenants: &tenants, in_flight: &in_flight };
    Rules::compile(input, issues)
}

fn in_flight(inputs: &Inputs<'_>, needs: &Needs, issues: &mut Issues) -> Option<InFlight> {
    let routes: Vec<_> = inputs
        .routes
        .iter()
        .map(|route| RouteInFlight { route: &route.route, names: route.in_flight, methods: route.methods })
        .collect();
    let tenants: Vec<_> = inputs.tenants.iter().map(|tenant| (tenant.tenant.clone(), tenant.in_flight)).collect();
    let limits: Vec<_> = inputs.limits.keys().map(String::as_str).collect();
    let input = in_flight::Input { settings: inputs.in_flight, routes: &routes, tenants: &tenants, limits: &limits };
    InFlight::compile(input, &needs.in_flight, issues)
}

fn api_key_callers(auth: &Auth) -> ApiKeyCallers {
    let accepts = auth
        .accept
        .iter()
        .flat_map(|accept| &accept.value)
        .any(|accept| [Accept::ApiKey, Accept::Exchange].contains(&accept.value));
    if accepts { ApiKeyCallers::Accepted } else { ApiKeyCallers::Refused }
}

fn authentication(inputs: &Inputs<'_>, needs: &Needs, issues: &mut Issues) -> Option<Authentication> {
    let routes: Vec<_> = inputs
        .routes
        .iter()
        .map(|input| authentication::Route {
            route: input.route.clone(),
            auth: input.auth,
            revocation: input.revocation,
        })
        .collect();
    let default = MaxStale::default();
    let input = authentication::Input {
        issuers: inputs.issuers,
        api_keys: inputs.api_keys,
        exchange: inputs.exchange,
        listeners: &inputs.listeners,
        routes: &routes,
        max_stale: inputs.max_stale.unwrap_or(&default),
    };
    let needs = authentication::Needs {
        key_sets: needs.key_sets.clone(),
        api_keys: needs.api_keys.clone(),
        clock: needs.clock.clone(),
        cache: needs.cache.clone(),
        revocations: needs.revocations.clone(),
    };
    Authentication::compile(input, &needs, issues)
}

fn authorization(inputs: &Inputs<'_>, needs: &Needs, issues: &mut Issues) -> Option<Authorization> {
    let routes: Vec<_> = inputs
        .routes
        .iter()
        .map(|route| authorization::Route {
            route: route.route.clone(),
            auth: &route.auth.value,
            fixed_tenant: route.fixed_tenant,
            path: route.tenant_in_path,
            span: route.auth.span.clone(),
        })
        .collect();
    Authorization::compile(authorization::Input { routes: &routes }, &needs.clock, issues)
}

fn waf(inputs: &Inputs<'_>, issues: &mut Issues) -> Option<Gate<Waf>> {
    let settings = match inputs.waf {
        Switch::Off => return Some(Gate::off()),
        Switch::On(settings) => settings,
    };
    let routes: Vec<_> = inputs.routes.iter().map(|route| (route.route.clone(), route.waf)).collect();
    let tenants: Vec<_> = inputs.tenants.iter().map(|tenant| (tenant.tenant.clone(), tenant.waf)).collect();
    let input = waf::Input { site: settings, routes: &routes, tenants: &tenants };
    Waf::compile(input, &(), issues).map(|waf| Gate::adjustable(waf, settings.mode))
}

fn scope(inputs: &Inputs<'_>, issues: &mut Issues) -> Option<Scope> {
    let routes: Vec<_> = inputs
        .routes
        .iter()
        .map(|route| RouteScope {
            route: &route.route,
            scope: route.scope,
            auth: &route.auth.value,
            methods: route.methods,
            tenant: route.fixed_tenant,
        })
        .collect();
    Scope::compile(scope::Input { routes: &routes }, &(), issues)
}

fn login(inputs: &Inputs<'_>, needs: &Needs, issues: &mut Issues) -> Option<Login> {
    let routes: Vec<_> = inputs
        .routes
        .iter()
        .map(|route| RouteLogin {
            route: &route.route,
            login: route.login,
            methods: route.methods,
            tenant: route.fixed_tenant,
        })
        .collect();
    Login::compile(login::Input { settings: inputs.login, routes: &routes }, &needs.login, issues)
}

/// Every control's own checks of a document, for `portcullis check`: no store, no key, no clock is needed.
pub fn lint(inputs: &Inputs<'_>, issues: &mut Issues) {
    // Compiled for its issues alone.
    let _checked = Controls::compile(inputs, &Needs::detached(), issues);
}

/// What is in order and yet worth a look, for `portcullis check`; nothing for a document that is not in order. `shared_by` is
/// how many gateways share the counters; none where they are in memory.
#[must_use]
pub fn notes(inputs: &Inputs<'_>, shared_by: Option<NonZeroU32>) -> Vec<String> {
    let mut issues = Issues::default();
    let Some(rules) = rules(inputs, &mut issues) else { return Vec::new() };
    let Some(in_flight) = in_flight(inputs, &Needs::detached(), &mut issues) else { return Vec::new() };
    let unused = rules.unused().map(|name| format!("limit `{name}` is defined, and no route is under it"));
    let empty = in_flight.unused().map(|name| format!("in-flight limit `{name}` is defined, and no route is under it"));
    let allowing = rules.allowing().map(|(name, reason)| {
        format!("limit `{name}` lets requests pass while its store is away: {}", reason.escape_debug())
    });
    let gateways = shared_by.unwrap_or(NonZeroU32::MIN);
    let small = rules.never_leased(gateways).map(|name| {
        format!("limit `{name}` is asked for each request: it is too small to be taken ahead by {gateways} gateways")
    });
    let few = inputs.in_flight.iter().filter(|(_, limit)| limit.requests.value < gateways).map(|(name, limit)| {
        let most = limit.requests.value;
        format!(
            "in-flight limit `{name}` lets in {gateways} at once: {gateways} gateways, at least one each, not {most}"
        )
    });
    let alike = (shared_by.is_none())
        .then(|| rules.counted_elsewhere())
        .into_iter()
        .flatten()
        .map(|name| format!("limit `{name}` says how it is counted in a shared store, and counters are in memory"));
    let issuers = authentication::notes(inputs.issuers);
    unused.chain(empty).chain(allowing).chain(small).chain(few).chain(alike).chain(issuers).collect()
}

impl Needs {
    /// Stores that hold nothing and a clock that stands: enough to compile, and useless for anything else.
    fn detached() -> Self {
        struct Still;
        impl Clock for Still {
            fn now(&self) -> Micros {
                0
            }
            fn unix(&self) -> UnixSeconds {
                0
            }
        }
        struct NoKeys;
        impl KeySets for NoKeys {
            fn of(&self, _issuer: &str) -> Arc<ArcSwap<KeySetState>> {
                Arc::new(ArcSwap::from_pointee(KeySetState::Missing { why: "detached".into() }))
            }
            fn unknown_kid<'a>(&'a self, _issuer: &'a str, _kid: &'a str) -> Renewing<'a> {
                Box::pin(std::future::ready(Ok(())))
            }
        }
        Self {
            clock: Arc::new(Still),
            bans: Arc::new(BanTable::new(&waf::Violations::default(), RandomState::new())),
            login: login::Needs { locks: Arc::new(login::Locks::new(None)), shared: None, clock: Arc::new(Still) },
            limits: rate_limit::Needs::in_memory(Arc::new(Still), Arc::new(rate_limit::Tables::new(8))),
            in_flight: in_flight::Needs::alone(),
            burst: burst::Needs {
                clock: Arc::new(Still),
                table: Arc::new(Table::new(8)),
                hasher: Arc::new(KeyHasher::process()),
            },
            key_sets: Arc::new(NoKeys),
            api_keys: ApiKeyNeeds::none(Arc::new(Still)),
            cache: Arc::new(VerifiedCache::new(1 << 10)),
            revocations: Arc::new(Revocations::new(0)),
        }
    }
}
