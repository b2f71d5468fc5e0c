//! What the tests stand on: a listener, a proxy that shows what its filters see, clients.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use pingora_core::{
    apps::ServerApp, protocols::l4::stream::Stream as L4Stream, server::configuration::ServerConf,
    upstreams::peer::HttpPeer,
};
use pingora_error::{Error, ErrorType, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::{FailToProxy, HttpProxy, ProxyHttp, Session};
use portcullis_config::{HostPattern, document::TlsVersion};
use rustls::{
    ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::CertificateDer, pki_types::PrivateKeyDer,
    pki_types::ServerName, server::ProducesTickets, sign::CertifiedKey,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc, watch},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::super::*;

/// Far longer than any test takes: what does not happen by then does not happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// Writes down what happens, in order.
pub(in crate::edge) struct Recorder(mpsc::UnboundedSender<String>, Arc<Notify>);

impl Recorder {
    pub(in crate::edge) fn new() -> (Arc<Self>, Log) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let gate = Arc::new(Notify::new());
        (Arc::new(Self(sender, Arc::clone(&gate))), Log(receiver, gate))
    }
    fn note(&self, what: impl Into<String>) {
        let _ = self.0.send(what.into());
    }
}

impl EdgeEvents for Recorder {
    fn connection_opened(&self, _: &ListenerRuntime) {
        self.note("opened");
    }
    fn connection_closed(&self, _: &ListenerRuntime) {
        self.note("closed");
    }
    fn refused(&self, _: &ListenerRuntime, reason: &'static str) {
        self.note(format!("refused {reason}"));
    }
    fn handshake(&self, _: &ListenerRuntime, version: &'static str, group: &'static str, result: &'static str) {
        self.note(format!("handshake {version} {group} {result}"));
    }
    fn head_aborted(&self, _: &ListenerRuntime, reason: &'static str, answered: Option<&Answered>) {
        self.note(format!("head {reason}"));
        if let Some(Answered { code, request_id }) = answered {
            self.note(format!("answered {code} {request_id}"));
        }
    }
}

pub(in crate::edge) struct Log(mpsc::UnboundedReceiver<String>, Arc<Notify>);

impl Log {
    /// Lets a request to `/hold` go on.
    pub(super) fn release(&self) {
        self.1.notify_one();
    }
    /// All that happens up to `last`.
    pub(super) async fn until(&mut self, last: &str) -> Vec<String> {
        let mut seen = Vec::new();
        while seen.last().map(String::as_str) != Some(last) {
            match timeout(PATIENCE, self.0.recv()).await {
                Ok(Some(what)) => seen.push(what),
                Ok(None) | Err(_) => panic!("`{last}` did not happen, only {seen:?}"),
            }
        }
        seen
    }
}

pub(in crate::edge) fn listener(bounds: Bounds, events: Arc<dyn EdgeEvents>) -> Arc<ListenerRuntime> {
    ListenerRuntime::new(settings(bounds), events)
}

pub(super) fn settings(bounds: Bounds) -> ListenerSettings {
    let address = "127.0.0.1:0".parse().unwrap();
    ListenerSettings {
        index: 0,
        name: "test".into(),
        address,
        topology: Topology::Direct,
        tls: None,
        clients: None,
        bounds,
    }
}

/// A running listener.
pub(super) struct Edge {
    pub(super) address: SocketAddr,
    pub(super) log: Log,
    pub(super) table: Arc<ArcSwap<TlsTable>>,
    pub(super) terminator: Arc<Terminator<Lasting<HttpProxy<Probe>>>>,
    _shutdown: watch::Sender<bool>,
}

impl Edge {
    pub(super) async fn plain(topology: Topology, bounds: Bounds) -> Self {
        Self::start(ListenerSettings { topology, ..settings(bounds) }, TlsTable::default()).await
    }

    pub(super) async fn tls(table: TlsTable, bounds: Bounds) -> Self {
        Self::start(settings(bounds), table).await
    }

