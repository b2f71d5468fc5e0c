//! The apps behind the gateway: which server takes a request, and over what kind of connection.
//!
//! Invariant: a TLS peer is only built with a name and a CA, and every peer carries a `group_key`: Pingora's pool would
//! otherwise lend a connection that was verified against one CA to a peer that asked for another, or one that was made with
//! one client certificate to a peer with another of the same serial number (it knows them by nothing else).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use parking_lot::Mutex;
use pingora_core::{
    protocols::{ALPN, l4::socket::SocketAddr as PeerAddr},
    upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy},
    utils::tls::{CertKey, WrappedX509, parse_x509},
};
use pingora_error::{ErrorType, OrErr, Result};
use pingora_http::RequestHeader;
use pingora_load_balancing::{
    Backend, Backends, Extensions,
    discovery::ServiceDiscovery,
    health_check::{HttpHealthCheck, TcpHealthCheck},
};
use portcullis_config::{ClientCertificateSpec, RouteKind, Server, UpstreamCaSpec, UpstreamProtocol, UpstreamSpec};
use portcullis_plugins::{assertion::Signer, signature};

use crate::{assertions::Rings, metrics::Metrics, refusal::Own};

/// How often host names are looked up again.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(30);

/// One upstream of a snapshot.
pub(crate) struct Upstream {
    /// Its name in the configuration.
    pub(crate) name: Arc<str>,
    /// Attempts beyond the first.
    pub(crate) retries_max: u32,
    /// What signs the assertion that each request carries.
    pub(crate) signer: Option<Signer>,
    /// What signs each request as a whole.
    pub(crate) signature: Option<Arc<signature::Signer>>,
    /// Finds the servers and checks them, at each [`Upstream::refresh`].
    servers: Backends,
    /// The servers that were well at the last refresh.
    well: ArcSwap<Vec<SocketAddr>>,
    turn: AtomicUsize,
    peer: HttpPeer,
    health_interval: Option<Duration>,
    by_name: bool,
    /// When the certificate expires that servers are shown, in Unix seconds.
    own_not_after: Option<i64>,
    /// What was reported last of each server.
    known: Mutex<BTreeMap<String, bool>>,
}

impl Upstream {
    /// Builds the list of servers and the peer that every request's peer is copied from.
    ///
    /// # Errors
    /// When a CA certificate cannot be read, or there is no key for its assertions; the configuration has checked both.
    pub(crate) fn build(spec: &UpstreamSpec, assertions: Option<&Rings>, generation: u64) -> Result<Self> {
        let peer = peer(spec, generation)?;
        let signer = assertions.and_then(|rings| rings.signer(spec));
        if spec.assertion.is_some() && signer.is_none() {
            return pingora_error::Error::e_explain(ErrorType::InternalError, "there is no key for its assertions");
        }
        let by_name = spec.servers.iter().any(|server| matches!(server, Server::Name { .. }));
        let mut servers = Backends::new(Box::new(Servers(spec.servers.iter().map(Server::to_string).collect())));
        if let Some(health) = &spec.health {
            let timeout = health.timeout.duration();
            match &health.path {
                Some(path) => servers.set_health_check(http_check(spec, &peer, path, timeout)?),
                None => {
                    let mut check = TcpHealthCheck::default();
                    check.peer_template.options.connection_timeout = Some(timeout);
                    servers.set_health_check(Box::new(check));
                }
            }
        }
        Ok(Self {
            name: spec.name.clone(),
            retries_max: spec.retries_max,
            signer,
            signature: spec.signature.clone(),
            servers,
            well: ArcSwap::default(),
            turn: AtomicUsize::new(0),
            peer,
            health_interval: spec.health.as_ref().map(|health| health.interval.duration()),
            by_name,
            own_not_after: own_certificate(spec).map(|own| own.not_after),
            known: Mutex::default(),
        })
    }

