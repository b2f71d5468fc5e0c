//! The store of key records: SQLite in a file of this gateway, or PostgreSQL for several. What is done to records is
//! `Ledger`'s; here they are read and written.
//!
//! Both have one table of records and one row that says how often the records changed. Every change begins by counting
//! itself there, which lets no other begin before it has ended: names stay single and a tenant's keys stay few, whoever
//! else writes.

mod changes;
mod follow;
mod postgres;
mod sqlite;

use std::{path::PathBuf, sync::Arc};

use portcullis_api::UnixSeconds;
use portcullis_config::KeyStore;
use portcullis_plugins::authentication::{ApiKeyFileError, RECORDS_MAX, Row};

pub(crate) use changes::{issue, revoke, rotate};
pub(crate) use follow::{Changed, KeyStoring, Prepared, Uses, ledger};

/// What a store of another layout says it is.
const SCHEMA: i64 = 1;
/// Reads one row more than there may be, to know that there are too many.
const ROWS_READ: i64 = 100_001;

/// Where the records are.
#[derive(Clone)]
pub(crate) enum Store {
    /// A file.
    Sqlite(PathBuf),
    /// A server.
    Postgres(Arc<postgres::Postgres>),
}

/// Whether a store that is not there is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    Made,
    Refused,
}

/// Which records a change looks at.
#[derive(Debug, Clone)]
pub(crate) enum Of {
    Tenant(String),
    Key(String),
}

/// Which state of the records was read: which store it is, and how often it had changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp {
    epoch: String,
    changes: i64,
}

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// It could not be asked, or what it holds is not ours.
    #[error("the store of API keys: {0}")]
    Away(String),
    /// As many records as there may be.
    #[error("the store of API keys has {RECORDS_MAX} records: delete some that have expired")]
    Full,
    /// No such record.
    #[error("key {0}: no such record")]
    Unknown(String),
    /// The system gives none.
    #[error("no randomness from the system")]
    NoRandomness,
    /// What was asked for is not possible.
    #[error(transparent)]
    Refused(#[from] ApiKeyFileError),
}

/// What a change makes of the rows it looks at: something to answer with, and rows to be written.
type Change<T> = Box<dyn FnOnce(&[Row]) -> Result<(T, Vec<Row>), StoreError> + Send>;

impl Store {
    pub(crate) fn new(store: &KeyStore) -> Result<Self, StoreError> {
        Ok(match store {
            KeyStore::Sqlite(path) => Self::Sqlite(path.clone()),
            KeyStore::Postgres(spec) => Self::Postgres(Arc::new(postgres::Postgres::new(spec)?)),
        })
    }

    /// Makes what is missing of it.
    pub(crate) async fn make(&self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(path) => blocking(path, |path| sqlite::open(path, Missing::Made).map(drop)).await,
            Self::Postgres(server) => server.make().await,
        }
    }

    /// Which state the records are in.
    pub(crate) async fn stamp(&self) -> Result<Stamp, StoreError> {
        match self {
            Self::Sqlite(path) => blocking(path, |path| sqlite::stamp(&sqlite::open(path, Missing::Refused)?)).await,
            Self::Postgres(server) => server.stamp().await,
        }
    }

    /// All records, and the state they are in.
    pub(crate) async fn load(&self) -> Result<(Stamp, Vec<Row>), StoreError> {
        let (stamp, rows) = match self {
            Self::Sqlite(path) => blocking(path, sqlite::load).await?,
            Self::Postgres(server) => server.load().await?,
        };
        if rows.len() > RECORDS_MAX { Err(StoreError::Full) } else { Ok((stamp, rows)) }
    }

    /// The records of a tenant, or one; without changing anything.
    pub(crate) async fn rows(&self, of: Of) -> Result<Vec<Row>, StoreError> {
        match self {
            Self::Sqlite(path) => {
                blocking(path, move |path| sqlite::rows(&sqlite::open(path, Missing::Refused)?, &of)).await
            }
            Self::Postgres(server) => server.rows(&of).await,
        }
    }

    /// Reads some records and writes what becomes of them, and nobody else does meanwhile.
    pub(crate) async fn change<T: Send + 'static>(
        &self,
        of: Of,
        change: impl FnOnce(&[Row]) -> Result<(T, Vec<Row>), StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        match self {
            Self::Sqlite(path) => blocking(path, move |path| sqlite::change(path, &of, Box::new(change))).await,
            Self::Postgres(server) => server.change(&of, Box::new(change)).await,
        }
    }

    /// Writes when keys were last seen. It is no change: nobody has to read the records anew for it.
    pub(crate) async fn used(&self, uses: Vec<(String, UnixSeconds)>) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(path) => blocking(path, move |path| sqlite::used(path, &uses)).await,
            Self::Postgres(server) => server.used(&uses).await,
        }
    }
}

/// SQLite waits for the disk and for other writers: never on a thread that serves.
async fn blocking<T: Send + 'static>(
    path: &std::path::Path,
    work: impl FnOnce(&std::path::Path) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || work(&path)).await.map_err(|error| StoreError::Away(error.to_string()))?
}

/// An id of a row that another write has to find.
fn found(of: &Of, rows: &[Row]) -> Result<(), StoreError> {
    match of {
        Of::Key(id) if rows.is_empty() => {
            Err(StoreError::Unknown(id.chars().take(32).flat_map(char::escape_default).collect()))
        }
        Of::Key(_) | Of::Tenant(_) => Ok(()),
    }
}

fn seconds(last_used: Option<i64>) -> Option<UnixSeconds> {
    last_used.and_then(|at| UnixSeconds::try_from(at).ok())
}

fn signed(at: UnixSeconds) -> i64 {
    i64::try_from(at).unwrap_or(i64::MAX)
}
