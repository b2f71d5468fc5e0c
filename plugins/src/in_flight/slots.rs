//! Who is under way: a count a key, of keys that have one.
//!
//! Invariant: a count is the number of [`Held`] that hold its key. Nothing else changes it, and a `Held` gives back once,
//! when it is dropped; so no count is ever below zero, and none is left behind.
//!
//! Memory is bounded by the requests under way: a key is there while one of them holds it, so there are at most as many
//! keys as requests times the in-flight limits of their routes. A stream of hostile keys needs a stream of open requests,
//! which the listener's bounds limit. What a peak took is kept for the next.
//!
//! Why no table of fixed size, as for buckets: there a bucket that makes room has lost a little of a debt; here it would
//! let in everybody again.

use std::{
    collections::{HashMap, hash_map::Entry},
    num::NonZeroU32,
    sync::Arc,
};

use parking_lot::{Mutex, MutexGuard};

/// Enough that two requests seldom want the same lock, which is held for as long as one look-up takes.
const SHARDS: u8 = 64;

type Shard = HashMap<u128, NonZeroU32>;

/// The counts of this process.
#[derive(Debug)]
pub struct Slots {
    shards: Box<[Mutex<Shard>]>,
}

/// One slot that is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// A keyed hash of the limit and what it counts by. Stands at most once in a call.
    pub key: u128,
    /// So many may be under way with it.
    pub most: NonZeroU32,
}

/// Slots of one request.
#[derive(Debug)]
pub struct Held {
    slots: Arc<Slots>,
    keys: Vec<u128>,
}

impl Default for Slots {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }
}

impl Slots {
    /// Takes a slot of each key, or of none: then how many are under way of each, in their order.
    ///
    /// # Errors
    /// The counts.
    pub fn take(self: &Arc<Self>, wanted: &[Wanted]) -> Result<Held, Vec<u32>> {
        let mut locked = self.lock(wanted);
        let count = |shard: &Shard, key: u128| shard.get(&key).map_or(0, |count| count.get());
        let counts: Vec<u32> = wanted
            .iter()
            .map(|Wanted { key, .. }| shard(&mut locked, place(*key)).map_or(u32::MAX, |shard| count(shard, *key)))
            .collect();
        if counts.iter().zip(wanted).any(|(count, Wanted { most, .. })| *count >= most.get()) {
            return Err(counts);
        }
        for Wanted { key, .. } in wanted {
            if let Some(shard) = shard(&mut locked, place(*key)) {
                shard.entry(*key).and_modify(|count| *count = count.saturating_add(1)).or_insert(NonZeroU32::MIN);
            }
        }
        Ok(Held { slots: self.clone(), keys: wanted.iter().map(|wanted| wanted.key).collect() })
    }

    /// How many hold a key.
    #[must_use]
    pub fn count(&self, key: u128) -> u32 {
        let shard = self.shards.get(place(key));
        shard.and_then(|shard| shard.lock().get(&key).copied()).map_or(0, NonZeroU32::get)
    }

    /// Keys that somebody holds.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    fn free(&self, key: u128) {
        let Some(shard) = self.shards.get(place(key)) else { return };
        let mut shard = shard.lock();
        if let Entry::Occupied(mut entry) = shard.entry(key) {
            match entry.get().get().checked_sub(1).and_then(NonZeroU32::new) {
                Some(left) => drop(entry.insert(left)),
                None => drop(entry.remove()),
            }
        }
    }

    /// Locks each shard of a call once, in the order of their indices, so that two calls cannot wait for each other.
    fn lock(&self, wanted: &[Wanted]) -> Vec<(usize, MutexGuard<'_, Shard>)> {
        let mut indices: Vec<usize> = wanted.iter().map(|wanted| place(wanted.key)).collect();
        indices.sort_unstable();
        indices.dedup();
        indices.into_iter().filter_map(|index| Some((index, self.shards.get(index)?.lock()))).collect()
    }
}

/// The shard of a key. Keys are keyed hashes: nobody outside can choose it.
fn place(key: u128) -> usize {
    usize::try_from(key.checked_rem(u128::from(SHARDS)).unwrap_or(0)).unwrap_or(0)
}

