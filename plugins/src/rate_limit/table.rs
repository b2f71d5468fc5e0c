//! The buckets of this process: a table of fixed size, so that no stream of hostile keys grows it.
//!
//! Eight ways, sixteen bytes a slot, one small lock a set. A bucket that is full again equals an absent one, so the
//! slot with the smallest TAT is the one that loses least when room is needed; a bucket in use is lost only when all
//! eight of its set are, and that is counted. The bucket of an abuser has the largest TAT and goes last.
//!
//! Why not governor: it charges one limit at a time, so a request that the second of two limits refuses has already
//! paid the first (we charge all or none), and its map grows with every key until somebody prunes it. See
//! `gateway/adr/0002-own-gcra-table.md`.

use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::{Mutex, MutexGuard};
use portcullis_api::Micros;

use super::{
    Rate,
    counters::{Answer, Binding, Bucket, Level},
};

const WAYS: usize = 8;

/// Slots of a table when nobody says otherwise: about 2.2 MB.
pub const SLOTS: usize = 1 << 17;

/// One bucket: the upper half of its key, and its TAT. All zero is free, and also right for a bucket that is full.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    tag: u64,
    tat: Micros,
}

type Set = [Slot; WAYS];

/// Buckets in memory.
#[derive(Debug)]
pub struct Table {
    sets: Box<[Mutex<Set>]>,
    mask: u64,
    live_evictions: AtomicU64,
}

impl Default for Table {
    fn default() -> Self {
        Self::new(SLOTS)
    }
}

