//! The price of safety: bare Pingora, our gateway with its controls off, and with all of them on, in one run.
//!
//! `cargo run --release -p portcullis-benches --bin load` (or `make bench-load`). Everything is on loopback: one small
//! upstream, three proxies in front of it with the same number of threads, one client. The three take turns within
//! each round, so that whatever else the machine does falls on all of them; the table shows medians over the rounds,
//! and each ratio is the median of the ratios within a round.
//!
//! - `requests/s`: closed loop, every connection sends its next request when the answer is there.
//! - `CPU µs/request`: time on a CPU of all threads of the proxy process, by the scheduler's own account.
//! - `p50`, `p99`: open loop at one rate for all three, counted from when a request was due and not from when it was
//!   sent, so a proxy that stalls cannot hide the requests that it made wait (coordinated omission).

mod client;
mod documents;
mod flags;
mod h1;
mod h2c;
mod phase;
mod pki;
mod run;
mod subject;
mod table;

use std::io::{self, Write};

use anyhow::Context;
use clap::Parser;
use portcullis_benches::cpus::{Cpus, Pin};

fn main() -> anyhow::Result<()> {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok()
        .context("another TLS provider is installed already")?;
    let flags = flags::Flags::parse().settled()?;
    let cpus = Cpus::split(flags.threads, if flags.no_pin { Pin::Nothing } else { Pin::Apart })?;
    let binaries = subject::Binaries::find(&flags)?;
    let report = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cpus.client_threads())
        .enable_all()
        .build()?
        .block_on(run::run(&flags, &cpus, &binaries))?;
    write!(io::stdout(), "{report}")?;
    report.verdict()
}
