//! Failures and locks of one scope: a table of fixed size.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;
use portcullis_api::Micros;

use super::{ENTRIES_MAX, Ladder, Lock, LockKey, Scope};

const WAYS: usize = 8;

/// One scope's failures and locks.
#[derive(Debug)]
pub(super) struct Table {
    scope: Scope,
    sets: Box<[Mutex<Vec<Entry>>]>,
    /// Locks that ended early.
    lost: AtomicU64,
}

#[derive(Debug)]
struct Entry {
    key: LockKey,
    /// Times of failures, oldest first, never more than the last step of its ladder.
    stamps: VecDeque<Micros>,
    lock: Option<Lock>,
}

impl Entry {
    fn active(&self, now: Micros) -> Option<Lock> {
        self.lock.filter(|lock| now < lock.until)
    }

    fn forget_before(&mut self, window: Micros, now: Micros) {
        while self.stamps.front().is_some_and(|stamp| now.saturating_sub(*stamp) >= window) {
            self.stamps.pop_front();
        }
    }

    /// What is lost if the entry goes: the end of its lock, then its failures, then how fresh they are.
    fn worth(&self, now: Micros) -> (Micros, usize, Micros) {
        let locked = self.active(now).map_or(0, |lock| lock.until);
        (locked, self.stamps.len(), self.stamps.back().copied().unwrap_or(0))
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
        let Some(entry) = set.iter_mut().find(|entry| entry.key == key) else { return (None, 0) };
        entry.forget_before(ladder.window(), now);
        (entry.active(now), entry.stamps.len())
    }

    /// Counts a failure. Answers with the lock if this one begins or prolongs it.
    pub(super) fn fail(&self, key: LockKey, ladder: &Ladder, now: Micros) -> Option<Lock> {
        let mut set = set_of(&self.sets, key)?.lock();
        let entry = self.find_or_add(&mut set, key, ladder.window(), now)?;
        entry.stamps.push_back(now);
        while entry.stamps.len() > ladder.most() {
            entry.stamps.pop_front();
        }
        let failures = entry.stamps.len();
        let until = now.saturating_add(ladder.lock(failures)?);
        if entry.active(now).is_some_and(|lock| lock.until >= until) {
            return None;
        }
        let lock = Lock { scope: self.scope, key, failures, since: now, until };
        entry.lock = Some(lock);
        Some(lock)
    }

    /// Takes over from the shared store how many failures count.
    pub(super) fn learn_failures(&self, key: LockKey, failures: usize, ladder: &Ladder, now: Micros) {
        let Some(set) = set_of(&self.sets, key) else { return };
        let mut set = set.lock();
        let Some(entry) = self.find_or_add(&mut set, key, ladder.window(), now) else { return };
        let failures = failures.min(ladder.most());
        while entry.stamps.len() > failures {
            entry.stamps.pop_front();
        }
        // As late as they can have been.
        entry.stamps.resize(failures, now);
    }

    /// Takes over a lock from the shared store. Answers with it if it was news. One that is on keeps its end, unless the
    /// store's is later.
    pub(super) fn learn(&self, lock: Lock, now: Micros) -> Option<Lock> {
        let mut set = set_of(&self.sets, lock.key)?.lock();
        let entry = self.find_or_add(&mut set, lock.key, Micros::MAX, now)?;
        let before = entry.active(now);
        if before.is_some_and(|before| before.until >= lock.until) {
            return None;
        }
        entry.lock = Some(lock);
        before.is_none().then_some(lock)
    }

    /// Ends a lock and forgets the failures, of what is older than `lifted`. Answers whether a lock was on.
    pub(super) fn lift_before(&self, key: LockKey, lifted: Micros, now: Micros) -> bool {
        let Some(set) = set_of(&self.sets, key) else { return false };
        let mut set = set.lock();
        let Some(place) = set.iter().position(|entry| entry.key == key) else { return false };
        let Some(entry) = set.get_mut(place) else { return false };
        entry.stamps.retain(|stamp| *stamp >= lifted);
        let had = entry.lock.take_if(|lock| lock.since < lifted).is_some_and(|lock| now < lock.until);
        if entry.lock.is_none() && entry.stamps.is_empty() {
            set.swap_remove(place);
        }
        had
    }

    /// Every lock that is on, in no order.
    pub(super) fn list(&self, now: Micros) -> impl Iterator<Item = Lock> {
        self.sets
            .iter()
            .flat_map(move |set| set.lock().iter().filter_map(|entry| entry.active(now)).collect::<Vec<_>>())
    }

    /// Locks that ended early because the set of a key was full of locks.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// The entry of a key. Where there is none and the set is full, the one of which the least is lost makes room.
    fn find_or_add<'s>(
        &self,
        set: &'s mut Vec<Entry>,
        key: LockKey,
        window: Micros,
        now: Micros,
    ) -> Option<&'s mut Entry> {
        set.iter_mut().for_each(|entry| entry.forget_before(window, now));
        if let Some(place) = set.iter().position(|entry| entry.key == key) {
            return set.get_mut(place);
        }
        if set.len() >= WAYS {
            let (least, _) = set.iter().enumerate().min_by_key(|(_, entry)| entry.worth(now))?;
            if set.swap_remove(least).active(now).is_some() {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
        set.push(Entry { key, stamps: VecDeque::new(), lock: None });
        set.last_mut()
    }
}
