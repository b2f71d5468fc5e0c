//! The process: Pingora's server with our listeners, the admin listener and the work behind the traffic.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use async_trait::async_trait;
use pingora_core::{
    apps::http_app::HttpServer,
    server::{RunArgs, Server, ShutdownWatch, configuration::ServerConf},
    services::{
        background::{BackgroundService, background_service},
        listening::Service,
    },
};
use tokio::signal::unix::{SignalKind, signal};

use crate::{admin::Admin, boot::Runtime, follow};

/// How the process runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// Worker threads of each listener.
    pub(crate) threads: usize,
    /// How long open requests may go on after SIGTERM, in seconds.
    pub(crate) grace_s: u64,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// Every reason why it cannot start.
pub(crate) fn run(config: &Path, options: Options) -> anyhow::Result<()> {
    let (runtime, admin) = Runtime::start(config)?;
    let runtime = Arc::new(runtime);
    for address in runtime.addresses().chain(admin.as_ref().map(|admin| admin.address)) {
        free(address).with_context(|| format!("{address} cannot be listened on"))?;
    }
    report_panics();
    let conf = server_conf(options);
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let conf = server.configuration.clone();

    let ready = server.add_service(background_service("state", State { runtime: runtime.clone() }));
    for service in runtime.services(&conf) {
        let handle = server.add_service(service);
        handle.add_dependency(&ready);
    }
    if let Some(admin) = &admin {
        let app = Admin { runtime: runtime.clone(), token: admin.token.clone() };
        let mut service = Service::new("admin".to_owned(), HttpServer::new_app(app));
        service.threads = Some(1);
        service.add_tcp(&admin.address.to_string());
        let handle = server.add_service(service);
        handle.add_dependency(&ready);
    }
    tracing::info!(event = "start", version = env!("CARGO_PKG_VERSION"), config = %config.display(), threads = options.threads, "the gateway starts");
    server.run(RunArgs::default());
    runtime.leave_store();
    runtime.gateway.access.close();
    tracing::info!(event = "stop", "the gateway has stopped");
    Ok(())
}

/// Says whether an address can be listened on; Pingora would try for ever in silence. A gateway that is just ending may
/// still have it, so this waits a little. The port is free again when this is done with it.
fn free(address: SocketAddr) -> std::io::Result<()> {
    const TRIES: u32 = 30;
    for _ in 1..TRIES {
        match TcpListener::bind(address) {
            Ok(_listener) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                std::thread::sleep(Duration::from_millis(100))
            }
            Err(error) => return Err(error),
        }
    }
    TcpListener::bind(address).map(drop)
}

/// A panic of a connection's task ends that connection and is logged by its place; what it said could hold a secret.
fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(event = "gateway.bug", place, "a task panicked");
    }));
}

fn server_conf(options: Options) -> ServerConf {
    ServerConf {
        threads: options.threads.max(1),
        grace_period_seconds: Some(options.grace_s),
        graceful_shutdown_timeout_seconds: Some(1),
        upstream_keepalive_pool_size: 1024,
        // The policy is per upstream (`retries_max`); this only bounds the loop.
        max_retries: 8,
        ..ServerConf::default()
    }
}

/// The work behind the traffic: look-ups, health, keys, reloads.
struct State {
    runtime: Arc<Runtime>,
}

#[async_trait]
impl BackgroundService for State {
    async fn start_with_ready_notifier(
        &self,
        mut shutdown: ShutdownWatch,
        ready: pingora_core::services::ServiceReadyNotifier,
    ) {
        let runtime = &self.runtime;
        for upstream in &runtime.gateway.snapshot.load().upstreams {
            upstream.refresh(&runtime.gateway.metrics).await;
        }
        // Waits for the shared store too, so that a restart does not refuse what a rule with `deny` would meanwhile.
        let gateway = &runtime.gateway;
        runtime.tell_bound();
        let (bans, lockouts, revoked, ()) = tokio::join!(
            follow::catch_up(&gateway.bans),
            follow::catch_up(&gateway.lockouts),
            gateway.revocations.catch_up(),
            runtime.key_sets.first()
        );
        runtime.api_keys.first().await;
        ready.notify_ready();
        tracing::info!(event = "ready", generation = 1, "the first configuration is in force");
        tokio::select! {
            () = runtime.key_sets.run() => {}
            () = runtime.api_keys.run(&runtime.gateway.metrics) => {}
            () = runtime.clients().run(&gateway.clock, &gateway.metrics, &gateway.news) => {}
            () = runtime.assertions.run(&runtime.gateway.clock) => {}
            () = upstreams(runtime) => {}
            () = bans.run() => {}
            () = lockouts.run() => {}
            () = gateway.revocations.run(revoked) => {}
            () = reloads(runtime) => {}
            () = crowding(runtime) => {}
            _changed = shutdown.changed() => {}
        }
    }
}

/// Refreshes the upstreams of the snapshot in force, each at its own pace.
async fn upstreams(runtime: &Runtime) {
    let mut due: std::collections::HashMap<Arc<str>, tokio::time::Instant> = std::collections::HashMap::new();
    loop {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let snapshot = runtime.gateway.snapshot.load_full();
        let now = tokio::time::Instant::now();
        for upstream in &snapshot.upstreams {
            let Some(interval) = upstream.refresh_interval() else { continue };
            let next = due.entry(upstream.name.clone()).or_insert(now);
            if *next <= now {
                *next = now.checked_add(interval).unwrap_or(now);
                upstream.refresh(&runtime.gateway.metrics).await;
            }
        }
    }
}

/// Says when the tables of limits, blocks or locks have become too small for what comes.
async fn crowding(runtime: &Runtime) {
    let mut before = [0; 3];
    loop {
        tokio::time::sleep(Duration::from_secs(10)).await;
        let now = runtime.crowded();
        let [buckets, blocks, locks] = now;
        if now != before {
            tracing::warn!(
                event = "limits.crowded",
                buckets,
                blocks,
                locks,
                "more callers than stores.keys_max, or more blocks or locks than there is room for: newcomers count as \
                 having used what others have, and blocks and locks end early"
            );
        }
        before = now;
    }
}

/// Reloads at each SIGHUP.
async fn reloads(runtime: &Runtime) {
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
        Err(error) => {
            tracing::error!(event = "signal", %error, "SIGHUP cannot be received; reloads need a restart");
            return std::future::pending().await;
        }
    };
    while hangup.recv().await.is_some() {
        runtime.reload().await;
    }
}
