//! What the operator, a route and a tenant write about addresses.

use portcullis_api::{At, Cidrs};
use schemars::JsonSchema;
use serde::Deserialize;

/// Which client addresses may pass. The lists of site, route and tenant are intersected: each must contain the
/// address. An empty list denies everybody.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Networks in CIDR form, IPv4 and IPv6. To admit every address write `["0.0.0.0/0", "::/0"]`.
    pub allow: At<Cidrs>,
}

/// A tenant's list: one more list in the intersection, so it can only tighten.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tenant {
    /// Networks in CIDR form. An empty list denies everybody.
    pub allow: At<Cidrs>,
}
