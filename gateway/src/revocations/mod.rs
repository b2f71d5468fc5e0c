//! Revocations of this gateway: an operator's are written down before they are answered for, and read again at
//! the start; with a shared store they are every gateway's: see `shared`.
//!
//! The control looks into the set only ([`Revocations`]): no request waits for the disk.

mod journal;
mod receipt;
mod shared;
mod synced;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use parking_lot::Mutex;
use portcullis_api::{Clock, Micros, Millis, UnixSeconds};
use portcullis_plugins::{
    rate_limit::StoreFault,
    revocations::{Age, ENTRIES_MAX, Full, Learned, Reason, Record, Revocations, Target},
};

pub(crate) use journal::JournalError;
use journal::{Journal, Replayed};
pub(crate) use receipt::Receipt;
pub(crate) use shared::{Cursor, Shared};
use synced::Synced;

use crate::{clock::SystemClock, stores::redis::RedisCounters, streams::News};

/// Between two looks for what is over.
const SWEEP_INTERVAL: Duration = Duration::from_secs(3600);
/// Between two words on disk of how much of what others revoked is there.
const SYNCED_INTERVAL_US: Micros = 1_000_000;

/// Revocations and where they are kept.
pub(crate) struct Revoking {
    /// What the control looks into.
    pub(crate) set: Arc<Revocations>,
    journal: Option<Kept>,
    /// Where all gateways of a deployment are told, if there is one.
    pub(crate) shared: Option<Shared>,
    /// One is written after the other: there is room for the next one when it was asked.
    writing: tokio::sync::Mutex<()>,
    clock: Arc<SystemClock>,
    /// Told of what is revoked, for whoever is under way.
    news: Arc<News>,
}

/// A revocation that holds.
pub(crate) struct Revoked {
    pub(crate) record: Record,
    /// Its entry of the stream, where there is one.
    entry: Option<String>,
}

