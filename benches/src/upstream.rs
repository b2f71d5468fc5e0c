//! The upstream that all proxies share: HTTP/1.1 with keep-alive, reads a request, answers the same 256 bytes.
//!
//! As small as it can be, because whatever it costs is time in which the proxy waits.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const ANSWER: &str = concat!(
    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 256\r\n\r\n",
    r#"{"orders":[{"id":"o-1001","state":"shipped","total":"129.90","currency":"EUR","lines":3},"#,
    r#"{"id":"o-1002","state":"open","total":"18.00","currency":"EUR","lines":1},"#,
    r#"{"id":"o-1003","state":"open","total":"7.50","currency":"EUR","lines":2}],"next":null} "#,
    "      "
);

/// Serves on a loopback port of its own until the process ends.
///
/// # Errors
/// When there is no port or no thread to be had.
pub fn start() -> anyhow::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    std::thread::Builder::new().name("upstream".to_owned()).spawn(move || {
        runtime.block_on(async move {
            let Ok(listener) = TcpListener::from_std(listener) else { return };
            while let Ok((stream, _)) = listener.accept().await {
                // A connection that fails shows as a failed request at the client.
                tokio::spawn(async move { serve(stream).await.is_ok() });
            }
        });
    })?;
    Ok(address)
}

async fn serve(mut stream: TcpStream) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut input = BytesMut::with_capacity(16 << 10);
    loop {
        match request_length(&input)? {
            Some(length) => {
                input.advance(length);
                stream.write_all(ANSWER.as_bytes()).await?;
            }
            None if stream.read_buf(&mut input).await? == 0 => return Ok(()),
            None => {}
        }
    }
}

/// The length of the request that `input` starts with, or none while it is not whole.
fn request_length(input: &[u8]) -> anyhow::Result<Option<usize>> {
    let Some(end) = find(input, b"\r\n\r\n") else { return Ok(None) };
    let head_length = end.saturating_add(4);
    let Some((head, body)) = input.split_at_checked(head_length) else { return Ok(None) };
    let body_length = match (field(head, "content-length"), field(head, "transfer-encoding")) {
        (Some(length), None) => Some(length.parse().context("content-length")?),
        (None, Some("chunked")) => chunked_length(body)?,
        (None, None) => Some(0),
        (_, Some(_)) => bail!("a framing that this upstream does not know"),
    };
    Ok(body_length.map(|length| head_length.saturating_add(length)).filter(|&length| length <= input.len()))
}

/// The length of a chunked body with its framing, or none while it is not whole. No trailers.
fn chunked_length(body: &[u8]) -> anyhow::Result<Option<usize>> {
    let mut rest = body;
    while let Some(line) = find(rest, b"\r\n") {
        let digits = rest.get(..line).and_then(|digits| std::str::from_utf8(digits).ok()).context("chunk size")?;
        let size = usize::from_str_radix(digits, 16).context("chunk size")?;
        let Some(after) = rest.get(line.saturating_add(size).saturating_add(4)..) else { return Ok(None) };
        rest = after;
        if size == 0 {
            return Ok(Some(body.len().saturating_sub(rest.len())));
        }
    }
    Ok(None)
}

/// The value of a header field, by lower-case name.
#[must_use]
pub fn field<'h>(head: &'h [u8], name: &str) -> Option<&'h str> {
    std::str::from_utf8(head).ok()?.split("\r\n").find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

/// Where `needle` starts.
#[must_use]
pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_as_long_as_it_says() {
        let (head, body) = ANSWER.split_once("\r\n\r\n").unwrap();
        assert_eq!(field(head.as_bytes(), "content-length"), Some("256"));
        assert_eq!(body.len(), 256);
    }

    #[test]
    fn a_request_is_whole_with_its_last_byte_and_not_before() {
        for request in [
            "GET /v1/orders HTTP/1.1\r\nhost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nabcd",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n",
        ] {
            for cut in 0..request.len() {
                assert_eq!(request_length(&request.as_bytes()[..cut]).unwrap(), None, "{cut} of {request}");
            }
            let pipelined = format!("{request}GET");
            assert_eq!(request_length(pipelined.as_bytes()).unwrap(), Some(request.len()));
        }
    }

    #[test]
    fn an_unknown_framing_is_an_error() {
        assert!(request_length(b"POST / HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n").is_err());
        assert!(request_length(b"POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n").is_err());
    }
}
