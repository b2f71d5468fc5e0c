//! Which rules each route is under. Compiled once, asked by both stages: `rate_limit` and `quota`.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    sync::Arc,
};

use http::HeaderName;
use portcullis_api::{At, Issues, Layers, Millis, RouteId, RouteRef, TenantId};

use super::{
    Class, Consistency, Limit, Numbers, OnStoreFailure, TenantLimit,
    define::{Defined, Rule, define},
    matching::{LIMITS, admitted},
};

/// The built-in limit of every API key. It is attached to each route that accepts API keys.
pub const PER_KEY: &str = "per_key";

/// The longest window.
pub const WINDOW_MAX: Millis = Millis::from_secs(31 * 86_400);

/// What the operator, the routes and the tenants wrote about rates.
#[derive(Debug, Clone, Copy)]
pub struct Input<'d> {
    /// `[limits]`.
    pub limits: &'d BTreeMap<String, Limit>,
    /// One entry per route.
    pub routes: &'d [RouteLimits<'d>],
    /// One entry per tenant that the document names.
    pub tenants: &'d [(TenantId, Layers<'d, BTreeMap<String, TenantLimit>>)],
    /// Names of `[in_flight]`, for whoever mixed up the two tables.
    pub in_flight: &'d [&'d str],
}

/// What one route says of limits.
#[derive(Debug, Clone, Copy)]
pub struct RouteLimits<'d> {
    /// The route.
    pub route: &'d RouteRef,
    /// Its `limits`.
    pub names: &'d [At<String>],
    /// The methods it admits.
    pub methods: &'d [At<String>],
    /// Its `class`.
    pub class: Option<Class>,
    /// Whether API keys are among its credentials.
    pub api_keys: ApiKeyCallers,
}

/// Whether a route's callers may come with an API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiKeyCallers {
    /// `api_key` is in its `accept`.
    Accepted,
    /// It is not.
    Refused,
}

/// The rules of a snapshot.
#[derive(Debug)]
pub struct Rules {
    defined: Defined,
    routes: Box<[Option<RoutePlan>]>,
    used: BTreeSet<String>,
}

/// The rules of one route.
#[derive(Debug)]
pub(crate) struct RoutePlan {
    /// `host/route`.
    pub(crate) name: Arc<str>,
    /// Asked before authentication.
    pub(crate) rate_limit: Vec<Arc<Rule>>,
    /// Asked after it.
    pub(crate) quota: Vec<Arc<Rule>>,
    /// `per_key`, where the route does not name it: asked after authentication, of callers with an API key only.
    pub(crate) per_key: Option<Arc<Rule>>,
    /// Where any of them reads what a request took.
    cost_headers: Vec<HeaderName>,
}

impl RoutePlan {
    fn rules(&self) -> impl Iterator<Item = &Rule> {
        let Self { name: _, rate_limit, quota, per_key, cost_headers: _ } = self;
        rate_limit.iter().chain(quota).chain(per_key).map(|rule| &**rule)
    }
}

impl Rules {
    /// Compiles what was written, or says everything that is wrong with it.
    pub fn compile(input: Input<'_>, issues: &mut Issues) -> Option<Arc<Self>> {
        let Input { limits, routes, tenants: _, in_flight } = input;
        let sound = issues.as_slice().len();
        let defined = define(&input, issues);
        let count = routes.iter().map(|route| route.route.id.index().saturating_add(1)).max().unwrap_or(0);
        let mut plans: Vec<Option<RoutePlan>> = std::iter::repeat_with(|| None).take(count).collect();
        let mut used = BTreeSet::new();
        for route in routes {
            let plan = plan(route, (&defined, in_flight), &mut used, issues);
            methods(route, &defined, limits, issues);
            if let Some(place) = plans.get_mut(route.route.id.index()) {
                *place = Some(plan);
            }
        }
        (issues.as_slice().len() == sound).then(|| Arc::new(Self { defined, routes: plans.into(), used }))
    }

    /// The rules of a route; `None` for a route of another snapshot.
    pub(crate) fn of(&self, route: RouteId) -> Option<&RoutePlan> {
        self.routes.get(route.index())?.as_ref()
    }

    /// The rules that a request can meet, some more than once.
    pub(super) fn under_routes(&self) -> impl Iterator<Item = &Rule> {
        self.routes.iter().flatten().flat_map(RoutePlan::rules)
    }

    /// Headers in which the upstreams of a route say what a request took. They are meant for the gateway and for nobody
    /// else, whichever of the route's limits a request is under.
    #[must_use]
    pub fn cost_headers(&self, route: RouteId) -> &[HeaderName] {
        self.of(route).map_or(&[], |plan| &plan.cost_headers)
    }

    /// A rule by the name of its limit.
    pub(super) fn rule(&self, limit: &str) -> Option<&Rule> {
        self.defined.get(limit)?.as_deref()
    }

