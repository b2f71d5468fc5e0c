//! Where the body ends: said once, in one way (RFC 9112 6.3), so that nobody behind us can find another end.

use http::{Method, header};

use super::{
    Ambiguity, Ended, Head,
    raw::{Version, Wire},
};

/// How the body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// So many bytes, by `Content-Length`. More than zero.
    Length(u64),
    /// A length nobody declared: `chunked` on HTTP/1, DATA frames without `content-length` on HTTP/2.
    Chunked,
}

/// Settles the framing; `wire` is what the raw head of HTTP/1 says, since Pingora's parsed header has lost some of it.
pub(super) fn settle(head: &Head<'_>, wire: Option<&Wire<'_>>) -> Result<Framing, Ambiguity> {
    let framing = match wire {
        Some(wire) => http1(wire)?,
        None => http2(head)?,
    };
    // RFC 9110 9.3.1 gives such a body no meaning: some upstreams read it, some leave it on the connection, where it
    // is the next request.
    let takes_none = [Method::GET, Method::HEAD, Method::OPTIONS].contains(head.method);
    if takes_none && framing != Framing::None { Err(Ambiguity::UnexpectedBody) } else { Ok(framing) }
}

fn http1(wire: &Wire<'_>) -> Result<Framing, Ambiguity> {
    match (wire.content_length, wire.transfer_encoding) {
        (None, None) => Ok(Framing::None),
        (Some(_), Some(_)) => Err(Ambiguity::LengthAndEncoding),
        (Some(length), None) => length_of(length),
        (None, Some(_)) if wire.version == Version::Http10 => {
            Err(Ambiguity::TransferEncoding { why: "transfer-encoding on HTTP/1.0" })
        }
        (None, Some(encoding)) if encoding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        (None, Some(_)) => Err(Ambiguity::TransferEncoding { why: "not exactly one chunked" }),
    }
}

fn http2(head: &Head<'_>) -> Result<Framing, Ambiguity> {
    let mut lengths = head.headers.get_all(header::CONTENT_LENGTH).into_iter();
    match (lengths.next(), lengths.next(), head.ended) {
        (Some(_), Some(_), _) => Err(Ambiguity::ContentLength { why: "content-length more than once" }),
        (Some(length), None, ended) => match (length_of(length.as_bytes())?, ended) {
            (Framing::Length(_) | Framing::Chunked, Ended::WithHead) => {
                Err(Ambiguity::ContentLength { why: "a length, but the stream has ended" })
            }
            (framing, Ended::WithHead | Ended::Open) => Ok(framing),
        },
        (None, _, Ended::WithHead) => Ok(Framing::None),
        (None, _, Ended::Open) => Ok(Framing::Chunked),
    }
}

fn length_of(value: &[u8]) -> Result<Framing, Ambiguity> {
    let number = std::str::from_utf8(value)
        .ok()
        .filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok());
    match number {
        None => Err(Ambiguity::ContentLength { why: "not one number of digits" }),
        Some(0) => Ok(Framing::None),
        Some(length) => Ok(Framing::Length(length)),
    }
}
