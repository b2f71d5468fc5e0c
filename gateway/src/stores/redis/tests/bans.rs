//! Violations and blocks of several gateways in one Redis: counted as in memory, told to each, gone by themselves.

use std::{
    cell::Cell, collections::HashMap, hash::RandomState, net::IpAddr, num::NonZeroU32, sync::Arc, time::Duration,
};

use portcullis_api::{At, Micros, Millis, Secret};
use portcullis_plugins::{
    bans::{BanTable, Block, CLIENTS_MAX, Change, Changes, ClientKey, SharedBans, Strike, Struck},
    rate_limit::StoreFault,
    waf::Violations,
};
use proptest::{collection::vec, prelude::*, test_runner::TestRunner};

use super::server::{Server, connected, options, until};
use crate::stores::redis::{Health, Options, RedisCounters, bans::RedisBans, tail::PAGE};

const SECOND: Micros = 1_000_000;
/// A clock of the tests, far ahead of the server's.
const NOW: Micros = 4_000_000_000 * SECOND;

fn client(n: usize) -> ClientKey {
    format!("{n:032x}").parse().unwrap()
}

/// Within a minute, for ten minutes.
fn strike(n: usize, max: usize) -> Strike {
    Strike { client: client(n), code: "waf.urls", max, window: 60 * SECOND, block: 600 * SECOND }
}

fn block(age: Micros, remaining: Micros) -> Block {
    Block { code: "waf.urls".to_owned(), age, remaining }
}

/// A gateway's part of the store; it lives as long as the counters beside it. No test is about its deadline.
async fn gateway(server: &Server) -> (RedisCounters, RedisBans) {
    let counters = connected(Options { deadline: Duration::from_secs(20), ..options(server.url()) }).await;
    let bans = counters.bans();
    (counters, bans)
}

/// Every change, from the beginning, page after page.
async fn all(bans: &RedisBans) -> Vec<(ClientKey, Change)> {
    let (mut clients, mut cursor) = (Vec::new(), None);
    loop {
        let changes = bans.changes(cursor.as_ref()).await.unwrap();
        clients.extend(changes.clients);
        cursor = changes.cursor;
        if !changes.more {
            return clients;
        }
    }
}

#[tokio::test]
async fn a_violation_as_old_as_the_window_counts_no_more() {
    let server = Server::start();
    let (_counters, bans) = gateway(&server).await;
    for (n, gap, expected) in
        [(1, 60 * SECOND - 1, Struck::Began(block(0, 600 * SECOND))), (2, 60 * SECOND, Struck::Counted)]
    {
        assert_eq!(bans.strike_at(strike(n, 2), Some(NOW)).await, Ok(Struck::Counted));
        assert_eq!(bans.strike_at(strike(n, 2), Some(NOW + gap)).await, Ok(expected), "after {gap}");
    }
}

