//! From an accepted socket to the HTTP parser: permits, PROXY protocol, TLS, the watched stream. In that order.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use pingora_core::{
    apps::ServerApp,
    protocols::{
        GetSocketDigest, SocketDigest, Stream, UniqueID,
        l4::{socket::SocketAddr as L4Addr, stream::Stream as L4Stream},
        raw_connect::ProxyDigest,
    },
    server::ShutdownWatch,
};
use pingora_http::ResponseHeader;
use portcullis_api::Topology;
use tokio::time::{Instant, timeout_at};

use super::{
    ListenerRuntime,
    conn::{ConnInfo, TlsFacts, after},
    permits::{ConnectionPermit, NetworkPermit},
    proxy_protocol::{self, ProxyError},
    stream::{EdgeStream, Wire},
    tls::{self, HandshakeError, TlsTable},
};

/// What a plain TCP service of Pingora hands its sockets to. `A` is the `HttpProxy` behind it.
pub(crate) struct Terminator<A> {
    listener: Arc<ListenerRuntime>,
    app: Arc<A>,
}

impl<A> Terminator<A> {
    /// In front of `app`.
    pub(crate) const fn new(listener: Arc<ListenerRuntime>, app: Arc<A>) -> Self {
        Self { listener, app }
    }
}

#[async_trait]
impl<A> ServerApp for Terminator<A>
where
    A: ServerApp + Send + Sync + 'static,
{
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        // What Pingora hands a service without TLS of its own.
        let Ok(socket) = stream.into_any().downcast::<L4Stream>() else {
            self.listener.events().refused(&self.listener, "bug");
            return None;
        };
        match admit(&self.listener, *socket).await {
            Ok((stream, None)) => {
                self.app.process_new(Box::new(stream), shutdown).await;
            }
            Ok((stream, Some(age))) => {
                until_old(&self.app, Box::new(stream), shutdown, age).await;
            }
            Err(Turned::Away(reason)) => self.listener.events().refused(&self.listener, reason),
            // Reported as a handshake.
            Err(Turned::InHandshake) => {}
        }
        None
    }

    /// Invariant: forwarded, else idle connections outlive a shutdown.
    async fn cleanup(&self) {
        self.app.cleanup().await;
    }
}

/// A connection that does not reach the HTTP parser.
#[derive(Debug, Clone, Copy)]
enum Turned {
    /// Before TLS, with the reason that the metrics show.
    Away(&'static str),
    /// In TLS.
    InHandshake,
}

/// Serves a connection that is used for so long: then HTTP/2 is told to go away, and HTTP/1 is closed with its next answer,
/// as when the gateway stops.
async fn until_old<A: ServerApp>(app: &Arc<A>, stream: Stream, shutdown: &ShutdownWatch, age: Duration) {
    let (ours, watch) = tokio::sync::watch::channel(*shutdown.borrow());
    let mut stopping = shutdown.clone();
    let end = async {
        tokio::select! {
            _stopping_or_stopped = stopping.changed() => {}
            () = tokio::time::sleep(age) => {}
        }
        ours.send_replace(true);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _no_stream = app.process_new(stream, &watch) => {}
        () = end => {}
    }
}

/// The stream of a connection, and how long it is used where that is bounded.
async fn admit(
    listener: &Arc<ListenerRuntime>,
    mut socket: L4Stream,
) -> Result<(EdgeStream, Option<Duration>), Turned> {
    // No address: the peer has left already.
    let ends = addresses(&socket).ok_or(Turned::Away("gone"))?;
    let connection = ConnectionPermit::take(listener).ok_or(Turned::Away("connections"))?;
    let deadline = after(Instant::now(), listener.bounds().handshake_timeout.duration());
    let proxied = proxied(listener, &mut socket, ends.0, deadline).await.map_err(Turned::Away)?;
    let client = proxied.unwrap_or(ends.0);
    let network = NetworkPermit::take(listener, client.ip()).ok_or(Turned::Away("network"))?;
    let digest = socket_digest(&socket, client, ends.1);
    let (wire, facts) = match listener.tls() {
        None => (Wire::plain(socket), None),
        Some(table) => {
            let (stream, facts) = secure(listener, socket, &network, (deadline, &table.load())).await?;
            (Wire::tls(stream), Some(facts))
        }
    };
    let conn = ConnInfo::new(Arc::clone(listener), ends, proxied, facts);
    let proxy = proxy_digest(&conn).ok_or(Turned::Away("bug"))?;
    let age_max = conn.age_max();
    Ok((EdgeStream::new(wire, conn, (proxy, digest), (network, connection)), age_max))
}

/// The peer's and our own address.
fn addresses(socket: &L4Stream) -> Option<(SocketAddr, SocketAddr)> {
    let digest = socket.get_socket_digest().unwrap_or_else(|| Arc::new(SocketDigest::from_raw_fd(socket.id())));
    Some((*digest.peer_addr()?.as_inet()?, *digest.local_addr()?.as_inet()?))
}

async fn proxied(
    listener: &ListenerRuntime,
    socket: &mut L4Stream,
    peer: SocketAddr,
    deadline: Instant,
) -> Result<Option<SocketAddr>, &'static str> {
    let balancers = match listener.topology() {
        Topology::Direct | Topology::Forwarded(_) => return Ok(None),
        Topology::ProxyProtocol(balancers) => balancers,
    };
    if !balancers.contains(peer.ip().to_canonical()) {
        return Err("proxy_source");
    }
    match timeout_at(deadline, proxy_protocol::read(socket)).await {
        Ok(Ok(source)) => Ok(source),
        Ok(Err(ProxyError::Malformed)) => Err("proxy_header"),
        Ok(Err(ProxyError::Closed(_))) => Err("proxy_closed"),
        Err(_) => Err("proxy_timeout"),
    }
}

