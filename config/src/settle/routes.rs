//! Routes of a host: canonical paths, known methods, a known upstream, and no two that match equally.

use std::{ops::Range, sync::Arc};

use http::{HeaderValue, Method};
use portcullis_api::{At, MethodName, RouteId, nearest};

use super::Room;
use crate::{
    document::{Host, Route, RouteKind},
    path::Template,
    router::RouteEntry,
};

/// A route that could be read, with what is needed to compare it with the others.
struct Read<'d> {
    name: &'d str,
    path: &'d Range<usize>,
    template: Template,
    entry: RouteEntry,
}

impl Room<'_> {
    /// The routes of one host. Ids go on from `next`, in the order of the document's names.
    pub(super) fn routes(&mut self, host_name: &str, host: &Host, next: &mut u32) -> Vec<(Template, RouteEntry)> {
        let host_label: Arc<str> = host_name.into();
        let mut read = Vec::new();
        for (name, route) in &host.routes {
            self.name(&["hosts", host_name, "routes", name]);
            let id = RouteId::new(*next);
            *next = next.saturating_add(1);
            let template = self.template(name, route);
            let methods = self.methods(name, &route.methods);
            let upstream = self.upstream_index(name, &route.upstream);
            if route.kind == RouteKind::Websocket && !methods.is_empty() && !methods.contains(&Method::GET) {
                let message = format!("route `{name}` is for WebSockets and does not admit GET");
                let help = "a WebSocket handshake is a GET (RFC 6455)";
                self.issues.push_help("routes.websocket_without_get", &route.methods.span, message, help);
            }
            let Some(template) = template else { continue };
            self.public_catch_all(name, route, &template, &methods);
            let entry = RouteEntry {
                id,
                name: format!("{host_name}/{name}").into(),
                host: Arc::clone(&host_label),
                template: template.as_str().to_owned(),
                has_tenant_segment: template.has_tenant(),
                methods,
                // These two are of the path, not of the route: `HostEntry::new` knows all routes of a path.
                path_methods: Vec::new(),
                allow_header: HeaderValue::from_static(""),
                kind: route.kind,
                upstream: upstream.unwrap_or(usize::MAX),
                auth: route.auth.clone(),
                limits: route.limits.clone(),
                class: route.class,
                ip_allowlist: route.ip_allowlist.clone(),
                waf: route.waf.clone(),
                tenant: host.tenant.value.clone(),
            };
            read.push(Read { name, path: &route.path.span, template, entry });
        }
        self.no_two_match_equally(&read);
        read.into_iter().map(|read| (read.template, read.entry)).collect()
    }

    fn template(&mut self, name: &str, route: &Route) -> Option<Template> {
        Template::parse(&route.path.value)
            .map_err(|error| {
                let message = format!("route `{name}`: {error}");
                self.issues.push_help("routes.path", &route.path.span, message, error.help);
            })
            .ok()
    }

    /// The methods, with `HEAD` where there is `GET`.
    fn methods(&mut self, route: &str, methods: &At<Vec<At<String>>>) -> Vec<Method> {
        if methods.value.is_empty() {
            let message = format!("route `{route}` has no methods");
            self.issues.push_help("routes.methods", &methods.span, message, "list them, as in [\"GET\", \"POST\"]");
        }
        let mut found: Vec<MethodName> = Vec::new();
        for At { value, span } in &methods.value {
            match MethodName::parse(value) {
                Err(help) => {
                    let message = format!("route `{route}`: {value:?} is no method a route may admit");
                    self.issues.push_help("routes.methods", span, message, help);
                }
                Ok(method) if found.contains(&method) => {
                    let message = format!("route `{route}`: method {} is written twice", method.method());
                    self.issues.push_help("routes.methods", span, message, "write each method once");
                }
                Ok(method) => found.push(method),
            }
        }
        MethodName::with_head(found)
    }

    fn upstream_index(&mut self, route: &str, upstream: &At<String>) -> Option<usize> {
        let known = &self.document.upstreams;
        let index = known.keys().position(|name| *name == upstream.value);
        if index.is_none() {
            let message = format!("route `{route}`: there is no upstream `{}`", upstream.value);
            let names = known.keys().map(String::as_str);
            let help = match nearest(&upstream.value, names.clone()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("there are {}", names.map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")),
            };
            self.issues.push_help("routes.unknown_upstream", &upstream.span, message, help);
        }
        index
    }

    /// A public route that catches everything would make every new path of the app public, whatever it does.
    fn public_catch_all(&mut self, name: &str, route: &Route, template: &Template, methods: &[Method]) {
        let reads_only = methods.iter().all(|method| *method == Method::GET || *method == Method::HEAD);
        if route.auth.value.public.is_some() && template.catches_all() && !reads_only {
            let message = format!("route `{name}` is public, catches every path, and admits more than GET");
            let help = "keep methods = [\"GET\"], or give what is written to a route of its own";
            self.issues.push_help("routes.public_catch_all", &route.methods.span, message, help);
        }
    }

    /// Same path and a method in common: which one is meant is not for the gateway to guess. Said at both places.
    fn no_two_match_equally(&mut self, routes: &[Read<'_>]) {
        for route in routes {
            for other in routes.iter().filter(|other| other.name != route.name && other.template == route.template) {
                let Some(method) = route.entry.methods.iter().find(|method| other.entry.admits(method)) else {
                    continue;
                };
                let message = format!(
                    "route `{}` and route `{}` both match {method} {}",
                    route.name,
                    other.name,
                    route.template.as_str()
                );
                let help = "give one of them another path, or other methods";
                self.issues.push_help("routes.equal", route.path, message, help);
            }
        }
    }
}
