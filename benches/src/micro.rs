//! Takes samples of one function and prints one line for it.

use std::{
    hint::black_box,
    io::{self, Write},
    time::{Duration, Instant},
};

/// Samples per function. The median of 31 shrugs off a dozen that the machine disturbed.
const SAMPLES: usize = 31;
/// Length of one sample: long enough that reading the clock costs nothing beside it.
const SAMPLE: Duration = Duration::from_millis(10);
/// Length of one sample with `--quick`.
const SAMPLE_QUICK: Duration = Duration::from_millis(1);

/// What one call costs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// Median over the samples, in nanoseconds per call.
    pub median_ns: f64,
    /// 95th percentile over the samples, in nanoseconds per call.
    pub p95_ns: f64,
}

/// A run of micro benches: which to run, how long, and what came out.
///
/// Flags: `--quick` for short samples, `--check` to fail on a budget that is not kept, and one word that names must
/// contain. `--bench`, which cargo adds, is ignored.
#[derive(Debug)]
pub struct Suite {
    sample: Duration,
    filter: Option<String>,
    check: bool,
    over: Vec<String>,
}

impl Suite {
    /// Reads the flags and prints the head of the table.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn start(arguments: impl Iterator<Item = String>) -> io::Result<Self> {
        let mut suite = Self { sample: SAMPLE, filter: None, check: false, over: Vec::new() };
        for argument in arguments {
            match argument.as_str() {
                "--quick" => suite.sample = SAMPLE_QUICK,
                "--check" => suite.check = true,
                "--bench" => {}
                _ => suite.filter = Some(argument),
            }
        }
        writeln!(io::stdout(), "| bench | ns/call | p95 | budget | MB/s |\n| --- | ---: | ---: | ---: | ---: |")?;
        Ok(suite)
    }

    /// Measures `call` and prints one row. `budget_ns` is the most that one call may cost, where something was promised.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn bench<T>(&mut self, name: &str, budget_ns: Option<f64>, call: impl FnMut() -> T) -> io::Result<()> {
        self.row(name, budget_ns, None, call)
    }

    /// Measures `call`, which reads `bytes` bytes, and prints one row that also says how many it reads in a second.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn bench_bytes<T>(&mut self, name: &str, bytes: usize, call: impl FnMut() -> T) -> io::Result<()> {
        self.row(name, None, u32::try_from(bytes).ok(), call)
    }

    /// Whether rows of this name are asked for.
    #[must_use]
    pub fn wants(&self, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|word| name.contains(word.as_str()))
    }

    fn row<T>(
        &mut self,
        name: &str,
        budget_ns: Option<f64>,
        bytes: Option<u32>,
        mut call: impl FnMut() -> T,
    ) -> io::Result<()> {
        if !self.wants(name) {
            return Ok(());
        }
        let cost = measure(self.sample, &mut call);
        let budget = budget_ns.map_or_else(|| "—".to_owned(), |most| format!("{most:.0}"));
        let mark = if budget_ns.is_some_and(|most| cost.median_ns > most) {
            self.over.push(name.to_owned());
            " **over**"
        } else {
            ""
        };
        // Bytes in a nanosecond are thousands of megabytes in a second.
        let speed = bytes.map_or_else(|| "—".to_owned(), |n| format!("{:.0}", f64::from(n) * 1e3 / cost.median_ns));
        writeln!(io::stdout(), "| {name} | {:.1} | {:.1} | {budget}{mark} | {speed} |", cost.median_ns, cost.p95_ns)
    }

    /// Ends the run.
    ///
    /// # Errors
    /// With `--check`, when a bench cost more than its budget: names them.
    pub fn finish(self) -> io::Result<()> {
        if self.check && !self.over.is_empty() {
            return Err(io::Error::other(format!("over budget: {}", self.over.join(", "))));
        }
        Ok(())
    }
}

fn measure<T>(sample: Duration, call: &mut impl FnMut() -> T) -> Cost {
    let calls = calibrate(sample, call);
    let mut samples: Vec<f64> = (0..SAMPLES).map(|_| per_call_ns(time(calls, call), calls)).collect();
    samples.sort_by(f64::total_cmp);
    let at = |rank: usize| samples.get(rank).copied().unwrap_or(f64::NAN);
    Cost { median_ns: at(SAMPLES / 2), p95_ns: at(SAMPLES.saturating_mul(95) / 100) }
}

/// How many calls fill a sample: doubled until they do.
fn calibrate<T>(sample: Duration, call: &mut impl FnMut() -> T) -> u32 {
    let mut calls = 1_u32;
    while time(calls, call) < sample && calls < u32::MAX / 2 {
        calls = calls.saturating_mul(2);
    }
    calls
}

fn time<T>(calls: u32, call: &mut impl FnMut() -> T) -> Duration {
    let start = Instant::now();
    for _ in 0..calls {
        black_box(call());
    }
    start.elapsed()
}

fn per_call_ns(elapsed: Duration, calls: u32) -> f64 {
    elapsed.as_secs_f64() * 1e9 / f64::from(calls.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slower_function_costs_more() {
        let mut quick = || black_box(1_u64).wrapping_mul(3);
        let mut slow = || (0..2_000_u64).fold(black_box(1_u64), |sum, n| black_box(sum.wrapping_mul(31) ^ n));
        let quick = measure(Duration::from_micros(100), &mut quick);
        let slow = measure(Duration::from_micros(100), &mut slow);
        assert!(slow.median_ns > quick.median_ns, "{slow:?} {quick:?}");
        assert!(slow.p95_ns >= slow.median_ns);
    }

    #[test]
    fn a_budget_that_is_not_kept_fails_the_run_only_when_asked() {
        for (flags, fails) in [(vec!["--quick"], false), (vec!["--quick", "--check"], true)] {
            let mut suite = Suite::start(flags.into_iter().map(str::to_owned)).unwrap();
            suite.sample = Duration::from_micros(10);
            suite.bench("sum", Some(0.0), || (0..1_000_u64).map(black_box).sum::<u64>()).unwrap();
            assert_eq!(suite.finish().is_err(), fails);
        }
    }

    #[test]
    fn a_filter_leaves_the_others_out() {
        let mut suite = Suite::start(["waf".to_owned()].into_iter()).unwrap();
        suite.bench("ip_allowlist: 10 networks", None, || panic!("not asked for")).unwrap();
    }
}
