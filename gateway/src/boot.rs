//! From a configuration file to a running gateway, and from a changed file to the next snapshot.

mod fixed;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, anyhow};
use arc_swap::ArcSwap;
use pingora_core::{server::configuration::ServerConf, services::listening::Service};
use pingora_proxy::HttpProxy;
use portcullis_api::{Clock, Issues};
use portcullis_config::{AdminSpec, Document, HostPattern, ListenerSpec, Report, Settled, TlsVersion};
use portcullis_plugins::{
    authentication::{CACHE_BYTES, VerifiedCache},
    bans::SharedBans,
    burst,
    controls::{self, Controls},
    rate_limit::{KeyHasher, Table},
    waf,
};
use rustls::{server::ProducesTickets, sign::CertifiedKey};

use fixed::Fixed;

use crate::{
    access_log::AccessLog,
    api_keys::{self, ApiKeys},
    assertions::Assertions,
    bans::Bans,
    body::Budget,
    client_trust::{Asking, ClientTrusts, ReadTrust},
    clock::SystemClock,
    decisions::Decisions,
    edge::{self, EdgeEvents, ListenerRuntime, ListenerSettings, TlsTable},
    edge_events::MeteredEvents,
    gateway::{Gateway, Proxy},
    key_sets::Registry,
    lockouts::Lockouts,
    metrics::Metrics,
    pseudonym::Pseudonyms,
    revocations::Revoking,
    snapshot::{self, Snapshot},
    stores::{self, redis::RedisCounters},
};

/// What outlives every snapshot, and what a reload needs.
pub(crate) struct Runtime {
    /// What requests use.
    pub(crate) gateway: Arc<Gateway>,
    /// Issuers' keys.
    pub(crate) key_sets: Arc<Registry>,
    /// API keys.
    pub(crate) api_keys: ApiKeys,
    /// The keys of assertions.
    pub(crate) assertions: Assertions,
    /// The listeners, each with its certificates.
    listeners: Vec<Arc<ListenerRuntime>>,
    certificates: Certificates,
    /// The shared store, where one is configured.
    pub(crate) redis: Option<Arc<RedisCounters>>,
    /// What the shared store's connection lives on.
    store_runtime: Option<tokio::runtime::Runtime>,
    /// What a restart is needed for.
    fixed: Fixed,
    needs: controls::Needs,
    path: PathBuf,
}

/// Reads and settles a file, and lets every control check its own part.
///
/// # Errors
/// Every reason why not.
pub(crate) fn read(path: &Path) -> Result<(Document, Settled), Report> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let mut issues = Issues::default();
        issues.push("document.unreadable", &(0..0), format!("the file cannot be read: {error}"));
        Report::new("", path, issues)
    })?;
    let document = portcullis_config::parse(&text, path)?;
    let mut issues = Issues::default();
    let base = path.parent().unwrap_or(Path::new("."));
    let settled = portcullis_config::settle(&document, base, &mut issues);
    let Some(settled) = settled.filter(|_| issues.is_empty()) else {
        // The controls have their say too, so that every mistake is shown at once.
        controls::lint(&portcullis_config::control_inputs(&document), &mut issues);
        return Err(Report::new(&text, path, issues));
    };
    controls::lint(&portcullis_config::control_inputs(&document), &mut issues);
    if issues.is_empty() { Ok((document, settled)) } else { Err(Report::new(&text, path, issues)) }
}

/// Reads the key files and revocation lists that a configuration names, as a start would.
///
/// # Errors
/// Every file that gives nothing usable.
pub(crate) fn read_keys(settled: &Settled) -> anyhow::Result<()> {
    let metrics = Arc::new(Metrics::new().context("the metrics could not be registered")?);
    Registry::new(metrics).prepare(&settled.issuers).map_err(|failed| unusable(&failed))?;
    ClientTrusts::read(settled)?;
    api_keys::check(settled)
}

