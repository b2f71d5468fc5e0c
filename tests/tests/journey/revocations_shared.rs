//! Revocations of several gateways over a real redis-server: how soon they hold everywhere, and that none is forgotten when
//! the store is away, or comes back empty.

use std::time::{Duration, Instant};

use portcullis_tests::{Answer, Gateway, Request, Setup, Token, redis::Redis, tokens::main_key, wait_for};
use serde_json::json;

use crate::world;

/// What a revocation may take to hold on every gateway.
const SECOND: Duration = Duration::from_secs(1);

/// A gateway of the deployment. Its deadline is long: the tests share their machine with others.
fn sharing(redis: &Redis, more: &str) -> Gateway {
    let stores = format!("[stores]\ncounters = \"{}\"\nkey = \"file:secrets/store\"\ndeadline = \"2s\"", redis.url());
    Setup::new(&world().upstream).with(&stores).with(more).start()
}

fn token(name: &str) -> String {
    Token::main("acme").claim("jti", name).sign(main_key())
}

fn status(gateway: &Gateway, name: &str) -> u16 {
    gateway.send(&Request::get("/v1/orders").bearer(token(name))).status
}

fn revoke(gateway: &Gateway, name: &str) -> Answer {
    let asked = json!({"kind": "jti", "value": name, "issuer": "main", "tenant": "acme", "reason": "a test"});
    gateway.admin_post("/admin/v1/revocations", &asked)
}

fn until_refused(gateway: &Gateway, name: &str) {
    wait_for("the revocation to hold", || (status(gateway, name) == 401).then_some(()));
}

#[test]
fn what_one_gateway_revokes_three_refuse_within_a_second() {
    let redis = Redis::start();
    let gateways = [(); 3].map(|()| sharing(&redis, ""));
    let mut took: Vec<Duration> = Vec::new();
    for n in 0..30 {
        let (name, at) = (format!("shared-{n}"), &gateways[n % 3]);
        assert_eq!(status(&gateways[(n + 1) % 3], &name), 200);
        assert_eq!(revoke(at, &name).status, 200);
        let answered = Instant::now();
        assert_eq!(status(at, &name), 401, "at once where it was revoked");
        gateways.iter().for_each(|gateway| until_refused(gateway, &name));
        took.push(answered.elapsed());
    }
    took.sort();
    println!(
        "from the answer to the refusal on three gateways: half of 30 within {:?}, all within {:?}",
        took[15], took[29]
    );
    assert!(took[29] < SECOND, "{took:?}");
    let lag = gateways[0].metric("portcullis_revocation_lag_seconds", &[]);
    assert!(lag.is_some_and(|lag| lag <= 1.0), "{lag:?}");
    // Who starts later refuses from its first request on.
    assert_eq!(status(&sharing(&redis, ""), "shared-7"), 401);
}

#[test]
fn a_store_that_comes_back_empty_is_filled_again() {
    let mut redis = Redis::start();
    let gateway = sharing(&redis, "");
    assert_eq!(revoke(&gateway, "kept").status, 200);
    redis.restart();
    assert_eq!(status(&gateway, "kept"), 401);
    wait_for("the store to be told again", || {
        redis.try_run::<u64>(&["XLEN", "portcullis:{portcullis}:revocations"]).ok().filter(|length| *length > 0)
    });
    assert_eq!(status(&sharing(&redis, ""), "kept"), 401);
}

#[test]
fn what_is_revoked_while_the_store_is_away_holds_here_and_elsewhere_once_it_is_back() {
    let mut redis = Redis::start();
    let (gateway, other) = (sharing(&redis, ""), sharing(&redis, ""));
    assert_eq!(revoke(&gateway, "before").status, 200);
    until_refused(&other, "before");
    redis.kill();
    let answer = revoke(&gateway, "meanwhile");
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.text().contains("it is revoked on this gateway, and no other could be told"), "{answer:?}");
    assert_eq!((status(&gateway, "meanwhile"), status(&other, "meanwhile")), (401, 200));
    assert_eq!((status(&gateway, "before"), status(&other, "before")), (401, 401), "what is known holds");
    redis.restart();
    until_refused(&other, "meanwhile");
}

