//! What a request costs, told by the upstream in a header of its answer.

use portcullis_tests::{
    Answer, Gateway, Protocol, Reply, Request, Setup, Upstream, redis::Redis, tokens::main_token, wait_for,
};

use crate::limits::{items, limited};

/// Answers with the cost that the request asks for in its query, as it stands there.
fn upstream() -> Upstream {
    Upstream::scripted(|seen| {
        let target = seen.target().to_owned();
        match target.split_once("cost=") {
            Some((_, "both")) => Reply::with(200, &[("X-Request-Cost", "3"), ("x-request-cost", "4")], "ok\n"),
            Some((_, "die")) => Reply::Close,
            Some((_, cost)) => Reply::with(200, &[("X-Request-Cost", cost), ("X-Other", "stays")], "ok\n"),
            None => Reply::ok(),
        }
    })
}

/// A hundred units a day of each tenant: two at once for a request, and up to fifty in all.
const WORK: &str = r#"
    hosts."api.example.test".routes.orders.limits = ["work"]
    [limits.work]
    key = ["tenant"]
    requests = 100
    window = "1d"
    cost = 2
    cost_from = { header = "x-request-cost", at_most = 50 }
"#;

fn costing(cost: &str) -> Request {
    Request::get(format!("/v1/orders?cost={cost}")).bearer(main_token("acme"))
}