impl Runtime {
    /// Builds everything but the listeners.
    ///
    /// # Errors
    /// Every reason why not.
    pub(crate) fn start(path: &Path) -> anyhow::Result<(Self, Option<AdminSpec>)> {
        let (document, settled) = read(path)?;
        let metrics = Arc::new(Metrics::new().context("the metrics could not be registered")?);
        let clock = Arc::new(SystemClock::start());
        let key_sets = Arc::new(Registry::new(metrics.clone()));
        let prepared = Arc::new(key_sets.prepare(&settled.issuers).map_err(|failed| unusable(&failed))?);
        key_sets.adopt(&prepared);
        let api_keys = ApiKeys::start(&settled, clock.clone(), &metrics)?;
        let (store_runtime, redis) = stores::start(&settled.stores, &metrics)?;
        let bans = Arc::new(stores::bans(&settled.stores, &violations(&document), redis.as_ref())?);
        let revocations =
            Revoking::start(settled.revocations.as_deref(), redis.as_ref(), clock.clone(), api_keys.news().clone())?;
        let needs = controls::Needs {
            clock: clock.clone(),
            bans: bans.clone(),
            login: stores::logins(&settled.stores, &clock, redis.as_ref()),
            limits: stores::limits(&settled.stores, &clock, redis.as_ref())?,
            in_flight: stores::in_flight(redis.as_ref()),
            burst: burst_counters(clock.clone(), settled.stores.keys_max),
            key_sets: prepared,
            api_keys: api_keys.needs(),
            cache: Arc::new(VerifiedCache::new(CACHE_BYTES)),
            revocations: revocations.set.clone(),
        };
        let controls = compile(&document, &needs)?;
        let pseudonyms = Arc::new(Pseudonyms::new(settled.log.pseudonym_key.as_ref())?);
        let access = AccessLog::start(&settled.log.access, metrics.log_dropped.with_label_values(&["access"]))
            .context("the access log could not be opened")?;
        let certificates = Certificates::new(&settled)?;
        let events: Arc<dyn EdgeEvents> = Arc::new(MeteredEvents(metrics.clone()));
        let listeners = settled
            .listeners
            .iter()
            .enumerate()
            .map(|(index, listener)| certificates.listener(index, listener, events.clone()))
            .collect();
        let (fixed, admin) = (Fixed::of(&settled), settled.admin.clone());
        let cookies = snapshot::cookies(&document);
        report(&expiries(&settled), &metrics);
        let (assertions, rings) = Assertions::start(settled.assertion.as_ref(), clock.now())?;
        let snapshot = Snapshot::build(1, settled, cookies, controls, rings).map_err(|error| anyhow!("{error}"))?;
        metrics.started(unix(&clock));
        let shared = redis.as_ref().map(|redis| -> Arc<dyn SharedBans> { Arc::new(redis.bans()) });
        let bans = Bans::new(bans, shared, clock.clone(), metrics.clone(), pseudonyms.clone());
        let gateway = Arc::new(Gateway {
            snapshot: ArcSwap::from_pointee(snapshot),
            bans: Arc::new(bans),
            lockouts: Arc::new(Lockouts::new(needs.login.clone(), clock.clone(), metrics.clone())),
            revocations: Arc::new(revocations),
            news: api_keys.news().clone(),
            clock,
            held: Budget::default(),
            metrics,
            access,
            decisions: Decisions::default(),
            pseudonyms,
        });
        let runtime = Self {
            gateway,
            key_sets,
            api_keys,
            assertions,
            listeners,
            certificates,
            redis,
            store_runtime,
            fixed,
            needs,
            path: path.to_owned(),
        };
        Ok((runtime, admin))
    }

    /// For how long requests pass while the store is away.
    pub(crate) fn tell_bound(&self) {
        let snapshot = self.gateway.snapshot.load();
        if let Some(control) = snapshot.controls.authentication.control() {
            self.gateway.revocations.lets_pass_for(control.max_stale().standard.value);
        }
    }

    /// How often a bucket counted as having used what others have, and how many blocks and locks ended early, for want of
    /// room.
    pub(crate) fn crowded(&self) -> [u64; 3] {
        let controls::Needs { limits, burst, bans, login, .. } = &self.needs;
        [limits.crowded().saturating_add(burst.table.crowded()), bans.lost(), login.locks.lost()]
    }

    /// Gives back what this gateway holds of the shared store, when it stops.
    pub(crate) fn leave_store(&self) {
        if let (Some(runtime), Some(redis)) = (&self.store_runtime, &self.redis) {
            runtime.block_on(self.gateway.revocations.leave());
            runtime.block_on(redis.leave());
        }
    }