/// What is kept on disk.
#[derive(Clone)]
struct Kept {
    journal: Arc<Mutex<Journal>>,
    synced: Arc<Synced>,
    /// When what stands in `synced` was written, in microseconds; a gateway starts later than at 0.
    told: Arc<AtomicU64>,
    /// Whether something that was heard is not in the journal: from then on it cannot vouch for more than it has.
    lacks: Arc<AtomicBool>,
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
        news: Arc<News>,
    ) -> anyhow::Result<Self> {
        let set = Arc::new(Revocations::new(ENTRIES_MAX));
        let kept = path.map(|path| replay(path, &set, &clock)).transpose()?;
        if store.is_some() {
            set.follow();
        }
        let (journal, synced) = kept.unzip();
        if let (Some(Some(at)), Some(_)) = (synced, store) {
            known_before(&set, &clock, at);
        }
        Ok(Self {
            set,
            journal,
            shared: store.map(|store| Shared::new(store.revocations())),
            writing: tokio::sync::Mutex::default(),
            clock,
            news,
        })
    }

    /// Revokes: when this answers it holds here, it is on the disk where there is a journal, and in the store where that is
    /// shared.
    pub(crate) async fn revoke(&self, target: &Target, reason: Reason) -> Result<Revoked, NotRevoked> {
        if self.journal.is_none() && self.shared.is_none() {
            return Err(NotRevoked::Nowhere);
        }
        let _writing = self.writing.lock().await;
        let now = self.clock.unix();
        let record = Record::new(target, now, reason);
        self.set.room_for(&record.mark).map_err(NotRevoked::Full)?;
        self.write_down(vec![record.clone()]).await?;
        let _learned = self.set.learn(record.clone(), now).map_err(NotRevoked::Full)?;
        self.news.tell();
        told(&record);
        let entry = match &self.shared {
            None => None,
            Some(shared) => Some(shared.tell(&record).await.map_err(NotRevoked::HereOnly)?),
        };
        Ok(Revoked { record, entry })
    }

    /// Waits a little for the other gateways to have heard of it, and says which have.
    pub(crate) async fn receipt(&self, revoked: &Revoked) -> Receipt {
        match (&self.shared, &revoked.entry) {
            (Some(shared), Some(entry)) => shared.receipt(entry).await,
            (None, _) | (_, None) => Receipt::alone(&receipt::name()),
        }
    }

    /// How long requests pass without a word from the store, where it has to be heard.
    pub(crate) fn lets_pass_for(&self, max: Millis) {
        if let Some(shared) = &self.shared {
            shared.lets_pass_for(max);
        }
    }

    /// Says to the others that this gateway goes.
    pub(crate) async fn leave(&self) {
        if let Some(shared) = &self.shared {
            shared.store.leave(&shared.name).await;
        }
    }

    async fn write_down(&self, records: Vec<Record>) -> Result<(), NotRevoked> {
        let Some(Kept { journal, .. }) = self.journal.clone() else { return Ok(()) };
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
            self.news.tell();
            tracing::info!(event = "revocations.learned", count = news.len(), "what other gateways revoked holds here");
            if let Err(why) = self.write_down(news).await {
                if let Some(kept) = &self.journal {
                    kept.lacks.store(true, Ordering::Release);
                }
                tracing::error!(
                    event = "revocations.unwritten",
                    why = why.to_string(),
                    "it holds, and is not on the disk here"
                );
            }
        }
        room
    }

    /// The clocks now: for whoever begins to read.
    fn now(&self) -> (Micros, UnixSeconds) {
        (self.clock.now(), self.clock.unix())
    }

    /// How old what is known is, in seconds; since the start where all of it was never known.
    pub(crate) fn lag_s(&self) -> u64 {
        match self.set.age(|| self.clock.now()) {
            Age::Known(micros) => micros.div_euclid(1_000_000),
            Age::Unknown => self.clock.now().div_euclid(1_000_000),
        }
    }

    /// How old what is known is.
    pub(crate) fn age(&self) -> Age {
        self.set.age(|| self.clock.now())
    }

    /// All that any gateway had revoked at this time is known here, and is in the journal where there is one.
    async fn confirm(&self, (now, unix): (Micros, UnixSeconds)) {
        self.set.confirm(i64::try_from(now).unwrap_or(i64::MAX));
        let Some(Kept { journal, synced, told, lacks }) = self.journal.clone() else { return };
        let due = now.saturating_sub(told.load(Ordering::Acquire)) >= SYNCED_INTERVAL_US;
        if !due || lacks.load(Ordering::Acquire) {
            return;
        }
        told.store(now, Ordering::Release);
        let write = move || synced.write(unix, journal.lock().bytes());
        if let Ok(Err(why)) = tokio::task::spawn_blocking(write).await {
            tracing::warn!(
                event = "revocations.unwritten",
                why = why.to_string(),
                "a start while the store is away will not know how old the journal is"
            );
        }
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
        let Some(Kept { journal, .. }) = self.journal.clone() else { return };
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

/// What the journal holds was all that was revoked at this time of the wall clock. One that lies in the future says that the
/// clock was set back: nothing is known then.
fn known_before(set: &Revocations, clock: &SystemClock, at: UnixSeconds) {
    let Some(age_s) = clock.unix().checked_sub(at) else { return };
    // Times are cut to seconds.
    let age = i64::try_from(age_s.saturating_add(1).saturating_mul(1_000_000)).unwrap_or(i64::MAX);
    set.confirm(i64::try_from(clock.now()).unwrap_or(i64::MAX).saturating_sub(age));
}

fn replay(path: &Path, set: &Revocations, clock: &SystemClock) -> anyhow::Result<(Kept, Option<UnixSeconds>)> {
    let (mut journal, Replayed { records, torn }) = Journal::open(path)?;
    let opened = Synced::open(path, journal.bytes());
    let (synced, at) = opened.with_context(|| format!("beside {}", path.display()))?;
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
    let (journal, synced) = (Arc::new(Mutex::new(journal)), Arc::new(synced));
    Ok((Kept { journal, synced, told: Arc::default(), lacks: Arc::default() }, at))
}

fn compact(journal: &mut Journal, set: &Revocations) -> Result<(), JournalError> {
    let alive = set.list();
    if !journal.is_worn(alive.len()) {
        return Ok(());
    }
    journal.replace(alive.iter().map(AsRef::as_ref))
}
