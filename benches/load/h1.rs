//! HTTP/1.1 by hand: the request is written once as bytes, and of the answer only status and length are read.

use anyhow::{Context, ensure};
use bytes::{Buf, Bytes, BytesMut};
use portcullis_benches::upstream::{field, find};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use crate::client::Target;

/// One connection.
pub(crate) struct Lane {
    target: Target,
    stream: TlsStream<TcpStream>,
    request: Bytes,
    input: BytesMut,
}

impl Lane {
    /// Connects.
    pub(crate) async fn open(target: Target) -> anyhow::Result<Self> {
        let stream = target.connect().await?;
        let request = request_bytes(&target)?;
        Ok(Self { target, stream, request, input: BytesMut::with_capacity(16 << 10) })
    }

    /// Connects again.
    pub(crate) async fn reopen(&mut self) -> anyhow::Result<()> {
        self.stream = self.target.connect().await?;
        self.input.clear();
        Ok(())
    }

    /// One request and its answer.
    pub(crate) async fn exchange(&mut self) -> anyhow::Result<()> {
        self.stream.write_all(&self.request).await.context("write")?;
        self.stream.flush().await.context("write")?;
        loop {
            if let Some(answer) = answer(&self.input)? {
                self.input.advance(answer.length);
                ensure!(!answer.closes, "the proxy closes the connection");
                return Ok(());
            }
            ensure!(self.stream.read_buf(&mut self.input).await.context("read")? > 0, "the connection ended early");
        }
    }
}

fn request_bytes(target: &Target) -> anyhow::Result<Bytes> {
    let head = &target.head;
    let path = head.uri().path_and_query().context("the request has no path")?;
    let authority = head.uri().authority().context("the request has no host")?;
    let mut bytes = format!("{} {path} HTTP/1.1\r\nhost: {authority}\r\n", head.method()).into_bytes();
    for (name, value) in head.headers() {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(&target.body);
    Ok(bytes.into())
}

#[derive(Debug, PartialEq)]
struct Answer {
    length: usize,
    closes: bool,
}

/// The answer that `input` starts with, or none while it is not whole.
fn answer(input: &[u8]) -> anyhow::Result<Option<Answer>> {
    let Some(end) = find(input, b"\r\n\r\n") else { return Ok(None) };
    let head = input.get(..end).unwrap_or_default();
    ensure!(
        head.starts_with(b"HTTP/1.1 200 "),
        "the answer is not a 200: {}",
        String::from_utf8_lossy(input).chars().take(600).collect::<String>()
    );
    let body: usize = field(head, "content-length").context("the answer has no length")?.parse()?;
    let length = end.saturating_add(4).saturating_add(body);
    let closes = field(head, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    Ok((length <= input.len()).then_some(Answer { length, closes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok";

    #[test]
    fn an_answer_is_whole_with_its_last_byte_and_not_before() {
        for cut in 0..WHOLE.len() {
            assert_eq!(answer(&WHOLE.as_bytes()[..cut]).unwrap(), None, "{cut}");
        }
        assert_eq!(answer(WHOLE.as_bytes()).unwrap(), Some(Answer { length: WHOLE.len(), closes: false }));
    }

    #[test]
    fn anything_but_a_200_is_an_error_that_shows_the_answer() {
        let refused = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 5\r\n\r\ntoken";
        let error = answer(refused.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("401") && error.ends_with("token"), "{error}");
        assert!(answer(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        let closing = answer(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
        assert!(closing.unwrap().closes);
    }
}
