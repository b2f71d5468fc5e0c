//! Header fields: names that cannot be folded into others, values that can be read in one way, singletons once.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use portcullis_api::Protocol;

use super::{Ambiguity, ByteKind, Head, Piece, raw};
use crate::reserved;

/// Fields that decide something and may come once.
const ONCE: &[&str] = &[
    "host",
    "authorization",
    "content-type",
    "x-api-key",
    "origin",
    "expect",
    "access-control-request-method",
    "sec-fetch-site",
    "sec-fetch-mode",
    "upgrade",
    "sec-websocket-key",
    "sec-websocket-version",
];

/// Fields that decide something and may come more than once. `content-length` and `transfer-encoding` are judged
/// by `framing`.
const READ: &[&str] = &[
    "cookie",
    "connection",
    "content-encoding",
    "content-length",
    "transfer-encoding",
    "te",
    "trailer",
    "x-forwarded-for",
    "access-control-request-headers",
];

/// Connection-specific fields, which HTTP/2 does not have (RFC 9113 8.2.2).
const CONNECTION_SPECIFIC: &[&str] = &["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];

/// Options in `Connection` that are looked at; Pingora refuses the tenth as well.
const OPTIONS_MAX: usize = 9;

/// Checks every field.
pub(super) fn check(head: &Head<'_>) -> Result<(), Ambiguity> {
    let mut seen = [false; ONCE.len()];
    for (name, value) in head.headers {
        check_name(name)?;
        let once = ONCE.iter().position(|once| name.as_str() == *once);
        if let Some(slot) = once.and_then(|at| seen.get_mut(at))
            && std::mem::replace(slot, true)
        {
            return Err(Ambiguity::Repeated { name: once.and_then(|at| ONCE.get(at)).copied().unwrap_or_default() });
        }
        check_value(name, value, once.is_some() || READ.contains(&name.as_str()))?;
        if head.protocol == Protocol::Http2 {
            check_h2(name, value)?;
        }
    }
    check_connection(head.headers)?;
    check_trailer(head.headers)?;
    check_expect(head.headers)
}

/// Bytes of a name that this gateway takes.
pub(super) const fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-'
}

/// Bytes that no value may have.
pub(super) const fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\t'
}

fn check_name(name: &HeaderName) -> Result<(), Ambiguity> {
    bad_name(name.as_str().as_bytes()).map_or(Ok(()), Err)
}

/// Why a name cannot be taken, if it cannot.
pub(super) fn bad_name(name: &[u8]) -> Option<Ambiguity> {
    let byte = name.iter().copied().find(|&byte| !is_name_byte(byte))?;
    Some(Ambiguity::FieldName { name: Piece::Sized { bytes: name.len() }, byte: ByteKind::of(byte) })
}

/// The name of a field, where it is one that decides something: other names are the client's own words.
pub(super) fn shown(name: &[u8]) -> Piece {
    let known = [ONCE, READ, CONNECTION_SPECIFIC]
        .into_iter()
        .flatten()
        .find(|known| name.eq_ignore_ascii_case(known.as_bytes()));
    known.map_or(Piece::Sized { bytes: name.len() }, |known| Piece::Known(known))
}

/// No value has a control byte. One that somebody decides by is visible ASCII and spaces: what it means must not hang
/// on a reader's encoding.
fn check_value(name: &HeaderName, value: &HeaderValue, read: bool) -> Result<(), Ambiguity> {
    let bytes = value.as_bytes();
    let bad = if read { raw::first(bytes, |byte| !matches!(byte, b' '..=b'~')) } else { raw::first(bytes, is_control) };
    match bad {
        None => Ok(()),
        Some(byte) => Err(Ambiguity::FieldValue { name: shown(name.as_str().as_bytes()), byte: ByteKind::of(byte) }),
    }
}

fn check_h2(name: &HeaderName, value: &HeaderValue) -> Result<(), Ambiguity> {
    let refuse = |why| Err(Ambiguity::Connection { why, option: shown(name.as_str().as_bytes()) });
    if CONNECTION_SPECIFIC.contains(&name.as_str()) {
        return refuse("connection-specific field on HTTP/2");
    }
    if *name == header::TE && value.as_bytes() != b"trailers" {
        return refuse("te other than trailers on HTTP/2");
    }
    Ok(())
}

/// The members of a comma-separated list, without the empty ones (RFC 9110 5.6.1.2).
fn members<'r>(headers: &'r HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'r [u8]> {
    headers
        .get_all(name)
        .into_iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .map(raw::trim)
        .filter(|member| !member.is_empty())
}

/// Whether `Connection` has this option.
pub(super) fn has_option(headers: &HeaderMap, option: &[u8]) -> bool {
    members(headers, &header::CONNECTION).any(|member| member.eq_ignore_ascii_case(option))
}

fn check_connection(headers: &HeaderMap) -> Result<(), Ambiguity> {
    for (option, at) in members(headers, &header::CONNECTION).zip(1..) {
        let refuse = |why| Err(Ambiguity::Connection { why, option: Piece::Nth { at, bytes: option.len() } });
        if at > OPTIONS_MAX {
            return refuse("more than 9 options");
        }
        // Quoted names too: a field name that this gateway takes has no other bytes.
        let Some(name) = plain(option) else {
            return refuse("not a name");
        };
        if reserved::must_not_be_nominated(name) {
            return refuse("this field may not be removed on the way");
        }
    }
    Ok(())
}

/// Request trailers are dropped on the way, and still: one that announces identity is an attack, not a mistake.
fn check_trailer(headers: &HeaderMap) -> Result<(), Ambiguity> {
    let refused = |name: &[u8]| plain(name).is_none_or(reserved::must_not_be_nominated);
    match members(headers, &header::TRAILER).zip(1..).find(|(name, _)| refused(name)) {
        None => Ok(()),
        Some((name, at)) => Err(Ambiguity::Trailer { name: Piece::Nth { at, bytes: name.len() } }),
    }
}

/// A field name of letters, digits and `-`.
fn plain(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|name| name.bytes().all(is_name_byte))
}

fn check_expect(headers: &HeaderMap) -> Result<(), Ambiguity> {
    match headers.get(header::EXPECT) {
        Some(expect) if !expect.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
            Err(Ambiguity::Expectation { bytes: expect.len() })
        }
        Some(_) | None => Ok(()),
    }
}
