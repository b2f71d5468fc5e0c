//! How many gateways count here: each says every second that it is there, and hears how many have.
//!
//! A gateway that is gone is counted for [`THERE`] more, and a smaller number is believed when it has lasted as long
//! again: after a restart of Redis all are heard anew, and shares must not grow meanwhile.

use std::{
    num::NonZeroU32,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use ::redis::{Script, aio::MultiplexedConnection};
use parking_lot::Mutex;
use tokio::time::{sleep, timeout};

use super::{CONNECT_TIMEOUT, Inner, Miss};

static BEAT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../beat.lua")));

const PAUSE: Duration = Duration::from_secs(1);

/// How long a gateway counts as there after it was heard.
const THERE: Duration = Duration::from_secs(15);

/// Silence after which it is listened anew.
const GAP_MAX: Duration = Duration::from_secs(5);

pub(super) struct Fleet {
    /// This gateway's name, drawn at its start.
    name: String,
    /// Gateways; 0 while nothing was heard.
    count: AtomicU32,
    /// Whether the number can be believed though it is smaller than what the operator says.
    settled: AtomicBool,
    heard: Mutex<Option<Heard>>,
}

/// When was heard what is counted with.
struct Heard {
    first: Instant,
    /// When as many as are counted were last heard.
    last: Instant,
    /// When any number was.
    latest: Instant,
}

impl Fleet {
    pub(super) fn new() -> Self {
        let name = uuid::Uuid::now_v7().simple().to_string();
        Self { name, count: AtomicU32::new(0), settled: AtomicBool::new(false), heard: Mutex::new(None) }
    }

    /// The gateways there are; at least `expected` while it is too early to know.
    pub(super) fn instances(&self, expected: NonZeroU32) -> NonZeroU32 {
        let count = NonZeroU32::new(self.count.load(Ordering::Relaxed));
        match count {
            Some(count) if self.settled.load(Ordering::Relaxed) => count,
            Some(count) => count.max(expected),
            None => expected,
        }
    }

    fn hear(&self, count: u32, now: Instant) {
        let mut heard = self.heard.lock();
        let heard = heard.get_or_insert(Heard { first: now, last: now, latest: now });
        if now.saturating_duration_since(heard.latest) >= GAP_MAX {
            // What was heard before an outage of Redis says nothing of how long a smaller number has lasted.
            (heard.first, heard.last) = (now, now);
            self.settled.store(false, Ordering::Relaxed);
        }
        heard.latest = now;
        if count >= self.count.load(Ordering::Relaxed) || now.saturating_duration_since(heard.last) >= THERE {
            self.count.store(count, Ordering::Relaxed);
            heard.last = now;
        }
        if now.saturating_duration_since(heard.first) >= THERE {
            self.settled.store(true, Ordering::Relaxed);
        }
    }
}

/// Says that this gateway is there, as long as it is.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut refused = None;
    loop {
        sleep(PAUSE).await;
        let Some(live) = inner.live.load_full().filter(|_| !inner.breaker.is_open()) else { continue };
        let why = match beat(&inner, &live).await {
            Ok(()) => None,
            Err(Miss::Refused(code)) => Some(code),
            // Those who ask for tokens see that too.
            Err(Miss::Late | Miss::Gone(_)) => continue,
        };
        if why != refused
            && let Some(code) = &why
        {
            tracing::error!(
                event = "store.uncounted",
                code,
                "the store does not let this gateway say that it is there: the others' shares are too large"
            );
        }
        refused = why;
    }
}

/// Once.
pub(super) async fn beat(inner: &Inner, live: &MultiplexedConnection) -> Result<(), Miss> {
    let mut connection = live.clone();
    let mut call = BEAT.prepare_invoke();
    call.key(key(inner)).arg("").arg(&inner.fleet.name).arg(THERE.as_micros().to_string());
    match timeout(CONNECT_TIMEOUT, call.invoke_async::<u32>(&mut connection)).await {
        Ok(Ok(count)) => inner.fleet.hear(count, Instant::now()),
        Ok(Err(error)) => return Err(Miss::of(&error)),
        Err(_) => return Err(Miss::Late),
    }
    inner.metrics.instances.set(i64::from(inner.instances().get()));
    Ok(())
}

/// Says that this gateway goes.
pub(super) async fn leave(inner: &Inner, live: &MultiplexedConnection) {
    let mut connection = live.clone();
    let mut command = ::redis::cmd("ZREM");
    command.arg(key(inner)).arg(&inner.fleet.name);
    // Who does not hear it waits until it counts no more.
    drop(timeout(inner.deadline, command.query_async::<u32>(&mut connection)).await);
}

fn key(inner: &Inner) -> String {
    // Gateways with another key share nothing with this one.
    let key = inner.fingerprint.as_deref().unwrap_or("any");
    format!("{}gateways:{key}", inner.keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn nonzero(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).unwrap()
    }

    #[test]
    fn what_the_operator_says_holds_until_it_is_known_better() {
        let (fleet, start) = (Fleet::new(), Instant::now());
        assert_eq!(fleet.instances(nonzero(3)), nonzero(3));
        fleet.hear(1, start);
        assert_eq!(fleet.instances(nonzero(3)), nonzero(3), "the others may not have been heard yet");
        (1..=15).for_each(|second| fleet.hear(5, start + second * S));
        assert_eq!(fleet.instances(nonzero(3)), nonzero(5));
        assert_eq!(fleet.instances(nonzero(9)), nonzero(5));
    }

    #[test]
    fn more_gateways_count_at_once_and_fewer_when_it_has_lasted() {
        let (fleet, start) = (Fleet::new(), Instant::now());
        (0..=15).for_each(|second| fleet.hear(3, start + second * S));
        // A Redis that has begun anew hears them one after the other.
        for second in 1..15 {
            fleet.hear(1, start + THERE + second * S);
            assert_eq!(fleet.instances(nonzero(1)), nonzero(3), "after {second} s");
        }
        fleet.hear(1, start + 2 * THERE);
        assert_eq!(fleet.instances(nonzero(1)), nonzero(1));
        fleet.hear(2, start + 2 * THERE + S);
        assert_eq!(fleet.instances(nonzero(1)), nonzero(2));
    }

    #[test]
    fn after_an_outage_it_is_listened_anew() {
        let (fleet, start) = (Fleet::new(), Instant::now());
        (0..=15).for_each(|second| fleet.hear(3, start + second * S));
        // Redis is back, empty, after a minute; the others have not been heard yet.
        let back = start + 75 * S;
        (0..15).for_each(|second| fleet.hear(1, back + second * S));
        assert_eq!(fleet.instances(nonzero(1)), nonzero(3));
        assert_eq!(fleet.instances(nonzero(4)), nonzero(4), "what the operator says holds again");
        (15..=16).for_each(|second| fleet.hear(1, back + second * S));
        assert_eq!(fleet.instances(nonzero(4)), nonzero(1));
    }
}
