//! How often Redis is asked: once for many, not for those who gave up, not for what is known to be empty.

use std::{sync::Arc, time::Duration};

use portcullis_plugins::rate_limit::{Answer, Level};
use tokio::sync::{mpsc, oneshot};

use super::server::{Server, bucket, connected, options, take, until};
use crate::stores::redis::{
    batch::{self, Waiting},
    call::Ask,
};

/// How many runs of the script the server has seen.
pub(super) async fn runs(server: &Server) -> u64 {
    let info: String = server.run(&["INFO", "commandstats"]).await;
    let line = info.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    line.and_then(|line| line.split(',').next()?.parse().ok()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_come_while_others_are_under_way_go_together() {
    const CALLS: usize = 300;
    let server = Server::start();
    let mut options = options(server.url());
    options.deadline = Duration::from_secs(20);
    let permits = options.in_flight_max;
    let counters = Arc::new(connected(options).await);
    let before = runs(&server).await;
    server.signal("-STOP");
    let tasks: Vec<_> = (0..CALLS)
        .map(|_| {
            let counters = counters.clone();
            tokio::spawn(async move { take(&counters, &[bucket("r", 1, 250)]).await.unwrap()[0].answer })
        })
        .collect();
    until("all wait", async || counters.inner.permits.available_permits() == permits - CALLS).await;
    server.signal("-CONT");
    let mut charged = 0;
    for task in tasks {
        charged += usize::from(task.await.unwrap() == Answer::Charged);
    }
    assert_eq!(charged, 250);
    let asked = runs(&server).await - before;
    // Eight that were under way, the rest in batches of 64; the prober asks now and then.
    assert!(asked <= 30, "{asked} runs of the script for {CALLS} calls");
}

#[tokio::test]
async fn a_call_whose_request_gave_up_is_not_charged() {
    let server = Server::start();
    let counters = connected(options(server.url())).await;
    let (queue, waiting) = mpsc::unbounded_channel();
    let call = || {
        let (answer, answered) = oneshot::channel();
        let ask = Ask::of(&[bucket("r", 1, 10)], &counters.inner.keys);
        queue.send(Waiting { ask, sent: Arc::default(), answer }).ok().unwrap();
        answered
    };
    let (gone, here) = (call(), call());
    drop((gone, call()));
    tokio::spawn(batch::run(counters.inner.clone(), waiting));
    assert_eq!(here.await.unwrap().unwrap()[0].remaining, 9);
}

#[tokio::test]
async fn a_bucket_that_is_empty_is_not_asked_again() {
    let server = Server::start();
    let counters = connected(options(server.url())).await;
    let (one, other) = (bucket("r", 1, 1), bucket("s", 2, 10));
    take(&counters, &[one]).await.unwrap();
    let empty = take(&counters, &[one]).await.unwrap()[0];
    let before = runs(&server).await;
    for _ in 0..100 {
        let levels = take(&counters, &[other, one]).await.unwrap();
        assert_eq!(levels[0], Level::UNASKED);
        assert_eq!((levels[1].answer, levels[1].remaining), (Answer::Short, 0));
        assert!(levels[1].retry_after <= empty.retry_after && levels[1].retry_after > empty.retry_after - 20_000_000);
    }
    // A slow machine may take longer than the second for which it is believed.
    let asked = runs(&server).await - before;
    assert!(asked <= 30, "{asked} runs of the script");
    assert_eq!(counters.inner.metrics.remembered.get() + asked, 100);
    assert_eq!(take(&counters, &[other]).await.unwrap()[0].remaining, 9, "the other was not charged");
}

#[tokio::test]
async fn a_bucket_that_an_operator_reset_is_used_again_within_a_second() {
    let server = Server::start();
    let counters = connected(options(server.url())).await;
    let one = bucket("r", 1, 1);
    take(&counters, &[one]).await.unwrap();
    assert_eq!(take(&counters, &[one]).await.unwrap()[0].answer, Answer::Short);
    let () = server.run(&["FLUSHALL"]).await;
    until("it has its token", async || take(&counters, &[one]).await.unwrap()[0].answer == Answer::Charged).await;
}
