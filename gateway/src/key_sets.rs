//! The issuers' keys, read and refreshed behind the traffic. They outlive every snapshot.
//!
//! Invariant: a set that was loaded once is only ever replaced by another set that loaded whole. A source that fails
//! keeps the last good set for [`STALE_MAX`], then the issuer is "cannot tell" (503), never "no" (401).

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};
use portcullis_config::{IssuerSpec, KeySource};
use portcullis_plugins::authentication::{Algorithm, JWKS_BYTES_MAX, KeySet, KeySetState, KeySets};
use tokio::sync::Notify;

use crate::metrics::Metrics;

/// How long a key set is used after its source failed.
const STALE_MAX: Duration = Duration::from_secs(6 * 3600);
/// How often a key set's URL is fetched.
const FETCH_INTERVAL: Duration = Duration::from_secs(300);
/// At most one attempt in this time, whatever asks for it and whether it succeeds.
const ATTEMPT_INTERVAL: Duration = Duration::from_secs(30);
/// How often files are looked at.
pub(crate) const FILE_INTERVAL: Duration = Duration::from_secs(1);

/// The key sets of all issuers, by name.
pub(crate) struct Registry {
    issuers: RwLock<HashMap<String, Arc<Issuer>>>,
    metrics: Arc<Metrics>,
    http: reqwest::Client,
    wake: Notify,
}

struct Issuer {
    keys: KeySource,
    algorithms: Vec<Algorithm>,
    state: Arc<ArcSwap<KeySetState>>,
    progress: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    loaded: Option<Instant>,
    attempted: Option<Instant>,
    wanted: bool,
    /// Of the file that gave the set in force.
    good: Option<Stamp>,
    /// Of the file that was refused last and reported.
    refused: Option<Option<Stamp>>,
}

/// When a file changed last and how long it is: a change of either is a change.
pub(crate) type Stamp = (SystemTime, u64);

pub(crate) fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// The key sets of one configuration, in the order that they go into force with it.
pub(crate) struct Prepared {
    registry: Arc<Registry>,
    issuers: HashMap<String, Arc<Issuer>>,
}

impl KeySets for Prepared {
    fn of(&self, issuer: &str) -> Arc<ArcSwap<KeySetState>> {
        self.issuers.get(issuer).map_or_else(
            || Arc::new(ArcSwap::from_pointee(KeySetState::Missing { why: format!("no key set of issuer {issuer}") })),
            |issuer| issuer.state.clone(),
        )
    }

    fn unknown_kid(&self, issuer: &str) {
        if let Some(issuer) = self.issuers.get(issuer) {
            issuer.progress.lock().wanted = true;
            self.registry.wake.notify_one();
        }
    }
}

impl Registry {
    /// Without issuers.
    ///
    /// # Errors
    /// When the TLS client cannot be built.
    pub(crate) fn new(metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(Duration::from_secs(3))
            .timeout(Duration::from_secs(5))
            .build()?;
        Ok(Self { issuers: RwLock::default(), metrics, http, wake: Notify::new() })
    }

    /// Makes the issuers of a configuration ready: an issuer whose source is the same keeps its keys. Files and secrets
    /// are read now, URLs by [`Registry::run`]. Nothing is in force before [`Registry::adopt`].
    ///
    /// # Errors
    /// Every file or secret that gives no usable key, by issuer.
    pub(crate) fn prepare(
        self: &Arc<Self>,
        specs: &BTreeMap<String, IssuerSpec>,
    ) -> Result<Prepared, Vec<(String, String)>> {
        let mut next = HashMap::new();
        let mut failed = Vec::new();
        for (name, spec) in specs {
            let kept = self.issuers.read().get(name).filter(|known| known.serves(spec)).cloned();
            let issuer = kept.unwrap_or_else(|| {
                Arc::new(Issuer {
                    keys: spec.keys.clone(),
                    algorithms: spec.algorithms.clone(),
                    state: Arc::new(ArcSwap::from_pointee(KeySetState::Missing { why: "not loaded yet".into() })),
                    progress: Mutex::default(),
                })
            });
            if let Err(why) = issuer.read_local(name, &self.metrics) {
                failed.push((name.clone(), why));
            }
            next.insert(name.clone(), issuer);
        }
        if failed.is_empty() { Ok(Prepared { registry: self.clone(), issuers: next }) } else { Err(failed) }
    }

    /// Refreshes these issuers from here on, and no others.
    pub(crate) fn adopt(&self, prepared: &Prepared) {
        self.issuers.write().clone_from(&prepared.issuers);
    }

    /// Keeps the sets fresh until the process ends.
    pub(crate) async fn run(&self) {
        loop {
            let due: Vec<(String, Arc<Issuer>)> =
                self.issuers.read().iter().map(|(name, issuer)| (name.clone(), issuer.clone())).collect();
            for (name, issuer) in due {
                self.refresh(&name, &issuer).await;
            }
            // Files are looked at every second; an unknown kid wakes earlier.
            let _woken_or_due = tokio::time::timeout(FILE_INTERVAL, self.wake.notified()).await;
        }
    }