fn shard<'s>(locked: &'s mut [(usize, MutexGuard<'_, Shard>)], index: usize) -> Option<&'s mut Shard> {
    locked.iter_mut().find(|(at, _)| *at == index).map(|(_, shard)| &mut **shard)
}

impl Held {
    /// One value of two.
    pub(super) fn both(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (Some(mut one), Some(mut other)) => {
                one.keys.append(&mut other.keys);
                Some(one)
            }
            (one, None) => one,
            (None, other) => other,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.keys.iter().for_each(|key| self.slots.free(*key));
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "the numbers of the tests are small")]
mod tests {
    use std::{sync::Barrier, thread};

    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn wanted(key: u128, most: u32) -> Wanted {
        Wanted { key, most: NonZeroU32::new(most).unwrap() }
    }

    #[test]
    fn many_at_once_never_hold_more_than_may_be_and_leave_nothing_behind() {
        let (slots, start) = (Arc::new(Slots::default()), Barrier::new(8));
        // Two keys of one shard, one of another, in every order.
        let keys = [1, 1 + u128::from(SHARDS), 2];
        let holding = [const { std::sync::atomic::AtomicU32::new(0) }; 3];
        thread::scope(|scope| {
            for turn in 0..8_usize {
                let (slots, start, holding) = (&slots, &start, &holding);
                scope.spawn(move || {
                    start.wait();
                    for round in 0..4_000 {
                        let order = [(turn + round) % 3, (turn + round + 1) % 3];
                        let most = |n: usize| u32::try_from(n).unwrap() + 2;
                        let Ok(held) = slots.take(&order.map(|n| wanted(keys[n], most(n)))) else { continue };
                        for n in order {
                            let before = holding[n].fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                            assert!(before < most(n), "{before} of {} before", most(n));
                        }
                        for n in order {
                            holding[n].fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        }
                        drop(held);
                    }
                });
            }
        });
        assert_eq!(slots.keys(), 0);
    }

    #[test]
    fn a_thread_that_panics_gives_its_slot_back() {
        let slots = Arc::new(Slots::default());
        let theirs = slots.clone();
        let ended = thread::spawn(move || {
            let _held = theirs.take(&[wanted(1, 1)]).unwrap();
            panic!("of the test");
        });
        assert!(ended.join().is_err());
        assert!(slots.take(&[wanted(1, 1)]).is_ok());
    }

    proptest! {
        #[test]
        fn counts_are_those_of_a_plain_list_whatever_the_order(
            steps in vec((vec(0..6u8, 1..4), 0..8usize, any::<bool>()), 1..120),
        ) {
            let slots = Arc::new(Slots::default());
            let mut under_way: Vec<(Vec<u8>, Held)> = Vec::new();
            for (mut keys, which, over) in steps {
                if over && !under_way.is_empty() {
                    drop(under_way.remove(which % under_way.len()));
                    continue;
                }
                keys.sort_unstable();
                keys.dedup();
                // The number follows from the key, as it does from the limit; half of the keys share a shard.
                let most = |key: u8| u32::from(key % 3) + 1;
                let at = |key: u8| u128::from(key / 2) + u128::from(key % 2) * u128::from(SHARDS);
                let plain = |key: u8| under_way.iter().filter(|(keys, _)| keys.contains(&key)).count();
                let counts: Vec<u32> = keys.iter().map(|&key| u32::try_from(plain(key)).unwrap()).collect();
                let free = keys.iter().zip(&counts).all(|(&key, &count)| count < most(key));
                let asked: Vec<Wanted> = keys.iter().map(|&key| wanted(at(key), most(key))).collect();
                match slots.take(&asked) {
                    Ok(held) => {
                        prop_assert!(free);
                        under_way.push((keys, held));
                    }
                    Err(told) => prop_assert_eq!((free, told), (false, counts)),
                }
                let mut all: Vec<u8> = under_way.iter().flat_map(|(keys, _)| keys.iter().copied()).collect();
                all.sort_unstable();
                all.dedup();
                prop_assert_eq!(slots.keys(), all.len());
            }
            under_way.clear();
            prop_assert_eq!(slots.keys(), 0);
        }
    }
}
