//! The report of `fairness`: a row for each turn, what a refusal costs, and the aims.

use std::fmt;

use portcullis_benches::{
    aim::{Aim, over, percent, quantile},
    number::{float, median},
};

use crate::fairness::{B_RATE, FLOOD, Measured, NUMBERS, Rounds, Turn};

/// How much longer B may wait at its 99th percentile, in per cent.
const P99_MAX: f64 = 5.0;

/// Everything that `fairness` found.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) rounds: Rounds,
    pub(crate) count: u32,
    pub(crate) seconds: f64,
}

impl Report {
    fn of(&self, turn: Turn) -> &[Measured] {
        self.rounds.get(&turn).map(Vec::as_slice).unwrap_or_default()
    }

    /// The median of the ratios within a round to the turn in which A is at its limit.
    fn ratio(&self, turn: Turn, number: impl Fn(&Measured) -> f64) -> f64 {
        median(self.ratios(turn, number))
    }

    fn ratios(&self, turn: Turn, number: impl Fn(&Measured) -> f64) -> Vec<f64> {
        let pairs = self.of(turn).iter().zip(self.of(Turn::AtLimit));
        pairs.map(|(this, calm)| number(this) / number(calm)).collect()
    }

    fn denied(&self, turn: Turn) -> u64 {
        let denied = self.of(turn).iter().map(|measured| measured.offered.saturating_sub(measured.admitted));
        denied.fold(0, u64::saturating_add)
    }

    /// CPU of a refused request, in microseconds: what the flood adds, by what it adds.
    fn refusal_us(&self) -> f64 {
        let pairs = self.of(Turn::Flood).iter().zip(self.of(Turn::AtLimit));
        let each = pairs.map(|(flood, calm)| {
            (flood.cpu_us_per_second() - calm.cpu_us_per_second())
                / (flood.refused_per_second() - calm.refused_per_second())
        });
        median(each.collect())
    }

    fn admission_us(&self) -> f64 {
        over(self.of(Turn::AtLimit), |measured| {
            measured.cpu_us / float(measured.admitted.saturating_add(measured.a_admitted))
        })
    }

    /// What was promised.
    pub(crate) fn aims(&self) -> Vec<Aim> {
        let longer = self.ratios(Turn::Flood, p99).into_iter().map(|ratio| (ratio - 1.0) * 100.0).collect();
        vec![
            Aim::of("B's p99 under A's flood, longer by", longer, P99_MAX, " %"),
            Aim::new("B's requests that were refused", float(self.denied(Turn::Flood)), 0.0, ""),
        ]
    }
}

fn p50(measured: &Measured) -> f64 {
    quantile(&measured.latencies, 0.5)
}

fn p99(measured: &Measured) -> f64 {
    quantile(&measured.latencies, 0.99)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (limit, burst) = (NUMBERS.requests, NUMBERS.burst);
        writeln!(
            f,
            "One gateway, `exact`, a limit of {limit}/s and burst {burst} for each of A and B; B sends {B_RATE}/s, A {limit}/s \
             and {}/s; {} round(s) of {} s a turn. Ratios are medians of those within a round.\n\n\
             | turn | B admitted | B's p50 µs | B's p99 µs | ratio of p50 | ratio of p99 | A admitted/s | A refused/s | \
             gateway busy |\n\
             | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
            limit.saturating_mul(FLOOD),
            self.count,
            self.seconds,
        )?;
        for turn in Turn::ALL {
            let rounds = self.of(turn);
            let offered = rounds.iter().map(|measured| measured.offered).fold(0, u64::saturating_add);
            writeln!(
                f,
                "| {} | {:.2} % | {:.0} | {:.0} | {:.2} | {:.2} | {:.0} | {:.0} | {:.0} % |",
                turn.title(),
                percent(offered.saturating_sub(self.denied(turn)), offered),
                over(rounds, p50),
                over(rounds, p99),
                self.ratio(turn, p50),
                self.ratio(turn, p99),
                over(rounds, |measured| float(measured.a_admitted) / measured.seconds),
                over(rounds, Measured::refused_per_second),
                over(rounds, Measured::busy) * 100.0,
            )?;
        }
        writeln!(
            f,
            "\nA refused request costs the gateway {:.0} µs of CPU, an admitted one {:.0} µs.\n",
            self.refusal_us(),
            self.admission_us()
        )
    }
}
