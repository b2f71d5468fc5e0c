//! GCRA in whole microseconds: the arithmetic of every limit. `gateway/src/stores/take.lua` computes the same.
//!
//! A bucket is one number, its theoretical arrival time (TAT): the instant at which it is full again. In any window
//! `w` at most `burst + w / interval` requests are admitted, exactly, with no doubling at a window's edge.

use std::num::NonZeroU32;

use portcullis_api::{Micros, Millis};

/// The numbers of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    interval: Micros,
    burst: u32,
    cost: u32,
}

/// Why numbers make no rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    /// The interval between two requests would be less than the unit of time.
    #[error("more than one request a microsecond cannot be counted")]
    TooFast,
    /// Redis counts in doubles; beyond this the arithmetic would no longer be exact.
    #[error("an empty bucket would need more than 366 days to fill again")]
    RefillTooLong,
    /// Not even a full bucket has what one request takes.
    #[error("a request costs {cost}, more than the {burst} that may come at once: it would never pass")]
    CostTooHigh {
        /// Of one request.
        cost: u32,
        /// Of a full bucket.
        burst: u32,
    },
    /// Not even a full bucket has what one request may turn out to take.
    #[error("a request may take {at_most}, more than the {burst} that may come at once: the rest would be lost")]
    MostTooHigh {
        /// Of one request.
        at_most: u32,
        /// Of a full bucket.
        burst: u32,
    },
}

/// The longest time a bucket may need to fill.
pub const REFILL_MAX: Micros = 366 * 86_400_000_000;

impl Rate {
    /// `requests` per `window`, of which `burst` may come at once.
    ///
    /// # Errors
    /// [`RateError`] when the numbers cannot be counted exactly.
    pub fn new(requests: NonZeroU32, window: Millis, burst: NonZeroU32) -> Result<Self, RateError> {
        // Rounded up: a rate that does not divide the window admits a little less, never more.
        let interval = window.as_micros().div_ceil(u64::from(requests.get()));
        if window.as_micros() < u64::from(requests.get()) {
            return Err(RateError::TooFast);
        }
        let rate = Self { interval, burst: burst.get(), cost: 1 };
        if interval.checked_mul(u64::from(rate.burst)).is_none_or(|refill| refill > REFILL_MAX) {
            return Err(RateError::RefillTooLong);
        }
        Ok(rate)
    }

    /// The same bucket, of which one request takes `cost` tokens at once.
    ///
    /// # Errors
    /// [`RateError::CostTooHigh`].
    pub const fn at_cost(self, cost: NonZeroU32) -> Result<Self, RateError> {
        let cost = cost.get();
        if cost > self.burst {
            return Err(RateError::CostTooHigh { cost, burst: self.burst });
        }
        Ok(Self { cost, ..self })
    }

    /// Microseconds between two tokens at the rate, at least 1.
    #[must_use]
    pub const fn interval(self) -> Micros {
        self.interval
    }

    /// Microseconds that an empty bucket needs to fill.
    #[must_use]
    pub fn refill(self) -> Micros {
        self.interval.saturating_mul(u64::from(self.burst))
    }

    /// Tokens of a full bucket, at least 1.
    #[must_use]
    pub const fn burst(self) -> u32 {
        self.burst
    }

    /// Tokens that one request takes, at least 1 and at most [`Rate::burst`].
    #[must_use]
    pub const fn cost(self) -> u32 {
        self.cost
    }

    /// For how many requests one of `gateways` may take tokens ahead: a quarter of its share of a full bucket. None where
    /// that is less than two.
    #[must_use]
    pub fn ahead_max(self, gateways: NonZeroU32) -> Option<u32> {
        const PART: u32 = 4;
        let parts = PART.saturating_mul(gateways.get()).saturating_mul(self.cost);
        self.burst.checked_div(parts).filter(|most| *most >= 2)
    }

    /// One of `instances` equal shares: tokens and burst divided, each enough for one request (per `window` and at once).
    #[must_use]
    pub fn share(self, window: Millis, instances: NonZeroU32) -> Self {
        let one_a_window = window.as_micros().checked_div(u64::from(self.cost)).unwrap_or(1).max(1);
        let interval = self.interval.saturating_mul(u64::from(instances.get())).min(one_a_window);
        let burst = self.burst.checked_div(instances.get()).unwrap_or(self.burst).max(self.cost);
        Self { interval, burst, ..self }
    }

    /// Takes the tokens of up to `want` requests of the bucket whose stored TAT is `stored` (0 for none), at `now`.
    #[must_use]
    pub fn take(self, stored: Micros, now: Micros, want: u32) -> Taken {
        let cap = now.saturating_add(self.refill());
        // The clamp survives a clock that went back, and numbers that changed: at most one full bucket's wait.
        let tat = stored.clamp(now, cap);
        let request = self.interval.saturating_mul(u64::from(self.cost));
        let granted = fit(cap, tat, request).min(want);
        let tat = tat.saturating_add(request.saturating_mul(u64::from(granted)));
        let remaining = fit(cap, tat, self.interval);
        let retry_after = tat.saturating_add(request).saturating_sub(cap);
        Taken { tat, granted, remaining, retry_after, reset_after: tat.saturating_sub(now) }
    }

