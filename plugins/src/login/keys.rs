//! What failures are counted by, as keyed hashes: no account and no address stands in a key, and nobody outside can aim
//! at one.

use std::{fmt, net::IpAddr, str::FromStr};

use super::{NAME, account::Account};
use crate::rate_limit::{KeyHasher, Origin};

/// What is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// One account from one network.
    Pair,
    /// An account from all networks that it is not known from.
    Account,
    /// A network for all accounts that are not known from it.
    Network,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Pair, Self::Account, Self::Network];

    /// As written in the log, the metrics and the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pair => "pair",
            Self::Account => "account",
            Self::Network => "network",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text)
    }
}

/// What a lock is found by. That of a pair begins as its account's does: half of it is of the account alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockKey(pub(super) u128);

impl LockKey {
    pub(super) fn account_part(self) -> u64 {
        u64::try_from(self.0 >> 64).unwrap_or(u64::MAX)
    }

    /// The other half: of a pair, what its account knows the network by.
    #[must_use]
    pub fn network_part(self) -> u64 {
        u64::try_from(self.0 & u128::from(u64::MAX)).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for LockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The text is no key of a lock: 32 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("that is no hash of a lock")]
pub struct NoLockKey;

impl FromStr for LockKey {
    type Err = NoLockKey;

    fn from_str(text: &str) -> Result<Self, NoLockKey> {
        let digits = text.len() == 32 && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
        if digits { u128::from_str_radix(text, 16).map(Self).map_err(|_| NoLockKey) } else { Err(NoLockKey) }
    }
}

/// The three keys of one login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keys {
    /// The account from this network.
    pub pair: LockKey,
    /// The account.
    pub account: LockKey,
    /// The network.
    pub network: LockKey,
}

impl Keys {
    /// The key of a scope.
    #[must_use]
    pub const fn of(&self, scope: Scope) -> LockKey {
        match scope {
            Scope::Pair => self.pair,
            Scope::Account => self.account,
            Scope::Network => self.network,
        }
    }
}

/// Makes the keys.
#[derive(Debug)]
pub(super) struct Keying(pub(super) KeyHasher);

impl Keying {
    pub(super) fn keys(&self, realm: &str, account: &Account, network: IpAddr) -> Keys {
        let whole = self.account(realm, account);
        let address = self.hash(Scope::Pair, |hashing| {
            hashing.field(&whole.0.to_be_bytes());
            Origin::add_address(network, hashing);
        });
        let pair = LockKey((whole.0 & (u128::MAX << 64)) | (address >> 64));
        Keys { pair, account: whole, network: self.network(network) }
    }

    pub(super) fn account(&self, realm: &str, account: &Account) -> LockKey {
        LockKey(self.hash(Scope::Account, |hashing| {
            hashing.field(realm.as_bytes());
            match account {
                Account::Named(name) => {
                    hashing.field(b"named");
                    hashing.field(name.as_str().as_bytes());
                }
                Account::Unknown => hashing.field(b"unknown"),
            }
        }))
    }

    pub(super) fn network(&self, network: IpAddr) -> LockKey {
        LockKey(self.hash(Scope::Network, |hashing| Origin::add_address(network, hashing)))
    }

    fn hash(&self, scope: Scope, fields: impl FnOnce(&mut crate::rate_limit::Hashing)) -> u128 {
        let mut hashing = self.0.begin();
        hashing.field(NAME.as_str().as_bytes());
        hashing.field(scope.as_str().as_bytes());
        fields(&mut hashing);
        hashing.finish()
    }
}