    /// Reads the file again and swaps the snapshot, or keeps the old one and says why.
    pub(crate) async fn reload(&self) {
        let metrics = &self.gateway.metrics;
        // Whatever comes of the configuration: the signal is also how a renamed log is told.
        self.gateway.access.reopen();
        match self.next().await {
            Ok(generation) => {
                metrics.reload_ok.set(1);
                metrics.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
                metrics.reload_time.set(unix(&self.gateway.clock));
                metrics.reloads.with_label_values(&["ok"]).inc();
                tracing::info!(event = "config.reloaded", generation, "the new configuration is in force");
            }
            Err(why) => {
                metrics.reload_ok.set(0);
                metrics.reloads.with_label_values(&["refused"]).inc();
                tracing::error!(
                    event = "config.refused",
                    why = format!("{why:#}"),
                    "the new configuration was refused; the old one stays in force"
                );
            }
        }
    }

    async fn next(&self) -> anyhow::Result<u64> {
        let (document, settled) = read(&self.path).map_err(|report| anyhow!("{}", report.plain()))?;
        if Fixed::of(&settled) != self.fixed {
            return Err(anyhow!(
                "[listeners], [admin], [log], [stores], the journal of [revocations] and api_keys.store change with a restart only"
            ));
        }
        // Everything is made ready before anything is in force: a refused reload leaves no trace.
        let key_sets = Arc::new(self.key_sets.prepare(&settled.issuers).map_err(|failed| unusable(&failed))?);
        let needs = controls::Needs { key_sets: key_sets.clone(), ..self.needs.clone() };
        let controls = compile(&document, &needs)?;
        key_sets.first().await;
        let rings = self.assertions.prepare(settled.assertion.as_ref(), self.gateway.clock.now())?;
        let generation = self.gateway.snapshot.load().generation.saturating_add(1);
        let (tables, clients) = (self.certificates.build(&settled)?, ClientTrusts::read(&settled)?);
        let (expiries, api_keys) = (expiries(&settled), settled.api_keys.clone());
        let snapshot = Snapshot::build(generation, settled, snapshot::cookies(&document), controls, rings.clone())
            .map_err(|error| anyhow!("{error}"))?;
        // The servers are looked up and checked before the first request asks for one.
        for upstream in &snapshot.upstreams {
            upstream.refresh(&self.gateway.metrics).await;
        }
        // Last, with nothing to wait for after it: from here on no revoked key is heard of until the adoption.
        let api_keys = self.api_keys.prepare(api_keys.as_ref()).await?;
        self.key_sets.adopt(&key_sets);
        self.api_keys.adopt(api_keys);
        self.certificates.replace(tables, clients);
        report(&expiries, &self.gateway.metrics);
        self.gateway.bans.table.configure(&violations(&document));
        self.gateway.snapshot.store(Arc::new(snapshot));
        self.gateway.news.tell();
        self.tell_bound();
        self.assertions.adopt(rings, self.gateway.clock.now());
        Ok(generation)
    }

    /// Whose client certificates are believed.
    pub(crate) const fn clients(&self) -> &ClientTrusts {
        &self.certificates.clients
    }

    /// Where limits are counted.
    pub(crate) fn limits(&self) -> &portcullis_plugins::rate_limit::Needs {
        &self.needs.limits
    }

    /// Where the listeners listen.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = std::net::SocketAddr> {
        self.listeners.iter().map(|listener| listener.address())
    }

    /// The services of the listeners.
    pub(crate) fn services(
        &self,
        conf: &Arc<ServerConf>,
    ) -> Vec<Service<edge::Terminator<edge::Lasting<HttpProxy<Proxy>>>>> {
        let mut proxy = HttpProxy::new(Proxy(self.gateway.clone()), conf.clone());
        proxy.handle_init_modules();
        let proxy = edge::prepare(proxy, &self.listeners);
        self.listeners.iter().map(|listener| edge::service(listener, &proxy)).collect()
    }
}

fn compile(document: &Document, needs: &controls::Needs) -> anyhow::Result<Controls> {
    let mut issues = Issues::default();
    Controls::compile(&portcullis_config::control_inputs(document), needs, &mut issues)
        .ok_or_else(|| anyhow!("the controls could not be compiled: {:?}", issues.as_slice()))
}

/// The TLS configurations of each listener, and whose client certificates it believes; replaced as a whole by a reload.
struct Certificates {
    ticketer: Arc<dyn ProducesTickets>,
    clients: ClientTrusts,
    tables: Vec<Option<Arc<ArcSwap<TlsTable>>>>,
}