    /// The next well server that was not tried yet, as a peer for this kind of route.
    ///
    /// # Errors
    /// [`Own::NoServer`] when none is well.
    pub(crate) fn next(
        &self,
        kind: RouteKind,
        websocket: bool,
        tried: Option<SocketAddr>,
    ) -> Result<(SocketAddr, Box<HttpPeer>), Own> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let address = pick(&self.well.load(), turn, tried).ok_or(Own::NoServer)?;
        let mut peer = Box::new(self.peer.clone());
        peer._address = PeerAddr::Inet(address);
        if websocket {
            peer.options.http_upstream_request_policy = HttpUpstreamRequestPolicy::standard();
        }
        if websocket || kind == RouteKind::Stream {
            // What goes on without an end must not be cut for being silent; idle streams are bounded by TCP keep-alive.
            peer.options.read_timeout = None;
        }
        Ok((address, peer))
    }

    /// Looks the servers up and checks them once.
    pub(crate) async fn refresh(&self, metrics: &Metrics) {
        if let Err(error) = self.servers.update(|_changed| {}).await {
            tracing::warn!(event = "upstream.resolve", upstream = &*self.name, %error, "the servers could not be looked up");
        }
        if self.health_interval.is_some() {
            self.servers.run_health_check(true).await;
        }
        let servers = self.servers.get_backend();
        let well = servers.iter().filter(|server| self.servers.ready(server));
        self.well.store(Arc::new(well.filter_map(|server| server.addr.as_inet().copied()).collect()));
        self.report(metrics);
    }

    /// How often [`Upstream::refresh`] is worth calling; `None` when once is enough.
    #[must_use]
    pub(crate) fn refresh_interval(&self) -> Option<Duration> {
        self.health_interval.or_else(|| self.by_name.then_some(RESOLVE_INTERVAL))
    }

    /// Whether any server is well.
    #[must_use]
    pub(crate) fn is_up(&self) -> bool {
        !self.well.load().is_empty()
    }

    fn report(&self, metrics: &Metrics) {
        if let Some(not_after) = self.own_not_after {
            metrics.upstream_cert_not_after.with_label_values(&[&*self.name]).set(not_after);
        }
        for server in self.servers.get_backend().iter() {
            let (server, up) = (server.addr.to_string(), self.servers.ready(server));
            metrics.upstream_up.with_label_values(&[&*self.name, &server]).set(i64::from(up));
            let before = self.known.lock().insert(server.clone(), up);
            match (before, up) {
                (None | Some(true), false) => {
                    tracing::warn!(
                        event = "upstream.down",
                        upstream = &*self.name,
                        server,
                        "a server does not pass its health check"
                    );
                }
                (Some(false), true) => {
                    tracing::info!(
                        event = "upstream.up",
                        upstream = &*self.name,
                        server,
                        "a server passes its health check again"
                    );
                }
                (None | Some(true), true) | (Some(false), false) => {}
            }
        }
    }
}

/// The server whose turn it is, or the next that was not tried. With one server, or all others unwell, the tried one is
/// better than none.
fn pick(well: &[SocketAddr], turn: usize, tried: Option<SocketAddr>) -> Option<SocketAddr> {
    let (before, from) = well.split_at(turn.checked_rem(well.len())?);
    let mut in_turn = from.iter().chain(before).copied();
    in_turn.clone().find(|server| Some(*server) != tried).or_else(|| in_turn.next())
}

