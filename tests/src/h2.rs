//! An HTTP/2 client for whole answers. What it refuses to send, `h2_raw` sends.

use std::{io, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use rustls_pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream};

use crate::{Answer, Request, ca, runtime};

/// One HTTP/2 connection.
pub struct H2 {
    sender: h2::client::SendRequest<Bytes>,
}

/// A request whose body is still open.
pub struct Open {
    body: h2::SendStream<Bytes>,
    answer: h2::client::ResponseFuture,
}

/// Why there was no answer.
pub type NoAnswer = h2::Error;

impl H2 {
    /// Over TLS 1.3 to this address, with this server name, from this client address.
    ///
    /// # Errors
    /// Whatever TCP or TLS says.
    pub fn connect(to: std::net::SocketAddr, sni: &str, from: Option<&str>) -> io::Result<Self> {
        runtime().block_on(async {
            let socket = TcpSocket::new_v4()?;
            if let Some(from) = from {
                socket.bind(std::net::SocketAddr::new(from.parse().expect("an address"), 0))?;
            }
            let tcp: TcpStream = socket.connect(to).await?;
            let mut config = rustls::ClientConfig::builder_with_provider(ca::provider())
                .with_protocol_versions(&[&rustls::version::TLS13])
                .expect("the version is supported")
                .with_root_certificates(ca::ca().roots())
                .with_no_client_auth();
            config.alpn_protocols = vec![b"h2".to_vec()];
            Self::over(tcp, sni, Arc::new(config)).await
        })
    }

    /// As this TLS client, e.g. one with a certificate; it must offer `h2`.
    ///
    /// # Errors
    /// Whatever TCP or TLS says.
    pub fn of(to: std::net::SocketAddr, sni: &str, client: Arc<rustls::ClientConfig>) -> io::Result<Self> {
        runtime().block_on(async { Self::over(TcpStream::connect(to).await?, sni, client).await })
    }

    async fn over(tcp: TcpStream, sni: &str, client: Arc<rustls::ClientConfig>) -> io::Result<Self> {
        let name = ServerName::try_from(sni.to_owned()).expect("a server name");
        let tls = tokio_rustls::TlsConnector::from(client).connect(name, tcp).await?;
        let (sender, connection) = h2::client::handshake(tls).await.map_err(io::Error::other)?;
        tokio::spawn(async move {
            // Its end is seen by the streams.
            drop(connection.await);
        });
        Ok(Self { sender })
    }

    /// Sends a request and reads its whole answer.
    ///
    /// # Errors
    /// When the stream or the connection was reset.
    pub fn send(&mut self, request: &Request) -> Result<Answer, NoAnswer> {
        self.begin(request)?.answer()
    }

    /// Sends a whole request; its answer is still to be read.
    ///
    /// # Errors
    /// When the stream or the connection was reset.
    pub fn begin(&mut self, request: &Request) -> Result<Open, NoAnswer> {
        let mut open = self.start(&request.with_length(), request.body.is_empty())?;
        if !request.body.is_empty() {
            open.data(&request.body)?;
            open.finish(None)?;
        }
        Ok(open)
    }

    /// Sends a request's head and leaves its body open.
    ///
    /// # Errors
    /// When the stream or the connection was reset.
    pub fn open(&mut self, request: &Request) -> Result<Open, NoAnswer> {
        self.start(request, false)
    }

    fn start(&mut self, request: &Request, bodiless: bool) -> Result<Open, NoAnswer> {
        let head = head_of(request);
        runtime().block_on(async {
            let mut sender = self.sender.clone().ready().await?;
            let (answer, body) = sender.send_request(head, bodiless)?;
            Ok(Open { body, answer })
        })
    }
}

impl Open {
    /// Sends a piece of the body, within the peer's window.
    ///
    /// # Errors
    /// When the stream or the connection was reset.
    pub fn data(&mut self, bytes: &[u8]) -> Result<(), NoAnswer> {
        runtime().block_on(async {
            let mut rest = Bytes::copy_from_slice(bytes);
            while !rest.is_empty() {
                self.body.reserve_capacity(rest.len());
                let room = std::future::poll_fn(|cx| self.body.poll_capacity(cx)).await;
                // A stream that is closed for sending may still have its answer.
                let Some(room) = room else { return Ok(()) };
                let room = room?;
                self.body.send_data(rest.split_to(room.min(rest.len())), false)?;
            }
            Ok(())
        })
    }

    /// Ends the body, with trailers or with an empty DATA frame.
    ///
    /// # Errors
    /// When the stream or the connection was reset.
    pub fn finish(&mut self, trailers: Option<HeaderMap>) -> Result<(), NoAnswer> {
        let sent = match trailers {
            Some(trailers) => self.body.send_trailers(trailers),
            None => self.body.send_data(Bytes::new(), true),
        };
        // An answer that came early has closed the stream for sending; the answer is what counts.
        match sent {
            Err(error) if error.is_io() || error.is_go_away() => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Reads the whole answer.
    ///
    /// # Errors
    /// When the stream or the connection was reset before the answer's end.
    pub fn answer(self) -> Result<Answer, NoAnswer> {
        runtime().block_on(async {
            let (head, mut stream) = self.answer.await?.into_parts();
            let mut answer =
                Answer { status: head.status.as_u16(), headers: pairs(&head.headers), ..Answer::default() };
            while let Some(piece) = stream.data().await {
                let piece = match piece {
                    Ok(piece) => piece,
                    // RFC 9113 8.1: a server may reset with NO_ERROR once its answer is complete.
                    Err(error) if error.reason() == Some(h2::Reason::NO_ERROR) => return Ok(answer),
                    Err(error) => return Err(error),
                };
                stream.flow_control().release_capacity(piece.len())?;
                answer.body.extend_from_slice(&piece);
            }
            if let Ok(Some(trailers)) = stream.trailers().await {
                answer.trailers = pairs(&trailers);
            }
            Ok(answer)
        })
    }
}

fn pairs(fields: &HeaderMap) -> Vec<(String, String)> {
    fields.iter().map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned())).collect()
}

fn head_of(request: &Request) -> http::Request<()> {
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(http::uri::Scheme::HTTPS);
    uri.authority = request.host.as_ref().map(|host| host.as_slice().try_into().expect("an authority"));
    uri.path_and_query = Some(request.target.as_slice().try_into().expect("a path that the h2 crate sends"));
    let mut head = http::Request::new(());
    *head.method_mut() = Method::from_bytes(request.method.as_bytes()).expect("a method");
    *head.uri_mut() = Uri::from_parts(uri).expect("a target");
    *head.version_mut() = http::Version::HTTP_2;
    for (name, value) in request.h2_fields().iter().filter(|(name, _)| !name.starts_with(b":")) {
        head.headers_mut().append(
            HeaderName::from_bytes(name).expect("a field name that the h2 crate sends"),
            HeaderValue::from_bytes(value).expect("a field value that the h2 crate sends"),
        );
    }
    head
}
