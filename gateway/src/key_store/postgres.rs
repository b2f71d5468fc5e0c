//! PostgreSQL. One connection, made when it is needed and again after any error; every piece of work has a deadline.

use std::{future::Future, sync::Arc, time::Duration};

use portcullis_api::UnixSeconds;
use portcullis_config::{PostgresSpec, PostgresTls};
use portcullis_plugins::authentication::{ApiKeyFileError, Row, USE_INTERVAL_S};
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::Mutex;
use tokio_postgres::{Client, Config, NoTls, Transaction};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{Change, Of, ROWS_READ, SCHEMA, Stamp, StoreError, found, seconds, signed};

/// What any piece of work may take, the connection included. Behind the traffic: nothing but the operator waits for it.
const DEADLINE: Duration = Duration::from_secs(5);

/// Two gateways that find nothing do not both make it. Any number does that nobody else takes.
const LOCK: i64 = 0x2f4d_6f72_7463_756c;

const MAKE: &str = "
    CREATE TABLE IF NOT EXISTS portcullis_api_keys (
        id text PRIMARY KEY, tenant text NOT NULL, record text NOT NULL, last_used bigint);
    CREATE INDEX IF NOT EXISTS portcullis_api_keys_tenant ON portcullis_api_keys (tenant);
    CREATE TABLE IF NOT EXISTS portcullis_api_keys_state (
        one integer PRIMARY KEY CHECK (one = 1), schema bigint NOT NULL, epoch text NOT NULL, changes bigint NOT NULL);
    INSERT INTO portcullis_api_keys_state VALUES (1, 1, gen_random_uuid()::text, 0) ON CONFLICT DO NOTHING;";

/// A server and the connection to it.
pub(crate) struct Postgres {
    config: Config,
    tls: Option<MakeRustlsConnect>,
    client: Mutex<Option<Client>>,
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        // The server's own words where it has any; never the connection's settings, which hold the password.
        let words = error.as_db_error().map(|said| said.message().to_owned());
        let cause = || std::error::Error::source(&error).map(|cause| format!("{error}: {cause}"));
        Self::Away(words.or_else(cause).unwrap_or_else(|| error.to_string()))
    }
}

impl Postgres {
    pub(super) fn new(spec: &PostgresSpec) -> Result<Self, StoreError> {
        let mut config = spec.config.clone();
        config.connect_timeout(DEADLINE);
        let tls = match &spec.tls {
            PostgresTls::Plain => None,
            PostgresTls::Verified { roots } => {
                let mut store = RootCertStore::empty();
                for root in roots {
                    store.add(root.clone()).map_err(|error| StoreError::Away(format!("store_ca: {error}")))?;
                }
                let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
                let config = ClientConfig::builder_with_provider(provider)
                    .with_safe_default_protocol_versions()
                    .map_err(|error| StoreError::Away(error.to_string()))?
                    .with_root_certificates(store)
                    .with_no_client_auth();
                Some(MakeRustlsConnect::new(config))
            }
        };
        Ok(Self { config, tls, client: Mutex::new(None) })
    }

    async fn connect(&self) -> Result<Client, StoreError> {
        let client = match &self.tls {
            None => {
                let (client, connection) = self.config.connect(NoTls).await?;
                // What goes wrong on it is told to whoever asks next.
                drop(tokio::spawn(connection));
                client
            }
            Some(tls) => {
                let (client, connection) = self.config.connect(tls.clone()).await?;
                drop(tokio::spawn(connection));
                client
            }
        };
        Ok(client)
    }

    /// Runs a piece of work on the connection. One that was not finished leaves none: nobody knows what it stands at.
    async fn on<T>(&self, work: impl AsyncFnOnce(&mut Client) -> Result<T, StoreError>) -> Result<T, StoreError> {
        within(async {
            let mut slot = self.client.lock().await;
            let mut client = match slot.take() {
                Some(client) if !client.is_closed() => client,
                Some(_) | None => self.connect().await?,
            };
            let done = work(&mut client).await;
            if !matches!(done, Err(StoreError::Away(_))) {
                *slot = Some(client);
            }
            done
        })
        .await
    }

    pub(super) async fn make(&self) -> Result<(), StoreError> {
        self.on(async |client| {
            // Asked first: a user without the right to make tables can use those that an administrator made.
            let there = "SELECT to_regclass('portcullis_api_keys_state') IS NOT NULL";
            if !client.query_one(there, &[]).await?.try_get::<_, bool>(0)? {
                let transaction = client.transaction().await?;
                transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await?;
                transaction.batch_execute(MAKE).await?;
                transaction.commit().await?;
            }
            let schema: i64 =
                client.query_one("SELECT schema FROM portcullis_api_keys_state", &[]).await?.try_get(0)?;
            if schema == SCHEMA {
                Ok(())
            } else {
                Err(StoreError::Away(format!("it has layout {schema}, and this gateway knows {SCHEMA}")))
            }
        })
        .await
    }

