//! A recording HTTP/1.1 upstream: keeps the exact bytes of every request, and answers as it is told.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::Receiver,
    },
    thread::JoinHandle,
    time::Duration,
};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::{Seen, h1::find, wait_for};

/// How long an upgrade takes, as over a network. Pingora 0.9.1 ends a tunnel whose 101 it reads before it has sent the end
/// of the request's empty body (cloudflare/pingora issue 946): on a busy machine an upstream on loopback is that fast.
const HANDSHAKE: Duration = Duration::from_millis(20);

/// What the upstream does with a request.
pub enum Reply {
    /// An answer with a length.
    Answer(u16, Vec<(String, String)>, Vec<u8>),
    /// As `Answer`, in one chunk per piece.
    Chunked(Vec<Vec<u8>>),
    /// As `Answer`, with a head at once and one chunk for each piece that the test sends, until it hangs up.
    Stream(&'static str, Receiver<Vec<u8>>),
    /// Exactly these bytes, then close.
    Raw(Vec<u8>),
    /// Close without an answer.
    Close,
    /// No answer, for so long or until the peer gives up.
    Silence(Duration),
    /// 101, then every byte back. A target that ends in `length=0` is told that this is its length.
    Echo,
}

impl Reply {
    /// 200 with a short text.
    pub fn ok() -> Self {
        Self::with(200, &[("Content-Type", "text/plain")], "ok\n")
    }

    /// An answer.
    pub fn with(status: u16, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Self {
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Self::Answer(status, headers, body.as_ref().to_vec())
    }
}

type Script = dyn Fn(&Seen) -> Reply + Send + Sync;

struct State {
    seen: Mutex<Vec<Seen>>,
    more: Condvar,
    script: Box<Script>,
    tls: Option<Arc<ServerConfig>>,
    connections: AtomicUsize,
    refuse: AtomicUsize,
    stopped: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

/// An upstream on its own port.
pub struct Upstream {
    address: SocketAddr,
    state: Arc<State>,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

impl Upstream {
    /// One that answers 200 to everything, and echoes after an upgrade.
    pub fn start() -> Self {
        Self::scripted(|seen| if seen.header("upgrade").is_some() { Reply::Echo } else { Reply::ok() })
    }

    /// One that answers as the script says. The script is asked once the body is there.
    pub fn scripted(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::listen(None, Box::new(script))
    }

    /// One that speaks TLS and answers 200 to everything.
    pub fn tls(config: Arc<ServerConfig>) -> Self {
        Self::scripted_tls(config, |_| Reply::ok())
    }

    /// One that speaks TLS and answers as the script says.
    pub fn scripted_tls(config: Arc<ServerConfig>, script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::listen(Some(config), Box::new(script))
    }

    fn listen(tls: Option<Arc<ServerConfig>>, script: Box<Script>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port is free");
        let address = listener.local_addr().expect("a bound socket has an address");
        let state = Arc::new(State {
            seen: Mutex::default(),
            more: Condvar::new(),
            script,
            tls,
            connections: AtomicUsize::new(0),
            refuse: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            open: Mutex::default(),
        });
        let shared = Arc::clone(&state);
        let accepting = std::thread::spawn(move || accept(&listener, &shared));
        Self { address, state, accepting: Mutex::new(Some(accepting)) }
    }

    /// `host:port` for the configuration.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The request with this mark, now or soon.
    ///
    /// # Panics
    /// When it does not come.
    pub fn seen(&self, mark: &str) -> Seen {
        wait_for(&format!("the upstream to see {mark}"), || self.saw(mark))
    }

    /// The request with this mark, with its whole body, now or soon.
    pub fn seen_whole(&self, mark: &str) -> Seen {
        wait_for(&format!("the upstream to see all of {mark}"), || self.saw(mark).filter(|seen| seen.complete))
    }

    /// The request with this mark, if it is there now. It is the last one of its kind.
    pub fn saw(&self, mark: &str) -> Option<Seen> {
        self.every(mark).into_iter().next_back()
    }

