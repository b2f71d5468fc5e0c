//! What is known of one connection, reachable from every filter, and where its requests stand.

use std::{
    any::Any,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use portcullis_plugins::authentication::Shown;
use tokio::time::Instant;

use super::{ListenerRuntime, peer::PeerCertificate, watch::Cut};

/// What a TLS handshake settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsFacts {
    /// The name the client asked for: lower-case, no trailing dot. A `Host` that differs is 421.
    pub(crate) sni: String,
    /// `TLSv1_2` or `TLSv1_3`.
    pub(crate) version: &'static str,
    /// The key exchange group, e.g. `X25519MLKEM768`; none on a resumed TLS 1.2 connection.
    pub(crate) group: Option<&'static str>,
    /// The client's certificate, where it was asked for one and showed it.
    pub(crate) certificate: Option<Arc<PeerCertificate>>,
}

/// What is known of one connection. Shared by the stream and by all requests on it.
pub(crate) struct ConnInfo {
    peer: SocketAddr,
    local: SocketAddr,
    proxied: Option<SocketAddr>,
    listener: Arc<ListenerRuntime>,
    tls: Option<TlsFacts>,
    cache: OnceLock<Box<dyn Any + Send + Sync>>,
    pub(super) flight: Flight,
}

impl ConnInfo {
    pub(super) fn new(
        listener: Arc<ListenerRuntime>,
        (peer, local): (SocketAddr, SocketAddr),
        proxied: Option<SocketAddr>,
        tls: Option<TlsFacts>,
    ) -> Arc<Self> {
        let flight = Flight::new(Instant::now());
        Arc::new(Self { peer, local, proxied, listener, tls, cache: OnceLock::new(), flight })
    }

    /// The socket's peer: the client, or the balancer in front of us.
    pub(crate) const fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The socket's own address.
    pub(crate) const fn local(&self) -> SocketAddr {
        self.local
    }

    /// The source address of a PROXY protocol header from a declared source. None without one, and where the
    /// balancer spoke for itself (`LOCAL`, `UNKNOWN`).
    pub(crate) const fn proxied(&self) -> Option<SocketAddr> {
        self.proxied
    }

    /// The listener that accepted it.
    pub(crate) const fn listener(&self) -> &Arc<ListenerRuntime> {
        &self.listener
    }

    /// What the handshake settled; none on a plain listener.
    pub(crate) const fn tls(&self) -> Option<&TlsFacts> {
        self.tls.as_ref()
    }

    /// The client's certificate, and whether it counts now.
    pub(crate) fn certificate(&self) -> Option<Shown<'_>> {
        let certificate = self.tls.as_ref()?.certificate.as_deref()?;
        Some(certificate.shown(self.listener.index()))
    }

    /// How long it is used, where that is bounded: a certificate is believed for a while, not for as long as somebody keeps
    /// a connection.
    pub(super) fn age_max(&self) -> Option<Duration> {
        Some(self.tls.as_ref()?.certificate.as_ref()?.connection_age_max())
    }

    /// Whether this is to be its last answer.
    pub(crate) fn is_old(&self) -> bool {
        self.age_max().is_some_and(|max| self.flight.opened().elapsed() >= max)
    }

    /// Why the edge ended this connection, if it did.
    pub(super) fn cut(&self) -> Option<Cut> {
        self.flight.cut()
    }

    /// What follows on this connection is a WebSocket's.
    pub(crate) fn switched(&self) {
        self.flight.switched.store(true, Ordering::Release);
    }

    /// The WebSocket that this connection has become is about to end: the client is told this status (RFC 6455, 7.4), where
    /// the last frame was whole.
    pub(crate) fn say_goodbye(&self, status: u16) {
        self.flight.goodbye.store(status, Ordering::Release);
    }

    /// One value for the life of the connection, made by whoever asks first. None when another type was kept.
    pub(crate) fn cached<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> Option<&T> {
        self.cache.get_or_init(|| Box::new(make())).downcast_ref()
    }

    /// A request has passed the HTTP parser: call it first thing in `early_request_filter` and keep the answer in
    /// the request's context. Until it is dropped no head or idle deadline runs on an HTTP/1 connection.
    #[must_use = "the request is finished when this is dropped"]
    pub(crate) fn request_started(self: &Arc<Self>) -> RequestPhase {
        self.flight.start();
        RequestPhase { conn: Arc::clone(self), waits_since: None, late: false }
    }
}