impl Table {
    /// A table of at least `slots` slots, rounded up to a power of two. Its memory is taken here and never grows:
    /// 17 bytes a slot.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        let sets = slots.div_ceil(WAYS).max(1).checked_next_power_of_two().unwrap_or(1);
        let sets: Box<[_]> = std::iter::repeat_with(Mutex::default).take(sets).collect();
        let mask = u64::try_from(sets.len()).unwrap_or(1).saturating_sub(1);
        Self { sets, mask, live_evictions: AtomicU64::new(0) }
    }

    /// Slots in all.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.sets.len().saturating_mul(WAYS)
    }

    /// How many buckets in use had to make room: not zero means that the table is too small for what is counted.
    #[must_use]
    pub fn live_evictions(&self) -> u64 {
        self.live_evictions.load(Ordering::Relaxed)
    }

    /// Takes what a request costs of each bucket at `now`, all or none of those bound together. Answers in their order.
    #[must_use]
    pub fn take(&self, now: Micros, buckets: &[Bucket<'_>]) -> Vec<Level> {
        if let [bucket] = buckets {
            return vec![self.take_one(now, bucket.key, bucket.rate)];
        }
        let mut locked = self.lock(buckets);
        let has_token = |locked: &[(usize, MutexGuard<'_, Set>)], bucket: &Bucket<'_>| {
            let (index, tag) = self.place(bucket.key);
            set(locked, index).is_some_and(|set| bucket.rate.take(tat(set, tag), now, 1).granted == 1)
        };
        let all = buckets.iter().all(|bucket| bucket.binding == Binding::Alone || has_token(&locked, bucket));
        buckets
            .iter()
            .map(|bucket| {
                let (index, tag) = self.place(bucket.key);
                let want = u32::from(all || bucket.binding == Binding::Alone);
                let Some(set) = set_mut(&mut locked, index) else {
                    return Level::of(Answer::Short, bucket.rate.take(Micros::MAX, now, 0));
                };
                self.admit(set, tag, bucket.rate, now, want)
            })
            .collect()
    }

    /// Takes what a request costs of one bucket at `now`, without an allocation.
    #[must_use]
    pub fn take_one(&self, now: Micros, key: u128, rate: Rate) -> Level {
        let (index, tag) = self.place(key);
        match self.sets.get(index) {
            Some(set) => self.admit(&mut set.lock(), tag, rate, now, 1),
            None => Level::of(Answer::Short, rate.take(Micros::MAX, now, 0)),
        }
    }

    /// How a bucket stands at `now`.
    pub(super) fn peek(&self, now: Micros, bucket: &Bucket<'_>) -> Level {
        let (index, tag) = self.place(bucket.key);
        let stored = self.sets.get(index).map_or(0, |set| tat(&set.lock(), tag));
        Level::at_rest(bucket.rate, stored, now)
    }

    /// Fills a bucket.
    pub(super) fn clear(&self, bucket: &Bucket<'_>) {
        let (index, tag) = self.place(bucket.key);
        let Some(set) = self.sets.get(index) else { return };
        if let Some(slot) = set.lock().iter_mut().find(|slot| slot.tag == tag) {
            *slot = Slot::default();
        }
    }

    /// Gives back at `now` what is left of what [`Table::take`] took at `taken` of the buckets bound together, with these
    /// answers, because the request was refused elsewhere. Those alone keep their charge.
    pub fn give_back(&self, now: Micros, taken: Micros, buckets: &[Bucket<'_>], levels: &[Level]) {
        for (bucket, level) in buckets.iter().zip(levels).filter(|(bucket, _)| bucket.binding == Binding::Together) {
            let (index, tag) = self.place(bucket.key);
            let Some(set) = self.sets.get(index) else { continue };
            if let Some(slot) = set.lock().iter_mut().find(|slot| slot.tag == tag) {
                slot.tat = bucket.rate.give_back(slot.tat, taken.saturating_add(level.reset_after), now);
            }
        }
    }

    /// Takes `tokens` of a bucket at `now`, or as many as it has.
    pub(super) fn charge(&self, now: Micros, key: u128, rate: Rate, tokens: NonZeroU32) {
        let (index, tag) = self.place(key);
        let Some(set) = self.sets.get(index) else { return };
        let mut set = set.lock();
        let tat = rate.charge(tat(&set, tag), now, tokens);
        self.store(&mut set, Slot { tag, tat }, now);
    }

    fn admit(&self, set: &mut Set, tag: u64, rate: Rate, now: Micros, want: u32) -> Level {
        let taken = rate.take(tat(set, tag), now, want);
        if taken.granted == 1 {
            self.store(set, Slot { tag, tat: taken.tat }, now);
            return Level::of(Answer::Charged, taken);
        }
        Level::untaken(taken)
    }

    fn store(&self, set: &mut Set, new: Slot, now: Micros) {
        let place = match set.iter().position(|slot| slot.tag == new.tag) {
            Some(known) => set.get_mut(known),
            None => set.iter_mut().min_by_key(|slot| slot.tat),
        };
        let Some(slot) = place else { return };
        if slot.tag != new.tag && slot.tat > now {
            self.live_evictions.fetch_add(1, Ordering::Relaxed);
        }
        *slot = new;
    }

    /// Locks each set of a call once, in the order of their indices, so that two calls cannot wait for each other.
    fn lock(&self, buckets: &[Bucket<'_>]) -> Vec<(usize, MutexGuard<'_, Set>)> {
        let mut indices: Vec<usize> = buckets.iter().map(|bucket| self.place(bucket.key).0).collect();
        indices.sort_unstable();
        indices.dedup();
        indices.into_iter().filter_map(|index| Some((index, self.sets.get(index)?.lock()))).collect()
    }

    /// The set of a key, and its tag there. Keys are keyed hashes: nobody outside can choose either.
    fn place(&self, key: u128) -> (usize, u64) {
        let low = u64::try_from(key & u128::from(u64::MAX)).unwrap_or(0);
        let tag = u64::try_from(key >> 64).unwrap_or(0);
        (usize::try_from(low & self.mask).unwrap_or(0), tag)
    }
}

fn tat(set: &Set, tag: u64) -> Micros {
    set.iter().find(|slot| slot.tag == tag).map_or(0, |slot| slot.tat)
}

fn set<'s>(locked: &'s [(usize, MutexGuard<'_, Set>)], index: usize) -> Option<&'s Set> {
    let at = locked.binary_search_by_key(&index, |(index, _)| *index).ok()?;
    locked.get(at).map(|(_, set)| &**set)
}

fn set_mut<'s>(locked: &'s mut [(usize, MutexGuard<'_, Set>)], index: usize) -> Option<&'s mut Set> {
    let at = locked.binary_search_by_key(&index, |(index, _)| *index).ok()?;
    locked.get_mut(at).map(|(_, set)| &mut **set)
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "the numbers of the tests are small")]
mod tests {
    use std::{collections::HashMap, sync::Barrier, thread};

    use portcullis_api::Millis;
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const NOW: Micros = 3_600_000_000;

    fn rate(requests: u32, window_ms: u64) -> Rate {
        let requests = NonZeroU32::new(requests).unwrap();
        Rate::new(requests, Millis::new(window_ms), requests).unwrap()
    }

    /// A key whose set and tag are both told by `n`.
    fn key(n: u64) -> u128 {
        (u128::from(n) << 64) | u128::from(n)
    }

    fn bucket(n: u64, rate: Rate, binding: Binding) -> Bucket<'static> {
        Bucket { rule: "r", key: key(n), rate, binding }
    }

    fn answers(levels: &[Level]) -> Vec<Answer> {
        levels.iter().map(|level| level.answer).collect()
    }

    #[test]
    fn a_thousand_at_once_get_the_ten_tokens_there_are() {
        let table = Table::new(64);
        let (rate, start) = (rate(10, 60_000), Barrier::new(50));
        // The second bucket is wide: it must be charged ten times too, and not once more.
        let wide = Rate::new(NonZeroU32::new(100).unwrap(), Millis::from_secs(60), NonZeroU32::new(100).unwrap());
        let buckets = [bucket(1, rate, Binding::Together), bucket(2, wide.unwrap(), Binding::Together)];
        let admitted: usize = thread::scope(|scope| {
            let threads: Vec<_> = (0..50)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        (0..20).filter(|_| answers(&table.take(NOW, &buckets)) == [Answer::Charged; 2]).count()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(admitted, 10);
        assert_eq!(table.take_one(NOW, key(2), wide.unwrap()).remaining, 89);
    }

    #[test]
    fn calls_that_lock_the_same_sets_in_other_orders_do_not_wait_for_each_other() {
        let table = Table::new(1 << 10);
        let rate = rate(1_000_000, 1_000);
        thread::scope(|scope| {
            for turn in 0..4_u64 {
                let table = &table;
                scope.spawn(move || {
                    for round in 0..2_000_u64 {
                        let n = |i: u64| (i * (turn + 1) + round) % 16;
                        let buckets = [n(0), n(5), n(11), n(7)].map(|n| bucket(n, rate, Binding::Together));
                        assert_eq!(table.take(NOW, &buckets).len(), 4);
                    }
                });
            }
        });
    }

    #[test]
    fn a_request_is_charged_to_all_of_its_buckets_or_to_none() {
        let table = Table::new(64);
        let (narrow, wide) = (rate(1, 60_000), rate(5, 60_000));
        let buckets = [bucket(1, narrow, Binding::Together), bucket(2, wide, Binding::Together)];
        assert_eq!(answers(&table.take(NOW, &buckets)), [Answer::Charged, Answer::Charged]);
        for _ in 0..10 {
            let levels = table.take(NOW, &buckets);
            assert_eq!(answers(&levels), [Answer::Short, Answer::Spared]);
            assert_eq!(levels[1].remaining, 4);
        }
    }

    #[test]
    fn what_is_given_back_can_be_taken_again_and_nothing_more() {
        let table = Table::new(64);
        let rate = rate(5, 60_000).at_cost(NonZeroU32::new(2).unwrap()).unwrap();
        let buckets = [bucket(1, rate, Binding::Together), bucket(2, rate, Binding::Alone)];
        let taken = table.take(NOW, &buckets);
        assert_eq!(taken[0].remaining, 3);
        table.give_back(NOW, NOW, &buckets, &taken);
        let levels = table.take(NOW, &buckets);
        assert_eq!((levels[0].remaining, levels[1].remaining), (3, 1), "the one alone kept its charge");
        // A bucket that is full stays full, also one that has made room for another.
        let later = NOW + 3_600_000_000;
        table.give_back(later, NOW, &[buckets[0], bucket(9, rate, Binding::Together)], &levels);
        assert_eq!(table.take_one(later, key(1), rate).remaining, 3);
    }

    #[test]
    fn what_flowed_in_meanwhile_is_not_given_back_to_somebody_else() {
        let table = Table::new(64);
        let one = [bucket(1, rate(1, 100), Binding::Together)];
        let taken = table.take(NOW, &one);
        // The token flowed in and is another's when the first request is refused elsewhere.
        assert_eq!(answers(&table.take(NOW + 110_000, &one)), [Answer::Charged]);
        table.give_back(NOW + 150_000, NOW, &one, &taken);
        assert_eq!(answers(&table.take(NOW + 170_000, &one)), [Answer::Short]);
        assert_eq!(answers(&table.take(NOW + 210_000, &one)), [Answer::Charged]);
    }

    #[test]
    fn two_buckets_of_one_set_are_charged_in_one_call() {
        let table = Table::new(1);
        let rate = rate(1, 60_000);
        let buckets = [bucket(1, rate, Binding::Together), bucket(2, rate, Binding::Together)];
        assert_eq!(answers(&table.take(NOW, &buckets)), [Answer::Charged; 2]);
        assert_eq!(answers(&table.take(NOW, &buckets)), [Answer::Short; 2]);
    }

    #[test]
    fn a_bucket_alone_is_charged_by_itself_and_holds_nobody_back() {
        let table = Table::new(64);
        let (narrow, wide) = (rate(1, 60_000), rate(2, 60_000));
        let buckets = [bucket(1, narrow, Binding::Alone), bucket(2, wide, Binding::Together)];
        assert_eq!(answers(&table.take(NOW, &buckets)), [Answer::Charged, Answer::Charged]);
        assert_eq!(answers(&table.take(NOW, &buckets)), [Answer::Short, Answer::Charged]);
        // And nobody holds it back: the other is short now, this one has flowed full.
        let later = NOW + 60_000_000;
        let drained = [bucket(3, narrow, Binding::Together)];
        assert_eq!(answers(&table.take(later, &drained)), [Answer::Charged]);
        let buckets = [bucket(1, narrow, Binding::Alone), drained[0]];
        assert_eq!(answers(&table.take(later, &buckets)), [Answer::Charged, Answer::Short]);
    }

    #[test]
    fn a_flood_of_keys_grows_nothing_and_an_abuser_stays_limited() {
        let table = Table::new(64);
        let slots = table.slots();
        let rate = rate(10, 60_000);
        for _ in 0..10 {
            assert_eq!(table.take_one(NOW, key(1), rate).answer, Answer::Charged);
        }
        for n in 100..50_000 {
            // Spread over sets and tags; each takes one token, the abuser has taken ten.
            assert_eq!(table.take_one(NOW, key(n), rate).answer, Answer::Charged);
        }
        assert_eq!(table.take_one(NOW, key(1), rate).answer, Answer::Short);
        assert_eq!(table.slots(), slots);
        assert!(table.live_evictions() > 49_000, "{}", table.live_evictions());
    }

    #[test]
    fn a_bucket_that_is_full_again_makes_room_and_is_not_counted_as_lost() {
        let table = Table::new(1);
        let rate = rate(1, 1_000);
        for n in 0..8 {
            assert_eq!(table.take_one(NOW, key(n), rate).answer, Answer::Charged);
        }
        for n in 8..16 {
            assert_eq!(table.take_one(NOW + 1_000_000, key(n), rate).answer, Answer::Charged);
        }
        assert_eq!(table.live_evictions(), 0);
        assert_eq!(table.take_one(NOW + 1_000_000, key(16), rate).answer, Answer::Charged);
        assert_eq!(table.live_evictions(), 1);
    }

    proptest! {
        #[test]
        fn the_table_answers_as_a_map_of_plain_buckets_does(
            steps in vec((0..400_000u64, vec((0..6u64, any::<bool>()), 1..5)), 1..60),
        ) {
            let table = Table::new(1 << 8);
            let mut plain: HashMap<u64, Micros> = HashMap::new();
            let mut now = NOW;
            for (wait, mut wanted) in steps {
                now += wait;
                wanted.sort_unstable();
                wanted.dedup_by_key(|(n, _)| *n);
                // Half of them at a cost, which follows from the number as everything of a bucket does.
                let of = |n: u64| {
                    let rate = rate(u32::try_from(n).unwrap() + 1, 1_000);
                    rate.at_cost(NonZeroU32::new(u32::try_from(n / 2).unwrap().max(1)).unwrap()).unwrap()
                };
                let binding = |alone| if alone { Binding::Alone } else { Binding::Together };
                let buckets: Vec<_> = wanted.iter().map(|&(n, alone)| bucket(n, of(n), binding(alone))).collect();
                let free = |plain: &HashMap<u64, Micros>, n| of(n).take(plain.get(&n).copied().unwrap_or(0), now, 1);
                let all = wanted.iter().filter(|(_, alone)| !alone).all(|&(n, _)| free(&plain, n).granted == 1);
                let expected: Vec<_> = wanted.iter().map(|&(n, alone)| {
                    let taken = free(&plain, n);
                    match (taken.granted, all || alone) {
                        (1, true) => { plain.insert(n, taken.tat); Answer::Charged }
                        (1, false) => Answer::Spared,
                        _ => Answer::Short,
                    }
                }).collect();
                prop_assert_eq!(answers(&table.take(now, &buckets)), expected);
            }
        }
    }
}
