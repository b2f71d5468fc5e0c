//! A small site: limits, routes and tenants as text, and requests against it.

use std::{collections::BTreeMap, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use portcullis_api::{
    At, ClientIp, Control, Fault, Issue, Issues, Layers, RouteId, RouteRef, TenantId, Topology, Verdict,
};
use serde::Deserialize;

use crate::{
    rate_limit::{
        ApiKeyCallers, Class, Counted, Deny, Input, Limit, Needs, RateLimit, RouteLimits, Rules, Sees, Tables,
        TenantLimit,
    },
    testing::{HandClock, facts, now_or_never},
};

/// The parts of a document that limits are made of.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Site {
    limits: BTreeMap<String, Limit>,
    routes: BTreeMap<String, Route>,
    tenants: BTreeMap<TenantId, Tenant>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Route {
    limits: Vec<At<String>>,
    methods: Vec<At<String>>,
    class: Option<Class>,
    api_keys: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Tenant {
    grant: BTreeMap<String, TenantLimit>,
    own: BTreeMap<String, TenantLimit>,
}

/// Routes get their ids in the order of their names.
pub(crate) fn compile(text: &str) -> Result<Arc<Rules>, Vec<Issue>> {
    let site: Site = toml::from_str(text).unwrap_or_else(|error| panic!("{error}"));
    let named: Vec<(RouteRef, &Route)> = site
        .routes
        .iter()
        .zip(0..)
        .map(|((name, route), id)| (RouteRef { id: RouteId::new(id), name: format!("host/{name}").into() }, route))
        .collect();
    let limits: Vec<RouteLimits<'_>> = named
        .iter()
        .map(|(name, route)| RouteLimits {
            route: name,
            names: &route.limits,
            methods: &route.methods,
            class: route.class,
            api_keys: match route.api_keys {
                Some(_) => ApiKeyCallers::Accepted,
                None => ApiKeyCallers::Refused,
            },
        })
        .collect();
    let tenants: Vec<_> = site
        .tenants
        .iter()
        .map(|(id, tenant)| (id.clone(), Layers { grant: Some(&tenant.grant), own: Some(&tenant.own) }))
        .collect();
    let mut issues = Issues::default();
    let rules = Rules::compile(
        Input { limits: &site.limits, routes: &limits, tenants: &tenants, in_flight: &["uploads"] },
        &mut issues,
    );
    match rules {
        Some(rules) => {
            assert!(issues.is_empty(), "compiled in spite of {:?}", issues.as_slice());
            Ok(rules)
        }
        None => Err(issues.into_vec()),
    }
}

pub(crate) fn rules(text: &str) -> Arc<Rules> {
    compile(text).unwrap_or_else(|issues| panic!("{issues:?}"))
}

pub(crate) fn client(ip: &str) -> ClientIp {
    Topology::Direct.settle(format!("{ip}:1").parse().unwrap(), None, &HeaderMap::new()).unwrap()
}

pub(crate) fn needs(clock: &Arc<HandClock>) -> Needs {
    Needs::in_memory(clock.clone(), Arc::new(Tables::new(1 << 10)))
}

pub(crate) fn before(text: &str, needs: &Needs) -> RateLimit {
    RateLimit::compile(rules(text), needs, &mut Issues::default()).unwrap()
}

pub(crate) fn ask_with(
    control: &RateLimit,
    ip: &str,
    route: u32,
    fields: &[(&'static str, &'static str)],
) -> Result<Verdict<Counted, Deny>, Fault> {
    send(control, &Method::GET, ip, route, fields)
}

pub(crate) fn send(
    control: &RateLimit,
    method: &Method,
    ip: &str,
    route: u32,
    fields: &[(&'static str, &'static str)],
) -> Result<Verdict<Counted, Deny>, Fault> {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let facts = facts(method, &headers);
    now_or_never(control.check(Sees { facts, client: client(ip), route: RouteId::new(route) }))
}

/// Whether a request passes; `Err` names the rules it exceeds.
pub(crate) fn ask(control: &RateLimit, ip: &str, route: u32) -> Result<Counted, Vec<String>> {
    match ask_with(control, ip, route, &[]).unwrap() {
        Verdict::Pass(counted) => Ok(counted),
        Verdict::Deny(Deny::Exceeded(excess)) => Err(excess.violated_policies()),
    }
}
