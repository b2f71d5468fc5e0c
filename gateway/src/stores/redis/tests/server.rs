//! A real redis-server as a child process, a wire that can be cut, and waiting for a condition.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    num::NonZeroU32,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use portcullis_api::Millis;
use portcullis_config::StoreUrl;
use portcullis_plugins::rate_limit::{Binding, Bucket, Leasing, Level, Rate, SharedCounters, StoreFault};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    runtime::Handle,
    time::sleep,
};

use crate::{
    metrics::Metrics,
    stores::redis::{Health, Options, RedisCounters},
};

/// How long a condition may take to come true on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `condition` holds.
pub(super) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < PATIENCE, "still not: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

pub(super) fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

pub(super) struct Server {
    child: Child,
    port: u16,
    args: Vec<String>,
}

impl Server {
    pub(super) fn start() -> Self {
        Self::with(&[])
    }

    pub(super) fn with(args: &[&str]) -> Self {
        Self::on(free_port(), args)
    }

    /// Starts and waits until it accepts.
    pub(super) fn on(port: u16, args: &[&str]) -> Self {
        let mut child = Self::spawn(port, args);
        let start = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if child.try_wait().unwrap().is_some() {
                // A process that another test is starting still holds the socket that found the port.
                child = Self::spawn(port, args);
            }
            assert!(start.elapsed() < PATIENCE, "redis-server does not accept on port {port}");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { child, port, args: args.iter().map(|&arg| arg.to_owned()).collect() }
    }

    /// A node of a cluster, which has all slots or none. What it notes of the cluster stands in `folder`.
    pub(super) async fn node(folder: &Path, slots: &[&str]) -> Self {
        let bus = free_port().to_string();
        let notes = folder.join(format!("nodes-{bus}.conf")).display().to_string();
        let server = Self::with(&["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-config-file", &notes]);
        if !slots.is_empty() {
            let () = server.run(&[&["CLUSTER", "ADDSLOTSRANGE"], slots].concat()).await;
        }
        server
    }

    fn spawn(port: u16, args: &[&str]) -> Child {
        let tls = args.contains(&"--tls-port");
        let port = if tls { "0".to_owned() } else { port.to_string() };
        Command::new("redis-server")
            .args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(args)
            .current_dir(std::env::temp_dir())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed by `make test`")
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// kill -9.
    pub(super) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts again, empty, on the same port.
    pub(super) fn restart(&mut self) {
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        *self = Self::on(self.port, &args);
    }

    /// kill -STOP or -CONT.
    pub(super) fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Runs a command over a connection of its own.
    pub(super) async fn run<T: ::redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let client = ::redis::Client::open(self.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let (verb, args) = words.split_first().unwrap();
        ::redis::cmd(verb).arg(args).query_async(&mut connection).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// With a deadline that no healthy answer misses on a busy machine.
pub(super) fn options(url: String) -> Options {
    Options {
        deadline: Duration::from_millis(500),
        in_flight_max: 4_096,
        ..Options::new(parsed(&url), "test".to_owned())
    }
}

pub(super) fn parsed(url: &str) -> StoreUrl {
    StoreUrl::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"))
}

pub(super) fn start(options: Options) -> RedisCounters {
    RedisCounters::start(options, metrics(), &Handle::current()).unwrap()
}

pub(super) fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new().unwrap())
}

/// Counters that are connected.
pub(super) async fn connected(options: Options) -> RedisCounters {
    let counters = start(options);
    healthy(&counters).await;
    counters
}

pub(super) async fn healthy(counters: &RedisCounters) {
    until("healthy", async || counters.health() == Health::Healthy).await;
}

pub(super) fn why(counters: &RedisCounters) -> String {
    match counters.health() {
        Health::Healthy => "healthy".to_owned(),
        Health::Degraded { why, .. } => why,
    }
}

pub(super) fn rate(requests: u32, window_s: u64) -> Rate {
    let requests = NonZeroU32::new(requests).unwrap();
    Rate::new(requests, Millis::from_secs(window_s), requests).unwrap()
}

/// A bucket of `requests` in an hour: nothing flows in during a test.
pub(in crate::stores::redis) fn bucket(rule: &str, key: u128, requests: u32) -> Bucket<'_> {
    Bucket { rule, key, rate: rate(requests, 3_600), binding: Binding::Together, leasing: Leasing::Never }
}

pub(super) async fn take(counters: &RedisCounters, buckets: &[Bucket<'_>]) -> Result<Vec<Level>, StoreFault> {
    counters.take(buckets).await
}

/// A wire to a server, of which the connections that exist can be made to swallow everything while new ones work.
pub(super) struct Wire {
    pub(super) port: u16,
    dead: Arc<parking_lot::Mutex<Arc<AtomicBool>>>,
}

impl Wire {
    pub(super) async fn to(port: u16) -> Self {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let here = listener.local_addr().unwrap().port();
        let dead = Arc::new(parking_lot::Mutex::new(Arc::new(AtomicBool::new(false))));
        let current = dead.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                let Ok(far) = tokio::net::TcpStream::connect(far).await else { continue };
                let dead = current.lock().clone();
                let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                tokio::spawn(pump(near_in, far_out, dead.clone()));
                tokio::spawn(pump(far_in, near_out, dead));
            }
        });
        Self { port: here, dead }
    }

    /// From here on every connection that exists is open and dead.
    pub(super) fn deaden(&self) {
        let dead = std::mem::replace(&mut *self.dead.lock(), Arc::new(AtomicBool::new(false)));
        dead.store(true, Ordering::SeqCst);
    }
}

async fn pump(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin, dead: Arc<AtomicBool>) {
    let mut buffer = [0; 4_096];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if !dead.load(Ordering::SeqCst) && to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// Whether a file was written where it was meant to be.
pub(super) fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}
