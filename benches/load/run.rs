//! The order of a run: start everything, then in turns.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use anyhow::{Context, ensure};
use portcullis_benches::{cpus::Cpus, number::rounded, upstream};

use crate::{
    client::Target,
    flags::{Flags, Kind, Protocol, Workload},
    phase::{self, Measured, Pace},
    pki::Pki,
    subject::{Binaries, Subject},
    table::{Report, Section},
};

/// Share of what the slowest proxy can do that all get in the open loop: well below the knee, where a queue would
/// measure the machine, and enough that the proxy is awake.
const OPEN_SHARE: f64 = 0.4;

/// What was measured of each proxy, round by round.
pub(crate) type Rounds = BTreeMap<Kind, Vec<Measured>>;

/// Everything, in order.
pub(crate) async fn run(flags: &Flags, cpus: &Cpus, binaries: &Binaries) -> anyhow::Result<Report> {
    let folder = tempfile::tempdir()?;
    let pki = Pki::make(folder.path())?;
    let upstream = upstream::start()?;
    let mut subjects = Vec::new();
    for &kind in &flags.subjects {
        subjects.push(Subject::start(kind, flags, cpus, binaries, &pki, folder.path(), upstream)?);
    }
    writeln!(io::stderr(), "measuring for about {} s", flags.length().as_secs())?;

    let mut sections = Vec::new();
    for &protocol in &flags.protocols {
        for &workload in &flags.workloads {
            sections.push(section(flags, &subjects, &pki, protocol, workload).await?);
        }
    }
    Ok(Report::new(flags, cpus, sections))
}

async fn section(
    flags: &Flags,
    subjects: &[Subject],
    pki: &Pki,
    protocol: Protocol,
    workload: Workload,
) -> anyhow::Result<Section> {
    let mut targets = Vec::new();
    for subject in subjects.iter().filter(|subject| subject.kind.is_measured(protocol, workload)) {
        targets.push((subject, Target::new(subject.kind, subject.address, protocol, workload, pki)?));
    }
    let closed = in_turns(flags, &targets, Pace::Closed).await?;
    let slowest = closed.values().flatten().map(|measured| measured.per_second).fold(f64::INFINITY, f64::min);
    let rate = flags.rate.map_or_else(|| open_rate(slowest), Ok)?;
    let open = in_turns(flags, &targets, Pace::Open(rate)).await?;
    Ok(Section { protocol, workload, rate, closed, open })
}

/// Every proxy once in each round. The order turns, so that none always comes after the same one.
async fn in_turns(flags: &Flags, targets: &[(&Subject, Target)], pace: Pace) -> anyhow::Result<Rounds> {
    let mut rounds = Rounds::new();
    for round in 0..flags.rounds {
        let mut order: Vec<_> = targets.iter().collect();
        let shift = usize::try_from(round)?.checked_rem(order.len()).context("no proxy to measure")?;
        order.rotate_left(shift);
        for (subject, target) in order {
            let measured = phase::measure(target, subject.pid(), flags, pace)
                .await
                .with_context(|| format!("proxy `{}`:\n{}", subject.kind, subject.last_words()))?;
            rounds.entry(subject.kind).or_default().push(measured);
        }
    }
    Ok(rounds)
}

fn open_rate(slowest: f64) -> anyhow::Result<u32> {
    let hundreds = (slowest * OPEN_SHARE / 100.0).floor().max(1.0);
    ensure!(hundreds.is_finite(), "nothing was measured");
    Ok(rounded(hundreds).saturating_mul(100))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_open_rate_is_a_round_part_of_the_slowest_and_never_nothing() {
        assert_eq!(open_rate(20_490.0).unwrap(), 8_100);
        assert_eq!(open_rate(3.0).unwrap(), 100);
        assert!(open_rate(f64::INFINITY).is_err());
    }
}
