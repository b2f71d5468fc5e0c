//! What is known of revocations grows old while the shared store is away: past a route's bound nobody can tell whether a
//! credential was revoked, and the answer is 503; what is known as revoked stays 401.

use portcullis_tests::{
    Answer, Gateway, Request, Setup, Token,
    redis::Redis,
    tokens::{local_key, main_key, now},
    wait_for,
};
use serde_json::json;

use crate::world;

const JOURNAL: &str = "journal = \"revocations.journal\"";

/// A gateway of a deployment, whose `/v1/orders` is strict, `/local` until_exp and all else standard.
fn sharing(redis: &Redis, revocations: &str) -> Gateway {
    let stores = format!("[stores]\ncounters = \"{}\"\nkey = \"file:secrets/store\"\ndeadline = \"2s\"", redis.url());
    Setup::new(&world().upstream)
        .with(&stores)
        .with(&format!("[revocations]\n{revocations}"))
        .set("hosts.\"api.example.test\".routes.orders.revocation", "\"strict\"")
        .set("hosts.\"api.example.test\".routes.local.revocation", "\"until_exp\"")
        .set("issuers.local.max_lifetime", "\"5m\"")
        .start()
}

fn token(name: &str) -> String {
    Token::main("acme").claim("jti", name).claim("scope", "orders:write").sign(main_key())
}

fn ask(gateway: &Gateway, path: &str, name: &str) -> Answer {
    gateway.send(&Request::get(path).bearer(token(name)))
}

fn status(gateway: &Gateway, path: &str) -> u16 {
    ask(gateway, path, "good").status
}

fn until(gateway: &Gateway, path: &str, wanted: u16) {
    wait_for("what is known to be too old, or fresh again", || (status(gateway, path) == wanted).then_some(()));
}

fn revoke(gateway: &Gateway, name: &str) {
    let asked = json!({"kind": "jti", "value": name, "issuer": "main", "tenant": "acme", "reason": "a test"});
    assert_eq!(gateway.admin_post("/admin/v1/revocations", &asked).status, 200);
}

fn stale(gateway: &Gateway, freshness: &str) -> Option<f64> {
    gateway.metric("portcullis_revocation_stale", &[&format!("freshness=\"{freshness}\"")])
}

#[test]
fn key_08_past_its_bound_a_route_cannot_tell_and_nobody_is_signed_out_or_let_in() {
    let mut redis = Redis::start();
    let gateway = sharing(&redis, "max_stale = { strict = \"1s\", standard = \"3s\" }");
    revoke(&gateway, "known");
    let local = Token::local("acme").claim("exp", now() + 120).sign(local_key());
    let by_local = || gateway.send(&Request::get("/local").bearer(&local)).status;
    assert_eq!((status(&gateway, "/v1/orders"), status(&gateway, "/v1/scoped"), by_local()), (200, 200, 200));
    redis.kill();
    until(&gateway, "/v1/orders", 503);
    let refused = ask(&gateway, "/v1/orders", "good");
    assert_eq!(refused.code(), "authentication.stale", "{refused:?}");
    assert_eq!((refused.header("retry-after"), refused.header("www-authenticate")), (Some("5"), None));
    let explained = gateway.cli(&["explain", &refused.request_id()]);
    let explained = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(explained.contains("authentication  fault  code authentication.stale"), "{explained}");
    assert!(explained.contains("and a strict route needs it within 1s"), "{explained}");
    assert_eq!(stale(&gateway, "strict"), Some(1.0));
    until(&gateway, "/v1/scoped", 503);
    assert_eq!((stale(&gateway, "standard"), stale(&gateway, "until_exp")), (Some(1.0), Some(0.0)));
    for path in ["/v1/orders", "/v1/scoped", "/public"] {
        assert_eq!(ask(&gateway, path, "known").status, 401, "{path}: what is known holds");
        assert_eq!(gateway.send(&Request::get(path).bearer("x.y.z")).status, 401, "{path}: and what is no credential");
    }
    assert_eq!(status(&gateway, "/public"), 503, "whoever brings a credential must be told from the revoked");
    assert_eq!(gateway.send(&Request::get("/public")).status, 200);
    assert_eq!(by_local(), 200, "its tokens end by themselves");
    redis.restart();
    until(&gateway, "/v1/orders", 200);
    until(&gateway, "/v1/scoped", 200);
    assert_eq!(ask(&gateway, "/v1/scoped", "known").status, 401);
    assert_eq!(stale(&gateway, "strict"), Some(0.0));
}

