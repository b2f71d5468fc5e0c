//! The table by itself, against plain models.
#![expect(clippy::arithmetic_side_effects, reason = "the numbers of the tests are small")]

use std::{collections::HashMap, sync::Barrier, thread};

use portcullis_api::Millis;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::rate_limit::Leasing;

const NOW: Micros = 3_600_000_000;

fn rate(requests: u32, window_ms: u64) -> Rate {
    let requests = NonZeroU32::new(requests).unwrap();
    Rate::new(requests, Millis::new(window_ms), requests).unwrap()
}

/// A key whose set and tag are both told by `n`, of numbers that all share.
fn key(n: u64) -> u128 {
    (u128::from(n) << 72) | u128::from(n)
}

fn bucket(n: u64, rate: Rate, binding: Binding) -> Bucket<'static> {
    Bucket { rule: "r", key: key(n), rate, binding, leasing: Leasing::Never }
}

fn of<'t, 'b>(table: &'t Table, buckets: &[Bucket<'b>]) -> Vec<(&'t Table, Bucket<'b>)> {
    buckets.iter().map(|bucket| (table, *bucket)).collect()
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
    give_back(NOW, NOW, &of(&table, &buckets), &taken);
    let levels = table.take(NOW, &buckets);
    assert_eq!((levels[0].remaining, levels[1].remaining), (3, 1), "the one alone kept its charge");
    // A bucket that is full stays full, also one that has made room for another.
    let later = NOW + 3_600_000_000;
    give_back(later, NOW, &of(&table, &[buckets[0], bucket(9, rate, Binding::Together)]), &levels);
    assert_eq!(table.take_one(later, key(1), rate).remaining, 3);
}

#[test]
fn what_flowed_in_meanwhile_is_not_given_back_to_somebody_else() {
    let table = Table::new(64);
    let one = [bucket(1, rate(1, 100), Binding::Together)];
    let taken = table.take(NOW, &one);
    // The token flowed in and is another's when the first request is refused elsewhere.
    assert_eq!(answers(&table.take(NOW + 110_000, &one)), [Answer::Charged]);
    give_back(NOW + 150_000, NOW, &of(&table, &one), &taken);
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
fn a_flood_of_keys_grows_nothing_and_frees_nobody() {
    let table = Table::new(64);
    let (slots, rate) = (table.slots(), rate(10, 60_000));
    for _ in 0..10 {
        assert_eq!(table.take_one(NOW, key(1), rate).answer, Answer::Charged);
    }
    // Keys that have used more than the abuser ever did, while what he used flows in again.
    let later = NOW + 3 * 6_000_000;
    for n in 100..50_000 {
        for _ in 0..10 {
            let _ = table.take_one(later, key(n), rate);
        }
    }
    let admitted = (0..20).filter(|_| table.take_one(later, key(1), rate).answer == Answer::Charged).count();
    assert!(admitted <= 3, "{admitted} where three have flowed in");
    assert_eq!(table.slots(), slots);
    assert!(table.crowded() > 60, "{}", table.crowded());
}

#[test]
fn a_newcomer_is_charged_with_no_more_than_its_part_of_a_flood() {
    // A thousand requests of as many keys over 64 slots: about 16 of a bucket of 100.
    let (table, rate) = (Table::new(64), rate(100, 3_600_000));
    for n in 100..1_100 {
        assert_eq!(table.take_one(NOW, key(n), rate).answer, Answer::Charged);
    }
    let remaining = table.take_one(NOW, key(1), rate).remaining;
    assert!((75..99).contains(&remaining), "{remaining}");
    // And it passes with the time as its own use does.
    assert_eq!(table.take_one(NOW + 3_600_000_000, key(2), rate).remaining, 99);
}

#[test]
fn buckets_with_other_numbers_pay_nothing_for_a_flood() {
    let (slow, fast) = (rate(10, 3_600_000), rate(100, 1_000));
    let fast_key = |n| super::super::with_class(key(n), b"fast");
    let table = Table::new(64);
    for n in 100..5_000 {
        let _ = table.take_one(NOW, key(n), slow);
    }
    assert_eq!(table.take_one(NOW, key(1), slow).answer, Answer::Short);
    assert_eq!(table.take_one(NOW, fast_key(1), fast).remaining, 99);
    // Nor when they crowd each other: what is remembered is of one's own.
    for n in 100..5_000 {
        let _ = table.take_one(NOW, fast_key(n), fast);
        let _ = table.take_one(NOW, key(n), slow);
    }
    assert!(table.take_one(NOW + 1_000_000, fast_key(2), fast).remaining >= 98);
    assert_eq!(table.take_one(NOW + 1_000_000, key(2), slow).answer, Answer::Short);
}

#[test]
fn a_bucket_that_an_operator_fills_is_full_however_crowded_its_set_is() {
    let (table, rate) = (Table::new(8), rate(100, 3_600_000));
    for n in 100..1_000 {
        let _ = table.take_one(NOW, key(n), rate);
    }
    let one = bucket(1, rate, Binding::Together);
    assert!(table.peek(NOW, &one).remaining < 50);
    table.clear(NOW, &one);
    assert_eq!(table.peek(NOW, &one).remaining, 100);
}

#[test]
fn limits_have_tables_of_their_own_in_one_call() {
    let (one, two, rate) = (Table::new(8), Table::new(8), rate(1, 60_000));
    let wanted = [(&one, bucket(1, rate, Binding::Together)), (&two, bucket(1, rate, Binding::Together))];
    assert_eq!(answers(&take(NOW, &wanted)), [Answer::Charged; 2]);
    assert_eq!(answers(&take(NOW, &wanted)), [Answer::Short; 2]);
    give_back(
        NOW,
        NOW,
        &wanted[1..],
        &[Level { answer: Answer::Charged, remaining: 0, retry_after: 0, reset_after: 60_000_000 }],
    );
    assert_eq!(answers(&take(NOW, &wanted)), [Answer::Short, Answer::Spared]);
}

#[test]
fn a_bucket_that_is_full_again_makes_room_and_is_not_counted_as_lost() {
    let table = Table::new(1);
    let rate = rate(1, 1_000);
    for n in 0..16 {
        assert_eq!(table.take_one(NOW, key(n), rate).answer, Answer::Charged);
    }
    for n in 16..32 {
        assert_eq!(table.take_one(NOW + 1_000_000, key(n), rate).answer, Answer::Charged);
    }
    assert_eq!(table.take_one(NOW + 1_000_000, key(32), rate).answer, Answer::Charged);
    assert_eq!(table.crowded(), 0);
    assert_eq!(
        table.take_one(NOW + 1_000_000, key(16), rate).answer,
        Answer::Short,
        "it has made room and is not freed"
    );
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

    /// However small the table is: nobody gets more than from a table that has room for all.
    #[test]
    fn a_crowded_table_admits_no_more_than_a_wide_one(
        steps in vec((0..2_000_000u64, 0..60u64), 1..400),
    ) {
        let (narrow, mut wide) = (Table::new(8), HashMap::<u64, Micros>::new());
        let rate = rate(5, 10_000);
        let mut now = NOW;
        for (wait, n) in steps {
            now += wait / 20;
            let plain = rate.take(wide.get(&n).copied().unwrap_or(0), now, 1);
            let level = narrow.take_one(now, key(n), rate);
            if level.answer == Answer::Charged {
                prop_assert!(plain.granted == 1 && level.remaining <= plain.remaining);
                wide.insert(n, plain.tat);
            }
        }
    }
}
