//! The client's address, settled once from the declared topology.
//!
//! Invariant: `ClientIp` has one constructor, `Topology::settle`; the default topology trusts nobody.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;

use crate::Cidrs;

/// Whom a listener believes about the client's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topology {
    /// The socket's peer is the client.
    Direct,
    /// Peers in these networks must speak PROXY protocol v1 or v2; all others are refused before TLS.
    ProxyProtocol(Cidrs),
    /// Peers in these networks add `X-Forwarded-For`; it is read from the right while the hop is one of them.
    Forwarded(Cidrs),
}

/// Where a settled address came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IpSource {
    /// The socket.
    Socket,
    /// A PROXY protocol header.
    ProxyProtocol,
    /// `X-Forwarded-For`, from a trusted hop.
    Forwarded,
}

impl IpSource {
    /// As written in the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::ProxyProtocol => "proxy_protocol",
            Self::Forwarded => "forwarded",
        }
    }
}

/// A settled client address: never IPv4-mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientIp {
    ip: IpAddr,
    source: IpSource,
}

/// Why an address could not be settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClientIpError {
    /// A trusted hop sent an entry that is no address.
    #[error("a trusted hop sent an X-Forwarded-For entry that is no address")]
    Malformed,
    /// More hops than anyone has.
    #[error("X-Forwarded-For has more than 32 entries")]
    TooMany,
}

/// More hops than any deployment has; the bound keeps a hostile header cheap.
const HOPS_MAX: usize = 32;

impl ClientIp {
    /// The address.
    #[must_use]
    pub const fn ip(self) -> IpAddr {
        self.ip
    }

    /// Where it came from.
    #[must_use]
    pub const fn source(self) -> IpSource {
        self.source
    }

    /// As [`counted`].
    #[must_use]
    pub fn counted(self) -> IpAddr {
        counted(self.ip)
    }
}

/// The network by which a client is counted: the address itself for IPv4, its /64 for IPv6 (one customer has 2^64
/// addresses).
#[must_use]
pub fn counted(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & (u128::MAX << 64)).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl Topology {
    /// Settles the client's address. `peer` is the socket's peer; `proxied` is the source address of a PROXY
    /// protocol header that the listener has read from a declared source.
    ///
    /// # Errors
    /// [`ClientIpError`] when a trusted hop sent something that is no address: the request is refused, not guessed at.
    pub fn settle(
        &self,
        peer: SocketAddr,
        proxied: Option<SocketAddr>,
        headers: &HeaderMap,
    ) -> Result<ClientIp, ClientIpError> {
        let peer_ip = peer.ip().to_canonical();
        match self {
            Self::Direct => Ok(ClientIp { ip: peer_ip, source: IpSource::Socket }),
            Self::ProxyProtocol(_) => Ok(proxied.map_or(
                // A LOCAL or UNKNOWN header: the balancer speaks for itself.
                ClientIp { ip: peer_ip, source: IpSource::Socket },
                |addr| ClientIp { ip: addr.ip().to_canonical(), source: IpSource::ProxyProtocol },
            )),
            Self::Forwarded(trusted) => forwarded(trusted, peer_ip, headers),
        }
    }
}

fn forwarded(trusted: &Cidrs, peer: IpAddr, headers: &HeaderMap) -> Result<ClientIp, ClientIpError> {
    let mut settled = ClientIp { ip: peer, source: IpSource::Socket };
    let entries =
        headers.get_all("x-forwarded-for").into_iter().rev().flat_map(|value| value.as_bytes().rsplit(|&b| b == b','));
    for (hops, entry) in entries.enumerate() {
        if !trusted.contains(settled.ip) {
            break;
        }
        if hops >= HOPS_MAX {
            return Err(ClientIpError::TooMany);
        }
        let text = std::str::from_utf8(entry).map_err(|_| ClientIpError::Malformed)?.trim_matches([' ', '\t']);
        let ip: IpAddr = text.parse().map_err(|_| ClientIpError::Malformed)?;
        settled = ClientIp { ip: ip.to_canonical(), source: IpSource::Forwarded };
    }
    Ok(settled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settle(topology: &Topology, peer: &str, xff: &[&str]) -> Result<String, ClientIpError> {
        let mut headers = HeaderMap::new();
        for value in xff {
            headers.append("x-forwarded-for", value.parse().unwrap());
        }
        topology.settle(SocketAddr::new(peer.parse().unwrap(), 1), None, &headers).map(|c| c.ip().to_string())
    }

    fn trusted() -> Topology {
        Topology::Forwarded(Cidrs::new(vec!["10.0.0.0/8".parse().unwrap()]))
    }

    #[test]
    fn the_default_trusts_nobody() {
        assert_eq!(settle(&Topology::Direct, "198.51.100.1", &["127.0.0.1"]), Ok("198.51.100.1".into()));
        assert_eq!(settle(&trusted(), "198.51.100.1", &["127.0.0.1"]), Ok("198.51.100.1".into()));
    }

    #[test]
    fn forwarded_entries_are_read_from_the_right_while_the_hop_is_trusted() {
        assert_eq!(settle(&trusted(), "10.0.0.1", &["6.6.6.6, 203.0.113.9, 10.0.0.2"]), Ok("203.0.113.9".into()));
        assert_eq!(settle(&trusted(), "10.0.0.1", &["6.6.6.6", "203.0.113.9", "10.0.0.2"]), Ok("203.0.113.9".into()));
        assert_eq!(settle(&trusted(), "10.0.0.1", &[]), Ok("10.0.0.1".into()));
    }

    #[test]
    fn an_entry_of_a_trusted_hop_that_is_no_address_is_refused() {
        for bad in ["unknown", "", "1.2.3.4:80", "a", "10.0.0.2, "] {
            assert_eq!(settle(&trusted(), "10.0.0.1", &[bad]), Err(ClientIpError::Malformed), "{bad}");
        }
        assert_eq!(settle(&trusted(), "10.0.0.1", &[&["10.0.0.1"; 40].join(",")]), Err(ClientIpError::TooMany));
    }

    #[test]
    fn mapped_addresses_are_settled_as_ipv4() {
        assert_eq!(settle(&Topology::Direct, "::ffff:203.0.113.9", &[]), Ok("203.0.113.9".into()));
        assert_eq!(settle(&trusted(), "::ffff:10.0.0.1", &["::ffff:203.0.113.9"]), Ok("203.0.113.9".into()));
    }
}
