//! State that several gateways share. What is kept in one process only lives with its control, in `plugins`.

pub(crate) mod redis;

use std::{hash::RandomState, sync::Arc};

use anyhow::anyhow;
use portcullis_config::{Counters, StoresSpec};
use portcullis_plugins::{
    bans::BanTable,
    in_flight,
    login::{self, Locks, SharedLogins},
    rate_limit::{self, KeyHasher, Tables},
    waf::Violations,
};

use self::redis::{Options, RedisCounters};
use crate::{clock::SystemClock, metrics::Metrics};

const NO_KEY: &str = "counters in Redis need stores.key";

/// The shared store with a runtime of its own: its connection outlives any listener's.
pub(crate) fn start(
    stores: &StoresSpec,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<(Option<tokio::runtime::Runtime>, Option<Arc<RedisCounters>>)> {
    let url = match &stores.counters {
        Counters::Memory => return Ok((None, None)),
        Counters::Redis(url) => url.clone(),
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("store").enable_all().build()?;
    let fingerprint = stores.key.as_ref().map(|key| KeyHasher::deployment(key).fingerprint());
    let options = Options {
        deadline: stores.deadline.duration(),
        instances: stores.instances,
        fingerprint,
        ..Options::new(url, stores.prefix.clone())
    };
    let counters = RedisCounters::start(options, metrics.clone(), runtime.handle())?;
    Ok((Some(runtime), Some(Arc::new(counters))))
}

/// What limits count in: the store, or this process alone.
pub(crate) fn limits(
    stores: &StoresSpec,
    clock: &Arc<SystemClock>,
    redis: Option<&Arc<RedisCounters>>,
) -> anyhow::Result<rate_limit::Needs> {
    let tables = Arc::new(Tables::new(stores.keys_max));
    match (redis, &stores.key) {
        (None, _) => Ok(rate_limit::Needs::in_memory(clock.clone(), tables)),
        (Some(redis), Some(key)) => Ok(rate_limit::Needs::shared(clock.clone(), tables, redis.clone(), key)),
        (Some(_), None) => Err(anyhow!(NO_KEY)),
    }
}

/// Who is under way here, of limits that all gateways of a store share.
pub(crate) fn in_flight(redis: Option<&Arc<RedisCounters>>) -> in_flight::Needs {
    match redis {
        None => in_flight::Needs::alone(),
        Some(redis) => in_flight::Needs::among(redis.clone()),
    }
}

/// The table of violations and blocks, beside the store where there is one.
pub(crate) fn bans(
    stores: &StoresSpec,
    violations: &Violations,
    redis: Option<&Arc<RedisCounters>>,
) -> anyhow::Result<BanTable> {
    let hasher = RandomState::new();
    match (redis, &stores.key) {
        (None, _) => Ok(BanTable::new(violations, hasher)),
        (Some(_), Some(key)) => Ok(BanTable::shared(violations, hasher, key)),
        (Some(_), None) => Err(anyhow!(NO_KEY)),
    }
}

/// Failed logins and locks, beside the store where there is one. The key hides them in the log too.
pub(crate) fn logins(
    stores: &StoresSpec,
    clock: &Arc<SystemClock>,
    redis: Option<&Arc<RedisCounters>>,
) -> login::Needs {
    login::Needs {
        locks: Arc::new(Locks::new(stores.key.as_ref())),
        shared: redis.map(|redis| -> Arc<dyn SharedLogins> { Arc::new(redis.logins()) }),
        clock: clock.clone(),
    }
}