impl fmt::Debug for ConnInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { peer, local, proxied, listener, tls, cache: _, flight } = self;
        f.debug_struct("ConnInfo")
            .field("listener", &listener.name())
            .field("peer", peer)
            .field("local", local)
            .field("proxied", proxied)
            .field("tls", tls)
            .field("flight", flight)
            .finish()
    }
}

/// One request on a connection, from the HTTP parser to the access line. Dropping it finishes the request.
///
/// Invariant: a request counts itself once, however often a filter says the same; so a body that is replayed on a
/// retry cannot end another stream's wait.
#[derive(Debug)]
pub(crate) struct RequestPhase {
    conn: Arc<ConnInfo>,
    waits_since: Option<u64>,
    /// Its body was still awaited when the edge ended the connection for a late one.
    late: bool,
}

impl RequestPhase {
    /// The client is to send a body: the body deadlines run. Call it where a body is announced, and not for
    /// exchanges whose body has no end (an upgrade, a gRPC stream).
    pub(crate) fn body_wanted(&mut self) {
        if self.waits_since.is_none() {
            self.waits_since = Some(self.conn.flight.want(Instant::now()));
        }
    }

    /// The body is complete, or nobody wants the rest.
    pub(crate) fn body_done(&mut self) {
        self.late = self.is_late();
        if let Some(since) = self.waits_since.take() {
            self.conn.flight.done(since);
        }
    }

    /// Whether the edge ended the connection for a late body while this request's was awaited. To the HTTP parser such
    /// a connection is merely broken; what the client should read, and the record say, is 408.
    pub(crate) fn is_late(&self) -> bool {
        self.late || (self.waits_since.is_some() && self.conn.cut().is_some_and(Cut::is_body))
    }
}

impl Drop for RequestPhase {
    fn drop(&mut self) {
        self.body_done();
        self.conn.flight.finish(Instant::now());
    }
}

/// Where the requests of a connection stand: written by filters, read by the stream.
pub(super) struct Flight {
    opened: Instant,
    started: AtomicU32,
    finished: AtomicU32,
    idle_since_us: AtomicU64,
    /// `u64::MAX`: nobody waits.
    oldest_wait_us: AtomicU64,
    /// When each waiting stream began to. Locked once when a body is wanted and once when it is done, never per read.
    waits_us: Mutex<Vec<u64>>,
    cut: AtomicU8,
    switched: AtomicBool,
    /// The status of a close frame; 0 for none.
    goodbye: AtomicU16,
    /// The task that drives an HTTP/2 connection: filters run in other tasks and must tell it of new deadlines.
    pub(super) waker: AtomicWaker,
}

const NOBODY: u64 = u64::MAX;

impl Flight {
    pub(super) fn new(opened: Instant) -> Self {
        Self {
            opened,
            started: AtomicU32::new(0),
            finished: AtomicU32::new(0),
            idle_since_us: AtomicU64::new(0),
            oldest_wait_us: AtomicU64::new(NOBODY),
            waits_us: Mutex::new(Vec::new()),
            cut: AtomicU8::new(Cut::NONE),
            switched: AtomicBool::new(false),
            goodbye: AtomicU16::new(0),
            waker: AtomicWaker::new(),
        }
    }

    pub(super) const fn opened(&self) -> Instant {
        self.opened
    }

    /// How many requests have passed the parser; wraps.
    pub(super) fn started(&self) -> u32 {
        self.started.load(Ordering::Acquire)
    }

