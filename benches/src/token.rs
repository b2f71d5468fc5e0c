//! An ES256 token and the keys that verify it, for the load and for the micro benches.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::json;

/// The issuer.
pub const ISSUER: &str = "https://id.gateway.test";
const KEY_ID: &str = "load-1";
/// Longer than the longest run, shorter than the longest lifetime that the gateway accepts by default.
const TOKEN_SECONDS: u64 = 55 * 60;

/// A token and its issuer's keys.
#[derive(Debug)]
pub struct Es256 {
    /// For audience `load`: subject `user-1001` of tenant `acme`, role developer, scopes `orders:read orders:write`.
    pub token: String,
    /// The JWKS document.
    pub jwks: String,
}

/// Makes a key and signs a token with it.
///
/// # Errors
/// When the system has no randomness or no clock.
pub fn es256() -> anyhow::Result<Es256> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let point = key.public_key_raw().strip_prefix(&[4]).context("the key is not an uncompressed point")?;
    let (x, y) = point.split_at_checked(32).context("the key is not on P-256")?;
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let jwks = json!({ "keys": [{
        "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": KEY_ID, "x": encode(x), "y": encode(y),
    }]});

    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let claims = json!({
        "iss": ISSUER, "aud": "load", "sub": "user-1001", "jti": "load-token-1",
        "iat": now, "exp": now.saturating_add(TOKEN_SECONDS),
        "tenant_id": "acme", "roles": ["developer"], "scope": "orders:read orders:write",
    });
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some(KEY_ID.to_owned());
    let token = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ec_der(&key.serialize_der()))?;
    Ok(Es256 { token, jwks: jwks.to_string() })
}
