//! The edge: everything between `accept()` and the HTTP parser, and the deadlines under the parser.
//!
//! Pingora binds, accepts, hands descriptors over on an upgrade and speaks HTTP. Between the two stands a
//! [`Terminator`]: permits, PROXY protocol, TLS by SNI, then a stream that keeps time. See `docs/edge.md`.

mod conn;
mod frames;
mod lasting;
mod peer;
mod permits;
mod proxy_protocol;
mod stream;
mod terminator;
#[cfg(test)]
mod tests;
mod tls;
mod unread;
mod watch;
mod websocket;

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use pingora_core::{
    apps::HttpServerOptions,
    listeners::{L4BufferSettings, ListenerConfig, TcpSocketOptions},
    protocols::{TcpKeepalive, http::v2::server::default_h2_options},
    services::listening::Service,
};
use pingora_proxy::{HttpProxy, ProxyHttp, Session};
use portcullis_api::Topology;
use portcullis_config::document::Bounds;

use self::permits::Permits;
pub(crate) use self::{
    conn::{ConnInfo, RequestPhase},
    lasting::{Lasting, end_when},
    terminator::Terminator,
    tls::{Clients, TlsTable, server_config},
    unread::CODES,
};
use crate::client_trust::ClientTrust;

/// The window of an HTTP/2 stream and of its connection, in bytes. One size for both: see `watch::Mux::may_send`.
const H2_WINDOW_BYTES: u32 = 256 << 10;
/// Response bytes that one HTTP/2 stream may keep for a slow reader.
const H2_SEND_BUFFER_BYTES: usize = 128 << 10;

/// What happened before any filter could see it. Implementations must be cheap and must not block.
pub(crate) trait EdgeEvents: Send + Sync {
    /// A connection took a permit.
    fn connection_opened(&self, listener: &ListenerRuntime);
    /// Its socket is closed and its permit free.
    fn connection_closed(&self, listener: &ListenerRuntime);
    /// A connection was closed before TLS: `connections`, `network`, `proxy_source`, `proxy_header`,
    /// `proxy_closed`, `proxy_timeout`, `gone`, `bug`.
    fn refused(&self, listener: &ListenerRuntime, reason: &'static str);
    /// A handshake ended: `ok`, or with `none` for version and group `timeout`, `closed`, `no_name`,
    /// `unknown_name`, `incompatible`, `no_alpn`, `client_alert`, `malformed`, `failed`.
    fn handshake(&self, listener: &ListenerRuntime, version: &'static str, group: &'static str, result: &'static str);
    /// A request's head reached no filter: `refused` by the HTTP parser, `timeout`, `too_large`, `closed`, and for an
    /// HTTP/2 head in progress on a connection that ended for another reason, that reason. With what the client was
    /// told, where the edge told it something.
    fn head_aborted(&self, listener: &ListenerRuntime, reason: &'static str, answered: Option<&Answered>);
}

/// What a client was told whose head became no request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answered {
    /// The stable code.
    pub(crate) code: &'static str,
    /// Ours, UUIDv7.
    pub(crate) request_id: Box<str>,
}

/// What a listener is made of.
pub(crate) struct ListenerSettings {
    /// Its place in the configuration.
    pub(crate) index: usize,
    /// Its name in the configuration.
    pub(crate) name: String,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Whom to believe about the client's address.
    pub(crate) topology: Topology,
    /// Certificates by host, swapped on a reload; none for a plain listener, which is on loopback only.
    pub(crate) tls: Option<Arc<ArcSwap<TlsTable>>>,
    /// Whose client certificates are believed; none where none are asked for.
    pub(crate) clients: Option<Arc<ClientTrust>>,
    /// Its bounds.
    pub(crate) bounds: Bounds,
}

/// A listener with its permits, for the life of the process.
pub(crate) struct ListenerRuntime {
    settings: ListenerSettings,
    permits: Permits,
    events: Arc<dyn EdgeEvents>,
}

impl ListenerRuntime {
    /// With all its permits free.
    pub(crate) fn new(settings: ListenerSettings, events: Arc<dyn EdgeEvents>) -> Arc<Self> {
        let permits = Permits::new(&settings.bounds);
        Arc::new(Self { settings, permits, events })
    }

    /// Its place in the configuration.
    pub(crate) const fn index(&self) -> usize {
        self.settings.index
    }

    /// Where it listens.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.settings.address
    }

    /// Its name in the configuration: the metric label.
    pub(crate) fn name(&self) -> &str {
        &self.settings.name
    }

    /// Whom to believe about the client's address.
    pub(crate) const fn topology(&self) -> &Topology {
        &self.settings.topology
    }

    /// Its bounds.
    pub(crate) const fn bounds(&self) -> &Bounds {
        &self.settings.bounds
    }

    fn clients(&self) -> Option<&Arc<ClientTrust>> {
        self.settings.clients.as_ref()
    }

    fn tls(&self) -> Option<&ArcSwap<TlsTable>> {
        self.settings.tls.as_deref()
    }

    const fn permits(&self) -> &Permits {
        &self.permits
    }

    fn events(&self) -> &dyn EdgeEvents {
        self.events.as_ref()
    }
}

impl fmt::Debug for ListenerRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenerRuntime")
            .field("name", &self.settings.name)
            .field("address", &self.settings.address)
            .finish_non_exhaustive()
    }
}

