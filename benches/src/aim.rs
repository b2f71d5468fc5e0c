//! What the reports share: aims, and what is made of rounds.

use std::fmt;

use crate::number::{float, median, rounded};

/// Something that was promised, and whether it was kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Aim {
    /// What was promised.
    pub what: String,
    /// What was measured.
    pub found: f64,
    /// Between which values half of the rounds are, where there are rounds.
    pub quartiles: Option<(f64, f64)>,
    /// What it may be.
    pub most: f64,
    /// Written behind the numbers, with its space.
    pub unit: &'static str,
}

impl Aim {
    /// Of one number.
    pub fn new(what: impl Into<String>, found: f64, most: f64, unit: &'static str) -> Self {
        Self { what: what.into(), found, quartiles: None, most, unit }
    }

    /// Of differences within rounds.
    pub fn of(what: impl Into<String>, differences: Vec<f64>, most: f64, unit: &'static str) -> Self {
        let sorted = sorted(differences);
        let quartiles = Some((quantile(&sorted, 0.25), quantile(&sorted, 0.75)));
        Self { quartiles, ..Self::new(what, median(sorted), most, unit) }
    }

    /// Whether it was kept. What is not a number was not measured, and not kept.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.found <= self.most
    }
}

impl fmt::Display for Aim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, found, quartiles, most, unit } = self;
        let met = if self.is_met() { "met" } else { "**missed**" };
        let between = quartiles.map(|(low, high)| format!(" (half of the rounds from {low:.1} to {high:.1})"));
        writeln!(f, "- {what}: {found:.2}{unit}{}, aim at most {most}{unit}: {met}", between.unwrap_or_default())
    }
}

/// Of sorted values the one that this share is not above; not a number when there is none.
#[must_use]
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let last = float(u64::try_from(sorted.len().saturating_sub(1)).unwrap_or(0));
    let at = usize::try_from(rounded((last * share).ceil())).unwrap_or(0);
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// In order, for [`quantile`].
pub fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The median over rounds of one number.
pub fn over<T>(rounds: &[T], number: impl Fn(&T) -> f64) -> f64 {
    median(rounds.iter().map(number).collect())
}

/// The median over rounds of a difference within a round, so that a slow round falls on both.
pub fn difference<T>(rounds: &[T], others: &[T], number: impl Fn(&T) -> f64) -> f64 {
    median(differences(rounds, others, number))
}

/// Those differences, round by round.
pub fn differences<T>(rounds: &[T], others: &[T], number: impl Fn(&T) -> f64) -> Vec<f64> {
    rounds.iter().zip(others).map(|(this, other)| number(this) - number(other)).collect()
}

/// As a share of a whole in per cent; nothing of nothing is nothing.
#[must_use]
pub fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * float(part) / float(whole) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert!((quantile(&values, 0.99) - 100.0).abs() < 1.1);
        assert!((quantile(&values, 0.5) - 51.0).abs() < 1e-9);
        assert!(quantile(&[], 0.5).is_nan());
        assert!((quantile(&[7.0], 0.99) - 7.0).abs() < 1e-9);
    }

    #[test]
    fn a_difference_compares_within_a_round() {
        assert!((difference(&[13.0, 103.0, 1.0], &[10.0, 100.0, 0.0], |n| *n) - 3.0).abs() < 1e-9);
    }

    #[test]
    fn an_aim_that_was_not_measured_is_missed() {
        let aim = |found| Aim::new("cost", found, 3.0, " µs");
        assert!(aim(3.0).is_met());
        assert!(!aim(3.1).is_met() && !aim(f64::NAN).is_met());
        assert_eq!(aim(2.5).to_string(), "- cost: 2.50 µs, aim at most 3 µs: met\n");
        let of_rounds = Aim::of("cost", vec![1.0, 2.0, 3.0, 4.0, 90.0], 3.0, " µs").to_string();
        assert_eq!(of_rounds, "- cost: 3.00 µs (half of the rounds from 2.0 to 4.0), aim at most 3 µs: met\n");
    }
}
