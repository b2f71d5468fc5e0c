//! Blocks that the gateways of a deployment share over a real redis-server, and what stays of them without it.

use std::time::{Duration, Instant};

use portcullis_tests::{Answer, Gateway, Request, Setup, Upstream, redis::Redis, wait_for};

use crate::limits::violation;

/// What a block that one gateway began may take to hold on another.
const SECOND: Duration = Duration::from_secs(1);

/// A gateway of the deployment. Its deadline is long: the tests share their machine with others.
fn sharing(upstream: &Upstream, redis: &Redis) -> Setup {
    Setup::new(upstream)
        .set("controls.waf", "{}")
        .with(&format!("[stores]\ncounters = \"{}\"\nkey = \"file:secrets/store\"\ndeadline = \"2s\"", redis.url()))
}

fn ask(gateway: &Gateway, address: &str) -> Option<Answer> {
    gateway.try_send(&gateway.dial().from(address), &Request::get("/public"))
}

/// As the answer or, where the connection is closed without one, its absence shows.
fn is_blocked(gateway: &Gateway, address: &str) -> bool {
    ask(gateway, address).is_none_or(|answer| match answer.status {
        200 => false,
        403 if answer.code() == "bans.active" => true,
        _ => panic!("{answer:?}"),
    })
}

fn violate(gateway: &Gateway, address: &str, times: usize) {
    for _ in 0..times {
        let answer = gateway.send_from(&gateway.dial().from(address), &violation());
        assert_eq!(answer.code(), "waf.urls", "{answer:?}");
    }
}

fn listed(gateway: &Gateway) -> Vec<serde_json::Value> {
    let answer = gateway.admin("GET", "/admin/v1/bans");
    serde_json::from_str::<serde_json::Value>(&answer.text()).expect("a document")["bans"]
        .as_array()
        .expect("a list")
        .clone()
}

/// Waits until each gateway lists so many blocks; how long it took.
fn until_listed(gateways: &[&Gateway], count: usize) -> Duration {
    let start = Instant::now();
    for gateway in gateways {
        wait_for("the blocks to be as they should", || (listed(gateway).len() == count).then_some(()));
    }
    start.elapsed()
}

/// Five violations on each of two gateways: blocked on both.
fn blocked_on_both(first: &Gateway, second: &Gateway, address: &str) {
    violate(first, address, 5);
    assert!(!is_blocked(first, address) && !is_blocked(second, address));
    violate(second, address, 5);
    let took = until_listed(&[second, first], 1);
    assert!(took < SECOND, "{took:?}");
    assert!(is_blocked(first, address) && is_blocked(second, address));
}

#[test]
fn violations_on_two_gateways_block_a_client_on_both() {
    let (upstream, redis) = (Upstream::start(), Redis::start());
    let [first, second] = [0, 1].map(|_| sharing(&upstream, &redis).start());
    blocked_on_both(&first, &second, "127.0.0.31");
    assert!(!is_blocked(&first, "127.0.0.32") && !is_blocked(&second, "127.0.0.32"));
    // Begun once, told once, counted once.
    let began: f64 = [&first, &second].iter().filter_map(|g| g.metric("portcullis_blocks_total", &[])).sum();
    assert!((began - 1.0).abs() < 0.1, "{began}");
    for gateway in [&first, &second] {
        assert_eq!(gateway.metric("portcullis_blocks_active", &[]), Some(1.0));
        assert_eq!(gateway.metric("portcullis_violations_alone_total", &[]), Some(0.0));
    }
    // The second one saw the tenth violation; the first one knows the client by its hash only.
    second.said(|line| line.contains("bans.blocked")).expect("the one that began it says so");
    first.said(|line| line.contains("bans.learned")).expect("the other one says that it learned it");
    assert!(!first.output().contains("127.0.0.31") && !second.output().contains("127.0.0.31"));
    assert_eq!(
        (&listed(&second)[0]["client"], &listed(&second)[0]["known_by"]),
        (&"127.0.0.31".into(), &"address".into())
    );
    assert_eq!(listed(&first)[0]["known_by"], "hash");
    let list = first.cli(&["bans", "list"]);
    assert!(String::from_utf8_lossy(&list.stdout).contains("a hash of the address"), "{list:?}");
    assert!(first.hang_up());
    assert!(is_blocked(&first, "127.0.0.31"), "a reload forgets no block");
    for key in redis.keys() {
        assert!(key.starts_with("portcullis:{portcullis}:") && !key.contains("127.0.0"), "{key}");
    }
}

