//! Buckets that Redis has said are empty: a request that needs one is refused without asking, until a token flows in.
//!
//! An empty bucket cannot fill earlier than it said, but an operator can reset it. So nothing is believed for longer
//! than [`BELIEVED_MAX`]. Of buckets that are leased `lease` remembers it.
//!
//! Invariant: only what Redis itself said is remembered, never what was decided while it was away.

use std::time::Instant;

use parking_lot::Mutex;
use portcullis_api::Micros;
use portcullis_plugins::rate_limit::{Answer, Binding, Bucket, Leasing, Level};

/// How long an empty bucket is taken for empty without asking again.
const BELIEVED_MAX: Micros = 1_000_000;

const WAYS: usize = 4;
/// Half a megabyte, whatever clients send.
const SETS: usize = 1 << 12;

/// An empty bucket; times in microseconds since the start.
#[derive(Debug, Clone, Copy, Default)]
struct Empty {
    key: u128,
    /// Tokens that it has, too few for a request.
    remaining: u32,
    /// When it is to be asked again.
    until: Micros,
    /// When a token flows in.
    token: Micros,
    /// When it is full.
    full: Micros,
}

pub(super) struct Denials {
    sets: Box<[Mutex<[Empty; WAYS]>]>,
    epoch: Instant,
}

impl Denials {
    pub(super) fn new(now: Instant) -> Self {
        Self { sets: std::iter::repeat_with(Mutex::default).take(SETS).collect(), epoch: now }
    }