impl Certificates {
    fn new(settled: &Settled) -> anyhow::Result<Self> {
        let ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        let mut this = Self { ticketer, clients: ClientTrusts::start(settled)?, tables: Vec::new() };
        let tables = this.build(settled)?;
        this.tables =
            tables.into_iter().map(|table| table.map(|table| Arc::new(ArcSwap::from_pointee(table)))).collect();
        Ok(this)
    }

    fn listener(&self, index: usize, spec: &ListenerSpec, events: Arc<dyn EdgeEvents>) -> Arc<ListenerRuntime> {
        let settings = ListenerSettings {
            index,
            name: spec.name.to_string(),
            address: spec.address,
            topology: spec.topology.clone(),
            tls: self.tables.get(index).cloned().flatten(),
            clients: self.clients.of(index).cloned(),
            bounds: spec.bounds.clone(),
        };
        ListenerRuntime::new(settings, events)
    }

    /// The tables of the next configuration, all or none.
    fn build(&self, settled: &Settled) -> anyhow::Result<Vec<Option<TlsTable>>> {
        let table = |(index, listener): (usize, &ListenerSpec)| {
            let Some(minimum) = listener.tls else { return Ok(None) };
            let clients = || match (&listener.client_certificates, self.clients.of(index)) {
                (Some(spec), Some(trust)) => edge::Clients::Asked(Asking::new(trust.clone(), spec.mode)),
                (_, _) => edge::Clients::Unasked(self.ticketer.clone()),
            };
            table(settled, index, minimum, clients).map(Some)
        };
        settled.listeners.iter().enumerate().map(table).collect()
    }

    /// Puts them in force. Which listeners speak TLS is fixed at the start.
    fn replace(&self, next: Vec<Option<TlsTable>>, clients: Vec<Option<ReadTrust>>) {
        self.clients.adopt(clients);
        for (current, next) in self.tables.iter().zip(next) {
            if let (Some(current), Some(next)) = (current, next) {
                current.store(Arc::new(next));
            }
        }
    }
}

fn table(
    settled: &Settled,
    listener: usize,
    minimum: TlsVersion,
    clients: impl Fn() -> edge::Clients,
) -> anyhow::Result<TlsTable> {
    let configure = |(host, certificate): (&HostPattern, &Arc<CertifiedKey>)| {
        let config = edge::server_config(certificate.clone(), minimum, clients())
            .with_context(|| format!("the certificate of {host}"))?;
        Ok((host.clone(), config))
    };
    let hosts = settled.router.hosts().iter().filter(|host| host.is_on(listener)).map(|host| &host.pattern);
    hosts.filter_map(|host| settled.certificates.get_key_value(host)).map(configure).collect()
}

fn burst_counters(clock: Arc<SystemClock>, keys_max: u32) -> burst::Needs {
    burst::Needs { clock, table: Arc::new(Table::new(keys_max)), hasher: Arc::new(KeyHasher::process()) }
}

fn unusable(failed: &[(String, String)]) -> anyhow::Error {
    let all: Vec<String> = failed.iter().map(|(name, why)| format!("issuer {name}: {why}")).collect();
    anyhow!("keys could not be read: {}", all.join("; "))
}

fn violations(document: &Document) -> waf::Violations {
    match &document.controls.waf {
        portcullis_api::Switch::On(waf) => waf.violations.clone(),
        portcullis_api::Switch::Off => waf::Violations::default(),
    }
}

fn unix(clock: &SystemClock) -> i64 {
    i64::try_from(clock.unix()).unwrap_or(i64::MAX)
}

/// When each host's certificate ends, in Unix seconds.
fn expiries(settled: &Settled) -> Vec<(String, i64)> {
    let expiry = |(host, certificate): (&HostPattern, &Arc<CertifiedKey>)| {
        // The configuration has read it as X.509 already; what cannot be read has no metric.
        let (_, leaf) = x509_parser::parse_x509_certificate(certificate.cert.first()?).ok()?;
        Some((host.to_string(), leaf.validity().not_after.timestamp()))
    };
    settled.certificates.iter().filter_map(expiry).collect()
}

fn report(expiries: &[(String, i64)], metrics: &Metrics) {
    metrics.cert_not_after.reset();
    for (host, not_after) in expiries {
        metrics.cert_not_after.with_label_values(&[host]).set(*not_after);
    }
}
