//! The request body until it is judged: read ahead where that is possible, held back where it is not.
//!
//! Invariant: while a body is inspected, the upstream sees no byte of it before the verdict. Up to [`READ_AHEAD`] it
//! does not even see the head. The measured ground for both is in ADR 3.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use pingora_proxy::Session;
use portcullis_api::Mode;
use portcullis_plugins::{
    canonical::{Framing, Upgrade},
    waf,
};

/// Pingora replays this much of a body that was read before the upstream was chosen.
pub(crate) const READ_AHEAD: usize = 64 << 10;
/// An h2 DATA frame that ends the stream may carry this much. A body of unknown length is not read ahead past
/// `READ_AHEAD` less one frame: the frame that overflows the replay buffer could be the last, and be lost.
const FRAME_MAX: usize = 16 << 10;

/// Where the body of this request is.
#[derive(Debug, Default)]
pub(crate) enum Body {
    /// There is none.
    #[default]
    Absent,
    /// Read whole and replayed by Pingora.
    Whole(Bytes),
    /// Comes later, through the body filter, and is held until its end.
    Held(Held),
    /// Streams through, counted only: it holds nothing to judge but its size, or the inspection is off.
    Streaming {
        /// Bytes of this attempt.
        seen: u64,
    },
}

impl Body {
    /// What was read ahead of it.
    pub(crate) fn ahead(&self) -> &[u8] {
        match self {
            Self::Whole(bytes) => bytes,
            Self::Absent | Self::Held(_) | Self::Streaming { .. } => &[],
        }
    }
}

/// A body on its way in.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// What was read ahead and will not be replayed.
    prefix: Option<Bytes>,
    bytes: BytesMut,
}

/// Why reading ahead ended early.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// More bytes than the limit, declared or counted.
    TooLarge {
        /// How many.
        bytes: u64,
    },
    /// The client did not send it in time.
    TimedOut,
    /// The client sent something that is no body, or went away.
    Broken,
    /// All bodies together hold as much as they may.
    NoRoom,
}

/// What all bodies that are held at once may take, over all connections.
pub(crate) const HELD_BYTES_MAX: u64 = 256 << 20;

/// Counts the bytes of held bodies.
#[derive(Default)]
pub(crate) struct Budget(Arc<AtomicU64>);

/// What one request holds; given back when it ends.
pub(crate) struct Share {
    all: Arc<AtomicU64>,
    bytes: u64,
}

impl Budget {
    /// A share of nothing yet.
    pub(crate) fn share(&self) -> Share {
        Share { all: self.0.clone(), bytes: 0 }
    }
}

impl Share {
    /// Takes room for so many more bytes, if there is any.
    fn grow(&mut self, bytes: usize) -> bool {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let before = self.all.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > HELD_BYTES_MAX {
            self.all.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.bytes = self.bytes.saturating_add(bytes);
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Reads the body ahead, as far as it can be replayed. In shadow nothing is too large: what passes the limit streams.
pub(crate) async fn read_ahead(
    session: &mut Session,
    declared: Option<u64>,
    body_max: u64,
    mode: Mode,
    share: &mut Share,
) -> Result<Body, ReadError> {
    if let Some(bytes) = declared
        && bytes > body_max
    {
        return match mode {
            Mode::Enforce => Err(ReadError::TooLarge { bytes }),
            Mode::Shadow => Ok(Body::Streaming { seen: 0 }),
        };
    }
    if declared.is_some_and(|length| usize::try_from(length).is_ok_and(|length| length > READ_AHEAD)) {
        return Ok(Body::Held(Held::default()));
    }
    let ahead_max = match (declared, session.is_http2()) {
        (None, true) => READ_AHEAD.saturating_sub(FRAME_MAX),
        (Some(_), _) | (None, false) => READ_AHEAD,
    };
    session.as_mut().enable_retry_buffering();
    let mut bytes = BytesMut::new();
    loop {
        let piece = match session.as_mut().read_request_body().await {
            Ok(Some(piece)) => piece,
            Ok(None) => break,
            Err(error) => return Err(classify(&error)),
        };
        if !share.grow(piece.len()) {
            return Err(ReadError::NoRoom);
        }
        bytes.extend_from_slice(&piece);
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if mode == Mode::Enforce && length > body_max {
            return Err(ReadError::TooLarge { bytes: length });
        }
        if session.is_body_done() {
            break;
        }
        if bytes.len() > ahead_max {
            let prefix = session.retry_buffer_truncated().then(|| bytes.freeze());
            return Ok(Body::Held(Held { prefix, bytes: BytesMut::new() }));
        }
    }
    if session.retry_buffer_truncated() {
        // Not reachable by the arithmetic above; forwarding would lose the body, so it is refused.
        return Err(ReadError::Broken);
    }
    Ok(if bytes.is_empty() { Body::Absent } else { Body::Whole(bytes.freeze()) })
}

fn classify(error: &pingora_error::Error) -> ReadError {
    if *error.etype() == pingora_error::ErrorType::ReadTimedout { ReadError::TimedOut } else { ReadError::Broken }
}

/// What the head says of the body. The bytes after a WebSocket handshake are no body.
pub(crate) fn announced(framing: Framing, upgrade: Upgrade) -> waf::Body<'static> {
    match (framing, upgrade) {
        (_, Upgrade::WebSocket) | (Framing::None | Framing::Length(0), _) => waf::Body::Absent,
        (Framing::Length(length), Upgrade::None) => waf::Body::Later { declared: Some(length) },
        (Framing::Chunked, Upgrade::None) => waf::Body::Later { declared: None },
    }
}

impl Held {
    /// A new attempt replays what Pingora kept; what was held of the last attempt is dropped.
    pub(crate) fn restart(&mut self) {
        self.bytes.clear();
    }

    /// Takes one piece. Answers the number of bytes so far; `None` when there is no room for it.
    pub(crate) fn take(&mut self, piece: &[u8], share: &mut Share) -> Option<u64> {
        if !share.grow(piece.len()) {
            return None;
        }
        if self.bytes.is_empty()
            && let Some(prefix) = &self.prefix
        {
            self.bytes.extend_from_slice(prefix);
        }
        self.bytes.extend_from_slice(piece);
        Some(u64::try_from(self.bytes.len()).unwrap_or(u64::MAX))
    }

    /// Gives everything away at the end of the body.
    pub(crate) fn finish(&mut self) -> Bytes {
        if self.bytes.is_empty()
            && let Some(prefix) = &self.prefix
        {
            return prefix.clone();
        }
        self.bytes.split().freeze()
    }
}

/// Reads what a refused client is still sending, within bounds, so that it can read the answer before the
/// connection closes (a close with unread bytes is a reset, and the answer is lost).
pub(crate) async fn drain(session: &mut Session) {
    const BYTES_MAX: usize = 4 << 20;
    const TIME_MAX: Duration = Duration::from_secs(2);
    session.set_read_timeout(Some(Duration::from_secs(1)));
    let reading = async {
        let mut drained = 0usize;
        while let Ok(Some(piece)) = session.as_downstream_mut().read_request_body().await {
            drained = drained.saturating_add(piece.len());
            if drained > BYTES_MAX {
                break;
            }
        }
    };
    // Either way the connection is closed next; there is nothing to decide on a time-out.
    let _bounded = tokio::time::timeout(TIME_MAX, reading).await;
}
