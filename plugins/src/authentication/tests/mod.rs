//! Tests of the whole control: credentials on real headers, keys that rotate, a clock that is handed in.

mod agents;
mod differential;
mod outcomes;
mod revoked;
pub(super) mod rig;
mod tokens;
mod wycheproof;
