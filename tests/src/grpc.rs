//! A recording HTTP/2 upstream, with prior knowledge or over TLS, as gRPC servers are: answers with trailers.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use crate::{runtime, wait_for};

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct SeenCall {
    /// Its head.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// `:authority`.
    pub authority: String,
    /// Its fields.
    pub headers: HeaderMap,
    /// Its whole body.
    pub body: Vec<u8>,
}

/// An HTTP/2 upstream on its own port that sends each body back, with `grpc-status: 0` in the trailers.
pub struct GrpcUpstream {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<SeenCall>>>,
}

impl GrpcUpstream {
    /// Starts one.
    pub fn start() -> Self {
        Self::listen(None)
    }

    /// Starts one that speaks TLS; `config` offers `h2`.
    pub fn tls(config: Arc<rustls::ServerConfig>) -> Self {
        Self::listen(Some(config.into()))
    }

    fn listen(tls: Option<TlsAcceptor>) -> Self {
        let listener = runtime().block_on(TcpListener::bind("127.0.0.1:0")).expect("a loopback port is free");
        let address = listener.local_addr().expect("a bound socket has an address");
        let seen = Arc::new(Mutex::default());
        let record = Arc::clone(&seen);
        runtime().spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (record, tls) = (Arc::clone(&record), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(tcp, record).await,
                        Some(tls) => {
                            // A handshake that fails is seen by the gateway.
                            if let Ok(stream) = tls.accept(tcp).await {
                                serve(stream, record).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, seen }
    }

    /// `host:port` for the configuration.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The request with this mark, if it is there now.
    pub fn saw(&self, mark: &str) -> Option<SeenCall> {
        let all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().find(|call| call.headers.get("x-mark").is_some_and(|m| m == mark)).cloned()
    }

    /// The request with this mark, now or soon.
    ///
    /// # Panics
    /// When it does not come.
    pub fn seen(&self, mark: &str) -> SeenCall {
        wait_for(&format!("the upstream to see {mark}"), || self.saw(mark))
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, record: Arc<Mutex<Vec<SeenCall>>>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let record = Arc::clone(&record);
        tokio::spawn(async move {
            // A stream that the gateway gave up is seen by the client.
            drop(answer(request, respond, &record).await);
        });
    }
}

async fn answer(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    record: &Mutex<Vec<SeenCall>>,
) -> Result<(), h2::Error> {
    let (head, mut stream) = request.into_parts();
    let mut body = Vec::new();
    while let Some(piece) = stream.data().await {
        let piece = piece?;
        stream.flow_control().release_capacity(piece.len())?;
        body.extend_from_slice(&piece);
    }
    record.lock().unwrap_or_else(PoisonError::into_inner).push(SeenCall {
        method: head.method.to_string(),
        target: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        authority: head.uri.authority().map(ToString::to_string).unwrap_or_default(),
        headers: head.headers,
        body: body.clone(),
    });
    let mut response = Response::new(());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let mut out = respond.send_response(response, false)?;
    out.send_data(body.into(), false)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    out.send_trailers(trailers)
}
