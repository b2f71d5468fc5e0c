//! The examples of the operator pages are what the settings accept.

use std::{collections::BTreeMap, fs, path::Path};

use portcullis_api::{At, Control, Issue, Issues, Layers, RouteId, RouteRef, Switch, TenantId};
use serde::Deserialize;

use crate::{burst, cors, in_flight, ip_allowlist, rate_limit, waf};

/// The parts of a document that the pages show. Unknown fields are left to the document's own tests.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Example {
    controls: Controls,
    limits: BTreeMap<String, rate_limit::Limit>,
    in_flight: BTreeMap<String, in_flight::Settings>,
    hosts: BTreeMap<String, Host>,
    tenants: BTreeMap<TenantId, Tenant>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Controls {
    ip_allowlist: Option<ip_allowlist::Settings>,
    burst: Option<Switch<burst::Settings>>,
    waf: Option<Switch<waf::Settings>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Host {
    cors: Option<cors::Settings>,
    routes: BTreeMap<String, Route>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Route {
    limits: Vec<At<String>>,
    in_flight: Vec<At<String>>,
    methods: Vec<At<String>>,
    class: Option<rate_limit::Class>,
    ip_allowlist: Option<ip_allowlist::Settings>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Tenant {
    grant: Layer,
    own: Layer,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Layer {
    ip_allowlist: Option<ip_allowlist::Tenant>,
    limits: BTreeMap<String, rate_limit::TenantLimit>,
    in_flight: BTreeMap<String, in_flight::Tenant>,
}

impl Example {
    /// Whether anything in it was read.
    fn shows_something(&self) -> bool {
        let Controls { ip_allowlist, burst, waf } = &self.controls;
        ip_allowlist.is_some() || burst.is_some() || waf.is_some() || !self.limits.is_empty() || !self.hosts.is_empty()
    }

    /// Compiles what can be compiled without the rest of a document.
    fn issues(&self) -> Vec<Issue> {
        let mut issues = Issues::default();
        for cors in self.hosts.values().filter_map(|host| host.cors.as_ref()) {
            drop(cors::Cors::compile(cors, &mut issues));
        }
        let routes = self.hosts.values().flat_map(|host| &host.routes).zip(0..);
        let named: Vec<_> = routes
            .map(|((name, route), id)| (RouteRef { id: RouteId::new(id), name: name.as_str().into() }, route))
            .collect();
        let routes: Vec<_> = named
            .iter()
            .map(|(name, route)| rate_limit::RouteLimits {
                route: name,
                names: &route.limits,
                methods: &route.methods,
                class: route.class,
                api_keys: rate_limit::ApiKeyCallers::Accepted,
            })
            .collect();
        let layers = |tenant: &Tenant| (tenant.grant.limits.clone(), tenant.own.limits.clone());
        let limits: Vec<_> = self.tenants.iter().map(|(id, tenant)| (id.clone(), layers(tenant))).collect();
        let tenants: Vec<_> = limits
            .iter()
            .map(|(id, (grant, own))| (id.clone(), Layers { grant: Some(grant), own: Some(own) }))
            .collect();
        let input = rate_limit::Input { limits: &self.limits, routes: &routes, tenants: &tenants, in_flight: &[] };
        drop(rate_limit::Rules::compile(input, &mut issues));
        let routes: Vec<_> = named
            .iter()
            .map(|(name, route)| in_flight::RouteInFlight {
                route: name,
                names: &route.in_flight,
                methods: &route.methods,
            })
            .collect();
        let tenants: Vec<_> = self
            .tenants
            .iter()
            .map(|(id, Tenant { grant, own })| {
                (id.clone(), Layers { grant: Some(&grant.in_flight), own: Some(&own.in_flight) })
            })
            .collect();
        let input = in_flight::Input { settings: &self.in_flight, routes: &routes, tenants: &tenants, limits: &[] };
        drop(in_flight::InFlight::compile(input, &in_flight::Needs::alone(), &mut issues));
        issues.into_vec()
    }
}

#[test]
fn every_example_of_an_operator_page_is_read_by_the_settings() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/controls");
    for page in ["ip_allowlist", "bans", "burst", "rate_limit", "quota", "in_flight", "cors"] {
        let text = fs::read_to_string(folder.join(page).with_extension("md")).expect(page);
        let blocks: Vec<&str> = text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        assert!(!blocks.is_empty(), "{page} shows no example");
        for block in blocks {
            let example: Example = toml::from_str(block).unwrap_or_else(|error| panic!("{page}: {error}"));
            assert!(example.shows_something(), "{page}: {block}");
            assert_eq!(example.issues(), [], "{page}: {block}");
        }
    }
}
