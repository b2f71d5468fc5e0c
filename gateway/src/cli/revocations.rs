//! `portcullis revoke` and `portcullis revocations`: asked of a running gateway over its admin listener.

use std::{
    io::{Read as _, stdin},
    path::PathBuf,
};

use anyhow::{Context, anyhow, bail};
use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use clap::{Args, Subcommand};
use portcullis_api::hex;
use portcullis_plugins::{authentication::TOKEN_BYTES_MAX, revocations::signing_digest};
use reqwest::Method;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::{Value, json};

use super::{
    operator::{ask, ask_with},
    say,
};

/// What is revoked.
#[derive(Args)]
pub(super) struct Revoke {
    /// `jti`, `sid`, `sub`, `tenant`, `api_key`, `kid`, `issuer`, `cert`, or `token` for a token without an id.
    kind: String,
    /// Its value; of an issuer its name in the configuration; of a certificate its SHA-256, as openssl prints it or as apps are
    /// told it, or its PEM on standard input; `-` reads it from standard input. A `token` is always read from
    /// there, so that it stands in no list of processes, and only a digest of what is signed leaves this command.
    value: String,
    /// The issuer, by its name in the configuration: for `jti`, `sid`, `sub` and `kid`.
    #[arg(long)]
    issuer: Option<String>,
    /// The tenant: for `jti` and `sid`; for `sub` where it is revoked in one tenant only.
    #[arg(long)]
    tenant: Option<String>,
    /// Why, for the record: up to 200 characters.
    #[arg(long)]
    reason: String,
    /// Waits for every gateway, 2 s at most, and fails naming those that have not said that it holds there.
    #[arg(long)]
    wait: bool,
    /// The configuration file of the running gateway.
    #[arg(long, short)]
    config: PathBuf,
}

/// What to do with revocations.
#[derive(Subcommand)]
pub(super) enum Revocations {
    /// List what is revoked, the newest first.
    List {
        /// The configuration file of the running gateway.
        #[arg(long, short)]
        config: PathBuf,
    },
}

impl Revoke {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let Self { kind, value, issuer, tenant, reason, wait, config } = self;
        let value = match (kind.as_str(), value.as_str()) {
            ("token", "-") => token_digest(&read()?)?,
            ("token", _) => bail!("a token is read from standard input: write `-` and hand it in"),
            ("cert", value) => fingerprint(&if value == "-" { read()? } else { value.to_owned() })?,
            (_, "-") => read()?,
            (_, _) => value,
        };
        let asked = json!({ "kind": kind, "value": value, "issuer": issuer, "tenant": tenant, "reason": reason });
        let page = if wait { "revocations?wait=all" } else { "revocations" };
        let answer = ask_with(&config, Method::POST, page, Some(&asked))?;
        say(&format!("revoked: {}", line(&answer)))?;
        if let Some(note) = answer.get("note").and_then(Value::as_str) {
            say(&format!("note: {note}"))?;
        }
        match answer.get("receipt") {
            Some(receipt) => held(receipt),
            None => Ok(()),
        }
    }
}

impl Revocations {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let Self::List { config } = self;
        let answer = ask(&config, Method::GET, "revocations")?;
        let listed = answer.get("revocations").and_then(Value::as_array).cloned().unwrap_or_default();
        if listed.is_empty() {
            return say("nothing is revoked");
        }
        for revocation in &listed {
            say(&line(revocation))?;
        }
        match answer.get("left_out").and_then(Value::as_u64) {
            Some(0) | None => Ok(()),
            Some(more) => say(&format!("and {more} older ones")),
        }
    }
}

/// Says on which gateways it holds.
fn held(receipt: &Value) -> anyhow::Result<()> {
    let names = |name: &str| {
        let all = receipt.get(name).and_then(Value::as_array).into_iter().flatten();
        all.filter_map(Value::as_str).map(|name| name.escape_debug().to_string()).collect::<Vec<_>>().join(", ")
    };
    say(&format!("it holds on {}", names("holds")))?;
    if receipt.get("all_known").and_then(Value::as_bool) != Some(true) {
        bail!("the store did not say which other gateways there are");
    }
    match names("lagging") {
        none if none.is_empty() => Ok(()),
        lagging => bail!("these gateways have not said yet that it holds there: {lagging}"),
    }
}

fn read() -> anyhow::Result<String> {
    let mut text = String::new();
    let most = u64::try_from(TOKEN_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(2);
    stdin().lock().take(most).read_to_string(&mut text).context("standard input")?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn token_digest(token: &str) -> anyhow::Result<String> {
    let mut parts = token.rsplitn(2, '.');
    match (parts.next(), parts.next()) {
        (Some(_signature), Some(signed)) if signed.contains('.') => Ok(hex(&signing_digest(signed.as_bytes()))),
        _ => bail!("that is no token: it has not three parts"),
    }
}

/// The certificate itself as PEM; its SHA-256 as openssl prints it (`sha256 Fingerprint=AA:BB:…`), in one piece, or as apps are
/// told it (`sha256:` and base64url).
fn fingerprint(text: &str) -> anyhow::Result<String> {
    if text.contains("-----BEGIN") {
        let certificate = CertificateDer::from_pem_slice(text.as_bytes());
        return Ok(hex(digest(&SHA256, &certificate.map_err(|_| anyhow!("that PEM holds no certificate"))?).as_ref()));
    }
    let told = text.trim().strip_prefix("sha256:").map(|encoded| URL_SAFE_NO_PAD.decode(encoded));
    let digits = match told {
        Some(bytes) => hex(&bytes.map_err(|_| anyhow!("what follows `sha256:` is no base64url"))?),
        None => text.rsplit('=').next().unwrap_or(text).trim().replace(':', "").to_ascii_lowercase(),
    };
    if digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Ok(digits);
    }
    bail!(
        "that is no certificate: write its SHA-256 (openssl x509 -noout -fingerprint -sha256), or `-` and hand its PEM in"
    )
}

fn line(revocation: &Value) -> String {
    let text = |name: &str| revocation.get(name).and_then(Value::as_str);
    let mut line = format!("{} {}", text("mark").unwrap_or("-"), text("kind").unwrap_or("-"));
    for name in ["name", "issuer", "tenant"] {
        if let Some(value) = text(name) {
            line.push_str(&format!(" {name}={}", value.escape_debug()));
        }
    }
    let at =
        revocation.get("at").and_then(Value::as_i64).and_then(|at| time::OffsetDateTime::from_unix_timestamp(at).ok());
    if let Some(at) = at.and_then(|at| at.format(&time::format_description::well_known::Rfc3339).ok()) {
        line.push_str(&format!(" at {at}"));
    }
    line.push_str(&format!(": {}", text("reason").unwrap_or("-").escape_debug()));
    line
}