    /// Every request with this mark.
    pub fn every(&self, mark: &str) -> Vec<Seen> {
        lock(&self.state.seen).iter().filter(|seen| seen.all("x-mark").iter().any(|m| m == mark)).cloned().collect()
    }

    /// Every request.
    pub fn all(&self) -> Vec<Seen> {
        lock(&self.state.seen).clone()
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// Closes the next `count` connections as soon as they are there, before anything is read.
    pub fn refuse_next(&self, count: usize) {
        self.state.refuse.store(count, Ordering::SeqCst);
    }

    /// Stops listening and closes every connection.
    pub fn stop(&self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        // The accept loop wakes, sees that it is over, and drops its listener.
        drop(TcpStream::connect(self.address));
        if let Some(accepting) = lock(&self.accepting).take() {
            accepting.join().expect("the accept loop does not panic");
        }
        for open in lock(&self.state.open).drain(..) {
            drop(open.shutdown(std::net::Shutdown::Both));
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &TcpListener, state: &Arc<State>) {
    for tcp in listener.incoming() {
        if state.stopped.load(Ordering::SeqCst) {
            return;
        }
        let Ok(tcp) = tcp else { continue };
        if state.refuse.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            continue;
        }
        let number = state.connections.fetch_add(1, Ordering::SeqCst);
        if let Ok(copy) = tcp.try_clone() {
            lock(&state.open).push(copy);
        }
        let state = Arc::clone(state);
        std::thread::spawn(move || {
            let closing = tcp.try_clone();
            // How a connection ends is seen by the gateway, not by us. It does end: the copy in `open` would keep it.
            drop(serve(tcp, &state, number));
            drop(closing.and_then(|tcp| tcp.shutdown(std::net::Shutdown::Both)));
        });
    }
}

fn serve(mut tcp: TcpStream, state: &State, number: usize) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let Some(config) = &state.tls else {
        return Connection { wire: tcp, pending: Vec::new() }
            .serve(state, &Seen { connection: number, ..Seen::default() });
    };
    let mut tls = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut tcp)?;
    }
    let of_connection = Seen {
        connection: number,
        tls: tls.protocol_version(),
        certificate: tls.peer_certificates().and_then(|chain| chain.first()).map(|leaf| leaf.to_vec()),
        ..Seen::default()
    };
    Connection { wire: StreamOwned::new(tls, tcp), pending: Vec::new() }.serve(state, &of_connection)
}

struct Connection<W> {
    wire: W,
    pending: Vec<u8>,
}

impl<W: Read + Write> Connection<W> {
    /// Serves the requests of a connection; what is known of all of them is in `of_connection`.
    fn serve(mut self, state: &State, of_connection: &Seen) -> io::Result<()> {
        while let Some(head) = self.until(b"\r\n\r\n")? {
            let mut seen = Seen { head, ..of_connection.clone() };
            let index = {
                let mut all = lock(&state.seen);
                all.push(seen.clone());
                state.more.notify_all();
                all.len() - 1
            };
            let upgrade = seen.header("upgrade").is_some();
            if !upgrade {
                self.body(&mut seen, |body| lock(&state.seen)[index].body.extend_from_slice(body))?;
            }
            seen.complete = true;
            lock(&state.seen)[index].complete = true;
            if !self.reply((state.script)(&seen), &seen)? {
                return Ok(());
            }
        }
        Ok(())
    }

