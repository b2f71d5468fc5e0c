//! The API keys' file, read behind the traffic, or their store, followed. The table outlives every snapshot.
//!
//! Invariant: a table that was read is only ever replaced by another one that was read whole. While the file cannot be
//! read, the last one stays, and `portcullis_api_keys_last_load_success` is 0 for as long: a key revoked in a file that
//! we cannot read goes on being accepted, and nobody may overlook that.

use std::{path::PathBuf, sync::Arc};

use anyhow::anyhow;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use portcullis_api::{Clock, Environment};
use portcullis_config::{ApiKeySource, ApiKeysSpec, Settled};
use portcullis_plugins::authentication::{ApiKeyNeeds, ApiKeyTable, Failures, KeyUse, Peppers, exchange::Exchanges};

use crate::{
    key_sets::{FILE_INTERVAL, Stamp, stamp},
    key_store::{KeyStoring, Prepared, Uses},
    metrics::Metrics,
    streams::News,
};

/// Where API keys come from. Whether that is a store, and which, is fixed at the start.
pub(crate) struct ApiKeys {
    file: ApiKeyFile,
    /// Where it is one.
    pub(crate) store: Option<Arc<KeyStoring>>,
    used: Arc<dyn KeyUse>,
    failures: Arc<Failures>,
    exchanges: Arc<Exchanges>,
}

/// The API keys of one configuration, read and not yet in force.
pub(crate) enum Next {
    File(ReadApiKeys),
    Store(Prepared),
}

impl ApiKeys {
    /// Reads a file; a store is read by [`Self::first`], behind the start.
    ///
    /// # Errors
    /// What is wrong with the file, the store's address or a pepper.
    pub(crate) fn start(settled: &Settled, clock: Arc<dyn Clock>, metrics: &Arc<Metrics>) -> anyhow::Result<Self> {
        let file = ApiKeyFile::default();
        let exchanges = Arc::new(Exchanges::new(Arc::clone(&clock)));
        let failures = Arc::new(Failures::new(clock));
        match settled.api_keys.as_ref().map(|spec| (spec, &spec.source)) {
            Some((spec, ApiKeySource::Store(of))) => {
                let (store, uses) = KeyStoring::new(spec, of, file.table.clone(), (metrics, file.news.clone()))?;
                Ok(Self { file, store: Some(Arc::new(store)), used: Arc::new(uses), failures, exchanges })
            }
            Some((_, ApiKeySource::File(_))) | None => {
                file.adopt(file.read(settled.api_keys.as_ref()).map_err(unread)?);
                Ok(Self { file, store: None, used: Arc::new(Uses::unheard(metrics)), failures, exchanges })
            }
        }
    }

    /// Told when another table is in force.
    pub(crate) fn news(&self) -> &Arc<News> {
        &self.file.news
    }

    /// What the control needs of them.
    pub(crate) fn needs(&self) -> ApiKeyNeeds {
        ApiKeyNeeds {
            table: self.file.table.clone(),
            used: self.used.clone(),
            failures: self.failures.clone(),
            exchanges: self.exchanges.clone(),
        }
    }

    /// The table in force.
    pub(crate) fn table(&self) -> Arc<ApiKeyTable> {
        self.file.table.load_full()
    }

    /// Reads those of the next configuration.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(crate) async fn prepare(&self, spec: Option<&ApiKeysSpec>) -> anyhow::Result<Next> {
        match (&self.store, spec.map(|spec| (spec, &spec.source))) {
            (Some(store), Some((spec, ApiKeySource::Store(of)))) => {
                store.prepare(spec, of).await.map(Next::Store).map_err(|why| unread(format!("{why:#}")))
            }
            (None, Some((_, ApiKeySource::File(_))) | None) => self.file.read(spec).map(Next::File).map_err(unread),
            (Some(_), Some((_, ApiKeySource::File(_))) | None) | (None, Some((_, ApiKeySource::Store(_)))) => {
                Err(anyhow!("API keys move into a store, or out of it, with a restart only"))
            }
        }
    }

    /// Puts them in force.
    pub(crate) fn adopt(&self, next: Next) {
        match (next, &self.store) {
            (Next::Store(prepared), Some(store)) => store.adopt(prepared),
            (Next::File(read), _) => self.file.adopt(read),
            // Only a store prepares what a store adopts.
            (Next::Store(_), None) => {}
        }
    }

    /// Asks a store once, for a start that waits for it.
    pub(crate) async fn first(&self) {
        if let Some(store) = &self.store {
            store.first().await;
        }
    }

    /// Follows the file or the store until the process ends.
    pub(crate) async fn run(&self, metrics: &Metrics) {
        match &self.store {
            Some(store) => Box::pin(store.run()).await,
            None => self.file.run(metrics).await,
        }
    }
}

