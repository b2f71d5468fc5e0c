//! The phase machine of a connection: which deadline runs now, how much a head may still grow, and what was left
//! unfinished at the end. It reads no clock and does no I/O; the stream hands it bytes and instants.

use std::time::Duration;

use portcullis_config::document::Bounds;
use tokio::time::Instant;

use super::{
    conn::{Flight, after},
    frames::Frames,
};

/// A whole request body has this many times as long as the gap between two pieces of it.
const BODY_TOTAL_FACTOR: u32 = 10;

/// So much more of a head than the bound is read: only canonicalisation measures a whole head and answers one that is
/// slightly too large with everything that an answer of its host has, and with an access line.
pub(super) const HEAD_SLACK_BYTES: usize = 8 << 10;

/// The window an HTTP/2 connection starts with, RFC 9113, 6.9.2.
const H2_FIRST_WINDOW: u64 = 65_535;

/// Why the edge ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Cut {
    /// A head was not complete in time.
    #[error("the head of a request was not complete in time")]
    HeadTimeout,
    /// A head is larger than the bound and the slack.
    #[error("the head of a request is larger than the bound")]
    HeadTooLarge,
    /// Nothing was asked for too long.
    #[error("the connection was idle for too long")]
    Idle,
    /// A body that was announced stopped arriving.
    #[error("a request body stopped arriving")]
    BodyStalled,
    /// A body did not end in time.
    #[error("a request body was not complete in time")]
    BodyTimeout,
}

impl Cut {
    pub(super) const NONE: u8 = 0;
    const ALL: [Self; 5] = [Self::HeadTimeout, Self::HeadTooLarge, Self::Idle, Self::BodyStalled, Self::BodyTimeout];

    /// As written in logs and metric labels.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::HeadTimeout => "timeout",
            Self::HeadTooLarge => "too_large",
            Self::Idle => "idle",
            Self::BodyStalled => "body_stalled",
            Self::BodyTimeout => "body_timeout",
        }
    }

    /// Whether a request body was late: what the client should read is 408.
    pub(super) const fn is_body(self) -> bool {
        match self {
            Self::BodyStalled | Self::BodyTimeout => true,
            Self::HeadTimeout | Self::HeadTooLarge | Self::Idle => false,
        }
    }

    pub(super) const fn to_u8(self) -> u8 {
        match self {
            Self::HeadTimeout => 1,
            Self::HeadTooLarge => 2,
            Self::Idle => 3,
            Self::BodyStalled => 4,
            Self::BodyTimeout => 5,
        }
    }

    pub(super) fn from_u8(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|cut| cut.to_u8() == byte)
    }
}

/// The bounds of a listener that a stream keeps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    head_timeout: Duration,
    idle_timeout: Duration,
    body_gap: Duration,
    body_total: Duration,
    /// Where a head is cut: the listener's bound and the slack.
    head_bytes: usize,
}

impl From<&Bounds> for Limits {
    fn from(bounds: &Bounds) -> Self {
        let body_gap = bounds.body_timeout.duration();
        Self {
            head_timeout: bounds.head_timeout.duration(),
            idle_timeout: bounds.idle_timeout.duration(),
            body_gap,
            body_total: body_gap.saturating_mul(BODY_TOTAL_FACTOR),
            head_bytes: bounds.head_bytes_max.as_len().saturating_add(HEAD_SLACK_BYTES),
        }
    }
}

/// What an ended connection had begun and not brought to a filter.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Unfinished {
    /// A head was in progress, and why it is no longer.
    pub(super) head: Option<&'static str>,
    /// Complete HTTP/2 heads that reached no filter.
    pub(super) refused: u32,
}

/// The phase machine.
#[derive(Debug)]
pub(super) struct Watch {
    limits: Limits,
    /// When the stream first had to wait for body bytes that have not come since.
    stalled_since: Option<Instant>,
    spoken: Spoken,
}

#[derive(Debug)]
enum Spoken {
    Http1(Head),
    Http2(Box<Mux>),
}

/// HTTP/1: one head at a time.
#[derive(Debug, Default)]
struct Head {
    since: Option<Instant>,
    bytes: usize,
    /// `Flight::started` when this head began: once it moves, the head has become a request.
    started: u32,
}

/// HTTP/2: many streams.
#[derive(Debug)]
struct Mux {
    read: Frames,
    written: Frames,
    head_since: Option<Instant>,
    blocks_seen: u32,
    /// The widest the connection's window has been.
    window_max: u64,
}

impl Watch {
    pub(super) fn http1(limits: Limits) -> Self {
        Self { limits, stalled_since: None, spoken: Spoken::Http1(Head::default()) }
    }

    pub(super) fn http2(limits: Limits, opened: Instant) -> Self {
        let mux = Mux {
            read: Frames::from_client(),
            written: Frames::from_server(),
            // The client owes us its preface from the start.
            head_since: Some(opened),
            blocks_seen: 0,
            window_max: H2_FIRST_WINDOW,
        };
        Self { limits, stalled_since: None, spoken: Spoken::Http2(Box::new(mux)) }
    }

    /// Whether filters run in other tasks than the one that reads.
    pub(super) const fn is_http2(&self) -> bool {
        match self.spoken {
            Spoken::Http1(_) => false,
            Spoken::Http2(_) => true,
        }
    }

    /// Whether the next thing to come from an HTTP/1 client is a request: what is answered now answers none.
    pub(super) fn is_before_request(&self, flight: &Flight) -> bool {
        !self.is_http2() && !flight.in_request()
    }

