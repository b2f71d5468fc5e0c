//! The way of one check: denied from memory, paid out of what was taken ahead, else asked of Redis under the deadline.
//!
//! Invariant: what was paid here for a request that is then refused, or that nobody could decide, is put back.

use std::{sync::Arc, time::Instant};

use portcullis_plugins::rate_limit::{Answer, Binding, Bucket, Leasing, Level, StoreFault};
use tokio::{sync::oneshot, time::timeout};

use super::{
    Miss, RedisCounters,
    batch::{Sent, Waiting},
    call::Ask,
    lease::{Spend, most},
};

impl RedisCounters {
    pub(super) async fn levels(&self, buckets: &[Bucket<'_>]) -> Result<Vec<Level>, StoreFault> {
        let inner = &self.inner;
        if let Some(levels) = inner.denials.answer(buckets, Instant::now()) {
            inner.metrics.remembered.inc();
            return Ok(levels);
        }
        let result = if buckets.iter().any(|bucket| bucket.leasing == Leasing::Allowed) {
            self.spend(buckets).await
        } else {
            self.ask(Ask::of(buckets, &inner.keys), buckets).await
        };
        result.inspect_err(|fault| {
            let kind = match fault {
                StoreFault::Away => "gone",
                StoreFault::Late => "late",
                StoreFault::Busy => "busy",
                StoreFault::Refused(_) => "refused",
            };
            inner.metrics.store_errors.with_label_values(&[kind]).inc();
        })
    }

    /// Pays what it can out of what is held, and asks for the rest, unless one of them is known to be empty.
    async fn spend(&self, buckets: &[Bucket<'_>]) -> Result<Vec<Level>, StoreFault> {
        let inner = &self.inner;
        let (now, instances) = (inner.now(), inner.instances());
        let mut levels = Vec::with_capacity(buckets.len());
        let mut asked = Vec::new();
        for (at, bucket) in buckets.iter().enumerate() {
            let most = most(bucket, instances);
            levels.push(match most.map_or(Spend::Ask(0), |most| inner.leases.spend(bucket, most, now)) {
                Spend::Paid(level) | Spend::Empty(level) => level,
                Spend::Ask(ahead) => {
                    let leasing = if most.is_some() { Leasing::Allowed } else { Leasing::Never };
                    asked.push((at, Bucket { leasing, ..*bucket }, ahead));
                    Level::UNASKED
                }
            });
        }
        let is_refused = refuses(&levels, buckets);
        if is_refused {
            self.put_back(buckets, &mut levels, |bucket| bucket.binding == Binding::Together);
            // A rule in shadow is charged whatever the others say; of the rest nothing is asked.
            let (alone, rest): (Vec<_>, Vec<_>) =
                asked.into_iter().partition(|(_, bucket, _)| bucket.binding == Binding::Alone);
            rest.iter().for_each(|(_, bucket, ahead)| inner.leases.failed(bucket.key, *ahead));
            asked = alone;
            if asked.is_empty() {
                inner.metrics.remembered.inc();
            }
        } else if asked.is_empty() {
            inner.metrics.leased.inc();
        }
        if asked.is_empty() {
            return Ok(levels);
        }
        let ask = Ask::with_ahead(&asked, &inner.keys);
        let of_asked: Vec<Bucket<'_>> = asked.iter().map(|(_, bucket, _)| *bucket).collect();
        let result = self.ask(ask, &of_asked).await;
        if let Err(StoreFault::Away | StoreFault::Busy) = result {
            // It may not have been sent at all, and then nobody else says that nothing is coming.
            asked.iter().for_each(|(_, bucket, ahead)| inner.leases.failed(bucket.key, *ahead));
        }
        match &result {
            // It is refused whatever became of the rules in shadow.
            Err(_) if is_refused => return Ok(levels),
            Ok(answered) if refuses(answered, &of_asked) => {
                self.put_back(buckets, &mut levels, |bucket| bucket.binding == Binding::Together);
            }
            Ok(_) => {}
            Err(_) => self.put_back(buckets, &mut levels, |_| true),
        }
        for ((at, ..), level) in asked.iter().zip(result?) {
            levels.get_mut(*at).into_iter().for_each(|place| *place = level);
        }
        Ok(levels)
    }

    /// Takes back what was paid of the buckets that are `meant`.
    fn put_back(&self, buckets: &[Bucket<'_>], levels: &mut [Level], meant: impl Fn(&Bucket<'_>) -> bool) {
        let paid = |level: &Level| level.answer == Answer::Charged;
        for (bucket, level) in buckets.iter().zip(levels).filter(|(bucket, level)| paid(level) && meant(bucket)) {
            self.inner.leases.unspend(bucket);
            level.answer = Answer::Spared;
            level.remaining = level.remaining.saturating_add(bucket.rate.cost());
        }
    }

    /// Asks Redis about `buckets`.
    async fn ask(&self, ask: Ask, buckets: &[Bucket<'_>]) -> Result<Vec<Level>, StoreFault> {
        let inner = &self.inner;
        if inner.breaker.is_open() {
            return Err(StoreFault::Away);
        }
        let Some(live) = inner.live.load_full() else { return Err(StoreFault::Away) };
        // Bounds what waits on a server that hangs.
        let _permit = inner.permits.try_acquire().map_err(|_| StoreFault::Busy)?;
        let (answer, answered) = oneshot::channel();
        let sent = Arc::new(Sent::default());
        self.queue.send(Waiting { ask, sent: sent.clone(), answer }).map_err(|_| StoreFault::Away)?;
        match timeout(inner.deadline, answered).await {
            Ok(Ok(Ok(levels))) => {
                inner.denials.remember(buckets, &levels, Instant::now());
                Ok(levels)
            }
            // It waited for its turn: that says nothing of the store, but what was sent may be counted there.
            Err(_) if !sent.is_late(inner.deadline) => {
                Err(if sent.is_sent() { StoreFault::Late } else { StoreFault::Busy })
            }
            Err(_) | Ok(Ok(Err(Miss::Late))) => {
                inner.note(&live, &Err(Miss::Late));
                Err(StoreFault::Late)
            }
            Ok(Ok(Err(miss))) => Err(miss.into()),
            Ok(Err(_)) => Err(StoreFault::Away),
        }
    }
}

/// Whether one of those bound together has too little.
fn refuses(levels: &[Level], buckets: &[Bucket<'_>]) -> bool {
    let mut each = levels.iter().zip(buckets);
    each.any(|(level, bucket)| level.answer == Answer::Short && bucket.binding == Binding::Together)
}
