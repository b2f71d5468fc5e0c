//! The buckets of this process: a table of fixed size for each limit, so that no stream of hostile keys grows it.
//!
//! Sixteen ways, sixteen bytes a slot, one small lock a set. A bucket that is full again equals an absent one, so the
//! slot with the smallest TAT is the one that loses least when room is needed. Where all sixteen of a set are in use, the
//! set remembers the TAT of the one that made room, and whoever is not in it, with the same numbers, counts as having used
//! as much: so nobody is freed from a limit by a flood, and with `k` slots and `n` requests a newcomer is charged with at most about `n / k`
//! of others (the bound of Space-Saving; Metwally, Agrawal, El Abbadi: "Efficient Computation of Frequent and Top-k
//! Elements in Data Streams", 2005). That is counted.
//!
//! Why not governor: it charges one limit at a time, so a request that the second of two limits refuses has already
//! paid the first (we charge all or none), and its map grows with every key until somebody prunes it. See
//! `gateway/adr/0002-own-gcra-table.md`.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::{Mutex, MutexGuard};
use portcullis_api::Micros;

use super::{
    Rate, Rules,
    counters::{Answer, Binding, Bucket, Level},
};

/// Enough that at a quarter of the slots in use one set in a million is full.
const WAYS: usize = 16;

/// Numbers of which a set remembers who made room. Of more at once the least is forgotten.
const FLOORS: usize = 4;

/// Buckets of one limit when nobody says otherwise: about 1.4 MB.
pub const KEYS_MAX: u32 = 1 << 16;

/// One bucket: the upper half of its key, and its TAT. All zero is free, and also right for a bucket that is full.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    tag: u64,
    tat: Micros,
}

#[derive(Debug, Default)]
struct Set {
    slots: [Slot; WAYS],
    floors: [Floor; FLOORS],
}

/// No bucket of these numbers that has made room here had a later TAT.
#[derive(Debug, Clone, Copy, Default)]
struct Floor {
    /// The last byte of a tag; see [`super::with_class`]. A TAT says little between numbers: an hour's debt of one bucket
    /// would be for ever in another that fills in a second.
    class: u8,
    tat: Micros,
}

/// A table for each limit. They outlive every snapshot.
#[derive(Debug)]
pub struct Tables {
    keys_max: u32,
    crowded: Arc<AtomicU64>,
    by_limit: Mutex<HashMap<Arc<str>, Arc<Table>>>,
}

impl Tables {
    /// No table yet; each will have room for `keys_max` buckets.
    #[must_use]
    pub fn new(keys_max: u32) -> Self {
        Self { keys_max, crowded: Arc::default(), by_limit: Mutex::default() }
    }

    /// How often a bucket was asked that counts as having used what others have: not zero means that `keys_max` is too
    /// small for what comes.
    #[must_use]
    pub fn crowded(&self) -> u64 {
        self.crowded.load(Ordering::Relaxed)
    }

    /// The table of a limit, if it was ever counted in.
    pub(super) fn known(&self, limit: &str) -> Option<Arc<Table>> {
        self.by_limit.lock().get(limit).cloned()
    }

    /// A table for each limit that a route is under, by the index of its rule. Tables of limits that are in no snapshot
    /// any more go.
    pub(super) fn of(&self, rules: &Rules) -> Box<[Option<Arc<Table>>]> {
        let mut by_limit = self.by_limit.lock();
        let mut tables = Vec::new();
        for rule in rules.under_routes() {
            if tables.len() <= rule.index {
                tables.resize(rule.index.saturating_add(1), None);
            }
            let new = || Arc::new(Table::counting(self.keys_max, self.crowded.clone()));
            let table = by_limit.entry(rule.name.clone()).or_insert_with(new).clone();
            tables.get_mut(rule.index).into_iter().for_each(|place| *place = Some(table.clone()));
        }
        by_limit.retain(|_, table| Arc::strong_count(table) > 1);
        tables.into()
    }
}

/// Buckets in memory.
#[derive(Debug)]
pub struct Table {
    sets: Box<[Mutex<Set>]>,
    mask: u64,
    crowded: Arc<AtomicU64>,
}

