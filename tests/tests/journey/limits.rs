//! Limits in memory, bursts, bans: who is refused, what the answer says, and how an operator lifts it.

use portcullis_tests::{
    Answer, Gateway, Protocol, Request, Setup, Token, Upstream,
    tokens::{main_key, main_token},
};
use sfv::{BareItem, ListEntry, Parser};

fn keyed(gateway: &Gateway, name: &str) -> Request {
    Request::get("/v1/orders").header("X-Api-Key", gateway.key(name))
}

/// Name and parameter of each item of a structured field list.
pub(crate) fn items(answer: &Answer, field: &str, parameter: &str) -> Vec<(String, i64)> {
    let text = answer.all(field).join(", ");
    let list: sfv::List = Parser::new(&text).parse().unwrap_or_else(|e| panic!("{field}: {text:?}: {e}"));
    list.iter()
        .map(|entry| {
            let ListEntry::Item(item) = entry else { panic!("{field}: {text:?} has an inner list") };
            let BareItem::String(name) = &item.bare_item else { panic!("{field}: {text:?}: a name is a string") };
            let (_, value) = item
                .params
                .iter()
                .find(|(key, _)| key.as_str() == parameter)
                .unwrap_or_else(|| panic!("{text:?} lacks {parameter}"));
            let BareItem::Integer(value) = value else { panic!("{text:?}: {parameter} is a number") };
            (name.as_str().to_owned(), i64::from(*value))
        })
        .collect()
}

/// Asserts a 429 as BEHAVIOUR 2.1 has it.
pub(crate) fn limited(answer: &Answer, code: &str, rule: &str) {
    assert_eq!((answer.status, answer.code().as_str()), (429, code), "{answer:?}");
    let wait: i64 = answer.header("retry-after").and_then(|v| v.parse().ok()).expect("429 says when to come back");
    assert!(wait >= 1, "{answer:?}");
    assert!(items(answer, "ratelimit-policy", "q").iter().any(|(name, _)| name == rule), "{answer:?}");
    let left = items(answer, "ratelimit", "r");
    assert!(left.contains(&(rule.to_owned(), 0)), "{answer:?}");
    let reset = items(answer, "ratelimit", "t").into_iter().find(|(name, _)| name == rule).expect("it is reported").1;
    assert!(wait >= reset, "Retry-After {wait} points before t={reset}");
    assert_eq!(answer.problem()["violated-policies"], serde_json::json!([rule]), "{answer:?}");
}

#[test]
fn a_key_has_ten_requests_a_second_without_anything_being_written() {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream)
        .remove("limits.per_key")
        .with(r#"hosts."api.example.test".routes.orders.limits = ["per_key"]"#)
        .start();
    // All at once, so that however slow the machine is, no second passes between the first and the last.
    let mut client = gateway.h2();
    let open: Vec<_> = (0..40).map(|_| client.begin(&keyed(&gateway, "acme")).expect("the stream opens")).collect();
    let answers: Vec<Answer> = open.into_iter().map(|open| open.answer().expect("an answer")).collect();
    let (passed, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
    assert!((10..40).contains(&passed.len()), "{}", passed.len());
    assert_eq!(items(passed[0], "ratelimit-policy", "q"), [("per_key".to_owned(), 10)], "{:?}", passed[0]);
    assert_eq!(items(passed[0], "ratelimit-policy", "w"), [("per_key".to_owned(), 1)], "{:?}", passed[0]);
    limited(refused[0], "quota.exceeded", "per_key");
    // Another key has its own.
    assert_eq!(gateway.send(&keyed(&gateway, "globex")).status, 200);
}

#[test]
fn every_rule_counts_and_the_strictest_is_reported() {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream)
        .with(
            r#"
            hosts."api.example.test".routes.orders.limits = ["by_tenant", "by_subject"]
            [limits.by_tenant]
            key = ["tenant", "route"]
            requests = 5
            window = "1h"
            [limits.by_subject]
            key = ["subject"]
            requests = 3
            window = "1h"
            "#,
        )
        .start();
    let as_user = |tenant: &str, user: &str| {
        let request = Request::get("/v1/orders").bearer(Token::main(tenant).claim("sub", user).sign(main_key()));
        gateway.send(&request)
    };
    for left in [2, 1, 0] {
        let answer = as_user("acme", "one");
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(items(&answer, "ratelimit", "r").contains(&("by_subject".to_owned(), left)), "{answer:?}");
        assert!(items(&answer, "ratelimit-policy", "w").contains(&("by_subject".to_owned(), 3600)), "{answer:?}");
    }
    limited(&as_user("acme", "one"), "quota.exceeded", "by_subject");
    // What one rule refused, the other was not charged for.
    assert_eq!(as_user("acme", "two").status, 200);
    assert_eq!(as_user("acme", "two").status, 200);
    limited(&as_user("acme", "two"), "quota.exceeded", "by_tenant");
    // A subject is one person in whatever tenant; another one in another tenant has both limits to himself.
    limited(&as_user("globex", "one"), "quota.exceeded", "by_subject");
    assert_eq!(as_user("globex", "three").status, 200);
}

