//! What the operator and a tenant write about requests under way.

use std::num::NonZeroU32;

use portcullis_api::{At, MethodName, Mode};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::rate_limit::KeyPart;

/// One limit of requests under way at once, `[in_flight.NAME]`: from its admission until its answer is sent, or until its
/// WebSocket or stream ends.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What is counted, e.g. `["tenant"]` or `["client", "route"]`, as in `[limits]`. Requests that lack a part are counted
    /// together; they are never unlimited.
    pub key: At<Vec<At<KeyPart>>>,
    /// Requests of these methods only, in upper case; `GET` stands for `HEAD` too. Of all methods when not written.
    pub methods: Option<At<Vec<At<MethodName>>>>,
    /// Requests that may be under way at once. Where counters are in Redis each gateway enforces this divided by
    /// the number of gateways, at least 1.
    pub requests: At<NonZeroU32>,
    /// `enforce` or `shadow`.
    #[serde(default)]
    pub mode: Mode,
}

/// What a tenant's grant may set, and a tenant's own settings may tighten.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tenant {
    /// Requests that may be under way at once.
    pub requests: Option<At<NonZeroU32>>,
}
