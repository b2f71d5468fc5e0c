//! From written limits to rules, and which of them each route is under.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    num::NonZeroU32,
    ops::Range,
    sync::Arc,
};

use portcullis_api::{At, Issues, Layers, Mode, RouteId, RouteRef, TenantId};

use super::{Most, NAME, Settings, Tenant};
use crate::rate_limit::{Counts, KeyHasher, Origin, Parts, Section, admitted};

const IN_FLIGHT: Section = Section {
    table: "in_flight",
    one: "an in-flight limit",
    name: "in_flight.name",
    unknown: "in_flight.unknown",
    duplicate: "in_flight.duplicate",
    key_empty: "in_flight.key_empty",
    key_duplicate: "in_flight.key_duplicate",
    key_header: "in_flight.key_header",
    methods: "in_flight.methods",
    never_counts: "in_flight.never_counts",
    tenant_raises: "in_flight.tenant_raises",
};

/// What the operator, the routes and the tenants wrote about requests under way.
#[derive(Debug, Clone, Copy)]
pub struct Input<'d> {
    /// `[in_flight]`.
    pub settings: &'d BTreeMap<String, Settings>,
    /// One entry per route.
    pub routes: &'d [RouteInFlight<'d>],
    /// One entry per tenant that the document names.
    pub tenants: &'d [(TenantId, Layers<'d, BTreeMap<String, Tenant>>)],
    /// Names of `[limits]`, for whoever mixed up the two tables.
    pub limits: &'d [&'d str],
}

/// What one route says of requests under way.
#[derive(Debug, Clone, Copy)]
pub struct RouteInFlight<'d> {
    /// The route.
    pub route: &'d RouteRef,
    /// Its `in_flight`.
    pub names: &'d [At<String>],
    /// The methods it admits.
    pub methods: &'d [At<String>],
}

/// One limit, ready to be asked.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) name: Arc<str>,
    pub(super) parts: Parts,
    pub(super) counts: Counts,
    pub(super) mode: Mode,
    most: NonZeroU32,
    /// Of the tenants that have another number.
    tenants: HashMap<TenantId, NonZeroU32>,
}

impl Rule {
    pub(super) fn most(&self, tenant: Option<&TenantId>) -> Most {
        Most::of(tenant.and_then(|tenant| self.tenants.get(tenant)).copied().unwrap_or(self.most))
    }

    pub(super) fn has_tenants(&self) -> bool {
        !self.tenants.is_empty()
    }

    /// What a request is counted under. The number is no part of it: who is under way stays so when it changes.
    pub(super) fn key(&self, origin: &Origin<'_>, hasher: &KeyHasher) -> u128 {
        self.parts.hash(origin, || {
            let mut hashing = hasher.begin();
            hashing.field(NAME.as_str().as_bytes());
            hashing.field(self.name.as_bytes());
            hashing
        })
    }
}

/// The rules of one route.
#[derive(Debug)]
pub(super) struct RoutePlan {
    /// `host/route`.
    pub(super) name: Arc<str>,
    pub(super) rules: Box<[Arc<Rule>]>,
}

/// The rules of a snapshot.
#[derive(Debug)]
pub(super) struct Rules {
    routes: Box<[Option<RoutePlan>]>,
    unused: Box<[String]>,
}

/// `None` where one was wrong; its name is still known.
type Defined<'d> = BTreeMap<&'d str, Option<Arc<Rule>>>;

impl Rules {
    pub(super) fn compile(input: Input<'_>, issues: &mut Issues) -> Option<Self> {
        let Input { settings, routes, tenants: _, limits } = input;
        let sound = issues.as_slice().len();
        let define = |(name, settings)| (name, rule(name, settings, &input, issues).map(Arc::new));
        let defined: Defined<'_> = settings.iter().map(|(name, of)| (name.as_str(), of)).map(define).collect();
        unknown_in_tenants(&input, issues);
        let count = routes.iter().map(|route| route.route.id.index().saturating_add(1)).max().unwrap_or(0);
        let mut plans: Vec<Option<RoutePlan>> = std::iter::repeat_with(|| None).take(count).collect();
        let mut unused: BTreeSet<&str> = defined.keys().copied().collect();
        for route in routes {
            unused.retain(|name| !route.names.iter().any(|named| named.value == *name));
            let plan = plan(route, &defined, limits, issues);
            if let Some(place) = plans.get_mut(route.route.id.index()) {
                *place = Some(plan);
            }
        }
        let unused = unused.into_iter().map(str::to_owned).collect();
        (issues.as_slice().len() == sound).then(|| Self { routes: plans.into(), unused })
    }