/// The peer that every connection to an upstream is copied from, without its address.
///
/// # Errors
/// When TLS is asked for without a name; the configuration has checked that.
pub(crate) fn peer(spec: &UpstreamSpec, generation: u64) -> Result<HttpPeer> {
    let placeholder = SocketAddr::from(([0, 0, 0, 0], 1));
    let mut hasher = DefaultHasher::new();
    (&spec.name, generation, spec.protocol == UpstreamProtocol::H2).hash(&mut hasher);
    let mut peer = match &spec.tls {
        None => HttpPeer::new(placeholder, false, String::new()),
        Some(tls) if tls.sni.is_empty() => {
            // Pingora would not verify anything. The configuration refuses it; so does this line.
            return pingora_error::Error::e_explain(ErrorType::InternalError, "TLS to an upstream needs a name");
        }
        Some(tls) => {
            let mut peer = HttpPeer::new(placeholder, true, tls.sni.clone());
            if let UpstreamCaSpec::Certificates(certificates) = &tls.ca {
                certificates.iter().for_each(|der| der.as_ref().hash(&mut hasher));
                let wrapped: Arc<[WrappedX509]> =
                    certificates.iter().map(|der| WrappedX509::new(der.to_vec(), parse_x509)).collect();
                peer.options.ca = Some(wrapped);
            }
            if let Some(own) = &tls.client_certificate {
                own.chain.iter().for_each(|der| der.as_ref().hash(&mut hasher));
                let chain = own.chain.iter().map(|der| der.to_vec()).collect();
                peer.client_cert_key = Some(Arc::new(CertKey::new(chain, own.key.expose().to_vec())));
            }
            peer
        }
    };
    peer.group_key = hasher.finish();
    let options = &mut peer.options;
    options.alpn = match spec.protocol {
        UpstreamProtocol::Http1 => ALPN::H1,
        UpstreamProtocol::H2 => ALPN::H2,
    };
    options.connection_timeout = Some(spec.connect_timeout.duration());
    options.total_connection_timeout = Some(spec.connect_timeout.duration());
    options.read_timeout = Some(spec.response_timeout.duration());
    options.write_timeout = Some(spec.write_timeout.duration());
    options.idle_timeout = Some(spec.idle_timeout.duration());
    options.max_h2_streams = 100;
    options.http_upstream_request_policy = HttpUpstreamRequestPolicy::deny_upgrades();
    Ok(peer)
}

fn own_certificate(spec: &UpstreamSpec) -> Option<&ClientCertificateSpec> {
    spec.tls.as_ref()?.client_certificate.as_ref()
}

fn http_check(spec: &UpstreamSpec, peer: &HttpPeer, path: &str, timeout: Duration) -> Result<Box<HttpHealthCheck>> {
    let host = spec.tls.as_ref().map_or("localhost", |tls| tls.sni.as_str());
    let mut check = HttpHealthCheck::new(host, spec.tls.is_some());
    let mut request = RequestHeader::build("GET", path.as_bytes(), None)?;
    #[expect(clippy::disallowed_methods, reason = "a health check is our own request, no client's")]
    request.append_header("Host", host)?;
    check.req = request;
    check.peer_template = peer.clone();
    check.peer_template.options.connection_timeout = Some(timeout);
    check.peer_template.options.read_timeout = Some(timeout);
    Ok(Box::new(check))
}

/// The servers as written, looked up anew each time.
struct Servers(Vec<String>);

#[async_trait]
impl ServiceDiscovery for Servers {
    async fn discover(&self) -> Result<(BTreeSet<Backend>, HashMap<u64, bool>)> {
        let mut found = BTreeSet::new();
        let mut failed = None;
        for server in &self.0 {
            match tokio::net::lookup_host(server).await {
                Ok(addresses) => found.extend(addresses.map(|address| Backend {
                    addr: PeerAddr::Inet(address),
                    weight: 1,
                    ext: Extensions::new(),
                })),
                Err(error) => failed = Some((server, error)),
            }
        }
        match failed {
            // One name that cannot be resolved does not take the others down.
            Some((server, error)) if found.is_empty() => {
                Err(error).or_err_with(ErrorType::ConnectError, || format!("{server} could not be resolved"))
            }
            Some(_) | None => Ok((found, HashMap::new())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_take_turns_and_a_tried_one_comes_last() {
        let [a, b, c] = [1, 2, 3].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let servers = [a, b, c];
        let turns: Vec<_> = (0..4).map(|turn| pick(&servers, turn, None)).collect();
        assert_eq!(turns, [Some(a), Some(b), Some(c), Some(a)]);
        assert_eq!(pick(&servers, 2, Some(c)), Some(a));
        assert_eq!(pick(&servers, usize::MAX, None), Some(servers[usize::MAX % 3]));
        assert_eq!(pick(&[a], 7, Some(a)), Some(a), "better than none");
        assert_eq!(pick(&[], 0, None), None);
    }
}
