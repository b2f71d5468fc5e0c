//! Where a key may be used, when it was last seen, and who tries keys that are none.

use std::{
    net::IpAddr,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use portcullis_api::{At, Cidrs, ClientIp, Clock, Issues, Millis, UnixSeconds};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{ApiKeyTable, deny::Deny, exchange::Exchanges};
use crate::rate_limit::{Answer, KeyHasher, Numbers, Origin, Table, WINDOW_MAX, with_class};

/// A key's use is told at most once in this many seconds.
pub const USE_INTERVAL_S: u64 = 60;
/// Networks of which failures are counted at once, 21 bytes each.
const NETWORKS_MAX: u32 = 1 << 16;
const NAME: &str = "api_keys.failures";

/// How many keys that are none a client network may try, `[api_keys.failures]`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FailureSettings {
    /// Keys that are none, per window, from one address (its /64 for IPv6).
    pub attempts: At<NonZeroU32>,
    /// The window.
    pub window: At<Millis>,
}

impl Default for FailureSettings {
    fn default() -> Self {
        let attempts = NonZeroU32::MIN.saturating_add(19);
        Self { attempts: At::nowhere(attempts), window: At::nowhere(Millis::from_secs(60)) }
    }
}

/// What API keys need that outlives every snapshot.
#[derive(Clone)]
pub struct ApiKeyNeeds {
    /// The table of API keys, replaced when its file or store changes.
    pub table: Arc<ArcSwap<ApiKeyTable>>,
    /// Hears of keys in use.
    pub used: Arc<dyn KeyUse>,
    /// Failures by network.
    pub failures: Arc<Failures>,
    /// Exchanges by key.
    pub exchanges: Arc<Exchanges>,
}

impl ApiKeyNeeds {
    /// No keys, and nobody who hears of their use.
    #[must_use]
    pub fn none(clock: Arc<dyn Clock>) -> Self {
        struct Nobody;
        impl KeyUse for Nobody {
            fn used(&self, _id: &str, _now: UnixSeconds) {}
        }
        let table = Arc::new(ArcSwap::from_pointee(ApiKeyTable::empty()));
        let exchanges = Arc::new(Exchanges::new(Arc::clone(&clock)));
        Self { table, used: Arc::new(Nobody), failures: Arc::new(Failures::new(clock)), exchanges }
    }
}

/// Hears of keys in use. It must not wait: a request does meanwhile.
pub trait KeyUse: Send + Sync {
    /// A key was used; told at most once in [`USE_INTERVAL_S`] seconds for a key.
    fn used(&self, id: &str, now: UnixSeconds);
}

/// What a key record allows beyond its rights.
#[derive(Debug, Default)]
pub(super) struct KeyUses {
    cidrs: Option<Cidrs>,
    routes: Option<Vec<String>>,
    /// When its use was told last.
    told: AtomicU64,
}

impl KeyUses {
    pub(super) fn new(cidrs: Option<Cidrs>, routes: Option<Vec<String>>, last_used: Option<UnixSeconds>) -> Self {
        Self { cidrs, routes, told: AtomicU64::new(last_used.unwrap_or(0)) }
    }

    /// Whether it may be used from this address.
    pub(super) fn permits_address(&self, client: IpAddr) -> bool {
        self.cidrs.as_ref().is_none_or(|cidrs| cidrs.contains(client))
    }

    /// Whether it may be used by this client, on this route.
    pub(super) fn permit(&self, client: IpAddr, route: &str) -> Result<(), Deny> {
        if !self.permits_address(client) {
            return Err(Deny::KeyAddress);
        }
        if self.routes.as_ref().is_some_and(|routes| !routes.iter().any(|allowed| allowed == route)) {
            return Err(Deny::KeyRoute);
        }
        Ok(())
    }

    /// Whether its use is to be told now: of many requests at once one is answered yes.
    pub(super) fn due(&self, now: UnixSeconds) -> bool {
        let told = self.told.load(Ordering::Relaxed);
        now >= told.saturating_add(USE_INTERVAL_S)
            && self.told.compare_exchange(told, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// Failures by network. They outlive every snapshot: a reload gives nobody another try.
pub struct Failures {
    clock: Arc<dyn Clock>,
    table: Table,
    hasher: KeyHasher,
}

impl Failures {
    /// None yet.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, table: Table::new(NETWORKS_MAX), hasher: KeyHasher::process() }
    }

    /// Counts one, and says in how many seconds there is room for another when it was one too many.
    pub(super) fn count(&self, client: ClientIp, numbers: &Numbers) -> Option<u64> {
        let mut hashing = self.hasher.begin();
        hashing.field(NAME.as_bytes());
        let revision = numbers.revision();
        hashing.field(&revision);
        Origin::add_address(client.counted(), &mut hashing);
        let key = with_class(hashing.finish(), &revision);
        let level = self.table.take_one(self.clock.now(), key, numbers.rate());
        match level.answer {
            Answer::Charged => None,
            Answer::Spared | Answer::Short | Answer::Unasked => Some(level.retry_after.div_ceil(1_000_000).max(1)),
        }
    }
}

/// The settings as they are counted.
pub(super) fn failures(settings: &FailureSettings, issues: &mut Issues) -> Option<Numbers> {
    let FailureSettings { attempts, window } = settings;
    if window.value > WINDOW_MAX {
        let message = format!("the window is {}, longer than {WINDOW_MAX}", window.value);
        issues.push("api_keys.failures_window", &window.span, message);
        return None;
    }
    match Numbers::new(NAME, attempts.value, window.value, None) {
        Ok(numbers) => Some(numbers),
        Err(wrong) => {
            issues.push("api_keys.failures", &attempts.span, wrong.to_string());
            None
        }
    }
}
