//! Limits that count in a real redis-server, and what each rule does when it is away.

use std::time::{Duration, Instant};

use portcullis_tests::{Answer, Gateway, Request, Setup, Upstream, redis::Redis, tokens::main_token, wait_for};

use crate::limits::{limited, looks_and_resets};

/// A gateway whose route `orders` has one limit, counted in this redis-server.
///
/// Where a late answer would be a refusal the deadline is long: the tests share their machine with others.
fn counted(upstream: &Upstream, redis: &Redis, requests: u32, posture: &str) -> Gateway {
    let deadline = if posture == "\"deny\"" { "2s" } else { "25ms" };
    let limit = format!("requests = {requests}\nwindow = \"1h\"\non_store_failure = {posture}");
    counted_as(upstream, redis, deadline, &limit)
}

fn counted_as(upstream: &Upstream, redis: &Redis, deadline: &str, limit: &str) -> Gateway {
    Setup::new(upstream)
        .with(&format!(
            r#"
            hosts."api.example.test".routes.orders.limits = ["shared"]
            [stores]
            counters = "{}"
            key = "file:secrets/store"
            deadline = "{deadline}"
            [limits.shared]
            key = ["tenant"]
            {limit}
            "#,
            redis.url(),
        ))
        .start()
}

fn ask(gateway: &Gateway, tenant: &str) -> Answer {
    gateway.send(&Request::get("/v1/orders").bearer(main_token(tenant)))
}

#[test]
fn two_gateways_count_together() {
    let (upstream, redis) = (Upstream::start(), Redis::start());
    let [first, second] = [0, 1].map(|_| counted(&upstream, &redis, 6, "\"deny\""));
    for gateway in [&first, &second, &first, &second, &first, &second] {
        assert_eq!(ask(gateway, "acme").status, 200);
    }
    limited(&ask(&first, "acme"), "quota.exceeded", "shared");
    limited(&ask(&second, "acme"), "quota.exceeded", "shared");
    assert_eq!(ask(&second, "globex").status, 200);
}

#[test]
fn a_race_admits_exactly_the_limit() {
    let (upstream, redis) = (Upstream::start(), Redis::start());
    let gateway = counted(&upstream, &redis, 8, "\"deny\"");
    let admitted: usize = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8).map(|_| scope.spawn(|| (0..4).filter(|_| ask(&gateway, "acme").status == 200).count())).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    });
    assert_eq!(admitted, 8);
}

#[test]
fn a_local_limit_is_a_share_of_each_gateway_beside_one_that_is_shared() {
    let (upstream, redis) = (Upstream::start(), Redis::start());
    let [first, second] = [0, 1].map(|_| {
        Setup::new(&upstream)
            .with(&format!(
                r#"
                hosts."api.example.test".routes.orders.limits = ["shared", "near"]
                [stores]
                counters = "{}"
                key = "file:secrets/store"
                deadline = "2s"
                instances = 2
                [limits.shared]
                key = ["tenant"]
                requests = 4
                window = "1h"
                on_store_failure = "deny"
                [limits.near]
                key = ["tenant"]
                requests = 6
                window = "1h"
                consistency = "local"
                "#,
                redis.url(),
            ))
            .start()
    });
    // Three of the six are the share of each; what it refuses is not counted for all.
    for _ in 0..3 {
        assert_eq!(ask(&first, "acme").status, 200);
    }
    let refused = ask(&first, "acme");
    assert_eq!((refused.status, &refused.problem()["violated-policies"]), (429, &serde_json::json!(["near"])));
    assert_eq!(ask(&second, "acme").status, 200);
    let refused = ask(&second, "acme");
    assert_eq!((refused.status, &refused.problem()["violated-policies"]), (429, &serde_json::json!(["shared"])));
    assert!(redis.keys().iter().all(|key| !key.contains(":near:")), "{:?}", redis.keys());
}

/// A gateway whose route `orders` has a limit of which it takes requests ahead.
fn leased(upstream: &Upstream, redis: &Redis, requests: u32) -> Gateway {
    let limit =
        format!("requests = {requests}\nwindow = \"30d\"\nconsistency = \"leased\"\non_store_failure = \"deny\"");
    counted_as(upstream, redis, "2s", &limit)
}