#[test]
fn a_block_that_is_lifted_on_one_gateway_is_gone_on_both() {
    let (upstream, redis) = (Upstream::start(), Redis::start());
    let [first, second] = [0, 1].map(|_| sharing(&upstream, &redis).start());
    let lifted = |on: &Gateway, client: &str| {
        let lift = on.cli(&["bans", "lift", client]);
        assert!(lift.status.success(), "{lift:?}");
        assert!(!is_blocked(on, "127.0.0.33"));
        let took = until_listed(&[&first, &second], 0);
        assert!(took < SECOND, "{took:?}");
        assert!(!is_blocked(&first, "127.0.0.33") && !is_blocked(&second, "127.0.0.33"));
        assert!(!on.cli(&["bans", "lift", client]).status.success(), "there is nothing left to lift");
    };
    // By the address, where only the hash is known; and by the hash.
    blocked_on_both(&first, &second, "127.0.0.33");
    lifted(&first, "127.0.0.33");
    blocked_on_both(&first, &second, "127.0.0.33");
    let hash = listed(&first)[0]["client"].as_str().expect("a hash").to_owned();
    lifted(&first, &hash);
}

#[test]
fn a_gateway_that_starts_later_knows_who_is_blocked() {
    let (upstream, redis) = (Upstream::start(), Redis::start());
    let first = sharing(&upstream, &redis).start();
    violate(&first, "127.0.0.34", 10);
    until_listed(&[&first], 1);
    drop(first);
    let second = sharing(&upstream, &redis).start();
    // At once: it has read who is blocked before it was ready.
    let answer = ask(&second, "127.0.0.34").expect("an answer");
    assert_eq!((answer.status, answer.code().as_str()), (403, "bans.active"), "{answer:?}");
    let wait: u32 = answer.header("retry-after").and_then(|v| v.parse().ok()).expect("it says for how long");
    assert!((500..=600).contains(&wait), "{wait}");
}

#[test]
fn without_the_store_a_known_block_stays_and_a_new_one_is_local() {
    let (upstream, mut redis) = (Upstream::start(), Redis::start());
    let [first, second] = [0, 1].map(|_| sharing(&upstream, &redis).start());
    blocked_on_both(&first, &second, "127.0.0.35");
    redis.kill();
    assert!(is_blocked(&first, "127.0.0.35") && is_blocked(&second, "127.0.0.35"));
    violate(&first, "127.0.0.36", 10);
    until_listed(&[&first], 2);
    assert!(is_blocked(&first, "127.0.0.36") && !is_blocked(&second, "127.0.0.36"));
    assert_eq!(first.metric("portcullis_violations_alone_total", &[]), Some(10.0));
    let lift = first.cli(&["bans", "lift", "127.0.0.35"]);
    assert!(!lift.status.success(), "{lift:?}");
    assert!(String::from_utf8_lossy(&lift.stderr).contains("it is lifted on this gateway only"), "{lift:?}");
    // The store begins anew, empty. What is known stays, and what is new is shared again.
    for gateway in [&first, &second] {
        wait_for("the store to be missed", || {
            gateway.admin("GET", "/readyz").text().contains("degraded").then_some(())
        });
    }
    redis.restart();
    for gateway in [&first, &second] {
        wait_for("the store to be used again", || {
            gateway.admin("GET", "/readyz").text().contains("healthy").then_some(())
        });
    }
    violate(&second, "127.0.0.37", 10);
    until_listed(&[&second, &first], 2);
    assert!(is_blocked(&first, "127.0.0.36") && is_blocked(&first, "127.0.0.37"));
    assert!(is_blocked(&second, "127.0.0.35") && is_blocked(&second, "127.0.0.37"));
}
