//! What is held, by itself.
#![expect(clippy::arithmetic_side_effects, reason = "the numbers of the tests are small")]

use portcullis_api::Millis;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::stores::redis::{call::Ask, tests::bucket};

const THREE: NonZeroU32 = NonZeroU32::new(3).unwrap();

fn leased(requests: u32) -> Bucket<'static> {
    Bucket { leasing: Leasing::Allowed, ..bucket("r", 7, requests) }
}

/// Redis answers a request: it stands so, and `ahead` is given besides.
fn answer(leases: &Leases, bucket: &Bucket<'_>, level: Level, ahead: u32, now: Micros) {
    let ask = Ask::with_ahead(&[(0, *bucket, ahead.max(1))], "");
    leases.granted(&ask.buckets()[0], &Given { level, ahead }, now);
}

/// What Redis says when it has given `ahead`.
fn grant(leases: &Leases, bucket: &Bucket<'_>, ahead: u32, now: Micros) {
    answer(leases, bucket, charged(1 << 40), ahead, now);
}

fn charged(reset_after: Micros) -> Level {
    Level { answer: Answer::Charged, remaining: 0, retry_after: 0, reset_after }
}

/// Redis answers what was asked ahead: `ahead` of what was wanted.
fn renew(leases: &Leases, level: Level, ahead: u32, now: Micros) -> Vec<u32> {
    let due = leases.due(THREE);
    let wanted = due.iter().map(|due| due.requests.get()).collect();
    for asked in Ask::ahead(due).buckets() {
        leases.granted(asked, &Given { level, ahead }, now);
    }
    wanted
}

fn is_paid(spend: &Spend) -> bool {
    matches!(spend, Spend::Paid(_))
}

#[test]
fn a_small_bucket_is_asked_for_each_request() {
    assert_eq!(most(&leased(24), THREE), Some(2));
    assert_eq!(most(&leased(23), THREE), None);
    assert_eq!(most(&bucket("r", 7, 1_000), THREE), None, "it is exact");
    let dear = leased(240);
    let dear = Bucket { rate: dear.rate.at_cost(NonZeroU32::new(10).unwrap()).unwrap(), ..dear };
    assert_eq!(most(&dear, THREE), Some(2));
}

#[test]
fn as_many_are_wanted_as_came_in_a_moment_and_none_for_one_alone() {
    let (leases, bucket) = (Leases::new(), leased(1_000));
    assert_eq!(leases.spend(&bucket, 80, 0), Spend::Ask(0), "nothing is known of it");
    grant(&leases, &bucket, 0, 0);
    let asks = |most, now| {
        let spend = leases.spend(&bucket, most, now);
        leases.failed(bucket.key, 1);
        spend
    };
    assert_eq!(asks(80, 10), Spend::Ask(1));
    assert_eq!(asks(80, 20), Spend::Ask(2));
    assert_eq!(asks(1, 30), Spend::Ask(1), "no more than may be held");
    assert_eq!(asks(80, LIFE), Spend::Ask(3), "the moment before counts");
    assert_eq!(asks(80, 3 * LIFE), Spend::Ask(0), "an older one does not");
    assert_eq!(leases.spend(&bucket, 80, 3 * LIFE), Spend::Ask(1));
    assert_eq!(leases.spend(&bucket, 80, 3 * LIFE), Spend::Ask(0), "an answer is on its way");
}

#[test]
fn when_half_is_left_more_is_wanted_once() {
    let (leases, bucket) = (Leases::new(), leased(1_000));
    grant(&leases, &bucket, 0, 0);
    for _ in 0..9 {
        leases.spend(&bucket, 80, 10);
    }
    grant(&leases, &bucket, 8, 10);
    let wanted: Vec<usize> = (0..8)
        .map(|_| {
            assert!(is_paid(&leases.spend(&bucket, 80, 20)));
            leases.due(THREE).len()
        })
        .collect();
    assert_eq!(wanted, [0, 0, 0, 1, 0, 0, 0, 0]);
    assert_eq!(leases.spend(&bucket, 80, 20), Spend::Ask(0), "an answer is on its way");
    leases.failed(bucket.key, 1);
    assert!(matches!(leases.spend(&bucket, 80, 20), Spend::Ask(1..)));
}

