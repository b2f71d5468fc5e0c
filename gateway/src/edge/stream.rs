//! The stream that Pingora sees: a plain or TLS connection with our deadlines and the head's bound on its read side.
//!
//! Nothing is allocated and nothing is locked per read. One timer per connection, made at the first wait and moved
//! only when a deadline comes earlier than it was set for.
//!
//! Writes are gathered in front of TLS: Pingora writes head and body one after the other and flushes where the client
//! must have it, so that a short answer is one record and one system call.

use std::{
    fmt, io,
    io::IoSlice,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use futures::FutureExt as _;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType, l4::stream::Stream as L4Stream, raw_connect::ProxyDigest, tls::SslDigest,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};
use tokio_rustls::server::TlsStream;

use super::{
    conn::{ConnInfo, after},
    permits::{ConnectionPermit, NetworkPermit},
    unread::{Answer, Unread},
    watch::{Cut, Limits, Watch},
    websocket::{self, Frames},
};

/// For `close_notify` and FIN: a client that does not read must not hold a connection that is over.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// From an answer of the edge itself to the end of its connection, whether the client takes it or not.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Room for the head of an answer and a short body. Every connection has one, also while it is idle.
const WRITE_BUFFER_BYTES: usize = 2 << 10;

/// What carries the bytes.
#[derive(Debug)]
pub(super) enum Wire {
    Plain(Box<BufWriter<L4Stream>>),
    Tls(Box<BufWriter<TlsStream<L4Stream>>>),
}

impl Wire {
    pub(super) fn plain(l4: L4Stream) -> Self {
        Self::Plain(Box::new(BufWriter::with_capacity(WRITE_BUFFER_BYTES, l4)))
    }

    pub(super) fn tls(tls: TlsStream<L4Stream>) -> Self {
        Self::Tls(Box::new(BufWriter::with_capacity(WRITE_BUFFER_BYTES, tls)))
    }

    fn l4(&self) -> &L4Stream {
        match self {
            Self::Plain(l4) => l4.get_ref(),
            Self::Tls(tls) => tls.get_ref().get_ref().0,
        }
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(l4) => Pin::new(l4.as_mut()).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_read(cx, buf),
        }
    }

    /// Reads no more than `room` bytes.
    fn poll_read_within(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        room: Option<usize>,
    ) -> Poll<io::Result<()>> {
        let Some(room) = room.filter(|room| *room < buf.remaining()) else { return self.poll_read(cx, buf) };
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(room));
        ready!(self.poll_read(cx, &mut part))?;
        let read = part.filled().len();
        buf.advance(read);
        Poll::Ready(Ok(()))
    }

    pub(super) fn writer(&mut self) -> Pin<&mut (dyn AsyncWrite + Send + Unpin)> {
        match self {
            Self::Plain(l4) => Pin::new(l4.as_mut()),
            Self::Tls(tls) => Pin::new(tls.as_mut()),
        }
    }
}

/// A client's connection.
pub(crate) struct EdgeStream {
    wire: Wire,
    conn: Arc<ConnInfo>,
    watch: Watch,
    timer: Option<Pin<Box<Sleep>>>,
    /// Set once a head has become no request: all that is still written.
    answer: Option<Answer>,
    /// Once it is a WebSocket: where its frames end.
    frames: Option<Frames>,
    /// When the connection ends at the latest, once it is to end.
    ends: Option<Instant>,
    alpn: Option<ALPN>,
    ssl: Option<Arc<SslDigest>>,
    proxy: Arc<ProxyDigest>,
    socket: Arc<SocketDigest>,
    secured: Option<SystemTime>,
    /// Dropped after `wire`: a permit is free once its socket is closed.
    _permits: (NetworkPermit, ConnectionPermit),
}

impl EdgeStream {
    pub(super) fn new(
        wire: Wire,
        conn: Arc<ConnInfo>,
        (proxy, socket): (Arc<ProxyDigest>, Arc<SocketDigest>),
        permits: (NetworkPermit, ConnectionPermit),
    ) -> Self {
        let limits = Limits::from(conn.listener().bounds());
        let (alpn, ssl) = match &wire {
            Wire::Plain(_) => (None, None),
            Wire::Tls(tls) => describe(tls.get_ref()),
        };
        let watch = match alpn {
            Some(ALPN::H2) => Watch::http2(limits, conn.flight.opened()),
            _ => Watch::http1(limits),
        };
        let secured = ssl.as_ref().map(|_| SystemTime::now());
        Self {
            wire,
            conn,
            watch,
            timer: None,
            answer: None,
            frames: None,
            ends: None,
            alpn,
            ssl,
            proxy,
            socket,
            secured,
            _permits: permits,
        }
    }

