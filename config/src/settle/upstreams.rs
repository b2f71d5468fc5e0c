//! The apps behind the gateway: where their servers are, and whose signature on their certificates is believed.

use std::net::SocketAddr;

use portcullis_api::At;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::Room;
use crate::{
    document::{Health, Upstream, UpstreamCa, UpstreamTls},
    pattern::{HostError, HostPattern, is_address},
    settled::{HealthSpec, Server, UpstreamCaSpec, UpstreamSpec, UpstreamTlsSpec},
};

/// More attempts than this only add load to what is failing.
const RETRIES_MAX: u32 = 5;

impl Room<'_> {
    pub(super) fn upstreams(&mut self) -> Vec<UpstreamSpec> {
        let document = self.document;
        self.needs_one(document.upstreams.is_empty(), "upstreams.none", &["upstreams"], "[upstreams.NAME]");
        document.upstreams.iter().filter_map(|(name, upstream)| self.upstream(name, upstream)).collect()
    }

    fn upstream(&mut self, name: &str, upstream: &Upstream) -> Option<UpstreamSpec> {
        self.name(&["upstreams", name]);
        if upstream.retries_max.value > RETRIES_MAX {
            let message = format!("retries_max is {}, more than {RETRIES_MAX}", upstream.retries_max.value);
            self.issues.push_help("upstreams.retries", &upstream.retries_max.span, message, "write 0 to 5");
        }
        let servers = self.servers(name, &upstream.servers);
        let health = upstream.health.as_ref().map(|health| self.health(health));
        let assertion = upstream.assertion.as_ref().map(|algorithm| self.asserted(algorithm));
        // Looked at whatever is wrong with TLS.
        let signature = upstream.signature.as_ref().map(|signature| self.signature(signature));
        let tls = match &upstream.tls {
            Some(tls) => Some(self.upstream_tls(name, tls)?),
            None => None,
        };
        let signature = match signature {
            Some(signer) => Some(signer?),
            None => None,
        };
        Some(UpstreamSpec {
            name: name.into(),
            servers,
            tls,
            protocol: upstream.protocol,
            health,
            connect_timeout: upstream.connect_timeout,
            response_timeout: upstream.response_timeout,
            write_timeout: upstream.write_timeout,
            idle_timeout: upstream.idle_timeout,
            retries_max: upstream.retries_max.value,
            assertion,
            signature,
        })
    }

    fn servers(&mut self, name: &str, servers: &At<Vec<At<String>>>) -> Vec<Server> {
        if servers.value.is_empty() {
            let message = format!("upstream `{name}` has no servers");
            self.issues.push_help("upstreams.no_servers", &servers.span, message, "write at least one host:port");
        }
        let mut specs: Vec<Server> = Vec::new();
        for At { value, span } in &servers.value {
            match server(value) {
                Err(help) => {
                    self.issues.push_help("upstreams.server", span, format!("`{value}` is no server"), help);
                }
                Ok(server) if specs.contains(&server) => {
                    let message = format!("server `{server}` is written twice");
                    self.issues.push_help("upstreams.server_twice", span, message, "write each server once");
                }
                Ok(server) => specs.push(server),
            }
        }
        specs
    }

    fn health(&mut self, health: &Health) -> HealthSpec {
        if let Some(At { value, span }) = &health.path
            && !(value.starts_with('/') && value.bytes().all(|c| c.is_ascii_graphic() && c != b'#'))
        {
            let message = format!("health path {value:?} is no path");
            self.issues.push_help("upstreams.health_path", span, message, "write one as in \"/healthz\"");
        }
        let path = health.path.as_ref().map(|path| path.value.clone());
        HealthSpec { path, interval: health.interval, timeout: health.timeout }
    }

    fn upstream_tls(&mut self, name: &str, tls: &UpstreamTls) -> Option<UpstreamTlsSpec> {
        let sni = &tls.sni;
        let refused = match HostPattern::parse(&sni.value) {
            Ok(HostPattern::Exact(name)) if !is_address(name.as_str()) => None,
            Err(error @ HostError::NotCanonical { .. }) => Some(error.help()),
            Ok(_) | Err(HostError::Wildcard(_) | HostError::NoHost(_)) => {
                Some("write the name in the servers' certificate; without one nothing would be verified".to_owned())
            }
        };
        if let Some(help) = refused {
            let message = format!("sni {:?} is no canonical DNS name", sni.value);
            self.issues.push_help("upstreams.sni", &sni.span, message, help);
        }
        // Looked at whatever is wrong with the authority.
        let client_certificate = tls.client_certificate.as_ref().map(|own| self.client_certificate(name, own));
        let ca = match &tls.ca.value {
            UpstreamCa::System => UpstreamCaSpec::System,
            UpstreamCa::File(path) => {
                let pem = self.public_file(path, &tls.ca.span)?;
                let path = path.display();
                match authorities(&pem) {
                    Ok(certificates) => UpstreamCaSpec::Certificates(certificates),
                    Err(why) => {
                        let help = "write the path of a PEM file with the certificates of your authority";
                        self.issues.push_help("upstreams.ca", &tls.ca.span, format!("file `{path}` {why}"), help);
                        return None;
                    }
                }
            }
        };
        let client_certificate = match client_certificate {
            Some(own) => Some(own?),
            None => None,
        };
        Some(UpstreamTlsSpec { sni: sni.value.clone(), ca, client_certificate })
    }
}

