//! The micro bench harness: nanoseconds per call as the median over samples, next to a budget; and the token that every
//! measurement repeats.
//!
//! It is small on purpose: no statistics beyond the median and the 95th percentile of the samples, because what is
//! decided with it is "does this control cost what we said", not "did it change by one per cent".

mod micro;
pub mod token;

pub use micro::{Cost, Suite};