    fn cut(&mut self, cx: &mut Context<'_>, cut: Cut) -> io::Error {
        self.conn.flight.set_cut(cut);
        if let Some(unread) = Unread::by_cut(cut).filter(|_| !self.watch.is_http2()) {
            self.refuse(unread);
            if let Some(answer) = &mut self.answer {
                // Pingora shuts down after a failed read of a head, which delivers what cannot be written now.
                let _: Poll<io::Result<()>> = answer.poll_deliver(&mut self.wire, cx);
            }
        }
        cut_error(cut)
    }

    /// A head becomes no request.
    fn refuse(&mut self, unread: Unread) {
        let (answer, answered) = Answer::to(unread, self.ssl.is_some());
        let listener = self.conn.listener();
        listener.events().head_aborted(listener, unread.reason(), Some(&answered));
        self.ends = Some(after(Instant::now(), ANSWER_TIMEOUT));
        self.answer = Some(answer);
    }

    /// Whether Pingora's bytes go nowhere, because the edge answers in their place.
    fn swallows(&mut self, bytes: &[u8]) -> bool {
        if self.answer.is_none()
            && self.watch.is_before_request(&self.conn.flight)
            && let Some(unread) = Unread::by_parser(bytes)
        {
            self.refuse(unread);
        }
        self.answer.is_some()
    }

    fn wrote(&mut self, bytes: &[u8]) {
        self.watch.on_write(bytes);
        if self.conn.flight.is_switched() {
            self.frames.get_or_insert_default().on_write(bytes);
        }
    }

    /// Tells a WebSocket's client why it ends, as far as it takes that at once: nobody waits for one that does not read.
    fn say_goodbye(&mut self) {
        let Some(status) = self.conn.flight.goodbye() else { return };
        if !self.frames.as_ref().is_some_and(Frames::is_between) {
            return;
        }
        let mut wire = self.wire.writer();
        let said = async {
            wire.write_all(&websocket::close(status)).await?;
            wire.flush().await?;
            wire.shutdown().await
        };
        match tokio::task::unconstrained(said).now_or_never() {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::trace!(%error, "a client was gone before it was told why"),
            None => tracing::trace!("a client did not take why its WebSocket ends"),
        }
    }

    /// `step`, or an error once the connection should have ended.
    fn or_end(&mut self, cx: &mut Context<'_>, step: Poll<io::Result<()>>) -> Poll<io::Result<()>> {
        if step.is_ready() {
            return step;
        }
        let ends = *self.ends.get_or_insert_with(|| after(Instant::now(), SHUTDOWN_TIMEOUT));
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(ends)));
        if timer.deadline() != ends {
            timer.as_mut().reset(ends);
        }
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Nothing can be read now: waits for the next deadline too.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.watch.is_http2() {
            // Before the deadlines are read, so that none set meanwhile is missed.
            self.conn.flight.waker.register(cx.waker());
        }
        loop {
            let now = Instant::now();
            let Some((at, cut)) = self.watch.deadline(&self.conn.flight, now) else { return Poll::Pending };
            if at <= now {
                return Poll::Ready(Err(self.cut(cx, cut)));
            }
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
            if timer.is_elapsed() || timer.deadline() > at {
                timer.as_mut().reset(at);
            }
            // Fired, set for a deadline that has moved since: look again.
            ready!(timer.as_mut().poll(cx));
        }
    }
}

/// ALPN and the cipher, as Pingora wants to know them.
fn describe(tls: &TlsStream<L4Stream>) -> (Option<ALPN>, Option<Arc<SslDigest>>) {
    let connection = tls.get_ref().1;
    let alpn = match connection.alpn_protocol() {
        Some(b"h2") => ALPN::H2,
        _ => ALPN::H1,
    };
    let version = connection.protocol_version().and_then(|version| version.as_str()).unwrap_or_default();
    let cipher = connection.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or_default();
    (Some(alpn), Some(Arc::new(SslDigest::new(cipher, version, None, None, Vec::new()))))
}

