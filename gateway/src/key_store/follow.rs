//! Follows the store of key records behind the traffic, and tells it which keys are in use.
//!
//! Invariant: requests see the last records that were read, and those of a store that was not heard for `max_stale` no
//! longer: then nobody can say which keys were revoked since, and a request with a key is answered 503.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use portcullis_api::{Environment, Millis, UnixSeconds};
use portcullis_config::{ApiKeysSpec, KeyStoreSpec};
use portcullis_plugins::authentication::{ApiKeyTable, BadRow, KeyUse, Ledger, Peppers, Row};
use prometheus::IntCounter;
use tokio::sync::{OwnedMutexGuard, mpsc};

use super::{Of, Stamp, Store, StoreError};
use crate::{metrics::Metrics, streams::News};

/// How often the store is asked whether anything changed.
const POLL: Duration = Duration::from_secs(1);
/// Uses that wait to be written; each key has one a minute at most.
const USES_MAX: usize = 4096;
/// Uses that are written at once.
const BATCH_MAX: usize = 512;
/// Unusable rows that are logged one by one at each reading.
const NAMED_MAX: usize = 20;

/// Hears of keys in use, and never waits.
pub(crate) struct Uses {
    sender: Option<mpsc::Sender<(String, UnixSeconds)>>,
    lost: IntCounter,
}

impl Uses {
    /// For keys of a file, where no use is kept.
    pub(crate) fn unheard(metrics: &Metrics) -> Self {
        Self { sender: None, lost: metrics.api_key_uses_lost.clone() }
    }
}

impl KeyUse for Uses {
    fn used(&self, id: &str, now: UnixSeconds) {
        if let Some(sender) = &self.sender
            && sender.try_send((id.to_owned(), now)).is_err()
        {
            self.lost.inc();
        }
    }
}

/// How the store's records are read under one configuration.
#[derive(Clone)]
struct Reading {
    ledger: Ledger,
    max_stale: Millis,
}

/// What was read under the next configuration and is not yet in force.
pub(crate) struct Prepared {
    reading: Reading,
    read: Read,
    /// Nobody looks until it is in force or given up: a table that was read before, or under the old configuration, must not
    /// come after it.
    _alone: OwnedMutexGuard<()>,
}

struct Read {
    stamp: Stamp,
    table: ApiKeyTable,
    bad: Vec<BadRow>,
}

/// A change that is in the store.
pub(crate) struct Changed<T> {
    /// What it made.
    pub(crate) made: T,
    /// Whether it is in force here, or why not yet.
    pub(crate) in_force: Result<(), StoreError>,
}

/// What the looks at the store have given.
#[derive(Default)]
struct Heard {
    stamp: Option<Stamp>,
    /// When the store last answered.
    at: Option<Instant>,
    /// Why it does not, as it was logged.
    away: Option<String>,
}

/// A store that is followed.
pub(crate) struct KeyStoring {
    store: Store,
    reading: ArcSwap<Reading>,
    table: Arc<ArcSwap<ApiKeyTable>>,
    heard: Mutex<Heard>,
    /// One look at a time: a slow one must not put an older table over a newer one.
    looking: Arc<tokio::sync::Mutex<()>>,
    uses: tokio::sync::Mutex<mpsc::Receiver<(String, UnixSeconds)>>,
    metrics: Arc<Metrics>,
    /// Told when another table is in force.
    news: Arc<News>,
}

impl KeyStoring {
    /// Nothing is read yet: until then no key can be told from another.
    pub(crate) fn new(
        spec: &ApiKeysSpec,
        of: &KeyStoreSpec,
        table: Arc<ArcSwap<ApiKeyTable>>,
        (metrics, news): (&Arc<Metrics>, Arc<News>),
    ) -> anyhow::Result<(Self, Uses)> {
        table.store(Arc::new(ApiKeyTable::away("nothing was read yet")));
        let (sender, receiver) = mpsc::channel(USES_MAX);
        let uses = Uses { sender: Some(sender), lost: metrics.api_key_uses_lost.clone() };
        let this = Self {
            store: Store::new(&of.store)?,
            reading: ArcSwap::from_pointee(Reading::of(spec, of)?),
            table,
            heard: Mutex::default(),
            looking: Arc::default(),
            uses: tokio::sync::Mutex::new(receiver),
            metrics: metrics.clone(),
            news,
        };
        this.metrics.api_keys_ok.set(0);
        this.metrics.api_keys_age.set(-1);
        Ok((this, uses))
    }