#[test]
fn a_request_takes_what_it_costs_and_the_refusal_says_when_that_is_there_again() {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream)
        .with(
            r#"
            hosts."api.example.test".routes.orders.limits = ["work"]
            [limits.work]
            key = ["tenant"]
            requests = 10
            window = "1h"
            cost = 4
            "#,
        )
        .start();
    let ask = || gateway.send(&Request::get("/v1/orders").bearer(main_token("acme")));
    for left in [6, 2] {
        let answer = ask();
        assert_eq!((answer.status, items(&answer, "ratelimit", "r")), (200, vec![("work".to_owned(), left)]));
    }
    let answer = ask();
    assert_eq!((answer.status, answer.code().as_str()), (429, "quota.exceeded"), "{answer:?}");
    assert_eq!(items(&answer, "ratelimit", "r"), [("work".to_owned(), 2)]);
    // Two units are missing, and one flows in each six minutes; up to a tenth more is told.
    let wait: i64 = answer.header("retry-after").and_then(|v| v.parse().ok()).expect("429 says when to come back");
    assert!((700..=800).contains(&wait), "{wait}");
}

#[test]
fn a_limit_by_client_counts_before_authentication_and_per_address() {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream)
        .with(
            r#"
            hosts."api.example.test".routes.orders.limits = ["by_client"]
            [limits.by_client]
            key = ["client"]
            requests = 3
            window = "1h"
            "#,
        )
        .start();
    let from = |address: &str, request: &Request| gateway.send_from(&gateway.dial().from(address), request);
    for _ in 0..3 {
        assert_eq!(from("127.0.0.5", &Request::get("/v1/orders").bearer("x")).status, 401);
    }
    limited(
        &from("127.0.0.5", &Request::get("/v1/orders").bearer(main_token("acme"))),
        "rate_limit.exceeded",
        "by_client",
    );
    assert_eq!(from("127.0.0.6", &Request::get("/v1/orders").bearer(main_token("acme"))).status, 200);
}

#[test]
fn a_request_without_the_part_that_is_counted_shares_one_bucket() {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream)
        .with(
            r#"
            hosts."api.example.test".routes.orders.limits = ["keys_only"]
            [limits.keys_only]
            key = ["api_key"]
            requests = 2
            window = "1h"
            "#,
        )
        .start();
    let bearer = |tenant: &str| gateway.send(&Request::get("/v1/orders").bearer(main_token(tenant)));
    assert_eq!([bearer("acme").status, bearer("globex").status], [200, 200]);
    limited(&bearer("acme"), "quota.exceeded", "keys_only");
    assert_eq!(gateway.send(&keyed(&gateway, "acme")).status, 200);
}

#[test]
fn a_class_of_routes_has_its_number() {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream).with(r#"hosts."api.example.test".routes.orders.class = "auth""#).start();
    let mut client = gateway.h1();
    let statuses: Vec<u16> = (0..25)
        .map(|_| {
            client.send(keyed(&gateway, "acme").h1());
            client.answer().expect("an answer").status
        })
        .collect();
    // 20 a minute, one more every 3 seconds.
    let passed = statuses.iter().filter(|status| **status == 200).count();
    assert!((20..=22).contains(&passed), "{statuses:?}");
    limited(&gateway.send(&keyed(&gateway, "acme")), "quota.exceeded", "class_auth");
}

#[test]
fn a_tenants_grant_raises_and_its_own_word_only_tightens() {
    let upstream = Upstream::start();
    let limit = r#"
        hosts."api.example.test".routes.orders.limits = ["few"]
        [limits.few]
        key = ["tenant"]
        requests = 2
        window = "1h"
    "#;
    let admitted = |more: &str, tenant: &str| {
        let gateway = Setup::new(&upstream).with(limit).with(more).start();
        (0..12)
            .take_while(|_| gateway.send(&Request::get("/v1/orders").bearer(main_token(tenant))).status == 200)
            .count()
    };
    assert_eq!(admitted("", "acme"), 2);
    assert_eq!(admitted("tenants.acme.grant.limits.few.requests = 4", "acme"), 4);
    assert_eq!(admitted("tenants.acme.grant.limits.few.requests = 4", "globex"), 2);
    let both = "tenants.acme.grant.limits.few.requests = 4\ntenants.acme.own.limits.few.requests = 3";
    assert_eq!(admitted(both, "acme"), 3);
    // More than the grant is refused when it is loaded, or has no effect; it never loosens.
    let loose = "tenants.acme.own.limits.few.requests = 9";
    if Setup::new(&upstream).with(limit).with(loose).check().status.success() {
        assert_eq!(admitted(loose, "acme"), 2);
    }
}

