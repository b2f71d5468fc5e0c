//! Failed logins of several gateways in one Redis: counted as in memory, told to each, gone by themselves.

use std::{cell::Cell, sync::Arc, time::Duration};

use portcullis_api::{Issues, Micros};
use portcullis_plugins::{
    bans::Change,
    login::{
        Began, Failed, Failure, Keys, LockKey, Locks, NETWORKS_MAX, Numbers, Scope, Settings, SharedLogins, Success,
    },
    rate_limit::StoreFault,
};
use proptest::{collection::vec, prelude::*, test_runner::TestRunner};

use super::server::{Server, connected, options};
use crate::stores::redis::{Health, Options, RedisCounters, logins::RedisLogins};

const SECOND: Micros = 1_000_000;
const DAY: Micros = 86_400 * SECOND;
/// A clock of the tests, far ahead of the server's.
const NOW: Micros = 4_000_000_000 * SECOND;

fn key(account: usize, rest: usize) -> LockKey {
    format!("{account:016x}{rest:016x}").parse().unwrap()
}

/// A login to an account from a network.
fn keys(account: usize, network: usize) -> Keys {
    let pair = key(account, network);
    Keys { pair, account: key(account, 0xaaaa), network: key(0xffff, network) }
}

fn numbers() -> Arc<Numbers> {
    Arc::new(Numbers::compile(&Settings::default(), &mut Issues::default()).unwrap())
}

pub(super) fn failure(account: usize, network: usize) -> Failure {
    Failure { keys: keys(account, network), numbers: numbers() }
}

/// A gateway's part of the store; it lives as long as the counters beside it. No test is about its deadline.
async fn gateway(server: &Server) -> (RedisCounters, RedisLogins) {
    let counters = connected(Options { deadline: Duration::from_secs(20), ..options(server.url()) }).await;
    let logins = counters.logins();
    (counters, logins)
}

/// The locks that a failure began: of what, with how many failures, for how long.
fn began(failed: &Failed) -> Vec<(Scope, usize, Micros)> {
    let of_this = failed.stood.iter().filter_map(|stood| Some((stood, stood.lock.as_ref()?)));
    of_this
        .filter(|(_, (_, began))| *began == Began::Now)
        .map(|(stood, (block, _))| (stood.scope, stood.failures, block.remaining))
        .collect()
}

async fn fail(logins: &RedisLogins, account: usize, network: usize) -> Failed {
    SharedLogins::fail(logins, failure(account, network)).await.unwrap()
}

#[tokio::test]
async fn failures_on_two_gateways_lock_on_both_and_a_success_unlocks_the_account_on_both() {
    let server = Server::start();
    let (_counters, one) = gateway(&server).await;
    let (_others, two) = gateway(&server).await;
    for n in 1..=4 {
        let failed = fail(if n % 2 == 0 { &one } else { &two }, 1, 1).await;
        assert!(failed.stood.iter().all(|stood| stood.failures == n && stood.lock.is_none()), "{failed:?}");
    }
    let fifth = began(&fail(&one, 1, 1).await);
    assert_eq!(fifth, Scope::ALL.map(|scope| (scope, 5, 60 * SECOND)));
    let told = two.changes(None).await.unwrap();
    assert_eq!(
        told.clients.iter().map(|(key, _)| *key).collect::<Vec<_>>(),
        Scope::ALL.map(|scope| keys(1, 1).of(scope))
    );
    let Change::Blocked(block) = &told.clients[0].1 else { panic!("{told:?}") };
    assert_eq!(block.code, "pair 5");
    assert_eq!(two.knows(keys(1, 1), DAY).await, Ok(false));
    two.succeed(keys(1, 1), DAY, SECOND).await.unwrap();
    assert_eq!(one.knows(keys(1, 1), DAY).await, Ok(true));
    assert_eq!(one.knows(keys(1, 2), DAY).await, Ok(false));
    let told = one.changes(told.cursor.as_ref()).await.unwrap();
    let lifted: Vec<_> = told.clients.iter().filter(|(_, change)| matches!(change, Change::Lifted(_))).collect();
    assert_eq!(lifted.len(), 2, "the pair and the account, and not the network: {told:?}");
    // From a known network only the pair counts.
    let known = fail(&one, 1, 1).await;
    assert_eq!((known.known, known.stood.len(), known.stood[0].failures), (true, 1, 1));
    assert_eq!(fail(&one, 1, 2).await.stood[1].failures, 1, "strangers begin anew too");
}