/// The certificates of a PEM file, each parsed once: Pingora panics on one that is not X.509.
pub(super) fn authorities(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, &'static str> {
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_| "is no PEM file")?;
    match certificates.iter().all(|certificate| X509Certificate::from_der(certificate).is_ok()) {
        _ if certificates.is_empty() => Err("has no certificates"),
        true => Ok(certificates),
        false => Err("has a certificate that is not X.509"),
    }
}

/// `host:port`, or what to write instead.
fn server(text: &str) -> Result<Server, String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return if address.port() == 0 { Err("port 0 is no port".to_owned()) } else { Ok(Server::Address(address)) };
    }
    if let Some((_, rest)) = text.split_once("://") {
        return Err(format!("leave the scheme out: `{}`; TLS is the upstream's `tls`", rest.trim_end_matches('/')));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(format!("write host and port, as in \"{text}:8080\""));
    };
    let digits = port.bytes().all(|c| c.is_ascii_digit());
    let Some(port) = port.parse::<u16>().ok().filter(|port| digits && *port > 0) else {
        return Err("a port is 1 to 65535".to_owned());
    };
    // Names inside a cluster may have `_`, so this is wider than a host of ours.
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_')
    };
    let numeric = host.rsplit('.').next().is_some_and(|last| last.bytes().all(|c| c.is_ascii_digit()));
    if host.len() > 253 || numeric || !host.split('.').all(label) {
        return Err("write a DNS name or an IP address, then `:` and a port; an IPv6 address in [ ]".to_owned());
    }
    Ok(Server::Name { host: host.to_ascii_lowercase(), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_host_and_a_port() {
        for good in
            ["127.0.0.1:9000", "[::1]:9000", "orders:80", "orders.svc.cluster.local:8080", "my_app:1", "h:65535"]
        {
            assert_eq!(server(good).map(|s| s.to_string()), Ok(good.to_owned()));
        }
        assert_eq!(server("Orders:80").map(|s| s.to_string()), Ok("orders:80".to_owned()));
        for bad in [
            "",
            "orders",
            "orders:",
            "orders:0",
            "orders:65536",
            "orders:http",
            "http://orders:80",
            ":80",
            "a..b:80",
            "::1:80",
            "127.0.0.1:0",
            "999.0.0.1:80",
            "a b:80",
            "1.2.3:80",
            "o/x:80",
            "orders:+80",
        ] {
            assert!(server(bad).is_err(), "{bad}");
        }
    }
}
