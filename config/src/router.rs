//! From a canonical host and path to a route. Look-ups allocate nothing; no match is no route.

use std::sync::Arc;

use http::{HeaderValue, Method};
use portcullis_api::{At, RouteId, RouteRef, TenantId};
use portcullis_plugins::{authentication, ip_allowlist, rate_limit, waf};

use crate::{
    document::{HostTenant, RouteKind},
    path::Template,
    pattern::{HostPattern, HostTable},
    settled::SecurityHeaderValues,
};

/// All hosts and their routes.
#[derive(Debug, Default)]
pub struct Router {
    hosts: Vec<HostEntry>,
    by_name: HostTable<usize>,
    by_id: Vec<(usize, usize, usize)>,
}

/// One host.
#[derive(Debug)]
pub struct HostEntry {
    /// As written in the document, e.g. `api.example.com` or `*.example.com`.
    pub name: Arc<str>,
    /// What it matches.
    pub pattern: HostPattern,
    /// Dense index, in the order of the document's names.
    pub index: usize,
    /// Whose host this is.
    pub tenant: HostTenant,
    /// Its cross-origin rules, an index into `Settled::cors`.
    pub cors: Option<usize>,
    /// The security headers of its answers.
    pub headers: SecurityHeaderValues,
    /// The indexes of the listeners it is served on.
    listeners: Vec<usize>,
    places: Vec<Place>,
}

/// The routes of one template, with disjoint methods.
#[derive(Debug)]
struct Place {
    template: Template,
    routes: Vec<RouteEntry>,
}

/// One route.
#[derive(Debug, Clone)]
pub struct RouteEntry {
    /// Dense over all hosts.
    pub id: RouteId,
    /// `host/route`, as in logs and messages.
    pub name: Arc<str>,
    /// The host as written in the document.
    pub host: Arc<str>,
    /// The path as written in the document.
    pub template: String,
    /// Whether the path has a `{tenant}` segment.
    pub has_tenant_segment: bool,
    /// The methods it admits; `HEAD` is among them where `GET` is.
    pub methods: Vec<Method>,
    /// The methods of all routes with this path, for preflights.
    pub path_methods: Vec<Method>,
    /// `path_methods` as the `Allow` header of a 405.
    pub allow_header: HeaderValue,
    /// What kind of exchange it carries.
    pub kind: RouteKind,
    /// Index into `Settled::upstreams`.
    pub upstream: usize,
    /// How requests are authenticated.
    pub auth: At<authentication::Auth>,
    /// Its limits by name.
    pub limits: Vec<At<String>>,
    /// Its class.
    pub class: Option<rate_limit::Class>,
    /// One more address list.
    pub ip_allowlist: Option<ip_allowlist::Settings>,
    /// Own numbers for content.
    pub waf: Option<waf::Override>,
    /// Whose host it is on.
    pub tenant: HostTenant,
}

impl RouteEntry {
    /// Its id and name, as controls are told.
    #[must_use]
    pub fn route_ref(&self) -> RouteRef {
        RouteRef { id: self.id, name: Arc::clone(&self.name) }
    }

    /// The host's fixed tenant.
    #[must_use]
    pub const fn fixed_tenant(&self) -> Option<&TenantId> {
        match &self.tenant {
            HostTenant::Identity => None,
            HostTenant::Fixed(tenant) => Some(tenant),
        }
    }

    /// Whether it admits this method.
    #[must_use]
    pub fn admits(&self, method: &Method) -> bool {
        self.methods.contains(method)
    }
}

/// The routes that a path leads to.
#[derive(Debug, Clone, Copy)]
pub struct Matched<'h> {
    /// The route; where several share the path with disjoint methods, the first of them.
    pub route: &'h RouteEntry,
    /// The raw segment that stood for `{tenant}`.
    pub tenant_segment: Option<&'h str>,
    routes: &'h [RouteEntry],
}

impl<'h> Matched<'h> {
    /// The route of this path that admits `method`; `None` is 405 with `route.allow_header`.
    #[must_use]
    pub fn admitting(&self, method: &Method) -> Option<&'h RouteEntry> {
        self.routes.iter().find(|route| route.admits(method))
    }
}

