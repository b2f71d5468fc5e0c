//! Costs that are charged behind the answer.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use portcullis_api::{Micros, Millis};
use portcullis_plugins::rate_limit::{Answer, Bucket, Rate, SharedCounters};
use proptest::{collection::vec, prelude::*, test_runner::TestRunner};

use super::server::{Server, bucket, connected, healthy, options, take, until};
use crate::stores::redis::{
    Health, Options, RedisCounters,
    call::Ask,
    settle::{self, Move},
};

fn tokens(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).unwrap()
}

/// Charges, and counts what was done instead.
fn charge(counters: &RedisCounters, bucket: &Bucket<'_>, n: u32, instead: &Arc<AtomicU32>) {
    let instead = instead.clone();
    let count = move || {
        instead.fetch_add(1, Ordering::SeqCst);
    };
    counters.charge(bucket, tokens(n), Box::new(count));
}

#[tokio::test]
async fn a_charge_reaches_every_gateway_and_empties_a_bucket_and_no_more() {
    let server = Server::start();
    let (one, two) = (connected(options(server.url())).await, connected(options(server.url())).await);
    let (shared, instead) = (bucket("r", 1, 100), Arc::default());
    assert_eq!(take(&one, &[shared]).await.unwrap()[0].remaining, 99);
    charge(&one, &shared, 9, &instead);
    until("it is charged", async || two.peek(&shared).await.unwrap().remaining == 90).await;
    (0..20).for_each(|_| charge(&one, &shared, 50, &instead));
    until("it is empty", async || two.peek(&shared).await.unwrap().remaining == 0).await;
    let level = two.peek(&shared).await.unwrap();
    assert!(level.reset_after <= shared.rate.interval() * 100 && level.retry_after > 0, "{level:?}");
    assert_eq!(take(&two, &[shared]).await.unwrap()[0].answer, Answer::Short);
    assert_eq!(instead.load(Ordering::SeqCst), 0);
    let ttl: i64 = server.run(&["PTTL", "test:{test}:r:00000000000000000000000000000001"]).await;
    assert!((1..=3_600_000).contains(&ttl), "it goes by itself: {ttl}");
}

#[tokio::test]
async fn none_of_a_thousand_charges_is_lost() {
    let server = Server::start();
    let counters = connected(options(server.url())).await;
    let buckets: Vec<_> = (0..10).map(|n| bucket("r", n, 1_000)).collect();
    let instead = Arc::default();
    for round in 0..1_000 {
        charge(&counters, &buckets[round % 10], 3, &instead);
    }
    for bucket in &buckets {
        until("it is charged", async || counters.peek(bucket).await.unwrap().remaining == 700).await;
    }
    assert_eq!((instead.load(Ordering::SeqCst), counters.inner.metrics.costs_alone.get()), (0, 0));
}

#[tokio::test]
async fn what_redis_does_not_take_is_done_instead_and_counted() {
    let mut server = Server::start();
    let counters = connected(options(server.url())).await;
    let (shared, instead) = (bucket("r", 1, 100), Arc::<AtomicU32>::default());
    let done = |expected| {
        let (instead, metrics) = (instead.clone(), counters.inner.metrics.clone());
        move || (instead.load(Ordering::SeqCst), metrics.costs_alone.get()) == (expected, u64::from(expected))
    };
    // It says no.
    let () = server.run(&["CONFIG", "SET", "maxmemory", "1"]).await;
    charge(&counters, &shared, 1, &instead);
    until("it is done instead", async || done(1)()).await;
    let () = server.run(&["CONFIG", "SET", "maxmemory", "0"]).await;
    // It hangs.
    server.signal("-STOP");
    charge(&counters, &shared, 1, &instead);
    until("it is done instead", async || done(2)()).await;
    server.signal("-CONT");
    // It is gone.
    server.kill();
    until("the loss is noticed", async || counters.health() != Health::Healthy).await;
    charge(&counters, &shared, 1, &instead);
    until("it is done instead", async || done(3)()).await;
    // And back, with no script.
    server.restart();
    healthy(&counters).await;
    charge(&counters, &shared, 10, &instead);
    until("it is charged", async || counters.peek(&shared).await.is_ok_and(|level| level.remaining == 90)).await;
    assert!(done(3)());
}

