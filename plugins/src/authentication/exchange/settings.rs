//! What the operator writes about the exchange.

use std::num::NonZeroU32;

use portcullis_api::{At, Millis, SecretRef};
use schemars::JsonSchema;
use serde::Deserialize;

/// Tokens for API keys, `[exchange]` (RFC 8693). Served as `POST /.portcullis/v1/token`; routes take such tokens where they
/// accept `exchange`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExchangeSettings {
    /// The `iss` and `aud` of the tokens: the https URL of this gateway. No other issuer's.
    pub issuer: At<String>,
    /// The secret that signs them (HS256), at least 32 bytes, and no other setting's.
    pub key: At<SecretRef>,
    /// Secrets from before this one, at most 7: they verify the tokens that were signed with them.
    #[serde(default)]
    pub older_keys: Vec<At<SecretRef>>,
    /// The hosts that serve it, as they are named in `[hosts]`.
    pub hosts: At<Vec<At<String>>>,
    /// How long a token lives, in whole seconds, at most 900 s. It ends before, with its key.
    #[serde(default = "lifetime")]
    pub lifetime: At<Millis>,
    /// How often a key may be exchanged.
    #[serde(default)]
    pub rate: ExchangeRate,
}

/// How often one API key may be exchanged at one gateway, `[exchange.rate]`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ExchangeRate {
    /// Exchanges of one key, per window.
    pub requests: At<NonZeroU32>,
    /// The window.
    pub window: At<Millis>,
}

impl Default for ExchangeRate {
    fn default() -> Self {
        let requests = NonZeroU32::MIN.saturating_add(9);
        Self { requests: At::nowhere(requests), window: At::nowhere(Millis::from_secs(60)) }
    }
}

/// The longest life of a token.
pub const LIFETIME_MAX: Millis = Millis::from_secs(900);

const fn lifetime() -> At<Millis> {
    At::nowhere(Millis::from_secs(300))
}