    /// The rules of a route; `None` for a route of another snapshot.
    pub(super) fn of(&self, route: RouteId) -> Option<&RoutePlan> {
        self.routes.get(route.index())?.as_ref()
    }

    pub(super) fn plans(&self) -> impl Iterator<Item = &RoutePlan> {
        self.routes.iter().flatten()
    }

    /// Whether `route`, a `host/route`, names the limit.
    pub(super) fn is_under(&self, route: &str, limit: &str) -> bool {
        self.plans().any(|plan| *plan.name == *route && plan.rules.iter().any(|rule| *rule.name == *limit))
    }

    pub(super) fn unused(&self) -> impl Iterator<Item = &str> {
        self.unused.iter().map(String::as_str)
    }
}

fn rule(name: &str, settings: &Settings, input: &Input<'_>, issues: &mut Issues) -> Option<Rule> {
    let sound = issues.as_slice().len();
    let Settings { key, methods, requests, mode } = settings;
    IN_FLIGHT.check_name(name, &requests.span, issues);
    let parts = IN_FLIGHT.parts(name, key, issues);
    let counts = IN_FLIGHT.counts(name, methods.as_ref(), issues);
    let mut of_tenants = HashMap::new();
    for (tenant, layers) in input.tenants {
        let of = |layer: Option<&BTreeMap<String, Tenant>>| layer.and_then(|limits| limits.get(name)).cloned();
        let (grant, own) = (of(layers.grant).unwrap_or_default(), of(layers.own).unwrap_or_default());
        let (Tenant { requests: grant }, Tenant { requests: own }) = (grant, own);
        let granted = grant.map_or(requests.value, |grant| grant.value);
        let lowered = IN_FLIGHT.lowered(own.as_ref(), granted, "requests", (tenant, name), issues);
        let settled = lowered.unwrap_or(granted);
        if settled != requests.value {
            of_tenants.insert(tenant.clone(), settled);
        }
    }
    let rule = Rule { name: name.into(), parts, counts, mode: *mode, most: requests.value, tenants: of_tenants };
    (issues.as_slice().len() == sound).then_some(rule)
}

fn plan(route: &RouteInFlight<'_>, defined: &Defined<'_>, limits: &[&str], issues: &mut Issues) -> RoutePlan {
    let RouteInFlight { route, names, methods } = *route;
    let admitted = admitted(methods);
    let mut listed: BTreeSet<&str> = BTreeSet::new();
    let mut rules = Vec::new();
    for At { value: name, span } in names {
        match defined.get(name.as_str()) {
            None => {
                let (whose, known) = (format!("route `{}`", route.name), defined.keys().copied());
                IN_FLIGHT.unknown((name, span), &whose, known, ("limits", limits), issues);
            }
            Some(_) if !listed.insert(name) => {
                let message = format!("route `{}` names in-flight limit `{name}` twice", route.name);
                issues.push(IN_FLIGHT.duplicate, span, message);
            }
            Some(None) => {}
            Some(Some(rule)) => {
                let route = (&*route.name, admitted.as_slice());
                IN_FLIGHT.some_method_is_counted(route, (name, span), &rule.counts, issues);
                rules.push(rule.clone());
            }
        }
    }
    RoutePlan { name: route.name.clone(), rules: rules.into() }
}

fn unknown_in_tenants(input: &Input<'_>, issues: &mut Issues) {
    let Input { settings, routes: _, tenants, limits } = *input;
    for (tenant, layers) in tenants {
        let written = layers.grant.into_iter().chain(layers.own).flatten();
        for (name, Tenant { requests }) in written.filter(|(name, _)| !settings.contains_key(*name)) {
            let span: Range<usize> = requests.as_ref().map_or(0..0, |requests| requests.span.clone());
            let whose = format!("tenant `{tenant}`");
            let known = settings.keys().map(String::as_str);
            IN_FLIGHT.unknown((name, &span), &whose, known, ("limits", limits), issues);
        }
    }
}
