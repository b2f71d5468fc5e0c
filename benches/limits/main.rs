//! What limits that several gateways count together promise, measured on the real binary.
//!
//! `cargo run --release -p portcullis-benches --bin limits` (or `make bench-limits`). Everything is on loopback: three
//! gateways with one worker thread each, one redis-server, one small upstream, one client that sends each request when
//! it is due, whether answers come or not.
//!
//! - `bounds`: for each shape of limit and each way of counting, what was admitted beside one exact bucket per key over
//!   all gateways, and what it cost.
//! - `faults`: for each posture and each thing that can happen to the store, what was admitted and refused meanwhile, how
//!   long answers took, and when the store counted again. An answer that is neither 200, 429 nor 503 fails the run.
//! - `fairness`: what a flood of one key does to another key on the same gateway.
//! - `keys`: what a million live keys cost, in memory and in time. Only when it is asked for: it takes minutes.

mod bounds;
mod bounds_table;
mod client;
mod detour;
mod fairness;
mod fairness_table;
mod faults;
mod faults_table;
mod flags;
mod fleet;
mod judge;
mod keys;
mod keys_table;
mod limit;
mod plan;

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use anyhow::ensure;
use clap::Parser;
use portcullis_benches::{
    aim::Aim,
    cpus::{Cpus, Pin},
    subject::Programs,
    upstream,
};

use crate::{
    flags::{Flags, Mode},
    fleet::World,
};

fn main() -> anyhow::Result<()> {
    let flags = Flags::parse().settled()?;
    let programs = Programs::beside_this()?;
    if !flags.no_build {
        programs.build(&[("portcullis", "portcullis")])?;
    }
    let gateway = programs.path("portcullis")?;
    let cpus = Cpus::split(1, if flags.no_pin { Pin::Nothing } else { Pin::Apart })?;
    let folder = tempfile::tempdir()?;
    let world = World { cpus: &cpus, gateway: &gateway, folder: folder.path(), upstream: upstream::start()? };
    let aims = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cpus.client_threads())
        .enable_all()
        .build()?
        .block_on(run(&flags, &world))?;
    let missed = aims.iter().filter(|aim| !aim.is_met()).count();
    ensure!(!flags.strict || missed == 0, "{missed} aim(s) missed");
    Ok(())
}

/// Each mode, with its report as soon as it is there.
async fn run(flags: &Flags, world: &World<'_>) -> anyhow::Result<Vec<Aim>> {
    let smoke = if flags.smoke { "**Smoke run: the numbers mean nothing.** " } else { "" };
    writeln!(
        io::stdout(),
        "{smoke}Loopback, plain HTTP/1.1, {}, redis-server beside client and upstream.\n",
        world.cpus.describe()
    )?;
    let (mut all, mut errors) = (Vec::new(), BTreeMap::new());
    for mode in &flags.modes {
        let (report, aims) = match mode {
            Mode::Bounds => {
                let report = bounds::run(flags, world).await?;
                (report.to_string(), report.aims())
            }
            Mode::Faults => {
                let report = faults::run(flags, world).await?;
                errors.extend(report.errors());
                (report.to_string(), report.aims())
            }
            Mode::Fairness => {
                let report = fairness::run(flags, world).await?;
                (report.to_string(), report.aims())
            }
            Mode::Keys => {
                let report = keys::run(flags, world).await?;
                (report.to_string(), report.aims())
            }
        };
        writeln!(io::stdout(), "### {mode}\n\n{report}")?;
        for aim in &aims {
            write!(io::stdout(), "{aim}")?;
        }
        writeln!(io::stdout())?;
        all.extend(aims);
    }
    ensure!(errors.is_empty(), "answers that nothing excuses, by status: {errors:?}");
    Ok(all)
}
