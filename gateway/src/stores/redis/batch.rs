//! Calls that come while others are under way go to Redis together: one run of the script for many requests.
//!
//! There is no timer. While fewer than [`UNDER_WAY_MAX`] batches are under way a call goes at once; what comes meanwhile
//! is the next batch. So a quiet gateway waits for nothing, and a busy one spends a batch's cost on many calls.
//!
//! Invariant: a call whose request gave up before it was sent is not sent: nobody would be told that it was charged.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use portcullis_plugins::rate_limit::Level;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc::UnboundedReceiver, oneshot};

use super::{
    Inner, Miss,
    call::{Ask, Given},
};

/// Batches on their way: enough that a call need not wait for a slow round trip of others before it is sent.
const UNDER_WAY_MAX: usize = 8;

/// Buckets of one batch, which keep Redis from everything else for about half a millisecond.
const BUCKETS_MAX: usize = 64;

/// A call that waits for its turn or its answer.
pub(super) struct Waiting {
    pub(super) ask: Ask,
    pub(super) sent: Arc<Sent>,
    pub(super) answer: oneshot::Sender<Result<Vec<Level>, Miss>>,
}

/// When a call was sent, for the one who waits: what waits in the queue says nothing of the server.
#[derive(Default)]
pub(super) struct Sent(OnceLock<Instant>);

impl Sent {
    pub(super) fn is_sent(&self) -> bool {
        self.0.get().is_some()
    }

    /// Whether the server has had about this long to answer. A call that waited for its turn most of the time has not.
    pub(super) fn is_late(&self, deadline: Duration) -> bool {
        let nearly = deadline.mul_f32(0.75);
        self.0.get().is_some_and(|sent| sent.elapsed() >= nearly)
    }
}

/// Sends what comes, until nobody can send any more.
pub(super) async fn run(inner: Arc<Inner>, mut queue: UnboundedReceiver<Waiting>) {
    let under_way = Arc::new(Semaphore::new(UNDER_WAY_MAX));
    while let Some(first) = queue.recv().await {
        let Ok(slot) = under_way.clone().acquire_owned().await else { return };
        let mut buckets = first.ask.buckets().len();
        let mut batch = vec![first];
        while buckets < BUCKETS_MAX
            && let Ok(next) = queue.try_recv()
        {
            buckets = buckets.saturating_add(next.ask.buckets().len());
            batch.push(next);
        }
        batch.retain(|waiting| {
            let is_waited_for = !waiting.answer.is_closed();
            if !is_waited_for {
                waiting.ask.buckets().iter().for_each(|asked| inner.leases.failed(asked.key, asked.ahead));
            }
            is_waited_for
        });
        if !batch.is_empty() {
            let now = Instant::now();
            for waiting in &batch {
                waiting.sent.0.get_or_init(|| now);
            }
            tokio::spawn(send(inner.clone(), batch, slot));
        }
    }
}

/// Sends a batch and tells each call what came of it. A call that was late tells the breaker itself.
async fn send(inner: Arc<Inner>, batch: Vec<Waiting>, _slot: OwnedSemaphorePermit) {
    let Some(live) = inner.live.load_full() else {
        return batch.into_iter().for_each(|waiting| waiting.tell(&inner, Err(Miss::Gone("not connected".to_owned()))));
    };
    let asks: Vec<&Ask> = batch.iter().map(|waiting| &waiting.ask).collect();
    let start = Instant::now();
    let result = inner.call(&live, &asks, None).await;
    inner.metrics.store_duration.observe(start.elapsed().as_secs_f64());
    match result {
        Ok(given) => {
            inner.note(&live, &Ok(()));
            batch.into_iter().zip(given).for_each(|(waiting, given)| waiting.tell(&inner, Ok(given)));
        }
        Err(miss) => {
            for waiting in batch {
                if miss != Miss::Late {
                    inner.note(&live, &Err(miss.clone()));
                }
                waiting.tell(&inner, Err(miss.clone()));
            }
        }
    }
}

impl Waiting {
    /// What was given ahead is kept, also when the request gave up meanwhile.
    fn tell(self, inner: &Inner, result: Result<Vec<Given>, Miss>) {
        let result = inner.heard(&self.ask, result);
        let levels = result.map(|given| given.into_iter().map(|given| given.level).collect());
        // A request that gave up is not there to hear it.
        drop(self.answer.send(levels));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_was_not_sent_in_time_says_nothing_of_the_server() {
        let deadline = Duration::from_secs(100);
        let sent = Sent::default();
        assert!(!sent.is_late(Duration::ZERO), "it waited in the queue");
        sent.0.set(Instant::now()).unwrap();
        assert!(!sent.is_late(deadline), "the server has just got it");
        assert!(sent.is_late(Duration::ZERO));
    }
}
