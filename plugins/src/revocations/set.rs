//! The set itself: who asks it is a request, so a look-up takes one lock of many and no clock.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use parking_lot::RwLock;
use portcullis_api::{Micros, UnixSeconds};

use super::{Age, Kind, Mark, Record, Revocable, fresh::Synced};

/// Revocations that are kept at once: about 60 MB of them.
pub const ENTRIES_MAX: usize = 200_000;
const SHARDS: usize = 16;

/// What is revoked.
pub struct Revocations {
    shards: [RwLock<HashMap<Mark, Arc<Record>>>; SHARDS],
    entries: AtomicUsize,
    entries_max: usize,
    changes: AtomicU64,
    synced: Synced,
}

/// What became of a revocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learned {
    /// It refuses something that was not refused before.
    News,
    /// All of that was refused already.
    Known,
    /// Nothing that it refuses can be valid any more.
    Over,
}

/// There is no room for one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "there are {0} revocations, which is all there is room for: revoke a subject, a tenant or an issuer instead of single tokens"
)]
pub struct Full(usize);

impl Revocations {
    /// Room for so many; [`ENTRIES_MAX`] suits all.
    #[must_use]
    pub fn new(entries_max: usize) -> Self {
        Self {
            shards: std::array::from_fn(|_| RwLock::default()),
            entries: AtomicUsize::new(0),
            entries_max,
            changes: AtomicU64::new(0),
            synced: Synced::alone(),
        }
    }

    /// From here on other gateways revoke too: what is known is as old as the last [`Self::confirm`].
    pub fn follow(&self) {
        self.synced.follow();
    }

    /// All that any gateway had revoked at this time is known, in microseconds of the monotonic clock; negative before its
    /// zero.
    pub fn confirm(&self, at: i64) {
        self.synced.confirm(at);
    }

    /// How old what is known is. The clock is read where others revoke too.
    #[must_use]
    pub fn age(&self, now: impl FnOnce() -> Micros) -> Age {
        self.synced.age(now)
    }

    fn shard(&self, mark: &Mark) -> &RwLock<HashMap<Mark, Arc<Record>>> {
        let [first, ..] = &self.shards;
        let Mark([byte, ..]) = mark;
        self.shards.get(usize::from(byte & 15)).unwrap_or(first)
    }

    /// Whether there is room for it. Whoever writes it down first asks this before.
    ///
    /// # Errors
    /// [`Full`].
    pub fn room_for(&self, mark: &Mark) -> Result<(), Full> {
        let room = self.len() < self.entries_max || self.shard(mark).read().contains_key(mark);
        if room { Ok(()) } else { Err(Full(self.len())) }
    }

    /// Takes a revocation over. Of two of the same thing the later one counts.
    ///
    /// # Errors
    /// [`Full`]: nothing was taken over, and nothing that was is forgotten for it.
    pub fn learn(&self, record: Record, now: UnixSeconds) -> Result<Learned, Full> {
        if record.expires() <= now {
            return Ok(Learned::Over);
        }
        let mut shard = self.shard(&record.mark).write();
        match shard.entry(record.mark) {
            Entry::Occupied(mut known) => {
                if known.get().at >= record.at {
                    return Ok(Learned::Known);
                }
                known.insert(Arc::new(record));
            }
            Entry::Vacant(place) => {
                let room = |count: usize| (count < self.entries_max).then(|| count.saturating_add(1));
                if let Err(count) = self.entries.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room) {
                    return Err(Full(count));
                }
                place.insert(Arc::new(record));
            }
        }
        drop(shard);
        self.changes.fetch_add(1, Ordering::Release);
        Ok(Learned::News)
    }

    /// Forgets what refuses nothing any more; how many those were.
    pub fn expire(&self, now: UnixSeconds) -> usize {
        let mut gone = 0_usize;
        for shard in &self.shards {
            let mut shard = shard.write();
            let before = shard.len();
            shard.retain(|_, record| record.expires() > now);
            gone = gone.saturating_add(before.saturating_sub(shard.len()));
        }
        self.entries.fetch_sub(gone, Ordering::Relaxed);
        gone
    }

    /// All of them, the newest first.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Record>> {
        let mut all: Vec<_> =
            self.shards.iter().flat_map(|shard| shard.read().values().cloned().collect::<Vec<_>>()).collect();
        all.sort_by_key(|record| (std::cmp::Reverse(record.at), record.mark));
        all
    }

    /// The revocation of this mark.
    #[must_use]
    pub fn find(&self, mark: &Mark) -> Option<Arc<Record>> {
        self.shard(mark).read().get(mark).cloned()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.load(Ordering::Relaxed)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A number that is another one after each change. For those who asked before and must ask again.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// What of it was revoked, if anything.
    #[must_use]
    pub fn revoked(&self, credential: &Revocable) -> Option<Kind> {
        if self.is_empty() {
            return None;
        }
        let refused = |(_, mark): &&(Kind, Mark)| {
            self.shard(mark).read().get(mark).is_some_and(|record| record.refuses(credential.issued))
        };
        credential.marks.iter().find(refused).map(|(kind, _)| *kind)
    }
}
