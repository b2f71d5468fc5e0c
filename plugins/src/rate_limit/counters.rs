//! What is asked of a store of counters, and what it answers. The table in memory and Redis answer alike.

use std::{future::Future, num::NonZeroU32, pin::Pin};

use portcullis_api::Micros;

use super::{Rate, gcra::Taken};

/// One bucket of one request, of which its cost is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Bucket<'r> {
    /// The limit's name, `[a-z0-9_-]`.
    pub rule: &'r str,
    /// A keyed hash of the rule, its numbers and what it counts by. Stands at most once in a call.
    pub key: u128,
    /// The numbers, and what a request costs.
    pub rate: Rate,
    /// Whether its lack of a token keeps the others from being charged.
    pub binding: Binding,
    /// Whether tokens may be taken ahead of the requests that will spend them.
    pub leasing: Leasing,
}

/// Whether a gateway may take tokens of a bucket ahead, and spend them without asking again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Leasing {
    /// Each request is asked for.
    Never,
    /// The store may keep some at hand, debited where all count.
    Allowed,
}

/// How buckets of one call hang together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Binding {
    /// Charged if each bucket of this kind has the tokens, else none of them is.
    Together,
    /// Charged by itself: a rule in shadow.
    Alone,
}

/// What came of one bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// What the request costs was taken.
    Charged,
    /// It had the tokens, and keeps them, because another bucket had not.
    Spared,
    /// It had too few tokens.
    Short,
    /// It was not asked, because another bucket is known to have too few.
    Unasked,
}

/// How a bucket stands after a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Level {
    /// What came of it.
    pub answer: Answer,
    /// Tokens left.
    pub remaining: u32,
    /// Microseconds until there are the tokens of one more request; 0 where there are.
    pub retry_after: Micros,
    /// Microseconds until the bucket is full.
    pub reset_after: Micros,
}

impl Level {
    /// Of a bucket that was not asked: as good as full, so that it is never told as the tightest.
    pub const UNASKED: Self = Self { answer: Answer::Unasked, remaining: u32::MAX, retry_after: 0, reset_after: 0 };

    /// Of a bucket that is looked at, with what is stored of it (0 for nothing): [`Answer::Spared`] where it has the
    /// tokens of a request, else [`Answer::Short`].
    #[must_use]
    pub fn at_rest(rate: Rate, stored: Micros, now: Micros) -> Self {
        Self::untaken(rate.take(stored, now, 0))
    }

    /// What is left of it, by what was known, once `tokens` more are taken. In a store others may have taken some too.
    pub(super) fn charge(&mut self, rate: Rate, tokens: NonZeroU32) {
        let more = rate.interval().saturating_mul(u64::from(tokens.get()));
        self.remaining = self.remaining.saturating_sub(tokens.get());
        self.reset_after = self.reset_after.saturating_add(more).min(rate.refill());
    }

    /// Of a bucket that keeps what it has.
    pub(super) fn untaken(taken: Taken) -> Self {
        Self::of(if taken.retry_after == 0 { Answer::Spared } else { Answer::Short }, taken)
    }

    pub(super) fn of(answer: Answer, taken: Taken) -> Self {
        Self { answer, remaining: taken.remaining, retry_after: taken.retry_after, reset_after: taken.reset_after }
    }
}

/// Why a shared store gave no answer. Each rule says what happens then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreFault {
    /// It is known to be away: nothing was asked, nothing waited.
    #[error("the store is away")]
    Away,
    /// No answer within the deadline. Whether the tokens were taken is unknown, so it is never asked again.
    #[error("the store did not answer in time")]
    Late,
    /// As many calls as may be are already waiting for it.
    #[error("too many calls wait for the store")]
    Busy,
    /// It answered with an error, by its code, e.g. `LOADING` or `READONLY`.
    #[error("the store refused: {0}")]
    Refused(String),
}

/// What [`SharedCounters::take`] returns.
pub type Taking<'a> = Pin<Box<dyn Future<Output = Result<Vec<Level>, StoreFault>> + Send + 'a>>;

/// What [`SharedCounters::peek`] returns.
pub type Peeking<'a> = Pin<Box<dyn Future<Output = Result<Level, StoreFault>> + Send + 'a>>;

/// What [`SharedCounters::clear`] returns.
pub type Clearing<'a> = Pin<Box<dyn Future<Output = Result<(), StoreFault>> + Send + 'a>>;

/// What is done instead where the store does not take what it was told to.
pub type Instead = Box<dyn FnOnce() + Send>;

/// The gateways of a deployment.
pub trait Fleet: Send + Sync + 'static {
    /// How many there are, as far as this one has heard.
    fn instances(&self) -> NonZeroU32;
}

/// Counters that several gateways share.
pub trait SharedCounters: Fleet {
    /// Takes what the request costs of each bucket, all or none of those bound together, in one atomic step. Answers in the order
    /// of `buckets`, or says why not within the store's deadline.
    fn take<'a>(&'a self, buckets: &'a [Bucket<'a>]) -> Taking<'a>;

    /// Takes `tokens` of a bucket, or as many as it has, behind an answer: nobody waits for it. Where the store gave no
    /// answer `instead` is done, once.
    fn charge(&self, bucket: &Bucket<'_>, tokens: NonZeroU32, instead: Instead);

    /// How a bucket stands, for an operator.
    fn peek<'a>(&'a self, bucket: &'a Bucket<'a>) -> Peeking<'a>;

    /// Fills a bucket, for an operator.
    fn clear<'a>(&'a self, bucket: &'a Bucket<'a>) -> Clearing<'a>;

    /// Charges `bucket`, once the store answers again, with what still stands then of `tokens` that were charged to this
    /// gateway's `share` of it.
    fn owe(&self, bucket: &Bucket<'_>, share: Rate, tokens: u32);
}
