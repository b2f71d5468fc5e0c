//! Costs that are known behind the answer, on their way to Redis. Nobody waits for them: while one run of the script is
//! under way what comes meanwhile is collected, and goes with the next.
//!
//! Invariant: each charge is either taken by Redis or done instead in this process and counted as such; none is lost in
//! silence, neither in a queue that is full nor while Redis is away.

use std::{num::NonZeroU32, sync::Arc};

use portcullis_plugins::rate_limit::{Bucket, Instead};
use tokio::sync::mpsc;

use super::{
    Inner, call,
    settle::{self, Move},
};

/// Charges that wait; one more is done instead at once.
const QUEUE: usize = 4_096;

/// Where charges are put.
pub(super) struct Costs(mpsc::Sender<(Move, Instead)>);

impl Costs {
    pub(super) fn start(inner: &Arc<Inner>, runtime: &tokio::runtime::Handle) -> Self {
        let (sender, queue) = mpsc::channel(QUEUE);
        runtime.spawn(run(inner.clone(), queue));
        Self(sender)
    }

    pub(super) fn charge(&self, inner: &Inner, bucket: &Bucket<'_>, tokens: NonZeroU32, instead: Instead) {
        let rate = bucket.rate;
        // More than it holds cannot be taken of it, and the script counts in doubles.
        let tokens = tokens.get().min(rate.burst());
        let by = i64::try_from(rate.interval().saturating_mul(u64::from(tokens))).unwrap_or(i64::MAX);
        let charge = Move { name: call::key(bucket, &inner.keys).into(), rate, by };
        if let Err(mpsc::error::TrySendError::Full((_, instead)) | mpsc::error::TrySendError::Closed((_, instead))) =
            self.0.try_send((charge, instead))
        {
            inner.alone(instead);
        }
    }
}

async fn run(inner: Arc<Inner>, mut queue: mpsc::Receiver<(Move, Instead)>) {
    let mut batch = Vec::with_capacity(settle::PAGE);
    while queue.recv_many(&mut batch, settle::PAGE).await > 0 {
        let (charges, instead): (Vec<Move>, Vec<Instead>) = batch.drain(..).unzip();
        let live = inner.live.load_full().filter(|_| !inner.breaker.is_open());
        let is_charged = match live {
            Some(live) => settle::change(&live, &charges, None).await.is_ok(),
            None => false,
        };
        if !is_charged {
            instead.into_iter().for_each(|instead| inner.alone(instead));
        }
    }
}

impl Inner {
    fn alone(&self, instead: Instead) {
        self.metrics.costs_alone.inc();
        instead();
    }
}
