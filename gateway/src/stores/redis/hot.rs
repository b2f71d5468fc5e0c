//! The way of one check: denied from memory, paid out of what was taken ahead, else asked of Redis under the deadline.
//!
//! Invariant: what was paid here for a request that is then refused, or that nobody could decide, is put back.

use std::{sync::Arc, time::Instant};

use portcullis_plugins::rate_limit::{Answer, Binding, Bucket, Leasing, Level, StoreFault};
use tokio::{sync::oneshot, time::timeout};

use super::{
    Miss, RedisCounters,
    batch::{Sent, To, Waiting},
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

    /// Pays what it can out of what is held, and asks for the rest.
    async fn spend(&self, buckets: &[Bucket<'_>]) -> Result<Vec<Level>, StoreFault> {
        let inner = &self.inner;
        let (now, instances) = (inner.now(), inner.instances());
        let mut levels = Vec::with_capacity(buckets.len());
        let mut asked = Vec::new();
        for (at, bucket) in buckets.iter().enumerate() {
            let most = most(bucket, instances);
            let leasing = if most.is_some() { Leasing::Allowed } else { Leasing::Never };
            match most.map_or(Spend::Ask(0), |most| inner.leases.spend(bucket, most, now)) {
                Spend::Paid { level, renew } => {
                    levels.push(level);
                    if renew > 0 {
                        self.renew(bucket, renew);
                    }
                }
                Spend::Ask(ahead) => {
                    levels.push(Level::UNASKED);
                    asked.push((at, (Bucket { leasing, ..*bucket }, ahead)));
                }
            }
        }
        if asked.is_empty() {
            inner.metrics.leased.inc();
            return Ok(levels);
        }
        let (places, asked): (Vec<usize>, Vec<_>) = asked.into_iter().unzip();
        let ask = Ask::with_ahead(&asked, &inner.keys);
        let asked: Vec<Bucket<'_>> = asked.into_iter().map(|(bucket, _)| bucket).collect();
        let paid = |at: &usize| !places.contains(at);
        let result = self.ask(ask, &asked).await;
        if let Err(StoreFault::Away | StoreFault::Busy) = result {
            // It may not have been sent at all, and then nobody else says that nothing is coming.
            asked.iter().for_each(|bucket| inner.leases.failed(bucket.key));
        }
        let refused = match &result {
            Ok(of_asked) => of_asked
                .iter()
                .zip(&asked)
                .any(|(level, bucket)| level.answer == Answer::Short && bucket.binding == Binding::Together),
            Err(_) => true,
        };
        if refused {
            for (at, bucket) in buckets.iter().enumerate().filter(|(at, _)| paid(at)) {
                // A rule in shadow is charged whatever the others say, if anything could be decided.
                if bucket.binding == Binding::Together || result.is_err() {
                    inner.leases.unspend(bucket);
                    levels.get_mut(at).into_iter().for_each(|level| {
                        level.answer = Answer::Spared;
                        level.remaining = level.remaining.saturating_add(bucket.rate.cost());
                    });
                }
            }
        }
        for (at, level) in places.iter().zip(result?) {
            levels.get_mut(*at).into_iter().for_each(|place| *place = level);
        }
        Ok(levels)
    }

    /// Asks for tokens ahead; nobody waits for them.
    fn renew(&self, bucket: &Bucket<'_>, requests: u32) {
        let inner = &self.inner;
        let away = inner.breaker.is_open() || inner.live.load().is_none();
        let ask = Ask::ahead(bucket, &inner.keys, requests);
        if away || self.queue.send(Waiting { ask, sent: Arc::default(), to: To::Nobody }).is_err() {
            inner.leases.failed(bucket.key);
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
        self.queue.send(Waiting { ask, sent: sent.clone(), to: To::Request(answer) }).map_err(|_| StoreFault::Away)?;
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
