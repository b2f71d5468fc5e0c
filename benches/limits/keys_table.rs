//! The report of `keys`: a row for each gateway, and the aims.

use std::{collections::BTreeMap, fmt};

use portcullis_benches::{
    aim::{Aim, over, quantile},
    number::{float, median},
};

use crate::keys::{Flood, Rounds, Subject};

/// How much longer B may wait at its 99th percentile, in per cent.
const P99_MAX: f64 = 5.0;
/// Memory of one place of a table at half load, in bytes, with a tenth of a MiB for all else a million requests leave.
const KEY_BYTES: f64 = 44.0;

/// Everything that `keys` found.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) keys: u32,
    pub(crate) rate: u32,
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
        if let Some(flood) = self.floods.get(&Subject::Roomy) {
            let each = flood.grown_mib() * 1024.0 * 1024.0 / f64::from(self.keys);
            aims.push(Aim::new("memory of a live key", each, KEY_BYTES, " B"));
        }
        aims
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Counters in memory, {} keys, {} round(s); B sends {}/s. Ratios are medians of those within a round.\n\n\
             | gateway | keys/s of the flood | grown by MiB | C admitted afterwards | newcomers that shared | B's p50 µs | \
             B's p99 µs | ratio of p50 | ratio of p99 |\n\
             | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
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
                    " {:.0} | {:.1} | {} | {:.0} |",
                    flood.keys_per_second(self.keys),
                    flood.grown_mib(),
                    flood.freed,
                    flood.crowded
                )?,
                None => write!(f, " | | | |")?,
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