/// What `limits show` says is left.
fn left(gateway: &Gateway) -> String {
    let output = gateway.cli(&["limits", "show", "work", "--tenant", "acme"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.split_once(" left").map_or_else(|| panic!("{output:?}"), |(left, _)| left.to_owned())
}

fn told(answer: &Answer) -> Vec<(String, i64)> {
    assert_eq!((answer.status, answer.all("x-request-cost")), (200, vec![]), "{answer:?}");
    items(answer, "ratelimit", "r")
}

#[test]
fn a_request_is_charged_what_its_answer_says_and_the_client_is_told_what_is_left() {
    let upstream = upstream();
    for protocol in Protocol::BOTH {
        let gateway = Setup::new(&upstream).with(WORK).start();
        let ask = |cost: &str| gateway.ask(protocol, &costing(cost));
        // Its cost, then the rest of it; never less than 2 and never more than 50.
        for (cost, expected) in [("12", 88), ("1", 86), ("0", 84), ("2", 82), ("50", 32)] {
            let answer = ask(cost);
            assert_eq!(told(&answer), [("work".to_owned(), expected)], "{cost}");
            assert_eq!(answer.header("x-other"), Some("stays"));
            assert_eq!(left(&gateway), format!("work: {expected} of 100"));
        }
        // Without the header the first two are all.
        let plain = gateway.ask(protocol, &Request::get("/v1/orders").bearer(main_token("acme")));
        assert_eq!(told(&plain), [("work".to_owned(), 30)]);
        // What is left is too little, and nobody is refused for it afterwards.
        assert_eq!(told(&ask("99999999999999999999")), [("work".to_owned(), 0)]);
        limited(&ask("1"), "quota.exceeded", "work");
        assert_eq!(left(&gateway), "work: 0 of 100");
    }
}

#[test]
fn an_answer_that_lies_or_is_broken_costs_the_most_and_is_recorded() {
    let upstream = upstream();
    for cost in ["ten", "-5", "1.5", "both"] {
        let gateway = Setup::new(&upstream).with(WORK).start();
        let answer = gateway.send(&costing(cost));
        assert_eq!(told(&answer), [("work".to_owned(), 50)], "{cost}");
        let line = gateway.line(&answer.request_id()).to_string();
        assert!(line.contains("x-request-cost is no whole number: charged 50, the most"), "{line}");
        let noted = gateway.metric("portcullis_ratelimit_degraded_total", &["rule=\"work\""]);
        assert_eq!(noted, Some(1.0));
    }
}

#[test]
fn without_an_answer_the_first_charge_is_all() {
    let upstream = upstream();
    let gateway = Setup::new(&upstream).with(WORK).start();
    let died = Request::post("/v1/orders?cost=die", "x").bearer(main_token("acme"));
    assert_eq!(gateway.send(&died).status, 502);
    assert_eq!(left(&gateway), "work: 98 of 100");
}

#[test]
fn the_header_is_taken_out_on_every_request_of_a_route_that_reads_it_and_nowhere_else() {
    let upstream = upstream();
    let reads = r#"
        [limits.work]
        methods = ["POST"]
    "#;
    let gateway = Setup::new(&upstream).with(WORK).with(reads).start();
    let uncounted = gateway.send(&costing("7"));
    assert_eq!((uncounted.status, uncounted.all("x-request-cost")), (200, vec![]), "{uncounted:?}");
    assert_eq!(uncounted.header("ratelimit"), None);
    let public = gateway.send(&Request::get("/public?cost=7"));
    assert_eq!(public.header("x-request-cost"), Some("7"), "a header of an app that no limit reads");
}

#[test]
fn a_rule_in_shadow_is_charged_and_refuses_nobody() {
    let upstream = upstream();
    let gateway = Setup::new(&upstream).with(WORK).with("limits.work.mode = \"shadow\"").start();
    for expected in ["50", "0", "0"] {
        let answer = gateway.send(&costing("50"));
        assert_eq!((answer.status, answer.header("ratelimit")), (200, None), "{answer:?}");
        assert_eq!(left(&gateway), format!("work: {expected} of 100"));
    }
}

/// Two gateways that count `work` in this redis-server.
fn shared(upstream: &Upstream, redis: &Redis, more: &str) -> [Gateway; 2] {
    let stores = format!(
        "[stores]\ncounters = \"{}\"\nkey = \"file:secrets/store\"\ndeadline = \"2s\"\ninstances = 2",
        redis.url()
    );
    [(); 2].map(|()| Setup::new(upstream).with(WORK).with(&stores).with(more).start())
}

#[test]
fn in_the_shared_store_every_gateway_sees_what_an_answer_cost() {
    let (upstream, redis) = (upstream(), Redis::start());
    let [one, two] = shared(&upstream, &redis, "");
    assert_eq!(told(&one.send(&costing("12"))), [("work".to_owned(), 88)]);
    // The charge goes behind the answer.
    wait_for("the other gateway to see it", || (left(&two) == "work: 88 of 100").then_some(()));
    for _ in 0..3 {
        assert_eq!(two.send(&costing("40")).status, 200);
        assert_eq!(one.metric("portcullis_ratelimit_costs_alone_total", &[]), Some(0.0));
    }
    wait_for("the bucket to be empty", || (left(&one) == "work: 0 of 100").then_some(()));
    limited(&one.send(&costing("1")), "quota.exceeded", "work");
}

#[test]
fn while_the_store_is_away_a_cost_is_charged_to_the_share() {
    let (upstream, mut redis) = (upstream(), Redis::start());
    let [gateway, _other] = shared(&upstream, &redis, "");
    redis.kill();
    wait_for("the loss to be noticed", || {
        (gateway.metric("portcullis_ratelimit_store_up", &[]) == Some(0.0)).then_some(())
    });
    // Of the fifty that are its share.
    assert_eq!(told(&gateway.send(&costing("32"))), [("work".to_owned(), 18)]);
    assert_eq!(told(&gateway.send(&costing("50"))), [("work".to_owned(), 0)]);
    assert_eq!(gateway.send(&costing("1")).status, 429);
}

#[test]
fn a_cost_that_the_store_does_not_take_is_counted_and_charged_to_the_share() {
    let redis = Redis::start();
    let redis = std::sync::Arc::new(std::sync::Mutex::new(redis));
    let dies = redis.clone();
    // The store takes the request, and is gone when its cost is known.
    let upstream = Upstream::scripted(move |_| {
        dies.lock().expect("no panic").kill();
        Reply::with(200, &[("X-Request-Cost", "50")], "ok\n")
    });
    let [gateway, _other] = shared(&upstream, &redis.lock().expect("no panic"), "");
    assert_eq!(told(&gateway.send(&costing("any"))), [("work".to_owned(), 50)]);
    wait_for("the cost to be counted", || {
        (gateway.metric("portcullis_ratelimit_costs_alone_total", &[]) == Some(1.0)).then_some(())
    });
}
