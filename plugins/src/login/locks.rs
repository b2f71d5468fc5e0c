//! Failures, locks and known networks of this gateway, beside those of a shared store where there is one.
//!
//! | the network is | pair | account | network |
//! | --- | --- | --- | --- |
//! | known: the account has logged in from it | counted, locks | | |
//! | any other | counted, locks | counted, locks | counted, locks |
//!
//! Invariant: whatever strangers do, a login from a known network meets no lock but that of its own failures.

use std::{net::IpAddr, sync::Arc};

use portcullis_api::{Micros, Secret};

use super::{
    Account, Began, Failed, Failure, Keys, Lock, LockKey, Numbers, Scope, keys::Keying, known::Known, table::Table,
};
use crate::{bans::Block, in_flight::Slots, rate_limit::KeyHasher};

/// All of it. It outlives every snapshot.
#[derive(Debug)]
pub struct Locks {
    keying: Keying,
    pairs: Table,
    accounts: Table,
    networks: Table,
    known: Known,
    pub(super) slots: Arc<Slots>,
}

/// How a login stands before it is let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stands {
    /// The lock that is on, of several the one that ends last.
    Locked(Lock),
    /// Failures that count, of each scope that counts.
    Open { pair: usize, others: Option<[usize; 2]> },
}

impl Locks {
    /// Empty. `key` is the deployment's, the same in every gateway; without one keys mean something in this process only.
    #[must_use]
    pub fn new(key: Option<&Secret>) -> Self {
        Self {
            keying: Keying(key.map_or_else(KeyHasher::process, KeyHasher::deployment)),
            pairs: Table::new(Scope::Pair),
            accounts: Table::new(Scope::Account),
            networks: Table::new(Scope::Network),
            known: Known::new(),
            slots: Arc::default(),
        }
    }

    const fn table(&self, scope: Scope) -> &Table {
        match scope {
            Scope::Pair => &self.pairs,
            Scope::Account => &self.accounts,
            Scope::Network => &self.networks,
        }
    }

    /// The keys of a login of `account` from `network` ([`portcullis_api::ClientIp::counted`]).
    pub(super) fn keys(&self, realm: &str, account: &Account, network: IpAddr) -> Keys {
        self.keying.keys(realm, account, network)
    }

    /// The key of an account.
    #[must_use]
    pub fn account_key(&self, realm: &str, account: &Account) -> LockKey {
        self.keying.account(realm, account)
    }

    /// The key of a network ([`portcullis_api::counted`]).
    #[must_use]
    pub fn network_key(&self, network: IpAddr) -> LockKey {
        self.keying.network(network)
    }

    pub(super) fn knows(&self, keys: &Keys, numbers: &Numbers, now: Micros) -> bool {
        self.known.has(keys, numbers.known_for, now)
    }

    /// The account has logged in from this network, also if it was on another gateway.
    pub fn learn_known(&self, keys: &Keys, now: Micros) {
        self.known.add(keys, now);
    }

    pub(super) fn stands(&self, keys: &Keys, numbers: &Numbers, counted: Counted, now: Micros) -> Stands {
        let of = |scope: Scope| self.table(scope).stands(keys.of(scope), numbers.ladder(scope), now);
        let (mut lock, pair) = of(Scope::Pair);
        let others = match counted {
            Counted::Pair => None,
            Counted::All => Some([Scope::Account, Scope::Network].map(|scope| {
                let (other, failures) = of(scope);
                lock = [other, lock].into_iter().flatten().max_by_key(|lock| lock.until);
                failures
            })),
        };
        lock.map_or(Stands::Open { pair, others }, Stands::Locked)
    }

    /// Counts a failure. Answers with the locks that it begins.
    pub fn fail(&self, failure: &Failure, now: Micros) -> Vec<Lock> {
        let Failure { keys, numbers } = failure;
        let counted = if self.knows(keys, numbers, now) { Counted::Pair } else { Counted::All };
        let fail = |scope: &Scope| self.table(*scope).fail(keys.of(*scope), numbers.ladder(*scope), now);
        counted.scopes().iter().filter_map(fail).collect()
    }

