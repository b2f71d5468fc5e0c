//! `portcullis limits show` and `reset`: one bucket of a limit, asked of the running gateway.

use std::{net::IpAddr, path::PathBuf};

use anyhow::bail;
use clap::Args;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use serde_json::Value;

use crate::cli::{operator::ask, say};

/// A bucket: a limit, and whatever the limit counts by.
#[derive(Args)]
pub(in crate::cli) struct Bucket {
    /// The name of the limit.
    limit: String,
    /// An address of the client.
    #[arg(long)]
    client: Option<IpAddr>,
    /// The id of an API key.
    #[arg(long)]
    api_key: Option<String>,
    /// The name of the subject's issuer in the configuration.
    #[arg(long, requires = "subject")]
    issuer: Option<String>,
    /// The subject, as in `sub`.
    #[arg(long, requires = "issuer")]
    subject: Option<String>,
    /// The tenant; needed too where it has numbers of its own.
    #[arg(long)]
    tenant: Option<String>,
    /// The route, as HOST/ROUTE.
    #[arg(long)]
    route: Option<String>,
    /// A request header, as NAME:VALUE; may be given several times.
    #[arg(long)]
    header: Vec<String>,
    /// The configuration file of the running gateway.
    #[arg(long, short)]
    config: PathBuf,
}

impl Bucket {
    pub(super) fn show(&self) -> anyhow::Result<()> {
        let answer = ask(&self.config, Method::GET, &self.page()?)?;
        let number = |name: &str| answer.get(name).and_then(Value::as_u64).unwrap_or_default();
        let text = |name: &str| answer.get(name).and_then(Value::as_str).unwrap_or("-");
        let (requests, window) = (number("requests"), text("window"));
        if text("counted") == "in_flight" {
            let (limit, under_way, here) = (&self.limit, number("under_way"), number("here"));
            let share = if here == requests { String::new() } else { format!(", this gateway's share of {requests}") };
            return say(&format!("{limit}: {under_way} of {here} under way{share}"));
        }
        say(&format!(
            "{}: {} of {} left ({}), counted in {}; {}{}",
            self.limit,
            number("remaining"),
            number("burst"),
            match text("counted") {
                "share" => format!("this gateway's share of {requests} in {window}"),
                _ => format!("{requests} in {window}"),
            },
            match text("counted") {
                "memory" | "share" => "this gateway",
                _ => "the shared store",
            },
            match number("cost") {
                1 => String::new(),
                cost => format!("a request takes {cost}; "),
            },
            match (number("retry_after_ms"), number("full_after_ms")) {
                (0, 0) => "it is full".to_owned(),
                (0, full) => format!("full in {}", seconds(full)),
                (retry, full) => format!("the next request in {}, full in {}", seconds(retry), seconds(full)),
            }
        ))
    }

    pub(super) fn reset(&self) -> anyhow::Result<()> {
        let answer = ask(&self.config, Method::DELETE, &self.page()?)?;
        let bucket = answer.get("bucket").and_then(Value::as_str).unwrap_or("-");
        say(&format!("{}: the bucket is full ({bucket} in the log)", self.limit))
    }

    fn page(&self) -> anyhow::Result<String> {
        let Self { limit, client, api_key, issuer, subject, tenant, route, header, config: _ } = self;
        if !limit.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b'-') {
            bail!("`{}` is no name of a limit", limit.escape_default());
        }
        let client = client.map(|client| client.to_string());
        let parts = [
            ("client", client.as_ref()),
            ("api_key", api_key.as_ref()),
            ("issuer", issuer.as_ref()),
            ("subject", subject.as_ref()),
            ("tenant", tenant.as_ref()),
            ("route", route.as_ref()),
        ];
        let parts = parts.into_iter().filter_map(|(part, value)| Some((part, value?)));
        let query: Vec<String> = parts
            .chain(header.iter().map(|header| ("header", header)))
            .map(|(part, value)| format!("{part}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)))
            .collect();
        Ok(format!("limits/{limit}?{}", query.join("&")))
    }
}

/// Milliseconds as seconds with one digit, rounded up.
fn seconds(ms: u64) -> String {
    let tenths = ms.div_ceil(100);
    format!("{}.{}s", tenths.checked_div(10).unwrap_or(0), tenths.checked_rem(10).unwrap_or(0))
}
