//! The report of `keys`: a row for each gateway, and the aims.

use std::{collections::BTreeMap, fmt};

use portcullis_benches::{
    aim::{Aim, over, quantile},
    number::{float, median},
};

use crate::keys::{Flood, Rounds, Subject};

/// How much longer B may wait at its 99th percentile, in per cent.
const P99_MAX: f64 = 5.0;
/// Memory of one place of a table, in bytes: 42 for each key where half of the places are taken.
const PLACE_BYTES: f64 = 21.5;
/// How much all else may grow in a flood, in MiB: what a peak of requests took is kept for the next.
const GROWN_MAX: f64 = 16.0;

/// Everything that `keys` found.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) keys: u32,
    pub(crate) rate: u32,
    /// By so many the room of the two kinds of gateway differs, over the tables of both limits.
    pub(crate) places: f64,
    pub(crate) rounds: Rounds,
    pub(crate) floods: BTreeMap<Subject, Flood>,
}

impl Report {
    fn of(&self, subject: Subject) -> &[Vec<f64>] {
        self.rounds.get(&subject).map(Vec::as_slice).unwrap_or_default()
    }

    fn ratios(&self, subject: Subject, share: f64) -> Vec<f64> {
        let pairs = self.of(subject).iter().zip(self.of(Subject::Alone));
        pairs.map(|(this, alone)| quantile(this, share) / quantile(alone, share)).collect()
    }

    /// What was promised.
    pub(crate) fn aims(&self) -> Vec<Aim> {
        let longer = |subject| self.ratios(subject, 0.99).into_iter().map(|ratio| (ratio - 1.0) * 100.0).collect();
        let freed = self.floods.values().map(|flood| flood.freed).fold(0, u64::saturating_add);
        let mut aims = vec![
            Aim::of("B's p99 beside all live keys, longer by", longer(Subject::Roomy), P99_MAX, " %"),
            Aim::of("B's p99 after the flood, longer by", longer(Subject::Usual), P99_MAX, " %"),
            Aim::new("C's requests that the flood freed", float(freed), 0.0, ""),
        ];
        if let (Some(roomy), Some(usual)) = (self.floods.get(&Subject::Roomy), self.floods.get(&Subject::Usual)) {
            // Tables are taken at the start: the two gateways differ by nothing but their room.
            let more = (float(roomy.after_kib) - float(usual.before_kib)) * 1024.0;
            aims.push(Aim::new("memory of a place for a key", more / self.places, PLACE_BYTES, " B"));
            let grown = roomy.grown_mib().max(usual.grown_mib());
            aims.push(Aim::new("memory that a flood adds", grown, GROWN_MAX, " MiB"));
        }
        aims
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Counters in memory, {} keys, {} round(s); B sends {}/s. Ratios are medians of those within a round.\n\n\
             | gateway | keys/s of the flood | resident MiB | grown by MiB | C admitted afterwards | newcomers that shared | B's p50 µs | \
             B's p99 µs | ratio of p50 | ratio of p99 |\n\
             | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
            self.keys,
            self.of(Subject::Alone).len(),
            self.rate,
        )?;
        for subject in Subject::ALL {
            let rounds = self.of(subject);
            write!(f, "| {} |", subject.title())?;
            match self.floods.get(&subject) {
                Some(flood) => write!(
                    f,
                    " {:.0} | {:.1} | {:.1} | {} | {:.0} |",
                    flood.keys_per_second(self.keys),
                    float(flood.after_kib) / 1024.0,
                    flood.grown_mib(),
                    flood.freed,
                    flood.crowded
                )?,
                None => write!(f, " | | | | |")?,
            }
            writeln!(
                f,
                " {:.0} | {:.0} | {:.2} | {:.2} |",
                over(rounds, |turn| quantile(turn, 0.5)),
                over(rounds, |turn| quantile(turn, 0.99)),
                median(self.ratios(subject, 0.5)),
                median(self.ratios(subject, 0.99)),
            )?;
        }
        writeln!(f)
    }
}
