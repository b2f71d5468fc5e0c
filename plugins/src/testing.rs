//! What the unit tests of several controls share: a clock that is set by hand, and futures that are ready at once.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};

use http::{HeaderMap, Method};
use portcullis_api::{Clock, Facts, Micros, Protocol, UnixSeconds};

/// Polls once. A control whose state is in memory never waits.
pub(crate) fn now_or_never<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("a control in memory waited"),
    }
}

/// A monotonic clock that moves when told.
#[derive(Debug, Default)]
pub(crate) struct HandClock(AtomicU64);

impl HandClock {
    /// Starts at an hour, so that nothing is mistaken for zero.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(3_600_000_000)))
    }

    pub(crate) fn advance(&self, by: Micros) {
        self.0.fetch_add(by, Ordering::SeqCst);
    }
}

impl Clock for HandClock {
    fn now(&self) -> Micros {
        self.0.load(Ordering::SeqCst)
    }

    fn unix(&self) -> UnixSeconds {
        1_700_000_000
    }
}

/// A request of this method with these fields.
pub(crate) fn facts<'r>(method: &'r Method, headers: &'r HeaderMap) -> Facts<'r> {
    Facts { method, host: "host", path: "/", query: "", headers, protocol: Protocol::Http1 }
}