    pub(super) fn in_request(&self) -> bool {
        self.started() != self.finished.load(Ordering::Acquire)
    }

    /// When the last request finished, or the connection began.
    pub(super) fn idle_since(&self) -> Instant {
        self.at(self.idle_since_us.load(Ordering::Acquire))
    }

    /// Since when the stream that has waited longest waits for a request body.
    pub(super) fn oldest_wait(&self) -> Option<Instant> {
        let us = self.oldest_wait_us.load(Ordering::Acquire);
        (us != NOBODY).then(|| self.at(us))
    }

    pub(super) fn start(&self) {
        self.started.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn finish(&self, now: Instant) {
        self.idle_since_us.store(self.us(now), Ordering::Release);
        self.finished.fetch_add(1, Ordering::AcqRel);
        if !self.in_request() {
            self.waker.wake();
        }
    }

    pub(super) fn want(&self, now: Instant) -> u64 {
        let since = self.us(now);
        let mut waits = self.waits_us.lock();
        waits.push(since);
        self.oldest_wait_us.fetch_min(since, Ordering::AcqRel);
        drop(waits);
        self.waker.wake();
        since
    }

    pub(super) fn done(&self, since: u64) {
        let mut waits = self.waits_us.lock();
        if let Some(at) = waits.iter().position(|wait| *wait == since) {
            waits.swap_remove(at);
        }
        self.oldest_wait_us.store(waits.iter().copied().min().unwrap_or(NOBODY), Ordering::Release);
    }

    pub(super) fn cut(&self) -> Option<Cut> {
        Cut::from_u8(self.cut.load(Ordering::Acquire))
    }

    pub(super) fn is_switched(&self) -> bool {
        self.switched.load(Ordering::Acquire)
    }

    pub(super) fn goodbye(&self) -> Option<u16> {
        Some(self.goodbye.load(Ordering::Acquire)).filter(|status| *status != 0)
    }

    pub(super) fn set_cut(&self, cut: Cut) {
        self.cut.store(cut.to_u8(), Ordering::Release);
    }

    fn us(&self, now: Instant) -> u64 {
        let us = now.saturating_duration_since(self.opened).as_micros();
        u64::try_from(us).unwrap_or(NOBODY).min(NOBODY.saturating_sub(1))
    }

    fn at(&self, us: u64) -> Instant {
        after(self.opened, Duration::from_micros(us))
    }
}

impl fmt::Debug for Flight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flight")
            .field("in_request", &self.in_request())
            .field("waits_for_body", &self.oldest_wait().is_some())
            .field("cut", &self.cut())
            .finish_non_exhaustive()
    }
}

/// `at` plus `wait`; where that cannot be told, `at`: a deadline that has passed, never one that does not come.
pub(super) fn after(at: Instant, wait: Duration) -> Instant {
    at.checked_add(wait).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_wait_is_known_whatever_order_bodies_end_in() {
        let start = Instant::now();
        let flight = Flight::new(start);
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(flight.oldest_wait(), None);
        let first = flight.want(at(5));
        let second = flight.want(at(9));
        let third = flight.want(at(9));
        assert_eq!(flight.oldest_wait(), Some(at(5)));
        flight.done(first);
        assert_eq!(flight.oldest_wait(), Some(at(9)));
        flight.done(second);
        assert_eq!(flight.oldest_wait(), Some(at(9)), "the third still waits");
        flight.done(third);
        assert_eq!(flight.oldest_wait(), None);
    }

    #[test]
    fn a_connection_is_idle_only_when_its_last_request_has_finished() {
        let start = Instant::now();
        let flight = Flight::new(start);
        assert_eq!((flight.in_request(), flight.idle_since()), (false, start));
        flight.start();
        flight.start();
        flight.finish(start + Duration::from_millis(3));
        assert!(flight.in_request());
        flight.finish(start + Duration::from_millis(7));
        assert_eq!((flight.in_request(), flight.idle_since()), (false, start + Duration::from_millis(7)));
    }
}
