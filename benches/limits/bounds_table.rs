//! The report of `bounds`: one table for each shape, and the aims.

use std::fmt;

use portcullis_benches::{
    aim::{Aim, difference, differences, over, percent, quantile},
    number::float,
    redis_server::Work,
};

use crate::{
    bounds::{Measured, Rounds, SKEW, Shape},
    judge::Judged,
    limit::Counting,
};

/// Early refusals of a leased limit, in per cent of what the ideal admits.
const EARLY_MAX: f64 = 1.0;
/// Scripts per request of a leased limit with busy keys.
const SCRIPTS_MAX: f64 = 0.1;
/// CPU of a leased limit above a local one, and of a local one above memory, in microseconds per request.
const LEASED_MAX_US: f64 = 3.0;
const LOCAL_MAX_US: f64 = 1.0;
/// CPU of three limits above none, in memory and leased, in microseconds per request.
const THREE_IN_MEMORY_MAX_US: f64 = 2.0;
const THREE_LEASED_MAX_US: f64 = 5.0;

/// Everything that `bounds` found.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) rate: u32,
    pub(crate) seconds: f64,
    pub(crate) rounds: u32,
    pub(crate) sections: Vec<Section>,
    pub(crate) idle: Work,
}

/// One shape.
#[derive(Debug)]
pub(crate) struct Section {
    pub(crate) shape: Shape,
    pub(crate) rounds: Rounds,
}

impl Section {
    fn all(&self) -> impl Iterator<Item = &Measured> {
        self.rounds.values().flatten()
    }

    fn of(&self, counting: Counting) -> &[Measured] {
        self.rounds.get(&counting).map(Vec::as_slice).unwrap_or_default()
    }

    fn judged(&self, counting: Counting) -> Judged {
        self.of(counting).iter().map(|measured| measured.judged).fold(Judged::default(), Judged::and)
    }

    fn added(&self, counting: Counting, to: Counting, number: impl Fn(&Measured) -> f64) -> f64 {
        difference(self.of(counting), self.of(to), number)
    }

    fn aims(&self, aims: &mut Vec<Aim>) {
        let title = self.shape.title;
        for counting in [Counting::Exact, Counting::Leased] {
            let beyond = float(self.judged(counting).beyond);
            aims.push(Aim::new(format!("{title}, {}: requests beyond the limit", counting.name()), beyond, 0.0, ""));
        }
        let (leased, counting) = (self.judged(Counting::Leased), Counting::Leased.name());
        let short = percent(leased.short, leased.ideal);
        aims.push(Aim::new(format!("{title}, {counting}: early refusal"), short, EARLY_MAX, " %"));
        if self.shape.numbers.is_leased() {
            let scripts = over(self.of(Counting::Leased), scripts);
            aims.push(Aim::new(format!("{title}, {counting}: scripts per request"), scripts, SCRIPTS_MAX, ""));
            let above = differences(self.of(Counting::Leased), self.of(Counting::Local), cpu_us);
            aims.push(Aim::of(format!("{title}, {counting}: CPU above `local`"), above, LEASED_MAX_US, " µs"));
        }
        if self.shape.limits == 3 {
            for (counting, most) in
                [(Counting::Memory, THREE_IN_MEMORY_MAX_US), (Counting::Leased, THREE_LEASED_MAX_US)]
            {
                let above = differences(self.of(counting), self.of(Counting::Nothing), cpu_us);
                aims.push(Aim::of(format!("{title}, {}: CPU above no limit", counting.name()), above, most, " µs"));
            }
            return;
        }
        let above = differences(self.of(Counting::Local), self.of(Counting::Memory), cpu_us);
        aims.push(Aim::of(format!("{title}, `local`: CPU above memory"), above, LOCAL_MAX_US, " µs"));
    }

    fn row(&self, f: &mut fmt::Formatter<'_>, counting: Counting) -> fmt::Result {
        let (rounds, judged) = (self.of(counting), self.judged(counting));
        let added = |number: fn(&Measured) -> f64| match counting {
            Counting::Nothing => format!("({:.0})", over(rounds, number)),
            Counting::Memory | Counting::Local | Counting::Leased | Counting::Exact => {
                format!("{:+.0}", self.added(counting, Counting::Nothing, number))
            }
        };
        let added_cpu = match counting {
            Counting::Nothing => format!("({:.1})", over(rounds, cpu_us)),
            Counting::Memory | Counting::Local | Counting::Leased | Counting::Exact => {
                format!("{:+.1}", self.added(counting, Counting::Nothing, cpu_us))
            }
        };
        writeln!(
            f,
            "| {} | {:.1} % | {:+.2} % | {} ({}) | {} | {:.2} % | {:.2} % | {:.3} | {:.2} | {} | {} | {added_cpu} | {:.1} |",
            counting.name(),
            percent(judged.admitted, judged.offered),
            percent(judged.admitted, judged.ideal) - 100.0,
            judged.beyond,
            judged.excess,
            judged.beyond_documented,
            percent(judged.short, judged.ideal),
            percent(judged.early, judged.offered),
            over(rounds, scripts),
            over(rounds, |measured| measured.work.commands / offered(measured)),
            added(p50),
            added(p99),
            over(rounds, |measured| measured.work.cpu_us / offered(measured)),
        )
    }
}

fn offered(measured: &Measured) -> f64 {
    float(measured.judged.offered)
}

fn scripts(measured: &Measured) -> f64 {
    measured.work.scripts / offered(measured)
}

fn cpu_us(measured: &Measured) -> f64 {
    measured.cpu_us / offered(measured)
}

fn p50(measured: &Measured) -> f64 {
    quantile(&measured.latencies, 0.5)
}

fn p99(measured: &Measured) -> f64 {
    quantile(&measured.latencies, 0.99)
}

impl Report {
    /// What was promised.
    pub(crate) fn aims(&self) -> Vec<Aim> {
        let mut aims = Vec::new();
        self.sections.iter().for_each(|section| section.aims(&mut aims));
        aims
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.sections.iter().flat_map(Section::all);
        let late = all.map(|measured| quantile(&measured.late, 0.99)).fold(0.0, f64::max);
        let undecided: f64 = self.sections.iter().flat_map(Section::all).map(|measured| measured.undecided).sum();
        writeln!(
            f,
            "{} requests/s over three gateways, keys by Zipf({SKEW}), {} round(s) of {} s, every way of counting in turn. \
             Requests went out at most {:.1} ms late (the worst 99th percentile). Without requests the gateways ask Redis \
             {:.1} scripts and {:.1} commands a second; they are taken off. Redis did not decide {undecided:.0} checks \
             within the deadline.\n",
            self.rate,
            self.rounds,
            self.seconds,
            late / 1e3,
            self.idle.scripts / self.idle.seconds,
            self.idle.commands / self.idle.seconds,
        )?;
        for section in &self.sections {
            writeln!(f, "#### {}\n", section.shape.title)?;
            writeln!(
                f,
                "| counting | admitted of offered | against the ideal | beyond (tokens) | beyond what is documented | \
                 short | early | scripts/request | commands/request | p50 µs | p99 µs | CPU µs/request | Redis CPU µs/request |\n\
                 | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
            )?;
            for counting in Counting::ALL {
                section.row(f, counting)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