    /// With TLS where the table has a host.
    pub(super) async fn start(mut settings: ListenerSettings, table: TlsTable) -> Self {
        let secure = table.find("a.test").is_some();
        let table = Arc::new(ArcSwap::from_pointee(table));
        settings.tls = secure.then(|| Arc::clone(&table));
        let (recorder, log) = Recorder::new();
        let listener = ListenerRuntime::new(settings, recorder.clone());
        let proxy = prepared(&listener, recorder).await;
        let terminator = Arc::new(Terminator::new(listener, proxy.0));
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (shutdown, watch) = watch::channel(false);
        let app = Arc::clone(&terminator);
        tokio::spawn(async move {
            while let Ok((client, _)) = socket.accept().await {
                client.set_nodelay(true).unwrap();
                let (app, watch) = (Arc::clone(&app), watch.clone());
                tokio::spawn(async move { app.process_new(Box::new(L4Stream::from(client)), &watch).await });
            }
        });
        Self { address, log, table, terminator, _shutdown: shutdown }
    }

    pub(super) async fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    pub(super) async fn connect_tls(&self, client: &Client, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        TlsConnector::from(Arc::new(client.0.clone())).connect(name, self.connect().await).await
    }
}

/// The proxy of a listener.
pub(super) async fn prepared(listener: &Arc<ListenerRuntime>, recorder: Arc<Recorder>) -> Prepared<Probe> {
    let gate = Arc::clone(&recorder.1);
    let probe = Probe { recorder, upstream: upgrade_upstream().await, gate };
    prepare(HttpProxy::new(probe, Arc::new(ServerConf::default())), std::slice::from_ref(listener))
}

/// Shows what a filter sees.
pub(super) struct Probe {
    recorder: Arc<Recorder>,
    upstream: SocketAddr,
    gate: Arc<Notify>,
}

#[async_trait]
impl ProxyHttp for Probe {
    type CTX = Option<RequestPhase>;

    fn new_ctx(&self) -> Self::CTX {
        None
    }

    async fn early_request_filter(&self, session: &mut Session, ctx: &mut Self::CTX) -> Result<()> {
        let empty = session.as_downstream_mut().is_body_empty();
        let phase = ctx.insert(conn_info(session).expect("it came through the edge").request_started());
        if !empty {
            phase.body_wanted();
            self.recorder.note("waits for a body");
        }
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Self::CTX) -> Result<bool> {
        if session.req_header().raw_path() == b"/upgrade" {
            return Ok(false);
        }
        if session.req_header().raw_path() == b"/hold" {
            self.gate.notified().await;
        }
        let mut body = 0_usize;
        while let Some(part) = session.as_downstream_mut().read_request_body().await? {
            body = body.saturating_add(part.len());
        }
        let phase = ctx.as_mut().unwrap();
        phase.body_done();
        let conn = conn_info(session).unwrap();
        let (sni, version, group) =
            conn.tls().map_or(("", "", ""), |tls| (tls.sni.as_str(), tls.version, tls.group.unwrap_or("")));
        let proxied = conn.proxied().map(|a| a.to_string()).unwrap_or_default();
        let uses = conn.cached(std::sync::atomic::AtomicU32::default).unwrap();
        let uses = uses.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let client = session.client_addr().unwrap().to_string();
        let ends = format!("peer={} local={} listener={}", conn.peer(), conn.local(), conn.listener().index());
        let text =
            format!("proxied={proxied} client={client} {ends} sni={sni} {version} {group} body={body} uses={uses}");
        let mut head = ResponseHeader::build(200, None).unwrap();
        head.insert_header("content-length", text.len()).unwrap();
        session.write_response_header(Box::new(head), false).await?;
        session.write_response_body(Some(Bytes::from(text)), true).await?;
        Ok(true)
    }

    async fn upstream_peer(&self, _: &mut Session, _: &mut Self::CTX) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.upstream, false, String::new())))
    }

    async fn fail_to_proxy(&self, session: &mut Session, _: &Error, ctx: &mut Self::CTX) -> FailToProxy {
        let late = ctx.as_ref().is_some_and(RequestPhase::is_late);
        let error_code = match conn_info(session).and_then(|conn| conn.cut()) {
            Some(cut) if late => {
                self.recorder.note(format!("cut {}", cut.as_str()));
                let _ = session.respond_error(408).await;
                408
            }
            Some(_) | None => 0,
        };
        FailToProxy { error_code, can_reuse_downstream: false }
    }

    async fn logging(&self, _: &mut Session, error: Option<&Error>, _: &mut Self::CTX) {
        if error.is_some_and(|error| *error.etype() != ErrorType::ConnectionClosed) {
            self.recorder.note("failed");
        }
    }
}

