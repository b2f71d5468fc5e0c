//! `portcullis keys status | refresh`: the issuers' keys of a running gateway, asked over its admin listener.

use std::path::Path;

use anyhow::bail;
use reqwest::Method;
use serde_json::Value;

use super::{operator::ask, say};

/// Shows how each issuer's keys stand.
pub(super) fn status(config: &Path) -> anyhow::Result<()> {
    let answer = ask(config, Method::GET, "issuers")?;
    let issuers = answer.get("issuers").and_then(Value::as_array).cloned().unwrap_or_default();
    if issuers.is_empty() {
        return say("there are no issuers");
    }
    for issuer in &issuers {
        for line in shown(issuer) {
            say(&line)?;
        }
    }
    Ok(())
}

/// Has an issuer's keys fetched or read now.
pub(super) fn refresh(config: &Path, issuer: &str) -> anyhow::Result<()> {
    if issuer.is_empty() || !issuer.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_')) {
        bail!("`{}` is no issuer's name", issuer.escape_default());
    }
    ask(config, Method::POST, &format!("issuers/{issuer}/refresh"))?;
    say(&format!("the keys of {issuer} were loaded"))
}

fn shown(issuer: &Value) -> Vec<String> {
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let number = |name: &str| issuer.get(name).and_then(Value::as_u64);
    let name = text(issuer, "issuer").unwrap_or_default();
    let source = [text(issuer, "source"), text(issuer, "at")].into_iter().flatten().collect::<Vec<_>>().join(" ");
    let state = match (text(issuer, "missing"), number("age_s"), text(issuer, "from").as_deref()) {
        (Some(why), ..) => format!("no keys: {why}"),
        (None, Some(age), Some("copy")) => format!("{age}s old, from the copy on disk"),
        (None, Some(age), _) => format!("{age}s old"),
        (None, None, _) => "loaded".to_owned(),
    };
    let mut lines = vec![format!("{name}  {source}  {state}")];
    for key in issuer.get("keys").and_then(Value::as_array).into_iter().flatten() {
        let kid = text(key, "kid").unwrap_or_else(|| "(without kid)".to_owned());
        lines.push(format!("  key {kid} {}", text(key, "algorithm").unwrap_or_default()));
    }
    for dropped in issuer.get("dropped").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        lines.push(format!("  not used: {dropped}"));
    }
    if let Some(wait) = number("next_fetch_s") {
        lines.push(format!("  next fetch in {wait}s"));
    }
    if let Some(error) = issuer.get("last_error").filter(|error| !error.is_null()) {
        let ago = error.get("ago_s").and_then(Value::as_u64).unwrap_or_default();
        lines.push(format!("  last error {ago}s ago: {}", text(error, "why").unwrap_or_default().escape_debug()));
    }
    lines
}
