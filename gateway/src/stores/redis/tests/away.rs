//! Redis killed, stopped, swallowed by the wire, full, demoted, locked: an answer in time, and back by itself.

use std::time::{Duration, Instant};

use portcullis_plugins::rate_limit::{Answer, StoreFault};

use super::server::{Server, Wire, bucket, connected, free_port, healthy, options, start, take, until, why};
use crate::stores::redis::{Health, Options, RedisCounters};

const DEADLINE: Duration = Duration::from_millis(100);

/// What the scheduler of a busy machine may add.
const SLACK: Duration = Duration::from_millis(400);

/// Options with a deadline that the tests can tell from an answer at once.
fn prompt(url: String) -> Options {
    Options { deadline: DEADLINE, ..options(url) }
}

/// One call, which must not take longer than the deadline.
async fn timely(counters: &RedisCounters) -> Result<Answer, StoreFault> {
    let start = Instant::now();
    let result = take(counters, &[bucket("r", 1, 1_000_000)]).await;
    assert!(start.elapsed().saturating_sub(DEADLINE) < SLACK, "{:?}", start.elapsed());
    result.map(|levels| levels[0].answer)
}

async fn answers(counters: &RedisCounters) {
    until("counted in Redis again", async || timely(counters).await == Ok(Answer::Charged)).await;
    healthy(counters).await;
}

#[tokio::test]
async fn a_redis_that_is_killed_costs_no_wait_and_is_used_again_when_it_is_back() {
    let mut server = Server::start();
    let counters = connected(prompt(server.url())).await;
    server.kill();
    until("the loss is noticed", async || timely(&counters).await == Err(StoreFault::Away)).await;
    for _ in 0..100 {
        assert_eq!(timely(&counters).await, Err(StoreFault::Away));
    }
    until("the reason is told", async || why(&counters) == "connection refused").await;
    server.restart();
    answers(&counters).await;
}

#[tokio::test]
async fn a_redis_that_is_stopped_costs_a_few_deadlines_and_then_nothing() {
    let server = Server::start();
    let counters = connected(prompt(server.url())).await;
    server.signal("-STOP");
    // At most five misses, fewer when the prober was among them.
    let mut late = 0;
    while timely(&counters).await == Err(StoreFault::Late) {
        late += 1;
        assert!(late <= 5);
    }
    let start = Instant::now();
    for _ in 0..1_000 {
        assert_eq!(take(&counters, &[bucket("r", 1, 10)]).await, Err(StoreFault::Away));
    }
    assert!(start.elapsed() < SLACK, "{:?} for a thousand calls", start.elapsed());
    assert!(matches!(counters.health(), Health::Degraded { .. }));
    server.signal("-CONT");
    answers(&counters).await;
}

#[tokio::test]
async fn a_redis_whose_writes_are_paused_is_a_redis_that_is_away() {
    let server = Server::start();
    let counters = connected(prompt(server.url())).await;
    let () = server.run(&["CLIENT", "PAUSE", "600000", "WRITE"]).await;
    assert_eq!(server.run::<String>(&["PING"]).await, "PONG", "it answers everything else");
    until("no call waits", async || timely(&counters).await == Err(StoreFault::Away)).await;
    let () = server.run(&["CLIENT", "UNPAUSE"]).await;
    answers(&counters).await;
}

#[tokio::test]
async fn a_connection_that_is_open_but_dead_is_given_up() {
    let server = Server::start();
    let wire = Wire::to(server.port()).await;
    let counters = connected(prompt(format!("redis://127.0.0.1:{}/", wire.port))).await;
    assert_eq!(timely(&counters).await, Ok(Answer::Charged));
    wire.deaden();
    assert_eq!(timely(&counters).await, Err(StoreFault::Late));
    // Nobody closes the old connection: only a new one can bring an answer.
    answers(&counters).await;
}

#[tokio::test]
async fn a_silent_death_is_noticed_without_traffic() {
    let server = Server::start();
    let counters = connected(prompt(server.url())).await;
    server.signal("-STOP");
    until("degraded", async || counters.health() != Health::Healthy).await;
    server.signal("-CONT");
    healthy(&counters).await;
}

#[tokio::test]
async fn a_gateway_starts_while_redis_is_away() {
    let port = free_port();
    let counters = start(prompt(format!("redis://127.0.0.1:{port}/")));
    assert_eq!(timely(&counters).await, Err(StoreFault::Away));
    until("the reason is told", async || why(&counters) == "connection refused").await;
    let _server = Server::on(port, &[]);
    answers(&counters).await;
}

#[tokio::test]
async fn more_calls_than_may_wait_fail_at_once() {
    let server = Server::start();
    let one_at_a_time = Options { in_flight_max: 1, ..prompt(server.url()) };
    let counters = connected(one_at_a_time).await;
    server.signal("-STOP");
    let buckets = [bucket("r", 1, 10)];
    let (first, second) = tokio::join!(take(&counters, &buckets), take(&counters, &buckets));
    assert_eq!((first, second), (Err(StoreFault::Late), Err(StoreFault::Busy)));
}

#[tokio::test]
async fn a_server_that_refuses_is_named_by_its_code() {
    let server = Server::start();
    let counters = connected(prompt(server.url())).await;
    let () = server.run(&["CONFIG", "SET", "maxmemory", "1"]).await;
    assert_eq!(timely(&counters).await, Err(StoreFault::Refused("OOM".to_owned())));
    until("the breaker opens", async || timely(&counters).await == Err(StoreFault::Away)).await;
    until("the reason is told", async || why(&counters) == "OOM").await;
    let () = server.run(&["CONFIG", "SET", "maxmemory", "0"]).await;
    answers(&counters).await;
}

#[tokio::test]
async fn a_master_that_became_a_replica_is_left() {
    let (server, other) = (Server::start(), Server::start());
    let counters = connected(prompt(server.url())).await;
    let () = server.run(&["REPLICAOF", "127.0.0.1", &other.port().to_string()]).await;
    let refused = timely(&counters).await;
    assert!(matches!(refused, Err(StoreFault::Refused(_) | StoreFault::Away)), "{refused:?}");
    until("the reason is told", async || ["READONLY", "MASTERDOWN"].contains(&&*why(&counters))).await;
    let () = server.run(&["REPLICAOF", "NO", "ONE"]).await;
    answers(&counters).await;
}

#[tokio::test]
async fn a_wrong_password_is_told_without_the_password() {
    let server = Server::with(&["--requirepass", "right"]);
    let counters = start(prompt(format!("redis://:wrong@127.0.0.1:{}/", server.port())));
    until("the reason is told", async || why(&counters) != "not connected yet").await;
    let why = why(&counters);
    assert!(!why.contains("wrong") && !why.is_empty(), "{why}");
    assert_eq!(timely(&counters).await, Err(StoreFault::Away));
    drop(connected(prompt(format!("redis://:right@127.0.0.1:{}/", server.port()))).await);
}
