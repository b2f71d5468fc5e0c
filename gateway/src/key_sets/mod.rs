//! The issuers' keys, read and refreshed behind the traffic. They outlive every snapshot.
//!
//! Invariant: a set that was loaded once is only ever replaced by another set that loaded whole. A source that fails
//! keeps the last good set for the issuer's `max_stale`, then the issuer is "cannot tell" (503), never "no" (401).

mod copy;
mod fetch;
mod issuer;
mod schedule;
mod status;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use moka::sync::Cache;
use parking_lot::RwLock;
use portcullis_config::{IssuerSpec, KeySource};
use portcullis_plugins::authentication::{KeySetState, KeySets, Renewing};

use crate::{clock::SystemClock, metrics::Metrics};

pub(crate) use issuer::{Issuer, Stamp, stamp};
pub(crate) use schedule::Origin;
pub(crate) use status::Status;

/// How often files are looked at, and whether a fetch is due.
pub(crate) const FILE_INTERVAL: Duration = Duration::from_secs(1);
/// Keys that their issuer has said it does not have, and for how long that is remembered.
const ABSENT_MAX: u64 = 1024;
const ABSENT_FOR: Duration = Duration::from_secs(60);

/// The key sets of all issuers, by name.
pub(crate) struct Registry {
    issuers: RwLock<HashMap<String, Arc<Issuer>>>,
    shared: Arc<Shared>,
}

/// What all issuers use.
struct Shared {
    metrics: Arc<Metrics>,
    clock: SystemClock,
    absent: Absent,
}

/// The names of keys that an issuer does not have, filled only when it has just said so.
struct Absent(Cache<(String, String), ()>);

impl Absent {
    fn contains(&self, issuer: &str, kid: &str) -> bool {
        self.0.contains_key(&(issuer.to_owned(), kid.to_owned()))
    }

    fn insert(&self, issuer: &str, kid: &str) {
        self.0.insert((issuer.to_owned(), kid.to_owned()), ());
    }
}

/// The key sets of one configuration, in the order that they go into force with it.
pub(crate) struct Prepared {
    issuers: HashMap<String, Arc<Issuer>>,
}

impl KeySets for Prepared {
    fn of(&self, issuer: &str) -> Arc<ArcSwap<KeySetState>> {
        self.issuers.get(issuer).map_or_else(
            || Arc::new(ArcSwap::from_pointee(KeySetState::Missing { why: format!("no key set of issuer {issuer}") })),
            |issuer| issuer.held.state.clone(),
        )
    }

    fn unknown_kid<'a>(&'a self, issuer: &'a str, kid: &'a str) -> Renewing<'a> {
        Box::pin(async move {
            match self.issuers.get(issuer) {
                Some(issuer) => issuer.unknown_kid(kid).await,
                None => Ok(()),
            }
        })
    }
}

impl Prepared {
    /// Fetches the keys of issuers that have none yet, all at once and within the time of one fetch: what is in force after
    /// it refuses nobody for want of keys that could be had.
    pub(crate) async fn first(&self) {
        let missing = self.issuers.values().filter(|issuer| issuer.spec.keys.are_fetched() && issuer.is_missing());
        // What failed was reported, and is tried again.
        let _ended = futures::future::join_all(missing.map(Issuer::refresh_now)).await;
    }
}

impl Registry {
    /// Without issuers.
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        let absent = Absent(Cache::builder().max_capacity(ABSENT_MAX).time_to_live(ABSENT_FOR).build());
        let shared = Arc::new(Shared { metrics, clock: SystemClock::start(), absent });
        Self { issuers: RwLock::default(), shared }
    }

    /// Makes the issuers of a configuration ready: an issuer whose source is the same keeps its keys. Files, secrets and
    /// copies are read now, URLs by [`Prepared::first`] and [`Registry::run`]. Nothing is in force before
    /// [`Registry::adopt`].
    ///
    /// # Errors
    /// Every file or secret that gives no usable key, by issuer.
    pub(crate) fn prepare(&self, specs: &BTreeMap<String, IssuerSpec>) -> Result<Prepared, Vec<(String, String)>> {
        let mut next = HashMap::new();
        let mut failed = Vec::new();
        for (name, spec) in specs {
            let before = self.issuers.read().get(name).cloned();
            let issuer = Issuer::new(name, spec, &self.shared, before.as_deref())
                .and_then(|issuer| issuer.read_local().map(|()| issuer));
            match issuer {
                Ok(issuer) => {
                    next.insert(name.clone(), Arc::new(issuer));
                }
                Err(why) => failed.push((name.clone(), why)),
            }
        }
        if failed.is_empty() { Ok(Prepared { issuers: next }) } else { Err(failed) }
    }

    /// [`Prepared::first`] of the issuers in force.
    pub(crate) async fn first(&self) {
        let issuers = self.issuers.read().clone();
        Prepared { issuers }.first().await;
    }

    /// Refreshes these issuers from here on, and no others.
    pub(crate) fn adopt(&self, prepared: &Prepared) {
        self.issuers.write().clone_from(&prepared.issuers);
    }

    /// Keeps the sets fresh until the process ends.
    pub(crate) async fn run(&self) {
        loop {
            for issuer in self.all() {
                match &issuer.spec.keys {
                    KeySource::Secret(_) | KeySource::Own { .. } => {}
                    KeySource::JwksFile(_) => issuer.look_at_file(),
                    KeySource::JwksUrl(_) | KeySource::Discovery(_) => {
                        let due = issuer.held.schedule.lock().due(Instant::now());
                        if due {
                            issuer.begin();
                        }
                    }
                }
                issuer.expire();
            }
            tokio::time::sleep(FILE_INTERVAL).await;
        }
    }

    /// Every issuer in force, by name.
    pub(crate) fn all(&self) -> Vec<Arc<Issuer>> {
        let mut all: Vec<Arc<Issuer>> = self.issuers.read().values().cloned().collect();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }

    /// Fetches or reads an issuer's keys now; `None` where there is no such issuer.
    pub(crate) async fn refresh(&self, name: &str) -> Option<Result<(), String>> {
        let issuer = self.issuers.read().get(name).cloned()?;
        Some(match &issuer.spec.keys {
            KeySource::Secret(_) | KeySource::Own { .. } => {
                Err("it has a secret, which is read with the configuration".to_owned())
            }
            KeySource::JwksFile(_) => issuer.read_file_again(),
            KeySource::JwksUrl(_) | KeySource::Discovery(_) => issuer.refresh_now().await,
        })
    }
}