fn cut_error(cut: Cut) -> io::Error {
    let kind = match cut {
        Cut::HeadTooLarge => io::ErrorKind::InvalidData,
        Cut::HeadTimeout | Cut::Idle | Cut::BodyStalled | Cut::BodyTimeout => io::ErrorKind::TimedOut,
    };
    io::Error::new(kind, cut)
}

impl AsyncRead for EdgeStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Once cut, always cut: who drains what is left must not wait for it.
        if let Some(cut) = this.conn.flight.cut() {
            return Poll::Ready(Err(cut_error(cut)));
        }
        let room = match this.watch.room(&this.conn.flight) {
            Ok(room) => room,
            Err(cut) => return Poll::Ready(Err(this.cut(cx, cut))),
        };
        let before = buf.filled().len();
        match this.wire.poll_read_within(cx, buf, room) {
            Poll::Pending => this.poll_deadline(cx),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) => {
                let read = buf.filled().get(before..).unwrap_or_default();
                if !read.is_empty() {
                    this.watch.on_read(read, &this.conn.flight, Instant::now());
                }
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for EdgeStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.swallows(buf) {
            return Poll::Ready(Ok(buf.len()));
        }
        let written = ready!(this.wire.writer().poll_write(cx, buf))?;
        this.wrote(buf.get(..written).unwrap_or(buf));
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.swallows(bufs.iter().find(|buf| !buf.is_empty()).map_or(&[], |buf| buf)) {
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        let written = ready!(this.wire.writer().poll_write_vectored(cx, bufs))?;
        let mut left = written;
        for buf in bufs {
            if left == 0 {
                break;
            }
            let part = buf.get(..left).unwrap_or(buf);
            this.wrote(part);
            left = left.saturating_sub(part.len());
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.wire {
            Wire::Plain(l4) => l4.is_write_vectored(),
            Wire::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match &mut this.answer {
            None => this.wire.writer().poll_flush(cx),
            Some(answer) => {
                let step = answer.poll_deliver(&mut this.wire, cx);
                this.or_end(cx, step)
            }
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let step = match &mut this.answer {
            None => this.wire.writer().poll_shutdown(cx),
            Some(answer) => answer.poll_end(&mut this.wire, cx),
        };
        this.or_end(cx, step)
    }
}

#[async_trait]
impl Shutdown for EdgeStream {
    async fn shutdown(&mut self) {
        if let Err(error) = AsyncWriteExt::shutdown(self).await {
            tracing::trace!(%error, "a client did not take the end of its connection");
        }
    }
}

impl UniqueID for EdgeStream {
    fn id(&self) -> UniqueIDType {
        self.wire.l4().id()
    }
}

impl Ssl for EdgeStream {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.ssl.clone()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.alpn.clone()
    }
}

impl Peek for EdgeStream {}

impl GetTimingDigest for EdgeStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        let mut layers = self.wire.l4().get_timing_digest();
        if let Some(established_ts) = self.secured {
            layers.push(Some(TimingDigest { established_ts, ..TimingDigest::default() }));
        }
        layers
    }

    fn get_read_pending_time(&self) -> Duration {
        self.wire.l4().get_read_pending_time()
    }

    fn get_write_pending_time(&self) -> Duration {
        self.wire.l4().get_write_pending_time()
    }
}

impl GetProxyDigest for EdgeStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(Arc::clone(&self.proxy))
    }
}

impl GetSocketDigest for EdgeStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::clone(&self.socket))
    }
}

impl fmt::Debug for EdgeStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EdgeStream").field("conn", &self.conn).field("alpn", &self.alpn).finish_non_exhaustive()
    }
}

impl Drop for EdgeStream {
    fn drop(&mut self) {
        self.say_goodbye();
        let listener = self.conn.listener();
        let unfinished = self.watch.unfinished(&self.conn.flight);
        // One that was answered has been reported.
        if let Some(reason) = unfinished.head.filter(|_| self.answer.is_none()) {
            listener.events().head_aborted(listener, reason, None);
        }
        for _ in 0..unfinished.refused {
            listener.events().head_aborted(listener, "refused", None);
        }
    }
}
