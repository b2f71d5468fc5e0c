//! Revocations of this gateway: an operator's are written down before they are answered for, and read again at the start.
//!
//! The control looks into the set only ([`Revocations`]): no request waits for the disk.

mod journal;

use std::{path::Path, sync::Arc, time::Duration};

use parking_lot::Mutex;
use portcullis_api::Clock;
use portcullis_plugins::revocations::{ENTRIES_MAX, Full, Reason, Record, Revocations, Target};

pub(crate) use journal::JournalError;
use journal::{Journal, Replayed};

use crate::clock::SystemClock;

/// Between two looks for what is over.
const SWEEP_INTERVAL: Duration = Duration::from_secs(3600);

/// Revocations and where they are kept.
pub(crate) struct Revoking {
    /// What the control looks into.
    pub(crate) set: Arc<Revocations>,
    journal: Option<Arc<Mutex<Journal>>>,
    /// One is written after the other: there is room for the next one when it was asked.
    writing: tokio::sync::Mutex<()>,
    clock: Arc<SystemClock>,
}

/// Why a revocation was refused: it does not hold, and the caller must know.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotRevoked {
    #[error(
        "a revocation must outlive this process, and there is nowhere to keep it: write [revocations] journal = \"PATH\""
    )]
    Nowhere,
    #[error(transparent)]
    Full(Full),
    #[error("it could not be written down: {0}")]
    Unwritten(JournalError),
    #[error("it could not be written down: the writer ended")]
    Interrupted,
}

impl Revoking {
    /// Opens the journal and takes over what stands in it.
    ///
    /// # Errors
    /// What is wrong with the journal, or that there is no room for all of it.
    pub(crate) fn start(path: Option<&Path>, clock: Arc<SystemClock>) -> anyhow::Result<Self> {
        let set = Arc::new(Revocations::new(ENTRIES_MAX));
        let journal = path.map(|path| replay(path, &set, &clock)).transpose()?;
        Ok(Self { set, journal, writing: tokio::sync::Mutex::default(), clock })
    }

    /// Revokes: when this answers it holds here, and it is on the disk.
    pub(crate) async fn revoke(&self, target: &Target, reason: Reason) -> Result<Record, NotRevoked> {
        let journal = self.journal.as_ref().ok_or(NotRevoked::Nowhere)?;
        let _writing = self.writing.lock().await;
        let now = self.clock.unix();
        let record = Record::new(target, now, reason);
        self.set.room_for(&record.mark).map_err(NotRevoked::Full)?;
        let (written, journal) = (record.clone(), journal.clone());
        let write = move || journal.lock().append([&written]);
        let written = tokio::task::spawn_blocking(write).await.map_err(|_| NotRevoked::Interrupted)?;
        written.map_err(NotRevoked::Unwritten)?;
        let _learned = self.set.learn(record.clone(), now).map_err(NotRevoked::Full)?;
        let Record { kind, mark, issuer, tenant, name, at, reason } = &record;
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
        Ok(record)
    }

    /// Forgets what is over, in memory and on the disk, as long as the process lives.
    pub(crate) async fn run(&self) {
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
