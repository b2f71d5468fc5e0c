//! The harness: the real binary, real clients, a real recording upstream, a real redis-server.
//!
//! Knows what a user knows: the configuration file, the command line, the wire. It depends on none of our crates.
//! Tests are plain functions; what needs a runtime runs on one that outlives them all ([`runtime`]).

pub mod agents;
pub mod assertion;
pub mod ca;
mod default_document;
pub mod dial;
pub mod document;
pub mod exchange;
pub mod gateway;
pub mod grpc;
pub mod h1;
pub mod h2;
pub mod h2_raw;
pub mod jwks;
pub mod postgres;
pub mod process;
pub mod redis;
pub mod request;
pub mod seen;
#[cfg(test)]
mod selftest;
pub mod signature;
pub mod tokens;
pub mod upstream;

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

pub use dial::Dial;
pub use document::Setup;
pub use gateway::Gateway;
pub use h1::{Answer, H1};
pub use request::{Protocol, Request};
pub use seen::Seen;
pub use tokens::{Key, Token};
pub use upstream::{Reply, Upstream};

/// The longest that anything in this harness waits for a condition.
pub const PATIENCE: Duration = Duration::from_secs(20);

static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime starts")
});

/// The runtime of everything asynchronous; it lives as long as the process, so that what one test started may serve
/// the next.
pub fn runtime() -> &'static tokio::runtime::Runtime {
    &RUNTIME
}

/// Asks `probe` until it answers, for at most [`PATIENCE`].
///
/// # Panics
/// When it never answers; `what` says what was waited for.
pub fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A loopback address with a port that nobody listens on now.
///
/// Below the ports that the kernel gives to clients: one of those could be a client's before the server has it.
pub fn free_address() -> SocketAddr {
    const FIRST: u32 = 12_000;
    const COUNT: u32 = 18_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(97);
    (0..COUNT)
        .map(|_| FIRST + start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT)
        .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(port).expect("below 30,000"))))
        .find(|address| TcpListener::bind(address).is_ok())
        .expect("a loopback port is free")
}
