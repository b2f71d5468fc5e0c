//! HTTP/2 by the h2 crate: lanes share a connection and each carries one stream at a time.

use anyhow::{Context, ensure};
use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use http::StatusCode;

use crate::client::Target;

/// A window that never holds an answer back.
const WINDOW_BYTES: u32 = 8 << 20;

/// One of the streams of a connection.
#[derive(Clone)]
pub(crate) struct Lane {
    target: Target,
    sender: SendRequest<Bytes>,
}

impl Lane {
    /// Connects.
    pub(crate) async fn open(target: Target) -> anyhow::Result<Self> {
        let sender = connect(&target).await?;
        Ok(Self { target, sender })
    }

    /// Connects again, for this lane alone.
    pub(crate) async fn reopen(&mut self) -> anyhow::Result<()> {
        self.sender = connect(&self.target).await?;
        Ok(())
    }

    /// One request and its answer.
    pub(crate) async fn exchange(&mut self) -> anyhow::Result<()> {
        let mut sender = self.sender.clone().ready().await.context("no stream to be had")?;
        let (answer, mut stream) = sender.send_request(self.target.head.clone(), self.target.body.is_empty())?;
        if !self.target.body.is_empty() {
            stream.send_data(self.target.body.clone(), true)?;
        }
        let answer = answer.await.context("no answer")?;
        let status = answer.status();
        let mut body = answer.into_body();
        let mut first = Bytes::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk.context("the body ended early")?;
            body.flow_control().release_capacity(chunk.len())?;
            if first.is_empty() {
                first = chunk;
            }
        }
        ensure!(status == StatusCode::OK, "the answer is not a 200: {status} {}", String::from_utf8_lossy(&first));
        Ok(())
    }
}

async fn connect(target: &Target) -> anyhow::Result<SendRequest<Bytes>> {
    let stream = target.connect().await?;
    ensure!(stream.get_ref().1.alpn_protocol() == Some(b"h2"), "the proxy did not agree to HTTP/2");
    let (sender, connection) = Builder::new()
        .initial_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .handshake(stream)
        .await
        .context("HTTP/2 handshake")?;
    // A connection that fails shows in each of its streams.
    tokio::spawn(async move { connection.await.is_ok() });
    Ok(sender)
}