    /// How many bytes the next read may take: what the head has left. `None`: as many as come.
    ///
    /// # Errors
    /// [`Cut::HeadTooLarge`] when the head has used up its bound and the parser still asks for more.
    pub(super) fn room(&mut self, flight: &Flight) -> Result<Option<usize>, Cut> {
        match &mut self.spoken {
            Spoken::Http2(_) => Ok(None),
            Spoken::Http1(_) if flight.in_request() => Ok(None),
            Spoken::Http1(head) => {
                head.settle(flight);
                match self.limits.head_bytes.saturating_sub(head.bytes) {
                    0 => Err(Cut::HeadTooLarge),
                    left => Ok(Some(left)),
                }
            }
        }
    }

    /// Bytes that were read; never empty.
    pub(super) fn on_read(&mut self, bytes: &[u8], flight: &Flight, now: Instant) {
        match &mut self.spoken {
            Spoken::Http1(_) if flight.in_request() => self.stalled_since = None,
            Spoken::Http1(head) => {
                head.settle(flight);
                head.since.get_or_insert(now);
                head.bytes = head.bytes.saturating_add(bytes.len());
            }
            Spoken::Http2(mux) => {
                if mux.on_read(bytes, now) {
                    self.stalled_since = None;
                }
            }
        }
    }

    /// Bytes that were written.
    pub(super) fn on_write(&mut self, bytes: &[u8]) {
        match &mut self.spoken {
            Spoken::Http1(_) => {}
            Spoken::Http2(mux) => {
                if mux.on_write(bytes) {
                    self.stalled_since = None;
                }
            }
        }
    }

    /// Which deadline comes next while nothing can be read. One that is due at `now` or before ends the connection.
    pub(super) fn deadline(&mut self, flight: &Flight, now: Instant) -> Option<(Instant, Cut)> {
        let body = self.body_deadline(flight, now);
        let head_since = match &mut self.spoken {
            Spoken::Http1(_) if flight.in_request() => return body,
            Spoken::Http1(head) => {
                head.settle(flight);
                head.since
            }
            Spoken::Http2(mux) => mux.head_since,
        };
        let head = match head_since {
            Some(since) => Some((after(since, self.limits.head_timeout), Cut::HeadTimeout)),
            None if flight.in_request() => None,
            None => Some((after(flight.idle_since(), self.limits.idle_timeout), Cut::Idle)),
        };
        head.into_iter().chain(body).min_by_key(|(at, _)| *at)
    }

    fn body_deadline(&mut self, flight: &Flight, now: Instant) -> Option<(Instant, Cut)> {
        let Some(oldest) = flight.oldest_wait() else {
            self.stalled_since = None;
            return None;
        };
        let stalled = (*self.stalled_since.get_or_insert(now)).max(oldest);
        let may_send = match &self.spoken {
            Spoken::Http1(_) => true,
            Spoken::Http2(mux) => mux.may_send(),
        };
        // A client without window is waiting for us: look again later.
        let gap = after(if may_send { stalled } else { now }, self.limits.body_gap);
        let total = after(oldest, self.limits.body_total);
        Some(if total <= gap { (total, Cut::BodyTimeout) } else { (gap, Cut::BodyStalled) })
    }

    /// What the connection leaves behind.
    pub(super) fn unfinished(&self, flight: &Flight) -> Unfinished {
        let why = || flight.cut().map_or("closed", Cut::as_str);
        match &self.spoken {
            Spoken::Http1(head) if head.since.is_some() && head.started == flight.started() => {
                Unfinished { head: Some(why()), refused: 0 }
            }
            Spoken::Http1(_) => Unfinished::default(),
            Spoken::Http2(mux) => {
                // A client that connects and sends nothing has begun no head.
                let begun = mux.read.in_head() && !mux.read.is_silent();
                Unfinished { head: begun.then(why), refused: mux.read.heads().saturating_sub(flight.started()) }
            }
        }
    }
}

impl Head {
    /// Forgets a head that has become a request.
    fn settle(&mut self, flight: &Flight) {
        let started = flight.started();
        if self.started != started {
            *self = Self { started, ..Self::default() };
        }
    }
}

impl Mux {
    /// True when body bytes came.
    fn on_read(&mut self, bytes: &[u8], now: Instant) -> bool {
        let data = self.read.data();
        self.read.feed(bytes);
        if self.read.blocks() != self.blocks_seen {
            self.blocks_seen = self.read.blocks();
            self.head_since = None;
        }
        if self.read.in_head() {
            self.head_since.get_or_insert(now);
        } else {
            self.head_since = None;
        }
        self.read.data() != data
    }

    /// True when the client may send more than before.
    fn on_write(&mut self, bytes: &[u8]) -> bool {
        let granted = self.written.granted();
        self.written.feed(bytes);
        self.window_max = self.window_max.max(self.window());
        self.written.granted() != granted
    }

    fn window(&self) -> u64 {
        H2_FIRST_WINDOW.saturating_add(self.written.granted()).saturating_sub(self.read.data())
    }

    /// Whether every stream of the client has window left. Streams and connection have windows of one size
    /// (`edge::prepare`), and `h2` renews one at the latest when half of it was read: so while half of the
    /// connection's window is open no stream's is closed, and once all that came was read half of it is open.
    fn may_send(&self) -> bool {
        self.window() >= self.window_max >> 1
    }
}