    /// The TAT of a bucket of which `tokens` are taken at `now`, or as many as it has: it may be empty, never less.
    #[must_use]
    pub fn charge(self, stored: Micros, now: Micros, tokens: NonZeroU32) -> Micros {
        let cap = now.saturating_add(self.refill());
        stored.clamp(now, cap).saturating_add(self.interval.saturating_mul(u64::from(tokens.get()))).min(cap)
    }

    /// The TAT of a bucket that gets back, at `now`, what still stands of one request, after which it was to be full at
    /// `charged_until`. What has flowed in since is not given twice: it would be somebody else's.
    #[must_use]
    pub fn give_back(self, stored: Micros, charged_until: Micros, now: Micros) -> Micros {
        let request = self.interval.saturating_mul(u64::from(self.cost));
        stored.saturating_sub(request.min(charged_until.saturating_sub(now))).max(now)
    }
}

/// How many times `step` fits between `tat` and `cap`.
fn fit(cap: Micros, tat: Micros, step: Micros) -> u32 {
    let times = cap.saturating_sub(tat).checked_div(step).unwrap_or(0);
    u32::try_from(times).unwrap_or(u32::MAX)
}

/// What came of taking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// To be stored, where something was granted.
    pub tat: Micros,
    /// Requests granted.
    pub granted: u32,
    /// Tokens left.
    pub remaining: u32,
    /// Microseconds until there are the tokens of one more request; 0 where there are.
    pub retry_after: Micros,
    /// Microseconds until the bucket is full.
    pub reset_after: Micros,
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "the plain model computes plainly, on numbers of the test")]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn rate(requests: u32, window_ms: u64, burst: u32) -> Result<Rate, RateError> {
        let nonzero = |n| NonZeroU32::new(n).unwrap();
        Rate::new(nonzero(requests), Millis::new(window_ms), nonzero(burst))
    }

    #[test]
    fn the_burst_is_admitted_at_once_and_one_more_is_not() {
        let rate = rate(10, 1_000, 10).unwrap();
        let (mut tat, now) = (0, 5_000_000);
        for left in (0..10).rev() {
            let taken = rate.take(tat, now, 1);
            assert_eq!((taken.granted, taken.remaining), (1, left));
            tat = taken.tat;
        }
        let refused = rate.take(tat, now, 1);
        assert_eq!((refused.granted, refused.retry_after, refused.reset_after), (0, 100_000, 1_000_000));
        assert_eq!(rate.take(tat, now + 99_999, 1).granted, 0);
        assert_eq!(rate.take(tat, now + 100_000, 1).granted, 1);
    }

    #[test]
    fn what_a_refusal_says_about_the_wait_is_exact() {
        let rate = rate(7, 1_000, 3).unwrap();
        let drained = rate.take(0, 1_000, 3);
        assert_eq!((drained.granted, drained.remaining), (3, 0));
        let refused = rate.take(drained.tat, 1_500, 1);
        assert_eq!(rate.take(drained.tat, 1_500 + refused.retry_after, 1).granted, 1);
        assert_eq!(rate.take(drained.tat, 1_500 + refused.retry_after - 1, 1).granted, 0);
    }

    #[test]
    fn a_clock_that_went_back_costs_at_most_one_full_bucket() {
        let rate = rate(10, 1_000, 10).unwrap();
        let drained = rate.take(0, 3_600_000_000, 10);
        let refused = rate.take(drained.tat, 1_000, 1);
        assert_eq!((refused.granted, refused.retry_after), (0, 100_000));
    }

    #[test]
    fn a_request_takes_its_whole_cost_or_nothing() {
        let rate = rate(10, 1_000, 10).unwrap().at_cost(NonZeroU32::new(4).unwrap()).unwrap();
        let now = 5_000_000;
        let two = rate.take(0, now, 5);
        assert_eq!((two.granted, two.remaining, two.retry_after), (2, 2, 200_000));
        let refused = rate.take(two.tat, now + 199_999, 1);
        assert_eq!((refused.granted, refused.remaining, refused.retry_after), (0, 3, 1));
        assert_eq!(rate.take(two.tat, now + 200_000, 1).granted, 1);
    }

    #[test]
    fn a_request_may_cost_a_full_bucket_and_not_one_token_more() {
        let cost = |n| rate(10, 1_000, 4).unwrap().at_cost(NonZeroU32::new(n).unwrap());
        let whole = cost(4).unwrap().take(0, 5_000_000, 2);
        assert_eq!((whole.granted, whole.remaining, whole.retry_after), (1, 0, 400_000));
        assert_eq!(cost(5), Err(RateError::CostTooHigh { cost: 5, burst: 4 }));
    }

    #[test]
    fn a_share_has_room_for_one_request_whatever_it_costs() {
        let rate = rate(10, 1_000, 10).unwrap().at_cost(NonZeroU32::new(6).unwrap()).unwrap();
        let share = rate.share(Millis::from_secs(1), NonZeroU32::new(5).unwrap());
        assert_eq!((share.burst(), share.cost()), (6, 6));
        assert_eq!(share.take(0, 5_000_000, 1).granted, 1);
        assert!(share.interval() * 6 <= 1_000_000, "one request a window");
    }

    #[test]
    fn what_is_charged_afterwards_empties_a_bucket_and_no_more() {
        let rate = rate(10, 1_000, 10).unwrap();
        let (now, tokens) = (5_000_000, |n| NonZeroU32::new(n).unwrap());
        let left = |tat| rate.take(tat, now, 0).remaining;
        let three = rate.charge(0, now, tokens(3));
        assert_eq!(left(three), 7);
        assert_eq!(left(rate.charge(three, now, tokens(7))), 0);
        let more = rate.charge(three, now, tokens(u32::MAX));
        assert_eq!((left(more), rate.take(more, now, 0).reset_after), (0, 1_000_000));
        // Nor is it less after a clock that went back.
        assert_eq!(rate.charge(u64::MAX, now, tokens(1)), more);
    }

    #[test]
    fn a_rate_that_does_not_divide_its_window_is_rounded_to_less() {
        assert_eq!(rate(7, 1_000, 1).unwrap().interval(), 142_858);
    }

    #[test]
    fn numbers_that_cannot_be_counted_exactly_are_refused() {
        assert!(rate(1_000, 1, 1).is_ok());
        assert_eq!(rate(1_001, 1, 1), Err(RateError::TooFast));
        assert!(rate(1, 86_400_000, 366).is_ok());
        assert_eq!(rate(1, 86_400_000, 367), Err(RateError::RefillTooLong));
        assert_eq!(rate(1, u64::MAX / 1000, u32::MAX), Err(RateError::RefillTooLong));
    }

    #[test]
    fn a_share_is_a_part_of_the_rate_and_at_least_one_request() {
        let three = NonZeroU32::new(3).unwrap();
        let second = Millis::from_secs(1);
        let share = rate(30, 1_000, 10).unwrap().share(second, three);
        assert_eq!((share.interval(), share.burst()), (rate(10, 1_000, 3).unwrap().interval().next_multiple_of(3), 3));
        let least = rate(2, 1_000, 2).unwrap().share(second, three);
        assert_eq!((least.interval(), least.burst()), (1_000_000, 1));
        let whole = rate(10, 1_000, 10).unwrap();
        assert_eq!(whole.share(second, NonZeroU32::MIN), whole);
    }

    /// The plain model: a vessel of credit that fills with time and never above its size.
    struct Vessel {
        credit: u64,
        at: u64,
    }

    proptest! {
        #[test]
        fn gcra_admits_what_a_plain_vessel_of_credit_admits(
            requests in 1..2_000u32,
            window_ms in 1..100_000u64,
            burst in 1..50u32,
            cost in 1..50u32,
            steps in vec((0..3_000_000u64, 1..8u32), 1..80),
        ) {
            prop_assume!(window_ms * 1_000 >= u64::from(requests) && cost <= burst);
            let rate = rate(requests, window_ms, burst).unwrap().at_cost(NonZeroU32::new(cost).unwrap()).unwrap();
            let size = rate.interval() * u64::from(burst);
            let request = rate.interval() * u64::from(cost);
            let (mut tat, mut now) = (0, 10_000_000_u64);
            let mut vessel = Vessel { credit: size, at: now };
            for (wait, want) in steps {
                now += wait;
                vessel.credit = size.min(vessel.credit + (now - vessel.at));
                vessel.at = now;
                let granted = u32::try_from(vessel.credit / request).unwrap().min(want);
                vessel.credit -= request * u64::from(granted);

                let taken = rate.take(tat, now, want);
                prop_assert_eq!(taken.granted, granted);
                prop_assert_eq!(u64::from(taken.remaining), vessel.credit / rate.interval());
                prop_assert_eq!(taken.reset_after, size - vessel.credit);
                prop_assert_eq!(taken.retry_after, request.saturating_sub(vessel.credit));
                if taken.granted > 0 {
                    tat = taken.tat;
                }
            }
        }

        #[test]
        fn no_window_admits_more_than_the_burst_and_what_flows_in(
            requests in 1..100u32,
            window_ms in 1_000..60_000u64,
            burst in 1..20u32,
            waits in vec(0..2_000_000u64, 1..100),
        ) {
            let rate = rate(requests, window_ms, burst).unwrap();
            let (mut tat, mut now, mut admitted) = (0, 10_000_000_u64, Vec::new());
            for wait in waits {
                now += wait;
                let taken = rate.take(tat, now, 1);
                if taken.granted == 1 {
                    tat = taken.tat;
                    admitted.push(now);
                }
            }
            for (first, from) in admitted.iter().enumerate() {
                for (last, to) in admitted.iter().enumerate().skip(first) {
                    let count = u64::try_from(last - first + 1).unwrap();
                    prop_assert!(count <= u64::from(burst) + (to - from) / rate.interval());
                }
            }
        }
    }
}
