//! Certificates of clients: whose signature is believed where, and that nobody can come to a host that asks for one by a
//! listener that does not.

use std::ops::Range;

use portcullis_api::{Switch, nearest};
use portcullis_plugins::authentication::{Accept, ClientCertificates};
use rustls_pki_types::{CertificateRevocationListDer, pem::PemObject};
use x509_parser::{prelude::FromDer, revocation_list::CertificateRevocationList};

use super::{Room, upstreams::authorities};
use crate::{
    document::{Host, Listener},
    settled::ClientCertificatesSpec,
};

impl Room<'_> {
    pub(super) fn client_certificates(&mut self, name: &str, listener: &Listener) -> Option<ClientCertificatesSpec> {
        let settings = listener.client_certificates.as_ref()?;
        let ClientCertificates { ca, crl, mode, connection_age_max, uri: _, role: _, scopes: _, agents: _ } = settings;
        if matches!(listener.tls, Switch::Off) {
            let span = self.key(&["listeners", name, "client_certificates"]);
            let message = format!("listener `{name}` asks for client certificates and is without TLS");
            self.issues.push_help("client_certificates.plain", &span, message, "leave `tls` out");
        }
        let pem = self.public_file(&ca.value, &ca.span);
        let ca = pem.and_then(|pem| {
            let wrong = |why| {
                let message = format!("file `{}` {why}", ca.value.display());
                let help = "write the path of a PEM file with the authorities that sign your clients' certificates";
                self.issues.push_help("client_certificates.ca", &ca.span, message, help);
            };
            authorities(&pem).map_err(wrong).ok()
        });
        for file in crl {
            let Some(pem) = self.public_file(&file.value, &file.span) else { continue };
            if let Err(why) = revocation_lists(&pem) {
                let message = format!("file `{}` {why}", file.value.display());
                let help = "write the path of a PEM file with -----BEGIN X509 CRL-----";
                self.issues.push_help("client_certificates.crl", &file.span, message, help);
            }
        }
        let crl = crl.iter().map(|file| self.resolve(&file.value)).collect();
        Some(ClientCertificatesSpec { ca: ca?, crl, mode: *mode, connection_age_max: connection_age_max.value })
    }

    /// The indexes of the listeners that a host is served on.
    pub(super) fn host_listeners(&mut self, name: &str, host: &Host) -> Vec<usize> {
        let document = self.document;
        let Some(written) = &host.listeners else { return (0..document.listeners.len()).collect() };
        if written.value.is_empty() {
            let message = format!("host `{name}` is served on no listener");
            self.issues.push_help("hosts.listeners", &written.span, message, "leave `listeners` out for all of them");
        }
        let mut indexes = Vec::new();
        for at in &written.value {
            match document.listeners.keys().position(|known| *known == at.value) {
                Some(index) if indexes.contains(&index) => {
                    let message = format!("host `{name}` names a listener twice");
                    self.issues.push("hosts.listeners", &at.span, message);
                }
                Some(index) => indexes.push(index),
                None => {
                    let message = format!("host `{name}` is served on a listener that does not exist");
                    let near = nearest(&at.value, document.listeners.keys().map(String::as_str));
                    let help = near.map_or_else(
                        || "write the name of one of [listeners]".to_owned(),
                        |near| format!("did you mean `{near}`?"),
                    );
                    self.issues.push_help("hosts.listeners", &at.span, message, help);
                }
            }
        }
        indexes
    }

    /// Who shows a certificate on one listener could leave it out on another, or show one that other authorities signed.
    pub(super) fn certificates_are_asked_for(&mut self, name: &str, host: &Host, listeners: &[usize]) {
        let document = self.document;
        let accepting = host.routes.iter().find_map(|(route, settings)| {
            let mut accepted = settings.auth.value.accept.iter().flat_map(|accept| &accept.value);
            accepted.find(|accept| accept.value == Accept::Certificate).map(|accept| (route, accept.span.clone()))
        });
        let Some((route, span)) = accepting else { return };
        let reached = || listeners.iter().filter_map(|index| document.listeners.iter().nth(*index));
        let mut first: Option<(&String, &ClientCertificates)> = None;
        for (listener, settings) in reached() {
            let Some(settings) = &settings.client_certificates else {
                self.asks_for_none(name, route, listener, &span);
                continue;
            };
            if settings.uri.is_none() && settings.agents.is_empty() {
                let message =
                    format!("route `{route}` accepts certificates, and those of listener `{listener}` name nobody");
                let help = "write `uri` or `agents` in its [client_certificates]";
                self.issues.push_help("client_certificates.names_nobody", &span, message, help);
            }
            match first {
                Some((other, theirs)) if !same(theirs, settings) => {
                    let message = format!(
                        "route `{route}` accepts certificates, and listeners `{other}` and `{listener}` do not ask for the same ones"
                    );
                    let help = format!("write listeners = [\"{listener}\"] in [hosts.\"{name}\"]");
                    self.issues.push_help("client_certificates.differ", &span, message, help);
                }
                Some(_) => {}
                None => first = Some((listener, settings)),
            }
        }
    }

    fn asks_for_none(&mut self, host: &str, route: &str, listener: &str, span: &Range<usize>) {
        let message = format!(
            "route `{route}` accepts certificates, and listener `{listener}`, which serves host `{host}`, asks for none"
        );
        let help = format!(
            "write [listeners.{listener}.client_certificates], or `listeners` in [hosts.\"{host}\"] without `{listener}`"
        );
        self.issues.push_help("client_certificates.not_asked_for", span, message, help);
    }
}

/// Whether two listeners take the same certificates for the same agents. How long they keep a connection does not matter.
fn same(a: &ClientCertificates, b: &ClientCertificates) -> bool {
    let ClientCertificates { ca, crl, mode, uri, role, scopes, agents, connection_age_max: _ } = a;
    ca.value == b.ca.value
        && crl.iter().map(|file| &file.value).eq(b.crl.iter().map(|file| &file.value))
        && *mode == b.mode
        && uri.as_ref().map(|uri| &uri.value) == b.uri.as_ref().map(|uri| &uri.value)
        && *role == b.role
        && *scopes == b.scopes
        && *agents == b.agents
}

/// The lists of a PEM file. Each says when the next one comes: nobody could tell an old one without that.
fn revocation_lists(pem: &[u8]) -> Result<(), &'static str> {
    let lists: Vec<CertificateRevocationListDer<'_>> =
        CertificateRevocationListDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_| "is no PEM file")?;
    if lists.is_empty() {
        return Err("has no revocation lists");
    }
    for list in &lists {
        let Ok((&[], list)) = CertificateRevocationList::from_der(list.as_ref()) else {
            return Err("has a revocation list that cannot be read");
        };
        if list.next_update().is_none() {
            return Err("has a revocation list without a next update");
        }
    }
    Ok(())
}
