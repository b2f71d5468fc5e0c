//! SQLite. A connection for each piece of work: a file that was moved away or put back is seen at once, and an error leaves
//! nothing behind.

use std::{os::unix::fs::OpenOptionsExt as _, path::Path, time::Duration};

use portcullis_api::UnixSeconds;
use portcullis_plugins::authentication::{ApiKeyFileError, Row, USE_INTERVAL_S};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Transaction, TransactionBehavior, params};

use super::{Change, Missing, Of, ROWS_READ, SCHEMA, Stamp, StoreError, found, seconds, signed};

/// How long one writer waits for another.
const BUSY: Duration = Duration::from_secs(5);

const MAKE: &str = "
    CREATE TABLE IF NOT EXISTS portcullis_api_keys (
        id TEXT PRIMARY KEY, tenant TEXT NOT NULL, record TEXT NOT NULL, last_used INTEGER) STRICT;
    CREATE INDEX IF NOT EXISTS portcullis_api_keys_tenant ON portcullis_api_keys (tenant);
    CREATE TABLE IF NOT EXISTS portcullis_api_keys_state (
        one INTEGER PRIMARY KEY CHECK (one = 1), schema INTEGER NOT NULL, epoch TEXT NOT NULL,
        changes INTEGER NOT NULL) STRICT;
    INSERT INTO portcullis_api_keys_state VALUES (1, 1, lower(hex(randomblob(16))), 0) ON CONFLICT DO NOTHING;";

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Away(error.to_string())
    }
}

/// Opens it, of this layout; made with its tables, for its owner alone, where that is asked for.
pub(super) fn open(path: &Path, missing: Missing) -> Result<Connection, StoreError> {
    let shown = |error: &dyn std::fmt::Display| StoreError::Away(format!("{}: {error}", path.display()));
    if missing == Missing::Made && !path.exists() {
        let made = std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
        made.map_err(|error| shown(&error))?;
    }
    let mut connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
            .map_err(|error| shown(&error))?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "trusted_schema", "OFF")?;
    if missing == Missing::Made {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(MAKE).map_err(|error| shown(&error))?;
        transaction.commit()?;
    }
    let schema: Option<i64> = connection
        .query_row("SELECT schema FROM portcullis_api_keys_state", [], |row| row.get(0))
        .optional()
        .map_err(|error| shown(&error))?;
    match schema {
        Some(SCHEMA) => Ok(connection),
        other => Err(shown(&format!("it has layout {other:?}, and this gateway knows {SCHEMA}"))),
    }
}

pub(super) fn stamp(connection: &Connection) -> Result<Stamp, StoreError> {
    let stamp = |row: &rusqlite::Row<'_>| Ok(Stamp { epoch: row.get(0)?, changes: row.get(1)? });
    Ok(connection.query_row("SELECT epoch, changes FROM portcullis_api_keys_state", [], stamp)?)
}

pub(super) fn load(path: &Path) -> Result<(Stamp, Vec<Row>), StoreError> {
    let mut connection = open(path, Missing::Refused)?;
    let transaction = connection.transaction()?;
    let stamp = stamp(&transaction)?;
    let mut statement =
        transaction.prepare("SELECT id, tenant, record, last_used FROM portcullis_api_keys LIMIT ?1")?;
    let rows = statement.query_map([ROWS_READ], |row| Ok(read(row)))?.collect::<Result<_, _>>()?;
    Ok((stamp, rows))
}

pub(super) fn rows(connection: &Connection, of: &Of) -> Result<Vec<Row>, StoreError> {
    let (text, value) = match of {
        Of::Tenant(tenant) => (
            "SELECT id, tenant, record, last_used FROM portcullis_api_keys WHERE tenant = ?1 ORDER BY id LIMIT ?2",
            tenant,
        ),
        Of::Key(id) => {
            ("SELECT id, tenant, record, last_used FROM portcullis_api_keys WHERE id = ?1 ORDER BY id LIMIT ?2", id)
        }
    };
    let mut statement = connection.prepare(text)?;
    let rows = statement.query_map(params![value, ROWS_READ], |row| Ok(read(row)))?.collect::<Result<_, _>>()?;
    Ok(rows)
}

/// Never fails: one row that somebody spoilt must not keep the others from being read. What of it can be shown is.
fn read(row: &rusqlite::Row<'_>) -> Row {
    let bytes = |at| row.get_ref(at).ok().and_then(|value| value.as_bytes().ok()).unwrap_or_default();
    let shown = |at| String::from_utf8_lossy(bytes(at)).into_owned();
    let text = |at, why| row.get::<_, String>(at).map_err(|_| why);
    let checked = text(0, "its id is no text").and_then(|_| text(1, "its tenant is no text"));
    let used = row.get::<_, Option<i64>>(3).map_err(|_| "its last_used is no number");
    let record = checked.and(used.map(drop)).and_then(|()| text(2, "its record is no text"));
    Row { id: shown(0), tenant: shown(1), record, last_used: seconds(used.ok().flatten()) }
}

pub(super) fn change<T>(path: &Path, of: &Of, change: Change<T>) -> Result<T, StoreError> {
    let mut connection = open(path, Missing::Refused)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute("UPDATE portcullis_api_keys_state SET changes = changes + 1", [])?;
    let before = rows(&transaction, of)?;
    found(of, &before)?;
    let (answer, written) = change(&before)?;
    write(&transaction, &written)?;
    transaction.commit()?;
    Ok(answer)
}

fn write(transaction: &Transaction<'_>, rows: &[Row]) -> Result<(), StoreError> {
    for Row { id, tenant, record, last_used: _ } in rows {
        let record = record.as_ref().map_err(|why| ApiKeyFileError::Row((*why).to_owned()))?;
        transaction.execute(
            "INSERT INTO portcullis_api_keys (id, tenant, record) VALUES (?1, ?2, ?3)
             ON CONFLICT (id) DO UPDATE SET tenant = excluded.tenant, record = excluded.record",
            params![id, tenant, record],
        )?;
    }
    let all: i64 = transaction.query_row("SELECT count(*) FROM portcullis_api_keys", [], |row| row.get(0))?;
    if all < ROWS_READ { Ok(()) } else { Err(StoreError::Full) }
}

pub(super) fn used(path: &Path, uses: &[(String, UnixSeconds)]) -> Result<(), StoreError> {
    let mut connection = open(path, Missing::Refused)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for (id, at) in uses {
        transaction.execute(
            "UPDATE portcullis_api_keys SET last_used = ?2
             WHERE id = ?1 AND (last_used IS NULL OR last_used <= ?2 - ?3)",
            params![id, signed(*at), signed(USE_INTERVAL_S)],
        )?;
    }
    transaction.commit()?;
    Ok(())
}
