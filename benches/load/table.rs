//! The report: one markdown table for each protocol and request, and whether the aim was met.

use std::fmt;

use anyhow::ensure;
use portcullis_benches::{
    aim::{Aim, differences},
    cpus::Cpus,
    number::{float, median},
};

use crate::{
    flags::{Flags, Kind, Protocol, Workload},
    phase::Measured,
    run::Rounds,
};

/// The aim for the gateway with every control on, as a multiple of bare Pingora's CPU per request.
const AIM: f64 = 1.25;

/// What three limits may take, in microseconds of CPU per request above the gateway with its controls off.
const LIMITS_AIMS: [(Kind, f64); 2] = [(Kind::Limits, 2.0), (Kind::Leased, 5.0)];

/// One protocol and one request.
#[derive(Debug)]
pub(crate) struct Section {
    pub(crate) protocol: Protocol,
    pub(crate) workload: Workload,
    /// Requests per second of the open loop.
    pub(crate) rate: u32,
    pub(crate) closed: Rounds,
    pub(crate) open: Rounds,
}

impl Section {
    /// CPU per request as a multiple of bare Pingora's: the median over the rounds of the ratio within a round.
    fn ratio(rounds: &Rounds, kind: Kind) -> Option<f64> {
        let ratios = rounds.get(&kind)?.iter().zip(rounds.get(&Kind::Bare)?);
        Some(median(ratios.map(|(this, bare)| this.cpu_us / bare.cpu_us).collect()))
    }

    /// What limits cost, in the closed loop.
    fn limits(&self) -> impl Iterator<Item = Aim> {
        LIMITS_AIMS.iter().filter_map(|(kind, most)| {
            let more = differences(self.closed.get(kind)?, self.closed.get(&Kind::Off)?, |measured| measured.cpu_us);
            let what = format!("{} {}, {}: CPU above controls off", self.protocol, self.workload, name(*kind));
            Some(Aim::of(what, more, *most, " µs"))
        })
    }

    fn failures(&self) -> impl Iterator<Item = (Kind, &Measured)> {
        let all = self.closed.iter().chain(&self.open);
        all.flat_map(|(&kind, rounds)| rounds.iter().map(move |measured| (kind, measured)))
            .filter(|(_, measured)| measured.failed > 0)
    }
}

/// Everything that a run found.
#[derive(Debug)]
pub(crate) struct Report {
    setting: String,
    ratio_max: Option<f64>,
    sections: Vec<Section>,
}

impl Report {
    /// Keeps what the head of the report says about the run.
    pub(crate) fn new(flags: &Flags, cpus: &Cpus, sections: Vec<Section>) -> Self {
        let smoke = if flags.smoke { "**Smoke run: the numbers mean nothing.** " } else { "" };
        let setting = format!(
            "{smoke}Loopback, TLS 1.3, {} proxy thread(s), {}, {} requests in flight ({} streams a connection with h2), \
             {} round(s) of {} s, access log to {}.",
            flags.threads,
            cpus.describe(),
            flags.connections,
            flags.streams,
            flags.rounds,
            flags.seconds,
            flags.access_log.display(),
        );
        Self { setting, ratio_max: flags.ratio_max, sections }
    }

