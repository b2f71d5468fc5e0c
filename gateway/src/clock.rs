//! The system's clocks, for everybody who is handed a [`Clock`].

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use portcullis_api::{Clock, Micros, UnixSeconds};

/// Monotonic time since the start of the process, and the wall clock.
#[derive(Debug)]
pub(crate) struct SystemClock(Instant);

impl SystemClock {
    /// Starts at zero.
    #[must_use]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// How long until this second of the wall clock begins.
    #[must_use]
    pub(crate) fn until(&self, unix: UnixSeconds) -> Duration {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Duration::from_secs(unix).saturating_sub(now)
    }

    /// Monotonic microseconds.
    #[must_use]
    pub(crate) fn now_micros(&self) -> Micros {
        u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Micros {
        self.now_micros()
    }

    fn unix(&self) -> UnixSeconds {
        // A clock before 1970 makes every token expired in the future: iat checks refuse it. Nothing passes.
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }
}
