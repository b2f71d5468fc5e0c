//! Counters in one Redis: one atomic script a call, over one multiplexed connection, never waited for beyond a deadline.
//!
//! A call that misses its deadline leaves with a fault and is never asked again, for what became of it is unknown. Five
//! misses in a row open the breaker: from then on calls fail at once, and a prober behind the traffic closes it.
//! `watch` keeps the connection: the driver by itself would never leave one that is open but dead.

mod breaker;
mod watch;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use ::redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, RedisError, Script, TlsCertificates, aio};
use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use portcullis_plugins::rate_limit::{Answer, Binding, Bucket, Level, SharedCounters, StoreFault, Taking};
use tokio::{
    runtime::Handle,
    sync::{Notify, Semaphore},
    task::JoinHandle,
    time::timeout,
};

use breaker::Breaker;

const SCRIPT: &str = include_str!("take.lua");

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
    /// PEM roots for `rediss://`; the system's when not given.
    pub(crate) roots: Option<Vec<u8>>,
}

impl Options {
    /// 25 ms, 512 calls, the system's roots.
    pub(crate) fn new(url: String, prefix: String) -> Self {
        Self { url, prefix, deadline: Duration::from_millis(25), in_flight_max: 512, roots: None }
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
    permits: Semaphore,
    live: ArcSwapOption<aio::MultiplexedConnection>,
    breaker: Breaker,
    /// Something happened that the watch should look at now.
    wake: Notify,
    health: Mutex<Health>,
}

/// Why one call got no answer.
#[derive(Debug)]
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
    pub(crate) fn start(options: Options, runtime: &Handle) -> Result<Self, NoUrl> {
        let Options { url, prefix, deadline, in_flight_max, roots } = options;
        let client = client(url, roots).map_err(|_| NoUrl)?;
        let inner = Arc::new(Inner {
            keys: format!("{prefix}:{{{prefix}}}:"),
            evalsha: Script::new(SCRIPT).get_hash().to_owned(),
            deadline,
            permits: Semaphore::new(in_flight_max.min(Semaphore::MAX_PERMITS)),
            live: ArcSwapOption::empty(),
            breaker: Breaker::new(Instant::now()),
            wake: Notify::new(),
            health: Mutex::new(Health::Degraded { since: SystemTime::now(), why: "not connected yet".to_owned() }),
        });
        let watch = runtime.spawn(watch::watch(inner.clone(), client));
        Ok(Self { inner, watch })
    }

    /// How the store stands.
    pub(crate) fn health(&self) -> Health {
        self.inner.health.lock().clone()
    }
}

impl SharedCounters for RedisCounters {
    fn take<'a>(&'a self, buckets: &'a [Bucket<'a>]) -> Taking<'a> {
        Box::pin(self.inner.take(buckets))
    }
}

impl Inner {
    async fn take(&self, buckets: &[Bucket<'_>]) -> Result<Vec<Level>, StoreFault> {
        if self.breaker.is_open() {
            return Err(StoreFault::Away);
        }
        let Some(live) = self.live.load_full() else { return Err(StoreFault::Away) };
        // Bounds what waits on a server that hangs: the driver would queue without an end.
        let _permit = self.permits.try_acquire().map_err(|_| StoreFault::Busy)?;
        let result = self.call(&live, buckets, None).await;
        self.note(&live, &result);
        result.map_err(|miss| match miss {
            Miss::Late => StoreFault::Late,
            Miss::Gone(_) => StoreFault::Away,
            Miss::Refused(code) => StoreFault::Refused(code),
        })
    }

    /// One call under the deadline. `clock` is a test's, in microseconds.
    async fn call(
        &self,
        live: &aio::MultiplexedConnection,
        buckets: &[Bucket<'_>],
        clock: Option<u64>,
    ) -> Result<Vec<Level>, Miss> {
        let mut connection = live.clone();
        let asked = async {
            match self.command("EVALSHA", &self.evalsha, buckets, clock).query_async(&mut connection).await {
                // The server forgets scripts when it restarts and on SCRIPT FLUSH. Nothing was taken: ask again, whole.
                Err(error) if error.code() == Some("NOSCRIPT") => {
                    self.command("EVAL", SCRIPT, buckets, clock).query_async(&mut connection).await
                }
                answer => answer,
            }
        };
        let reply: Vec<i64> = match timeout(self.deadline, asked).await {
            Err(_) => return Err(Miss::Late),
            Ok(Err(error)) => return Err(Miss::of(&error)),
            Ok(Ok(reply)) => reply,
        };
        levels(&reply, buckets.len()).ok_or_else(|| Miss::Refused("an answer it does not have".to_owned()))
    }

    fn command(&self, verb: &str, script: &str, buckets: &[Bucket<'_>], clock: Option<u64>) -> ::redis::Cmd {
        let mut command = ::redis::cmd(verb);
        command.arg(script).arg(buckets.len());
        for bucket in buckets {
            command.arg(self.key(bucket));
        }
        command.arg(clock.map_or_else(String::new, |micros| micros.to_string()));
        for Bucket { rate, binding, .. } in buckets {
            let binding = match binding {
                Binding::Together => "t",
                Binding::Alone => "a",
            };
            command.arg(rate.interval()).arg(rate.burst()).arg(binding);
        }
        command
    }

    /// `prefix:{prefix}:rule:hash`.
    fn key(&self, bucket: &Bucket<'_>) -> String {
        format!("{}{}:{:032x}", self.keys, bucket.rule, bucket.key)
    }

    /// Tells breaker and watch what came of a call. A straggler of a connection that was left says nothing of the
    /// one that took its place.
    fn note<T>(&self, live: &Arc<aio::MultiplexedConnection>, result: &Result<T, Miss>) {
        if !self.live.load().as_ref().is_some_and(|current| Arc::ptr_eq(current, live)) {
            return;
        }
        let now = Instant::now();
        let why = match result {
            Ok(_) => return self.breaker.answered(now),
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
                tracing::warn!(store = "counters", why, "the store is away, rules do what they say for this");
                SystemTime::now()
            }
        };
        *health = Health::Degraded { since, why: why.to_owned() };
    }

    fn healthy(&self) {
        let mut health = self.health.lock();
        if *health != Health::Healthy {
            tracing::info!(store = "counters", "the store answers");
            *health = Health::Healthy;
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

/// Four integers a bucket; anything else is no answer.
fn levels(reply: &[i64], buckets: usize) -> Option<Vec<Level>> {
    let (fours, rest) = reply.as_chunks::<4>();
    if fours.len() != buckets || !rest.is_empty() {
        return None;
    }
    let level = |&[answer, remaining, retry_after, reset_after]: &[i64; 4]| {
        Some(Level {
            answer: match answer {
                0 => Answer::Spared,
                1 => Answer::Charged,
                2 => Answer::Short,
                _ => return None,
            },
            remaining: u32::try_from(remaining).ok()?,
            retry_after: u64::try_from(retry_after).ok()?,
            reset_after: u64::try_from(reset_after).ok()?,
        })
    };
    fours.iter().map(level).collect()
}

#[cfg(test)]
mod tests;
