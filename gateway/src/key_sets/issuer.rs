//! One issuer's keys: read, fetched, kept, waited for and given up.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use portcullis_api::Clock as _;
use portcullis_config::{IssuerSpec, KeySource};
use portcullis_plugins::authentication::{CannotTell, KeySet, KeySetState};
use tokio::sync::{Semaphore, watch};

use super::{
    Shared, copy,
    fetch::Fetcher,
    schedule::{Asked, Schedule},
};

/// Requests that wait for a fetch of one issuer's keys, and how long each does.
const WAITING_MAX: usize = 64;
const WAIT_MAX: Duration = Duration::from_secs(1);

/// When a file changed last and how long it is: a change of either is a change.
pub(crate) type Stamp = (SystemTime, u64);

pub(crate) fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// An issuer as it is configured, and its keys.
pub(crate) struct Issuer {
    pub(super) name: String,
    pub(super) spec: IssuerSpec,
    fetcher: Option<Fetcher>,
    shared: Arc<Shared>,
    pub(super) held: Arc<Held>,
}

/// What outlives a change of the issuer's numbers.
pub(super) struct Held {
    pub(super) state: Arc<ArcSwap<KeySetState>>,
    pub(super) schedule: Mutex<Schedule>,
    /// Counts the fetches that have ended.
    ended: watch::Sender<u64>,
    waiting: Semaphore,
    file: Mutex<FileSeen>,
}

#[derive(Default)]
struct FileSeen {
    /// Of the file that gave the set in force.
    good: Option<Stamp>,
    /// Of the file that was refused last and reported.
    refused: Option<Option<Stamp>>,
}

impl Issuer {
    /// `before` is the issuer of this name so far: where its keys are from the same place, they are kept.
    ///
    /// # Errors
    /// When there is no client to fetch with.
    pub(super) fn new(
        name: &str,
        spec: &IssuerSpec,
        shared: &Arc<Shared>,
        before: Option<&Self>,
    ) -> Result<Self, String> {
        let fetcher = match spec.keys.are_fetched() {
            true => Some(Fetcher::new(&spec.private_networks).map_err(|error| error.to_string())?),
            false => None,
        };
        let held = before.filter(|before| before.is_from(spec)).map_or_else(Held::new, |before| before.held.clone());
        Ok(Self { name: name.to_owned(), spec: spec.clone(), fetcher, shared: shared.clone(), held: Arc::clone(&held) })
    }

    /// Whether its keys are the ones that the settings ask for.
    fn is_from(&self, spec: &IssuerSpec) -> bool {
        let same = match (&self.spec.keys, &spec.keys) {
            (KeySource::JwksUrl(ours), KeySource::JwksUrl(theirs))
            | (KeySource::Discovery(ours), KeySource::Discovery(theirs)) => ours == theirs,
            (KeySource::JwksFile(ours), KeySource::JwksFile(theirs)) => ours == theirs,
            (KeySource::Secret(ours), KeySource::Secret(theirs)) => ours.equals(theirs.expose()),
            (KeySource::Own { newest, older }, KeySource::Own { newest: theirs, older: their_older }) => {
                newest.equals(theirs.expose())
                    && older.len() == their_older.len()
                    && older.iter().zip(their_older).all(|(one, other)| one.equals(other.expose()))
            }
            (
                KeySource::JwksUrl(_)
                | KeySource::Discovery(_)
                | KeySource::JwksFile(_)
                | KeySource::Secret(_)
                | KeySource::Own { .. },
                _,
            ) => false,
        };
        // Keys that came from a network that may be asked no longer are not trusted longer either.
        let networks = self.spec.private_networks == spec.private_networks;
        same && networks && self.spec.issuer == spec.issuer && self.spec.algorithms == spec.algorithms
    }

    /// Reads what is on this machine: the file, the secret, or the copy of what was fetched last.
    ///
    /// # Errors
    /// When the file or the secret gives no usable key.
    pub(super) fn read_local(&self) -> Result<(), String> {
        match &self.spec.keys {
            KeySource::JwksUrl(_) | KeySource::Discovery(_) => {
                self.read_copy();
                Ok(())
            }
            KeySource::Secret(secret) => {
                if self.is_missing() {
                    self.install(KeySet::from_secret(secret).map_err(|error| error.to_string())?);
                    self.held.schedule.lock().succeeded(Instant::now(), Duration::ZERO);
                }
                Ok(())
            }
            KeySource::Own { newest, older } => {
                if self.is_missing() {
                    self.install(KeySet::from_own_secrets(newest, older).map_err(|error| error.to_string())?);
                    self.held.schedule.lock().succeeded(Instant::now(), Duration::ZERO);
                }
                Ok(())
            }
            KeySource::JwksFile(path) => {
                self.read_file(path).inspect_err(|why| self.held.schedule.lock().failed(Instant::now(), why.clone()))
            }
        }
    }

