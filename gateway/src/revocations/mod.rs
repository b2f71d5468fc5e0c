//! Revocations of this gateway: an operator's are written down before they are answered for, and read again at
//! the start; with a shared store they are every gateway's: see `shared`.
//!
//! The control looks into the set only ([`Revocations`]): no request waits for the disk.

mod journal;
mod shared;

use std::{path::Path, sync::Arc, time::Duration};

use parking_lot::Mutex;
use portcullis_api::Clock;
use portcullis_plugins::{
    rate_limit::StoreFault,
    revocations::{ENTRIES_MAX, Full, Learned, Reason, Record, Revocations, Target},
};

pub(crate) use journal::JournalError;
use journal::{Journal, Replayed};
pub(crate) use shared::{Cursor, Shared};

use crate::{clock::SystemClock, stores::redis::RedisCounters};

/// Between two looks for what is over.
const SWEEP_INTERVAL: Duration = Duration::from_secs(3600);

/// Revocations and where they are kept.
pub(crate) struct Revoking {
    /// What the control looks into.
    pub(crate) set: Arc<Revocations>,
    journal: Option<Arc<Mutex<Journal>>>,
    /// Where all gateways of a deployment are told, if there is one.
    pub(crate) shared: Option<Shared>,
    /// One is written after the other: there is room for the next one when it was asked.
    writing: tokio::sync::Mutex<()>,
    clock: Arc<SystemClock>,
}

/// Why a revocation was refused: it does not hold, and the caller must know.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotRevoked {
    #[error(
        "a revocation must outlive this process, and there is nowhere to keep it: write [revocations] journal = \"PATH\", or share it over [stores]"
    )]
    Nowhere,
    #[error(transparent)]
    Full(Full),
    #[error("it could not be written down: {0}")]
    Unwritten(JournalError),
    #[error("it could not be written down: the writer ended")]
    Interrupted,
    #[error("it is revoked on this gateway, and no other could be told ({0}): they are when the store answers")]
    HereOnly(StoreFault),
}

impl Revoking {
    /// Opens the journal and takes over what stands in it.
    ///
    /// # Errors
    /// What is wrong with the journal, or that there is no room for all of it.
    pub(crate) fn start(
        path: Option<&Path>,
        store: Option<&Arc<RedisCounters>>,
        clock: Arc<SystemClock>,
    ) -> anyhow::Result<Self> {
        let set = Arc::new(Revocations::new(ENTRIES_MAX));
        let journal = path.map(|path| replay(path, &set, &clock)).transpose()?;
        Ok(Self {
            set,
            journal,
            shared: store.map(|store| Shared::new(store.revocations())),
            writing: tokio::sync::Mutex::default(),
            clock,
        })
    }

    /// Revokes: when this answers it holds here, it is on the disk where there is a journal, and in the store where that is
    /// shared.
    pub(crate) async fn revoke(&self, target: &Target, reason: Reason) -> Result<Record, NotRevoked> {
        if self.journal.is_none() && self.shared.is_none() {
            return Err(NotRevoked::Nowhere);
        }
        let _writing = self.writing.lock().await;
        let now = self.clock.unix();
        let record = Record::new(target, now, reason);
        self.set.room_for(&record.mark).map_err(NotRevoked::Full)?;
        self.write_down(vec![record.clone()]).await?;
        let _learned = self.set.learn(record.clone(), now).map_err(NotRevoked::Full)?;
        told(&record);
        match &self.shared {
            None => {}
            Some(shared) => shared.tell(&record).await.map_err(NotRevoked::HereOnly)?,
        }
        Ok(record)
    }

    async fn write_down(&self, records: Vec<Record>) -> Result<(), NotRevoked> {
        let Some(journal) = self.journal.clone() else { return Ok(()) };
        let write = move || journal.lock().append(&records);
        let written = tokio::task::spawn_blocking(write).await.map_err(|_| NotRevoked::Interrupted)?;
        written.map_err(NotRevoked::Unwritten)
    }