#[test]
fn an_empty_bucket_refuses_for_a_tenth_of_a_second_and_is_asked_behind_the_traffic() {
    let (leases, bucket) = (Leases::new(), leased(1_000));
    let short = |retry_after| Level { answer: Answer::Short, retry_after, ..charged(1 << 40) };
    let refused = |now| match leases.spend(&bucket, 80, now) {
        Spend::Empty(level) => level.retry_after,
        other @ (Spend::Paid(_) | Spend::Ask(_)) => panic!("{other:?}"),
    };
    answer(&leases, &bucket, short(5_000), 0, 0);
    assert_eq!(refused(1_000), BELIEVED - 1_000, "not before it is asked again");
    assert!(renew(&leases, charged(0), 0, 1_000).is_empty(), "it was asked a moment ago");
    refused(50_000);
    assert_eq!(renew(&leases, short(7_000), 0, 60_000), [2], "as many as came");
    refused(159_999);
    // It has a little: all of it is spent, and the bucket is still believed to be empty.
    assert_eq!(renew(&leases, charged(1 << 40), 2, 159_999), [3]);
    assert!(is_paid(&leases.spend(&bucket, 80, 160_000)) && is_paid(&leases.spend(&bucket, 80, 160_000)));
    refused(250_000);
    // It has all that is wanted.
    let wanted = renew(&leases, charged(1 << 40), 80, 250_000);
    for _ in 0..80 {
        assert!(is_paid(&leases.spend(&bucket, 80, 250_000)));
    }
    assert!(matches!(leases.spend(&bucket, 80, 250_000), Spend::Ask(_)), "it is not empty: {wanted:?}");
}

#[test]
fn nobody_asks_behind_the_traffic_for_long_about_a_bucket_that_nobody_uses() {
    let (leases, bucket) = (Leases::new(), leased(1_000));
    answer(&leases, &bucket, Level { answer: Answer::Short, retry_after: 3_600_000_000, ..charged(1 << 40) }, 0, 0);
    assert!(matches!(leases.spend(&bucket, 80, BELIEVED - 1), Spend::Empty(level) if level.retry_after > BELIEVED));
    assert!(matches!(leases.spend(&bucket, 80, BELIEVED), Spend::Ask(_)), "others may have given back");
    leases.failed(bucket.key, 1);
    leases.forget(bucket.key);
    assert!(leases.due(THREE).len() <= 1 && leases.due(THREE).is_empty());
}

#[test]
fn a_bucket_that_fills_fast_is_not_believed_empty_until_it_is_full() {
    let rate = Rate::new(NonZeroU32::new(1_000).unwrap(), Millis::from_secs(1), NonZeroU32::new(80).unwrap()).unwrap();
    let (leases, bucket) = (Leases::new(), Bucket { rate, ..leased(1_000) });
    answer(&leases, &bucket, Level { answer: Answer::Short, retry_after: 1_000, ..charged(80_000) }, 0, 0);
    assert!(matches!(leases.spend(&bucket, 6, 9_999), Spend::Empty(_)));
    assert!(matches!(leases.spend(&bucket, 6, 10_000), Spend::Ask(_)));
}

#[test]
fn what_is_told_counts_what_is_held() {
    let (leases, bucket) = (Leases::new(), leased(1_000));
    grant(&leases, &bucket, 0, 0);
    let level = Level { answer: Answer::Charged, remaining: 989, retry_after: 0, reset_after: 11 * 3_600_000 };
    answer(&leases, &bucket, level, 10, 0);
    let Spend::Paid(level) = leases.spend(&bucket, 80, 0) else { panic!("it is paid") };
    assert_eq!((level.answer, level.remaining), (Answer::Charged, 998));
}

#[test]
fn tokens_expire_and_are_given_back_only_as_far_as_they_have_not_flowed_in() {
    let (leases, bucket) = (Leases::new(), leased(1_000));
    let interval = bucket.rate.interval();
    grant(&leases, &bucket, 0, 0);
    let with = |full: Micros| {
        answer(&leases, &bucket, charged(full), 5, 0);
        assert!(leases.expired(LIFE - 1).is_empty());
        assert!(!is_paid(&leases.spend(&bucket, 80, LIFE)), "too old to be spent");
        leases.expired(LIFE).iter().map(|back| back.by).collect::<Vec<_>>()
    };
    let whole = i64::try_from(5 * interval).unwrap();
    assert_eq!(with(100 * interval), [-whole]);
    assert_eq!(with(LIFE + interval), [-i64::try_from(interval).unwrap()]);
    assert_eq!(with(LIFE), Vec::<i64>::new());
    assert!(leases.expired(9 * LIFE).is_empty(), "once");
}

#[test]
fn a_reload_that_changes_the_cost_gives_back_what_was_counted_in_the_other() {
    let (leases, cheap) = (Leases::new(), leased(1_000));
    let dear = Bucket { rate: cheap.rate.at_cost(NonZeroU32::new(100).unwrap()).unwrap(), ..cheap };
    grant(&leases, &cheap, 0, 0);
    grant(&leases, &cheap, 50, 0);
    assert!(is_paid(&leases.spend(&cheap, 80, 0)));
    assert!(!is_paid(&leases.spend(&dear, 80, 0)), "49 are too few");
    let back: i64 = leases.expired(0).iter().map(|back| back.by).sum();
    assert_eq!(back, -i64::try_from(49 * cheap.rate.interval()).unwrap());
    // The answer to a question that was asked before the reload.
    grant(&leases, &cheap, 7, 0);
    assert!(!is_paid(&leases.spend(&dear, 80, 0)));
    assert_eq!(leases.expired(0).len(), 1);
    grant(&leases, &dear, 1, 0);
    assert!(is_paid(&leases.spend(&dear, 80, 0)) && !is_paid(&leases.spend(&dear, 80, 0)));
}

