//! The store as the limits see it: requests take, an operator looks and fills.

use std::num::NonZeroU32;

use ::redis::{RedisError, aio};
use portcullis_plugins::rate_limit::{
    Bucket, Clearing, Fleet, Instead, Level, Peeking, Rate, SharedCounters, StoreFault, Taking,
};
use tokio::time::timeout;

use super::{CONNECT_TIMEOUT, RedisCounters, call, said};

impl Fleet for RedisCounters {
    fn instances(&self) -> NonZeroU32 {
        self.inner.instances()
    }
}

impl SharedCounters for RedisCounters {
    fn take<'a>(&'a self, buckets: &'a [Bucket<'a>]) -> Taking<'a> {
        Box::pin(self.levels(buckets))
    }

    fn charge(&self, bucket: &Bucket<'_>, tokens: NonZeroU32, instead: Instead) {
        self.costs.charge(&self.inner, bucket, tokens, instead);
    }

    fn peek<'a>(&'a self, bucket: &'a Bucket<'a>) -> Peeking<'a> {
        let mut look = ::redis::pipe();
        look.cmd("TIME").cmd("GET").arg(call::key(bucket, &self.inner.keys));
        Box::pin(async move {
            let ((seconds, micros), stored): ((u64, u64), Option<u64>) =
                self.operate(async |mut live| look.query_async(&mut live).await).await?;
            let now = seconds.saturating_mul(1_000_000).saturating_add(micros);
            Ok(Level::at_rest(bucket.rate, stored.unwrap_or(0), now))
        })
    }

    fn clear<'a>(&'a self, bucket: &'a Bucket<'a>) -> Clearing<'a> {
        let mut delete = ::redis::cmd("DEL");
        delete.arg(call::key(bucket, &self.inner.keys));
        Box::pin(async move {
            let () = self.operate(async |mut live| delete.query_async(&mut live).await).await?;
            self.inner.denials.forget(bucket.key);
            self.inner.leases.forget(bucket.key);
            self.inner.debts.forget(bucket.key);
            Ok(())
        })
    }

    fn owe(&self, bucket: &Bucket<'_>, share: Rate, tokens: u32) {
        let inner = &self.inner;
        if !inner.debts.owe(bucket, &inner.keys, share, tokens, inner.now()) {
            inner.metrics.uncharged.inc();
        }
    }
}

impl RedisCounters {
    /// An operator's command. It may take longer than a request may wait, and says nothing to the breaker.
    async fn operate<T>(
        &self,
        command: impl AsyncFnOnce(aio::MultiplexedConnection) -> Result<T, RedisError>,
    ) -> Result<T, StoreFault> {
        let Some(live) = self.inner.live.load_full() else { return Err(StoreFault::Away) };
        match timeout(CONNECT_TIMEOUT, command(aio::MultiplexedConnection::clone(&live))).await {
            Ok(answer) => answer.map_err(|error| StoreFault::Refused(said(&error))),
            Err(_) => Err(StoreFault::Late),
        }
    }
}
