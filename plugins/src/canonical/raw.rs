//! The bytes of an HTTP/1 head, before any parser was kind to them.
//!
//! Pingora accepts bare LF, leading blank lines and two equal `Content-Length` lines, drops `Content-Length` beside
//! `Transfer-Encoding`, and cuts a fragment; none of it can be seen in its parsed header. What cannot be seen here
//! either: when its parser fails on the request line, Pingora percent-encodes blanks, controls, `"`, `<`, `>` and bytes
//! outside ASCII in the target, and these bytes are the rewritten ones. `GET /a b` is read as `GET /a%20b`, by us and
//! by the upstream alike, so it hides nothing; a second blank before the target becomes `%20/…` and is refused as no
//! path; an encoded control is refused as one.

use memchr::memchr;

use super::{
    Ambiguity, ByteKind, Head,
    fields::{bad_name, is_control, shown},
};

/// What only the raw head can say.
pub(super) struct Wire<'r> {
    pub(super) version: Version,
    /// The one `Content-Length`, without blanks around it.
    pub(super) content_length: Option<&'r [u8]>,
    /// The one `Transfer-Encoding`, without blanks around it.
    pub(super) transfer_encoding: Option<&'r [u8]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    Http10,
    Http11,
}

/// Reads the raw head line by line.
pub(super) fn scan<'r>(head: &Head<'r>) -> Result<Wire<'r>, Ambiguity> {
    // Fails closed: without these bytes the framing cannot be judged.
    let raw = head.raw_h1.ok_or(Ambiguity::RequestLine { why: "the raw head was not kept" })?;
    let (line, mut rest) = next_line(raw)?;
    let mut wire = Wire { version: request_line(line, head)?, content_length: None, transfer_encoding: None };
    loop {
        let (line, after) = next_line(rest)?;
        if line.is_empty() {
            return if after.is_empty() {
                Ok(wire)
            } else {
                Err(Ambiguity::FieldLine { why: "a blank line inside the head" })
            };
        }
        field_line(line, &mut wire)?;
        rest = after;
    }
}

/// The next line without its CR LF, and what follows it.
fn next_line(bytes: &[u8]) -> Result<(&[u8], &[u8]), Ambiguity> {
    let end = memchr(b'\n', bytes).ok_or(Ambiguity::LineEnd)?;
    let (line, rest) = bytes.split_at_checked(end).ok_or(Ambiguity::LineEnd)?;
    let line = line.strip_suffix(b"\r").filter(|line| memchr(b'\r', line).is_none()).ok_or(Ambiguity::LineEnd)?;
    Ok((line, rest.strip_prefix(b"\n").unwrap_or_default()))
}

fn request_line(line: &[u8], head: &Head<'_>) -> Result<Version, Ambiguity> {
    let refuse = |why| Err(Ambiguity::RequestLine { why });
    if line.is_empty() {
        return refuse("a blank line before the request line");
    }
    let mut parts = line.split(|&byte| byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return refuse("not method, target and version with one space between them");
    };
    if method != head.method.as_str().as_bytes() {
        return refuse("the method on the wire is not the one that was parsed");
    }
    if memchr(b'#', target).is_some() {
        return Err(Ambiguity::Fragment);
    }
    if target != head.raw_target {
        return refuse("the target on the wire is not the one that was parsed");
    }
    match version {
        b"HTTP/1.1" => Ok(Version::Http11),
        b"HTTP/1.0" => Ok(Version::Http10),
        _ => refuse("neither HTTP/1.1 nor HTTP/1.0"),
    }
}

fn field_line<'r>(line: &'r [u8], wire: &mut Wire<'r>) -> Result<(), Ambiguity> {
    let refuse = |why| Err(Ambiguity::FieldLine { why });
    let Some((name, value)) = memchr(b':', line).and_then(|colon| line.split_at_checked(colon)) else {
        return refuse("a field line without a colon");
    };
    if name.is_empty() {
        return refuse("a field without a name");
    }
    if name.first().is_some_and(|&byte| blank(byte)) {
        return refuse("a folded field line");
    }
    if name.last().is_some_and(|&byte| blank(byte)) {
        return refuse("a blank before the colon");
    }
    if let Some(refused) = bad_name(name) {
        return Err(refused);
    }
    let value = trim(value.strip_prefix(b":").unwrap_or_default());
    // Pingora builds its header values unchecked from what its parser lets through.
    if let Some(byte) = first(value, is_control) {
        return Err(Ambiguity::FieldValue { name: shown(name), byte: ByteKind::of(byte) });
    }
    if name.eq_ignore_ascii_case(b"content-length") && wire.content_length.replace(value).is_some() {
        return Err(Ambiguity::ContentLength { why: "content-length more than once" });
    }
    if name.eq_ignore_ascii_case(b"transfer-encoding") && wire.transfer_encoding.replace(value).is_some() {
        return Err(Ambiguity::TransferEncoding { why: "transfer-encoding more than once" });
    }
    Ok(())
}

/// The first byte that `bad` holds for. Almost always there is none, which is found out many bytes at a time: the first
/// pass has no early end.
pub(super) fn first(bytes: &[u8], bad: impl Fn(u8) -> bool) -> Option<u8> {
    let any = bytes.iter().fold(false, |any, &byte| any | bad(byte));
    if any { bytes.iter().copied().find(|&byte| bad(byte)) } else { None }
}

const fn blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// Without the optional blanks of RFC 9110 5.6.3; narrower than `trim_ascii`, which also takes a form feed.
pub(super) fn trim(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|&byte| !blank(byte)).unwrap_or(bytes.len());
    let end = bytes.iter().rposition(|&byte| !blank(byte)).map_or(start, |last| last.saturating_add(1));
    bytes.get(start..end).unwrap_or_default()
}