/// Takes what a request costs of each bucket at `now`, all or none of those bound together. Answers in their order.
pub(super) fn take(now: Micros, wanted: &[(&Table, Bucket<'_>)]) -> Vec<Level> {
    match wanted {
        [] => return Vec::new(),
        [(table, bucket)] => return vec![table.take_one(now, bucket.key, bucket.rate)],
        _ => {}
    }
    let mut locked = lock(wanted);
    let has_tokens = |locked: &[Locked<'_>], (table, bucket): &(&Table, Bucket<'_>)| {
        let (place, tag) = table.place(bucket.key);
        set(locked, place).is_some_and(|set| bucket.rate.take(set.tat(tag), now, 1).granted == 1)
    };
    let all = wanted.iter().all(|wanted| wanted.1.binding == Binding::Alone || has_tokens(&locked, wanted));
    wanted
        .iter()
        .map(|(table, bucket)| {
            let (place, tag) = table.place(bucket.key);
            let want = u32::from(all || bucket.binding == Binding::Alone);
            let Some(set) = set_mut(&mut locked, place) else {
                return Level::of(Answer::Short, bucket.rate.take(Micros::MAX, now, 0));
            };
            table.admit(set, tag, bucket.rate, now, want)
        })
        .collect()
}

/// Gives back at `now` what is left of what [`take`] took at `taken` of the buckets bound together, with these answers,
/// because the request was refused elsewhere. Those alone keep their charge.
pub(super) fn give_back(now: Micros, taken: Micros, wanted: &[(&Table, Bucket<'_>)], levels: &[Level]) {
    for ((table, bucket), level) in
        wanted.iter().zip(levels).filter(|((_, bucket), _)| bucket.binding == Binding::Together)
    {
        let (place, tag) = table.place(bucket.key);
        let Some(set) = table.sets.get(place.set) else { continue };
        if let Some(slot) = set.lock().slots.iter_mut().find(|slot| slot.tag == tag) {
            slot.tat = bucket.rate.give_back(slot.tat, taken.saturating_add(level.reset_after), now);
        }
    }
}

impl Table {
    /// A table of at least `keys_max` slots, rounded up to a power of two. Its memory is taken here and never grows:
    /// 21 bytes a slot.
    #[must_use]
    pub fn new(keys_max: u32) -> Self {
        Self::counting(keys_max, Arc::default())
    }

    fn counting(keys_max: u32, crowded: Arc<AtomicU64>) -> Self {
        let slots = usize::try_from(keys_max).unwrap_or(usize::MAX);
        let sets = slots.div_ceil(WAYS).max(1).checked_next_power_of_two().unwrap_or(1);
        let sets: Box<[_]> = std::iter::repeat_with(Mutex::default).take(sets).collect();
        let mask = u64::try_from(sets.len()).unwrap_or(1).saturating_sub(1);
        Self { sets, mask, crowded }
    }

    /// Slots in all.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.sets.len().saturating_mul(WAYS)
    }

    /// How often a bucket was asked that counts as having used what others have, in all tables that this one counts with.
    #[must_use]
    pub fn crowded(&self) -> u64 {
        self.crowded.load(Ordering::Relaxed)
    }

    /// Takes what a request costs of each bucket at `now`, all or none of those bound together. Answers in their order.
    #[must_use]
    pub fn take(&self, now: Micros, buckets: &[Bucket<'_>]) -> Vec<Level> {
        let wanted: Vec<_> = buckets.iter().map(|bucket| (self, *bucket)).collect();
        take(now, &wanted)
    }

    /// Takes what a request costs of one bucket at `now`, without an allocation.
    #[must_use]
    pub fn take_one(&self, now: Micros, key: u128, rate: Rate) -> Level {
        let (place, tag) = self.place(key);
        match self.sets.get(place.set) {
            Some(set) => self.admit(&mut set.lock(), tag, rate, now, 1),
            None => Level::of(Answer::Short, rate.take(Micros::MAX, now, 0)),
        }
    }

    /// How a bucket stands at `now`.
    pub(super) fn peek(&self, now: Micros, bucket: &Bucket<'_>) -> Level {
        let (place, tag) = self.place(bucket.key);
        let stored = self.sets.get(place.set).map_or(0, |set| set.lock().tat(tag));
        Level::at_rest(bucket.rate, stored, now)
    }

    /// Fills a bucket.
    pub(super) fn clear(&self, now: Micros, bucket: &Bucket<'_>) {
        let (place, tag) = self.place(bucket.key);
        let Some(set) = self.sets.get(place.set) else { return };
        // With a place of its own: what others used does not count against it.
        self.store(&mut set.lock(), Slot { tag, tat: now }, now);
    }

    /// Takes `tokens` of a bucket at `now`, or as many as it has.
    pub(super) fn charge(&self, now: Micros, key: u128, rate: Rate, tokens: NonZeroU32) {
        let (place, tag) = self.place(key);
        let Some(set) = self.sets.get(place.set) else { return };
        let mut set = set.lock();
        let tat = rate.charge(set.tat(tag), now, tokens);
        self.store(&mut set, Slot { tag, tat }, now);
    }

    fn admit(&self, set: &mut Set, tag: u64, rate: Rate, now: Micros, want: u32) -> Level {
        if set.find(tag).is_none() && set.floor(tag) > now {
            self.crowded.fetch_add(1, Ordering::Relaxed);
        }
        let taken = rate.take(set.tat(tag), now, want);
        if taken.granted == 1 {
            self.store(set, Slot { tag, tat: taken.tat }, now);
            return Level::of(Answer::Charged, taken);
        }
        Level::untaken(taken)
    }

    fn store(&self, set: &mut Set, new: Slot, now: Micros) {
        let place = match set.slots.iter().position(|slot| slot.tag == new.tag) {
            Some(known) => set.slots.get_mut(known),
            None => set.slots.iter_mut().min_by_key(|slot| slot.tat),
        };
        let Some(slot) = place else { return };
        let gone = std::mem::replace(slot, new);
        if gone.tag != new.tag && gone.tat > now {
            set.raise(gone);
        }
    }

    /// The set of a key, and its tag there. Keys are keyed hashes: nobody outside can choose either.
    fn place(&self, key: u128) -> (Place, u64) {
        let low = u64::try_from(key & u128::from(u64::MAX)).unwrap_or(0);
        let tag = u64::try_from(key >> 64).unwrap_or(0);
        let set = usize::try_from(low & self.mask).unwrap_or(0);
        (Place { table: std::ptr::from_ref(self).addr(), set }, tag)
    }
}

impl Set {
    fn find(&self, tag: u64) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.tag == tag)
    }

    fn tat(&self, tag: u64) -> Micros {
        self.find(tag).map_or_else(|| self.floor(tag), |slot| slot.tat)
    }

    fn floor(&self, tag: u64) -> Micros {
        self.floors.iter().find(|floor| floor.class == class(tag)).map_or(0, |floor| floor.tat)
    }

    fn raise(&mut self, gone: Slot) {
        let class = class(gone.tag);
        let place = match self.floors.iter().position(|floor| floor.class == class) {
            Some(known) => self.floors.get_mut(known),
            None => self.floors.iter_mut().min_by_key(|floor| floor.tat),
        };
        let Some(floor) = place else { return };
        let known = if floor.class == class { floor.tat } else { 0 };
        *floor = Floor { class, tat: known.max(gone.tat) };
    }
}

fn class(tag: u64) -> u8 {
    let [.., class] = tag.to_be_bytes();
    class
}

/// A set among those of all tables, which stay where they are while they are locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    table: usize,
    set: usize,
}

type Locked<'t> = (Place, MutexGuard<'t, Set>);

/// Locks each set of a call once, in the order of their places, so that two calls cannot wait for each other.
fn lock<'t>(wanted: &[(&'t Table, Bucket<'_>)]) -> Vec<Locked<'t>> {
    let mut places: Vec<(Place, &Table)> =
        wanted.iter().map(|(table, bucket)| (table.place(bucket.key).0, *table)).collect();
    places.sort_unstable_by_key(|(place, _)| *place);
    places.dedup_by_key(|(place, _)| *place);
    places.into_iter().filter_map(|(place, table)| Some((place, table.sets.get(place.set)?.lock()))).collect()
}

fn set<'s>(locked: &'s [Locked<'_>], place: Place) -> Option<&'s Set> {
    let at = locked.binary_search_by_key(&place, |(place, _)| *place).ok()?;
    locked.get(at).map(|(_, set)| &**set)
}

fn set_mut<'s>(locked: &'s mut [Locked<'_>], place: Place) -> Option<&'s mut Set> {
    let at = locked.binary_search_by_key(&place, |(place, _)| *place).ok()?;
    locked.get_mut(at).map(|(_, set)| &mut **set)
}

#[cfg(test)]
mod tests;
