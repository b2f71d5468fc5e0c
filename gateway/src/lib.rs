//! The gateway. The only crate that names Pingora.
//!
//! Read `journey.rs` first: a request's way, in order.

mod access_log;
mod admin;
mod agents;
mod answer;
mod api_keys;
mod assertions;
mod bans;
mod body;
mod boot;
pub mod cli;
mod client_trust;

mod clock;
mod decisions;
mod demo;
mod doctor;
mod edge;
mod edge_events;
mod exchange;
mod failure;
mod follow;
mod gateway;
mod head;
mod journey;
mod key_sets;
mod key_store;
mod lockouts;
mod metrics;
pub mod outbound;
mod problem;
mod pseudonym;
mod record;
mod refusal;
mod revocations;
mod run;
mod scope;
mod snapshot;
mod stores;
mod streams;
mod trip;
mod upstreams;
