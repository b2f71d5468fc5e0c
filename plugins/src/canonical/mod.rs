//! One reading of a request's head, or none: what two parsers could read in two ways is refused, never repaired.
//!
//! Pingora parses leniently: it forwards `GET admin`, `/a/../b`, two equal `Content-Length` lines, an empty `Host` and
//! header names with `_`. Every control decides on what is written here instead, and what is written here is what goes
//! on the wire: the path is never normalised. The one change is [`Target::Rewritten`]: an absolute-form target becomes
//! the origin-form of the same bytes.
//!
//! Invariant: [`Canonical`] has one constructor, [`canonicalise`]; it is given the raw target, never `uri.path()`.

mod ambiguity;
mod fields;
mod framing;
mod host;
mod path;
mod raw;
mod target;
mod upgrade;

pub use ambiguity::{Ambiguity, ByteKind, Piece};
pub use framing::Framing;
use http::{HeaderMap, Method};
use portcullis_api::{ControlName, Protocol};
pub use upgrade::Upgrade;

/// The name of this step in the trail, the log and the metrics; its codes are `request.*`.
pub const STEP: ControlName = ControlName::new("request");

/// The raw parts of a head, as the gateway reads them off Pingora, before anything was added or removed.
#[derive(Clone, Copy)]
pub struct Head<'r> {
    /// What the client spoke. Decides which of the optional parts must be there.
    pub protocol: Protocol,
    /// The method. Whether it may be used is the route's word, apart from `CONNECT`.
    pub method: &'r Method,
    /// The request target as on the wire, `raw_path()`: origin-form, absolute-form, or anything.
    pub raw_target: &'r [u8],
    /// `:authority`, HTTP/2 only.
    pub authority: Option<&'r str>,
    /// `:scheme`, HTTP/2 only.
    pub scheme: Option<&'r str>,
    /// The header fields.
    pub headers: &'r HeaderMap,
    /// The bytes of the head as received, from the request line to the blank line; HTTP/1 only, and needed there.
    pub raw_h1: Option<&'r [u8]>,
    /// Whether the stream ended with its head; HTTP/2 only, HTTP/1 says it by framing.
    pub ended: Ended,
    /// How large a head may be.
    pub bounds: HeadBounds,
}

/// Whether an HTTP/2 stream carries a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The HEADERS frame carried END_STREAM.
    WithHead,
    /// DATA frames may follow. Also the right word where it is not known: a `GET` is then refused, nothing is let by.
    Open,
}

/// Bounds of a head. At the bound is allowed, one past it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadBounds {
    /// Bytes of the head. For HTTP/2: of the target, and of each name and value with 4 for what HTTP/1 writes around.
    pub head_bytes_max: usize,
    /// Header fields, a repeated name counted each time.
    pub fields_max: usize,
    /// Bytes of the request target.
    pub target_bytes_max: usize,
}

/// What becomes of the request target on its way to the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Forwarded byte for byte.
    AsReceived,
    /// It was absolute-form with a host equal to `Host`: [`Canonical::origin_form`] must be forwarded instead.
    Rewritten,
    /// `OPTIONS *` (RFC 9110 9.3.7): it asks this server, so the gateway answers it and forwards nothing. Its path is
    /// `*`, which no route matches.
    Server,
}

/// A head with one reading. Owns its text in one allocation, so it can outlive the borrow of the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canonical {
    /// Host, path, and `?` with the query where there is one, one after the other.
    text: Box<str>,
    host_len: usize,
    path_len: usize,
    target: Target,
    framing: Framing,
    upgrade: Upgrade,
}

impl Canonical {
    fn new(host: &str, parts: target::Parts<'_>, framing: Framing, upgrade: Upgrade) -> Self {
        let mut text = String::with_capacity(
            host.len()
                .saturating_add(parts.path.len())
                .saturating_add(parts.query.map_or(0, str::len))
                .saturating_add(1),
        );
        text.push_str(host);
        text.push_str(parts.path);
        if let Some(query) = parts.query {
            text.push('?');
            text.push_str(query);
        }
        Self {
            text: text.into_boxed_str(),
            host_len: host.len(),
            path_len: parts.path.len(),
            target: parts.target,
            framing,
            upgrade,
        }
    }

    /// The host: lower-case A-labels without port and trailing dot, or an IP literal as in a URL (IPv6 in brackets,
    /// RFC 5952).
    #[must_use]
    pub fn host(&self) -> &str {
        self.text.get(..self.host_len).unwrap_or_default()
    }

    /// The path as it goes on the wire, percent-encoded as received; starts with `/`, or is `*` for
    /// [`Target::Server`].
    #[must_use]
    pub fn path(&self) -> &str {
        self.origin_form().get(..self.path_len).unwrap_or_default()
    }

    /// The query as it goes on the wire without `?`; empty when there is none.
    #[must_use]
    pub fn query(&self) -> &str {
        self.origin_form().get(self.path_len..).and_then(|rest| rest.strip_prefix('?')).unwrap_or_default()
    }

    /// Path, and `?` with the query where one was sent: the target that goes upstream.
    #[must_use]
    pub fn origin_form(&self) -> &str {
        self.text.get(self.host_len..).unwrap_or_default()
    }

    /// What becomes of the request target.
    #[must_use]
    pub const fn target(&self) -> Target {
        self.target
    }

    /// How the body is delimited.
    #[must_use]
    pub const fn framing(&self) -> Framing {
        self.framing
    }

    /// Whether the client asks for another protocol on this connection.
    #[must_use]
    pub const fn upgrade(&self) -> Upgrade {
        self.upgrade
    }
}

/// Reads a head in the one way in which it can be read.
///
/// # Errors
/// The first [`Ambiguity`] found. The connection must be closed after the answer: what follows the head on it may not
/// be what it seems.
pub fn canonicalise(head: &Head<'_>) -> Result<Canonical, Ambiguity> {
    head.bounds.check(head)?;
    if *head.method == Method::CONNECT {
        return Err(Ambiguity::Connect);
    }
    let wire = match head.protocol {
        Protocol::Http1 => Some(raw::scan(head)?),
        Protocol::Http2 => None,
    };
    fields::check(head)?;
    let framing = framing::settle(head, wire.as_ref())?;
    let host = host::settle(head)?;
    let parts = target::split(head, &host)?;
    let upgrade = upgrade::classify(head, wire.as_ref())?;
    Ok(Canonical::new(&host, parts, framing, upgrade))
}

impl HeadBounds {
    fn check(&self, head: &Head<'_>) -> Result<(), Ambiguity> {
        let bytes = head.raw_h1.map_or_else(|| size(head), <[u8]>::len);
        if head.raw_target.len() > self.target_bytes_max {
            return Err(Ambiguity::TargetTooLong { bytes: head.raw_target.len(), max: self.target_bytes_max });
        }
        if bytes > self.head_bytes_max {
            return Err(Ambiguity::HeadTooLarge { bytes, max: self.head_bytes_max });
        }
        if head.headers.len() > self.fields_max {
            return Err(Ambiguity::TooManyFields { fields: head.headers.len(), max: self.fields_max });
        }
        Ok(())
    }
}

/// What the head would take on an HTTP/1 wire, so that one bound means the same over both protocols.
fn size(head: &Head<'_>) -> usize {
    head.headers.iter().fold(head.raw_target.len(), |bytes, (name, value)| {
        bytes.saturating_add(name.as_str().len()).saturating_add(value.len()).saturating_add(4)
    })
}

#[cfg(test)]
mod tests;
