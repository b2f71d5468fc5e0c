//! When an issuer's keys are fetched: by the clock, for a key that nobody knows, or because the operator says so. Pure: the
//! time is handed in.
//!
//! Invariant: one fetch at a time, and whatever strangers send, at most one in [`ATTEMPT_INTERVAL`] and [`UNKNOWN_MAX`] in an
//! hour. Attempts are counted when they begin, whether they succeed or not.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Between two attempts.
pub(super) const ATTEMPT_INTERVAL: Duration = Duration::from_secs(30);
/// Attempts for keys that nobody knows, in [`HOUR`].
const UNKNOWN_MAX: usize = 20;
const HOUR: Duration = Duration::from_secs(3600);

/// What is known of an issuer's fetches.
#[derive(Default)]
pub(super) struct Schedule {
    flight: Flight,
    attempted: Option<Instant>,
    /// Why the last attempt failed, and when; none after one that did not.
    failed: Option<(Instant, String)>,
    /// When attempts for unknown keys began, in the last hour.
    unknown: VecDeque<Instant>,
    loaded: Option<Loaded>,
    /// From a fetch that succeeded to the next one.
    interval: Duration,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Flight {
    #[default]
    Landed,
    UnderWay,
}

/// The set in force.
#[derive(Debug, Clone, Copy)]
struct Loaded {
    at: Instant,
    /// How old it was then.
    age: Duration,
    from: Origin,
}

/// Where the set in force came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// From its source.
    Source,
    /// From the copy on disk.
    Copy,
}

/// What an unknown key brings about.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// A fetch, which the caller has to begin now.
    Fetch,
    /// Waiting for the one that is under way.
    Join,
    /// Nothing: the issuer has said lately what there is.
    Absent,
    /// Nothing, and the issuer did not say what there is.
    CannotTell,
}

impl Schedule {
    /// Whether it is time for a fetch by the clock. Claims it.
    pub(super) fn due(&mut self, now: Instant) -> bool {
        let due = self.flight == Flight::Landed && self.until_next(now).is_none_or(|wait| wait.is_zero());
        if due {
            self.claim(now);
        }
        due
    }

    /// How long until a fetch by the clock; `None` before the first.
    pub(super) fn until_next(&self, now: Instant) -> Option<Duration> {
        let since = now.saturating_duration_since(self.attempted?);
        let wait = match (&self.failed, self.loaded) {
            (None, Some(_)) => self.interval,
            (Some(_), _) | (None, None) => ATTEMPT_INTERVAL,
        };
        Some(wait.saturating_sub(since))
    }

    /// What a key brings about that is not in the set. Claims the fetch, where it answers [`Asked::Fetch`].
    pub(super) fn unknown_kid(&mut self, now: Instant) -> Asked {
        if self.flight == Flight::UnderWay {
            return Asked::Join;
        }
        while self.unknown.front().is_some_and(|at| now.saturating_duration_since(*at) >= HOUR) {
            self.unknown.pop_front();
        }
        let spaced = |at: &Instant| now.saturating_duration_since(*at) >= ATTEMPT_INTERVAL;
        // A fetch by the clock that succeeded does not hold one for an unknown key up: a key that is used the moment it is
        // published would be refused for as long. It comes once in minutes, so the rate hardly changes.
        let allowed = self.unknown.len() < UNKNOWN_MAX
            && self.unknown.back().is_none_or(spaced)
            && (self.failed.is_none() || self.attempted.as_ref().is_none_or(spaced));
        if allowed {
            self.unknown.push_back(now);
            self.claim(now);
            return Asked::Fetch;
        }
        // What was fetched a while ago does not say what is published now.
        let fresh = self.loaded.as_ref().is_some_and(|loaded| {
            loaded.from == Origin::Source && now.saturating_duration_since(loaded.at) < ATTEMPT_INTERVAL
        });
        if self.failed.is_none() && fresh { Asked::Absent } else { Asked::CannotTell }
    }

    /// The operator wants one now. Claims it; `false` where one is under way already.
    pub(super) fn force(&mut self, now: Instant) -> bool {
        let landed = self.flight == Flight::Landed;
        if landed {
            self.claim(now);
        }
        landed
    }

    fn claim(&mut self, now: Instant) {
        self.flight = Flight::UnderWay;
        self.attempted = Some(now);
    }

    /// A set came from its source; the next fetch is after `interval`.
    pub(super) fn succeeded(&mut self, now: Instant, interval: Duration) {
        self.flight = Flight::Landed;
        self.failed = None;
        self.interval = interval;
        self.loaded = Some(Loaded { at: now, age: Duration::ZERO, from: Origin::Source });
    }

    /// A set came from the copy on disk, which is so old.
    pub(super) fn restored(&mut self, now: Instant, age: Duration) {
        self.loaded = Some(Loaded { at: now, age, from: Origin::Copy });
    }

    /// The attempt failed.
    pub(super) fn failed(&mut self, now: Instant, why: String) {
        self.flight = Flight::Landed;
        self.failed = Some((now, why));
    }

    /// How old the set in force is, and where it came from.
    pub(super) fn age(&self, now: Instant) -> Option<(Duration, Origin)> {
        self.loaded.map(|loaded| (loaded.age.saturating_add(now.saturating_duration_since(loaded.at)), loaded.from))
    }

