//! An app's side of signed requests (RFC 9421): a verifier that knows what an app knows, and builds the signature base anew.

use anyhow::{Context, bail, ensure};
use aws_lc_rs::{
    digest::{SHA256, digest},
    hmac,
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject as _};

use crate::{Seen, tokens::now};

/// What the app verifies with.
#[derive(Debug, Clone)]
pub enum AppKey {
    /// The secret that it shares with the gateway.
    Hmac(Vec<u8>),
    /// The public half of the gateway's key.
    Ed25519(Vec<u8>),
}

impl AppKey {
    /// The public half of a PEM file.
    pub fn public(pem: &str) -> Self {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).expect("a PEM file");
        let pair = Ed25519KeyPair::from_pkcs8(der.secret_pkcs8_der()).expect("an Ed25519 key");
        Self::Ed25519(pair.public_key().as_ref().to_vec())
    }

    fn verifies(&self, base: &str, signature: &[u8]) -> bool {
        match self {
            Self::Hmac(secret) => {
                hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, secret), base.as_bytes(), signature).is_ok()
            }
            Self::Ed25519(public) => {
                UnparsedPublicKey::new(&ED25519, public).verify(base.as_bytes(), signature).is_ok()
            }
        }
    }
}

/// A signature that verified.
#[derive(Debug)]
pub struct Verified {
    /// What it covers, in order.
    pub covered: Vec<String>,
    /// `nonce`.
    pub nonce: String,
}

/// Verifies a request as a careful app would.
///
/// # Errors
/// Everything that an app must refuse.
pub fn verified(seen: &Seen, key: &AppKey, keyid: &str) -> anyhow::Result<Verified> {
    let input = seen.header("signature-input").context("no Signature-Input")?;
    let parameters = input.strip_prefix("portcullis=").context("another label")?;
    let (names, rest) = parameters.strip_prefix('(').and_then(|list| list.split_once(')')).context("no list")?;
    let unquoted = |text: &str| -> anyhow::Result<String> {
        let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).context("no string")?;
        ensure!(!inner.contains(['"', '\\']), "{inner} needs an escape");
        Ok(inner.to_owned())
    };
    let covered = names.split(' ').map(unquoted).collect::<anyhow::Result<Vec<_>>>()?;
    let given: Vec<(&str, &str)> =
        rest.split(';').skip(1).map(|p| p.split_once('=').context("no value")).collect::<Result<_, _>>()?;
    let order: Vec<&str> = given.iter().map(|(name, _)| *name).collect();
    ensure!(order == ["created", "expires", "keyid", "nonce", "tag"], "{order:?}");
    let parameter = |wanted: &str| given.iter().find(|(name, _)| *name == wanted).map_or("", |(_, value)| *value);
    let (created, expires): (u64, u64) = (parameter("created").parse()?, parameter("expires").parse()?);
    ensure!(created <= now() + 5 && now() < expires + 5 && expires == created + 30, "{input} at {}", now());
    ensure!(unquoted(parameter("keyid"))? == keyid && parameter("tag") == "\"gw-upstream\"", "{input}");
    everything_is_covered(seen, &covered)?;
    let base = base(seen, &covered, parameters)?;
    let signature = seen.header("signature").context("no Signature")?;
    let bytes = signature.strip_prefix("portcullis=:").and_then(|text| text.strip_suffix(':')).context("no bytes")?;
    ensure!(key.verifies(&base, &STANDARD.decode(bytes)?), "the signature is not of this base:\n{base}");
    Ok(Verified { covered, nonce: unquoted(parameter("nonce"))? })
}

/// The target, and every field about the caller; and the body is the one that its digest is of.
fn everything_is_covered(seen: &Seen, covered: &[String]) -> anyhow::Result<()> {
    let covers = |name: &str| covered.iter().any(|covered| covered == name);
    for name in ["@method", "@path", "@query", "x-portcullis-kind", "x-request-id"] {
        ensure!(covers(name), "{name} is not covered by {covered:?}");
    }
    for (name, _) in seen.fields() {
        let name = name.to_ascii_lowercase();
        ensure!(!name.starts_with("x-portcullis-") || covers(&name), "{name} is not covered by {covered:?}");
    }
    if covers("content-digest") {
        let expected = format!("sha-256=:{}:", STANDARD.encode(digest(&SHA256, &seen.body)));
        let digest = seen.header("content-digest");
        ensure!(digest.as_deref() == Some(&*expected), "{digest:?} for a body of {expected}");
    }
    Ok(())
}

fn base(seen: &Seen, covered: &[String], parameters: &str) -> anyhow::Result<String> {
    let (target, line) = (seen.target(), seen.request_line());
    let (path, query) = target.split_once('?').map_or((&*target, ""), |(path, query)| (path, query));
    let mut lines = Vec::new();
    for name in covered {
        let value = match name.as_str() {
            "@method" => line.split(' ').next().unwrap_or_default().to_owned(),
            "@path" => path.to_owned(),
            "@query" => format!("?{query}"),
            other if other.starts_with('@') => bail!("{other} is not known"),
            field => seen.header(field).with_context(|| format!("{field} is covered and not there"))?,
        };
        lines.push(format!("\"{name}\": {value}"));
    }
    lines.push(format!("\"@signature-params\": {parameters}"));
    Ok(lines.join("\n"))
}