    fn body(&mut self, seen: &mut Seen, mut record: impl FnMut(&[u8])) -> io::Result<()> {
        let chunked = seen.all("transfer-encoding").iter().any(|v| v.eq_ignore_ascii_case("chunked"));
        let mut take = |this: &mut Self, mut left: usize, seen: &mut Seen| -> io::Result<()> {
            while left > 0 {
                if this.pending.is_empty() && !this.fill()? {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                let piece: Vec<u8> = this.pending.drain(..left.min(this.pending.len())).collect();
                left -= piece.len();
                record(&piece);
                seen.body.extend_from_slice(&piece);
            }
            Ok(())
        };
        if !chunked {
            let length = seen.all("content-length").first().and_then(|v| v.parse().ok()).unwrap_or(0);
            return take(self, length, seen);
        }
        loop {
            let line = self.until(b"\r\n")?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let text = String::from_utf8_lossy(&line);
            let size = usize::from_str_radix(text.trim(), 16).map_err(io::Error::other)?;
            take(self, size, seen)?;
            if size == 0 {
                while self.until(b"\r\n")?.ok_or(io::ErrorKind::UnexpectedEof)?.len() > 2 {}
                return Ok(());
            }
            self.until(b"\r\n")?;
        }
    }

    /// Answers; `false` when the connection is over.
    fn reply(&mut self, reply: Reply, seen: &Seen) -> io::Result<bool> {
        let head_only = seen.request_line().starts_with("HEAD ");
        match reply {
            Reply::Answer(status, headers, body) => {
                let mut out = format!("HTTP/1.1 {status} Status\r\n");
                for (name, value) in headers {
                    out.push_str(&format!("{name}: {value}\r\n"));
                }
                let length = if matches!(status, 204 | 304) {
                    String::new()
                } else {
                    format!("Content-Length: {}\r\n", body.len())
                };
                out.push_str(&format!("{length}\r\n"));
                self.wire.write_all(out.as_bytes())?;
                if !head_only {
                    self.wire.write_all(&body)?;
                }
            }
            Reply::Chunked(pieces) => {
                self.wire.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
                pieces.iter().filter(|piece| !piece.is_empty()).try_for_each(|piece| self.chunk(piece))?;
                self.chunk(b"")?;
            }
            Reply::Stream(content_type, pieces) => {
                let head =
                    format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n");
                self.wire.write_all(head.as_bytes())?;
                self.wire.flush()?;
                pieces.iter().try_for_each(|piece| self.chunk(&piece))?;
                self.chunk(b"")?;
            }
            Reply::Raw(bytes) => {
                self.wire.write_all(&bytes)?;
                self.wire.flush()?;
                return Ok(false);
            }
            Reply::Close => return Ok(false),
            Reply::Silence(limit) => {
                let start = std::time::Instant::now();
                // The gateway says nothing more on this connection: a read waits until it gives up.
                while start.elapsed() < limit && self.fill()? {}
                return Ok(false);
            }
            Reply::Echo => {
                std::thread::sleep(HANDSHAKE);
                self.wire.write_all(&accept_head(seen))?;
                self.wire.flush()?;
                loop {
                    if self.pending.is_empty() && !self.fill()? {
                        return Ok(false);
                    }
                    let piece = std::mem::take(&mut self.pending);
                    self.wire.write_all(&piece)?;
                    self.wire.flush()?;
                }
            }
        }
        self.wire.flush()?;
        Ok(true)
    }

    fn chunk(&mut self, piece: &[u8]) -> io::Result<()> {
        write!(self.wire, "{:x}\r\n", piece.len())?;
        self.wire.write_all(piece)?;
        self.wire.write_all(b"\r\n")?;
        self.wire.flush()
    }

    /// Everything up to and with `mark`; `None` at a clean end.
    fn until(&mut self, mark: &[u8]) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(at) = find(&self.pending, mark) {
                return Ok(Some(self.pending.drain(..at + mark.len()).collect()));
            }
            if !self.fill()? {
                return if self.pending.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    fn fill(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 16 * 1024];
        let count = self.wire.read(&mut buffer)?;
        self.pending.extend_from_slice(&buffer[..count]);
        Ok(count > 0)
    }
}

/// The head of a WebSocket handshake's answer (RFC 6455 4.2.2).
fn accept_head(seen: &Seen) -> Vec<u8> {
    use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let key = seen.header("sec-websocket-key").unwrap_or_default();
    let accept = STANDARD
        .encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes()));
    // Some servers write it, though it means nothing there (RFC 9110 8.6).
    let length = if seen.target().ends_with("length=0") { "Content-Length: 0\r\n" } else { "" };
    format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n{length}\r\n").into_bytes()
}
