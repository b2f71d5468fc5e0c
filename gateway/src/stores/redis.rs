//! Counters in one Redis: one atomic script a batch of calls, over one multiplexed connection, never waited for beyond a
//! deadline. A bucket that Redis said is empty is not asked again until it cannot be: see `denied`.
//!
//! A call that misses its deadline leaves with a fault and is never asked again, for what became of it is unknown. Five
//! misses in a row open the breaker: from then on calls fail at once, and a prober behind the traffic closes it.
//! `watch` keeps the connection: the driver by itself would never leave one that is open but dead.

mod bans;
mod batch;
mod breaker;
mod call;
mod costs;
mod counters;
mod denied;
mod error;
mod fleet;
mod heard;
mod hot;
mod lease;
mod logins;
mod renew;
mod revocations;
mod settle;
mod source;
mod tail;
mod watch;

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use ::redis::{RedisError, Script, aio};
use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use portcullis_api::Micros;
use portcullis_config::StoreUrl;
use portcullis_plugins::rate_limit::{Leasing, StoreFault};
use tokio::{
    runtime::Handle,
    sync::{Notify, Semaphore, mpsc},
    task::JoinHandle,
    time::timeout,
};

use batch::Waiting;
use breaker::Breaker;
use call::{Ask, Asked, Given, SCRIPT};
use costs::Costs;
use denied::Denials;
use error::said;
use fleet::Fleet;
use lease::Leases;
use settle::Debts;
use source::Source;

pub(crate) use heard::{Entry, Hearing};
pub(crate) use revocations::{RedisRevocations, Unread};

use crate::metrics::Metrics;

/// To connect, with TLS and authentication. Nobody waits for it but the watch.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Answers of a server that is not, or not any more, the one to ask: another one may be by now.
const MOVED_ON: &[&str] = &["READONLY", "MASTERDOWN", "MOVED", "CLUSTERDOWN"];

/// Where the counters are and how long to wait for them.
pub(crate) struct Options {
    /// One Redis, Sentinels, or nodes of a cluster.
    pub(crate) url: StoreUrl,
    /// The first part of every key, and the hash tag that keeps the keys of one call in one slot.
    pub(crate) prefix: String,
    /// How long a call may wait.
    pub(crate) deadline: Duration,
    /// Calls that may wait at the same time; one more fails at once.
    pub(crate) in_flight_max: usize,
    /// How many gateways the operator says there are.
    pub(crate) instances: NonZeroU32,
    /// Tells this deployment's key from others. Gateways with another key count apart, and are told of.
    pub(crate) fingerprint: Option<u128>,
    /// PEM roots for TLS; the system's when not given.
    pub(crate) roots: Option<Vec<u8>>,
}

impl Options {
    /// 25 ms, 512 calls, the system's roots.
    pub(crate) fn new(url: StoreUrl, prefix: String) -> Self {
        let deadline = Duration::from_millis(25);
        Self { url, prefix, deadline, in_flight_max: 512, instances: NonZeroU32::MIN, fingerprint: None, roots: None }
    }
}

/// There is nothing to verify the store's certificate with.
#[derive(Debug, thiserror::Error)]
#[error("the roots for the TLS of the counters are no PEM certificates")]
pub(crate) struct NoRoots;

/// How the store stands, for readiness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Health {
    /// It answers.
    Healthy,
    /// It does not: every rule does what it says for this.
    Degraded {
        /// Since when.
        since: SystemTime,
        /// Why, without names or secrets.
        why: String,
    },
}

/// Counters in Redis.
pub(crate) struct RedisCounters {
    inner: Arc<Inner>,
    queue: mpsc::UnboundedSender<Waiting>,
    costs: Costs,
    behind: [JoinHandle<()>; 4],
}

impl Drop for RedisCounters {
    fn drop(&mut self) {
        self.behind.iter().for_each(JoinHandle::abort);
    }
}

