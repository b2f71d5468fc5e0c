//! What can be asked for on the command line, and what `--smoke` makes of it.

use std::{fmt, time::Duration};

use anyhow::ensure;
use clap::{Parser, ValueEnum};

/// Measures what distributed limits promise, on three gateways, one redis-server and one client; prints markdown.
#[derive(Debug, Clone, Parser)]
pub(crate) struct Flags {
    /// What to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Mode::Bounds, Mode::Faults, Mode::Fairness])]
    pub(crate) modes: Vec<Mode>,
    /// Which shapes of limit `bounds` measures.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = ShapeName::ALL)]
    pub(crate) shapes: Vec<ShapeName>,
    /// Rounds of `bounds`; in each of them every way of counting is measured once.
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: u32,
    /// Seconds of each measurement of `bounds`.
    #[arg(long, default_value_t = 5.0)]
    pub(crate) seconds: f64,
    /// Requests per second of `bounds`, over all gateways; 3,000 when not given, or half of what the gateways can do
    /// without a limit where that is less.
    #[arg(long)]
    pub(crate) rate: Option<u32>,
    /// Requests per second of `faults`, over all gateways and postures.
    #[arg(long, default_value_t = 900)]
    pub(crate) fault_rate: u32,
    /// Seconds of a fault, and half as many before it and after it.
    #[arg(long, default_value_t = 3.0)]
    pub(crate) fault_seconds: f64,
    /// Rounds of `fairness` and of `keys`.
    #[arg(long, default_value_t = 7)]
    pub(crate) fair_rounds: u32,
    /// Different keys of `keys`.
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) keys: u32,
    /// Connections to each gateway.
    #[arg(long, default_value_t = 24)]
    pub(crate) connections: u32,
    /// Draws another order of keys and gateways.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// A few seconds in all, to see that it works; the numbers mean nothing.
    #[arg(long)]
    pub(crate) smoke: bool,
    /// An aim that is missed fails the run.
    #[arg(long)]
    pub(crate) strict: bool,
    /// Take the binary beside this one as it is.
    #[arg(long)]
    pub(crate) no_build: bool,
    /// Leave it to the scheduler which CPU runs what.
    #[arg(long)]
    pub(crate) no_pin: bool,
}

impl Flags {
    /// Applies `--smoke` and refuses what cannot be meant.
    pub(crate) fn settled(mut self) -> anyhow::Result<Self> {
        if self.smoke {
            self.rounds = 1;
            self.seconds = 0.3;
            self.rate = Some(self.rate.unwrap_or(500));
            self.fault_rate = self.fault_rate.min(300);
            self.fault_seconds = 0.3;
            self.fair_rounds = 1;
            self.keys = self.keys.min(2_000);
            self.connections = self.connections.min(4);
        }
        ensure!((1..=100).contains(&self.rounds), "--rounds goes from 1 to 100");
        ensure!((0.1..=60.0).contains(&self.seconds), "--seconds goes from 0.1 to 60");
        ensure!(self.rate.is_none_or(|rate| (10..=100_000).contains(&rate)), "--rate goes from 10 to 100000");
        ensure!((30..=10_000).contains(&self.fault_rate), "--fault-rate goes from 30 to 10000");
        ensure!((0.1..=30.0).contains(&self.fault_seconds), "--fault-seconds goes from 0.1 to 30");
        ensure!((1..=100).contains(&self.fair_rounds), "--fair-rounds goes from 1 to 100");
        ensure!((1_000..=5_000_000).contains(&self.keys), "--keys goes from 1000 to 5000000");
        ensure!((1..=200).contains(&self.connections), "--connections goes from 1 to 200");
        self.modes.sort_unstable();
        self.modes.dedup();
        Ok(self)
    }

    /// How long something takes that no flag is for.
    pub(crate) fn pause(&self, usual: Duration) -> Duration {
        if self.smoke { usual.mul_f64(0.1) } else { usual }
    }
}

/// A part of the measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Mode {
    /// What is admitted, refused and spent where the store is well.
    Bounds,
    /// What is admitted and refused while the store is away, and when it is back.
    Faults,
    /// What one key's flood does to another key.
    Fairness,
    /// What many live keys cost.
    Keys,
}

/// A shape of limit: its numbers and its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ShapeName {
    /// Too small to be taken ahead, over many keys.
    Small,
    /// Large and slow to fill, over few keys.
    Minute,
    /// Small and quick to fill, of keys that ask for more.
    Hot,
    /// Large and far from empty, as sums of whole tenants are.
    Sums,
    /// The same, with three limits on the route.
    Three,
}

impl ShapeName {
    const ALL: [Self; 5] = [Self::Small, Self::Minute, Self::Hot, Self::Sums, Self::Three];
}

impl fmt::Display for ShapeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Small => "small",
            Self::Minute => "minute",
            Self::Hot => "hot",
            Self::Sums => "sums",
            Self::Three => "three",
        })
    }
}

// clap shows defaults by `Display`.
impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bounds => "bounds",
            Self::Faults => "faults",
            Self::Fairness => "fairness",
            Self::Keys => "keys",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> anyhow::Result<Flags> {
        Flags::try_parse_from(line.split(' '))?.settled()
    }

    #[test]
    fn the_modes_that_fit_ten_minutes_are_the_default_and_the_order_is_that_of_the_report() {
        assert_eq!(parse("limits").unwrap().modes, [Mode::Bounds, Mode::Faults, Mode::Fairness]);
        assert_eq!(parse("limits --modes fairness,bounds,fairness").unwrap().modes, [Mode::Bounds, Mode::Fairness]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for bad in ["--rounds 0", "--seconds NaN", "--rate 9", "--fault-rate 1", "--fault-seconds 0", "--connections 0"]
        {
            assert!(parse(&format!("limits {bad}")).is_err(), "{bad}");
        }
    }
}