fn unread(why: String) -> anyhow::Error {
    anyhow!("the API keys could not be read: {why}")
}

/// Reads a file as a start would.
///
/// # Errors
/// What is wrong with it, or with a pepper.
pub(crate) fn check(settled: &Settled) -> anyhow::Result<()> {
    match settled.api_keys.as_ref().map(|spec| (spec, &spec.source)) {
        // A store is asked by whoever runs: a configuration may be checked where it is not to be reached.
        Some((spec, ApiKeySource::Store(_))) => spec.peppers().map(|_| ()).map_err(|why| unread(why.to_string())),
        Some((_, ApiKeySource::File(_))) | None => {
            ApiKeyFile::default().read(settled.api_keys.as_ref()).map(|_| ()).map_err(unread)
        }
    }
}

/// The API keys' file.
struct ApiKeyFile {
    /// The table in force.
    table: Arc<ArcSwap<ApiKeyTable>>,
    source: Mutex<Option<Source>>,
    /// Told when another table is in force.
    news: Arc<News>,
}

/// Where the table in force is from.
struct Source {
    spec: FileSpec,
    /// Of the file as it was when the table was read; `None` when there was no file yet.
    good: Option<Stamp>,
    /// Of the file that could not be read and was reported; its own stamp may be that it is gone.
    reported: Option<Option<Stamp>>,
}

/// How a file is read.
#[derive(Clone)]
struct FileSpec {
    path: PathBuf,
    peppers: Peppers,
    brand: Environment,
}

/// The keys of a file, read and not yet in force.
pub(crate) struct ReadApiKeys {
    source: Option<Source>,
    table: ApiKeyTable,
}

impl Default for ApiKeyFile {
    fn default() -> Self {
        let table = Arc::new(ArcSwap::from_pointee(ApiKeyTable::empty()));
        Self { table, source: Mutex::default(), news: Arc::default() }
    }
}

impl ApiKeyFile {
    /// Reads the file of a configuration. A file that is not there yet holds no keys; one that was there and is gone is
    /// an error, because an empty table would sign everybody off.
    ///
    /// # Errors
    /// What is wrong with the file.
    fn read(&self, spec: Option<&ApiKeysSpec>) -> Result<ReadApiKeys, String> {
        let none = || Ok(ReadApiKeys { source: None, table: ApiKeyTable::empty() });
        let Some(spec) = spec else { return none() };
        let ApiKeySource::File(path) = &spec.source else { return none() };
        let peppers = spec.peppers().map_err(|error| error.to_string())?;
        let spec = &FileSpec { path: path.clone(), peppers, brand: spec.brand.clone() };
        let good = stamp(&spec.path);
        let known =
            self.source.lock().as_ref().is_some_and(|source| source.spec.path == spec.path && source.good.is_some());
        let table = if good.is_none() && !known && !spec.path.exists() {
            tracing::warn!(event = "api_keys.none", file = %spec.path.display(), "there are no API keys yet; `portcullis keys issue` makes the file");
            ApiKeyTable::empty()
        } else {
            read_table(spec)?
        };
        Ok(ReadApiKeys { source: Some(Source { spec: spec.clone(), good, reported: None }), table })
    }

    /// Puts them in force.
    fn adopt(&self, read: ReadApiKeys) {
        self.table.store(Arc::new(read.table));
        *self.source.lock() = read.source;
    }

    /// Looks at the file every second until the process ends.
    async fn run(&self, metrics: &Metrics) {
        loop {
            self.look(metrics);
            tokio::time::sleep(FILE_INTERVAL).await;
        }
    }

    /// Reads the file where it is not the one that was read last. One that cannot be read changes nothing, is reported
    /// once, and is tried again at each look: what is wrong with it (its owner, say) need not show in its stamp.
    fn look(&self, metrics: &Metrics) {
        let mut source = self.source.lock();
        let read = match source.as_mut() {
            None => Ok(()),
            Some(source) => source.renew(&self.table, &self.news),
        };
        metrics.api_keys_ok.set(i64::from(read.is_ok()));
    }
}