/// Answers any request with 101, then echoes.
async fn upgrade_upstream() -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = socket.accept().await {
            tokio::spawn(async move {
                read_head(&mut client).await;
                let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
                client.write_all(answer.as_bytes()).await.unwrap();
                let (mut read, mut write) = client.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

/// Certificates of the test hosts and who trusts them.
pub(super) struct Pki {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) roots: RootCertStore,
    pub(super) ticketer: Arc<dyn ProducesTickets>,
}

impl Pki {
    pub(super) fn new() -> Self {
        let names = ["a.test", "*.wild.test", "a.wild.test", "other.test"].map(String::from);
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let cert: CertificateDer<'static> = made.cert.der().clone();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let key = CertifiedKey::from_der(vec![cert.clone()], key, &aws_lc_rs::default_provider()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(cert).unwrap();
        Self { key: Arc::new(key), roots, ticketer: aws_lc_rs::Ticketer::new().unwrap() }
    }

    pub(super) fn table(&self, hosts: &[&str], minimum: TlsVersion) -> TlsTable {
        let host = |host: &&str| {
            let config =
                server_config(Arc::clone(&self.key), minimum, Clients::Unasked(Arc::clone(&self.ticketer))).unwrap();
            (HostPattern::parse(host).unwrap(), config)
        };
        hosts.iter().map(host).collect()
    }

    pub(super) fn client(&self, versions: &[&'static rustls::SupportedProtocolVersion], alpn: &[&str]) -> Client {
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Client(config)
    }

    /// A client of today.
    pub(super) fn browser(&self, alpn: &[&str]) -> Client {
        self.client(&[&rustls::version::TLS13, &rustls::version::TLS12], alpn)
    }
}

pub(super) struct Client(pub(super) ClientConfig);

pub(super) const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// One HTTP/1 exchange on a connection that stays open: the body of the answer.
pub(super) async fn exchange(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    answer(stream).await
}

/// The body of the next answer.
pub(super) async fn answer(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let head = read_head(stream).await.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200"), "{head}");
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    timeout(PATIENCE, stream.read_exact(&mut body)).await.unwrap().unwrap();
    String::from_utf8(body).unwrap()
}

pub(super) async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(PATIENCE, stream.read_u8()).await.expect("no answer").expect("a head"));
    }
    String::from_utf8(head).unwrap()
}

/// All that comes until the other side ends the connection, in whatever manner.
pub(super) async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    let end = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
    assert!(end.is_ok(), "the connection was left open");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Checks a whole answer of the edge itself, on a connection without TLS; how its event is written down.
pub(super) fn refusal(page: &str, status: &str, code: &str) -> String {
    let (head, body) = page.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer in {page:?}"));
    let mut lines = head.split("\r\n");
    assert_eq!(lines.next(), Some(&*format!("HTTP/1.1 {status}")));
    let fields: std::collections::BTreeMap<String, &str> = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .collect();
    let problem: serde_json::Value = serde_json::from_str(body).unwrap();
    let request_id = problem["request_id"].as_str().unwrap();
    assert_eq!(request_id.split('-').nth(2).and_then(|group| group.chars().next()), Some('7'), "{request_id}");
    assert_eq!(Some(&*problem["status"].to_string()), status.split(' ').next());
    assert_eq!((&problem["type"], &problem["code"]), (&"about:blank".into(), &code.into()));
    for (name, value) in [
        ("content-type", "application/problem+json"),
        ("content-length", &*body.len().to_string()),
        ("cache-control", "no-store"),
        ("connection", "close"),
        ("x-request-id", request_id),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
        ("referrer-policy", "no-referrer"),
    ] {
        assert_eq!(fields.get(name), Some(&value), "{name} in {head}");
    }
    assert!(fields.contains_key("date") && !fields.contains_key("server"), "{head}");
    format!("answered {code} {request_id}")
}

/// Writes `part` again and again until the other side ends the connection.
pub(super) async fn drip(stream: impl AsyncRead + AsyncWrite, part: &str, every: Duration) -> String {
    let (mut read, mut write) = tokio::io::split(stream);
    let mut tick = tokio::time::interval(every);
    let writes = async {
        loop {
            tick.tick().await;
            if write.write_all(part.as_bytes()).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        text = rest(&mut read) => text,
        () = writes => String::new(),
    }
}