    /// Takes over what stands in the store. One that does not fit is no news that was heard: it is asked for again.
    async fn heard(&self, records: Vec<Record>) -> Result<(), StoreFault> {
        // Whoever writes one down has asked for room: nobody takes it meanwhile.
        let _writing = self.writing.lock().await;
        let now = self.clock.unix();
        let (mut news, mut room) = (Vec::new(), Ok(()));
        for record in records {
            match self.set.learn(record.clone(), now) {
                Ok(Learned::News) => news.push(record),
                Ok(Learned::Known | Learned::Over) => {}
                Err(full) => {
                    tracing::error!(
                        event = "revocations.full",
                        why = full.to_string(),
                        "a revocation does not hold here"
                    );
                    room = Err(StoreFault::Refused("no room for a revocation".to_owned()));
                    break;
                }
            }
        }
        if !news.is_empty() {
            tracing::info!(event = "revocations.learned", count = news.len(), "what other gateways revoked holds here");
            if let Err(why) = self.write_down(news).await {
                tracing::error!(
                    event = "revocations.unwritten",
                    why = why.to_string(),
                    "it holds, and is not on the disk here"
                );
            }
        }
        room
    }

    /// Reads what other gateways revoked, at the start.
    pub(crate) async fn catch_up(&self) -> Cursor {
        match &self.shared {
            None => Cursor::default(),
            Some(shared) => shared.catch_up(self).await,
        }
    }

    /// Follows what other gateways revoke, and forgets what is over, as long as the process lives.
    pub(crate) async fn run(&self, cursor: Cursor) {
        match &self.shared {
            None => self.sweeps().await,
            Some(shared) => {
                tokio::join!(shared.run(self, cursor), self.sweeps());
            }
        }
    }

    /// Forgets what is over, in memory and on the disk.
    async fn sweeps(&self) {
        loop {
            tokio::time::sleep(SWEEP_INTERVAL).await;
            self.sweep().await;
        }
    }

    async fn sweep(&self) {
        let _writing = self.writing.lock().await;
        let over = self.set.expire(self.clock.unix());
        if over > 0 {
            tracing::info!(event = "revocations.over", over, "what these refused has expired by itself");
        }
        let Some(journal) = self.journal.clone() else { return };
        let set = self.set.clone();
        let compact = move || compact(&mut journal.lock(), &set);
        if let Ok(Err(why)) = tokio::task::spawn_blocking(compact).await {
            tracing::error!(
                event = "revocations.unwritten",
                why = why.to_string(),
                "the journal stays as long as it is"
            );
        }
    }
}

fn told(record: &Record) {
    let Record { kind, mark, issuer, tenant, name, at, reason } = record;
    tracing::warn!(
        event = "revocations.revoked",
        kind = kind.as_str(),
        mark = mark.to_string(),
        issuer = issuer.as_deref(),
        tenant = tenant.as_ref().map(portcullis_api::TenantId::as_str),
        name = name.as_deref(),
        at,
        reason = reason.as_str(),
        "an operator revoked"
    );
}

/// Says what is wrong with a journal, for `portcullis check`.
pub(crate) fn check(path: &Path) -> anyhow::Result<()> {
    Journal::check(path).map_err(Into::into)
}

fn replay(path: &Path, set: &Revocations, clock: &SystemClock) -> anyhow::Result<Arc<Mutex<Journal>>> {
    let (mut journal, Replayed { records, torn }) = Journal::open(path)?;
    let read = records.len();
    if torn > 0 {
        tracing::warn!(
            event = "revocations.torn",
            file = %path.display(),
            bytes = torn,
            "the last line was broken off and is left out: nobody was told that it holds"
        );
    }
    let now = clock.unix();
    for record in records {
        set.learn(record, now)?;
    }
    compact(&mut journal, set)?;
    tracing::info!(event = "revocations.read", read, hold = set.len(), "what was revoked before the start holds");
    Ok(Arc::new(Mutex::new(journal)))
}

fn compact(journal: &mut Journal, set: &Revocations) -> Result<(), JournalError> {
    let alive = set.list();
    if !journal.is_worn(alive.len()) {
        return Ok(());
    }
    journal.replace(alive.iter().map(AsRef::as_ref))
}
