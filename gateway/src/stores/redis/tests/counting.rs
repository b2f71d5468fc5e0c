//! What is counted while all is well: the same as in memory.

use std::sync::Arc;

use portcullis_api::Millis;
use portcullis_plugins::rate_limit::{Answer, Binding, Bucket, Leasing, Level, Rate, Table};
use proptest::{collection::vec, prelude::*, test_runner::TestRunner};

use super::server::{Server, bucket, connected, options, rate, take};
use crate::stores::redis::{Options, call::Ask};

fn answers(levels: &[Level]) -> Vec<Answer> {
    levels.iter().map(|level| level.answer).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_at_once_get_the_ten_tokens_there_are() {
    let server = Server::start();
    let mut options = options(server.url());
    options.deadline = std::time::Duration::from_secs(20);
    let counters = Arc::new(connected(options).await);
    let tasks: Vec<_> = (0..1_000)
        .map(|_| {
            let counters = counters.clone();
            tokio::spawn(async move {
                let buckets = [bucket("narrow", 1, 10), bucket("wide", 2, 100)];
                answers(&take(&counters, &buckets).await.unwrap()) == [Answer::Charged; 2]
            })
        })
        .collect();
    let mut admitted = 0;
    for task in tasks {
        admitted += u32::from(task.await.unwrap());
    }
    assert_eq!(admitted, 10);
    // The wide one was charged with each admitted request, and with no other.
    assert_eq!(take(&counters, &[bucket("wide", 2, 100)]).await.unwrap()[0].remaining, 89);
}

#[tokio::test]
async fn two_gateways_share_one_bucket() {
    let server = Server::start();
    let (one, two) = (connected(options(server.url())).await, connected(options(server.url())).await);
    let shared = [bucket("r", 1, 2)];
    assert_eq!(answers(&take(&one, &shared).await.unwrap()), [Answer::Charged]);
    assert_eq!(answers(&take(&two, &shared).await.unwrap()), [Answer::Charged]);
    assert_eq!(answers(&take(&one, &shared).await.unwrap()), [Answer::Short]);
    assert_eq!(answers(&take(&two, &shared).await.unwrap()), [Answer::Short]);
}

#[tokio::test]
async fn the_servers_clock_fills_the_bucket() {
    let server = Server::start();
    let counters = connected(options(server.url())).await;
    let fast = [Bucket { rate: rate(1, 1), ..bucket("r", 1, 1) }];
    let first = take(&counters, &fast).await.unwrap();
    assert_eq!((first[0].answer, first[0].retry_after, first[0].reset_after), (Answer::Charged, 1_000_000, 1_000_000));
    let second = take(&counters, &fast).await.unwrap();
    assert_eq!(second[0].answer, Answer::Short);
    assert!((1..1_000_000).contains(&second[0].retry_after));
    super::server::until("a token flowed in", async || {
        take(&counters, &fast).await.unwrap()[0].answer == Answer::Charged
    })
    .await;
}

#[tokio::test]
async fn a_key_is_named_by_prefix_tag_rule_and_hash_and_goes_by_itself() {
    let server = Server::start();
    let counters = connected(options(server.url())).await;
    take(&counters, &[bucket("per_key", 0xab, 10), bucket("class_auth", u128::MAX, 10)]).await.unwrap();
    let mut keys: Vec<String> = server.run(&["KEYS", "*"]).await;
    // The prober's own goes after a millisecond; the gateways are no bucket.
    keys.retain(|key| !key.contains(":_probe:") && !key.contains(":gateways:"));
    keys.sort();
    let expected = [
        "test:{test}:class_auth:ffffffffffffffffffffffffffffffff",
        "test:{test}:per_key:000000000000000000000000000000ab",
    ];
    assert_eq!(keys, expected);
    for key in keys {
        let ttl: i64 = server.run(&["PTTL", &key]).await;
        assert!((1..=360_000).contains(&ttl), "{key} {ttl}");
    }
}

#[tokio::test]
async fn a_gateway_with_another_key_is_told_of_and_one_with_the_same_is_not() {
    let server = Server::start();
    for (fingerprint, other_key) in [(1, false), (1, false), (2, true), (2, false)] {
        let options = Options { fingerprint: Some(fingerprint), ..options(server.url()) };
        let counters = connected(options).await;
        assert_eq!(counters.has_other_key(), other_key, "{fingerprint}");
    }
}

#[tokio::test]
async fn a_script_that_the_server_forgot_is_sent_again() {
    let server = Server::start();
    let counters = connected(options(server.url())).await;
    let one = [bucket("r", 1, 2)];
    assert_eq!(answers(&take(&counters, &one).await.unwrap()), [Answer::Charged]);
    let () = server.run(&["SCRIPT", "FLUSH"]).await;
    assert_eq!(answers(&take(&counters, &one).await.unwrap()), [Answer::Charged]);
    assert_eq!(answers(&take(&counters, &one).await.unwrap()), [Answer::Short]);
}

/// Which buckets, and whether alone. They are told apart by number; the numbers of a bucket follow from it, so that it
/// always has the same.
type Call = Vec<(u8, bool)>;

fn wanted() -> impl Strategy<Value = Vec<(u64, Vec<Call>)>> {
    // Steps of the clock go forth and back; intervals are long enough that no key expires during a case. In each step
    // a batch of calls, which may want the same buckets.
    vec((0..200_000_000u64, vec(vec((0..6u8, any::<bool>()), 1..5), 1..5)), 1..12)
}

fn numbers(n: u8) -> Rate {
    let nonzero = |n: u32| std::num::NonZeroU32::new(n).unwrap();
    let n = u32::from(n);
    let rate = Rate::new(nonzero(7 + n), Millis::from_secs(600 + u64::from(n)), nonzero(1 + n)).unwrap();
    rate.at_cost(nonzero((n / 2).max(1))).unwrap()
}

fn buckets(mut wanted: Call, case: u128) -> Vec<Bucket<'static>> {
    wanted.sort_unstable();
    wanted.dedup_by_key(|(n, _)| *n);
    let bucket = |(n, alone)| Bucket {
        rule: "r",
        // Spread in the table, and another bucket in each case.
        key: (u128::from(n) << 64) | (case << 16) | u128::from(n),
        rate: numbers(n),
        binding: if alone { Binding::Alone } else { Binding::Together },
        leasing: Leasing::Never,
    };
    wanted.into_iter().map(bucket).collect()
}

