//! What may pass: the controls, the strict parsers they stand on, and the proof that all of them were asked.
//!
//! Direction: knows the vocabulary (`portcullis-api`) and nothing else of ours. No proxy, no file, no clock of its own.

pub mod admitted;
pub mod assertion;
pub mod authentication;
pub mod authorization;
pub mod bans;
pub mod burst;
pub mod canonical;
pub mod controls;
pub mod cors;
pub mod csrf;
pub mod in_flight;
pub mod ip_allowlist;
pub mod login;
mod places;
pub mod quota;
pub mod rate_limit;
pub mod reserved;
pub mod revocations;
pub mod scope;
pub mod signature;
pub mod waf;

#[cfg(test)]
mod testing;
