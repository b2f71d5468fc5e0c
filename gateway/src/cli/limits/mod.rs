//! `portcullis limits`: what limits could be, read off access logs, and how one of them stands (`bucket`).
//!
//! `read` turns lines into [`Traffic`], `suggest` computes, `show` writes it down. `held_out` tests suggestions on
//! traffic that they were not made from.

mod bucket;
#[cfg(test)]
mod held_out;
mod read;
mod show;
mod suggest;
mod traffic;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use portcullis_api::Millis;
use portcullis_plugins::rate_limit::WINDOW_MAX;

use self::{
    show::Row,
    suggest::suggest,
    traffic::{Kind, Traffic},
};
use super::say;

/// What to do with limits.
#[derive(Subcommand)]
pub(super) enum Limits {
    /// Suggest limits from access logs, and say what each would have refused.
    Suggest(Suggest),
    /// Show how one bucket of a limit stands.
    Show(bucket::Bucket),
    /// Fill one bucket of a limit.
    Reset(bucket::Bucket),
}

/// Access logs, and what to make of them.
#[derive(Args)]
pub(super) struct Suggest {
    /// An access log, `-` for standard input; may be given several times.
    #[arg(long = "log", value_name = "FILE", required = true)]
    logs: Vec<PathBuf>,
    /// The window of the limits, as in the configuration; may be given several times.
    #[arg(long = "window", value_name = "DURATION", default_value = "1m", value_parser = window)]
    windows: Vec<Millis>,
    /// Print the limits as blocks for the configuration, instead of the table.
    #[arg(long)]
    toml: bool,
}

fn window(text: &str) -> Result<Millis, String> {
    let window = Millis::parse(text)?;
    if window > WINDOW_MAX {
        return Err(format!("`{text}` is longer than {WINDOW_MAX}, the longest window of a limit"));
    }
    Ok(window)
}

impl Limits {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Suggest(suggest) => suggest.run(),
            Self::Show(bucket) => bucket.show(),
            Self::Reset(bucket) => bucket.reset(),
        }
    }
}

impl Suggest {
    fn run(self) -> anyhow::Result<()> {
        let Self { logs, windows, toml } = self;
        // A line that is read twice is traffic that never was.
        let files: Vec<PathBuf> = logs.iter().map(|log| log.canonicalize().unwrap_or_else(|_| log.clone())).collect();
        if let Some(log) = twice(&files) {
            bail!("{} is given twice", log.display());
        }
        if let Some(window) = twice(&windows) {
            bail!("the window {window} is given twice");
        }
        let mut traffic = Traffic::default();
        for log in &logs {
            read::read(log, &mut traffic)?;
        }
        traffic.sort();
        if traffic.tally.counted == 0 {
            bail!(
                "none of {} access lines is of a request that passed: there is nothing to count",
                traffic.tally.lines
            );
        }
        let rows = rows(&traffic, &windows)?;
        let lines = if toml { show::blocks(&traffic, &rows) } else { show::table(&traffic, &rows) };
        lines.iter().try_for_each(|line| say(line))
    }
}

fn twice<T: PartialEq>(list: &[T]) -> Option<&T> {
    list.iter().enumerate().find(|(at, one)| list.iter().take(*at).any(|earlier| earlier == *one)).map(|(_, one)| one)
}

fn rows<'t>(traffic: &'t Traffic, windows: &[Millis]) -> anyhow::Result<Vec<Row<'t>>> {
    let mut rows = Vec::new();
    for (name, route) in &traffic.routes {
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Caller || route.is_mixed()) {
            for window in windows {
                let suggestion = suggest(&route.requests, kind, *window)
                    .with_context(|| format!("{} by {} in {window}", show::plain(name), kind.as_str()))?;
                rows.extend(suggestion.map(|suggestion| Row { route: name, kind, window: *window, suggestion }));
            }
        }
    }
    Ok(rows)
}

/// How a log is called in messages.
fn log_name(log: &Path) -> String {
    if log == Path::new("-") { "standard input".to_owned() } else { log.display().to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_written_as_in_the_document_and_no_longer_than_a_limit_may_have() {
        assert_eq!(window("31d").map(Millis::as_secs_ceil), Ok(31 * 86_400));
        for wrong in ["32d", "0s", "60", "", "1w"] {
            assert!(window(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_given_twice_is_found() {
        assert_eq!(twice(&[1, 2, 1]), Some(&1));
        assert_eq!(twice(&[1, 2, 3]), None);
    }
}
