//! Costs that are known behind the answer, on their way to Redis. Nobody waits for them: while one run of the script is
//! under way what comes meanwhile is collected, and goes with the next.
//!
//! Invariant: each charge is either taken by Redis or done instead in this process and counted as such; none is lost in
//! silence, neither in a queue that is full nor while Redis is away.

use std::{
    num::NonZeroU32,
    sync::{Arc, LazyLock},
};

use ::redis::{Cmd, RedisError, Script, aio};
use portcullis_plugins::rate_limit::{Bucket, Instead, StoreFault};
use tokio::{sync::mpsc, time::timeout};

use super::{CONNECT_TIMEOUT, Inner, call, said};

const SCRIPT: &str = include_str!("../settle.lua");

static EVALSHA: LazyLock<String> = LazyLock::new(|| Script::new(SCRIPT).get_hash().to_owned());

/// Charges that wait; one more is done instead at once.
const QUEUE: usize = 4_096;

/// Charges of one run, which keep Redis from everything else for about half a millisecond.
const BATCH_MAX: usize = 64;

/// One charge, on its own: its request is long answered.
#[derive(Debug)]
pub(super) struct Charge {
    pub(super) key: String,
    pub(super) interval: u64,
    pub(super) burst: u32,
    /// Microseconds of the bucket; negative gives back.
    pub(super) amount: i64,
}

/// Where charges are put.
pub(super) struct Settling(mpsc::Sender<(Charge, Instead)>);

impl Settling {
    pub(super) fn start(inner: &Arc<Inner>, runtime: &tokio::runtime::Handle) -> Self {
        let (sender, queue) = mpsc::channel(QUEUE);
        runtime.spawn(run(inner.clone(), queue));
        Self(sender)
    }

    pub(super) fn charge(&self, inner: &Inner, bucket: &Bucket<'_>, tokens: NonZeroU32, instead: Instead) {
        // More than it holds cannot be taken of it, and the script counts in doubles.
        let tokens = tokens.get().min(bucket.rate.burst());
        let amount = bucket.rate.interval().saturating_mul(u64::from(tokens));
        let charge = Charge {
            key: call::key(bucket, &inner.keys),
            interval: bucket.rate.interval(),
            burst: bucket.rate.burst(),
            amount: i64::try_from(amount).unwrap_or(i64::MAX),
        };
        if let Err(mpsc::error::TrySendError::Full((_, instead)) | mpsc::error::TrySendError::Closed((_, instead))) =
            self.0.try_send((charge, instead))
        {
            inner.alone(instead);
        }
    }
}

async fn run(inner: Arc<Inner>, mut queue: mpsc::Receiver<(Charge, Instead)>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while queue.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let charges: Vec<&Charge> = batch.iter().map(|(charge, _)| charge).collect();
        let settled = inner.settle(&charges, None).await;
        for (_, instead) in batch.drain(..) {
            if settled.is_err() {
                inner.alone(instead);
            }
        }
    }
}

impl Inner {
    /// One run of the script. `clock` is a test's, in microseconds. It may take longer than a request may wait, and says
    /// nothing to the breaker, which is about those that wait.
    pub(super) async fn settle(&self, charges: &[&Charge], clock: Option<u64>) -> Result<(), StoreFault> {
        if self.breaker.is_open() {
            return Err(StoreFault::Away);
        }
        let Some(live) = self.live.load_full() else { return Err(StoreFault::Away) };
        let mut live = aio::MultiplexedConnection::clone(&live);
        let asked = async {
            match command("EVALSHA", &EVALSHA, charges, clock).query_async(&mut live).await {
                // The server forgets scripts when it restarts. Nothing was taken: ask again, whole.
                Err(error) if error.code() == Some("NOSCRIPT") => {
                    command("EVAL", SCRIPT, charges, clock).query_async(&mut live).await
                }
                answer => answer,
            }
        };
        let answer: Result<Result<usize, RedisError>, _> = timeout(CONNECT_TIMEOUT, asked).await;
        match answer {
            Ok(Ok(settled)) if settled == charges.len() => Ok(()),
            Ok(Ok(_)) => Err(StoreFault::Refused("an answer it does not have".to_owned())),
            Ok(Err(error)) => Err(StoreFault::Refused(said(&error))),
            Err(_) => Err(StoreFault::Late),
        }
    }

    fn alone(&self, instead: Instead) {
        self.metrics.costs_alone.inc();
        instead();
    }
}

fn command(verb: &str, script: &str, charges: &[&Charge], clock: Option<u64>) -> Cmd {
    let mut command = ::redis::cmd(verb);
    command.arg(script).arg(charges.len());
    for charge in charges {
        command.arg(&charge.key);
    }
    command.arg(clock.map_or_else(String::new, |micros| micros.to_string()));
    for Charge { key: _, interval, burst, amount } in charges {
        command.arg(interval).arg(burst).arg(amount);
    }
    command
}
