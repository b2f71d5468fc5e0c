//! The intersection of the lists, asked as the journey asks.

use std::sync::Arc;

use http::HeaderMap;
use portcullis_api::{At, Cidrs, Layers, RouteRef, Topology};

use super::*;
use crate::testing::now_or_never;

fn settings(nets: &[&str]) -> Settings {
    Settings { allow: At::nowhere(Cidrs::new(nets.iter().map(|net| net.parse().unwrap()).collect())) }
}

fn tenant(nets: &[&str]) -> Tenant {
    Tenant { allow: settings(nets).allow }
}

fn client(ip: &str) -> ClientIp {
    Topology::Direct.settle(format!("{ip}:1").parse().unwrap(), None, &HeaderMap::new()).unwrap()
}

fn refused_by<P>(verdict: Verdict<P, Deny>) -> Option<Layer> {
    match verdict {
        Verdict::Pass(_) => None,
        Verdict::Deny(Deny::NotListed(layer)) => Some(layer),
    }
}

/// Asks a control with a site list, a list on route 0 and none on route 1.
fn ask(site: &[&str], route: &[&str], ip: &str, id: u32) -> Result<Option<Layer>, Fault> {
    let (site, of_route) = (settings(site), settings(route));
    let name = |id, name: &str| RouteRef { id: RouteId::new(id), name: Arc::from(name) };
    let routes = [(name(0, "h/listed"), Some(&of_route)), (name(1, "h/open"), None)];
    let mut issues = Issues::default();
    let scoped = Scoped { site: &site, routes: &routes, tenants: &[] };
    let control = IpAllowlist::compile(scoped, &(), &mut issues).unwrap();
    now_or_never(control.check(Sees { client: client(ip), route: RouteId::new(id) })).map(refused_by)
}

fn ask_tenant(grant: Option<&[&str]>, own: Option<&[&str]>, ip: &str, who: Option<&str>) -> Option<Layer> {
    let (site, grant, own) = (settings(&[]), grant.map(tenant), own.map(tenant));
    let tenants = [(TenantId::parse("acme").unwrap(), Layers { grant: grant.as_ref(), own: own.as_ref() })];
    let scoped = Scoped { site: &site, routes: &[], tenants: &tenants };
    let control = TenantIpAllowlist::compile(scoped, &(), &mut Issues::default()).unwrap();
    let who = who.map(|who| TenantId::parse(who).unwrap());
    let sees = TenantSees { client: client(ip), tenant: who.as_ref() };
    refused_by(now_or_never(control.check(sees)).unwrap())
}

#[test]
fn an_address_must_be_on_the_list_of_the_site_and_of_the_route() {
    let (site, route) = (&["10.0.0.0/8", "2001:db8::/32"][..], &["10.1.0.0/16", "192.0.2.0/24"][..]);
    assert_eq!(ask(site, route, "10.1.2.3", 0).unwrap(), None);
    assert_eq!(ask(site, route, "10.2.2.3", 0).unwrap(), Some(Layer::Route));
    assert_eq!(ask(site, route, "10.2.2.3", 1).unwrap(), None);
    // A route cannot admit what the site does not.
    assert_eq!(ask(site, route, "192.0.2.1", 0).unwrap(), Some(Layer::Site));
    assert_eq!(ask(site, route, "[2001:db8::1]", 1).unwrap(), None);
}

#[test]
fn a_mapped_address_is_looked_up_as_the_ipv4_address_it_is() {
    assert_eq!(ask(&["10.0.0.0/8"], &[], "[::ffff:10.0.0.1]", 1).unwrap(), None);
    assert_eq!(ask(&["::/0"], &[], "[::ffff:10.0.0.1]", 1).unwrap(), Some(Layer::Site));
}

#[test]
fn an_empty_list_denies_everybody() {
    assert_eq!(ask(&[], &["0.0.0.0/0"], "127.0.0.1", 0).unwrap(), Some(Layer::Site));
    assert_eq!(ask(&["0.0.0.0/0", "::/0"], &[], "127.0.0.1", 0).unwrap(), Some(Layer::Route));
    assert_eq!(ask_tenant(Some(&[]), None, "127.0.0.1", Some("acme")), Some(Layer::TenantGrant));
    assert_eq!(ask_tenant(None, Some(&[]), "127.0.0.1", Some("acme")), Some(Layer::TenantOwn));
}

#[test]
fn a_route_of_another_snapshot_is_a_fault_and_no_pass() {
    assert!(ask(&["0.0.0.0/0"], &["0.0.0.0/0"], "127.0.0.1", 2).is_err());
}

#[test]
fn a_tenants_own_list_cannot_lift_the_grant() {
    let (grant, own) = (Some(&["10.0.0.0/8"][..]), Some(&["0.0.0.0/0"][..]));
    assert_eq!(ask_tenant(grant, own, "192.0.2.1", Some("acme")), Some(Layer::TenantGrant));
    assert_eq!(ask_tenant(grant, own, "10.0.0.1", Some("acme")), None);
    assert_eq!(ask_tenant(grant, Some(&["10.1.0.0/16"]), "10.0.0.1", Some("acme")), Some(Layer::TenantOwn));
}

#[test]
fn a_tenants_list_binds_nobody_else() {
    assert_eq!(ask_tenant(Some(&[]), Some(&[]), "192.0.2.1", Some("globex")), None);
    assert_eq!(ask_tenant(Some(&[]), Some(&[]), "192.0.2.1", None), None);
}

#[test]
fn the_detail_names_the_layer_and_never_the_address() {
    for layer in [Layer::Site, Layer::Route, Layer::TenantGrant, Layer::TenantOwn] {
        let detail = Deny::NotListed(layer).detail().unwrap().into_owned();
        assert!(detail.contains("list") && !detail.bytes().any(|byte| byte.is_ascii_digit()), "{detail}");
    }
}