#[tokio::test]
async fn nothing_is_counted_during_a_block_and_afterwards_a_client_starts_anew() {
    let server = Server::start();
    let (_counters, bans) = gateway(&server).await;
    bans.strike_at(strike(1, 2), Some(NOW)).await.unwrap();
    let began = bans.strike_at(strike(1, 2), Some(NOW + 5)).await.unwrap();
    assert_eq!(began, Struck::Began(block(0, 600 * SECOND)));
    let end = NOW + 5 + 600 * SECOND;
    let last = bans.strike_at(strike(1, 2), Some(end - 1)).await.unwrap();
    assert_eq!(last, Struck::On(block(600 * SECOND - 1, 1)));
    assert_eq!(bans.strike_at(strike(1, 2), Some(end)).await, Ok(Struck::Counted));
    assert!(matches!(bans.strike_at(strike(1, 2), Some(end)).await, Ok(Struck::Began(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_at_once_from_two_gateways_begin_one_block() {
    let server = Server::start();
    let ((_a, one), (_b, two)) = (gateway(&server).await, gateway(&server).await);
    let gateways = [one, two].map(Arc::new);
    let tasks: Vec<_> = gateways
        .iter()
        .cycle()
        .take(100)
        .map(|bans| {
            let bans = bans.clone();
            tokio::spawn(async move { bans.strike(strike(1, 10)).await.unwrap() })
        })
        .collect();
    let (mut counted, mut began, mut on) = (0, 0, 0);
    for task in tasks {
        match task.await.unwrap() {
            Struck::Counted => counted += 1,
            Struck::Began(_) => began += 1,
            Struck::On(_) => on += 1,
        }
    }
    assert_eq!((counted, began, on), (9, 1, 90));
}

#[tokio::test]
async fn every_key_ends_by_itself() {
    let server = Server::start();
    let (_counters, bans) = gateway(&server).await;
    bans.strike(strike(1, 2)).await.unwrap();
    bans.strike(strike(2, 1)).await.unwrap();
    bans.strike(Strike { block: 30 * SECOND, ..strike(3, 1) }).await.unwrap();
    bans.lift(client(4), 90 * SECOND).await.unwrap();
    let mut keys: Vec<String> = server.run(&["KEYS", "*:bans:*"]).await;
    keys.sort();
    let expected = [
        (format!("test:{{test}}:bans:block:{}", client(2)), 600_000),
        (format!("test:{{test}}:bans:block:{}", client(3)), 30_000),
        (format!("test:{{test}}:bans:block:{}", client(4)), 90_000),
        // With the last block.
        ("test:{test}:bans:changes".to_owned(), 600_000),
        (format!("test:{{test}}:bans:violations:{}", client(1)), 60_000),
    ];
    assert_eq!(keys, expected.clone().map(|(key, _)| key));
    for (key, most) in expected {
        let left: i64 = server.run(&["PTTL", &key]).await;
        assert!((most - 25_000..=most).contains(&left), "{key} lasts {left} ms");
    }
    bans.lift(client(2), SECOND).await.unwrap();
    let left: i64 = server.run(&["PTTL", &format!("test:{{test}}:bans:block:{}", client(2))]).await;
    assert!(left > 500_000, "a lift is told for as long as the block would have been on: {left} ms");
}

#[tokio::test]
async fn no_address_stands_in_redis() {
    let server = Server::start();
    let (_counters, bans) = gateway(&server).await;
    let ip: IpAddr = "203.0.113.77".parse().unwrap();
    let table = BanTable::shared(&Violations::default(), RandomState::new(), &Secret::new(vec![7; 32]));
    let violation = Strike { max: 2, ..table.strike(ip, "waf.urls", 1).unwrap() };
    bans.strike(violation).await.unwrap();
    let hash = table.key(ip).to_string();
    let stands = format!("test:{{test}}:bans:violations:{hash}");
    let times: Vec<String> = server.run(&["LRANGE", &stands, "0", "-1"]).await;
    assert!(times.len() == 1 && times[0].bytes().all(|c| c.is_ascii_digit()), "a time and nothing else: {times:?}");
    bans.strike(violation).await.unwrap();
    let keys: Vec<String> = server.run(&["KEYS", "*:bans:*"]).await;
    assert_eq!(keys.len(), 2);
    let value: String = server.run(&["GET", &format!("test:{{test}}:bans:block:{hash}")]).await;
    let changed: Vec<String> = server.run(&["ZRANGE", "test:{test}:bans:changes", "0", "-1"]).await;
    assert_eq!(changed, std::slice::from_ref(&hash));
    assert!(value.starts_with("blocked ") && value.ends_with(" waf.urls"), "{value}");
    // 203.0.113.77 in hexadecimal.
    for text in keys.iter().chain([&value]) {
        assert!(!text.contains("cb00714d") && !text.contains("203.0.113"), "{text}");
    }
}

#[tokio::test]
async fn each_gateway_reads_what_the_others_began_and_lifted_once() {
    let server = Server::start();
    let ((_a, one), (_b, two)) = (gateway(&server).await, gateway(&server).await);
    let nothing = Changes { clients: vec![], cursor: None, more: false };
    assert_eq!(two.changes(None).await, Ok(nothing));
    one.strike(strike(1, 1)).await.unwrap();
    let first = two.changes(None).await.unwrap();
    let [(hash, Change::Blocked(block))] = &first.clients[..] else { panic!("{first:?}") };
    assert_eq!((*hash, &*block.code), (client(1), "waf.urls"));
    assert!((560 * SECOND..=600 * SECOND).contains(&block.remaining) && block.age < 40 * SECOND, "{block:?}");
    let again = two.changes(first.cursor.as_ref()).await.unwrap();
    assert_eq!((again.clients, &again.cursor), (vec![], &first.cursor), "nothing is news twice");
    assert_eq!(one.lift(client(1), SECOND).await, Ok(true));
    assert_eq!(one.lift(client(1), SECOND).await, Ok(false));
    let lifted = two.changes(again.cursor.as_ref()).await.unwrap();
    assert!(matches!(lifted.clients[..], [(hash, Change::Lifted(age))] if hash == client(1) && age < 40 * SECOND));
    assert_eq!(one.strike(strike(1, 2)).await, Ok(Struck::Counted), "its violations are forgotten");
}

#[tokio::test]
async fn a_gateway_that_starts_reads_every_block_that_is_on_page_by_page() {
    let server = Server::start();
    let (_counters, bans) = gateway(&server).await;
    for n in 0..PAGE + 3 {
        bans.strike(strike(n, 1)).await.unwrap();
    }
    let first = bans.changes(None).await.unwrap();
    assert_eq!((first.clients.len(), first.more), (PAGE, true));
    let read: HashMap<_, _> = all(&bans).await.into_iter().collect();
    assert_eq!(read.len(), PAGE + 3);
    assert!(read.values().all(|change| matches!(change, Change::Blocked(_))));
}

#[tokio::test]
async fn a_clock_that_goes_back_and_a_server_that_begins_anew_hide_no_block() {
    let mut server = Server::start();
    let (_counters, bans) = gateway(&server).await;
    bans.strike_at(strike(1, 1), Some(NOW)).await.unwrap();
    let before = bans.changes(None).await.unwrap().cursor;
    bans.strike_at(strike(2, 1), Some(NOW - 3_600 * SECOND)).await.unwrap();
    let earlier = bans.changes(before.as_ref()).await.unwrap();
    // The clock of the reading is the server's own, for which both are long in the future.
    assert_eq!(earlier.clients.iter().map(|(hash, _)| *hash).collect::<Vec<_>>(), [client(2)]);
    server.kill();
    until("the loss is noticed", async || bans.changes(before.as_ref()).await == Err(StoreFault::Away)).await;
    server.restart();
    until("it reads again", async || bans.changes(before.as_ref()).await.is_ok_and(|c| c.cursor.is_none())).await;
    bans.strike(strike(3, 1)).await.unwrap();
    let anew = bans.changes(None).await.unwrap();
    assert_eq!(anew.clients.iter().map(|(hash, _)| *hash).collect::<Vec<_>>(), [client(3)]);
}

#[tokio::test]
async fn no_more_changes_are_remembered_than_may_be() {
    let server = Server::start();
    let (_counters, mut bans) = gateway(&server).await;
    assert_eq!(bans.0.changes_max, CLIENTS_MAX);
    bans.0.changes_max = 3;
    for n in 1..=3 {
        bans.strike(strike(n, 1)).await.unwrap();
    }
    assert_eq!(all(&bans).await.len(), 3);
    bans.strike(strike(4, 1)).await.unwrap();
    bans.lift(client(5), 600 * SECOND).await.unwrap();
    let newest: Vec<_> = all(&bans).await.into_iter().map(|(hash, _)| hash).collect();
    assert_eq!(newest, [3, 4, 5].map(client));
}

#[tokio::test]
async fn what_others_write_there_is_no_block_and_hides_none() {
    let server = Server::start();
    let (_counters, bans) = gateway(&server).await;
    bans.strike(strike(1, 1)).await.unwrap();
    bans.strike(strike(2, 1)).await.unwrap();
    let () = server.run(&["SET", &format!("test:{{test}}:bans:block:{}", client(2)), "nonsense"]).await;
    let () = server.run(&["ZADD", "test:{test}:bans:changes", "1", "no hash"]).await;
    let read = all(&bans).await;
    assert!(matches!(&read[..], [(hash, Change::Blocked(_))] if *hash == client(1)), "{read:?}");
}

#[tokio::test]
async fn what_the_server_refuses_here_says_nothing_of_the_counters() {
    let server = Server::start();
    let (counters, bans) = gateway(&server).await;
    let () = server.run(&["SET", "test:{test}:bans:changes", "nonsense"]).await;
    for n in 0..20 {
        assert_eq!(bans.changes(None).await, Err(StoreFault::Refused("WRONGTYPE".to_owned())));
        assert!(matches!(bans.strike(strike(n, 1)).await, Err(StoreFault::Refused(_))));
    }
    assert_eq!(counters.health(), Health::Healthy);
    assert!(!counters.inner.breaker.is_troubled());
}

/// Redis and the table, asked the same with the same clock, answer the same.
#[test]
fn redis_counts_as_the_table_does() {
    let server = Server::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (_counters, bans) = runtime.block_on(gateway(&server));
    let mut runner = TestRunner::new(ProptestConfig { cases: 24, ..ProptestConfig::default() });
    let steps = (1..6_u32, vec((0..40_u64, 0..3_usize, 0..12_u8), 1..80));
    // Each case has clients of its own.
    let cases = Cell::new(0);
    runner
        .run(&steps, |(max, steps)| {
            let case = cases.get() + 1_000;
            cases.set(case);
            let violations = Violations {
                max: At::nowhere(NonZeroU32::new(max).unwrap()),
                window: Millis::from_secs(60),
                block: Millis::from_secs(90),
            };
            let table = BanTable::new(&violations, RandomState::new());
            let max = usize::try_from(max).unwrap();
            let mut now = NOW;
            for (wait_s, n, what) in steps {
                now += wait_s * SECOND;
                let ip = IpAddr::from([192, 0, 2, u8::try_from(n).unwrap()]);
                if what == 0 {
                    let had = table.active(ip, now).is_some();
                    table.lift(table.key(ip));
                    let lifted = runtime.block_on(bans.lift_at(client(case + n), SECOND, Some(now)));
                    prop_assert_eq!(lifted, Ok(had));
                    continue;
                }
                let before = table.active(ip, now);
                let began = table.record(ip, "waf.urls", now);
                let expected = match (before, began) {
                    (Some(ban), _) => Struck::On(block(now - ban.since, ban.until - now)),
                    (None, Some(_)) => Struck::Began(block(0, 90 * SECOND)),
                    (None, None) => Struck::Counted,
                };
                let strike = Strike { block: 90 * SECOND, ..strike(case + n, max) };
                prop_assert_eq!(runtime.block_on(bans.strike_at(strike, Some(now))), Ok(expected));
            }
            Ok(())
        })
        .unwrap();
}