#[test]
fn memory_and_redis_answer_alike() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = Server::start();
    let counters = runtime.block_on(connected(options(server.url())));
    let live = counters.inner.live.load_full().unwrap();
    let cases = std::cell::Cell::new(0_u128);
    let mut runner = TestRunner::new(ProptestConfig::with_cases(64));
    let outcome = runner.run(&wanted(), |steps| {
        let case = cases.get() + 1;
        cases.set(case);
        let table = Table::new(1 << 10);
        let start = 1_700_000_000_000_000_u64;
        for (at, batch) in steps {
            let calls: Vec<Vec<_>> = batch.into_iter().map(|call| buckets(call, case)).collect();
            let asks: Vec<Ask> = calls.iter().map(|call| Ask::of(call, "test:{test}:")).collect();
            let now = start + at;
            let there = runtime.block_on(counters.inner.call(&live, &asks.iter().collect::<Vec<_>>(), Some(now)));
            let here: Vec<_> = calls.iter().map(|call| table.take(now, call)).collect();
            let there: Vec<Vec<_>> =
                there.unwrap().iter().map(|given| given.iter().map(|one| one.level).collect()).collect();
            prop_assert_eq!(there, here);
        }
        Ok(())
    });
    outcome.unwrap();
}

#[tokio::test]
async fn a_bucket_alone_holds_nobody_back_and_is_not_held_back() {
    let server = Server::start();
    let counters = connected(options(server.url())).await;
    let alone = |key, requests| Bucket { binding: Binding::Alone, ..bucket("shadow", key, requests) };
    let buckets = [alone(1, 1), bucket("r", 2, 2)];
    assert_eq!(answers(&take(&counters, &buckets).await.unwrap()), [Answer::Charged, Answer::Charged]);
    assert_eq!(answers(&take(&counters, &buckets).await.unwrap()), [Answer::Short, Answer::Charged]);
    let buckets = [alone(3, 1), bucket("r", 2, 2), bucket("r", 4, 9)];
    let levels = take(&counters, &buckets).await.unwrap();
    assert_eq!(answers(&levels), [Answer::Charged, Answer::Short, Answer::Spared]);
}
