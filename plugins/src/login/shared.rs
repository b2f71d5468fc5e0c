//! What is asked of a store in which several gateways keep failures, locks and known networks, and what it answers.
//!
//! The store knows an account and a network by their keyed hashes only. Times are told as distances, for each gateway has a
//! clock of its own.

use std::sync::Arc;

use portcullis_api::Micros;

use super::{Keys, LockKey, Numbers, Scope};
use crate::bans::{Asking, Block, Changes, Cursor};

/// A login that failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Whose.
    pub keys: Keys,
    /// When failures lock.
    pub numbers: Arc<Numbers>,
}

/// How one scope stands after a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stood {
    /// What was counted.
    pub scope: Scope,
    /// Failures in the window.
    pub failures: usize,
    /// The lock that is on.
    pub lock: Option<(Block, Began)>,
}

/// Whether a lock is of the failure that was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Began {
    /// It began with it.
    Now,
    /// It was on before.
    Before,
}

/// What came of a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// Whether the account is known from the network: then only the pair was counted.
    pub known: bool,
    /// What was counted.
    pub stood: Vec<Stood>,
}

/// Failures, locks and known networks that several gateways share.
pub trait SharedLogins: Send + Sync + 'static {
    /// Counts one failure, and begins the locks that it leads to, in one atomic step.
    fn fail(&self, failure: Failure) -> Asking<'_, Failed>;

    /// Forgets the account's failures from this network and ends its lock, and where the network was not known also those of
    /// the account; the network is known from here on. The others are told for at least `told_for`.
    fn succeed(&self, keys: Keys, known_for: Micros, told_for: Micros) -> Asking<'_, ()>;

    /// Whether the account has logged in from this network in the last `known_for`.
    fn knows(&self, keys: Keys, known_for: Micros) -> Asking<'_, bool>;

    /// Ends a lock and forgets its failures; answers whether there was one. The others are told for at least `told_for`.
    fn lift(&self, key: LockKey, told_for: Micros) -> Asking<'_, bool>;

    /// What has changed since `cursor`; every lock that is on where there is none.
    fn changes<'a>(&'a self, cursor: Option<&'a Cursor>) -> Asking<'a, Changes<LockKey>>;
}