#[test]
fn gateways_that_take_requests_ahead_admit_exactly_the_limit() {
    let (upstream, redis) = (Upstream::start(), Redis::start());
    let gateways = [0, 1].map(|_| leased(&upstream, &redis, 120));
    let admit = |gateway: &Gateway| {
        let statuses: Vec<u16> = (0..120).map(|_| ask(gateway, "acme").status).collect();
        assert!(statuses.iter().all(|status| matches!(status, 200 | 429)), "{statuses:?}");
        statuses.into_iter().filter(|status| *status == 200).count()
    };
    let mut admitted: usize = std::thread::scope(|scope| {
        let threads = [&gateways[0], &gateways[1]].map(|gateway| scope.spawn(move || admit(gateway)));
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    });
    // What one held while the other refused is given back, and then there for both.
    wait_for("all to be admitted", || {
        admitted += usize::from(ask(&gateways[0], "acme").status == 200);
        (admitted >= 120).then_some(())
    });
    assert_eq!((ask(&gateways[0], "acme").status, ask(&gateways[1], "acme").status), (429, 429));
    let leased = |gateway: &Gateway| gateway.metric("portcullis_ratelimit_leased_total", &[]).unwrap_or(0.0);
    assert!(gateways.iter().map(leased).sum::<f64>() > 0.0);
}

#[test]
fn a_gateway_that_stops_leaves_nothing_taken_ahead() {
    let (upstream, redis) = (Upstream::start(), Redis::start());
    let gateway = leased(&upstream, &redis, 1_000);
    for _ in 0..50 {
        assert_eq!(ask(&gateway, "acme").status, 200);
    }
    gateway.signal("TERM");
    assert_eq!(gateway.end(), Some(0));
    let other = leased(&upstream, &redis, 1_000);
    let answer = ask(&other, "acme");
    assert!(answer.header("ratelimit").is_some_and(|told| told.starts_with("\"shared\";r=949;")), "{answer:?}");
}

#[test]
fn what_is_admitted_without_the_store_is_charged_when_it_is_back() {
    let (upstream, mut redis) = (Upstream::start(), Redis::start());
    let gateway = counted(&upstream, &redis, 10, "\"local_share\"");
    redis.kill();
    wait_for("the store to be missed", || {
        gateway.metric("portcullis_ratelimit_store_up", &[]).is_some_and(|up| up < 1.0).then_some(())
    });
    for _ in 0..4 {
        assert_eq!(ask(&gateway, "acme").status, 200);
    }
    redis.restart();
    wait_for("the store to be used again", || {
        gateway.metric("portcullis_ratelimit_store_up", &[]).is_some_and(|up| up > 0.0).then_some(())
    });
    let statuses: Vec<u16> = (0..8).map(|_| ask(&gateway, "acme").status).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 200, 429, 429]);
}

#[test]
fn nothing_in_the_store_names_anybody() {
    let (upstream, redis) = (Upstream::start(), Redis::start());
    let gateway = counted(&upstream, &redis, 6, "\"deny\"");
    assert_eq!(ask(&gateway, "acme").status, 200);
    let keys = redis.keys();
    assert!(!keys.is_empty());
    for key in keys {
        assert!(key.starts_with("portcullis"), "{key}");
        assert!(!key.contains("acme") && !key.contains("127.0.0.1") && !key.contains("user-1"), "{key}");
    }
}

#[test]
fn a_reload_and_a_restart_of_the_gateway_forget_nothing() {
    let (upstream, redis) = (Upstream::start(), Redis::start());
    let gateway = counted(&upstream, &redis, 2, "\"deny\"");
    assert_eq!([ask(&gateway, "acme").status, ask(&gateway, "acme").status], [200, 200]);
    assert!(gateway.hang_up());
    assert_eq!(ask(&gateway, "acme").status, 429);
    let again = counted(&upstream, &redis, 2, "\"deny\"");
    assert_eq!(ask(&again, "acme").status, 429);
}

#[test]
fn without_the_store_a_local_share_is_enforced() {
    let (upstream, mut redis) = (Upstream::start(), Redis::start());
    let gateway = counted(&upstream, &redis, 4, "\"local_share\"");
    assert_eq!(ask(&gateway, "acme").status, 200);
    redis.kill();
    let statuses: Vec<u16> = (0..12).map(|_| ask(&gateway, "globex").status).collect();
    let passed = statuses.iter().filter(|status| **status == 200).count();
    assert_eq!(passed, 4, "{statuses:?}");
    assert!(statuses.iter().all(|status| matches!(status, 200 | 429)), "{statuses:?}");
    let line = gateway.line(&ask(&gateway, "globex").request_id());
    assert!(line["trail"].to_string().contains("the shared store is away"), "{line}");
    assert!(gateway.metric("portcullis_ratelimit_degraded_total", &["rule=\"shared\""]).is_some_and(|v| v >= 1.0));
    redis.restart();
    // What globex has used up by itself is used up there too.
    let mut fresh = (0..).map(|n| format!("tenant-{n}"));
    wait_for("the store to be used again", || {
        let tenant = fresh.next()?;
        let line = gateway.line(&ask(&gateway, &tenant).request_id());
        (!line["trail"].to_string().contains("the shared store")).then_some(())
    });
    assert_eq!(ask(&gateway, "globex").status, 429);
}

