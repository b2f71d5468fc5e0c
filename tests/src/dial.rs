//! How a client reaches a listener: from which address, with which TLS, after which first bytes.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use rustls::{AlertDescription, ClientConnection, StreamOwned, SupportedProtocolVersion};
use rustls_pki_types::ServerName;

use crate::{ca, runtime};

/// How to connect. Every client of one test is made from one of these.
#[derive(Debug, Clone)]
pub struct Dial {
    to: SocketAddr,
    from: Option<IpAddr>,
    sni: Option<String>,
    alpn: Vec<Vec<u8>>,
    versions: Vec<&'static SupportedProtocolVersion>,
    prelude: Vec<u8>,
    patience: Duration,
}

/// A connection, with TLS or without.
pub enum Wire {
    /// TCP.
    Plain(TcpStream),
    /// TLS over TCP.
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Dial {
    /// TLS 1.3 with this server name, HTTP/1.1 by ALPN.
    pub fn tls(to: SocketAddr, sni: &str) -> Self {
        Self { sni: Some(sni.to_owned()), alpn: vec![b"http/1.1".to_vec()], ..Self::plain(to) }
    }

    /// TCP without TLS.
    pub fn plain(to: SocketAddr) -> Self {
        Self {
            to,
            from: None,
            sni: None,
            alpn: Vec::new(),
            versions: vec![&rustls::version::TLS13],
            prelude: Vec::new(),
            patience: Duration::from_secs(15),
        }
    }

    /// From this loopback address: every address of 127.0.0.0/8 is one client more.
    #[must_use]
    pub fn from(mut self, address: &str) -> Self {
        self.from = Some(address.parse().expect("an address"));
        self
    }

    /// With this server name.
    #[must_use]
    pub fn sni(mut self, name: &str) -> Self {
        self.sni = Some(name.to_owned());
        self
    }

    /// The server name.
    pub fn name(&self) -> &str {
        self.sni.as_deref().expect("a client of a TLS listener")
    }

    /// Offering these protocols.
    #[must_use]
    pub fn alpn(mut self, protocols: &[&str]) -> Self {
        self.alpn = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
        self
    }

    /// With these TLS versions.
    #[must_use]
    pub fn versions(mut self, versions: &[&'static SupportedProtocolVersion]) -> Self {
        self.versions = versions.to_vec();
        self
    }

    /// With these bytes before anything else, e.g. a PROXY protocol header.
    #[must_use]
    pub fn prelude(mut self, bytes: &[u8]) -> Self {
        self.prelude = bytes.to_vec();
        self
    }

    /// How long a read may take.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Connects, and finishes the TLS handshake.
    ///
    /// # Errors
    /// Whatever TCP or TLS says; [`alert`] tells which alert it was.
    pub fn connect(&self) -> io::Result<Wire> {
        let mut tcp = self.tcp()?;
        tcp.write_all(&self.prelude)?;
        let Some(sni) = &self.sni else { return Ok(Wire::Plain(tcp)) };
        let mut config = rustls::ClientConfig::builder_with_provider(ca::provider())
            .with_protocol_versions(&self.versions)
            .expect("the versions are supported")
            .with_root_certificates(ca::ca().roots())
            .with_no_client_auth();
        config.alpn_protocols.clone_from(&self.alpn);
        let name = ServerName::try_from(sni.clone()).expect("a server name");
        let mut tls = ClientConnection::new(Arc::new(config), name).expect("a client configuration that works");
        while tls.is_handshaking() {
            tls.complete_io(&mut tcp)?;
        }
        Ok(Wire::Tls(Box::new(StreamOwned::new(tls, tcp))))
    }

    /// Connects with TCP alone, whatever else was asked for.
    ///
    /// # Errors
    /// Whatever TCP says.
    pub fn tcp(&self) -> io::Result<TcpStream> {
        let tcp = runtime().block_on(async {
            let socket = tokio::net::TcpSocket::new_v4()?;
            if let Some(from) = self.from {
                socket.bind(SocketAddr::new(from, 0))?;
            }
            socket.connect(self.to).await
        })?;
        let tcp = tcp.into_std()?;
        tcp.set_nonblocking(false)?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(self.patience))?;
        tcp.set_write_timeout(Some(self.patience))?;
        Ok(tcp)
    }
}

impl Wire {
    /// The TLS connection, where there is one.
    pub fn session(&self) -> Option<&ClientConnection> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => Some(&tls.conn),
        }
    }

    /// Changes how long a read may take.
    pub fn set_patience(&self, patience: Duration) {
        let tcp = match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => &tls.sock,
        };
        tcp.set_read_timeout(Some(patience)).expect("a time-out is set");
    }
}

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.read(buf),
            Self::Tls(tls) => tls.read(buf),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.write(buf),
            Self::Tls(tls) => tls.write(buf),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.flush(),
            Self::Tls(tls) => tls.flush(),
        }
    }
}

/// The TLS alert behind an error, if it was one.
pub fn alert(error: &io::Error) -> Option<AlertDescription> {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::AlertReceived(alert)) => Some(*alert),
        _ => None,
    }
}

/// Whether an error means that the peer closed, rather than that nothing came in time.
pub fn is_close(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof)
}