#[test]
fn key_12_a_start_while_the_store_is_away_knows_how_old_its_journal_is() {
    let mut redis = Redis::start();
    let gateway = sharing(&redis, JOURNAL);
    revoke(&gateway, "known");
    let synced = gateway.setup().path("revocations.journal.synced");
    wait_for("the time to be written down", || std::fs::read(&synced).ok().filter(|text| !text.is_empty()));
    redis.kill();
    let gateway = gateway.crash_and_start();
    assert_eq!(status(&gateway, "/v1/scoped"), 200, "the journal is seconds old");
    assert_eq!(ask(&gateway, "/v1/scoped", "known").status, 401);
    until(&gateway, "/v1/orders", 503);
    // A time that is damaged, or says more than it can know, counts for nothing.
    let good = std::fs::read_to_string(&synced).expect("it is there");
    let mut gateway = gateway;
    for bad in [String::new(), good.replacen('0', "1", 1), "x".repeat(good.len())] {
        std::fs::write(&synced, &bad).expect("it can be written");
        gateway = gateway.crash_and_start();
        assert_eq!(status(&gateway, "/v1/scoped"), 503, "{bad}");
        assert_eq!(ask(&gateway, "/v1/scoped", "known").status, 401);
    }
}

#[test]
fn without_a_journal_a_start_while_the_store_is_away_answers_503_until_it_has_heard_all() {
    let mut redis = Redis::start();
    let first = sharing(&redis, "max_stale = { strict = \"5s\" }");
    revoke(&first, "before");
    redis.kill();
    let late = sharing(&redis, "max_stale = { strict = \"5s\" }");
    for path in ["/v1/orders", "/v1/scoped"] {
        assert_eq!((status(&late, path), ask(&late, path, "before").status), (503, 503), "{path}");
    }
    assert_eq!(late.send(&Request::get("/public")).status, 200);
    redis.restart();
    until(&late, "/v1/orders", 200);
    wait_for("what was revoked before", || (ask(&late, "/v1/orders", "before").status == 401).then_some(()));
}

const STREAM: &str = "portcullis:{portcullis}:revocations";

/// A revocation on `gateway` with a receipt: its status, and how many gateways lag.
fn receipt(gateway: &Gateway, name: &str) -> (u16, usize) {
    let asked = json!({"kind": "jti", "value": name, "issuer": "main", "tenant": "acme", "reason": "a test"});
    let answer = gateway.admin_post("/admin/v1/revocations?wait=all", &asked);
    let document: serde_json::Value = serde_json::from_slice(&answer.body).expect("a document");
    (answer.status, document["receipt"]["lagging"].as_array().expect("a list").len())
}

#[test]
fn an_entry_that_cannot_be_read_was_not_heard_and_all_else_holds_at_once() {
    let redis = Redis::start();
    let bounds = "max_stale = { strict = \"1s\", standard = \"300s\" }";
    let (gateway, other) = (sharing(&redis, bounds), sharing(&redis, bounds));
    assert_eq!(receipt(&gateway, "first"), (200, 0));
    let entries: Vec<(String, Vec<String>)> = redis.run(&["XRANGE", STREAM, "-", "+"]);
    let newer = entries[0].1[1].replace("\"jti\"", "\"passkey\"");
    assert!(newer.contains("passkey"), "{newer}");
    let garbled = redis.run::<String>(&["XADD", STREAM, "*", "r", &newer]);
    until(&other, "/v1/orders", 503);
    assert_eq!(ask(&other, "/v1/orders", "good").code(), "authentication.stale");
    assert_eq!(status(&other, "/v1/scoped"), 200, "by their class");
    assert_eq!(receipt(&gateway, "behind"), (202, 1), "nobody has heard past it");
    wait_for("what is behind it", || (ask(&other, "/v1/scoped", "behind").status == 401).then_some(()));
    let said = other.said(|line| line.contains("store.unreadable")).expect("it is told");
    assert!(said.contains(&garbled), "{said}");
    // Nor has who starts now, and all that can be read holds there too.
    let late = sharing(&redis, bounds);
    assert_eq!((status(&late, "/v1/orders"), status(&late, "/v1/scoped")), (503, 503));
    assert_eq!(ask(&late, "/v1/scoped", "behind").status, 401);
    assert_eq!(late.output().matches("store.unreadable").count(), 1, "once, however often it is read");
    assert_eq!(redis.run::<u64>(&["XDEL", STREAM, &garbled]), 1);
    for gateway in [&gateway, &other, &late] {
        until(gateway, "/v1/orders", 200);
    }
    assert_eq!(receipt(&gateway, "after"), (200, 0));
    assert_eq!(redis.run::<u64>(&["XLEN", STREAM]), 3, "nothing was added for it");
}

#[test]
fn a_gateway_alone_decides_what_is_revoked_and_is_never_behind() {
    let gateway = Setup::new(&world().upstream)
        .with("[revocations]\njournal = \"revocations.journal\"")
        .set("hosts.\"api.example.test\".routes.orders.revocation", "\"strict\"")
        .start();
    assert_eq!(status(&gateway, "/v1/orders"), 200);
    assert_eq!(gateway.metric("portcullis_revocation_lag_seconds", &[]), Some(0.0));
    let gateway = gateway.crash_and_start();
    assert_eq!(status(&gateway, "/v1/orders"), 200);
}