impl HostEntry {
    /// A host, on no listener yet, whose routes are looked up in the order of [`Template::precedence`], whatever order they come in.
    pub(crate) fn new(
        pattern: HostPattern,
        index: usize,
        tenant: HostTenant,
        cors: Option<usize>,
        headers: SecurityHeaderValues,
        routes: Vec<(Template, RouteEntry)>,
    ) -> Self {
        let mut places: Vec<Place> = Vec::new();
        for (template, route) in routes {
            match places.iter_mut().find(|place| place.template == template) {
                Some(place) => place.routes.push(route),
                None => places.push(Place { template, routes: vec![route] }),
            }
        }
        for place in &mut places {
            let methods: Vec<Method> = place.routes.iter().flat_map(|route| route.methods.iter().cloned()).collect();
            for route in &mut place.routes {
                route.allow_header = allow(&methods);
                route.path_methods.clone_from(&methods);
            }
        }
        places.sort_by(|a, b| a.template.precedence(&b.template));
        Self { name: pattern.to_string().into(), pattern, index, tenant, cors, headers, listeners: Vec::new(), places }
    }

    /// Served on these listeners alone.
    pub(crate) fn on(self, listeners: Vec<usize>) -> Self {
        Self { listeners, ..self }
    }

    /// Whether it is served on this listener.
    #[must_use]
    pub fn is_on(&self, listener: usize) -> bool {
        self.listeners.contains(&listener)
    }

    /// The routes for a canonical raw path (it starts with `/` and has no query): the longest match by whole segments,
    /// and a literal before `{tenant}`.
    #[must_use]
    pub fn route<'h>(&'h self, path: &'h str) -> Option<Matched<'h>> {
        self.places.iter().find_map(|place| {
            let tenant_segment = place.template.matches(path)?;
            Some(Matched { route: place.routes.first()?, tenant_segment, routes: &place.routes })
        })
    }

    /// All its routes.
    pub fn routes(&self) -> impl Iterator<Item = &RouteEntry> {
        self.places.iter().flat_map(|place| &place.routes)
    }
}

/// The value of `Allow` (RFC 9110, 10.2.1).
fn allow(methods: &[Method]) -> HeaderValue {
    let text = methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
    // A method is a token; the fallback is never taken, and an empty `Allow` would be true of no method.
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

impl Router {
    pub(crate) fn new(hosts: Vec<HostEntry>) -> Self {
        let mut by_id = Vec::new();
        for (h, host) in hosts.iter().enumerate() {
            for (p, place) in host.places.iter().enumerate() {
                by_id.extend(place.routes.iter().enumerate().map(|(r, route)| (route.id, (h, p, r))));
            }
        }
        by_id.sort_by_key(|(id, _)| *id);
        let by_name = hosts.iter().enumerate().map(|(index, host)| (host.pattern.clone(), index)).collect();
        Self { hosts, by_name, by_id: by_id.into_iter().map(|(_, at)| at).collect() }
    }

    /// The host of a canonical name: exact, else the wildcard one label up.
    #[must_use]
    pub fn find(&self, host: &str) -> Option<&HostEntry> {
        self.hosts.get(*self.by_name.find(host)?)
    }

    /// All hosts.
    #[must_use]
    pub fn hosts(&self) -> &[HostEntry] {
        &self.hosts
    }

    /// All routes in the order of their ids: the n-th has the id n.
    pub fn routes(&self) -> impl Iterator<Item = &RouteEntry> {
        self.by_id.iter().filter_map(|at| self.at(*at))
    }

    /// The route with this id.
    #[must_use]
    pub fn route(&self, id: RouteId) -> Option<&RouteEntry> {
        self.at(*self.by_id.get(id.index())?)
    }

    fn at(&self, (host, place, route): (usize, usize, usize)) -> Option<&RouteEntry> {
        self.hosts.get(host)?.places.get(place)?.routes.get(route)
    }
}
