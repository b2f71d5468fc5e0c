//! The authority of agents: a root that is kept away, and an issuing key that signs agents' certificates for a day.
//!
//! Invariant: of a request to be signed nothing is taken but its key, whose possession it proves. The name is ours.

mod authority;
mod made;

pub(crate) use authority::{Authority, LIFETIME};
pub(crate) use made::{Made, make};

#[cfg(test)]
mod tests;