#[tokio::test]
async fn a_lock_is_lifted_once_and_the_others_are_told() {
    let server = Server::start();
    let (_counters, one) = gateway(&server).await;
    for _ in 0..5 {
        fail(&one, 1, 1).await;
    }
    let before = one.changes(None).await.unwrap();
    assert_eq!(one.lift(keys(1, 1).account, SECOND).await, Ok(true));
    assert_eq!(one.lift(keys(1, 1).account, SECOND).await, Ok(false));
    let after = one.changes(before.cursor.as_ref()).await.unwrap();
    assert!(matches!(after.clients[..], [(key, Change::Lifted(_))] if key == keys(1, 1).account), "{after:?}");
    assert_eq!(fail(&one, 1, 2).await.stood[1].failures, 1, "its failures are forgotten");
}

#[tokio::test]
async fn an_account_is_known_from_its_last_networks_and_every_key_ends_by_itself() {
    let server = Server::start();
    let (_counters, one) = gateway(&server).await;
    for network in 0..=NETWORKS_MAX {
        one.succeed(keys(1, network), DAY, SECOND).await.unwrap();
    }
    assert_eq!(one.knows(keys(1, 0), DAY).await, Ok(false), "the oldest one made room");
    assert_eq!(one.knows(keys(1, 1), DAY).await, Ok(true));
    fail(&one, 2, 1).await;
    let names: Vec<String> = server.run(&["KEYS", "*"]).await;
    assert!(names.iter().any(|name| name.starts_with("test:{test}:login:failures:")), "{names:?}");
    for name in names {
        let ttl: i64 = server.run(&["PTTL", &name]).await;
        assert!(ttl > 0 || name.ends_with(":instances") || name.contains("fleet"), "{name} {ttl}");
    }
}

#[tokio::test]
async fn what_the_server_refuses_here_says_nothing_of_the_counters() {
    let server = Server::start();
    let (counters, one) = gateway(&server).await;
    let () = server.run(&["RPUSH", &format!("test:{{test}}:login:known:{}", keys(1, 1).account), "nonsense"]).await;
    for _ in 0..20 {
        assert!(matches!(SharedLogins::fail(&one, failure(1, 1)).await, Err(StoreFault::Refused(_))));
        assert!(matches!(one.knows(keys(1, 1), DAY).await, Err(StoreFault::Refused(_))));
    }
    assert_eq!(counters.health(), Health::Healthy);
}

/// Redis and the tables, told the same with the same clock, answer the same.
#[test]
fn redis_counts_as_the_tables_do() {
    let server = Server::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (_counters, logins) = runtime.block_on(gateway(&server));
    let mut runner = TestRunner::new(ProptestConfig { cases: 24, ..ProptestConfig::default() });
    let steps = vec((0..200_u64, 0..2_usize, 0..3_usize, 0..16_u8), 1..120);
    // Each case has accounts and networks of its own.
    let cases = Cell::new(0);
    runner
        .run(&steps, |steps| {
            let case = cases.get() + 10;
            cases.set(case);
            let locks = Locks::new(None);
            let mut now = NOW;
            for (wait_s, account, network, what) in steps {
                now += wait_s * SECOND;
                let failure = failure(case + account, case + network);
                let Failure { keys, numbers } = failure.clone();
                match what {
                    0 => {
                        let lifted = runtime.block_on(logins.lift_at(keys.account, SECOND, Some(now)));
                        prop_assert_eq!(lifted, Ok(locks.lift(keys.account, now)));
                    }
                    1 => {
                        let on = locks.list(now).len();
                        let known_for = numbers.known_for();
                        let ended = runtime.block_on(logins.succeed_at(&keys, known_for, SECOND, Some(now))).unwrap();
                        locks.succeed(&Success { keys, numbers }, now);
                        prop_assert_eq!(usize::try_from(ended).unwrap(), on - locks.list(now).len());
                        prop_assert_eq!(runtime.block_on(logins.knows_at(&keys, known_for, Some(now))), Ok(true));
                    }
                    _ => {
                        let failed = runtime.block_on(logins.fail_at(&failure, Some(now))).unwrap();
                        let here = locks.fail(&failure, now);
                        let here: Vec<_> =
                            here.iter().map(|lock| (lock.scope, lock.failures, lock.until - now)).collect();
                        prop_assert_eq!(began(&failed), here);
                        for (block, scope) in failed.stood.iter().filter_map(|s| Some((&s.lock.as_ref()?.0, s.scope))) {
                            let on = locks.list(now).into_iter().find(|lock| lock.key == keys.of(scope));
                            prop_assert_eq!(on.map(|lock| lock.until - now), Some(block.remaining));
                        }
                    }
                }
            }
            Ok(())
        })
        .unwrap();
}
