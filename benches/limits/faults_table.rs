//! The report of `faults`: a row for each fault and posture, the aims, and what no fault excuses.

use std::{collections::BTreeMap, fmt};

use portcullis_benches::{
    aim::{Aim, percent, quantile, sorted},
    number::float,
};

use crate::{
    client::Outcome,
    faults::{DEADLINE, Fault, NUMBERS, Posture},
    judge::{Answer, Ideal, Judged, Seen},
    limit::{Counting, Numbers},
};

/// The first moment of a fault, in which the gateways find out.
const ONSET_NS: i64 = 200_000_000;
/// Above the deadline, for everything else that an answer needs.
const MARGIN_MS: f64 = 5.0;
/// How soon the store counts again after the mend.
const BACK_MAX_MS: f64 = 1_000.0;

/// Everything that `faults` found.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) rate: u32,
    pub(crate) seconds: f64,
    pub(crate) timelines: Vec<Timeline>,
}

/// One fault. Times are nanoseconds since the start of its traffic.
#[derive(Debug)]
pub(crate) struct Timeline {
    pub(crate) fault: Fault,
    pub(crate) broken: i64,
    pub(crate) mended: i64,
    pub(crate) outcomes: Vec<(Posture, Vec<Outcome>)>,
}

/// A part of a timeline.
#[derive(Debug, Clone, Copy)]
struct Span {
    from: i64,
    to: i64,
}

impl Span {
    const fn has(self, outcome: &Outcome) -> bool {
        self.from <= outcome.due && outcome.due < self.to
    }
}

/// Answers of one posture in a part of a timeline.
#[derive(Debug, Default, PartialEq)]
struct Part {
    admitted: u64,
    ideal: u64,
    statuses: BTreeMap<u16, u64>,
    latencies_ms: Vec<f64>,
}

impl Part {
    fn of(outcomes: &[Outcome], span: Span) -> Self {
        let mut part = Self::default();
        let mut latencies = Vec::new();
        let mut buckets: BTreeMap<u32, Ideal> = BTreeMap::new();
        let limit = NUMBERS.judged(Counting::Exact);
        for outcome in outcomes {
            // The ideal knows no fault: it counts what went before, too.
            let ideal = buckets.entry(outcome.planned.key).or_insert_with(|| Ideal::new(limit)).admits(outcome.sent);
            if span.has(outcome) {
                part.ideal = part.ideal.saturating_add(u64::from(ideal));
                part.admitted = part.admitted.saturating_add(u64::from(outcome.status == 200));
                let status = part.statuses.entry(outcome.status).or_default();
                *status = status.saturating_add(1);
                latencies.push(outcome.latency_us() / 1e3);
            }
        }
        part.latencies_ms = sorted(latencies);
        part
    }

    fn against_ideal(&self) -> f64 {
        percent(self.admitted, self.ideal) - 100.0
    }

    fn share(&self, status: u16) -> f64 {
        let all = self.statuses.values().fold(0_u64, |sum, count| sum.saturating_add(*count));
        percent(self.statuses.get(&status).copied().unwrap_or(0), all)
    }

    fn p99_ms(&self) -> f64 {
        quantile(&self.latencies_ms, 0.99)
    }
}

impl Timeline {
    fn whole(&self) -> Span {
        Span { from: 0, to: i64::MAX }
    }

    fn while_broken(&self) -> Span {
        Span { from: self.broken, to: self.mended }
    }

    fn onset(&self) -> Span {
        Span { from: self.broken, to: self.broken.saturating_add(ONSET_NS).min(self.mended) }
    }

    /// From the mend until the last request that was denied because the store was away, in milliseconds: as the posture
    /// that says so shows it. None where it said so of nothing.
    fn back_ms(&self) -> Option<f64> {
        let (_, outcomes) = self.outcomes.iter().find(|(posture, _)| *posture == Posture::Deny)?;
        let last = outcomes.iter().filter(|outcome| outcome.status == 503).map(|outcome| outcome.received).max()?;
        let after = u64::try_from(last.saturating_sub(self.mended)).unwrap_or(0);
        Some(float(after / 1_000) / 1e3)
    }

