//! What can be asked for on the command line, and what `--smoke` makes of it.

use std::{fmt, path::PathBuf, time::Duration};

use anyhow::ensure;
use clap::{Parser, ValueEnum};

/// Longest run that the flags may add up to. Tokens live an hour, and nobody waits longer.
const RUN_MAX: Duration = Duration::from_secs(45 * 60);

/// Measures bare Pingora, the gateway with its controls off, with all of them on, and with limits alone; prints a markdown
/// table.
#[derive(Debug, Clone, Parser)]
pub(crate) struct Flags {
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 3.0)]
    pub(crate) seconds: f64,
    /// Seconds of traffic before each measurement.
    #[arg(long, default_value_t = 0.5)]
    pub(crate) warmup: f64,
    /// Rounds; in each of them every proxy is measured once.
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: u32,
    /// Requests in flight: connections with HTTP/1.1, streams with HTTP/2.
    #[arg(long, default_value_t = 32)]
    pub(crate) connections: u32,
    /// Streams of each HTTP/2 connection.
    #[arg(long, default_value_t = 8)]
    pub(crate) streams: u32,
    /// Requests per second of the open loop; four tenths of what the slowest proxy did when not given.
    #[arg(long)]
    pub(crate) rate: Option<u32>,
    /// Worker threads of each proxy.
    #[arg(long, default_value_t = 1)]
    pub(crate) threads: u32,
    /// Which protocols.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Protocol::H1, Protocol::H2])]
    pub(crate) protocols: Vec<Protocol>,
    /// Which requests.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Workload::Get, Workload::Post])]
    pub(crate) workloads: Vec<Workload>,
    /// Which proxies.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Kind::Bare, Kind::Off, Kind::On, Kind::Limits, Kind::Leased])]
    pub(crate) subjects: Vec<Kind>,
    /// A few seconds in all, to see that it works; the numbers mean nothing.
    #[arg(long)]
    pub(crate) smoke: bool,
    /// Take the binaries beside this one as they are.
    #[arg(long)]
    pub(crate) no_build: bool,
    /// Leave it to the scheduler which CPU runs what.
    #[arg(long)]
    pub(crate) no_pin: bool,
    /// Where the gateways write their access log.
    #[arg(long, default_value = "/dev/null")]
    pub(crate) access_log: PathBuf,
    /// Most CPU per request that the gateway with every control on may need, as a multiple of bare Pingora; more fails.
    #[arg(long)]
    pub(crate) ratio_max: Option<f64>,
}

impl Flags {
    /// Applies `--smoke` and refuses what cannot be meant.
    pub(crate) fn settled(mut self) -> anyhow::Result<Self> {
        if self.smoke {
            self.seconds = 0.5;
            self.warmup = 0.2;
            self.rounds = 1;
            self.connections = self.connections.min(8);
            self.streams = self.streams.min(4);
        }
        ensure!((0.1..=60.0).contains(&self.seconds), "--seconds goes from 0.1 to 60");
        ensure!((0.0..=10.0).contains(&self.warmup), "--warmup goes from 0 to 10");
        ensure!((1..=100).contains(&self.rounds), "--rounds goes from 1 to 100");
        ensure!((1..=1000).contains(&self.connections), "--connections goes from 1 to 1000");
        ensure!((1..=100).contains(&self.streams), "--streams goes from 1 to 100");
        ensure!((1..=64).contains(&self.threads), "--threads goes from 1 to 64");
        ensure!(self.rate.is_none_or(|rate| (1..=1_000_000).contains(&rate)), "--rate goes from 1 to 1000000");
        self.subjects.sort_unstable();
        self.subjects.dedup();
        ensure!(
            self.length() <= RUN_MAX,
            "this would take {} minutes; the most is {}",
            self.length().as_secs() / 60,
            RUN_MAX.as_secs() / 60
        );
        Ok(self)
    }

    /// How long the measurements take, without start and connecting.
    pub(crate) fn length(&self) -> Duration {
        let sections = self.protocols.iter().flat_map(|p| self.workloads.iter().map(|w| (*p, *w)));
        let measured = sections.flat_map(|(p, w)| self.subjects.iter().filter(move |kind| kind.is_measured(p, w)));
        let phases = u32::try_from(measured.count()).unwrap_or(u32::MAX).saturating_mul(2).saturating_mul(self.rounds);
        Duration::from_secs_f64((self.seconds + self.warmup) * f64::from(phases))
    }
}

/// A protocol of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Protocol {
    /// HTTP/1.1, keep-alive.
    H1,
    /// HTTP/2.
    H2,
}

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Workload {
    /// A GET with a query.
    Get,
    /// A POST with a small JSON body.
    Post,
}

/// A proxy, in the order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Kind {
    /// Bare Pingora.
    Bare,
    /// The gateway with every control off that can be.
    Off,
    /// The gateway with every control on.
    On,
    /// The gateway with three limits in memory and no other control; only with HTTP/1.1 and GET.
    Limits,
    /// The gateway with three leased limits in a Redis and no other control; only with HTTP/1.1 and GET.
    Leased,
}

impl Kind {
    /// Whether it takes part with this protocol and request.
    pub(crate) fn is_measured(self, protocol: Protocol, workload: Workload) -> bool {
        match self {
            Self::Bare | Self::Off | Self::On => true,
            Self::Limits | Self::Leased => (protocol, workload) == (Protocol::H1, Workload::Get),
        }
    }
}

// clap shows defaults by `Display`.
macro_rules! shown_as {
    ($($kind:ty { $($variant:ident => $text:literal),+ })+) => {$(
        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $text),+ })
            }
        }
    )+};
}
shown_as! {
    Protocol { H1 => "h1", H2 => "h2" }
    Workload { Get => "get", Post => "post" }
    Kind { Bare => "bare", Off => "off", On => "on", Limits => "limits", Leased => "leased" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> anyhow::Result<Flags> {
        Flags::try_parse_from(line.split(' '))?.settled()
    }

    #[test]
    fn the_defaults_are_bounded_and_smoke_takes_seconds() {
        assert!(parse("load").unwrap().length() < Duration::from_secs(10 * 60));
        assert!(parse("load --smoke").unwrap().length() < Duration::from_secs(20));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for bad in ["--seconds 0", "--seconds NaN", "--rounds 0", "--connections 0", "--rate 0", "--threads 65"] {
            assert!(parse(&format!("load {bad}")).is_err(), "{bad}");
        }
        assert!(parse("load --rounds 100 --seconds 60").is_err());
    }

    #[test]
    fn subjects_keep_the_order_of_the_table() {
        assert_eq!(parse("load --subjects on,bare,on").unwrap().subjects, [Kind::Bare, Kind::On]);
    }
}
