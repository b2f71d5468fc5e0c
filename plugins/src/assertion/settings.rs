//! What the operator writes about assertions, `[assertion]`, and the word of an upstream that gets them.

use portcullis_api::{At, Millis, SecretRef};
use schemars::JsonSchema;
use serde::Deserialize;

/// The longest life of an assertion: what is stolen on its way is worth something for so long.
pub const LIFETIME_MAX: Millis = Millis::from_secs(60);
/// The longest that verifiers may keep the key set: a new key signs after twice that.
pub const MAX_AGE_MAX: Millis = Millis::from_secs(86_400);
/// Keys of one algorithm; two are enough to change them.
pub const KEYS_MAX: usize = 8;

/// Signed assertions of who calls, for upstreams that say `assertion`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// `iss` of every assertion: an https URL that no other deployment and no issuer of tokens has.
    pub issuer: At<String>,
    /// PEM files with P-256 keys (PKCS#8), at most 8, the oldest first. All are published; the newest that was published
    /// for twice `max_age` signs. To change the key, add one at the end, and remove the old one once the new one signs.
    pub es256: Option<At<Vec<At<SecretRef>>>>,
    /// PEM files with Ed25519 keys (PKCS#8), in the same way.
    pub eddsa: Option<At<Vec<At<SecretRef>>>>,
    /// How long an assertion is valid: whole seconds, at most 60.
    #[serde(default = "lifetime")]
    pub lifetime: At<Millis>,
    /// How long a verifier may keep the key set before it asks again: whole seconds, at most a day. Longer than a new
    /// configuration takes to reach every gateway.
    #[serde(default = "max_age")]
    pub max_age: At<Millis>,
}

const fn lifetime() -> At<Millis> {
    At::nowhere(Millis::from_secs(30))
}
const fn max_age() -> At<Millis> {
    At::nowhere(Millis::from_secs(300))
}

/// What an assertion is signed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[schemars(rename = "AssertionAlgorithm")]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256: what every library verifies.
    ES256,
    /// Ed25519: half the time of ES256.
    EdDSA,
}

impl Algorithm {
    /// As in a token's header and in `[upstreams.NAME]`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ES256 => "ES256",
            Self::EdDSA => "EdDSA",
        }
    }

    /// The field of `[assertion]` with its keys.
    #[must_use]
    pub const fn field(self) -> &'static str {
        match self {
            Self::ES256 => "es256",
            Self::EdDSA => "eddsa",
        }
    }
}
