//! Tokens that are taken ahead: rarely asked for, never more than there are, given back, and shared by all gateways.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use portcullis_plugins::rate_limit::{Answer, Binding, Bucket, Fleet, Leasing, SharedCounters};

use super::{
    batching::runs,
    server::{Server, bucket, connected, healthy, options, rate, take, until},
};
use crate::stores::redis::{Health, Options, RedisCounters};

/// A bucket of `requests` in thirty days: nothing flows in during a test.
fn leased(rule: &str, key: u128, requests: u32) -> Bucket<'_> {
    Bucket { leasing: Leasing::Allowed, rate: rate(requests, 30 * 86_400), ..bucket(rule, key, requests) }
}

async fn is_charged(counters: &RedisCounters, bucket: Bucket<'_>) -> bool {
    take(counters, &[bucket]).await.unwrap()[0].answer == Answer::Charged
}

#[tokio::test]
async fn a_busy_bucket_is_asked_for_rarely() {
    const CALLS: u64 = 2_000;
    let server = Server::start();
    let counters = connected(options(server.url())).await;
    let before = runs(&server).await;
    for _ in 0..CALLS {
        assert!(is_charged(&counters, leased("r", 1, 100_000)).await);
    }
    let asked = runs(&server).await - before;
    assert!(asked < CALLS / 10, "{asked} runs of scripts for {CALLS} calls");
    assert!(counters.inner.metrics.leased.get() > CALLS * 9 / 10);
    // All that was spent is charged there, and all else comes back.
    until("the rest is given back", async || {
        u64::from(counters.peek(&leased("r", 1, 100_000)).await.unwrap().remaining) == 100_000 - CALLS
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_that_lease_admit_what_the_bucket_has_and_not_one_more() {
    const BURST: usize = 400;
    let server = Server::start();
    let gateways = [(); 3];
    let mut tasks = Vec::new();
    for () in gateways {
        let counters = Arc::new(connected(options(server.url())).await);
        tasks.push(tokio::spawn(async move {
            let mut admitted = 0;
            // Until nothing was admitted for longer than anybody may hold what he does not spend.
            let mut idle = tokio::time::Instant::now();
            while idle.elapsed() < Duration::from_secs(2) {
                let burst = u32::try_from(BURST).unwrap();
                if is_charged(&counters, leased("r", 1, burst)).await {
                    (admitted, idle) = (admitted + 1, tokio::time::Instant::now());
                }
                tokio::task::yield_now().await;
            }
            (admitted, counters)
        }));
    }
    let mut admitted = 0;
    for task in tasks {
        admitted += task.await.unwrap().0;
    }
    assert_eq!(admitted, BURST);
}

#[tokio::test]
async fn a_request_that_another_bucket_refuses_costs_nothing_of_what_is_held() {
    let server = Server::start();
    let counters = connected(options(server.url())).await;
    let (wide, narrow) = (leased("wide", 1, 10_000), bucket("narrow", 2, 3));
    for _ in 0..50 {
        assert!(is_charged(&counters, wide).await);
    }
    let mut answers = Vec::new();
    for _ in 0..10 {
        answers
            .push(take(&counters, &[wide, narrow]).await.unwrap().iter().map(|level| level.answer).collect::<Vec<_>>());
    }
    assert!(answers[..3].iter().all(|answer| *answer == [Answer::Charged; 2]), "{answers:?}");
    assert!(
        answers[3..].iter().all(|answer| answer[1] == Answer::Short && answer[0] != Answer::Charged),
        "{answers:?}"
    );
    until("the rest is given back", async || counters.peek(&wide).await.unwrap().remaining == 10_000 - 53).await;
}

#[tokio::test]
async fn a_bucket_in_shadow_is_charged_whatever_the_others_say() {
    let server = Server::start();
    let counters = connected(options(server.url())).await;
    let (shadow, narrow) = (Bucket { binding: Binding::Alone, ..leased("shadow", 1, 10_000) }, bucket("narrow", 2, 3));
    for _ in 0..50 {
        take(&counters, &[shadow, narrow]).await.unwrap();
    }
    until("the rest is given back", async || counters.peek(&shadow).await.unwrap().remaining == 10_000 - 50).await;
}

#[tokio::test]
async fn what_is_held_is_spent_while_redis_is_away_and_no_more() {
    let mut server = Server::start();
    let counters = connected(options(server.url())).await;
    let busy = leased("r", 1, 100_000);
    for _ in 0..200 {
        assert!(is_charged(&counters, busy).await);
    }
    server.kill();
    until("the loss is noticed", async || counters.health() != Health::Healthy).await;
    until("nothing is held any more", async || take(&counters, &[busy]).await.is_err()).await;
}

#[tokio::test]
async fn a_gateway_that_stops_gives_back_what_it_holds_and_counts_no_more() {
    let server = Server::start();
    let (one, two) = (connected(options(server.url())).await, connected(options(server.url())).await);
    let gateways = async || server.run::<u32>(&["ZCARD", "test:{test}:gateways:any"]).await;
    assert_eq!(gateways().await, 2);
    let busy = leased("r", 1, 100_000);
    for _ in 0..200 {
        assert!(is_charged(&one, busy).await);
    }
    one.leave().await;
    assert_eq!(two.peek(&busy).await.unwrap().remaining, 100_000 - 200);
    assert_eq!(gateways().await, 1);
}

#[tokio::test]
async fn gateways_hear_how_many_they_are() {
    let server = Server::start();
    let expecting = |instances| Options { instances: NonZeroU32::new(instances).unwrap(), ..options(server.url()) };
    let one = connected(expecting(1)).await;
    assert_eq!(one.instances().get(), 1);
    let (_two, three) = (connected(expecting(1)).await, connected(expecting(1)).await);
    assert_eq!(three.instances().get(), 3);
    until("the first hears of the others", async || one.instances().get() == 3).await;
    assert_eq!(connected(expecting(9)).await.instances().get(), 9, "too early to know better");
}

#[tokio::test]
async fn what_was_admitted_while_redis_was_away_is_charged_once() {
    let mut server = Server::start();
    let counters = connected(options(server.url())).await;
    let (owed, share) = (bucket("r", 1, 100), rate(50, 3_600));
    server.kill();
    until("the loss is noticed", async || counters.health() != Health::Healthy).await;
    counters.owe(&owed, share, 9);
    counters.owe(&owed, share, 1);
    server.restart();
    healthy(&counters).await;
    assert_eq!(counters.peek(&owed).await.unwrap().remaining, 90);
    until("all that is put right behind the traffic has been", async || {
        take(&counters, &[bucket("other", 2, 100_000)]).await.unwrap()[0].remaining < 99_900
    })
    .await;
    assert_eq!(counters.peek(&owed).await.unwrap().remaining, 90, "not twice");
    // And not again with the next outage's, nor after an operator filled it.
    for (tokens, remaining) in [(1, 89), (0, 89)] {
        counters.owe(&owed, share, tokens);
        until("it is charged", async || counters.peek(&owed).await.unwrap().remaining == remaining).await;
    }
    server.kill();
    until("the loss is noticed", async || counters.health() != Health::Healthy).await;
    counters.owe(&owed, share, 5);
    server.restart();
    healthy(&counters).await;
    assert_eq!(counters.peek(&owed).await.unwrap().remaining, 95, "Redis is empty, and five are owed");
}
