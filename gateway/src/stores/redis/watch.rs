//! Keeps the connection behind the traffic: connects, probes, closes the breaker, gives up a connection that is dead.
//!
//! A connection can be open and dead: the server is stopped, or a middlebox swallows what is sent. The driver takes a
//! time-out for no reason to reconnect, so this does: see `breaker`.

use std::{
    num::NonZeroU32,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use ::redis::aio;
use portcullis_api::Millis;
use portcullis_plugins::rate_limit::{Binding, Bucket, Leasing, Rate};
use tokio::time::{sleep, timeout};

use super::{
    CONNECT_TIMEOUT, Inner, Miss,
    call::{Ask, SCRIPT},
    fleet, said, settle,
    source::Source,
};

/// Between two attempts to connect: doubled from the one to the other.
const BACKOFF_MIN: Duration = Duration::from_millis(25);
const BACKOFF_MAX: Duration = Duration::from_millis(200);

/// Between two probes while something is wrong, and while nothing is.
const PROBE_TROUBLED: Duration = Duration::from_millis(50);
const PROBE_IDLE: Duration = Duration::from_secs(1);

/// Probes in a row that must succeed before the breaker closes.
const PROBES_TO_CLOSE: u32 = 2;

pub(super) async fn watch(inner: Arc<Inner>, mut source: Source) {
    let mut backoff = BACKOFF_MIN;
    loop {
        let live = inner.live.load_full();
        let Some(live) = live else {
            match connect(&inner, &mut source).await {
                Ok(()) => backoff = BACKOFF_MIN,
                Err(why) => {
                    source.doubt();
                    inner.degraded(&why);
                    sleep(backoff).await;
                    backoff = backoff.saturating_mul(2).min(BACKOFF_MAX);
                }
            }
            continue;
        };
        attend(&inner, &live).await;
        if source.means_another().await {
            inner.leave(&live, "the Sentinels name another master");
        }
    }
}

/// Connects, loads the script, and takes the connection into use once a call over it succeeded.
async fn connect(inner: &Inner, source: &mut Source) -> Result<(), String> {
    let mut connection = source.connect(&inner.keys).await?;
    let load = async { ::redis::cmd("SCRIPT").arg("LOAD").arg(SCRIPT).query_async::<String>(&mut connection).await };
    match timeout(CONNECT_TIMEOUT, load).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return Err(said(&error)),
        Err(_) => return Err("no answer to SCRIPT LOAD".to_owned()),
    }
    let said = |miss| match miss {
        Miss::Late => "no answer within the deadline".to_owned(),
        Miss::Gone(why) | Miss::Refused(why) => why,
    };
    probe(inner, &connection).await.map_err(said)?;
    compare_key(inner, &connection).await;
    // A right that these lack would make shares wrong, and lose what is given back, without a check that fails.
    fleet::beat(inner, &connection).await.map_err(said)?;
    settle::probe(inner, &connection).await.map_err(said)?;
    // Before any check is counted there: else each bucket had one burst more.
    settle::debts(inner, &connection, settle::AT_ONCE).await.map_err(said)?;
    inner.breaker.close(Instant::now());
    inner.live.store(Some(Arc::new(connection)));
    inner.healthy();
    Ok(())
}

/// Leaves the fingerprint of our key for the next gateway, and looks at the one that the last gateway left: with another
/// key it finds other buckets and other clients, so that nothing is shared.
async fn compare_key(inner: &Inner, connection: &aio::MultiplexedConnection) {
    const KEPT_S: u32 = 90 * 86_400;
    let Some(ours) = &inner.fingerprint else { return };
    let (mut connection, name) = (connection.clone(), format!("{}key", inner.keys));
    let mut exchange = ::redis::pipe();
    exchange.cmd("GET").arg(&name).cmd("SET").arg(&name).arg(ours).arg("EX").arg(KEPT_S).ignore();
    let exchanged = timeout(CONNECT_TIMEOUT, exchange.query_async::<(Option<String>,)>(&mut connection)).await;
    // A store that cannot do this shows it at the first check.
    let Ok(Ok((theirs,))) = exchanged else { return };
    let differs = theirs.is_some_and(|theirs| theirs != *ours);
    if differs {
        tracing::error!(
            event = "store.other_key",
            "a gateway with another stores.key counts under this prefix: they share no limit and no block"
        );
    }
    inner.other_key.store(differs, Ordering::Relaxed);
}

/// Watches one connection until something was done about it.
async fn attend(inner: &Inner, live: &Arc<aio::MultiplexedConnection>) {
    let pause = if inner.breaker.is_troubled() { PROBE_TROUBLED } else { PROBE_IDLE };
    // A miss wakes the watch early; while in trouble it keeps its pace, however many calls miss.
    if timeout(pause, inner.wake.notified()).await.is_ok() {
        if inner.live.load().is_none() {
            return;
        }
        sleep(PROBE_TROUBLED).await;
    }
    let idle = inner.breaker.silence(Instant::now()) >= PROBE_IDLE;
    if idle || inner.breaker.is_troubled() {
        probe_and_close(inner, live).await;
    }
    if inner.breaker.is_dead(Instant::now()) {
        inner.leave(live, "the connection is open but dead");
    }
}

async fn probe_and_close(inner: &Inner, live: &Arc<aio::MultiplexedConnection>) {
    for _ in 0..PROBES_TO_CLOSE {
        let result = probe(inner, live).await;
        inner.note(live, &result);
        if result.is_err() {
            return;
        }
    }
    if inner.breaker.is_open() && settle::debts(inner, live, settle::AT_ONCE).await.is_err() {
        return;
    }
    inner.breaker.close(Instant::now());
    inner.healthy();
}

/// A real call on a bucket of its own: shows what a check would meet, also `READONLY` or `OOM`.
async fn probe(inner: &Inner, connection: &aio::MultiplexedConnection) -> Result<(), Miss> {
    let (requests, window) = (NonZeroU32::MIN.saturating_add(999), Millis::from_secs(1));
    let Ok(rate) = Rate::new(requests, window, requests) else { return Ok(()) };
    let bucket = Bucket { rule: "_probe", key: 0, rate, binding: Binding::Alone, leasing: Leasing::Never };
    inner.call(connection, &[&Ask::of(&[bucket], &inner.keys)], None).await.map(drop)
}