    /// Takes over what came of a failure that the shared store counted, which was asked at `asked` and has just answered.
    /// Answers with the locks that were news here, and whether this failure began them.
    pub fn learn_failed(&self, failure: &Failure, failed: &Failed, asked: Micros, now: Micros) -> Vec<(Lock, Began)> {
        let Failure { keys, numbers } = failure;
        if failed.known && !self.knows(keys, numbers, now) {
            self.known.add(keys, now);
        }
        let mut news = Vec::new();
        for stood in &failed.stood {
            let (scope, key) = (stood.scope, keys.of(stood.scope));
            self.table(scope).learn_failures(key, stood.failures, numbers.ladder(scope), now);
            let Some((block, began)) = &stood.lock else { continue };
            news.extend(self.learn(key, block, asked, now).map(|lock| (lock, *began)));
        }
        news
    }

    /// Takes over a lock from the shared store. Answers with it if it was news.
    pub fn learn(&self, key: LockKey, block: &Block, asked: Micros, now: Micros) -> Option<Lock> {
        let (scope, failures) = read(&block.code)?;
        // As early as it can have begun, so that a lift is never taken for older; as late as it can end.
        let (since, until) = (asked.saturating_sub(block.age), now.saturating_add(block.remaining));
        self.table(scope).learn(Lock { scope, key, failures, since, until }, now)
    }

    /// Forgets what led to a login that succeeded, and knows its network from here on.
    pub fn succeed(&self, success: &super::Success, now: Micros) {
        let super::Success { keys, numbers } = success;
        let counted = if self.knows(keys, numbers, now) { Counted::Pair } else { Counted::All };
        // The network's own failures stay: whoever has one account would clear them with it.
        for scope in counted.scopes().iter().filter(|scope| **scope != Scope::Network) {
            self.table(*scope).lift_before(keys.of(*scope), Micros::MAX, now);
        }
        self.known.add(keys, now);
    }

    /// Ends a lock and forgets its failures. Answers whether it was on.
    pub fn lift(&self, key: LockKey, now: Micros) -> bool {
        self.lift_before(key, Micros::MAX, now)
    }

    /// As [`Self::lift`], of what is older than `lifted`: another gateway lifted it then.
    pub fn lift_before(&self, key: LockKey, lifted: Micros, now: Micros) -> bool {
        // Keys of two scopes are never alike.
        Scope::ALL.iter().any(|scope| self.table(*scope).lift_before(key, lifted, now))
    }

    /// The locks of an account that are on: its own, and those of its pairs.
    #[must_use]
    pub fn of_account(&self, account: LockKey, now: Micros) -> Vec<LockKey> {
        let own = self.accounts.list(now).filter(|lock| lock.key == account);
        let pairs = self.pairs.list(now).filter(|lock| lock.key.account_part() == account.account_part());
        own.chain(pairs).map(|lock| lock.key).collect()
    }

    /// Every lock that is on, the one that ends first first.
    #[must_use]
    pub fn list(&self, now: Micros) -> Vec<Lock> {
        let mut locks: Vec<Lock> = Scope::ALL.iter().flat_map(|scope| self.table(*scope).list(now)).collect();
        locks.sort_unstable_by_key(|lock| (lock.until, lock.key));
        locks
    }

    /// Locks that ended early because there was no room.
    #[must_use]
    pub fn lost(&self) -> u64 {
        Scope::ALL.iter().fold(0, |lost, scope| lost.saturating_add(self.table(*scope).lost()))
    }
}

/// What a login counts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counted {
    /// The network is known.
    Pair,
    /// It is not.
    All,
}

impl Counted {
    pub(super) const fn scopes(self) -> &'static [Scope] {
        match self {
            Self::Pair => &[Scope::Pair],
            Self::All => &Scope::ALL,
        }
    }
}

/// A lock as the store writes it: `SCOPE FAILURES`.
fn read(code: &str) -> Option<(Scope, usize)> {
    let (scope, failures) = code.split_once(' ')?;
    Some((Scope::parse(scope)?, failures.parse().ok()?))
}