#[test]
fn what_another_gateway_revoked_is_in_the_journal_too() {
    let mut redis = Redis::start();
    let (gateway, other) = (sharing(&redis, ""), sharing(&redis, "[revocations]\njournal = \"revocations.journal\""));
    assert_eq!(revoke(&gateway, "written").status, 200);
    until_refused(&other, "written");
    redis.kill();
    let other = other.crash_and_start();
    assert_eq!(status(&other, "written"), 401);
}

#[test]
fn an_entry_that_the_store_has_lost_in_the_middle_is_added_again() {
    let redis = Redis::start();
    let gateway = sharing(&redis, "");
    for name in ["first", "second", "third"] {
        assert_eq!(revoke(&gateway, name).status, 200);
    }
    const STREAM: &str = "portcullis:{portcullis}:revocations";
    let entries: Vec<(String, Vec<String>)> = redis.run(&["XRANGE", STREAM, "-", "+"]);
    let (second, _) = &entries[1];
    assert_eq!(redis.run::<u64>(&["XDEL", STREAM, second]), 1);
    wait_for("the stream to be whole", || (redis.run::<u64>(&["XLEN", STREAM]) == 3).then_some(()));
    assert_eq!(status(&sharing(&redis, ""), "second"), 401, "also for who starts later");
}

fn receipt(answer: &Answer) -> serde_json::Value {
    serde_json::from_slice::<serde_json::Value>(&answer.body).expect("a document")["receipt"].clone()
}

#[test]
fn a_receipt_names_the_gateways_on_which_it_holds_and_those_that_lag() {
    let redis = Redis::start();
    let gateways = [(); 3].map(|()| sharing(&redis, ""));
    let asked = |name: &str| json!({"kind": "jti", "value": name, "issuer": "main", "tenant": "acme", "reason": "r"});
    let wait = |name: &str| gateways[0].admin_post("/admin/v1/revocations?wait=all", &asked(name));
    let all = wait("everywhere");
    let names = |receipt: &serde_json::Value, which: &str| receipt[which].as_array().expect("a list").len();
    assert_eq!((all.status, names(&receipt(&all), "holds"), names(&receipt(&all), "lagging")), (200, 3, 0), "{all:?}");
    gateways.iter().for_each(|gateway| assert_eq!(status(gateway, "everywhere"), 401, "at once"));
    gateways[2].signal("STOP");
    let late = wait("late");
    assert_eq!(
        (late.status, names(&receipt(&late), "holds"), names(&receipt(&late), "lagging")),
        (202, 2, 1),
        "{late:?}"
    );
    let said = gateways[0].cli(&["revoke", "tenant", "globex", "--reason", "r", "--wait"]);
    gateways[2].signal("CONT");
    let told = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(!said.status.success() && told.contains("have not said yet that it holds there"), "{told}");
    until_refused(&gateways[2], "late");
    let said = gateways[0].cli(&["revoke", "tenant", "globex", "--reason", "r", "--wait"]);
    assert!(said.status.success(), "{said:?}");
    assert_eq!(gateways[0].admin_post("/admin/v1/revocations?wait=some", &asked("x")).status, 400);
    // Whoever goes says so, and is missed by nobody.
    let [first, second, third] = gateways;
    third.signal("TERM");
    assert_eq!(third.end(), Some(0));
    let all = first.admin_post("/admin/v1/revocations?wait=all", &asked("later"));
    assert_eq!((all.status, names(&receipt(&all), "holds")), (200, 2), "{all:?}");
    drop(second);
}

#[test]
fn a_gateway_alone_gives_a_receipt_at_once() {
    let gateway = Setup::new(&world().upstream).with("[revocations]\njournal = \"revocations.journal\"").start();
    let said = gateway.cli(&["revoke", "tenant", "globex", "--reason", "r", "--wait"]);
    assert!(said.status.success() && String::from_utf8_lossy(&said.stdout).contains("it holds on "), "{said:?}");
}
