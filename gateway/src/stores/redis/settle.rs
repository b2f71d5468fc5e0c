//! What is put right behind the traffic: tokens taken ahead that nobody spent are given back, and what was admitted while
//! Redis was away is charged.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, LazyLock},
    time::Duration,
};

use ::redis::{Script, aio::MultiplexedConnection};
use parking_lot::Mutex;
use portcullis_api::{Micros, Millis};
use portcullis_plugins::rate_limit::{Bucket, Rate};
use tokio::time::{sleep, timeout};

use super::{CONNECT_TIMEOUT, Inner, Miss, call};

static SETTLE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../settle.lua")));

/// Between two looks at what there is to do.
const PAUSE: Duration = Duration::from_millis(50);

/// Buckets of one script run.
pub(super) const PAGE: usize = 64;

/// Buckets that are remembered while Redis is away; about ten megabytes.
pub(super) const DEBTS_MAX: usize = 1 << 16;

/// Buckets that are charged before a store that is back is used; more follow behind the traffic.
pub(super) const AT_ONCE: usize = 1 << 10;

/// A bucket that is to be full earlier or later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) name: Arc<str>,
    pub(super) rate: Rate,
    /// Microseconds; less than 0 for earlier.
    pub(super) by: i64,
}

/// What this gateway admitted by its shares while Redis was away. Times are microseconds since the store was started.
#[derive(Default)]
pub(super) struct Debts(Mutex<HashMap<u128, Debt>>);

struct Debt {
    name: Arc<str>,
    rate: Rate,
    share: Rate,
    /// When what was charged to the share has flowed in there again, and nothing is owed any more.
    full: Micros,
}

impl Debts {
    /// Adds `tokens` that were charged to this gateway's share of a bucket. Answers whether there was room.
    pub(super) fn owe(&self, bucket: &Bucket<'_>, keys: &str, share: Rate, tokens: u32, now: Micros) -> bool {
        let mut debts = self.0.lock();
        if debts.len() >= DEBTS_MAX && !debts.contains_key(&bucket.key) {
            return false;
        }
        let new = || Debt { name: call::key(bucket, keys).into(), rate: bucket.rate, share, full: now };
        let debt = debts.entry(bucket.key).or_insert_with(new);
        let more = share.interval().saturating_mul(u64::from(tokens));
        (debt.share, debt.full) = (share, debt.full.max(now).saturating_add(more));
        true
    }

    /// Nothing is owed of a bucket any more: an operator filled it.
    pub(super) fn forget(&self, key: u128) {
        self.0.lock().remove(&key);
    }

    /// What is owed by now of at most `most` buckets; nothing of it is owed any more.
    fn due(&self, most: usize, now: Micros) -> Vec<Move> {
        let mut debts = self.0.lock();
        if debts.len() <= most {
            return std::mem::take(&mut *debts).into_values().filter_map(|debt| debt.due(now)).collect();
        }
        let keys: Vec<u128> = debts.keys().copied().take(most).collect();
        keys.iter().filter_map(|key| debts.remove(key)?.due(now)).collect()
    }
}

impl Debt {
    /// As many tokens of the bucket as still stand of what was charged to the share.
    fn due(self, now: Micros) -> Option<Move> {
        let Self { name, rate, share, full } = self;
        let tokens = full.saturating_sub(now).div_ceil(share.interval());
        let by = i64::try_from(tokens.saturating_mul(rate.interval())).ok().filter(|by| *by > 0)?;
        Some(Move { name, rate, by })
    }
}

/// Puts right what there is, as long as there is a store.
pub(super) async fn run(inner: Arc<Inner>) {
    loop {
        sleep(PAUSE).await;
        let Some(live) = inner.live.load_full().filter(|_| !inner.breaker.is_open()) else { continue };
        let expired = inner.leases.expired(inner.now());
        for result in [settle(&inner, &live, &expired).await, debts(&inner, &live, DEBTS_MAX).await] {
            if let Err(miss @ Miss::Gone(_)) = result {
                inner.note(&live, &Err(miss));
            }
        }
    }
}

/// Charges what is owed of at most `most` buckets.
pub(super) async fn debts(inner: &Inner, live: &MultiplexedConnection, most: usize) -> Result<(), Miss> {
    settle(inner, live, &inner.debts.due(most, inner.now())).await
}

/// Whether the script can be run at all, on a bucket of its own.
pub(super) async fn probe(inner: &Inner, live: &MultiplexedConnection) -> Result<(), Miss> {
    let Ok(rate) = Rate::new(NonZeroU32::MIN, Millis::new(1), NonZeroU32::MIN) else { return Ok(()) };
    change(live, &[Move { name: format!("{}_probe:settle", inner.keys).into(), rate, by: 1 }], None).await
}

/// Gives back all that is held and charges all that is owed, for a gateway that stops.
pub(super) async fn all(inner: &Inner, live: &MultiplexedConnection) -> Result<(), Miss> {
    let arrived = async {
        while inner.leases.is_waiting() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    // What comes later than a call may take is not coming.
    drop(timeout(inner.deadline, arrived).await);
    debts(inner, live, DEBTS_MAX).await?;
    settle(inner, live, &inner.leases.all(inner.now())).await
}

/// Page after page. What the store does not take is counted.
async fn settle(inner: &Inner, live: &MultiplexedConnection, moves: &[Move]) -> Result<(), Miss> {
    for (at, page) in moves.chunks(PAGE).enumerate() {
        if let Err(miss) = change(live, page, None).await {
            let left = moves.len().saturating_sub(at.saturating_mul(PAGE));
            inner.metrics.uncharged.inc_by(u64::try_from(left).unwrap_or(0));
            return Err(miss);
        }
    }
    Ok(())
}

/// Changes at most [`PAGE`] buckets in one run of the script. Nobody waits for it, so it may take longer than a request may.
/// `clock` is a test's.
pub(super) async fn change(live: &MultiplexedConnection, page: &[Move], clock: Option<Micros>) -> Result<(), Miss> {
    let mut connection = live.clone();
    let mut call = SETTLE.prepare_invoke();
    call.arg(clock.map_or_else(String::new, |micros| micros.to_string()));
    for Move { name, rate, by } in page {
        call.key(&**name).arg(rate.interval()).arg(rate.burst()).arg(*by);
    }
    match timeout(CONNECT_TIMEOUT, call.invoke_async::<usize>(&mut connection)).await {
        Ok(Ok(changed)) if changed == page.len() => Ok(()),
        Ok(Ok(_)) => Err(Miss::Refused("an answer it does not have".to_owned())),
        Ok(Err(error)) => Err(Miss::of(&error)),
        Err(_) => Err(Miss::Late),
    }
}