    async fn refresh(&self, name: &str, issuer: &Issuer) {
        match &issuer.keys {
            KeySource::Secret(_) => {}
            KeySource::JwksFile(_) => {
                if let Err(why) = issuer.read_local(name, &self.metrics) {
                    if issuer.is_news() {
                        issuer.failed(name, &why, &self.metrics);
                    }
                    issuer.expire();
                }
            }
            KeySource::JwksUrl(url) => {
                if !issuer.claim_attempt() {
                    issuer.expire();
                } else {
                    match self.fetch(url).await.and_then(|bytes| issuer.take(name, &bytes, &self.metrics)) {
                        Ok(()) => {}
                        Err(why) => issuer.failed(name, &why, &self.metrics),
                    }
                }
            }
        }
        let age =
            issuer.progress.lock().loaded.map_or(-1, |at| i64::try_from(at.elapsed().as_secs()).unwrap_or(i64::MAX));
        self.metrics.jwks_age.with_label_values(&[name]).set(age);
    }

    async fn fetch(&self, url: &str) -> Result<Vec<u8>, String> {
        let say = |error: reqwest::Error| error.without_url().to_string();
        let mut answer = self.http.get(url).header("accept", "application/json").send().await.map_err(say)?;
        if answer.status() != 200 {
            return Err(format!("the key set answered {}", answer.status().as_u16()));
        }
        let mut bytes = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(say)? {
            bytes.extend_from_slice(&piece);
            if bytes.len() > JWKS_BYTES_MAX {
                return Err(format!("the key set is larger than {JWKS_BYTES_MAX} bytes"));
            }
        }
        Ok(bytes)
    }
}

impl Issuer {
    /// Whether its keys are the ones that the settings ask for.
    fn serves(&self, spec: &IssuerSpec) -> bool {
        let same = match (&self.keys, &spec.keys) {
            (KeySource::JwksUrl(ours), KeySource::JwksUrl(theirs)) => ours == theirs,
            (KeySource::JwksFile(ours), KeySource::JwksFile(theirs)) => ours == theirs,
            (KeySource::Secret(ours), KeySource::Secret(theirs)) => ours.equals(theirs.expose()),
            (KeySource::JwksUrl(_) | KeySource::JwksFile(_) | KeySource::Secret(_), _) => false,
        };
        same && self.algorithms == spec.algorithms
    }

    fn read_local(&self, name: &str, metrics: &Metrics) -> Result<(), String> {
        match &self.keys {
            KeySource::JwksUrl(_) => Ok(()),
            KeySource::Secret(secret) => {
                if self.progress.lock().loaded.is_none() {
                    self.install(KeySet::from_secret(secret).map_err(|error| error.to_string())?);
                }
                Ok(())
            }
            KeySource::JwksFile(path) => {
                let now = stamp(path);
                {
                    let mut progress = self.progress.lock();
                    if now.is_some() && progress.good == now {
                        progress.loaded = Some(Instant::now());
                        return Ok(());
                    }
                }
                let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
                self.take(name, &bytes, metrics).map_err(|why| format!("{}: {why}", path.display()))?;
                self.progress.lock().good = now;
                Ok(())
            }
        }
    }

    /// Whether the file's failure was not reported yet.
    fn is_news(&self) -> bool {
        let KeySource::JwksFile(path) = &self.keys else { return true };
        let now = stamp(path);
        let mut progress = self.progress.lock();
        let reported = progress.refused.replace(now);
        reported != Some(now)
    }

    fn take(&self, name: &str, bytes: &[u8], metrics: &Metrics) -> Result<(), String> {
        let set = KeySet::from_jwks(bytes, &self.algorithms).map_err(|error| error.to_string())?;
        for warning in set.warnings() {
            tracing::warn!(event = "keys.dropped", issuer = name, warning = %warning, "a key of the set is not used");
        }
        self.install(set);
        metrics.jwks_refresh.with_label_values(&[name, "ok"]).inc();
        tracing::info!(event = "keys.loaded", issuer = name, "a key set was loaded");
        Ok(())
    }

    fn install(&self, set: KeySet) {
        self.state.store(Arc::new(KeySetState::Ready(set)));
        let mut progress = self.progress.lock();
        progress.loaded = Some(Instant::now());
        progress.wanted = false;
    }

    fn failed(&self, name: &str, why: &str, metrics: &Metrics) {
        metrics.jwks_refresh.with_label_values(&[name, "failed"]).inc();
        tracing::error!(
            event = "keys.failed",
            issuer = name,
            why,
            "a key set could not be loaded; the last good one stays for 6 hours"
        );
        self.expire();
    }

    /// Whether it is time for an attempt. Claims it, so that whatever happens the next one is not before its time.
    fn claim_attempt(&self) -> bool {
        let mut progress = self.progress.lock();
        let since = progress.attempted.map(|at| at.elapsed());
        let due = match (since, progress.loaded, progress.wanted) {
            (None, ..) => true,
            (Some(since), Some(_), false) => since >= FETCH_INTERVAL,
            (Some(since), ..) => since >= ATTEMPT_INTERVAL,
        };
        if due {
            progress.attempted = Some(Instant::now());
            progress.wanted = false;
        }
        due
    }

    fn expire(&self) {
        if self.progress.lock().loaded.is_some_and(|at| at.elapsed() > STALE_MAX) {
            self.state
                .store(Arc::new(KeySetState::Missing { why: "the last good key set is older than 6 hours".into() }));
        }
    }
}