    fn excess(outcomes: &[Outcome]) -> i64 {
        let seen = outcomes.iter().map(|outcome| Seen {
            key: outcome.planned.key,
            sent: outcome.sent,
            received: outcome.received,
            answer: match outcome.status {
                200 => Answer::Admitted,
                429 => Answer::Refused,
                _ => Answer::Failed,
            },
        });
        Judged::of(NUMBERS.judged(Counting::Exact), &seen.collect::<Vec<_>>()).excess
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let onset = self.onset();
        let back = self.back_ms().map_or_else(|| "—".to_owned(), |back| format!("{back:.0} ms"));
        for (posture, outcomes) in &self.outcomes {
            let (first, broken) = (Part::of(outcomes, onset), Part::of(outcomes, self.while_broken()));
            let rest = Part::of(outcomes, Span { from: onset.to, to: self.mended });
            let after = Part::of(outcomes, Span { from: self.mended, to: i64::MAX });
            writeln!(
                f,
                "| {} | `{}` | {:+.1} % | {:+.1} % | {:.1} / {:.1} / {:.1} % | {:.1} | {:.1} | {back} | {:+.1} % | {} |",
                self.fault.title(),
                posture.word(),
                first.against_ideal(),
                broken.against_ideal(),
                broken.share(200),
                broken.share(429),
                broken.share(503),
                first.p99_ms(),
                rest.p99_ms(),
                after.against_ideal(),
                Self::excess(outcomes),
            )?;
        }
        Ok(())
    }
}

impl Report {
    /// What was promised.
    pub(crate) fn aims(&self) -> Vec<Aim> {
        let most_ms = DEADLINE.as_secs_f64() * 1e3 + MARGIN_MS;
        let mut aims = Vec::new();
        for timeline in &self.timelines {
            let title = timeline.fault.title();
            let all: Vec<Outcome> = timeline.outcomes.iter().flat_map(|(_, outcomes)| outcomes).copied().collect();
            let p99 = Part::of(&all, timeline.onset()).p99_ms();
            aims.push(Aim::new(format!("{title}: p99 of the first 200 ms"), p99, most_ms, " ms"));
            let back = timeline.back_ms().unwrap_or(f64::NAN);
            aims.push(Aim::new(format!("{title}: back"), back, BACK_MAX_MS, " ms"));
        }
        aims
    }

    /// Answers that no fault excuses: everything but 200, 429 and 503.
    pub(crate) fn errors(&self) -> BTreeMap<u16, u64> {
        let mut errors: BTreeMap<u16, u64> = BTreeMap::new();
        for timeline in &self.timelines {
            for (_, outcomes) in &timeline.outcomes {
                for (status, count) in Part::of(outcomes, timeline.whole()).statuses {
                    if ![200, 429, 503].contains(&status) {
                        let sum = errors.entry(status).or_default();
                        *sum = sum.saturating_add(count);
                    }
                }
            }
        }
        errors
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let well = self.timelines.iter().flat_map(|timeline| {
            let outcomes = timeline.outcomes.iter().flat_map(|(_, outcomes)| outcomes);
            outcomes.filter(|outcome| outcome.due < timeline.broken).map(|outcome| outcome.latency_us() / 1e3)
        });
        let well = sorted(well);
        let Numbers { requests, burst, .. } = NUMBERS;
        writeln!(
            f,
            "{} requests/s over three gateways, a third for each posture; limits of {requests}/s, burst {burst}, asked for \
             half as much again; each fault lasts {} s. Before the faults p50 is {:.1} ms and p99 {:.1} ms.\n\n\
             | fault | posture | first 200 ms against the ideal | while broken | 200 / 429 / 503 | p99 ms, first 200 ms | \
             p99 ms, rest of it | counted again after | after the mend against the ideal | largest excess (tokens) |\n\
             | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
            self.rate,
            self.seconds,
            quantile(&well, 0.5),
            quantile(&well, 0.99),
        )?;
        self.timelines.iter().try_for_each(|timeline| timeline.write(f))?;
        writeln!(f)?;
        for (status, count) in self.errors() {
            writeln!(f, "**{count} answer(s) with status {status}**\n")?;
        }
        Ok(())
    }
}
