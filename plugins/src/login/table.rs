//! Failures and locks of one scope: a table of fixed size.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use portcullis_api::Micros;

use super::{ENTRIES_MAX, Ladder, Lock, LockKey, Scope};
use crate::places::{Places, Timed, WAYS};

/// One scope's failures and locks.
#[derive(Debug)]
pub(super) struct Table {
    scope: Scope,
    sets: Box<[Mutex<Places<LockKey, Lock>>]>,
    /// Locks that ended early.
    lost: AtomicU64,
}

impl Timed for Lock {
    fn since(&self) -> Micros {
        self.since
    }

    fn until(&self) -> Micros {
        self.until
    }
}

/// The set of a key. Keys are keyed hashes: nobody outside can choose it.
pub(super) fn set_of<T>(sets: &[T], key: LockKey) -> Option<&T> {
    let index = key.network_part().checked_rem(u64::try_from(sets.len()).ok()?)?;
    sets.get(usize::try_from(index).ok()?)
}

impl Table {
    pub(super) fn new(scope: Scope) -> Self {
        let sets = std::iter::repeat_with(Mutex::default).take(ENTRIES_MAX.div_ceil(WAYS)).collect();
        Self { scope, sets, lost: AtomicU64::new(0) }
    }

    /// The lock that is on, and how many failures count.
    pub(super) fn stands(&self, key: LockKey, ladder: &Ladder, now: Micros) -> (Option<Lock>, usize) {
        let Some(set) = set_of(&self.sets, key) else { return (None, 0) };
        let mut set = set.lock();
        let Some(place) = set.find(key) else { return (None, 0) };
        place.forget_before(ladder.window(), now);
        (place.active(now), place.stamps.len())
    }

    /// Counts a failure. Answers with the lock if this one begins or prolongs it.
    pub(super) fn fail(&self, key: LockKey, ladder: &Ladder, now: Micros) -> Option<Lock> {
        let mut set = set_of(&self.sets, key)?.lock();
        let place = set.find_or_add(key, ladder.window(), now, &self.lost)?;
        place.stamps.push_back(now);
        while place.stamps.len() > ladder.most() {
            place.stamps.pop_front();
        }
        let failures = place.stamps.len();
        let until = now.saturating_add(ladder.lock(failures)?);
        if place.active(now).is_some_and(|lock| lock.until >= until) {
            return None;
        }
        let lock = Lock { scope: self.scope, key, failures, since: now, until };
        place.begun = Some(lock);
        Some(lock)
    }

    /// Takes over from the shared store how many failures count.
    pub(super) fn learn_failures(&self, key: LockKey, failures: usize, ladder: &Ladder, now: Micros) {
        let Some(set) = set_of(&self.sets, key) else { return };
        let mut set = set.lock();
        let Some(place) = set.find_or_add(key, ladder.window(), now, &self.lost) else { return };
        let failures = failures.min(ladder.most());
        while place.stamps.len() > failures {
            place.stamps.pop_front();
        }
        // As late as they can have been.
        place.stamps.resize(failures, now);
    }

    /// Takes over a lock from the shared store. Answers with it if it was news. One that is on keeps its end, unless the
    /// store's is later.
    pub(super) fn learn(&self, lock: Lock, now: Micros) -> Option<Lock> {
        let mut set = set_of(&self.sets, lock.key)?.lock();
        let place = set.find_or_add(lock.key, Micros::MAX, now, &self.lost)?;
        let before = place.active(now);
        if before.is_some_and(|before| before.until >= lock.until) {
            return None;
        }
        place.begun = Some(lock);
        before.is_none().then_some(lock)
    }

    /// Ends a lock and forgets the failures, of what is older than `lifted`. Answers whether a lock was on.
    pub(super) fn lift_before(&self, key: LockKey, lifted: Micros, now: Micros) -> bool {
        let ended = set_of(&self.sets, key).and_then(|set| set.lock().lift_before(key, lifted));
        ended.is_some_and(|lock| now < lock.until)
    }

    /// Every lock that is on, in no order.
    pub(super) fn list(&self, now: Micros) -> impl Iterator<Item = Lock> {
        self.sets.iter().flat_map(move |set| set.lock().active(now))
    }

    /// Locks that ended early because the set of a key was full of locks.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}