#[test]
fn what_was_taken_of_a_bucket_that_is_nearly_full_is_given_back_too() {
    // Two grants, of which the first has nearly flowed in again.
    let (leases, bucket) = (Leases::new(), leased(1_000));
    let interval = bucket.rate.interval();
    let given = |ahead: u32, full: Micros, now| {
        answer(&leases, &bucket, charged(full), ahead, now);
    };
    given(0, 0, 0);
    given(5, 5 * interval, 0);
    given(10, 15 * interval, 0);
    given(20, 35 * interval, 0);
    let back: i64 = leases.all(0).iter().map(|back| back.by).sum();
    assert_eq!(back, -i64::try_from(35 * interval).unwrap());
}

#[test]
fn what_came_too_late_for_its_place_is_given_back() {
    let (leases, bucket) = (Leases::new(), leased(1_000));
    grant(&leases, &bucket, 5, 0);
    assert_eq!(leases.expired(0).len(), 1);
    assert!(!is_paid(&leases.spend(&bucket, 80, 0)));
}

#[test]
fn nobody_loses_tokens_for_a_newcomer() {
    let leases = Leases::new();
    let of = |n: u128| Bucket { key: n * u128::try_from(SETS).unwrap(), ..leased(1_000) };
    for n in 0..4 {
        grant(&leases, &of(n), 0, 0);
        grant(&leases, &of(n), 3, 0);
    }
    for n in 4..1_000 {
        grant(&leases, &of(n), 0, 0);
    }
    assert!((0..4).all(|n| is_paid(&leases.spend(&of(n), 80, 0))));
    assert_eq!(leases.all(0).len(), 4);
}

proptest! {
    /// Each token that was taken is spent, held or given back: never more, and none twice.
    #[test]
    fn no_more_is_spent_than_was_taken(steps in vec((0..2u8, 0..450_000u64, 0..20u32), 1..200)) {
        let (leases, bucket) = (Leases::new(), leased(1_000));
        let interval = i64::try_from(bucket.rate.interval()).unwrap();
        grant(&leases, &bucket, 0, 0);
        let (mut now, mut taken, mut spent, mut back) = (0, 0_i64, 0_i64, 0_i64);
        for (what, wait, ahead) in steps {
            now += wait;
            match what {
                0 => {
                    grant(&leases, &bucket, ahead, now);
                    taken += i64::from(ahead);
                }
                _ => spent += i64::from(is_paid(&leases.spend(&bucket, 80, now))),
            }
            back -= leases.expired(now).iter().map(|back| back.by).sum::<i64>();
            prop_assert!(spent * interval + back <= taken * interval);
        }
        back -= leases.all(now).iter().map(|back| back.by).sum::<i64>();
        prop_assert_eq!(spent * interval + back, taken * interval);
    }
}

#[test]
fn what_waited_for_a_store_that_was_away_is_given_back_only_as_far_as_it_has_not_flowed_in() {
    let (leases, bucket) = (Leases::new(), leased(1_000));
    let taken = i64::try_from(5 * bucket.rate.interval()).unwrap();
    let full = LIFE + Micros::try_from(taken).unwrap();
    // The bucket is full again at `full`, or far from it however long this waited.
    for (waited, full, back) in [
        (50_000, full + 50_000, Some(-taken)),
        (9_000_000, full, Some(9_000_000 - taken)),
        (60_000_000, full, None),
        (900_000, LIFE + 500_000, None),
        (60_000_000, 1 << 40, Some(-taken)),
    ] {
        grant(&leases, &bucket, 0, 0);
        answer(&leases, &bucket, charged(full), 5, 0);
        assert!(!is_paid(&leases.spend(&bucket, 80, LIFE)));
        leases.failed(bucket.key, 1);
        assert_eq!(leases.expired(LIFE + waited).first().map(|back| back.by), back, "{waited} {full}");
    }
}

#[test]
fn only_the_answer_that_is_waited_for_ends_a_renewal() {
    let (leases, bucket) = (Leases::new(), leased(1_000));
    grant(&leases, &bucket, 0, 0);
    assert_eq!(leases.spend(&bucket, 80, 10), Spend::Ask(1));
    let alone = Ask::of(&[bucket], "");
    leases.granted(&alone.buckets()[0], &Given { level: charged(1 << 40), ahead: 0 }, 20);
    assert_eq!(leases.spend(&bucket, 80, 30), Spend::Ask(0), "an answer is on its way");
}