    /// The answer to a call of which a bucket is known to be empty. None where a rule in shadow is among them: it is
    /// charged whatever the others say, so it has to be asked.
    pub(super) fn answer(&self, buckets: &[Bucket<'_>], now: Instant) -> Option<Vec<Level>> {
        if buckets.iter().any(|bucket| bucket.binding == Binding::Alone) {
            return None;
        }
        let now = self.since_epoch(now);
        // Each is looked for once: one that is forgotten meanwhile must not turn into an answer that refuses nothing.
        let mut levels = Vec::new();
        for (at, bucket) in buckets.iter().enumerate() {
            let Some(Empty { remaining, token, full, .. }) = self.find(bucket.key, now) else { continue };
            if levels.is_empty() {
                levels.resize(buckets.len(), Level::UNASKED);
            }
            let (retry_after, reset_after) = (token.saturating_sub(now), full.saturating_sub(now));
            let short = Level { answer: Answer::Short, remaining, retry_after, reset_after };
            levels.get_mut(at).into_iter().for_each(|level| *level = short);
        }
        (!levels.is_empty()).then_some(levels)
    }

    /// Remembers which buckets Redis said are empty.
    pub(super) fn remember(&self, buckets: &[Bucket<'_>], levels: &[Level], now: Instant) {
        let now = self.since_epoch(now);
        let is_to_remember =
            |bucket: &Bucket<'_>, level: &Level| level.answer == Answer::Short && bucket.leasing == Leasing::Never;
        for (bucket, level) in buckets.iter().zip(levels).filter(|(bucket, level)| is_to_remember(bucket, level)) {
            let until = now.saturating_add(level.retry_after.min(BELIEVED_MAX));
            let empty = Empty {
                key: bucket.key,
                remaining: level.remaining,
                until,
                token: now.saturating_add(level.retry_after).max(until),
                full: now.saturating_add(level.reset_after),
            };
            let Some(set) = self.set(bucket.key) else { continue };
            let mut set = set.lock();
            let place = match set.iter().position(|known| known.key == empty.key) {
                Some(known) => set.get_mut(known),
                // The one that is asked again soonest is missed least.
                None => set.iter_mut().min_by_key(|known| known.until),
            };
            if let Some(place) = place {
                *place = empty;
            }
        }
    }

    /// Asks again for this bucket: an operator filled it.
    pub(super) fn forget(&self, key: u128) {
        let Some(set) = self.set(key) else { return };
        if let Some(empty) = set.lock().iter_mut().find(|empty| empty.key == key) {
            *empty = Empty::default();
        }
    }

    fn find(&self, key: u128, now: Micros) -> Option<Empty> {
        self.set(key)?.lock().iter().find(|empty| empty.key == key && empty.until > now).copied()
    }

    /// Keys are keyed hashes: nobody outside can crowd a set.
    fn set(&self, key: u128) -> Option<&Mutex<[Empty; WAYS]>> {
        let index = key.checked_rem(u128::try_from(self.sets.len()).ok()?)?;
        self.sets.get(usize::try_from(index).ok()?)
    }

    fn since_epoch(&self, now: Instant) -> Micros {
        Micros::try_from(now.saturating_duration_since(self.epoch).as_micros()).unwrap_or(Micros::MAX)
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "the numbers of the tests are small")]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::stores::redis::tests::bucket;

    const MS: Duration = Duration::from_millis(1);

    fn short(retry_after_ms: u64) -> Level {
        Level {
            answer: Answer::Short,
            remaining: 0,
            retry_after: retry_after_ms * 1_000,
            reset_after: retry_after_ms * 9_000,
        }
    }

    #[test]
    fn an_empty_bucket_refuses_until_a_token_flows_in_and_not_longer() {
        let (start, buckets) = (Instant::now(), [bucket("r", 7, 10), bucket("s", 8, 10)]);
        let denials = Denials::new(start);
        assert_eq!(denials.answer(&buckets, start), None);
        denials.remember(&buckets[..1], &[short(300)], start);
        let levels = denials.answer(&buckets, start + 100 * MS).unwrap();
        assert_eq!(
            (levels[0].answer, levels[0].retry_after, levels[0].reset_after),
            (Answer::Short, 200_000, 2_600_000)
        );
        assert_eq!(levels[1], Level::UNASKED);
        assert_eq!(denials.answer(&buckets[1..], start), None, "another bucket is none of its business");
        assert!(denials.answer(&buckets, start + 299 * MS).is_some());
        assert_eq!(denials.answer(&buckets, start + 300 * MS), None);
    }

    #[test]
    fn an_answer_from_memory_refuses_however_others_crowd_it_out() {
        let start = Instant::now();
        let denials = Denials::new(start);
        let crowd = |from: u128| {
            for n in 0..200_000 {
                // All in one set.
                let key = (from + n) * u128::try_from(SETS).unwrap();
                denials.remember(&[bucket("r", key, 10)], &[short(1_000)], start);
                if let Some(levels) = denials.answer(&[bucket("r", key, 10), bucket("s", key + 1, 10)], start) {
                    assert!(levels.iter().any(|level| level.answer == Answer::Short), "{levels:?}");
                }
            }
        };
        std::thread::scope(|scope| {
            for thread in 1..=4 {
                scope.spawn(move || crowd(thread * 10_000_000));
            }
        });
    }

    #[test]
    fn nothing_is_believed_for_longer_than_a_second() {
        let (start, buckets) = (Instant::now(), [bucket("r", 7, 10)]);
        let denials = Denials::new(start);
        denials.remember(&buckets, &[short(3_600_000)], start);
        let last = denials.answer(&buckets, start + 999 * MS).unwrap();
        assert_eq!(last[0].retry_after, 3_599_001_000, "what is told is the whole wait");
        assert_eq!(denials.answer(&buckets, start + 1_000 * MS), None);
    }

    #[test]
    fn a_bucket_that_had_a_token_or_is_leased_is_not_remembered_and_a_rule_in_shadow_is_always_asked() {
        let (start, buckets) = (Instant::now(), [bucket("r", 7, 10)]);
        let denials = Denials::new(start);
        for answer in [Answer::Charged, Answer::Spared] {
            denials.remember(&buckets, &[Level { answer, ..short(300) }], start);
            assert_eq!(denials.answer(&buckets, start), None);
        }
        let leased = [Bucket { leasing: Leasing::Allowed, ..buckets[0] }];
        denials.remember(&leased, &[short(300)], start);
        assert_eq!(denials.answer(&leased, start), None, "that is remembered where the leases are");
        denials.remember(&buckets, &[short(300)], start);
        let with_shadow = [buckets[0], Bucket { binding: Binding::Alone, ..bucket("s", 8, 10) }];
        assert_eq!(denials.answer(&with_shadow, start), None);
    }

    #[test]
    fn however_many_are_empty_the_memory_is_the_same() {
        let start = Instant::now();
        let denials = Denials::new(start);
        for n in 1..=100_000 {
            denials.remember(&[bucket("r", n, 10)], &[short(1_000)], start);
        }
        let known = (1..=100_000).filter(|n| denials.answer(&[bucket("r", *n, 10)], start).is_some()).count();
        assert_eq!(known, SETS * WAYS);
    }
}
