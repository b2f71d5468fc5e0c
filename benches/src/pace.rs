//! The clock of an open loop: says when each request is due, whether answers come or not.

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

/// When requests are due that come at `rate` a second, as time after the start.
pub fn evenly(rate: u32) -> impl Iterator<Item = Duration> {
    let interval_s = 1.0 / f64::from(rate.max(1));
    (0_u32..).map(move |n| Duration::from_secs_f64(f64::from(n) * interval_s))
}

/// Calls `act` with each moment when it has come, until there is no more or `act` breaks off. It wants a thread of its
/// own, because timers of the runtime tick once a millisecond.
pub fn keep(
    start: Instant,
    moments: impl IntoIterator<Item = Duration>,
    mut act: impl FnMut(Instant) -> ControlFlow<()>,
) {
    for after in moments {
        let Some(at) = start.checked_add(after) else { return };
        if let Some(early) = at.checked_duration_since(Instant::now()) {
            std::thread::sleep(early);
        }
        if act(at).is_break() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_due_early_and_what_is_late_is_not_lost() {
        let start = Instant::now().checked_sub(Duration::from_millis(5)).unwrap();
        let mut due = Vec::new();
        keep(start, evenly(1_000).take(8), |at| {
            assert!(Instant::now() >= at);
            due.push(at.duration_since(start).as_millis());
            ControlFlow::Continue(())
        });
        assert_eq!(due, [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn it_ends_when_nobody_listens() {
        let mut calls = 0;
        keep(Instant::now(), evenly(1_000_000), |_| {
            calls += 1;
            if calls == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert_eq!(calls, 3);
    }
}
