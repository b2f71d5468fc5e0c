//! The arithmetic: busiest windows, their distribution, a threshold with head-room, and what it would have refused.
//!
//! The replay takes from the buckets that limits have. With as many at once as in a window, which is what a limit has
//! when it says nothing of `burst`, this holds: **a key that never has more than `requests` in any window is never
//! refused**, provided that `requests` divides the window in microseconds. Otherwise it holds for windows that are
//! longer by less than `requests` microseconds, because the bucket's interval is rounded up to a whole one. A window
//! is half open: a request that comes exactly one window after another is not in the same.

use std::{
    collections::{HashMap, VecDeque},
    num::NonZeroU32,
};

use portcullis_api::{Micros, Millis};
use portcullis_plugins::rate_limit::{Rate, RateError};

use super::traffic::{Bucket, Kind, Request};

/// A limit for one route and key, and what speaks for it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Suggestion {
    /// Keys that were seen.
    pub(super) keys: usize,
    /// Requests that the limit would have been asked about.
    pub(super) requests: usize,
    /// Of these, such as lack the key and share one bucket.
    pub(super) keyless: usize,
    pub(super) busiest: Distribution,
    pub(super) threshold: NonZeroU32,
    pub(super) refused: Refused,
}

/// The keys' busiest windows: half of the keys, nine in ten, 99 in a hundred, all have at most so many requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Distribution {
    pub(super) p50: usize,
    pub(super) p90: usize,
    pub(super) p99: usize,
    pub(super) max: usize,
}

/// What a limit would have refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Refused {
    /// Requests, with those that lack the key.
    pub(super) requests: usize,
    /// Of these, such as lack the key.
    pub(super) keyless: usize,
    /// Keys that would have been refused at least once.
    pub(super) keys: usize,
}

/// A suggestion for requests in the order of their times; `None` where no request has a key of this kind.
///
/// # Errors
/// When the log has more requests than a limit can count, i.e. more than one a microsecond.
pub(super) fn suggest(requests: &[Request], kind: Kind, window: Millis) -> Result<Option<Suggestion>, RateError> {
    let mut busiest = busiest(requests, kind, window.as_micros());
    busiest.sort_unstable();
    let Some(distribution) = distribution(&busiest) else { return Ok(None) };
    let threshold = threshold(distribution.p99);
    let asked = || requests.iter().filter_map(|request| request.bucket(kind));
    Ok(Some(Suggestion {
        keys: busiest.len(),
        requests: asked().count(),
        keyless: asked().filter(|bucket| *bucket == Bucket::Shared).count(),
        busiest: distribution,
        threshold,
        refused: replay(requests, kind, Rate::new(threshold, window, threshold)?),
    }))
}

/// The largest number of requests of each key in any window, in no order.
fn busiest(requests: &[Request], kind: Kind, window: Micros) -> Vec<usize> {
    let mut keys: HashMap<Bucket, (VecDeque<Micros>, usize)> = HashMap::new();
    for request in requests {
        let Some(bucket @ Bucket::Of(..)) = request.bucket(kind) else { continue };
        let (open, most) = keys.entry(bucket).or_default();
        while open.front().is_some_and(|first| request.at.saturating_sub(*first) >= window) {
            open.pop_front();
        }
        open.push_back(request.at);
        *most = (*most).max(open.len());
    }
    keys.into_values().map(|(_, most)| most).collect()
}

fn distribution(sorted: &[usize]) -> Option<Distribution> {
    let at = |percent| percentile(sorted, percent);
    Some(Distribution { p50: at(50)?, p90: at(90)?, p99: at(99)?, max: at(100)? })
}