    pub(super) async fn stamp(&self) -> Result<Stamp, StoreError> {
        self.on(async |client| {
            let row = client.query_one("SELECT epoch, changes FROM portcullis_api_keys_state", &[]).await?;
            stamp(&row)
        })
        .await
    }

    pub(super) async fn load(&self) -> Result<(Stamp, Vec<Row>), StoreError> {
        self.on(async |client| {
            // One state of both tables.
            let isolation = tokio_postgres::IsolationLevel::RepeatableRead;
            let transaction = client.build_transaction().isolation_level(isolation).read_only(true).start().await?;
            let state = transaction.query_one("SELECT epoch, changes FROM portcullis_api_keys_state", &[]).await?;
            let text = "SELECT id, tenant, record, last_used FROM portcullis_api_keys LIMIT $1";
            let rows = transaction.query(text, &[&ROWS_READ]).await?;
            let rows = rows.iter().map(read).collect::<Result<_, _>>()?;
            transaction.commit().await?;
            Ok((stamp(&state)?, rows))
        })
        .await
    }

    pub(super) async fn rows(&self, of: &Of) -> Result<Vec<Row>, StoreError> {
        self.on(async |client| {
            let transaction = client.transaction().await?;
            rows(&transaction, of).await
        })
        .await
    }

    pub(super) async fn change<T>(&self, of: &Of, change: Change<T>) -> Result<T, StoreError> {
        self.on(async |client| {
            let transaction = client.transaction().await?;
            transaction.execute("UPDATE portcullis_api_keys_state SET changes = changes + 1", &[]).await?;
            let before = rows(&transaction, of).await?;
            found(of, &before)?;
            let (answer, written) = change(&before)?;
            for Row { id, tenant, record, last_used: _ } in &written {
                let record = record.as_ref().map_err(|why| ApiKeyFileError::Row((*why).to_owned()))?;
                let text = "INSERT INTO portcullis_api_keys (id, tenant, record) VALUES ($1, $2, $3)
                    ON CONFLICT (id) DO UPDATE SET tenant = excluded.tenant, record = excluded.record";
                transaction.execute(text, &[id, tenant, &record]).await?;
            }
            let all = transaction.query_one("SELECT count(*) FROM portcullis_api_keys", &[]).await?;
            if all.try_get::<_, i64>(0)? >= ROWS_READ {
                return Err(StoreError::Full);
            }
            transaction.commit().await?;
            Ok(answer)
        })
        .await
    }

    pub(super) async fn used(&self, uses: &[(String, UnixSeconds)]) -> Result<(), StoreError> {
        self.on(async |client| {
            let transaction = client.transaction().await?;
            for (id, at) in uses {
                let text = "UPDATE portcullis_api_keys SET last_used = $2::bigint
                    WHERE id = $1 AND (last_used IS NULL OR last_used <= $2::bigint - $3::bigint)";
                transaction.execute(text, &[id, &signed(*at), &signed(USE_INTERVAL_S)]).await?;
            }
            transaction.commit().await?;
            Ok(())
        })
        .await
    }
}

async fn within<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    match tokio::time::timeout(DEADLINE, work).await {
        Ok(done) => done,
        Err(_) => Err(StoreError::Away(format!("no answer within {} s", DEADLINE.as_secs()))),
    }
}

async fn rows(transaction: &Transaction<'_>, of: &Of) -> Result<Vec<Row>, StoreError> {
    let (text, value) = match of {
        Of::Tenant(tenant) => (
            "SELECT id, tenant, record, last_used FROM portcullis_api_keys WHERE tenant = $1 ORDER BY id LIMIT $2",
            tenant,
        ),
        Of::Key(id) => {
            ("SELECT id, tenant, record, last_used FROM portcullis_api_keys WHERE id = $1 ORDER BY id LIMIT $2", id)
        }
    };
    transaction.query(text, &[value, &ROWS_READ]).await?.iter().map(read).collect()
}

fn read(row: &tokio_postgres::Row) -> Result<Row, StoreError> {
    let last_used = seconds(row.try_get(3)?);
    Ok(Row { id: row.try_get(0)?, tenant: row.try_get(1)?, record: Ok(row.try_get(2)?), last_used })
}

fn stamp(row: &tokio_postgres::Row) -> Result<Stamp, StoreError> {
    Ok(Stamp { epoch: row.try_get(0)?, changes: row.try_get(1)? })
}
