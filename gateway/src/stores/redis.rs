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
mod denied;
mod settle;
mod watch;

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use ::redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, RedisError, Script, TlsCertificates, aio};
use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use portcullis_plugins::rate_limit::{Bucket, Clearing, Instead, Level, Peeking, SharedCounters, StoreFault, Taking};
use tokio::{
    runtime::Handle,
    sync::{Notify, Semaphore, mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

use batch::{Sent, Waiting};
use breaker::Breaker;
use call::{Ask, SCRIPT};
use denied::Denials;
use settle::Settling;

use crate::metrics::Metrics;

/// Requests that the driver queues; its own default of 50 is a bottleneck under load.
const BUFFER: usize = 2_048;

/// To connect, with TLS and authentication. Nobody waits for it but the watch.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Answers of a server that is no master any more: the name may lead to another one by now.
const MOVED_ON: &[&str] = &["READONLY", "MASTERDOWN"];

/// Where the counters are and how long to wait for them.
pub(crate) struct Options {
    /// `redis://` or `rediss://`. May hold a password: it is never logged.
    pub(crate) url: String,
    /// The first part of every key, and the hash tag that keeps the keys of one call in one slot.
    pub(crate) prefix: String,
    /// How long a call may wait.
    pub(crate) deadline: Duration,
    /// Calls that may wait at the same time; one more fails at once.
    pub(crate) in_flight_max: usize,
    /// Tells this deployment's key from others. Gateways with another key count apart, and are told of.
    pub(crate) fingerprint: Option<u128>,
    /// PEM roots for `rediss://`; the system's when not given.
    pub(crate) roots: Option<Vec<u8>>,
}

impl Options {
    /// 25 ms, 512 calls, the system's roots.
    pub(crate) fn new(url: String, prefix: String) -> Self {
        Self { url, prefix, deadline: Duration::from_millis(25), in_flight_max: 512, fingerprint: None, roots: None }
    }
}

/// The URL is none. It is not echoed: it may hold a password.
#[derive(Debug, thiserror::Error)]
#[error("the URL of the counters is no redis:// or rediss:// URL, or its roots are no PEM certificates")]
pub(crate) struct NoUrl;

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
    settling: Settling,
    watch: JoinHandle<()>,
}

impl Drop for RedisCounters {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

struct Inner {
    keys: String,
    evalsha: String,
    deadline: Duration,
    fingerprint: Option<String>,
    /// A gateway with another key was connected last before this one.
    other_key: AtomicBool,
    denials: Denials,
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
    pub(crate) fn start(options: Options, metrics: Arc<Metrics>, runtime: &Handle) -> Result<Self, NoUrl> {
        let Options { url, prefix, deadline, in_flight_max, fingerprint, roots } = options;
        let client = client(url, roots).map_err(|_| NoUrl)?;
        let inner = Arc::new(Inner {
            keys: format!("{prefix}:{{{prefix}}}:"),
            evalsha: Script::new(SCRIPT).get_hash().to_owned(),
            deadline,
            fingerprint: fingerprint.map(|fingerprint| format!("{fingerprint:032x}")),
            other_key: AtomicBool::new(false),
            denials: Denials::new(Instant::now()),
            metrics,
            permits: Semaphore::new(in_flight_max.min(Semaphore::MAX_PERMITS)),
            live: ArcSwapOption::empty(),
            breaker: Breaker::new(Instant::now()),
            wake: Notify::new(),
            health: Mutex::new(Health::Degraded { since: SystemTime::now(), why: "not connected yet".to_owned() }),
        });
        let watch = runtime.spawn(watch::watch(inner.clone(), client));
        // Bounded by the permits of those who wait.
        let (queue, waiting) = mpsc::unbounded_channel();
        runtime.spawn(batch::run(inner.clone(), waiting));
        Ok(Self { settling: Settling::start(&inner, runtime), inner, queue, watch })
    }

    /// Whether a gateway with another `stores.key` counts under the same prefix, as far as this one has seen.
    pub(crate) fn has_other_key(&self) -> bool {
        self.inner.other_key.load(Ordering::Relaxed)
    }

    /// How the store stands.
    pub(crate) fn health(&self) -> Health {
        self.inner.health.lock().clone()
    }
}

impl SharedCounters for RedisCounters {
    fn take<'a>(&'a self, buckets: &'a [Bucket<'a>]) -> Taking<'a> {
        Box::pin(self.levels(buckets))
    }

    fn charge(&self, bucket: &Bucket<'_>, tokens: NonZeroU32, instead: Instead) {
        self.settling.charge(&self.inner, bucket, tokens, instead);
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
            Ok(())
        })
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

    /// From memory where the answer is known, else from Redis.
    async fn levels(&self, buckets: &[Bucket<'_>]) -> Result<Vec<Level>, StoreFault> {
        let inner = &self.inner;
        if let Some(levels) = inner.denials.answer(buckets, Instant::now()) {
            inner.metrics.remembered.inc();
            return Ok(levels);
        }
        self.ask(buckets).await.inspect_err(|fault| {
            let kind = match fault {
                StoreFault::Away => "gone",
                StoreFault::Late => "late",
                StoreFault::Busy => "busy",
                StoreFault::Refused(_) => "refused",
            };
            inner.metrics.store_errors.with_label_values(&[kind]).inc();
        })
    }

    async fn ask(&self, buckets: &[Bucket<'_>]) -> Result<Vec<Level>, StoreFault> {
        let inner = &self.inner;
        if inner.breaker.is_open() {
            return Err(StoreFault::Away);
        }
        let Some(live) = inner.live.load_full() else { return Err(StoreFault::Away) };
        // Bounds what waits on a server that hangs.
        let _permit = inner.permits.try_acquire().map_err(|_| StoreFault::Busy)?;
        let (answer, answered) = oneshot::channel();
        let sent = Arc::new(Sent::default());
        let waiting = Waiting { ask: Ask::of(buckets, &inner.keys), sent: sent.clone(), answer };
        self.queue.send(waiting).map_err(|_| StoreFault::Away)?;
        match timeout(inner.deadline, answered).await {
            Ok(Ok(Ok(levels))) => {
                inner.denials.remember(buckets, &levels, Instant::now());
                Ok(levels)
            }
            Err(_) if !sent.is_late(inner.deadline) => Err(StoreFault::Busy),
            Err(_) | Ok(Ok(Err(Miss::Late))) => {
                inner.note(&live, &Err(Miss::Late));
                Err(StoreFault::Late)
            }
            Ok(Ok(Err(miss))) => Err(miss.into()),
            Ok(Err(_)) => Err(StoreFault::Away),
        }
    }
}

impl Inner {
    /// One run of the script under the deadline. `clock` is a test's, in microseconds.
    async fn call(
        &self,
        live: &aio::MultiplexedConnection,
        batch: &[&Ask],
        clock: Option<u64>,
    ) -> Result<Vec<Vec<Level>>, Miss> {
        let mut connection = live.clone();
        let asked = async {
            match call::command("EVALSHA", &self.evalsha, batch, clock).query_async(&mut connection).await {
                // The server forgets scripts when it restarts and on SCRIPT FLUSH. Nothing was taken: ask again, whole.
                Err(error) if error.code() == Some("NOSCRIPT") => {
                    call::command("EVAL", SCRIPT, batch, clock).query_async(&mut connection).await
                }
                answer => answer,
            }
        };
        let reply: Vec<i64> = match timeout(self.deadline, asked).await {
            Err(_) => return Err(Miss::Late),
            Ok(Err(error)) => return Err(Miss::of(&error)),
            Ok(Ok(reply)) => reply,
        };
        call::levels(&reply, batch).ok_or_else(|| Miss::Refused("an answer it does not have".to_owned()))
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
        let mut health = self.health.lock();
        let since = match &*health {
            Health::Degraded { since, .. } => *since,
            Health::Healthy => {
                tracing::warn!(event = "store.away", why, "the store is away, rules do what they say for this");
                SystemTime::now()
            }
        };
        *health = Health::Degraded { since, why: why.to_owned() };
    }

    fn healthy(&self) {
        let mut health = self.health.lock();
        if *health != Health::Healthy {
            tracing::info!(event = "store.answers", "the store answers");
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

/// An error without what it may quote: a code or a kind.
fn said(error: &RedisError) -> String {
    match error.code() {
        Some(code) => code.to_owned(),
        None if error.is_connection_refusal() => "connection refused".to_owned(),
        None if error.is_timeout() => "timed out".to_owned(),
        None => error.category().to_owned(),
    }
}

fn client(url: String, roots: Option<Vec<u8>>) -> Result<Client, RedisError> {
    if url.starts_with("rediss:") && rustls::crypto::CryptoProvider::get_default().is_none() {
        // The driver asks for the process's default. Whoever was faster installed the same.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    }
    let info = url.into_connection_info()?;
    let tcp = info.tcp_settings().clone().set_nodelay(true);
    let info = info.set_tcp_settings(tcp);
    match roots {
        Some(roots) => Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert: Some(roots) }),
        None => Client::open(info),
    }
}

fn config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        // Ours is around the wait of each call: the driver's would hide misses from the breaker.
        .set_response_timeout(None)
        .set_pipeline_buffer_size(BUFFER)
}

#[cfg(test)]
mod tests;
