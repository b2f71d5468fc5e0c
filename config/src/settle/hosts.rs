//! Hosts: their names, certificates, headers, and the router over all their routes.

use std::{collections::HashMap, sync::Arc};

use http::HeaderValue;
use portcullis_api::{At, Switch};
use portcullis_plugins::cors;
use rustls::sign::CertifiedKey;

use super::Room;
use crate::{
    document::{FrameOptions, Host, SecurityHeaders},
    pattern::HostPattern,
    router::{HostEntry, Router},
    settled::SecurityHeaderValues,
};

/// What comes of `[hosts]`.
#[derive(Default)]
pub(super) struct Hosts {
    pub(super) certificates: HashMap<HostPattern, Arc<CertifiedKey>>,
    pub(super) router: Router,
    pub(super) cors: Vec<cors::Settings>,
}

impl Room<'_> {
    pub(super) fn hosts(&mut self) -> Hosts {
        let document = self.document;
        self.needs_one(document.hosts.is_empty(), "hosts.none", &["hosts"], "[hosts.\"NAME\"]");
        let mut hosts = Hosts::default();
        let mut entries = Vec::new();
        let mut next_route = 0;
        for (name, host) in &document.hosts {
            let pattern = self.pattern(name);
            let headers = self.security_headers(&host.security_headers);
            if let Some(cors) = &host.cors {
                self.cors(name, cors);
            }
            self.needs_one(host.routes.is_empty(), "hosts.no_routes", &["hosts", name, "routes"], "route");
            let routes = self.routes(name, host, &mut next_route);
            let listeners = self.host_listeners(name, host);
            self.certificates_are_asked_for(name, host, &listeners);
            let Some(pattern) = pattern else { continue };
            if let Some(certificate) = self.host_certificate(name, host, &pattern, &listeners) {
                hosts.certificates.insert(pattern.clone(), certificate);
            }
            let Some(headers) = headers else { continue };
            let cors = host.cors.as_ref().map(|cors| {
                hosts.cors.push(cors.clone());
                hosts.cors.len().saturating_sub(1)
            });
            let index = entries.len();
            let entry = HostEntry::new(pattern, index, host.tenant.value.clone(), cors, headers, routes);
            entries.push(entry.on(listeners));
        }
        hosts.router = Router::new(entries);
        hosts
    }

    fn pattern(&mut self, name: &str) -> Option<HostPattern> {
        HostPattern::parse(name)
            .map_err(|error| {
                let span = self.key(&["hosts", name]);
                self.issues.push_help("hosts.name", &span, error.to_string(), error.help());
            })
            .ok()
    }

    fn host_certificate(
        &mut self,
        name: &str,
        host: &Host,
        pattern: &HostPattern,
        listeners: &[usize],
    ) -> Option<Arc<CertifiedKey>> {
        if let Some(certificate) = &host.certificate {
            return self.certificate(pattern, certificate);
        }
        let document = self.document;
        let mut reached = listeners.iter().filter_map(|index| document.listeners.iter().nth(*index));
        let with_tls = reached.find(|(_, listener)| matches!(listener.tls, Switch::On(_)));
        if let Some((listener, _)) = with_tls {
            let span = self.key(&["hosts", name]);
            let message = format!("host `{name}` has no certificate, and listener `{listener}` speaks TLS");
            let help = "write certificate = { chain = \"file:…\", key = \"file:…\" }";
            self.issues.push_help("hosts.no_certificate", &span, message, help);
        }
        None
    }

    fn security_headers(&mut self, headers: &SecurityHeaders) -> Option<SecurityHeaderValues> {
        let SecurityHeaders { hsts_max_age, content_security_policy, frame_options, referrer_policy } = headers;
        let policy = self.header_value("content_security_policy", content_security_policy);
        let referrer = self.header_value("referrer_policy", referrer_policy);
        let hsts = At::nowhere(format!("max-age={}", hsts_max_age.as_secs_ceil()));
        Some(SecurityHeaderValues {
            strict_transport_security: self.header_value("hsts_max_age", &hsts)?,
            content_security_policy: policy?,
            x_frame_options: HeaderValue::from_static(match frame_options {
                FrameOptions::Deny => "DENY",
                FrameOptions::Sameorigin => "SAMEORIGIN",
            }),
            referrer_policy: referrer?,
        })
    }

    fn header_value(&mut self, field: &str, value: &At<String>) -> Option<HeaderValue> {
        let text = &value.value;
        let (message, help) = if text.trim().is_empty() {
            (format!("{field} is empty"), "leave it out for the default; a header is not switched off by being empty")
        } else if !text.bytes().all(|c| c == b' ' || c.is_ascii_graphic()) {
            (format!("{field} has a character that a header cannot carry"), "write it on one line, in ASCII")
        } else {
            // The bytes were looked at just now, so this does not fail; if it did, it would be said.
            match HeaderValue::from_str(text) {
                Ok(value) => return Some(value),
                Err(error) => (format!("{field}: {error}"), "write it on one line, in ASCII"),
            }
        };
        self.issues.push_help("security_headers.value", &value.span, message, help);
        None
    }
}