struct Inner {
    mode: &'static str,
    keys: String,
    evalsha: String,
    deadline: Duration,
    fingerprint: Option<String>,
    /// A gateway with another key was connected last before this one.
    other_key: AtomicBool,
    epoch: Instant,
    expected: NonZeroU32,
    fleet: Fleet,
    denials: Denials,
    leases: Leases,
    debts: Debts,
    metrics: Arc<Metrics>,
    permits: Semaphore,
    live: ArcSwapOption<aio::MultiplexedConnection>,
    breaker: Breaker,
    /// Something happened that the watch should look at now.
    wake: Notify,
    health: Mutex<Health>,
}

/// Why one call got no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Miss {
    /// Nothing came within the deadline.
    Late,
    /// The connection is gone.
    Gone(String),
    /// The server answered with an error, by its code.
    Refused(String),
}

impl RedisCounters {
    /// Starts. Connects behind the traffic, on `runtime`: a Redis that is away keeps nobody from starting.
    pub(crate) fn start(options: Options, metrics: Arc<Metrics>, runtime: &Handle) -> Result<Self, NoRoots> {
        let Options { url, prefix, deadline, in_flight_max, instances, fingerprint, roots } = options;
        let mode = source::mode(&url);
        let source = Source::of(url, roots).map_err(|_| NoRoots)?;
        let inner = Arc::new(Inner {
            mode,
            keys: format!("{prefix}:{{{prefix}}}:"),
            evalsha: Script::new(SCRIPT).get_hash().to_owned(),
            deadline,
            fingerprint: fingerprint.map(|fingerprint| format!("{fingerprint:032x}")),
            other_key: AtomicBool::new(false),
            epoch: Instant::now(),
            expected: instances,
            fleet: Fleet::new(),
            denials: Denials::new(Instant::now()),
            leases: Leases::new(),
            debts: Debts::default(),
            metrics,
            permits: Semaphore::new(in_flight_max.min(Semaphore::MAX_PERMITS)),
            live: ArcSwapOption::empty(),
            breaker: Breaker::new(Instant::now()),
            wake: Notify::new(),
            health: Mutex::new(Health::Degraded { since: SystemTime::now(), why: "not connected yet".to_owned() }),
        });
        let behind = [
            runtime.spawn(watch::watch(inner.clone(), source)),
            runtime.spawn(settle::run(inner.clone())),
            runtime.spawn(renew::run(inner.clone())),
            runtime.spawn(fleet::run(inner.clone())),
        ];
        // Bounded by the permits of those who wait.
        let (queue, waiting) = mpsc::unbounded_channel();
        runtime.spawn(batch::run(inner.clone(), waiting));
        Ok(Self { costs: Costs::start(&inner, runtime), inner, queue, behind })
    }

    /// Whether a gateway with another `stores.key` counts under the same prefix, as far as this one has seen.
    pub(crate) fn has_other_key(&self) -> bool {
        self.inner.other_key.load(Ordering::Relaxed)
    }

    /// Gives back what was taken ahead, charges what is owed, and says that this gateway goes. A store that hangs is waited
    /// for no longer than [`CONNECT_TIMEOUT`].
    pub(crate) async fn leave(&self) {
        if let Some(live) = self.inner.live.load_full() {
            // What cannot be given back flows in by itself.
            drop(settle::all(&self.inner, &live).await);
            fleet::leave(&self.inner, &live).await;
        }
    }

    /// What kind of store it is, for who reads how it stands.
    pub(crate) fn mode(&self) -> &'static str {
        self.inner.mode
    }

    /// How the store stands.
    pub(crate) fn health(&self) -> Health {
        self.inner.health.lock().clone()
    }
}

impl Inner {
    /// Microseconds since the start.
    fn now(&self) -> Micros {
        Micros::try_from(self.epoch.elapsed().as_micros()).unwrap_or(Micros::MAX)
    }

    fn instances(&self) -> NonZeroU32 {
        self.fleet.instances(self.expected)
    }

