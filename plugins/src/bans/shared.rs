//! What is asked of a store in which several gateways keep violations and blocks, and what it answers.
//!
//! The store knows a client by its [`ClientKey`] only. Times are told as distances, for each gateway has a clock of its
//! own.

use std::{fmt, future::Future, net::IpAddr, pin::Pin, str::FromStr};

use portcullis_api::Micros;

use crate::rate_limit::StoreFault;

/// What a client is found by: a keyed hash of its address where a store is shared, else the bits of the address, which
/// leave the process nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientKey(pub(super) u128);

impl fmt::Display for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The text is no key of a client: 32 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("that is no hash of a client")]
pub struct NoClientKey;

impl FromStr for ClientKey {
    type Err = NoClientKey;

    fn from_str(text: &str) -> Result<Self, NoClientKey> {
        let digits = text.len() == 32 && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
        if digits { u128::from_str_radix(text, 16).map(Self).map_err(|_| NoClientKey) } else { Err(NoClientKey) }
    }
}

/// Who is blocked, as far as this gateway knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Client {
    /// As it is counted: an IPv4 address, or the first address of an IPv6 /64.
    Address(IpAddr),
    /// One whose block another gateway began: the keyed hash of its address.
    Hash(ClientKey),
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Hash(hash) => hash.fmt(f),
        }
    }
}

/// A violation that is to be counted, and by which numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strike {
    /// Whose.
    pub client: ClientKey,
    /// The code of the refusal.
    pub code: &'static str,
    /// Violations in the window that block.
    pub max: usize,
    /// The sliding window.
    pub window: Micros,
    /// How long a block lasts.
    pub block: Micros,
}

/// A block as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The code of the violation that was one too many.
    pub code: String,
    /// How long ago it began.
    pub age: Micros,
    /// How long it still lasts.
    pub remaining: Micros,
}

/// What came of a violation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Struck {
    /// It was counted, and there are not enough.
    Counted,
    /// It was one too many: the block begins.
    Began(Block),
    /// A block was on already: nothing was counted.
    On(Block),
}

/// What has become of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is blocked.
    Blocked(Block),
    /// An operator lifted its block so long ago.
    Lifted(Micros),
}

/// How far the changes have been read. Opaque: the store's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(pub String);

/// Changes since a [`Cursor`], of clients or of whatever else is blocked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes<K = ClientKey> {
    /// What holds now, of each client that has changed. A block that has ended by itself is not among them.
    pub clients: Vec<(K, Change)>,
    /// From where to read on. None: from the beginning, for the store remembers no change.
    pub cursor: Option<Cursor>,
    /// Whether there is more to read at once.
    pub more: bool,
}

/// What each method of [`SharedBans`] returns.
pub type Asking<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreFault>> + Send + 'a>>;

/// Violations and blocks that several gateways share.
pub trait SharedBans: Send + Sync + 'static {
    /// Counts one violation, and begins the block if it is one too many, in one atomic step.
    fn strike(&self, strike: Strike) -> Asking<'_, Struck>;

    /// Ends a client's block and forgets its violations; answers whether there was a block. The others are told of it
    /// for at least `told_for`, so that one which is cut off hears of it later.
    fn lift(&self, client: ClientKey, told_for: Micros) -> Asking<'_, bool>;

    /// What has changed since `cursor`; every block that is on where there is none.
    fn changes<'a>(&'a self, cursor: Option<&'a Cursor>) -> Asking<'a, Changes>;
}
