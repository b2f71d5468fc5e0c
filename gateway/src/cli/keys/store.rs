//! API keys in a store: asked and changed directly, whether or not a gateway runs. Those that run hear of it within about
//! a second.

use std::{future::Future, path::Path, sync::Arc};

use anyhow::{Context as _, bail};
use portcullis_api::UnixSeconds;
use portcullis_config::{ApiKeySource, ApiKeysSpec, KeyStoreSpec, Settled};
use portcullis_plugins::authentication::{IssueRequest, Ledger, RotateRequest, Row};
use serde_json::Value;

use super::file::KeyFile;
use crate::{
    boot,
    key_store::{Of, Store, StoreError, issue, ledger, revoke, rotate},
};

/// Where the keys of a configuration are.
pub(super) enum Kept {
    File(KeyFile),
    Store(Box<KeyStore>),
}

/// A store, and how its records are made.
pub(super) struct KeyStore {
    store: Store,
    ledger: Ledger,
}

/// Reads a configuration: where its keys are, and the names of its routes.
pub(super) fn kept(config: &Path) -> anyhow::Result<(Kept, Settled)> {
    let (_, settled) = boot::read(config)?;
    let spec = settled.api_keys.clone().with_context(|| format!("{} has no [api_keys]", config.display()))?;
    let ApiKeysSpec { source, brand, .. } = &spec;
    let peppers = spec.peppers()?;
    let kept = match source {
        ApiKeySource::File(path) => Kept::File(KeyFile { path: path.clone(), peppers, brand: brand.clone() }),
        ApiKeySource::Store(of) => {
            let KeyStoreSpec { store, .. } = of;
            Kept::Store(Box::new(KeyStore { store: Store::new(store)?, ledger: ledger(peppers, brand, of) }))
        }
    };
    Ok((kept, settled))
}

/// Refuses routes that the configuration has not: a key for them would open nothing.
pub(super) fn known_routes(routes: &[String], settled: &Settled) -> anyhow::Result<()> {
    let known: Vec<Arc<str>> = settled.router.routes().map(|route| route.name.clone()).collect();
    for route in routes {
        if !known.iter().any(|name| **name == **route) {
            bail!("there is no route `{}`: known are {}", route.escape_default(), known.join(", "));
        }
    }
    Ok(())
}

impl KeyStore {
    pub(super) fn issue(&self, request: IssueRequest, now: UnixSeconds) -> anyhow::Result<String> {
        Ok(done(async {
            self.store.make().await?;
            self.store.change(Of::Tenant(request.tenant.to_string()), issue(self.ledger.clone(), request, now)).await
        })?
        .key
        .to_string())
    }

    pub(super) fn rotate(&self, id: &str, request: RotateRequest, now: UnixSeconds) -> anyhow::Result<String> {
        let change = rotate(self.ledger.clone(), request, now);
        Ok(done(self.store.change(Of::Key(id.to_owned()), change))?.key.to_string())
    }

    pub(super) fn revoke(&self, id: &str, now: UnixSeconds) -> anyhow::Result<()> {
        done(self.store.change(Of::Key(id.to_owned()), revoke(self.ledger.clone(), now)))?;
        // As a gateway reads it: where that fails none hears of it.
        let read = done(self.store.load()).map(drop);
        read.context("the revocation is written, and not in force on any gateway before the store can be read")
    }

    pub(super) fn show(&self, id: &str, now: UnixSeconds) -> anyhow::Result<Value> {
        let rows = done(self.store.rows(Of::Key(id.to_owned())))?;
        let row = rows.first().with_context(|| format!("key {}: no such record", id.escape_default()))?;
        Ok(self.ledger.show(row, now))
    }

    pub(super) fn list(&self, tenant: Option<&str>, now: UnixSeconds) -> anyhow::Result<Vec<String>> {
        let rows: Vec<Row> = match tenant {
            Some(tenant) => done(self.store.rows(Of::Tenant(tenant.to_owned())))?,
            None => done(self.store.load())?.1,
        };
        Ok(rows.iter().map(|row| self.ledger.line(row, now)).collect())
    }
}

/// Runs a piece of work of the store to its end.
fn done<T>(work: impl Future<Output = Result<T, StoreError>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(work)?)
}