#[test]
fn a_limit_in_shadow_refuses_nobody_and_is_recorded() {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream)
        .with(
            r#"
            hosts."api.example.test".routes.orders.limits = ["tried"]
            [limits.tried]
            key = ["tenant"]
            requests = 1
            window = "1h"
            mode = "shadow"
            "#,
        )
        .start();
    let ask = || gateway.send(&Request::get("/v1/orders").bearer(main_token("acme")));
    assert_eq!(ask().status, 200);
    let answer = ask();
    assert_eq!(answer.status, 200);
    let line = gateway.line(&answer.request_id()).to_string();
    assert!(line.contains("tried"), "{line}");
    assert!(gateway.metric("portcullis_decisions_total", &["mode=\"shadow\""]).is_some_and(|count| count >= 1.0));
}

#[test]
fn a_burst_is_refused_per_client_over_both_protocols() {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream).set("controls.burst", r#"{ requests = 5, window = "1h" }"#).start();
    for (protocol, address) in Protocol::BOTH.into_iter().zip(["127.0.0.11", "127.0.0.12"]) {
        let ask = || match protocol {
            Protocol::H1 => gateway.send_from(&gateway.dial().from(address), &Request::get("/public")),
            Protocol::H2 => portcullis_tests::h2::H2::connect(gateway.address(), "api.example.test", Some(address))
                .expect("it connects")
                .send(&Request::get("/public"))
                .expect("an answer"),
        };
        for _ in 0..5 {
            assert_eq!(ask().status, 200);
        }
        let answer = ask();
        assert_eq!((answer.status, answer.code().as_str()), (429, "burst.exceeded"), "{answer:?}");
        assert!(answer.header("retry-after").is_some());
    }
}

pub(crate) fn violation() -> Request {
    let text: String = (0..6).map(|i| format!("https://a{i}.example.com/ ")).collect();
    Request::post("/public", text).header("Content-Type", "text/plain")
}

/// A gateway on which this address has just been blocked.
fn blocked(upstream: &Upstream, address: &str) -> Gateway {
    let gateway = Setup::new(upstream).set("controls.waf", "{}").start();
    let dial = gateway.dial().from(address);
    for number in 1..=10 {
        let answer = gateway.send_from(&dial, &violation());
        assert_eq!(answer.code(), "waf.urls", "violation {number}");
        // The violation is counted once its line is written.
        gateway.line(&answer.request_id());
    }
    gateway
}

#[test]
fn ten_violations_block_a_client_and_an_operator_lifts_it() {
    let upstream = Upstream::start();
    let gateway = blocked(&upstream, "127.0.0.21");
    let dial = gateway.dial().from("127.0.0.21");
    // Blocked connections are closed, or answered with 403.
    let ask = || dial.connect().ok().and_then(|_| gateway.try_send(&dial, &Request::get("/public")));
    if let Some(answer) = ask() {
        assert_eq!((answer.status, answer.code().as_str()), (403, "bans.active"), "{answer:?}");
        let wait: u32 = answer.header("retry-after").and_then(|v| v.parse().ok()).expect("it says for how long");
        assert!((500..=600).contains(&wait), "{wait}");
    }
    let other = gateway.dial().from("127.0.0.22");
    assert_eq!(gateway.send_from(&other, &Request::get("/public")).status, 200);
    assert!(gateway.metric("portcullis_blocks_active", &[]).is_some_and(|count| count >= 1.0));
    let list = gateway.cli(&["bans", "list"]);
    assert!(list.status.success() && String::from_utf8_lossy(&list.stdout).contains("127.0.0.21"), "{list:?}");
    let lift = gateway.cli(&["bans", "lift", "127.0.0.21"]);
    assert!(lift.status.success(), "{lift:?}");
    assert_eq!(ask().map(|answer| answer.status), Some(200));
    assert!(!gateway.cli(&["bans", "lift", "127.0.0.21"]).status.success(), "there is nothing left to lift");
}