    fn read_file(&self, path: &Path) -> Result<(), String> {
        let now = stamp(path);
        let unchanged = now.is_some() && self.held.file.lock().good == now;
        if !unchanged {
            let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
            self.take(&bytes).map_err(|why| format!("{}: {why}", path.display()))?;
            self.held.file.lock().good = now;
        }
        self.held.schedule.lock().succeeded(Instant::now(), Duration::ZERO);
        Ok(())
    }

    fn read_copy(&self) {
        if !self.is_missing() {
            return;
        }
        let restored = match copy::read(&self.spec, self.shared.clock.unix()) {
            Ok(None) => return,
            Ok(Some(kept)) => self.parse(&kept.bytes).map(|set| {
                self.install(set);
                self.held.schedule.lock().restored(Instant::now(), kept.age);
                kept.age.as_secs()
            }),
            Err(why) => Err(why),
        };
        let issuer = &*self.name;
        match restored {
            Ok(age_s) => tracing::info!(event = "keys.restored", issuer, age_s, "a key set was read from its copy"),
            Err(why) => tracing::warn!(event = "keys.copy_refused", issuer, why, "the copy of a key set is not used"),
        }
    }

    /// Looks at a file again; reports what is wrong with it once.
    pub(super) fn look_at_file(&self) {
        let KeySource::JwksFile(path) = &self.spec.keys else { return };
        if let Err(why) = self.read_local() {
            let now = stamp(path);
            let reported = self.held.file.lock().refused.replace(now);
            if reported != Some(now) {
                self.report(&why);
            }
        }
    }

    /// Reads a file again that seems not to have changed.
    ///
    /// # Errors
    /// Why it gives no usable key.
    pub(super) fn read_file_again(&self) -> Result<(), String> {
        self.held.file.lock().good = None;
        self.read_local()
    }

    fn parse(&self, bytes: &[u8]) -> Result<KeySet, String> {
        let set = KeySet::from_jwks(bytes, &self.spec.algorithms).map_err(|error| error.to_string())?;
        for warning in set.warnings() {
            tracing::warn!(event = "keys.dropped", issuer = self.name, warning = %warning, "a key of the set is not used");
        }
        Ok(set)
    }

    fn take(&self, bytes: &[u8]) -> Result<(), String> {
        self.install(self.parse(bytes)?);
        self.shared.metrics.jwks_refresh.with_label_values(&[self.name.as_str(), "ok"]).inc();
        tracing::info!(event = "keys.loaded", issuer = self.name, "a key set was loaded");
        Ok(())
    }

    fn install(&self, set: KeySet) {
        self.held.state.store(Arc::new(KeySetState::Ready(set)));
    }

    pub(super) fn is_missing(&self) -> bool {
        matches!(&**self.held.state.load(), KeySetState::Missing { .. })
    }

    /// Begins a fetch that was claimed. It goes on whoever waits for it.
    pub(super) fn begin(self: &Arc<Self>) {
        let issuer = Arc::clone(self);
        tokio::spawn(async move {
            let mut landing = Landing { issuer: &issuer, ended: Err("it was broken off".to_owned()) };
            landing.ended = issuer.fetch().await;
        });
    }

    async fn fetch(&self) -> Result<Duration, String> {
        let fetcher = self.fetcher.as_ref().ok_or("these keys are not fetched")?;
        let fetched = fetcher.key_set(&self.spec).await?;
        self.take(&fetched.bytes)?;
        if let Err(error) = copy::write(&self.spec, &fetched.bytes, self.shared.clock.unix()) {
            let why = error.to_string();
            tracing::warn!(
                event = "keys.copy_failed",
                issuer = self.name,
                why,
                "the copy of a key set was not written"
            );
        }
        // Before half of the time is over for which it may be used without its source.
        Ok(jittered(fetched.keep).min(self.spec.max_stale.duration().mul_f64(0.5)))
    }

    /// Waits for the fetch that is under way, if there is one, or begins one where `claim` does.
    fn awaited(self: &Arc<Self>, claim: impl FnOnce(&mut Schedule) -> Asked) -> Result<watch::Receiver<u64>, Asked> {
        let mut schedule = self.held.schedule.lock();
        let asked = claim(&mut schedule);
        // Under the lock: what ends after this is seen.
        let ended = self.held.ended.subscribe();
        drop(schedule);
        match asked {
            Asked::Fetch => {
                self.begin();
                Ok(ended)
            }
            Asked::Join => Ok(ended),
            Asked::Absent | Asked::CannotTell => Err(asked),
        }
    }

