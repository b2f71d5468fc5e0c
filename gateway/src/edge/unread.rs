//! What the edge itself answers: to an HTTP/1 head that becomes no request, because the parser refuses it or because it
//! is too slow or too large. In the form of every other refusal; nothing of the head is read for it or shown.

use std::{
    io,
    task::{Context, Poll, ready},
};

use http::StatusCode;
use pingora_core::protocols::http::date;
use portcullis_api::{Code, Refusal};
use portcullis_config::SecurityHeaderValues;
use portcullis_plugins::canonical::Ambiguity;
use tokio::io::ReadBuf;
use uuid::Uuid;

use super::{Answered, stream::Wire, watch::Cut};
use crate::problem::{self, NO_DEVICES, NOSNIFF, Problem, SAME_ORIGIN};

const UNREADABLE: Code = Code { name: "request.unreadable", status: 400, title: "The request could not be read" };
const HEAD_TIMEOUT: Code =
    Code { name: "request.head_timeout", status: 408, title: "The head of the request did not come in time" };

/// The edge's own codes. For what canonicalisation refuses too the edge answers with its code.
pub(crate) const CODES: &[Code] = &[UNREADABLE, HEAD_TIMEOUT];

/// What is read and thrown away after an answer: a socket that is closed with bytes unread is reset, and a reset can
/// overtake the answer.
const DRAINED_BYTES_MAX: usize = 256 << 10;

/// Why a head becomes no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unread {
    Unreadable,
    TimedOut,
    TooLarge,
}

impl Unread {
    /// The head that the parser answers with this, if `written` begins an answer. Pingora writes the head of an answer
    /// in one piece, and has no other refusal here than 400.
    pub(super) fn by_parser(written: &[u8]) -> Option<Self> {
        written.starts_with(b"HTTP/1.").then_some(Self::Unreadable)
    }

    /// Silence is no request, and a late body is the filters' to answer.
    pub(super) const fn by_cut(cut: Cut) -> Option<Self> {
        match cut {
            Cut::HeadTimeout => Some(Self::TimedOut),
            Cut::HeadTooLarge => Some(Self::TooLarge),
            Cut::Idle | Cut::BodyStalled | Cut::BodyTimeout => None,
        }
    }

    /// As in `EdgeEvents::head_aborted`.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Unreadable => "refused",
            Self::TimedOut => Cut::HeadTimeout.as_str(),
            Self::TooLarge => Cut::HeadTooLarge.as_str(),
        }
    }

    pub(super) fn code(self) -> Code {
        match self {
            Self::Unreadable => UNREADABLE,
            Self::TimedOut => HEAD_TIMEOUT,
            Self::TooLarge => Ambiguity::HeadTooLarge { bytes: 0, max: 0 }.code(),
        }
    }
}

/// An answer on its way to the client. The connection ends with it.
pub(super) struct Answer {
    bytes: Vec<u8>,
    written: usize,
    /// Our half of the connection is closed.
    closed: bool,
    drained: usize,
}

impl Answer {
    /// With a request id of its own.
    pub(super) fn to(unread: Unread, tls: bool) -> (Self, Answered) {
        let code = unread.code();
        let answered = Answered { code: code.name, request_id: Uuid::now_v7().to_string().into() };
        let bytes = page(code, &answered.request_id, tls);
        (Self { bytes, written: 0, closed: false, drained: 0 }, answered)
    }

    /// Writes and flushes what is left.
    pub(super) fn poll_deliver(&mut self, wire: &mut Wire, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(left) = self.bytes.get(self.written..).filter(|left| !left.is_empty()) {
            match ready!(wire.writer().poll_write(cx, left))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written = self.written.saturating_add(written),
            }
        }
        wire.writer().poll_flush(cx)
    }

    /// Delivers, closes our half, and waits for the client to close its own.
    pub(super) fn poll_end(&mut self, wire: &mut Wire, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closed {
            ready!(self.poll_deliver(wire, cx))?;
            ready!(wire.writer().poll_shutdown(cx))?;
            self.closed = true;
        }
        let mut scrap = [0; 4 << 10];
        while self.drained < DRAINED_BYTES_MAX {
            let mut part = ReadBuf::new(&mut scrap);
            // However the client ends it: it had the answer.
            if ready!(wire.poll_read(cx, &mut part)).is_err() || part.filled().is_empty() {
                break;
            }
            self.drained = self.drained.saturating_add(part.filled().len());
        }
        Poll::Ready(Ok(()))
    }
}

fn page(code: Code, request_id: &str, tls: bool) -> Vec<u8> {
    let body = Problem::new(&code, request_id).to_json();
    let status = code.status;
    let phrase = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or_default();
    let mut bytes = format!("HTTP/1.1 {status} {phrase}\r\n").into_bytes();
    let mut field = |name: &str, value: &[u8]| {
        for part in [name.as_bytes(), b": ", value, b"\r\n"] {
            bytes.extend_from_slice(part);
        }
    };
    // No host is known yet: the headers of a host that sets none.
    let security = SecurityHeaderValues::default();
    field("Date", date::get_cached_date().as_bytes());
    field("Content-Type", problem::CONTENT_TYPE.as_bytes());
    field("Content-Length", body.len().to_string().as_bytes());
    field("Cache-Control", b"no-store");
    field("Connection", b"close");
    field("X-Request-Id", request_id.as_bytes());
    if tls {
        field("Strict-Transport-Security", security.strict_transport_security.as_bytes());
    }
    field("Content-Security-Policy", security.content_security_policy.as_bytes());
    field("X-Frame-Options", security.x_frame_options.as_bytes());
    field("X-Content-Type-Options", NOSNIFF.as_bytes());
    field("Referrer-Policy", security.referrer_policy.as_bytes());
    field("Cross-Origin-Opener-Policy", SAME_ORIGIN.as_bytes());
    field("Permissions-Policy", NO_DEVICES.as_bytes());
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(&body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_head_of_an_answer_is_taken_for_a_refusal() {
        for (written, unread) in [
            (b"HTTP/1.1 400 Bad Request\r\n".as_slice(), Some(Unread::Unreadable)),
            (b"HTTP/1.0 500 \r\n", Some(Unread::Unreadable)),
            (b"0\r\n\r\n", None),
            (b"", None),
        ] {
            assert_eq!(Unread::by_parser(written), unread, "{}", written.escape_ascii());
        }
    }

    #[test]
    fn what_canonicalisation_refuses_too_has_its_code_and_status() {
        for (unread, name, status) in [
            (Unread::Unreadable, "request.unreadable", 400),
            (Unread::TimedOut, "request.head_timeout", 408),
            (Unread::TooLarge, "request.head_too_large", 431),
        ] {
            let code = unread.code();
            assert_eq!((code.name, code.status), (name, status));
            assert!([CODES, Ambiguity::CODES].concat().contains(&code), "{name} is in no reference");
        }
    }
}