    /// Fails when exchanges failed, or when the ratio that was asked for is exceeded.
    pub(crate) fn verdict(&self) -> anyhow::Result<()> {
        for section in &self.sections {
            if let Some((kind, measured)) = section.failures().next() {
                anyhow::bail!(
                    "{} exchange(s) with `{kind}` failed, the first one: {}",
                    measured.failed,
                    measured.first_error.as_deref().unwrap_or("unknown")
                );
            }
            if let (Some(most), Some(ratio)) = (self.ratio_max, Section::ratio(&section.closed, Kind::On)) {
                let (protocol, workload) = (section.protocol, section.workload);
                ensure!(ratio <= most, "{protocol} {workload}: {ratio:.2} times bare Pingora, the most is {most}");
            }
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.setting)?;
        for section in &self.sections {
            write!(f, "{section}")?;
        }
        for section in &self.sections {
            if let Some(ratio) = Section::ratio(&section.closed, Kind::On) {
                let met = if ratio <= AIM { "met" } else { "missed" };
                writeln!(
                    f,
                    "- {} {}: {ratio:.2} times bare Pingora, aim {AIM}: {met}",
                    section.protocol, section.workload
                )?;
            }
        }
        self.sections.iter().flat_map(Section::limits).try_for_each(|aim| write!(f, "{aim}"))
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let request = match self.workload {
            Workload::Get => "GET with a query",
            Workload::Post => "POST with a small JSON body",
        };
        writeln!(f, "### {}, {request}\n", self.protocol)?;
        let rate = self.rate;
        writeln!(
            f,
            "| proxy | requests/s | CPU µs/request | ratio | CPU µs/request at {rate}/s | ratio | p50 µs at {rate}/s | \
             p99 µs at {rate}/s | RSS MiB | CPU busy |\n\
             | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
        )?;
        for (&kind, closed) in &self.closed {
            let open = self.open.get(&kind).map(Vec::as_slice).unwrap_or_default();
            writeln!(
                f,
                "| {} | {:.0} | {:.1} | {} | {:.1} | {} | {:.0} | {:.0} | {:.1} | {:.0} % |",
                name(kind),
                of(closed, |m| m.per_second),
                of(closed, |m| m.cpu_us),
                ratio(Self::ratio(&self.closed, kind)),
                of(open, |m| m.cpu_us),
                ratio(Self::ratio(&self.open, kind)),
                of(open, |m| float(m.latency.value_at_quantile(0.5)) / 1e3),
                of(open, |m| float(m.latency.value_at_quantile(0.99)) / 1e3),
                of(closed, |m| float(m.rss_kib) / 1024.0),
                of(closed, |m| m.busy * 100.0),
            )?;
        }
        writeln!(f)
    }
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Bare => "bare Pingora 0.9.1",
        Kind::Off => "portcullis, controls off",
        Kind::On => "portcullis, all controls on",
        Kind::Limits => "portcullis, three limits in memory",
        Kind::Leased => "portcullis, three leased limits",
    }
}

fn ratio(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "—".to_owned(), |ratio| format!("{ratio:.2}"))
}

/// The median over the rounds of one number.
fn of(rounds: &[Measured], number: impl Fn(&Measured) -> f64) -> f64 {
    median(rounds.iter().map(number).collect())
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;

    use super::*;

    fn measured(cpu_us: f64, failed: u64) -> Measured {
        Measured {
            per_second: 1e6 / cpu_us,
            cpu_us,
            busy: 1.0,
            latency: Histogram::new(3).unwrap(),
            rss_kib: 2048,
            failed,
            first_error: (failed > 0).then(|| "refused".to_owned()),
        }
    }

    fn report(on: [f64; 3], ratio_max: Option<f64>, failed: u64) -> Report {
        let rounds = |list: [f64; 3]| list.map(|cpu_us| measured(cpu_us, failed)).to_vec();
        let closed = Rounds::from([(Kind::Bare, rounds([40.0, 50.0, 80.0])), (Kind::On, rounds(on))]);
        let section =
            Section { protocol: Protocol::H1, workload: Workload::Get, rate: 100, open: closed.clone(), closed };
        Report { setting: String::new(), ratio_max, sections: vec![section] }
    }

    #[test]
    fn a_ratio_compares_within_a_round_so_that_a_slow_round_does_not_count_twice() {
        let report = report([48.0, 60.0, 96.0], None, 0);
        assert!((Section::ratio(&report.sections[0].closed, Kind::On).unwrap() - 1.2).abs() < 1e-9);
        assert!(report.to_string().contains("1.20 times bare Pingora, aim 1.25: met"));
        assert!(report.verdict().is_ok());
    }

    #[test]
    fn more_than_was_asked_for_fails() {
        assert!(report([60.0, 75.0, 120.0], None, 0).to_string().contains("missed"));
        assert!(report([60.0, 75.0, 120.0], Some(1.4), 0).verdict().is_err());
        assert!(report([60.0, 75.0, 120.0], Some(1.6), 0).verdict().is_ok());
    }

    #[test]
    fn a_failed_exchange_fails_the_run() {
        let error = report([40.0, 50.0, 80.0], None, 3).verdict().unwrap_err().to_string();
        assert_eq!(error, "3 exchange(s) with `bare` failed, the first one: refused");
    }
}
