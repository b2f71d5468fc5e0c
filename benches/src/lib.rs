//! What the measurements share: the micro bench harness (nanoseconds per call as the median over samples, next to a
//! budget), the token that every measurement repeats, and of the loads the upstream, the processes under measurement,
//! the CPUs they run on and the account of what they used.
//!
//! It is small on purpose: no statistics beyond medians and percentiles, because what is decided with it is "does this
//! cost what we said", not "did it change by one per cent".

pub mod account;
pub mod aim;
pub mod cpus;
mod micro;
pub mod number;
pub mod pace;
pub mod redis_server;
pub mod subject;
pub mod token;
pub mod upstream;

pub use micro::{Cost, Suite};
