//! Verifies the assertion of a request that came through Portcullis. Needs `aws-lc-rs` 1, `base64` 0.22, `serde_json` 1.
//!
//! ```ignore
//! let mut keys = Keys::parse(&fetched)?; // of the pinned URL; again after 300 s, and for an unknown key at most every 10 s
//! let claims = verify(&keys, "https://gw.example.com", "upstream:billing", method, target, assertion, now)?; // else 401
//! ```
//!
//! `target` is the path and the query as they came, not decoded. `claims["kind"]` is `user`, `apikey` or `anonymous`.

use std::collections::HashMap;

use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;

const LEEWAY_S: u64 = 5;

/// Why a request must not be served.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// What cannot be read is no assertion.
    Form,
    /// Another kind of token.
    Kind,
    /// Ask for the key set again, then refuse.
    UnknownKey,
    /// The signature is another's.
    Signature,
    /// For another app, or from another gateway.
    Audience,
    /// Too old, or from the future.
    Time,
    /// For another request.
    Request,
}

/// The key set.
pub struct Keys(HashMap<String, UnparsedPublicKey<Vec<u8>>>);

impl Keys {
    /// Reads a JWKS document.
    pub fn parse(jwks: &Value) -> Option<Self> {
        let read = |jwk: &Value| {
            let point = [vec![4], decode(jwk["x"].as_str()?)?, decode(jwk["y"].as_str()?)?].concat();
            Some((jwk["kid"].as_str()?.to_owned(), UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)))
        };
        jwks["keys"].as_array()?.iter().filter(|jwk| jwk["alg"] == "ES256").map(read).collect::<Option<_>>().map(Self)
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// The claims of a request's assertion, at `now` in seconds since 1970.
pub fn verify(
    keys: &Keys,
    issuer: &str,
    audience: &str,
    (method, target): (&str, &str),
    assertion: &str,
    now: u64,
) -> Result<Value, Refused> {
    let parts: Vec<&str> = assertion.split('.').collect();
    let [header, payload, signature] = parts[..] else { return Err(Refused::Form) };
    let json = |part| serde_json::from_slice::<Value>(&decode(part)?).ok();
    let head = json(header).ok_or(Refused::Form)?;
    // Exactly these members: `crit`, `jwk`, `jku` and their like ask for what nobody here does.
    let members = head.as_object().map_or(0, serde_json::Map::len);
    if members != 3 || head["alg"] != "ES256" || head["typ"] != "portcullis-assertion+jwt" {
        return Err(Refused::Kind);
    }
    let key = head["kid"].as_str().and_then(|kid| keys.0.get(kid)).ok_or(Refused::UnknownKey)?;
    let signed = format!("{header}.{payload}");
    let signature = decode(signature).ok_or(Refused::Form)?;
    key.verify(signed.as_bytes(), &signature).map_err(|_| Refused::Signature)?;
    let claims = json(payload).ok_or(Refused::Form)?;
    if claims["iss"] != issuer || claims["aud"] != audience {
        return Err(Refused::Audience);
    }
    let (Some(exp), Some(iat)) = (claims["exp"].as_u64(), claims["iat"].as_u64()) else { return Err(Refused::Time) };
    if now >= exp.saturating_add(LEEWAY_S) || iat > now.saturating_add(LEEWAY_S) {
        return Err(Refused::Time);
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let qh = URL_SAFE_NO_PAD.encode(digest(&SHA256, query.as_bytes()));
    if claims["htm"] != method || claims["htu"] != path || claims["qh"] != qh {
        return Err(Refused::Request);
    }
    match (claims["kind"].as_str(), claims["sub"].as_str()) {
        (Some("user" | "apikey"), Some(_)) | (Some("anonymous"), None) => Ok(claims),
        _ => Err(Refused::Form),
    }
}