/// A proxy whose HTTP options fit the edge. Only such a one can be put behind a listener.
pub(crate) struct Prepared<SV>(Arc<Lasting<HttpProxy<SV>>>);

/// Sets the HTTP options that the edge relies on: bounded HTTP/2, an idle timeout, no cleartext HTTP/2. `CONNECT` is
/// let through to the filters, for canonicalisation to refuse: Pingora's own refusal names Pingora, which over HTTP/2
/// nothing could take out. Where listeners differ the widest bound is set here, and each stream keeps its own listener's.
pub(crate) fn prepare<SV>(mut proxy: HttpProxy<SV>, listeners: &[Arc<ListenerRuntime>]) -> Prepared<SV> {
    let bounds = || listeners.iter().map(|listener| listener.bounds());
    let mut h2 = default_h2_options();
    if let Some(bytes) = bounds().map(|bounds| bounds.head_bytes_max.bytes()).max() {
        h2.max_header_list_size(u32::try_from(bytes).unwrap_or(u32::MAX));
    }
    h2.initial_window_size(H2_WINDOW_BYTES)
        .initial_connection_window_size(H2_WINDOW_BYTES)
        .max_send_buffer_size(H2_SEND_BUFFER_BYTES);
    proxy.h2_options = Some(h2);
    let mut server = HttpServerOptions::default();
    server.h2_idle_timeout = bounds().map(|bounds| bounds.idle_timeout.duration()).max();
    server.allow_connect_method_proxying = true;
    proxy.server_options = Some(server);
    Prepared(Arc::new(Lasting(Arc::new(proxy))))
}

/// The Pingora service of one listener: plain TCP as Pingora sees it, everything else is ours.
pub(crate) fn service<SV>(
    listener: &Arc<ListenerRuntime>,
    proxy: &Prepared<SV>,
) -> Service<Terminator<Lasting<HttpProxy<SV>>>>
where
    SV: ProxyHttp + Send + Sync + 'static,
    SV::CTX: Send + Sync,
{
    let mut socket = TcpSocketOptions::default();
    // Upgraded connections have no deadline of ours: the kernel finds out when the peer is gone.
    socket.tcp_keepalive = Some(TcpKeepalive {
        idle: Duration::from_secs(60),
        interval: Duration::from_secs(10),
        count: 3,
        user_timeout: Duration::from_secs(90),
    });
    let endpoint = ListenerConfig::tcp(listener.settings.address.to_string())
        .tcp_socket_options(socket)
        // rustls, the HTTP parser and the stream above have buffers of their own.
        .l4_buffer(L4BufferSettings::new(0, 0));
    let terminator = Terminator::new(Arc::clone(listener), Arc::clone(&proxy.0));
    let mut service = Service::new(listener.name().to_owned(), terminator);
    service.add_listener(endpoint);
    service
}

/// The connection that a request came on, from any filter. None only for a request that did not come through here.
pub(crate) fn conn_info(session: &Session) -> Option<&Arc<ConnInfo>> {
    session.digest()?.proxy_digest.as_ref()?.user_data.as_ref()?.downcast_ref()
}
