//! `portcullis bans` and `portcullis explain`: questions to a running gateway over its admin listener.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::Value;

use super::say;

/// What to do with blocks.
#[derive(Subcommand)]
pub(super) enum Bans {
    /// List who is blocked, why, and for how long.
    List {
        /// The configuration file of the running gateway.
        #[arg(long, short)]
        config: PathBuf,
    },
    /// Lift a client's block.
    Lift {
        /// The address, or the hash as listed.
        client: String,
        /// The configuration file of the running gateway.
        #[arg(long, short)]
        config: PathBuf,
    },
}

/// A request to be explained.
#[derive(Args)]
pub(super) struct Explain {
    /// The `X-Request-Id` or `request_id` of the answer.
    request_id: String,
    /// The configuration file of the running gateway: asks it.
    #[arg(long, short, required_unless_present = "log")]
    config: Option<PathBuf>,
    /// An access log: looks there instead.
    #[arg(long)]
    log: Option<PathBuf>,
}

impl Bans {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::List { config } => {
                let answer = ask(&config, Method::GET, "bans")?;
                let bans = answer.get("bans").and_then(Value::as_array).cloned().unwrap_or_default();
                if bans.is_empty() {
                    return say("nobody is blocked");
                }
                for ban in bans {
                    let text = |name: &str| ban.get(name).map(Value::to_string).unwrap_or_default();
                    let by_hash = ban.get("known_by").and_then(Value::as_str) == Some("hash");
                    say(&format!(
                        "{} {} {}s left{}",
                        text("client").trim_matches('"'),
                        text("reason").trim_matches('"'),
                        text("remaining_s"),
                        if by_hash { " (begun on another gateway: a hash of the address)" } else { "" }
                    ))?;
                }
                Ok(())
            }
            Self::Lift { client, config } => {
                if !client.bytes().all(|c| c.is_ascii_hexdigit() || matches!(c, b'.' | b':')) {
                    bail!("`{}` is no address and no listed hash", client.escape_default());
                }
                ask(&config, Method::DELETE, &format!("bans/{client}"))?;
                say(&format!("{client} is no longer blocked"))
            }
        }
    }
}

impl Explain {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let id = &self.request_id;
        if id.is_empty() || !id.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-') {
            bail!("`{}` is no request id", id.escape_default());
        }
        let line = match (&self.log, &self.config) {
            (Some(log), _) => from_log(log, id)?,
            (None, Some(config)) => ask(config, Method::GET, &format!("decisions/{id}"))?,
            (None, None) => bail!("give --config or --log"),
        };
        for line in explain(&line) {
            say(&line)?;
        }
        Ok(())
    }
}

fn from_log(log: &Path, id: &str) -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(log).with_context(|| log.display().to_string())?;
    text.lines()
        .rev()
        .filter(|line| line.contains(id))
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|line| line.get("request_id").and_then(Value::as_str) == Some(id))
        .ok_or_else(|| anyhow!("{} has no line of request {id}", log.display()))
}

/// The decision in words: what was asked, what each control said, and what decided.
fn explain(line: &Value) -> Vec<String> {
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
    let mut lines = vec![format!(
        "{} {} on route {} of tenant {}: {}{}",
        text(line, "method"),
        text(line, "path_template"),
        text(line, "route"),
        text(line, "tenant"),
        line.get("status").map(Value::to_string).unwrap_or_default(),
        line.get("code").and_then(Value::as_str).map(|code| format!(" {code}")).unwrap_or_default(),
    )];
    for step in line.get("trail").and_then(Value::as_array).into_iter().flatten() {
        let mut words = format!("  {:<15} {}", text(step, "control"), text(step, "outcome"));
        for (name, label) in [("mode", "in"), ("code", "code"), ("rule", "rule"), ("detail", "because")] {
            if let Some(value) = step.get(name).and_then(Value::as_str) {
                words.push_str(&format!("  {label} {value}"));
            }
        }
        lines.push(words);
    }
    lines
}

/// Asks the admin listener of a running gateway.
pub(super) fn ask(config: &Path, method: Method, path: &str) -> anyhow::Result<Value> {
    ask_with(config, method, path, None)
}

/// [`ask`] with a document.
pub(super) fn ask_with(config: &Path, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
    // Only `[admin]`: the rest may be what the running gateway has just refused.
    let (address, token) = portcullis_config::admin(config).map_err(|why| anyhow!("{}: {why}", config.display()))?;
    let token = token.ok_or_else(|| anyhow!("{} has no admin.token", config.display()))?;
    let token = std::str::from_utf8(token.expose()).context("the admin token is no text")?.to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = reqwest::Client::builder().no_proxy().timeout(std::time::Duration::from_secs(5)).build()?;
        let mut request = client.request(method, format!("http://{address}/admin/v1/{path}")).bearer_auth(token);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let answer = request.send().await.with_context(|| format!("no gateway answers at {address}"))?;
        let status = answer.status();
        if status == reqwest::StatusCode::UNAUTHORIZED {
            bail!("the gateway at {address} was started with another admin.token than {} has", config.display());
        }
        let body = answer.text().await?;
        let value: Value =
            serde_json::from_str(&body).with_context(|| format!("the gateway answered {status}: {body}"))?;
        if !status.is_success() {
            bail!("{}", value.get("error").and_then(Value::as_str).unwrap_or("the gateway refused"));
        }
        Ok(value)
    })
}
