//! One client: a target, the request it repeats, and a lane that carries one request at a time.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, header};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    flags::{Kind, Protocol, Workload},
    h1, h2c, pki,
};

const QUERY: &str = "/v1/orders?state=open&sort=-created&page=2&q=blue%20bicycle&from=2026-01-01";
const BODY: &[u8] = br#"{"customer":"c-42","note":"Please leave it with the neighbour, thank you.","express":false,"lines":[{"sku":"BIKE-BLUE-54","count":1,"price":"129.90"},{"sku":"BELL-1","count":2,"price":"7.50"}]}"#;

/// Where a client connects and what it sends.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) protocol: Protocol,
    tls: Arc<ClientConfig>,
    /// The request as HTTP/2 sends it; the target is in absolute form.
    pub(crate) head: Request<()>,
    pub(crate) body: Bytes,
}

impl Target {
    /// The request is as long for all proxies. The gateway without controls gets the token in a field that means
    /// nothing: it knows no issuer, and a credential that is present would have to be valid.
    pub(crate) fn new(
        kind: Kind,
        address: SocketAddr,
        protocol: Protocol,
        workload: Workload,
        pki: &pki::Pki,
    ) -> anyhow::Result<Self> {
        let (method, target, body) = match workload {
            Workload::Get => (Method::GET, QUERY, Bytes::new()),
            Workload::Post => (Method::POST, "/v1/orders", Bytes::from_static(BODY)),
        };
        let mut token = HeaderValue::try_from(format!("Bearer {}", pki.token))?;
        // Keeps HPACK from turning it into one byte, as it keeps a real client's token.
        token.set_sensitive(true);
        let name = match kind {
            Kind::Bare | Kind::On => header::AUTHORIZATION,
            Kind::Off | Kind::Limits | Kind::Leased => HeaderName::from_static("x-token-bytes"),
        };
        let mut head = Request::builder()
            .method(method)
            .uri(format!("https://{}:{}{target}", pki::HOST, address.port()))
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, "load/1")
            .header(name, token);
        if !body.is_empty() {
            head = head.header(header::CONTENT_TYPE, "application/json").header(header::CONTENT_LENGTH, body.len());
        }
        Ok(Self { address, protocol, tls: pki.client(protocol), head: head.body(())?, body })
    }

    /// Connects and shakes hands.
    pub(crate) async fn connect(&self) -> anyhow::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await.context("connect")?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(pki::HOST)?;
        TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await.context("TLS handshake")
    }

    /// As many lanes as there may be requests in flight.
    pub(crate) async fn lanes(&self, in_flight: u32, streams: u32) -> anyhow::Result<Vec<Lane>> {
        let mut lanes = Vec::new();
        match self.protocol {
            Protocol::H1 => {
                for _ in 0..in_flight {
                    lanes.push(Lane::H1(Box::new(h1::Lane::open(self.clone()).await?)));
                }
            }
            Protocol::H2 => {
                let connections = in_flight.div_ceil(streams.max(1));
                for _ in 0..connections {
                    let connection = h2c::Lane::open(self.clone()).await?;
                    lanes.extend((0..streams).map(|_| Lane::H2(Box::new(connection.clone()))));
                }
                lanes.truncate(usize::try_from(in_flight)?);
            }
        }
        Ok(lanes)
    }
}

/// Carries one request at a time.
pub(crate) enum Lane {
    H1(Box<h1::Lane>),
    H2(Box<h2c::Lane>),
}

impl Lane {
    /// Sends the request and reads the whole answer, which must be a 200.
    pub(crate) async fn exchange(&mut self) -> anyhow::Result<()> {
        match self {
            Self::H1(lane) => lane.exchange().await,
            Self::H2(lane) => lane.exchange().await,
        }
    }

    /// Connects again, after an error.
    pub(crate) async fn reopen(&mut self) -> anyhow::Result<()> {
        match self {
            Self::H1(lane) => lane.reopen().await,
            Self::H2(lane) => lane.reopen().await,
        }
    }
}