/// The smallest value that so many percent of the values do not exceed; `None` of no values.
fn percentile(sorted: &[usize], percent: usize) -> Option<usize> {
    let rank = sorted.len().saturating_mul(percent).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

/// The next number of 1, 2, 5, 10, 20, 50, … that is at least one and a half times as much, up to what a limit can say.
fn threshold(p99: usize) -> NonZeroU32 {
    let enough = p99.saturating_mul(3).div_ceil(2);
    (0..10)
        .filter_map(|decade| 10_u32.checked_pow(decade))
        .flat_map(|decade| [1_u32, 2, 5].map(|step| step.checked_mul(decade)))
        .flatten()
        .find(|number| usize::try_from(*number).is_ok_and(|number| number >= enough))
        .and_then(NonZeroU32::new)
        .unwrap_or(NonZeroU32::MAX)
}

/// Asks a limit about each request, as a gateway would have done.
pub(super) fn replay(requests: &[Request], kind: Kind, rate: Rate) -> Refused {
    let mut buckets: HashMap<Bucket, (Micros, usize)> = HashMap::new();
    for request in requests {
        let Some(bucket) = request.bucket(kind) else { continue };
        let (tat, refused) = buckets.entry(bucket).or_default();
        let taken = rate.take(*tat, request.at, 1);
        if taken.granted > 0 {
            *tat = taken.tat;
        } else {
            *refused = refused.saturating_add(1);
        }
    }
    let mut total = Refused::default();
    for (bucket, (_, refused)) in buckets {
        total.requests = total.requests.saturating_add(refused);
        match bucket {
            Bucket::Shared => total.keyless = refused,
            Bucket::Of(..) => total.keys = total.keys.saturating_add(usize::from(refused > 0)),
        }
    }
    total
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "plain numbers of tests")]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::{
        super::traffic::{Stage, tests::request},
        *,
    };

    const SECOND: Micros = 1_000_000;
    const START: Micros = 1_700_000_000_000_000;

    fn nonzero(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).unwrap()
    }

    /// Requests of one client at these seconds.
    fn at(seconds: &[u64]) -> Vec<Request> {
        seconds.iter().map(|s| request(START + s * SECOND, 1, 0)).collect()
    }

    #[test]
    fn a_percentile_is_the_value_at_its_rank() {
        let hundred: Vec<usize> = (1..=100).collect();
        assert_eq!(distribution(&hundred), Some(Distribution { p50: 50, p90: 90, p99: 99, max: 100 }));
        assert_eq!(distribution(&[7]), Some(Distribution { p50: 7, p90: 7, p99: 7, max: 7 }));
        assert_eq!(distribution(&[1, 2, 3]), Some(Distribution { p50: 2, p90: 3, p99: 3, max: 3 }));
        assert_eq!(distribution(&[]), None);
    }

    #[test]
    fn a_window_slides_and_ends_before_its_length_is_over() {
        let busiest = |seconds: &[u64]| busiest(&at(seconds), Kind::Client, 60 * SECOND);
        assert_eq!(busiest(&[0, 59]), [2]);
        assert_eq!(busiest(&[0, 60]), [1]);
        // No minute of the clock has three of them.
        assert_eq!(busiest(&[0, 50, 70, 100, 130]), [3]);
        assert_eq!(busiest(&[0, 0, 0, 200]), [3]);
    }

    #[test]
    fn a_threshold_has_head_room_and_is_a_round_number() {
        for (p99, expected) in [(1, 2), (2, 5), (3, 5), (4, 10), (6, 10), (7, 20), (34, 100), (333, 500), (334, 1000)] {
            assert_eq!(threshold(p99).get(), expected, "{p99}");
        }
        assert_eq!(threshold(usize::MAX), NonZeroU32::MAX);
    }

    #[test]
    fn a_replay_refuses_what_the_bucket_has_not() {
        let rate = Rate::new(nonzero(2), Millis::from_secs(60), nonzero(2)).unwrap();
        let mut requests = at(&[0, 0, 0, 29, 30, 30]);
        // At 30 one has flowed in: it is the first of the two there.
        let refused = replay(&requests, Kind::Client, rate);
        assert_eq!(refused, Refused { requests: 3, keyless: 0, keys: 1 });
        requests.push(request(START + 30 * SECOND, 2, 0));
        assert_eq!(replay(&requests, Kind::Client, rate), refused, "another client has its own bucket");
    }

    #[test]
    fn requests_without_the_key_share_a_bucket_and_make_no_distribution() {
        let mut requests = at(&[0; 10]);
        requests.push(request(START, 2, 9));
        let by_subject = suggest(&requests, Kind::Subject, Millis::from_secs(60)).unwrap().unwrap();
        assert_eq!((by_subject.keys, by_subject.requests, by_subject.keyless), (1, 11, 10));
        assert_eq!((by_subject.busiest.max, by_subject.threshold.get()), (1, 2));
        assert_eq!(by_subject.refused, Refused { requests: 8, keyless: 8, keys: 0 });
        assert_eq!(suggest(&requests, Kind::Tenant, Millis::from_secs(60)), Ok(None));
    }

    #[test]
    fn preflights_are_not_counted_by_identity() {
        let mut requests = at(&[0; 10]);
        for request in &mut requests {
            request.stage = Stage::Before;
        }
        assert_eq!(suggest(&requests, Kind::Caller, Millis::from_secs(60)), Ok(None));
        assert_eq!(suggest(&requests, Kind::Client, Millis::from_secs(60)).unwrap().unwrap().requests, 10);
    }

    #[test]
    fn more_than_a_limit_can_count_is_an_error() {
        let requests = at(&[0; 1_000]);
        assert_eq!(suggest(&requests, Kind::Client, Millis::new(1)), Err(RateError::TooFast));
    }

    proptest! {
        #[test]
        fn windows_are_as_a_plain_count_of_each_finds_them(waits in vec(0..30u64, 1..60)) {
            let mut now = 0;
            let seconds: Vec<u64> = waits.iter().map(|wait| { now += wait; now }).collect();
            let plain = seconds.iter().map(|from| seconds.iter().filter(|s| (*from..from + 60).contains(*s)).count());
            prop_assert_eq!(busiest(&at(&seconds), Kind::Client, 60 * SECOND), [plain.max().unwrap()]);
        }

        #[test]
        fn a_key_within_the_limit_in_every_window_is_never_refused(
            waits in vec(prop_oneof![0..3u64, 0..2_000u64, 0..20_000_000u64], 1..200),
            window_ms in 1..60_000u64,
            more in 0..3u32,
        ) {
            let mut now = START;
            let requests: Vec<Request> = waits.iter().map(|wait| { now += wait; request(now, 1, 0) }).collect();
            let window = Millis::new(window_ms);
            let limit = |micros| u32::try_from(busiest(&requests, Kind::Client, micros)[0]).unwrap() + more;
            let refused = |requests: &[Request], rate| replay(requests, Kind::Client, rate).requests;
            let asked = nonzero(limit(window.as_micros()));
            if let Ok(rate) = Rate::new(asked, window, asked) {
                let whole = rate.interval() * u64::from(asked.get());
                prop_assert!(whole < window.as_micros() + u64::from(asked.get()));
                // Exactly for a number that divides the window; for another, of the window that it is rounded up to.
                if window.as_micros().is_multiple_of(u64::from(asked.get())) || limit(whole) == asked.get() {
                    prop_assert_eq!(refused(&requests, rate), 0);
                }
            }
        }

        #[test]
        fn a_suggestion_refuses_no_key_within_it_and_is_never_below_the_99th_percentile(
            arrivals in vec((0..90_000_000u64, 1..30u32), 1..300),
        ) {
            let mut requests: Vec<Request> =
                arrivals.iter().map(|(after, client)| request(START + after, *client, 0)).collect();
            requests.sort_unstable_by_key(|request| request.at);
            let window = Millis::from_secs(60);
            let found = suggest(&requests, Kind::Client, window).unwrap().unwrap();
            let threshold = usize::try_from(found.threshold.get()).unwrap();
            prop_assert!(threshold >= found.busiest.p99);
            let above = busiest(&requests, Kind::Client, window.as_micros()).into_iter().filter(|n| *n > threshold);
            prop_assert!(found.refused.keys <= above.count());
        }
    }
}
