//! The apps behind the gateway: which server takes a request, and over what kind of connection.
//!
//! Invariant: a TLS peer is only built with a name and a CA, and every peer carries a `group_key`: Pingora's pool would
//! otherwise lend a connection that was verified against one CA to a peer that asked for another.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora_core::{
    protocols::{ALPN, l4::socket::SocketAddr as PeerAddr},
    upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy},
    utils::tls::{WrappedX509, parse_x509},
};
use pingora_error::{ErrorType, OrErr, Result};
use pingora_http::RequestHeader;
use pingora_load_balancing::{
    Backend, Backends, Extensions, LoadBalancer,
    discovery::ServiceDiscovery,
    health_check::{HttpHealthCheck, TcpHealthCheck},
    selection::RoundRobin,
};
use portcullis_config::{RouteKind, Server, UpstreamCaSpec, UpstreamProtocol, UpstreamSpec};

use crate::{metrics::Metrics, refusal::Own};

/// How often host names are looked up again.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(30);

/// One upstream of a snapshot.
pub(crate) struct Upstream {
    /// Its name in the configuration.
    pub(crate) name: Arc<str>,
    /// Attempts beyond the first.
    pub(crate) retries_max: u32,
    balancer: LoadBalancer<RoundRobin>,
    peer: HttpPeer,
    health_interval: Option<Duration>,
    by_name: bool,
    /// What was reported last of each server.
    known: Mutex<BTreeMap<String, bool>>,
}

impl Upstream {
    /// Builds the balancer and the peer that every request's peer is copied from.
    ///
    /// # Errors
    /// When a CA certificate cannot be read; the configuration has checked it before.
    pub(crate) fn build(spec: &UpstreamSpec, generation: u64) -> Result<Self> {
        let peer = peer(spec, generation)?;
        let by_name = spec.servers.iter().any(|server| matches!(server, Server::Name { .. }));
        let mut backends = Backends::new(Box::new(Servers(spec.servers.iter().map(Server::to_string).collect())));
        if let Some(health) = &spec.health {
            let timeout = health.timeout.duration();
            match &health.path {
                Some(path) => backends.set_health_check(http_check(spec, &peer, path, timeout)?),
                None => {
                    let mut check = TcpHealthCheck::default();
                    check.peer_template.options.connection_timeout = Some(timeout);
                    backends.set_health_check(Box::new(check));
                }
            }
        }
        Ok(Self {
            name: spec.name.clone(),
            retries_max: spec.retries_max,
            balancer: LoadBalancer::from_backends(backends),
            peer,
            health_interval: spec.health.as_ref().map(|health| health.interval.duration()),
            by_name,
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
        let fresh = |backend: &Backend, well: bool| well && backend.addr.as_inet().copied() != tried;
        // With one server, or all others unwell, the tried one is better than none.
        let backend =
            self.balancer.select_with(b"", 64, fresh).or_else(|| self.balancer.select(b"", 64)).ok_or(Own::NoServer)?;
        let address = backend.addr.as_inet().copied().ok_or(Own::NoServer)?;
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
        if let Err(error) = self.balancer.update().await {
            tracing::warn!(event = "upstream.resolve", upstream = &*self.name, %error, "the servers could not be looked up");
        }
        if self.health_interval.is_some() {
            self.balancer.backends().run_health_check(true).await;
        }
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
        let backends = self.balancer.backends();
        backends.get_backend().iter().any(|backend| backends.ready(backend))
    }

    fn report(&self, metrics: &Metrics) {
        let backends = self.balancer.backends();
        for backend in backends.get_backend().iter() {
            let (server, up) = (backend.addr.to_string(), backends.ready(backend));
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

fn peer(spec: &UpstreamSpec, generation: u64) -> Result<HttpPeer> {
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