    /// Reads the records under the next configuration, where their reading changes: a pepper that is not the store's is a
    /// refused reload, not a store without keys.
    pub(crate) async fn prepare(&self, spec: &ApiKeysSpec, of: &KeyStoreSpec) -> anyhow::Result<Prepared> {
        let alone = self.looking.clone().lock_owned().await;
        let reading = Reading::of(spec, of)?;
        let read = read(&self.store, &reading.ledger).await?;
        let known = self.table.load().len();
        anyhow::ensure!(
            !read.table.is_empty() || known == 0,
            "no record of the store can be read under this pepper: {}",
            read.bad.first().map_or_else(String::new, |bad| bad.why.clone())
        );
        Ok(Prepared { reading, read, _alone: alone })
    }

    /// Puts it in force.
    pub(crate) fn adopt(&self, prepared: Prepared) {
        let Prepared { reading, read, _alone } = prepared;
        self.reading.store(Arc::new(reading));
        self.take(read);
    }

    /// Asks the store once, for a start that waits for it.
    pub(crate) async fn first(&self) {
        if let Err(error) = self.store.make().await {
            self.missed(&error);
            return;
        }
        // What went wrong was noted.
        let _noted = self.look().await;
    }

    /// Follows until the process ends.
    pub(crate) async fn run(&self) {
        tokio::join!(self.follow(), self.write_uses());
    }

    async fn follow(&self) {
        loop {
            tokio::time::sleep(POLL).await;
            // What was never there may have to be made; what was there and is gone is not made anew, without its keys.
            let never = self.heard.lock().at.is_none();
            if never {
                self.first().await;
            } else {
                let _noted = self.look().await;
            }
        }
    }

    /// Reads the records where they changed. When it fails that is noted, and what was known before is in force.
    async fn look(&self) -> Result<(), StoreError> {
        let _one = self.looking.lock().await;
        let looked = self.look_alone().await;
        if let Err(error) = &looked {
            self.missed(error);
        }
        looked
    }

    async fn look_alone(&self) -> Result<(), StoreError> {
        let stamp = self.store.stamp().await?;
        if self.heard.lock().stamp.as_ref() == Some(&stamp) {
            self.answered();
        } else {
            let reading = self.reading.load_full();
            self.take(read(&self.store, &reading.ledger).await?);
        }
        Ok(())
    }

    fn take(&self, read: Read) {
        let Read { stamp, table, bad } = read;
        let keys = table.len();
        self.table.store(Arc::new(table));
        self.news.tell();
        self.metrics.api_keys_unusable.set(i64::try_from(bad.len()).unwrap_or(i64::MAX));
        for BadRow { id, why } in bad.iter().take(NAMED_MAX) {
            tracing::error!(
                event = "api_keys.unusable",
                id,
                why,
                "a record of the store cannot be believed: its key is refused"
            );
        }
        tracing::info!(event = "api_keys.loaded", keys, unusable = bad.len(), "the API keys were read from the store");
        self.heard.lock().stamp = Some(stamp);
        self.answered();
    }

    fn answered(&self) {
        let mut heard = self.heard.lock();
        heard.at = Some(Instant::now());
        if heard.away.take().is_some() {
            tracing::info!(event = "api_keys.store_back", "the store of API keys answers again");
        }
        self.metrics.api_keys_ok.set(1);
        self.metrics.api_keys_age.set(0);
    }