async fn secure(
    listener: &ListenerRuntime,
    socket: L4Stream,
    network: &NetworkPermit,
    (deadline, table): (Instant, &TlsTable),
) -> Result<(tokio_rustls::server::TlsStream<L4Stream>, TlsFacts), Turned> {
    let handshake = async {
        let hello = tls::hello(socket, table).await?;
        // After the ClientHello: who sends nothing takes no turn.
        let Ok(_turn) = listener.permits().handshake(network).await else {
            return Err(HandshakeError::Io(std::io::ErrorKind::Other.into()));
        };
        hello.finish(listener.clients()).await
    };
    let report = |version, group, result| listener.events().handshake(listener, version, group, result);
    match timeout_at(deadline, Box::pin(handshake)).await {
        Ok(Ok((stream, facts))) => {
            report(facts.version, facts.group.unwrap_or("none"), "ok");
            Ok((stream, facts))
        }
        Ok(Err(error)) => {
            tracing::debug!(listener = listener.name(), result = error.as_str(), %error, "a TLS handshake failed");
            report("none", "none", error.as_str());
            Err(Turned::InHandshake)
        }
        Err(_) => {
            report("none", "none", "timeout");
            Err(Turned::InHandshake)
        }
    }
}

/// What Pingora tells every filter as the client's address: the client's, not the balancer's.
fn socket_digest(socket: &L4Stream, client: SocketAddr, local: SocketAddr) -> Arc<SocketDigest> {
    let digest = SocketDigest::from_raw_fd(socket.id());
    // A fresh cell is empty: setting it cannot fail.
    let _ = digest.peer_addr.set(Some(L4Addr::Inet(client)));
    let _ = digest.local_addr.set(Some(L4Addr::Inet(local)));
    Arc::new(digest)
}

/// The one channel of Pingora through which every filter of h1 and h2 sees per-connection data. The response
/// belongs to the digest's original use (an HTTP CONNECT proxy) and means nothing here.
fn proxy_digest(conn: &Arc<ConnInfo>) -> Option<Arc<ProxyDigest>> {
    let response = ResponseHeader::build_no_case(200, Some(0)).ok()?;
    Some(Arc::new(ProxyDigest::new(Box::new(response), Some(Box::new(Arc::clone(conn))))))
}