    /// Whether there is a route of this name, `host/route`, under this limit.
    pub(super) fn is_under(&self, route: &str, limit: &str) -> bool {
        let plan = self.routes.iter().flatten().find(|plan| &*plan.name == route);
        plan.is_some_and(|plan| plan.rules().any(|rule| &*rule.name == limit))
    }

    /// The names of all limits.
    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.defined.keys().map(String::as_str)
    }

    /// The numbers that hold for a tenant, or for those without numbers of their own.
    #[must_use]
    pub fn numbers(&self, limit: &str, tenant: Option<&TenantId>) -> Option<&Numbers> {
        Some(self.defined.get(limit)?.as_ref()?.numbers(tenant))
    }

    /// Limits that no route is under, for the lint report. The built-in ones are not named.
    pub fn unused(&self) -> impl Iterator<Item = &str> {
        let built_in = |name: &str| name == PER_KEY || name.starts_with("class_");
        self.defined.keys().map(String::as_str).filter(move |name| !self.used.contains(*name) && !built_in(name))
    }

    /// Limits that are to be taken ahead, and of which none of so many gateways could take two requests.
    pub fn never_leased(&self, gateways: NonZeroU32) -> impl Iterator<Item = &str> {
        let leased = self.defined.values().flatten().filter(|rule| rule.consistency == Consistency::Leased);
        leased.filter(move |rule| rule.numbers.rate().ahead_max(gateways).is_none()).map(|rule| &*rule.name)
    }

    /// Limits that say how they are counted beside other gateways.
    pub fn counted_elsewhere(&self) -> impl Iterator<Item = &str> {
        let says = |rule: &&Arc<Rule>| rule.consistency != Consistency::Exact;
        self.defined.values().flatten().filter(says).map(|rule| &*rule.name)
    }

    /// Limits that let requests pass while the store is away, and why, for the lint report.
    pub fn allowing(&self) -> impl Iterator<Item = (&str, &str)> {
        self.defined.values().flatten().filter_map(|rule| match &rule.on_store_failure {
            OnStoreFailure::Allow(reason) => Some((&*rule.name, reason.as_str())),
            OnStoreFailure::LocalShare | OnStoreFailure::Deny => None,
        })
    }
}

fn plan(
    route: &RouteLimits<'_>,
    (defined, in_flight): (&Defined, &[&str]),
    used: &mut BTreeSet<String>,
    issues: &mut Issues,
) -> RoutePlan {
    let RouteLimits { route, names, methods: _, class, api_keys } = *route;
    let mut plan = RoutePlan {
        name: route.name.clone(),
        rate_limit: Vec::new(),
        quota: Vec::new(),
        per_key: None,
        cost_headers: Vec::new(),
    };
    let mut listed: BTreeSet<&str> = BTreeSet::new();
    for At { value: name, span } in names {
        if !listed.insert(name) {
            issues.push(LIMITS.duplicate, span, format!("route `{}` names limit `{name}` twice", route.name));
        } else if !defined.contains_key(name) {
            let (whose, known) = (format!("route `{}`", route.name), defined.keys().map(String::as_str));
            LIMITS.unknown((name, span), &whose, known, ("in_flight", in_flight), issues);
        } else if class.is_some_and(|class| class.as_str() == name) {
            let message = format!("route `{}` names limit `{name}`, under which its class puts it already", route.name);
            issues.push(LIMITS.duplicate, span, message);
        }
    }
    listed.extend(class.map(Class::as_str));
    used.extend(listed.iter().map(|&name| name.to_owned()));
    for rule in listed.iter().filter_map(|name| defined.get(*name)?.as_ref()) {
        let stage = if rule.needs_identity() { &mut plan.quota } else { &mut plan.rate_limit };
        stage.push(rule.clone());
    }
    if api_keys == ApiKeyCallers::Accepted && !listed.contains(PER_KEY) {
        plan.per_key = defined.get(PER_KEY).cloned().flatten();
    }
    let RoutePlan { name: _, rate_limit, quota, per_key, cost_headers } = &mut plan;
    for rule in rate_limit.iter().chain(&*quota).chain(&*per_key) {
        cost_headers.extend(rule.measured.iter().map(|measured| measured.header.clone()));
    }
    plan
}

/// Each limit that a route is under by its word counts one of its methods. `per_key` need not: routes get it unasked.
fn methods(route: &RouteLimits<'_>, defined: &Defined, limits: &BTreeMap<String, Limit>, issues: &mut Issues) {
    let admitted = admitted(route.methods);
    let class = route.class.map(Class::as_str);
    let of_class = class.and_then(|name| Some((name, &limits.get(name)?.methods.as_ref()?.span)));
    let named = route.names.iter().map(|At { value, span }| (value.as_str(), span));
    for (name, span) in named.chain(of_class) {
        if let Some(Some(rule)) = defined.get(name) {
            let route = (&*route.route.name, admitted.as_slice());
            LIMITS.some_method_is_counted(route, (name, span), &rule.counts, issues);
        }
    }
}
