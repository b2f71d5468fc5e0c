//! What a document says to the controls: the same routes in the same order as the router's.

use std::sync::Arc;

use portcullis_api::{Layers, RouteId, RouteRef};
use portcullis_plugins::{
    authorization::TenantInPath,
    controls::{Inputs, RouteInput, TenantInput},
};

use crate::document::{Controls, Document, Host, HostTenant, Route, Tenant, TenantLayer};

/// Gathers what each control needs of a document, whether or not the document can be settled: so that every mistake is
/// shown at once.
#[must_use]
pub fn control_inputs(document: &Document) -> Inputs<'_> {
    let Controls { ip_allowlist, burst, waf, login } = &document.controls;
    let routes = document.hosts.iter().flat_map(|(name, host)| {
        host.routes.iter().map(move |(route_name, route)| (format!("{name}/{route_name}"), host, route))
    });
    Inputs {
        ip_allowlist,
        burst,
        waf,
        login,
        issuers: &document.issuers,
        api_keys: document.api_keys.as_ref(),
        exchange: document.exchange.as_ref(),
        listeners: document
            .listeners
            .iter()
            .map(|(name, listener)| (name.as_str(), listener.client_certificates.as_ref()))
            .collect(),
        max_stale: document.revocations.as_ref().and_then(|part| part.value.max_stale.as_ref()).map(|at| &at.value),
        limits: &document.limits,
        in_flight: &document.in_flight,
        routes: routes.zip(0u32..).map(|((name, host, route), id)| input(name, id, host, route)).collect(),
        tenants: document.tenants.iter().map(|(id, tenant)| layers(id, tenant)).collect(),
    }
}

fn input<'d>(name: String, id: u32, host: &'d Host, route: &'d Route) -> RouteInput<'d> {
    // Exhaustive on purpose: what a route says and no control hears would be read and ignored.
    let Route {
        path,
        methods,
        auth,
        revocation,
        limits,
        in_flight,
        class,
        ip_allowlist,
        waf,
        scope,
        login,
        kind: _,
        upstream: _,
    } = route;
    RouteInput {
        route: RouteRef { id: RouteId::new(id), name: Arc::from(name) },
        auth,
        revocation,
        methods: &methods.value,
        limits,
        in_flight,
        class: *class,
        ip_allowlist: ip_allowlist.as_ref(),
        waf: waf.as_ref(),
        scope: scope.as_ref(),
        login: login.as_ref(),
        fixed_tenant: match &host.tenant.value {
            HostTenant::Identity => None,
            HostTenant::Fixed(tenant) => Some(tenant),
        },
        tenant_in_path: if path.value.split('/').any(|segment| segment == "{tenant}") {
            TenantInPath::Present
        } else {
            TenantInPath::Absent
        },
        cors: host.cors.as_ref(),
    }
}

fn layers<'d>(id: &portcullis_api::TenantId, tenant: &'d Tenant) -> TenantInput<'d> {
    let Tenant { grant, own } = tenant;
    let TenantLayer { ip_allowlist: grant_list, limits: grant_limits, in_flight: granted, waf: grant_waf } = grant;
    let TenantLayer { ip_allowlist: own_list, limits: own_limits, in_flight: owned, waf: own_waf } = own;
    TenantInput {
        tenant: id.clone(),
        ip_allowlist: Layers { grant: grant_list.as_ref(), own: own_list.as_ref() },
        limits: Layers { grant: Some(grant_limits), own: Some(own_limits) },
        in_flight: Layers { grant: Some(granted), own: Some(owned) },
        waf: Layers { grant: grant_waf.as_ref(), own: own_waf.as_ref() },
    }
}
