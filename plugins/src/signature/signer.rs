//! A key that signs requests, read once, and its name.

use std::fmt;

use aws_lc_rs::{
    digest::{SHA256, digest},
    hmac,
    signature::{Ed25519KeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::HeaderValue;

/// Signs the requests of one upstream.
pub struct Signer {
    key: Key,
    keyid: String,
    /// The same for two keys exactly when they are the same.
    fingerprint: Vec<u8>,
}

enum Key {
    HmacSha256(Box<hmac::Key>),
    Ed25519(Box<Ed25519KeyPair>),
}

/// Why a key cannot sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Another curve, another kind of key, or no PKCS#8.
    #[error("it is no Ed25519 key in PKCS#8")]
    NotEd25519,
}

impl Signer {
    /// With a secret that the app has too.
    #[must_use]
    pub fn hmac_sha256(secret: &[u8], keyid: String) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let fingerprint = hmac::sign(&key, b"portcullis key fingerprint").as_ref().to_vec();
        Self { key: Key::HmacSha256(Box::new(key)), keyid, fingerprint }
    }

    /// With an unencrypted PKCS#8 document.
    ///
    /// # Errors
    /// When it is no Ed25519 key.
    pub fn ed25519(der: &[u8], keyid: String) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_pkcs8(der).map_err(|_| KeyError::NotEd25519)?;
        let fingerprint = digest(&SHA256, pair.public_key().as_ref()).as_ref().to_vec();
        Ok(Self { key: Key::Ed25519(Box::new(pair)), keyid, fingerprint })
    }

    /// The name that the app knows the key by.
    #[must_use]
    pub fn keyid(&self) -> &str {
        &self.keyid
    }

    /// Whether another upstream's requests are signed with the same key.
    #[must_use]
    pub fn shares_key_with(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }

    /// The signature of a base, in base64; `None` when the library refuses to sign.
    pub(super) fn sign_base(&self, base: &str) -> Option<String> {
        Some(match &self.key {
            Key::HmacSha256(key) => STANDARD.encode(hmac::sign(key, base.as_bytes())),
            Key::Ed25519(pair) => STANDARD.encode(pair.try_sign(base.as_bytes()).ok()?),
        })
    }

    /// `Content-Digest` (RFC 9530) of a whole body; `None` is never expected.
    #[must_use]
    pub fn content_digest(body: &[u8]) -> Option<HeaderValue> {
        HeaderValue::try_from(format!("sha-256=:{}:", STANDARD.encode(digest(&SHA256, body)))).ok()
    }
}

/// Without the key.
impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("keyid", &self.keyid).finish_non_exhaustive()
    }
}
