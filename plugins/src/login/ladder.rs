//! How many failures lock for how long.

use std::num::NonZeroU32;

use portcullis_api::{Issues, Micros, Millis};

use super::settings;

/// A day longer than the longest lock or window that makes sense, so that times stay far from every bound.
const LONGEST: Millis = Millis::from_secs(31 * 86_400);

/// Steps that a ladder has at most.
pub(super) const STEPS_MAX: usize = 8;

/// The steps of one ladder, compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ladder {
    window: Micros,
    /// Rising, at least one.
    steps: Box<[Step]>,
}

/// So many failures lock for so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Failures within the window.
    pub failures: usize,
    /// How long the lock lasts.
    pub lock: Micros,
}

impl Ladder {
    /// As written; what is wrong with it is said.
    pub(super) fn compile(whose: &str, written: &settings::Ladder, issues: &mut Issues) -> Option<Self> {
        let sound = issues.as_slice().len();
        let settings::Ladder { window, steps } = written;
        let locks: Vec<Millis> = steps.value.values().copied().collect();
        if locks.is_empty() || locks.len() > STEPS_MAX {
            let message = format!("`{whose}` has {} steps", locks.len());
            issues.push_help("login.steps", &steps.span, message, "write 1 to 8, as in { 5 = \"1m\", 10 = \"5m\" }");
        }
        if !locks.is_sorted() {
            let message = format!("`{whose}` locks more failures for a shorter time");
            issues.push_help("login.steps", &steps.span, message, "let the times rise with the failures");
        }
        if locks.iter().any(|lock| *lock > LONGEST) || window.value > LONGEST {
            let message = format!("`{whose}` lasts longer than {LONGEST}");
            issues.push_help("login.too_long", &window.span, message, "lock for less; nobody is locked out for good");
        }
        let step = |(failures, lock): (&settings::Failures, &Millis)| Step {
            failures: usize::try_from(failures.get().get()).unwrap_or(usize::MAX),
            lock: lock.as_micros(),
        };
        let steps: Box<[Step]> = steps.value.iter().map(step).collect();
        (issues.as_slice().len() == sound).then(|| Self { window: window.value.as_micros(), steps })
    }

    pub(super) fn of(window_s: u64, steps: &[(usize, u64)]) -> Self {
        let micros = |seconds: u64| Millis::from_secs(seconds).as_micros();
        let step = |(failures, lock_s): &(usize, u64)| Step { failures: *failures, lock: micros(*lock_s) };
        Self { window: micros(window_s), steps: steps.iter().map(step).collect() }
    }

    /// How long a failure counts.
    #[must_use]
    pub fn window(&self) -> Micros {
        self.window
    }

    /// The steps, rising.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Failures of the last step: no more need be remembered.
    #[must_use]
    pub fn most(&self) -> usize {
        self.steps.last().map_or(1, |step| step.failures)
    }

    /// How long the failure locks that makes them so many.
    #[must_use]
    pub fn lock(&self, failures: usize) -> Option<Micros> {
        let last = self.steps.last().filter(|last| failures >= last.failures);
        last.or_else(|| self.steps.iter().find(|step| step.failures == failures)).map(|step| step.lock)
    }

    /// How many logins may be under way after so many failures: if all of them fail they reach the next step and no more.
    #[must_use]
    pub fn room(&self, failures: usize) -> NonZeroU32 {
        let next = self.steps.iter().find(|step| step.failures > failures);
        let room = next.and_then(|next| u32::try_from(next.failures.saturating_sub(failures)).ok());
        room.and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rising() -> Ladder {
        Ladder::of(86_400, &[(5, 60), (10, 300), (20, 3_600)])
    }

    #[test]
    fn a_step_locks_when_it_is_reached_and_the_last_one_each_time() {
        let locks: Vec<(usize, u64)> =
            (0..24).filter_map(|n| Some((n, rising().lock(n)?.div_euclid(1_000_000)))).collect();
        assert_eq!(locks, [(5, 60), (10, 300), (20, 3_600), (21, 3_600), (22, 3_600), (23, 3_600)]);
    }

    #[test]
    fn so_many_may_be_under_way_that_the_next_step_is_reached_and_not_passed() {
        let room = |n| rising().room(n).get();
        assert_eq!([0, 4, 5, 9, 10, 19, 20, 50].map(room), [5, 1, 5, 1, 10, 1, 1, 1]);
    }
}
