//! Limits and blocks in a Redis that fails over: Sentinels, and a cluster. Nobody starts a gateway again for it.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use portcullis_tests::{
    Answer, Gateway, Request, Setup, Upstream,
    redis::{Redis, cluster::Cluster, sentinels::Sentinels},
    tokens::main_token,
    wait_for,
};

use crate::limits::violation;

/// Requests of the limit, and the share of each of four gateways.
const LIMIT: usize = 40;
const SHARE: usize = 10;

/// The hash tag of all keys.
const TAG: &str = "portcullis";

/// A check may take as long, and the machine a little more.
const DEADLINE: Duration = Duration::from_secs(2);
const SLACK: Duration = Duration::from_secs(3);

/// A gateway whose route `orders` has one limit, counted in this store.
fn counted(upstream: &Upstream, url: &str, posture: &str, deadline: Duration) -> Gateway {
    Setup::new(upstream)
        .set("controls.waf", "{}")
        .with(&format!(
            r#"
            hosts."api.example.test".routes.orders.limits = ["shared"]
            [stores]
            counters = "{url}"
            key = "file:secrets/store"
            deadline = "{}ms"
            instances = 4
            [limits.shared]
            key = ["tenant"]
            requests = {LIMIT}
            window = "1h"
            on_store_failure = "{posture}"
            "#,
            deadline.as_millis(),
        ))
        .start()
}

/// Two gateways of one deployment, which differ in what they do without the store. They may wait for long, so that no
/// answer is late because the machine is busy.
fn deployment(upstream: &Upstream, url: &str) -> [Gateway; 2] {
    ["deny", "local_share"].map(|posture| counted(upstream, url, posture, DEADLINE))
}

/// An answer, which must not take longer than the deadline.
fn ask(gateway: &Gateway, tenant: &str) -> Answer {
    let start = Instant::now();
    let answer = gateway.send(&Request::get("/v1/orders").bearer(main_token(tenant)));
    assert!(start.elapsed() < DEADLINE + SLACK, "{:?}", start.elapsed());
    answer
}

fn status(gateway: &Gateway, tenant: &str) -> u16 {
    ask(gateway, tenant).status
}

fn store(gateway: &Gateway) -> String {
    let answer = gateway.admin("GET", "/readyz").text();
    let answer: serde_json::Value = serde_json::from_str(&answer).expect("a document");
    answer["counters"].as_str().expect("a text").to_owned()
}

/// Waits until the store is used again; until then nothing but the refusal of `deny`. The first status after that.
fn until_back(denying: &Gateway, tenant: &str) -> u16 {
    wait_for("the store to be used again", || match status(denying, tenant) {
        503 => None,
        other => Some(other),
    })
}

/// Every request that is admitted until the limit is used up.
fn drained(gateway: &Gateway, tenant: &str) -> usize {
    let mut passed = 0;
    loop {
        match status(gateway, tenant) {
            200 => passed += 1,
            429 => return passed,
            other => panic!("{other} after {passed}"),
        }
    }
}

/// The store has just been taken away: each gateway does what it says for this, and says why.
fn does_what_it_says(denying: &Gateway, sharing: &Gateway, mode: &str) {
    assert_eq!(status(denying, "acme"), 503);
    let answer = ask(sharing, "globex");
    assert_eq!(answer.status, 200);
    let line = sharing.line(&answer.request_id());
    assert!(line["trail"].to_string().contains("the store is away: "), "{line}");
    let passed = (0..SHARE + 5).filter(|_| status(sharing, "globex") == 200).count();
    assert!((SHARE - 1..LIMIT).contains(&passed), "{passed}: no silent allow");
    for gateway in [denying, sharing] {
        let event = gateway.said(|line| line.contains("store.away")).expect("it is logged");
        assert!(event.contains(&format!("\"mode\":\"{mode}\"")), "{event}");
        assert!(!event.contains("127.0.0.1"), "{event}");
    }
}

/// A block that begins on one gateway holds on the other.
fn blocks_are_shared(first: &Gateway, second: &Gateway) {
    let from = |gateway: &Gateway| gateway.dial().from("127.0.0.77");
    for _ in 0..10 {
        assert_eq!(first.send_from(&from(first), &violation()).code(), "waf.urls");
    }
    wait_for("the block to hold on both", || {
        [first, second]
            .iter()
            .all(|gateway| gateway.admin("GET", "/admin/v1/bans").text().contains("waf.urls"))
            .then_some(())
    });
}

#[test]
fn a_master_that_is_killed_is_replaced_and_comes_back_as_a_replica() {
    let (upstream, mut redis) = (Upstream::start(), Sentinels::start());
    let [denying, sharing] = deployment(&upstream, &redis.url());
    assert_eq!(store(&denying), "sentinel: healthy");
    for _ in 0..3 {
        assert_eq!(status(&denying, "acme"), 200);
    }
    redis.wait_replicated();
    redis.master.kill();
    does_what_it_says(&denying, &sharing, "sentinel");
    assert!(store(&denying).starts_with("sentinel: degraded for "), "{}", store(&denying));
    assert_eq!(until_back(&denying, "acme"), 200);
    assert_eq!(redis.replica.info("role").as_deref(), Some("master"));

    // The old one is a master by its own account until the Sentinels have told it.
    redis.master.restart();
    blocks_are_shared(&denying, &sharing);
    wait_for("the old master to be a replica", || (redis.master.info("role")? == "slave").then_some(()));
    assert_eq!(drained(&denying, "acme"), LIMIT - 4, "what was counted before counts");
    assert_eq!(drained(&sharing, "acme"), 0);
    assert_eq!(redis.master.scripts_run(), 0, "nothing was asked of the old master");
    assert_eq!(store(&denying), "sentinel: healthy");
}