    /// Why the last attempt failed, and how long ago.
    pub(super) fn failure(&self, now: Instant) -> Option<(Duration, &str)> {
        self.failed.as_ref().map(|(at, why)| (now.saturating_duration_since(*at), why.as_str()))
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "a test that overflows fails")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTES: Duration = Duration::from_secs(300);

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    /// One whose first fetch succeeded at `start`.
    fn loaded(start: Instant) -> Schedule {
        let mut schedule = Schedule::default();
        assert!(schedule.due(start));
        schedule.succeeded(start, MINUTES);
        schedule
    }

    #[test]
    fn a_fetch_by_the_clock_comes_after_the_interval_and_after_a_failure_sooner() {
        let start = Instant::now();
        let mut schedule = loaded(start);
        assert!(!schedule.due(after(start, 299)));
        assert!(schedule.due(after(start, 300)));
        assert!(!schedule.due(after(start, 900)), "one at a time");
        schedule.failed(after(start, 305), "it is away".into());
        assert!(!schedule.due(after(start, 329)));
        assert!(schedule.due(after(start, 330)));
        schedule.succeeded(after(start, 331), MINUTES);
        assert_eq!(schedule.failure(after(start, 331)), None);
        assert_eq!(schedule.until_next(after(start, 331)), Some(Duration::from_secs(299)));
    }

    #[test]
    fn key_01_an_unknown_key_is_fetched_at_once_and_then_not_for_half_a_minute() {
        let start = Instant::now();
        let mut schedule = loaded(start);
        assert_eq!(schedule.unknown_kid(after(start, 1)), Asked::Fetch);
        assert_eq!(schedule.unknown_kid(after(start, 1)), Asked::Join);
        schedule.succeeded(after(start, 2), MINUTES);
        assert_eq!(schedule.unknown_kid(after(start, 30)), Asked::Absent);
        assert_eq!(schedule.unknown_kid(after(start, 31)), Asked::Fetch);
        schedule.failed(after(start, 32), "it is away".into());
        assert_eq!(schedule.unknown_kid(after(start, 60)), Asked::CannotTell, "an issuer that is away has not said no");
        assert_eq!(schedule.unknown_kid(after(start, 61)), Asked::Fetch);
    }

    #[test]
    fn key_01_a_failed_fetch_by_the_clock_holds_unknown_keys_up_too() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        assert!(schedule.due(start));
        schedule.failed(after(start, 1), "it is away".into());
        assert_eq!(schedule.unknown_kid(after(start, 29)), Asked::CannotTell);
        assert_eq!(schedule.unknown_kid(after(start, 30)), Asked::Fetch);
    }

    #[test]
    fn key_01_there_are_twenty_attempts_in_an_hour() {
        let start = Instant::now();
        let mut schedule = loaded(start);
        let mut fetches = 0;
        for second in 0..3600 {
            if schedule.unknown_kid(after(start, second)) == Asked::Fetch {
                fetches += 1;
                schedule.succeeded(after(start, second), MINUTES);
            }
        }
        assert_eq!(fetches, 20);
        assert_eq!(schedule.unknown_kid(after(start, 3600)), Asked::Fetch, "the first of them is an hour ago");
    }

    #[test]
    fn the_operator_waits_for_nothing_but_the_fetch_under_way() {
        let start = Instant::now();
        let mut schedule = loaded(start);
        assert!(schedule.force(after(start, 1)));
        assert!(!schedule.force(after(start, 1)));
        schedule.failed(after(start, 2), "it is away".into());
        assert!(schedule.force(after(start, 3)));
    }

    #[test]
    fn a_copy_is_as_old_as_it_says_and_more_each_second() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        schedule.restored(start, Duration::from_secs(3600));
        assert_eq!(schedule.age(after(start, 5)), Some((Duration::from_secs(3605), Origin::Copy)));
        assert!(schedule.due(start), "the source is asked all the same");
        schedule.succeeded(after(start, 1), MINUTES);
        assert_eq!(schedule.age(after(start, 5)), Some((Duration::from_secs(4), Origin::Source)));
    }

    proptest! {
        #[test]
        fn key_01_whatever_comes_when_fetches_are_apart(
            steps in proptest::collection::vec((0..40_u64, any::<bool>(), any::<bool>()), 1..400),
        ) {
            let start = Instant::now();
            let mut schedule = loaded(start);
            let (mut second, mut begun) = (0, Vec::new());
            for (wait, unknown, good) in steps {
                second += wait;
                let now = after(start, second);
                let fetches = if unknown { schedule.unknown_kid(now) == Asked::Fetch } else { schedule.due(now) };
                if fetches {
                    begun.push((second, unknown));
                    if good { schedule.succeeded(now, MINUTES) } else { schedule.failed(now, "away".into()) }
                }
            }
            // Never two for unknown keys within half a minute, never three of any kind.
            let unknown: Vec<u64> = begun.iter().filter(|(_, unknown)| *unknown).map(|(at, _)| *at).collect();
            prop_assert!(unknown.windows(2).all(|pair| pair[1] - pair[0] >= 30));
            prop_assert!(begun.windows(3).all(|three| three[2].0 - three[0].0 >= 30));
            prop_assert!(unknown.windows(21).all(|many| many[20] - many[0] >= 3600));
        }
    }
}