#[tokio::test]
async fn more_charges_than_may_wait_are_done_instead_at_once() {
    let server = Server::start();
    let counters = connected(Options { deadline: Duration::from_secs(20), ..options(server.url()) }).await;
    server.signal("-STOP");
    let instead = Arc::default();
    (0..10_000).for_each(|_| charge(&counters, &bucket("r", 1, 100), 1, &instead));
    let at_once = instead.load(Ordering::SeqCst);
    assert!((5_000..10_000).contains(&at_once), "{at_once}");
    server.signal("-CONT");
}

/// What happens to a bucket.
#[derive(Debug, Clone, Copy)]
enum Step {
    Take,
    Charge(u32),
    GiveBack(u32),
}

fn steps() -> impl Strategy<Value = Vec<(u64, Vec<(u8, Step)>)>> {
    let step = prop_oneof![
        Just(Step::Take),
        (1..12u32).prop_map(Step::Charge),
        (1..12u32).prop_map(Step::GiveBack),
        Just(Step::Charge(99)),
    ];
    // The clock goes forth and back; intervals are long enough that no key expires during a case.
    vec((0..200_000_000u64, vec((0..4u8, step), 1..6)), 1..12)
}

fn numbers(n: u8) -> Rate {
    let burst = [1, 4, 7, 10][usize::from(n)];
    let n = u32::from(n);
    Rate::new(tokens(7 + n), Millis::from_secs(600 + u64::from(n)), tokens(burst)).unwrap()
}

#[test]
fn the_script_charges_as_memory_does_and_gives_back_no_more_than_is_full() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = Server::start();
    let counters = runtime.block_on(connected(options(server.url())));
    let live = counters.inner.live.load_full().unwrap();
    let cases = std::cell::Cell::new(0_u128);
    let mut runner = TestRunner::new(ProptestConfig::with_cases(48));
    let outcome = runner.run(&steps(), |steps| {
        let case = cases.get() + 1;
        cases.set(case);
        let mut plain: HashMap<u8, Micros> = HashMap::new();
        for (at, batch) in steps {
            let now = 1_700_000_000_000_000 + at;
            // What stands next to each other goes in one run, also of one bucket.
            for (n, step) in &batch {
                let one = Bucket { rate: numbers(*n), ..bucket("r", (case << 8) | u128::from(*n), 1) };
                let (rate, stored) = (one.rate, plain.get(n).copied().unwrap_or(0));
                let (count, sign) = match *step {
                    Step::Take => {
                        let level = runtime
                            .block_on(counters.inner.call(&live, &[&Ask::of(&[one], "test:{test}:")], Some(now)))
                            .unwrap()[0][0]
                            .level;
                        let taken = rate.take(stored, now, 1);
                        prop_assert_eq!(level.answer == Answer::Charged, taken.granted == 1);
                        prop_assert_eq!((level.remaining, level.reset_after), (taken.remaining, taken.reset_after));
                        if taken.granted == 1 {
                            plain.insert(*n, taken.tat);
                        }
                        continue;
                    }
                    Step::Charge(count) => {
                        plain.insert(*n, rate.charge(stored, now, tokens(count)));
                        (count, 1)
                    }
                    Step::GiveBack(count) => {
                        // As if so much less had been taken, of what stands of it at all.
                        let stands = rate.take(stored, now, 0).tat;
                        let less = stands.saturating_sub(rate.interval() * u64::from(count));
                        // Full equals absent, also for a clock that goes back.
                        if less > now {
                            plain.insert(*n, less)
                        } else {
                            plain.remove(n)
                        };
                        (count, -1)
                    }
                };
                let amount = sign * i64::try_from(rate.interval() * u64::from(count)).unwrap();
                let key = format!("test:{{test}}:r:{:032x}", one.key);
                let of = |by| Move { name: key.as_str().into(), rate, by };
                // In two halves, so that one bucket is changed twice in one run.
                let halves = [of(amount / 2), of(amount - amount / 2)];
                runtime.block_on(settle::change(&live, &halves, Some(now))).unwrap();
            }
            for (n, tat) in plain.iter().filter(|(n, _)| batch.iter().any(|(changed, _)| changed == *n)) {
                let key = format!("test:{{test}}:r:{:032x}", (case << 8) | u128::from(*n));
                let there: Option<u64> = runtime.block_on(server.run(&["GET", &key]));
                // Full equals absent.
                prop_assert_eq!(there.unwrap_or(now).max(now), (*tat).max(now), "{}", n);
            }
        }
        Ok(())
    });
    outcome.unwrap();
}
