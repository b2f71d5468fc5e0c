//! An app's side of signed assertions: keys to sign with, and a verifier that knows what an app knows.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::{self, EcdsaKeyPair, Ed25519KeyPair, UnparsedPublicKey},
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::Value;

use crate::{
    Answer, Dial, H1, Seen,
    tokens::{b64, now},
};

/// `iss` in these tests.
pub const ISSUER: &str = "https://gw.example.test";
/// Where the admin listener hands the key set out.
pub const KEY_SET: &str = "/.well-known/portcullis/jwks.json";

/// A P-256 key as a PEM file.
pub fn p256() -> String {
    let pair = EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key is generated");
    pem(pair.to_pkcs8v1().expect("a key has a form").as_ref())
}

/// An Ed25519 key as a PEM file.
pub fn ed25519() -> String {
    pem(Ed25519KeyPair::generate().expect("a key is generated").to_pkcs8v1().expect("a key has a form").as_ref())
}

fn pem(der: &[u8]) -> String {
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der))
}

/// The keys of a set by their names.
pub type Keys = BTreeMap<String, Value>;

/// Reads a key set.
pub fn keys(set: &str) -> Keys {
    let set: Value = serde_json::from_str(set).unwrap_or_else(|e| panic!("{e} in {set}"));
    let keys = set["keys"].as_array().expect("a list of keys");
    keys.iter().map(|key| (key["kid"].as_str().expect("a key has a name").to_owned(), key.clone())).collect()
}

/// Verifies the assertion of a request as the app `upstream:NAME` would; its header and its claims.
///
/// # Errors
/// Everything that an app must refuse.
pub fn verified(seen: &Seen, keys: &Keys, audience: &str) -> anyhow::Result<(Value, Value)> {
    let token = seen.header("x-portcullis-assertion").context("no assertion")?;
    let parts: Vec<&str> = token.split('.').collect();
    let [header, payload, signed] = parts[..] else { anyhow::bail!("{token} is no compact JWS") };
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).context("no base64url");
    let head: Value = serde_json::from_slice(&decode(header)?)?;
    let names: Vec<&str> = head.as_object().context("no object")?.keys().map(String::as_str).collect();
    ensure!(names.iter().all(|name| ["alg", "kid", "typ"].contains(name)), "{head}");
    ensure!(head["typ"] == "portcullis-assertion+jwt", "{head}");
    let key = keys.get(head["kid"].as_str().context("no kid")?).with_context(|| format!("unknown key in {head}"))?;
    ensure!(head["alg"] == key["alg"] && key["use"] == "sig", "{head} for {key}");
    let member = |name: &str| decode(key[name].as_str().unwrap_or_default());
    let input = format!("{header}.{payload}");
    let verified = match key["alg"].as_str() {
        Some("ES256") => {
            let point = [vec![4], member("x")?, member("y")?].concat();
            UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point)
                .verify(input.as_bytes(), &decode(signed)?)
        }
        Some("EdDSA") => {
            UnparsedPublicKey::new(&signature::ED25519, member("x")?).verify(input.as_bytes(), &decode(signed)?)
        }
        other => anyhow::bail!("{other:?} is no algorithm"),
    };
    ensure!(verified.is_ok(), "the signature is not of key {key}");
    let claims: Value = serde_json::from_slice(&decode(payload)?)?;
    let time = |name: &str| claims[name].as_u64().with_context(|| format!("no {name} in {claims}"));
    ensure!(claims["iss"] == ISSUER && claims["aud"] == audience, "{claims}");
    ensure!(time("iat")? <= now() + 5 && now() < time("exp")? + 5, "{claims} at {}", now());
    let (target, line) = (seen.target(), seen.request_line());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    ensure!(
        claims["htm"] == line.split(' ').next().unwrap_or_default() && claims["htu"] == path,
        "{claims} for {line}"
    );
    ensure!(claims["qh"] == b64(digest(&SHA256, query.as_bytes()).as_ref()), "{claims} for {line}");
    Ok((head, claims))
}

/// Asks the admin listener for the key set, as an app does: without a token.
pub fn fetch(admin: SocketAddr) -> Answer {
    let mut client = H1::over(Dial::plain(admin).connect().expect("the admin listener accepts"));
    client.send(format!("GET {KEY_SET} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n"));
    client.answer_to("GET").expect("the admin listener answers")
}

/// An app that keeps the key set as long as it may, and asks for it at no other time.
#[derive(Default)]
pub struct CachingApp {
    /// Where it asks; set once the gateway's address is known.
    pub admin: OnceLock<SocketAddr>,
    kept: Mutex<Option<(Keys, Instant)>>,
    /// The name of the key of each request, or why the request was refused.
    pub verdicts: Mutex<Vec<Result<String, String>>>,
}

impl CachingApp {
    /// Verifies a request and keeps the verdict.
    pub fn judge(&self, seen: &Seen) {
        let keys = self.keys();
        let verdict = verified(seen, &keys, "upstream:app");
        let verdict = verdict.map(|(head, _)| head["kid"].as_str().unwrap_or_default().to_owned());
        let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        verdicts.push(verdict.map_err(|error| format!("{error:#}")));
    }

    /// The key of the last request.
    pub fn last(&self) -> Option<Result<String, String>> {
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner).last().cloned()
    }

    fn keys(&self) -> Keys {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((keys, until)) = &*kept
            && Instant::now() < *until
        {
            return keys.clone();
        }
        let answer = fetch(*self.admin.get().expect("it was told where to ask"));
        let age = answer.header("cache-control").and_then(|value| value.strip_prefix("max-age=")).expect("an age");
        let fresh = keys(&answer.text());
        *kept = Some((fresh.clone(), Instant::now() + Duration::from_secs(age.parse().expect("seconds"))));
        fresh
    }
}