    /// What an answer of Redis, or none, says for the calls to come. What was given ahead is kept, also when the request gave
    /// up meanwhile.
    fn heard(&self, ask: &Ask, result: Result<Vec<Given>, Miss>) -> Result<Vec<Given>, Miss> {
        let now = self.now();
        let is_leased = |asked: &Asked| asked.leasing == Leasing::Allowed;
        for (at, asked) in ask.buckets().iter().enumerate().filter(|(_, asked)| is_leased(asked)) {
            match result.as_ref().ok().and_then(|given| given.get(at)) {
                Some(given) => self.leases.granted(asked, given, now),
                None => self.leases.failed(asked.key, asked.ahead),
            }
        }
        result
    }

    /// One run of the script under the deadline. `clock` is a test's, in microseconds.
    async fn call(
        &self,
        live: &aio::MultiplexedConnection,
        batch: &[&Ask],
        clock: Option<u64>,
    ) -> Result<Vec<Vec<Given>>, Miss> {
        let mut connection = live.clone();
        let instances = self.instances();
        let asked = async {
            match call::command("EVALSHA", &self.evalsha, batch, instances, clock).query_async(&mut connection).await {
                // The server forgets scripts when it restarts and on SCRIPT FLUSH. Nothing was taken: ask again, whole.
                Err(error) if error.code() == Some("NOSCRIPT") => {
                    call::command("EVAL", SCRIPT, batch, instances, clock).query_async(&mut connection).await
                }
                answer => answer,
            }
        };
        let reply: Vec<i64> = match timeout(self.deadline, asked).await {
            Err(_) => return Err(Miss::Late),
            Ok(Err(error)) => return Err(Miss::of(&error)),
            Ok(Ok(reply)) => reply,
        };
        call::given(&reply, batch).ok_or_else(|| Miss::Refused("an answer it does not have".to_owned()))
    }

    /// Tells breaker and watch what came of a call. A straggler of a connection that was left says nothing of the
    /// one that took its place.
    fn note(&self, live: &Arc<aio::MultiplexedConnection>, result: &Result<(), Miss>) {
        if !self.live.load().as_ref().is_some_and(|current| Arc::ptr_eq(current, live)) {
            return;
        }
        let now = Instant::now();
        let why = match result {
            Ok(()) => return self.breaker.answered(now),
            Err(Miss::Late) => "no answer within the deadline",
            Err(Miss::Gone(why)) => {
                self.leave(live, why);
                why.as_str()
            }
            Err(Miss::Refused(code)) => {
                self.breaker.heard(now);
                if MOVED_ON.contains(&code.as_str()) {
                    self.leave(live, code);
                }
                code.as_str()
            }
        };
        if self.breaker.missed() {
            self.degraded(why);
        }
        self.wake.notify_one();
    }

    /// Leaves a connection, unless it was replaced meanwhile.
    fn leave(&self, connection: &Arc<aio::MultiplexedConnection>, why: &str) {
        let left = self.live.compare_and_swap(connection, None);
        if left.as_ref().is_some_and(|left| Arc::ptr_eq(left, connection)) {
            self.degraded(why);
        }
    }

    fn degraded(&self, why: &str) {
        let why = &*error::meaning(self.mode, why);
        let mut health = self.health.lock();
        let since = match &*health {
            Health::Degraded { since, .. } => *since,
            Health::Healthy => {
                tracing::warn!(
                    event = "store.away",
                    mode = self.mode,
                    why,
                    "the store is away, rules do what they say for this"
                );
                SystemTime::now()
            }
        };
        *health = Health::Degraded { since, why: why.to_owned() };
    }

    fn healthy(&self) {
        let mut health = self.health.lock();
        if *health != Health::Healthy {
            tracing::info!(event = "store.answers", mode = self.mode, "the store answers");
            *health = Health::Healthy;
        }
    }
}

impl From<Miss> for StoreFault {
    fn from(miss: Miss) -> Self {
        match miss {
            Miss::Late => Self::Late,
            Miss::Gone(_) => Self::Away,
            Miss::Refused(code) => Self::Refused(code),
        }
    }
}

impl Miss {
    fn of(error: &RedisError) -> Self {
        match error.code() {
            Some(code) => Self::Refused(code.to_owned()),
            None if error.is_io_error() || error.is_unrecoverable_error() => Self::Gone(said(error)),
            None => Self::Refused(said(error)),
        }
    }
}

#[cfg(test)]
mod tests;