impl Source {
    fn renew(&mut self, table: &ArcSwap<ApiKeyTable>, news: &News) -> Result<(), ()> {
        let now = stamp(&self.spec.path);
        if now == self.good {
            self.reported = None;
            return Ok(());
        }
        match read_table(&self.spec) {
            Ok(read) => {
                table.store(Arc::new(read));
                news.tell();
                (self.good, self.reported) = (now, None);
                tracing::info!(event = "api_keys.loaded", "the API keys were read again");
                Ok(())
            }
            Err(why) => {
                if self.reported.replace(now) != Some(now) {
                    tracing::error!(
                        event = "api_keys.failed",
                        why,
                        "the API keys could not be read; the last good ones stay"
                    );
                }
                Err(())
            }
        }
    }
}

fn read_table(spec: &FileSpec) -> Result<ApiKeyTable, String> {
    let bytes = std::fs::read(&spec.path).map_err(|error| format!("{}: {error}", spec.path.display()))?;
    ApiKeyTable::parse(&bytes, &spec.peppers, &spec.brand).map_err(|error| format!("{}: {error}", spec.path.display()))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf, time::SystemTime};

    use portcullis_api::Secret;

    use super::*;

    const EMPTY: &str = r#"{"version":1,"keys":[]}"#;

    struct Fixture {
        // The file goes with it.
        _dir: tempfile::TempDir,
        path: PathBuf,
        file: ApiKeyFile,
        metrics: Metrics,
    }

    impl Fixture {
        /// A gateway that has read this text, or that found no file.
        fn with(text: Option<&str>) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("keys.json");
            if let Some(text) = text {
                fs::write(&path, text).unwrap();
            }
            let this = Self { _dir: dir, path, file: ApiKeyFile::default(), metrics: Metrics::new().unwrap() };
            this.reload().unwrap();
            this
        }

        fn reload(&self) -> Result<(), String> {
            let spec = ApiKeysSpec {
                source: ApiKeySource::File(self.path.clone()),
                older_peppers: Vec::new(),
                pepper: Secret::new(b"kT9wq2LzB7mXc4Rv8NsJ1dHf6GpY3aUe".to_vec()),
                brand: Environment::parse("pck").unwrap(),
            };
            self.file.read(Some(&spec)).map(|read| self.file.adopt(read))
        }

        fn write(&self, text: &str, changed: SystemTime) {
            fs::write(&self.path, text).unwrap();
            fs::File::options().write(true).open(&self.path).unwrap().set_modified(changed).unwrap();
        }

        /// Whether a look found everything well, and whether it put another table in force.
        fn look(&self) -> (bool, bool) {
            let before = self.file.table.load_full();
            self.file.look(&self.metrics);
            (self.metrics.api_keys_ok.get() == 1, !Arc::ptr_eq(&before, &self.file.table.load_full()))
        }
    }

    #[test]
    fn a_file_is_read_when_it_changes_and_not_before() {
        let keys = Fixture::with(Some(EMPTY));
        assert_eq!(keys.look(), (true, false));
        keys.write(&format!("{EMPTY} "), SystemTime::now());
        assert_eq!(keys.look(), (true, true));
        assert_eq!(keys.look(), (true, false));
    }

    #[test]
    fn a_file_that_can_be_read_again_is_read_though_its_stamp_is_the_same() {
        let keys = Fixture::with(Some(EMPTY));
        let changed = SystemTime::UNIX_EPOCH;
        keys.write(&EMPTY.replace('1', "x"), changed);
        assert_eq!(keys.look(), (false, false));
        assert_eq!(keys.look(), (false, false), "it stays visible");
        keys.write(EMPTY, changed);
        assert_eq!(keys.look(), (true, true));
    }

    #[test]
    fn a_file_that_is_gone_is_told_and_its_keys_stay() {
        let keys = Fixture::with(Some(EMPTY));
        fs::remove_file(&keys.path).unwrap();
        assert_eq!(keys.look(), (false, false));
        assert!(keys.reload().is_err(), "a reload is refused too");
        keys.write(EMPTY, SystemTime::UNIX_EPOCH);
        assert_eq!(keys.look(), (true, true));
    }

    #[test]
    fn a_file_that_a_reload_could_read_is_well_again() {
        let keys = Fixture::with(Some(EMPTY));
        keys.write("{", SystemTime::UNIX_EPOCH);
        assert_eq!(keys.look(), (false, false));
        keys.write(EMPTY, SystemTime::UNIX_EPOCH);
        keys.reload().unwrap();
        assert_eq!(keys.look(), (true, false));
    }

    #[test]
    fn a_file_that_is_not_there_yet_is_no_failure_and_is_read_once_it_is() {
        let keys = Fixture::with(None);
        assert_eq!(keys.look(), (true, false));
        keys.write(EMPTY, SystemTime::UNIX_EPOCH);
        assert_eq!(keys.look(), (true, true));
    }
}
