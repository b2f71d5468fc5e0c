//! Numbers of the tables.

/// A count as a float, for ratios. Nothing that is counted here reaches 2^32.
#[must_use]
pub fn float(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// The middle value, or the mean of the two in the middle; not a number when there is none.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2).copied().unwrap_or(f64::NAN);
    let lower = values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN);
    f64::midpoint(lower, upper)
}

/// A float as a count, rounded; 0 below it, and when it is not a number.
#[must_use]
pub fn rounded(value: f64) -> u32 {
    // Through text, because a float has no checked conversion.
    format!("{value:.0}").parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn what_is_no_count_is_none() {
        assert_eq!(rounded(2.6), 3);
        for nothing in [-4.0, f64::NAN, f64::INFINITY] {
            assert_eq!(rounded(nothing), 0, "{nothing}");
        }
    }
}
