//! What the operator, a route and a tenant write about content.

use std::num::NonZeroU32;

use portcullis_api::{At, Millis, Mode, Size};
use schemars::JsonSchema;
use serde::Deserialize;

/// Limits on what a request carries, in its query and its body together.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// `enforce` or `shadow`.
    #[serde(default)]
    pub mode: Mode,
    /// Most URLs in one request; 0 admits none.
    #[serde(default = "urls_max")]
    pub urls_max: At<u32>,
    /// Most phone numbers in one request; 0 admits none.
    #[serde(default = "phones_max")]
    pub phones_max: At<u32>,
    /// Longest text value after decoding, in Unicode characters.
    #[serde(default = "chars_max")]
    pub chars_max: At<NonZeroU32>,
    /// Largest request body, declared or counted.
    #[serde(default = "body_max")]
    pub body_max: At<Size>,
    /// ISO 3166 regions whose national phone format is also counted, e.g. `["GB", "US"]`. International numbers
    /// (`+`, `00`) are counted always.
    #[serde(default)]
    pub phone_regions: Vec<At<Region>>,
    /// When violations block a client.
    #[serde(default)]
    pub violations: Violations,
}

/// A route's or a tenant grant's own numbers; a field that is not written keeps the number of the layer below.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// Most URLs in one request.
    pub urls_max: Option<At<u32>>,
    /// Most phone numbers in one request.
    pub phones_max: Option<At<u32>>,
    /// Longest text value, in Unicode characters.
    pub chars_max: Option<At<NonZeroU32>>,
    /// Largest request body.
    pub body_max: Option<At<Size>>,
}

/// How many violations block a client for how long.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Violations {
    /// This many violations within `window` block the client; at most 256.
    #[serde(default = "violations_max")]
    pub max: At<NonZeroU32>,
    /// The sliding window.
    #[serde(default = "violations_window")]
    pub window: Millis,
    /// How long the client stays blocked.
    #[serde(default = "violations_block")]
    pub block: Millis,
}

impl Default for Violations {
    fn default() -> Self {
        Self { max: violations_max(), window: violations_window(), block: violations_block() }
    }
}

const fn urls_max() -> At<u32> {
    At::nowhere(5)
}
const fn phones_max() -> At<u32> {
    At::nowhere(3)
}
fn chars_max() -> At<NonZeroU32> {
    At::nowhere(NonZeroU32::MIN.saturating_add(8191))
}
const fn body_max() -> At<Size> {
    At::nowhere(Size::new(1 << 20))
}
fn violations_max() -> At<NonZeroU32> {
    At::nowhere(NonZeroU32::MIN.saturating_add(9))
}
const fn violations_window() -> Millis {
    Millis::from_secs(60)
}
const fn violations_block() -> Millis {
    Millis::from_secs(600)
}

/// An ISO 3166-1 alpha-2 region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String")]
pub struct Region([u8; 2]);

impl Region {
    /// The two letters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl<'de> Deserialize<'de> for Region {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_bytes() {
            &[a, b] if a.is_ascii_uppercase() && b.is_ascii_uppercase() => Ok(Self([a, b])),
            _ => {
                Err(serde::de::Error::custom(format!("`{text}` is no region: write two capital letters, as in \"GB\"")))
            }
        }
    }
}
