//! How old what is known of revocations may be, where several gateways share them: a route says it, and past it nobody can
//! tell whether a credential was revoked meanwhile.

use std::{
    fmt,
    sync::atomic::{AtomicI64, Ordering},
};

use portcullis_api::{At, Issues, Micros, Millis};
use schemars::JsonSchema;
use serde::Deserialize;

/// How fresh what is known of revocations must be for a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Freshness {
    /// For what must stop at once: keys, exports, money. `max_stale.strict` at most.
    Strict,
    /// `max_stale.standard` at most.
    #[default]
    Standard,
    /// However old: a credential is good until it expires. Only for tokens that live 300 s at most.
    UntilExp,
}

impl Freshness {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Strict, Self::Standard, Self::UntilExp];

    /// As written in the configuration, and as a metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Standard => "standard",
            Self::UntilExp => "until_exp",
        }
    }
}

/// The longest lifetime of tokens that a route with `until_exp` may accept.
pub const UNTIL_EXP_MAX: Millis = Millis::from_secs(300);

/// How old what is known of revocations may be, before a request that depends on it is refused with 503.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MaxStale {
    /// For routes with `revocation = "strict"`: 1 s to 30 s, 5 s when not written.
    #[serde(default = "strict")]
    pub strict: At<Millis>,
    /// For routes with `revocation = "standard"`, which is every route that says nothing: 1 s to 300 s, 60 s when not
    /// written, and not below `strict`.
    #[serde(default = "standard")]
    pub standard: At<Millis>,
}

const fn strict() -> At<Millis> {
    At::nowhere(Millis::from_secs(5))
}
const fn standard() -> At<Millis> {
    At::nowhere(Millis::from_secs(60))
}

/// The store is read four times a second: below this an ordinary pause would refuse requests.
const MIN: Millis = Millis::from_secs(1);
const STRICT_MAX: Millis = Millis::from_secs(30);

impl Default for MaxStale {
    fn default() -> Self {
        Self { strict: strict(), standard: standard() }
    }
}

impl MaxStale {
    /// Adds what is wrong with it.
    pub(crate) fn check(&self, issues: &mut Issues) {
        let Self { strict, standard } = self;
        for (name, bound, max) in [("strict", strict, STRICT_MAX), ("standard", standard, UNTIL_EXP_MAX)] {
            if !(MIN..=max).contains(&bound.value) {
                let message = format!("`max_stale.{name}` is {}: it is {MIN} to {max}", bound.value);
                issues.push("revocations.max_stale", &bound.span, message);
            }
        }
        if standard.value < strict.value {
            let message = format!("`standard` ({}) is stricter than `strict` ({})", standard.value, strict.value);
            issues.push("revocations.max_stale_order", &standard.span, message);
        }
    }

    /// The bound for these routes; none where there is none.
    #[must_use]
    pub fn of(&self, freshness: Freshness) -> Option<Millis> {
        match freshness {
            Freshness::Strict => Some(self.strict.value),
            Freshness::Standard => Some(self.standard.value),
            Freshness::UntilExp => None,
        }
    }
}

/// How old what is known of revocations is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// So many microseconds; none where this gateway decides alone what is revoked.
    Known(Micros),
    /// Nobody has ever heard all of it.
    Unknown,
}

impl Age {
    /// Whether it is more than the bound allows.
    #[must_use]
    pub fn exceeds(self, max: Option<Millis>) -> bool {
        match (self, max) {
            (_, None) => false,
            (Self::Known(age), Some(max)) => age > max.as_micros(),
            (Self::Unknown, Some(_)) => true,
        }
    }
}

/// As a half-sentence for the log.
impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(age) => write!(f, "was confirmed {} s ago", age.div_euclid(1_000_000)),
            Self::Unknown => f.write_str("was never confirmed since the start"),
        }
    }
}

/// When all that was revoked was known last, in microseconds of the monotonic clock; before its zero where it was known
/// before the start.
pub(super) struct Synced(AtomicI64);

/// There is nobody to hear from.
const ALONE: i64 = i64::MAX;
const NEVER: i64 = i64::MIN;

impl Synced {
    pub(super) const fn alone() -> Self {
        Self(AtomicI64::new(ALONE))
    }

    /// From here on others revoke too, and nothing of theirs is known.
    pub(super) fn follow(&self) {
        self.0.store(NEVER, Ordering::Release);
    }

    /// All that was revoked before this time is known. Only ever later.
    pub(super) fn confirm(&self, at: i64) {
        self.0.fetch_max(at.clamp(NEVER.saturating_add(1), ALONE.saturating_sub(1)), Ordering::AcqRel);
    }

    pub(super) fn age(&self, now: impl FnOnce() -> Micros) -> Age {
        match self.0.load(Ordering::Acquire) {
            ALONE => Age::Known(0),
            NEVER => Age::Unknown,
            at => {
                let now = i64::try_from(now()).unwrap_or(i64::MAX);
                Age::Known(u64::try_from(now.saturating_sub(at)).unwrap_or(0))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000;

    fn age(synced: &Synced, now: u64) -> Age {
        synced.age(|| now)
    }

    #[test]
    fn a_gateway_alone_is_never_behind_and_one_that_follows_is_until_it_has_heard() {
        let synced = Synced::alone();
        assert_eq!(synced.age(|| panic!("no clock is needed")), Age::Known(0));
        synced.follow();
        assert_eq!(age(&synced, 9), Age::Unknown);
        synced.confirm(4);
        assert_eq!(age(&synced, 9), Age::Known(5));
        synced.confirm(2);
        assert_eq!(age(&synced, 9), Age::Known(5), "an older one takes nothing back");
    }

    #[test]
    fn what_was_known_before_the_start_ages_from_then() {
        let synced = Synced::alone();
        synced.follow();
        synced.confirm(-7 * S);
        assert_eq!(age(&synced, 0), Age::Known(7_000_000));
        assert_eq!(age(&synced, 1_000_000), Age::Known(8_000_000));
        synced.confirm(i64::MIN);
        assert_eq!(age(&synced, 0), Age::Known(7_000_000));
    }

    #[test]
    fn the_bound_itself_is_fresh_and_one_past_it_is_not() {
        let bounds = MaxStale::default();
        for (freshness, last) in [(Freshness::Strict, 5_000_000), (Freshness::Standard, 60_000_000)] {
            let max = bounds.of(freshness);
            assert!(!Age::Known(last).exceeds(max) && Age::Known(last + 1).exceeds(max) && Age::Unknown.exceeds(max));
        }
        let max = bounds.of(Freshness::UntilExp);
        assert!(!Age::Known(u64::MAX).exceeds(max) && !Age::Unknown.exceeds(max));
    }

    #[test]
    fn bounds_outside_their_ceilings_or_in_the_wrong_order_are_refused() {
        let refused = |strict: u64, standard: u64| {
            let at = |millis| At::nowhere(Millis::new(millis));
            let mut issues = Issues::default();
            MaxStale { strict: at(strict), standard: at(standard) }.check(&mut issues);
            issues.as_slice().iter().map(|issue| issue.code).collect::<Vec<_>>()
        };
        assert_eq!(refused(1000, 1000), Vec::<&str>::new());
        assert_eq!(refused(30_000, 300_000), Vec::<&str>::new());
        for (strict, standard) in [(999, 60_000), (30_001, 60_000), (5000, 300_001)] {
            assert_eq!(refused(strict, standard), ["revocations.max_stale"], "{strict} {standard}");
        }
        assert_eq!(refused(5000, 4000), ["revocations.max_stale_order"]);
    }
}