    /// Has a key fetched that is not in the set.
    ///
    /// # Errors
    /// When nobody can tell whether there is one.
    pub(super) async fn unknown_kid(self: &Arc<Self>, kid: &str) -> Result<(), CannotTell> {
        let cannot_tell = |why: &str| Err(CannotTell { why: why.to_owned() });
        if !self.spec.keys.are_fetched() || self.shared.absent.contains(&self.name, kid) {
            return Ok(());
        }
        let mut ended = match self.awaited(|schedule| schedule.unknown_kid(Instant::now())) {
            Ok(ended) => ended,
            Err(Asked::CannotTell) => return cannot_tell("its keys could not be fetched lately"),
            Err(Asked::Absent | Asked::Fetch | Asked::Join) => return Ok(()),
        };
        let Ok(_place) = self.held.waiting.try_acquire() else {
            return cannot_tell("its keys are being fetched, and too many requests wait for them");
        };
        match tokio::time::timeout(WAIT_MAX, ended.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return cannot_tell("its keys are being fetched, and it takes long"),
        }
        if self.held.schedule.lock().failure(Instant::now()).is_some() {
            return cannot_tell("its keys could not be fetched");
        }
        if let KeySetState::Ready(set) = &**self.held.state.load()
            && !set.has_kid(kid)
        {
            self.shared.absent.insert(&self.name, kid);
        }
        Ok(())
    }

    /// Fetches now, and waits for it.
    ///
    /// # Errors
    /// Why the keys in force are still the old ones.
    pub(super) async fn refresh_now(self: &Arc<Self>) -> Result<(), String> {
        let forced = |schedule: &mut Schedule| if schedule.force(Instant::now()) { Asked::Fetch } else { Asked::Join };
        let Ok(mut ended) = self.awaited(forced) else { return Err("these keys are not fetched".to_owned()) };
        if ended.changed().await.is_err() {
            return Err("the gateway ends".to_owned());
        }
        match self.held.schedule.lock().failure(Instant::now()) {
            None => Ok(()),
            Some((_, why)) => Err(why.to_owned()),
        }
    }

    fn report(&self, why: &str) {
        self.shared.metrics.jwks_refresh.with_label_values(&[self.name.as_str(), "failed"]).inc();
        tracing::error!(
            event = "keys.failed",
            issuer = self.name,
            why,
            max_stale = %self.spec.max_stale,
            "a key set could not be loaded; the last good one stays until it is as old as max_stale"
        );
    }

    /// Gives up a set that is too old, and says how old the one in force is.
    pub(super) fn expire(&self) {
        let age = self.held.schedule.lock().age(Instant::now()).map(|(age, _)| age);
        let fades = !matches!(self.spec.keys, KeySource::Secret(_) | KeySource::Own { .. });
        if fades && age.is_some_and(|age| age > self.spec.max_stale.duration()) && !self.is_missing() {
            let why = format!("the last good key set is older than {}", self.spec.max_stale);
            tracing::error!(event = "keys.stale", issuer = self.name, why, "tokens of an issuer are answered with 503");
            self.held.state.store(Arc::new(KeySetState::Missing { why }));
        }
        let seconds = age.map_or(-1, |age| i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
        self.shared.metrics.jwks_age.with_label_values(&[self.name.as_str()]).set(seconds);
    }
}

/// A fetch that is under way. However it ends, also by a panic, the next one may begin and who waits is told.
struct Landing<'i> {
    issuer: &'i Issuer,
    /// When the next one is, or why this one failed.
    ended: Result<Duration, String>,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        let ended = std::mem::replace(&mut self.ended, Ok(Duration::ZERO));
        if let Err(why) = &ended {
            self.issuer.report(why);
        }
        let Held { schedule, ended: told, .. } = &*self.issuer.held;
        let mut schedule = schedule.lock();
        match ended {
            Ok(interval) => schedule.succeeded(Instant::now(), interval),
            Err(why) => schedule.failed(Instant::now(), why),
        }
        // Under the lock: whoever begins the next fetch must not take this end for the end of that one.
        told.send_modify(|count| *count = count.wrapping_add(1));
    }
}

impl Held {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Arc::new(ArcSwap::from_pointee(KeySetState::Missing { why: "not loaded yet".into() })),
            schedule: Mutex::default(),
            ended: watch::Sender::new(0),
            waiting: Semaphore::new(WAITING_MAX),
            file: Mutex::default(),
        })
    }
}

/// Within a tenth of it, so that gateways that were started together do not ask together.
fn jittered(interval: Duration) -> Duration {
    let mut bytes = [0; 4];
    // Without randomness they may.
    let drawn =
        aws_lc_rs::rand::fill(&mut bytes).map_or(0.5, |()| f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX));
    interval.mul_f64(0.9 + 0.2 * drawn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_fetch_is_within_a_tenth_of_its_time() {
        let drawn: Vec<f64> = (0..1000).map(|_| jittered(Duration::from_secs(1000)).as_secs_f64()).collect();
        assert!(drawn.iter().all(|seconds| (900.0..=1100.0).contains(seconds)));
        assert!(drawn.iter().any(|seconds| *seconds < 950.0) && drawn.iter().any(|seconds| *seconds > 1050.0));
    }
}
