//! What the operator writes about the signature of an upstream's requests, `[upstreams.NAME.signature]`.

use portcullis_api::{At, SecretRef};
use schemars::JsonSchema;
use serde::Deserialize;

/// Longer names only make every request larger.
pub const KEYID_BYTES_MAX: usize = 64;

/// The signature of each request to an upstream (RFC 9421).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// `"ed25519"`, or `"hmac-sha256"` for apps that can do nothing else: whoever verifies an HMAC can also make one.
    pub algorithm: Algorithm,
    /// The key, of this upstream alone: for `ed25519` a PEM file (PKCS#8), for `hmac-sha256` at least 32 bytes that the app has too.
    pub key: At<SecretRef>,
    /// The name that the app knows the key by: 1 to 64 printable ASCII characters without space, `"` and `\`.
    pub keyid: At<String>,
}

/// What a request is signed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(rename = "SignatureAlgorithm")]
pub enum Algorithm {
    /// HMAC with SHA-256 (RFC 9421 3.3.3).
    #[serde(rename = "hmac-sha256")]
    HmacSha256,
    /// Ed25519 (RFC 9421 3.3.6).
    #[serde(rename = "ed25519")]
    Ed25519,
}
