//! Sockets: where clients and where the operator connect.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use ipnet::IpNet;
use portcullis_api::{Cidrs, Issues, Switch, Topology};

use super::Room;
use crate::{
    document::{Bounds, ClientIpFrom, Listener},
    settled::{AdminSpec, ListenerSpec},
};

/// Above this, heads cost more than they can be worth (and Pingora stops at 1 MiB and 256 fields).
const HEAD_BYTES_MAX: u64 = 64 << 10;
const HEADER_FIELDS_MAX: u32 = 200;

impl Room<'_> {
    pub(super) fn listeners(&mut self) -> Vec<ListenerSpec> {
        let document = self.document;
        self.needs_one(document.listeners.is_empty(), "listeners.none", &["listeners"], "[listeners.NAME]");
        let mut taken: Vec<(String, SocketAddr)> = Vec::new();
        if let Some(admin) = &document.admin {
            taken.push(("admin".to_owned(), admin.address.value));
        }
        let mut specs = Vec::new();
        for (name, listener) in &document.listeners {
            self.name(&["listeners", name]);
            let address = listener.address.value;
            if let Some((other, _)) = taken.iter().find(|(_, other)| collide(*other, address)) {
                let message = format!("listener `{name}` and `{other}` cannot both have {address}");
                self.issues.push_help("listeners.duplicate", &listener.address.span, message, "choose another port");
            }
            taken.push((name.clone(), address));
            self.bounds(name, &listener.bounds);
            let topology = topology(listener, self.issues);
            let tls = self.listener_tls(name, listener);
            let client_certificates = self.client_certificates(name, listener);
            specs.push(ListenerSpec {
                name: name.as_str().into(),
                address,
                topology,
                tls,
                client_certificates,
                bounds: listener.bounds.clone(),
            });
        }
        specs
    }

    fn listener_tls(&mut self, name: &str, listener: &Listener) -> Option<crate::document::TlsVersion> {
        match &listener.tls {
            Switch::On(tls) => Some(tls.minimum),
            Switch::Off => {
                if !listener.address.value.ip().is_loopback() {
                    let span = self.key(&["listeners", name, "tls"]);
                    let message = format!(
                        "listener `{name}` is without TLS on {}, which is not loopback",
                        listener.address.value
                    );
                    let help = "leave `tls` out, or listen on 127.0.0.1 or [::1]";
                    self.issues.push_help("listeners.plain", &span, message, help);
                }
                None
            }
        }
    }

    fn bounds(&mut self, name: &str, bounds: &Bounds) {
        let Bounds { head_bytes_max: head, header_fields_max: fields, target_bytes_max: target, .. } = bounds;
        let mut wrong = Vec::new();
        if head.bytes() > HEAD_BYTES_MAX {
            wrong.push((
                "head_bytes_max",
                format!("head_bytes_max is {head}, more than 64KiB"),
                "write at most \"64KiB\"",
            ));
        }
        if fields.get() > HEADER_FIELDS_MAX {
            let message = format!("header_fields_max is {fields}, more than {HEADER_FIELDS_MAX}");
            wrong.push(("header_fields_max", message, "write at most 200"));
        }
        if target > head {
            let message = format!("target_bytes_max is {target}, more than the whole head may have ({head})");
            wrong.push(("target_bytes_max", message, "the target is a part of the head"));
        }
        for (field, message, help) in wrong {
            let span = self.key(&["listeners", name, "bounds", field]);
            self.issues.push_help("listeners.bounds", &span, message, help);
        }
    }

    /// The inner `None` is "no admin listener", the outer one is "something was wrong".
    pub(super) fn admin(&mut self) -> Option<Option<AdminSpec>> {
        let Some(admin) = &self.document.admin else { return Some(None) };
        let address = admin.address.value;
        if !address.ip().is_loopback() {
            let message = format!("the admin listener is on {address}, which is not loopback");
            let help = "listen on 127.0.0.1 or [::1]; reach it from elsewhere through an authenticated tunnel";
            self.issues.push_help("admin.not_loopback", &admin.address.span, message, help);
        }
        let token = match &admin.token {
            Some(token) => Some(self.secret(&token.value, &token.span, "the admin token")?),
            None => None,
        };
        Some(Some(AdminSpec { address, token }))
    }
}

/// Whether two sockets cannot both be bound: one port, and one address or a wildcard. Port 0 is any free one.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let same_family = a.is_ipv4() == b.is_ipv4();
    let wildcard = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.port() != 0 && (a.ip() == b.ip() || (same_family && wildcard))
}

fn topology(listener: &Listener, issues: &mut Issues) -> Topology {
    let span = &listener.client_ip.span;
    match &listener.client_ip.value {
        ClientIpFrom::Direct => Topology::Direct,
        ClientIpFrom::ProxyProtocol(trusted) => {
            trusted_is_narrow(trusted, span, issues);
            Topology::ProxyProtocol(trusted.clone())
        }
        ClientIpFrom::Forwarded(trusted) => {
            trusted_is_narrow(trusted, span, issues);
            Topology::Forwarded(trusted.clone())
        }
    }
}

/// Whoever is believed about the client's address can be anybody. So "everybody" is never believed, however it is
/// spelt: halves of the address space are joined before they are looked at.
fn trusted_is_narrow(trusted: &Cidrs, span: &Range<usize>, issues: &mut Issues) {
    let nets: Vec<IpNet> = trusted.nets().to_vec();
    if nets.is_empty() {
        let help = "list the networks of your load balancers, or write \"direct\"";
        issues.push_help("listeners.trusts_nobody", span, "no network is trusted", help);
    }
    for net in IpNet::aggregate(&nets).iter().filter(|net| net.prefix_len() == 0) {
        let which = match net.addr() {
            IpAddr::V4(_) => "every IPv4 address is trusted",
            IpAddr::V6(_) => "every IPv6 address is trusted",
        };
        let help = "list the networks of your load balancers: any client could choose its own address";
        issues.push_help("listeners.trusts_everybody", span, which, help);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_collide_by_port_and_wildcard() {
        let collides = |a: &str, b: &str| collide(a.parse().unwrap(), b.parse().unwrap());
        assert!(collides("127.0.0.1:80", "127.0.0.1:80") && collides("0.0.0.0:80", "127.0.0.1:80"));
        assert!(collides("[::]:80", "[::1]:80"));
        assert!(!collides("127.0.0.1:80", "127.0.0.1:81") && !collides("127.0.0.1:80", "127.0.0.2:80"));
        assert!(!collides("0.0.0.0:80", "[::1]:80") && !collides("127.0.0.1:0", "127.0.0.1:0"));
    }

    #[test]
    fn everybody_is_not_trusted_however_it_is_spelt() {
        let wrong = |nets: &[&str]| {
            let mut issues = Issues::default();
            let nets = nets.iter().map(|net| net.parse().unwrap()).collect();
            trusted_is_narrow(&Cidrs::new(nets), &(0..0), &mut issues);
            issues.as_slice().len()
        };
        assert_eq!(wrong(&["10.0.0.0/8", "fd00::/8"]), 0);
        assert_eq!(wrong(&[]), 1);
        assert_eq!(wrong(&["0.0.0.0/0"]), 1);
        assert_eq!(wrong(&["0.0.0.0/1", "128.0.0.0/1", "::/0"]), 2);
        assert_eq!(wrong(&["0.0.0.0/1"]), 0);
    }
}
