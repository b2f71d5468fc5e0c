//! Whether calls are tried at all. Counts misses where callers see them: a caller that gives up earlier than the driver
//! cancels its request, and the driver never learns that anything was wrong.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Misses in a row that open it.
const OPENS_AT: u32 = 5;

/// Misses in a row, and silence, after which a connection is taken for dead.
const DEAD_AT: u32 = 3;
const DEAD_AFTER: Duration = Duration::from_millis(300);

#[derive(Debug)]
pub(super) struct Breaker {
    misses: AtomicU32,
    open: AtomicBool,
    epoch: Instant,
    /// The last sign of life, in milliseconds since `epoch`; an error is one too.
    heard: AtomicU64,
}

impl Breaker {
    pub(super) fn new(now: Instant) -> Self {
        Self { misses: AtomicU32::new(0), open: AtomicBool::new(false), epoch: now, heard: AtomicU64::new(0) }
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// A call succeeded. While the breaker is open that is a straggler's, and closes nothing.
    pub(super) fn answered(&self, now: Instant) {
        self.heard(now);
        if !self.is_open() && self.misses.load(Ordering::Relaxed) != 0 {
            self.misses.store(0, Ordering::Relaxed);
        }
    }

    /// The server said something.
    pub(super) fn heard(&self, now: Instant) {
        self.heard.store(self.since_epoch(now), Ordering::Relaxed);
    }

    /// A call failed. Answers whether the breaker is open now.
    pub(super) fn missed(&self) -> bool {
        let misses = self.misses.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| Some(n.saturating_add(1)));
        let misses = misses.unwrap_or_else(|n| n).saturating_add(1);
        if misses >= OPENS_AT {
            self.open.store(true, Ordering::Relaxed);
        }
        self.is_open()
    }

    /// The prober found the server well.
    pub(super) fn close(&self, now: Instant) {
        self.heard(now);
        self.misses.store(0, Ordering::Relaxed);
        self.open.store(false, Ordering::Relaxed);
    }

    /// Whether something is wrong, though perhaps not enough to open.
    pub(super) fn is_troubled(&self) -> bool {
        self.is_open() || self.misses.load(Ordering::Relaxed) > 0
    }

    /// Whether the connection should be given up: misses in a row, and silence.
    pub(super) fn is_dead(&self, now: Instant) -> bool {
        self.misses.load(Ordering::Relaxed) >= DEAD_AT && self.silence(now) >= DEAD_AFTER
    }

    /// How long nothing was heard.
    pub(super) fn silence(&self, now: Instant) -> Duration {
        Duration::from_millis(self.since_epoch(now).saturating_sub(self.heard.load(Ordering::Relaxed)))
    }

    fn since_epoch(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn five_misses_in_a_row_open_it_and_four_do_not() {
        let (breaker, now) = (Breaker::new(Instant::now()), Instant::now());
        assert!((0..4).all(|_| !breaker.missed()));
        breaker.answered(now);
        assert!((0..4).all(|_| !breaker.missed()));
        assert!(breaker.missed() && breaker.is_open());
    }

    #[test]
    fn only_the_prober_closes_it() {
        let (breaker, now) = (Breaker::new(Instant::now()), Instant::now());
        while !breaker.missed() {}
        breaker.answered(now);
        assert!(breaker.is_open());
        breaker.close(now);
        assert!(!breaker.is_open() && !breaker.is_troubled());
    }

    #[test]
    fn a_connection_is_dead_after_three_misses_and_300_ms_of_silence() {
        let start = Instant::now();
        let breaker = Breaker::new(start);
        breaker.answered(start + 1_000 * MS);
        assert!(!breaker.missed() && !breaker.missed());
        assert!(!breaker.is_dead(start + 9_000 * MS), "two misses");
        breaker.missed();
        assert!(!breaker.is_dead(start + 1_299 * MS));
        assert!(breaker.is_dead(start + 1_300 * MS));
        breaker.heard(start + 1_300 * MS);
        assert!(!breaker.is_dead(start + 1_300 * MS), "an error is a sign of life");
    }
}
