//! How an issuer's keys stand, for the operator.

use std::time::{Duration, Instant};

use portcullis_config::KeySource;
use portcullis_plugins::authentication::{Algorithm, KeySetState};

use super::{Issuer, Origin};

/// How an issuer's keys stand.
pub(crate) struct Status {
    pub(crate) issuer: String,
    /// The kind of its source, as it is written.
    pub(crate) source: &'static str,
    /// Where that is; a secret is nowhere.
    pub(crate) at: Option<String>,
    /// Of the set in force, and where it came from.
    pub(crate) age: Option<(Duration, Origin)>,
    pub(crate) max_stale: Duration,
    /// By name and algorithm; or why there are none.
    pub(crate) keys: Result<Vec<(Option<String>, Algorithm)>, String>,
    /// Why keys of the set are not used.
    pub(crate) dropped: Vec<String>,
    /// Until the next fetch by the clock.
    pub(crate) next_fetch: Option<Duration>,
    /// Why the last attempt failed, and how long ago.
    pub(crate) last_error: Option<(Duration, String)>,
}

impl Issuer {
    pub(crate) fn status(&self) -> Status {
        let now = Instant::now();
        let (source, at) = match &self.spec.keys {
            KeySource::JwksUrl(url) => ("jwks_url", Some(url.clone())),
            KeySource::Discovery(url) => ("discovery", Some(url.clone())),
            KeySource::JwksFile(path) => ("jwks_file", Some(path.display().to_string())),
            KeySource::Secret(_) | KeySource::Own { .. } => ("secret", None),
        };
        let (keys, dropped) = match &**self.held.state.load() {
            KeySetState::Missing { why } => (Err(why.clone()), Vec::new()),
            KeySetState::Ready(set) => (
                Ok(set.listed().map(|(kid, algorithm)| (kid.map(str::to_owned), algorithm)).collect()),
                set.warnings().to_vec(),
            ),
        };
        let schedule = self.held.schedule.lock();
        Status {
            issuer: self.name.clone(),
            source,
            at,
            age: schedule.age(now),
            max_stale: self.spec.max_stale.duration(),
            keys,
            dropped,
            next_fetch: schedule.until_next(now).filter(|_| self.spec.keys.are_fetched()),
            last_error: schedule.failure(now).map(|(ago, why)| (ago, why.to_owned())),
        }
    }
}