#[test]
fn nine_violations_block_nobody() {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream).set("controls.waf", "{}").start();
    let dial = gateway.dial().from("127.0.0.23");
    for _ in 0..9 {
        assert_eq!(gateway.send_from(&dial, &violation()).status, 403);
    }
    assert_eq!(gateway.send_from(&dial, &Request::get("/public")).status, 200);
}

#[test]
fn bans_are_an_operators_business_only() {
    let upstream = Upstream::start();
    let gateway = blocked(&upstream, "127.0.0.24");
    for lines in ["", "Authorization: Bearer wrong\r\n", "Authorization: Basic x\r\n"] {
        assert_eq!(gateway.admin_with("GET", "/admin/v1/bans", lines).status, 401);
        assert_eq!(gateway.admin_with("DELETE", "/admin/v1/bans/127.0.0.24", lines).status, 401);
    }
    let bans = gateway.admin("GET", "/admin/v1/bans");
    assert_eq!(bans.status, 200);
    assert!(bans.text().contains("127.0.0.24"), "{bans:?}");
    assert!(matches!(gateway.admin("DELETE", "/admin/v1/bans/nonsense").status, 400 | 404));
    assert_eq!(gateway.admin("DELETE", "/admin/v1/bans/127.0.0.99").status, 404);
    assert!(matches!(gateway.admin("DELETE", "/admin/v1/bans/127.0.0.24").status, 200 | 204));
    let dial = gateway.dial().from("127.0.0.24");
    assert_eq!(gateway.send_from(&dial, &Request::get("/public")).status, 200);
}

#[test]
fn controls_that_are_off_refuse_nothing_and_say_so() {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream).set("controls.waf", "\"off\"").set("controls.burst", "\"off\"").start();
    let answer = gateway.send(&violation());
    assert_eq!(answer.status, 200, "{answer:?}");
    let line = gateway.line(&answer.request_id()).to_string();
    assert!(line.contains("waf") && line.contains("off"), "{line}");
}

#[test]
fn an_operator_sees_how_a_bucket_stands_and_fills_it() {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream)
        .with(
            r#"
            hosts."api.example.test".routes.orders.limits = ["work"]
            [limits.work]
            key = ["tenant", "subject"]
            requests = 2
            window = "1h"
            "#,
        )
        .start();
    looks_and_resets(&gateway, "this gateway", || gateway.send(&Request::get("/v1/orders").bearer(main_token("acme"))));
}

/// Uses up `limits.work` (two requests an hour by tenant and subject), looks at it, and fills it.
pub(crate) fn looks_and_resets(gateway: &Gateway, counted: &str, ask: impl Fn() -> Answer) {
    let named = ["work", "--tenant", "acme", "--issuer", "main", "--subject", "user-1"];
    let limits = |verb: &str, named: &[&str]| {
        let output = gateway.cli(&[&["limits", verb], named].concat());
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
        (output.status.success(), said)
    };
    let (known, said) = limits("show", &named);
    assert!(
        known && said.contains(&format!("work: 2 of 2 left (2 in 1h), counted in {counted}; it is full")),
        "{said}"
    );
    assert_eq!([ask().status, ask().status, ask().status], [200, 200, 429]);
    let (_, said) = limits("show", &named);
    assert!(said.contains("work: 0 of 2 left") && said.contains("the next request in "), "{said}");
    // Another subject's bucket is another one.
    let (_, said) = limits("show", &["work", "--tenant", "acme", "--issuer", "main", "--subject", "nobody"]);
    assert!(said.contains("work: 2 of 2 left"), "{said}");
    let (done, said) = limits("reset", &named);
    assert!(done, "{said}");
    portcullis_tests::wait_for("the bucket to be full again", || (ask().status == 200).then_some(()));
    assert!(gateway.said(|line| line.contains("limits.reset") && line.contains("work")).is_some());
    // What names no bucket is told, and nothing is filled.
    for (named, why) in [
        (&["work", "--tenant", "acme"][..], "limit `work` counts by subject, which is not named"),
        (&["wrok", "--tenant", "acme"], "there is no limit `wrok`"),
        (&["work", "--tenant", "not a tenant"], "tenant"),
        (&["work", "--tenant", "acme", "--issuer", "mian", "--subject", "user-1"], "there is no issuer `mian`"),
        (&["work", "--tenant", "acme", "--route", "api.example.test/ordres"], "counts by subject"),
    ] {
        let (done, said) = limits("reset", named);
        assert!(!done && said.contains(why), "{named:?}: {said}");
    }
}