    fn missed(&self, error: &StoreError) {
        let max_stale = self.reading.load().max_stale.duration();
        let mut heard = self.heard.lock();
        let why = error.to_string();
        if heard.away.as_ref() != Some(&why) {
            tracing::error!(
                event = "api_keys.store_away",
                why,
                "the store of API keys does not answer; known keys go on for a while"
            );
            heard.away = Some(why.clone());
        }
        self.metrics.api_keys_ok.set(0);
        let age = heard.at.map(|at| at.elapsed());
        self.metrics.api_keys_age.set(age.map_or(-1, |age| i64::try_from(age.as_secs()).unwrap_or(i64::MAX)));
        let stale = age.is_none_or(|age| age > max_stale);
        if stale && heard.stamp.take().is_some() {
            tracing::error!(
                event = "api_keys.stale",
                "the API keys are too old to be believed: requests with one are 503"
            );
            self.table.store(Arc::new(ApiKeyTable::away("it was not heard for longer than api_keys.max_stale")));
            self.news.tell();
        }
    }

    /// Since when the store is away and why, for people; `Err` when it was never heard.
    pub(crate) fn health(&self) -> Result<String, String> {
        let heard = self.heard.lock();
        match (&heard.away, heard.at) {
            (None, Some(_)) => Ok("healthy".to_owned()),
            (Some(why), Some(at)) => Ok(format!("away for {}s: {why}", at.elapsed().as_secs())),
            (why, None) => Err(why.clone().unwrap_or_else(|| "not read yet".to_owned())),
        }
    }

    /// How records are made now.
    pub(crate) fn ledger(&self) -> Ledger {
        self.reading.load().ledger.clone()
    }

    /// Some records as they are in the store.
    pub(crate) async fn rows(&self, of: Of) -> Result<Vec<Row>, StoreError> {
        self.store.rows(of).await
    }

    /// All records as they are in the store.
    pub(crate) async fn all(&self) -> Result<Vec<Row>, StoreError> {
        Ok(self.store.load().await?.1)
    }

    /// Changes records, and reads them: what was revoked is refused here from now on, or it says that it is not.
    pub(crate) async fn change<T: Send + 'static>(
        &self,
        of: Of,
        change: impl FnOnce(&[Row]) -> Result<(T, Vec<Row>), StoreError> + Send + 'static,
    ) -> Result<Changed<T>, StoreError> {
        let made = self.store.change(of, change).await?;
        Ok(Changed { made, in_force: self.look().await })
    }

    /// Writes uses as they come, many at once, one a key.
    async fn write_uses(&self) {
        let mut uses = self.uses.lock().await;
        let mut batch = Vec::with_capacity(BATCH_MAX);
        while uses.recv_many(&mut batch, BATCH_MAX).await > 0 {
            let latest: HashMap<String, UnixSeconds> = batch.drain(..).collect();
            let count = u64::try_from(latest.len()).unwrap_or(u64::MAX);
            if let Err(error) = self.store.used(latest.into_iter().collect()).await {
                tracing::warn!(event = "api_keys.uses_lost", %error, count, "uses of API keys could not be written");
                self.metrics.api_key_uses_lost.inc_by(count);
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Reading {
    fn of(spec: &ApiKeysSpec, of: &KeyStoreSpec) -> anyhow::Result<Self> {
        Ok(Self { ledger: ledger(spec.peppers()?, &spec.brand, of), max_stale: of.max_stale })
    }
}

/// How the records of a store are made and read.
pub(crate) fn ledger(peppers: Peppers, brand: &Environment, of: &KeyStoreSpec) -> Ledger {
    Ledger { peppers, brand: brand.clone(), active_max: of.keys_max }
}

/// Up to a hundred thousand MACs: not on a thread that serves.
async fn read(store: &Store, ledger: &Ledger) -> Result<Read, StoreError> {
    let (stamp, rows) = store.load().await?;
    let (peppers, brand) = (ledger.peppers.clone(), ledger.brand.clone());
    let built = tokio::task::spawn_blocking(move || ApiKeyTable::of_rows(&rows, &peppers, &brand)).await;
    let (table, bad) = built.map_err(|error| StoreError::Away(error.to_string()))?;
    Ok(Read { stamp, table, bad })
}