#[test]
fn a_master_that_hangs_is_replaced_and_left_when_it_goes_on() {
    let (upstream, redis) = (Upstream::start(), Sentinels::start());
    let gateway = counted(&upstream, &redis.url(), "deny", Duration::from_millis(250));
    let answers = || wait_for("an answer that is counted", || Some(status(&gateway, "acme")).filter(|&s| s != 503));
    assert_eq!(answers(), 200);
    redis.wait_replicated();
    redis.master.hold();
    assert_eq!(status(&gateway, "acme"), 503);
    assert_eq!(answers(), 200);
    assert_eq!(redis.replica.info("role").as_deref(), Some("master"));

    redis.master.go_on();
    // What was sent to it before may be done now; it is lost with all else that it has.
    wait_for("it to answer", || redis.master.info("role"));
    let before = redis.master.scripts_run();
    let passed = (0..).take_while(|_| answers() == 200).count();
    // A check that was late on a busy machine may have been charged.
    assert!((LIMIT / 2..=LIMIT - 2).contains(&passed), "{passed}");
    assert_eq!(redis.master.scripts_run(), before, "nothing is asked of the old master");
}

#[test]
fn a_node_of_a_cluster_that_is_killed_is_replaced_though_the_url_names_no_other() {
    let (upstream, mut cluster) = (Upstream::start(), Cluster::with_replica(TAG));
    let [denying, sharing] = deployment(&upstream, &cluster.url(0));
    assert_eq!(store(&denying), "cluster: healthy");
    for _ in 0..3 {
        assert_eq!(status(&denying, "acme"), 200);
    }
    let offset = |node: &Redis| node.info("master_repl_offset");
    wait_for("the replica to have it all", || (offset(&cluster.nodes[0])? == offset(&cluster.nodes[3])?).then_some(()));
    cluster.nodes[0].kill();
    does_what_it_says(&denying, &sharing, "cluster");
    assert_eq!(until_back(&denying, "acme"), 200);
    assert_eq!(drained(&denying, "acme"), LIMIT - 4, "what was counted before counts");
    assert_eq!(drained(&sharing, "acme"), 0);
    blocks_are_shared(&denying, &sharing);
    let others: u64 = cluster.nodes[1..3].iter().map(Redis::scripts_run).sum();
    assert_eq!(others, 0, "one master serves a deployment");
}

#[test]
fn slots_of_others_move_unnoticed_and_our_own_with_its_counts() {
    let (upstream, cluster) = (Upstream::start(), Cluster::start(TAG));
    // A node that has not our slot tells who has.
    let [denying, sharing] = deployment(&upstream, &cluster.url(1));
    let errors = |gateway: &Gateway| gateway.metric("portcullis_ratelimit_store_errors_total", &[]).unwrap_or(0.0);
    let start = [errors(&denying), errors(&sharing)];
    let way = [0, 2];

    let other = if cluster.slot == 16_383 { 16_382 } else { cluster.slot ^ 1 };
    let [mut of_acme, mut of_globex] = [0, 0];
    let mut both = |expected: &[u16]| {
        for (gateway, tenant, passed) in [(&denying, "acme", &mut of_acme), (&sharing, "globex", &mut of_globex)] {
            let status = status(gateway, tenant);
            assert!(expected.contains(&status), "{status} of {tenant}");
            *passed += usize::from(status == 200);
        }
    };
    for step in [Cluster::begin_move, Cluster::move_keys, Cluster::end_move] {
        both(&[200]);
        step(&cluster, other, way);
        both(&[200]);
    }
    assert_eq!([errors(&denying), errors(&sharing)], start, "nobody noticed");

    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let status = status(&sharing, "initech");
                assert!(matches!(status, 200 | 429), "{status}");
            }
        });
        for step in [Cluster::begin_move, Cluster::move_keys, Cluster::end_move] {
            both(&[200, 503]);
            step(&cluster, cluster.slot, way);
            both(&[200, 503]);
        }
        done.store(true, Ordering::Relaxed);
        load.join().expect("no status but these");
    });
    for gateway in [&denying, &sharing] {
        wait_for("the store to be used again", || (store(gateway) == "cluster: healthy").then_some(()));
    }
    of_acme += drained(&denying, "acme");
    of_globex += drained(&sharing, "globex");
    assert_eq!(of_acme, LIMIT, "the limit to the request");
    assert!((LIMIT..=LIMIT + SHARE).contains(&of_globex), "{of_globex}: the limit and one share of it");
    assert!(cluster.nodes[2].scripts_run() > 0);
}