#[test]
fn without_the_store_deny_is_503() {
    let (upstream, mut redis) = (Upstream::start(), Redis::start());
    let gateway = counted(&upstream, &redis, 100, "\"deny\"");
    assert_eq!(ask(&gateway, "acme").status, 200);
    redis.kill();
    for _ in 0..5 {
        let request = Request::get("/v1/orders").bearer(main_token("acme"));
        let answer = gateway.send(&request);
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(answer.header("retry-after").is_some_and(|v| v.parse::<u32>().is_ok_and(|s| s >= 1)));
        assert!(upstream.saw(&request.mark).is_none());
    }
    assert_eq!(gateway.send(&Request::get("/public")).status, 200, "a route without the rule is not concerned");
    redis.restart();
    wait_for("the store to be used again", || (ask(&gateway, "acme").status == 200).then_some(()));
}

#[test]
fn without_the_store_allow_lets_pass_with_its_written_reason() {
    let (upstream, mut redis) = (Upstream::start(), Redis::start());
    let gateway = counted(&upstream, &redis, 2, r#"{ allow = "reads are cheap here" }"#);
    redis.kill();
    for _ in 0..6 {
        assert_eq!(ask(&gateway, "acme").status, 200);
    }
    let line = gateway.line(&ask(&gateway, "acme").request_id()).to_string();
    assert!(line.contains("shared"), "{line}");
}

#[test]
fn a_store_that_hangs_costs_a_deadline_and_never_a_500() {
    let (upstream, redis) = (Upstream::start(), Redis::start());
    let gateway = counted(&upstream, &redis, 100, "\"local_share\"");
    assert_eq!(ask(&gateway, "acme").status, 200);
    redis.hold();
    let start = Instant::now();
    let statuses: Vec<u16> = (0..20).map(|_| ask(&gateway, "acme").status).collect();
    let took = start.elapsed();
    redis.go_on();
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    // Twenty handshakes and at most a few deadlines of 25 ms; a time-out of seconds would show.
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_gateway_starts_without_its_store() {
    let (upstream, mut redis) = (Upstream::start(), Redis::start());
    redis.kill();
    let setup = Setup::new(&upstream)
        .with(&format!("stores.counters = \"{}\"\nstores.key = \"file:secrets/store\"", redis.url()))
        .with(
            r#"
        hosts."api.example.test".routes.public.limits = ["shared"]
        [limits.shared]
        key = ["client"]
        requests = 3
        window = "1h"
        "#,
        );
    let gateway = setup.launch();
    let statuses: Vec<u16> = (0..6).map(|_| gateway.send(&Request::get("/public")).status).collect();
    assert_eq!(statuses, [200, 200, 200, 429, 429, 429]);
    assert_eq!(ask(&gateway, "acme").status, 503, "nobody can tell what is revoked");
}

#[test]
fn an_operator_sees_and_fills_a_bucket_that_gateways_share() {
    let (upstream, mut redis) = (Upstream::start(), Redis::start());
    let [first, second] = [0, 1].map(|_| {
        Setup::new(&upstream)
            .with(&format!(
                r#"
                hosts."api.example.test".routes.orders.limits = ["work"]
                [stores]
                counters = "{}"
                key = "file:secrets/store"
                deadline = "2s"
                [limits.work]
                key = ["tenant", "subject"]
                requests = 2
                window = "1h"
                "#,
                redis.url(),
            ))
            .start()
    });
    // Asked of one gateway, while the requests go to the other.
    looks_and_resets(&first, "the shared store", || ask(&second, "acme"));
    redis.kill();
    wait_for("the store to be missed", || {
        let output = first.cli(&["limits", "show", "work", "--tenant", "acme", "--issuer", "main", "--subject", "s"]);
        String::from_utf8_lossy(&output.stderr).contains("the store").then_some(())
    });
}
