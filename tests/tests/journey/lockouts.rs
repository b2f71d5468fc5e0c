//! Locks after failed logins: what locks, for whom, and what an answer tells; shared over a real redis-server, and what stays
//! of it without one.

use std::time::{Duration, Instant};

use portcullis_tests::{Answer, Gateway, Protocol, Reply, Request, Setup, Upstream, redis::Redis, wait_for};
use serde_json::{Value, json};

/// What a lock that one gateway began may take to hold on another.
const SECOND: Duration = Duration::from_secs(1);

const LOGIN: &str = r#"
[hosts."api.example.test".routes.login]
path = "/login"
methods = ["GET", "POST"]
auth = { public = "who logs in is nobody yet" }
login = { account = ["json:username", "form:username"] }
upstream = "app"
"#;

/// Everybody's password is `right`.
fn upstream() -> Upstream {
    Upstream::scripted(|seen| {
        let body = String::from_utf8_lossy(&seen.body).into_owned();
        Reply::with(if body.contains("right") { 200 } else { 401 }, &[("Content-Type", "text/plain")], "so\n")
    })
}

fn gateway(upstream: &Upstream) -> Gateway {
    Setup::new(upstream).with(LOGIN).start()
}

/// A gateway of the deployment. Its deadline is long: the tests share their machine with others.
fn sharing(upstream: &Upstream, redis: &Redis) -> Gateway {
    Setup::new(upstream)
        .with(LOGIN)
        .with(&format!("[stores]\ncounters = \"{}\"\nkey = \"file:secrets/store\"\ndeadline = \"2s\"", redis.url()))
        .start()
}

fn attempt(account: &str, password: &str) -> Request {
    Request::post("/login", []).json(&json!({ "username": account, "password": password }))
}

fn send(gateway: &Gateway, network: &str, request: &Request) -> Answer {
    gateway.send_from(&gateway.dial().from(network), request)
}

fn log_in(gateway: &Gateway, network: &str, account: &str, password: &str) -> u16 {
    let answer = send(gateway, network, &attempt(account, password));
    if answer.status == 429 {
        assert_eq!(answer.code(), "login.locked", "{answer:?}");
    }
    answer.status
}

fn fail(gateway: &Gateway, network: &str, account: &str, times: usize) {
    for n in 0..times {
        assert_eq!(log_in(gateway, network, account, "wrong"), 401, "failure {n} of {account} from {network}");
    }
}

fn listed(gateway: &Gateway) -> Vec<Value> {
    let answer = gateway.admin("GET", "/admin/v1/lockouts");
    serde_json::from_str::<Value>(&answer.text()).expect("a document")["lockouts"].as_array().expect("a list").clone()
}

/// Waits until each gateway lists so many locks; how long it took.
fn until_listed(gateways: &[&Gateway], count: usize) -> Duration {
    let start = Instant::now();
    for gateway in gateways {
        wait_for("the locks to be as they should", || (listed(gateway).len() == count).then_some(()));
    }
    start.elapsed()
}

#[test]
fn five_failures_lock_and_the_right_password_is_not_asked_for() {
    let upstream = upstream();
    for protocol in Protocol::BOTH {
        let gateway = gateway(&upstream);
        let ask = |password: &str| gateway.ask(protocol, &attempt("Ann", password));
        for _ in 0..5 {
            assert_eq!(ask("wrong").status, 401);
        }
        let request = attempt("\u{ff21}NN ", "right");
        let locked = gateway.ask(protocol, &request);
        assert_eq!((locked.status, locked.code().as_str()), (429, "login.locked"), "{locked:?}");
        let wait: u64 = locked.header("retry-after").and_then(|wait| wait.parse().ok()).expect("it says how long");
        assert!((1..=60).contains(&wait), "{wait}");
        assert!(upstream.saw(&request.mark).is_none(), "the upstream saw a login that is locked");
        assert_eq!(gateway.ask(protocol, &Request::get("/login")).status, 401, "a page is no login");
        // The operator is told of what, and never of whom.
        let id = locked.header("x-request-id").expect("an id").to_owned();
        let explained = gateway.cli(&["explain", &id]);
        let said = String::from_utf8_lossy(&explained.stdout).into_owned();
        assert!(said.contains("login           deny  code login.locked  rule pair  because the pair "), "{said}");
        let lock = listed(&gateway)[0]["lock"].as_str().expect("a key").to_owned();
        let told = gateway.said(|line| line.contains("login.locked")).expect("the log says it");
        assert!(said.contains(&lock) || listed(&gateway).iter().any(|l| said.contains(l["lock"].as_str().unwrap())));
        assert!(told.contains("\"failures\":5"), "{told}");
        assert!(!gateway.output().to_lowercase().contains("\"ann\""), "{}", gateway.output());
        assert_eq!(gateway.metric("portcullis_lockouts_active", &["scope=\"pair\""]), Some(1.0));
        assert_eq!(gateway.metric("portcullis_login_attempts_total", &["result=\"failure\""]), Some(5.0));
    }
}

#[test]
fn a_client_that_hangs_up_before_the_answer_has_failed() {
    let upstream = Upstream::scripted(|_| Reply::Silence(Duration::from_secs(600)));
    for protocol in Protocol::BOTH {
        let gateway = gateway(&upstream);
        let tried = || gateway.metric("portcullis_login_attempts_total", &["result=\"failure\""]);
        for n in 1..=5 {
            let request = attempt("ann", "a guess");
            match protocol {
                Protocol::H1 => {
                    let mut client = gateway.h1();
                    client.send(request.h1());
                    upstream.seen_whole(&request.mark);
                }
                Protocol::H2 => {
                    let mut client = gateway.h2();
                    let _open = client.begin(&request).expect("the stream opens");
                    upstream.seen_whole(&request.mark);
                }
            }
            wait_for("the try to be counted", || (tried() == Some(f64::from(n))).then_some(()));
        }
        let locked = gateway.ask(protocol, &attempt("ann", "right"));
        assert_eq!((locked.status, locked.code().as_str()), (429, "login.locked"), "{locked:?}");
    }
}

#[test]
fn a_locked_answer_is_the_same_for_every_account_and_password() {
    let upstream = upstream();
    let gateway = gateway(&upstream);
    fail(&gateway, "127.0.0.41", "somebody", 5);
    fail(&gateway, "127.0.0.42", "no such account", 5);
    let seen = |network: &str, account: &str, password: &str| {
        let answer = send(&gateway, network, &attempt(account, password));
        let mut document: Value = serde_json::from_slice(&answer.body).expect("a problem document");
        document["request_id"] = Value::Null;
        let mut names: Vec<String> = answer.headers.iter().map(|(name, _)| name.to_lowercase()).collect();
        names.sort();
        (answer.status, document, names)
    };
    let first = seen("127.0.0.41", "somebody", "wrong");
    assert_eq!(first.0, 429);
    assert_eq!(first, seen("127.0.0.41", "somebody", "right"));
    assert_eq!(first, seen("127.0.0.42", "no such account", "wrong"));
}

#[test]
fn an_attacker_with_many_networks_does_not_lock_the_victims_own_network_out() {
    let upstream = upstream();
    let gateway = gateway(&upstream);
    assert_eq!(log_in(&gateway, "127.0.0.50", "victim", "right"), 200);
    for n in 60..65 {
        fail(&gateway, &format!("127.0.0.{n}"), "victim", 1);
    }
    assert_eq!(log_in(&gateway, "127.0.0.65", "victim", "wrong"), 429, "all networks together had five tries");
    assert_eq!(log_in(&gateway, "127.0.0.50", "victim", "right"), 200);
    fail(&gateway, "127.0.0.50", "victim", 4);
    assert_eq!(log_in(&gateway, "127.0.0.50", "victim", "right"), 200);
    fail(&gateway, "127.0.0.50", "victim", 4);
    assert_eq!(log_in(&gateway, "127.0.0.50", "victim", "right"), 200, "a success forgets its failures");
}

#[test]
fn whoever_sprays_many_accounts_is_locked_by_network_also_with_an_account_of_his_own() {
    let upstream = upstream();
    let gateway = gateway(&upstream);
    for n in 0..5 {
        assert_eq!(log_in(&gateway, "127.0.0.70", "mallory", "right"), 200);
        fail(&gateway, "127.0.0.70", &format!("user{n}"), 1);
    }
    assert_eq!(log_in(&gateway, "127.0.0.70", "user9", "right"), 429);
    assert_eq!(log_in(&gateway, "127.0.0.71", "user9", "right"), 200);
    let lift = gateway.cli(&["lockouts", "lift", "127.0.0.70"]);
    assert!(lift.status.success(), "{lift:?}");
    assert_eq!(log_in(&gateway, "127.0.0.70", "user9", "right"), 200);
}

#[test]
fn a_form_is_read_like_json_and_what_names_no_account_is_one_account() {
    let upstream = upstream();
    let gateway = gateway(&upstream);
    let form = |body: &str| Request::post("/login", body).header("Content-Type", "application/x-www-form-urlencoded");
    for n in 0..5 {
        let spelling = if n % 2 == 0 { "username=Bob&password=wrong" } else { "password=wrong&username=%20bob" };
        assert_eq!(send(&gateway, "127.0.0.80", &form(spelling)).status, 401);
    }
    let locked = send(&gateway, "127.0.0.81", &attempt("BOB", "right"));
    assert_eq!(locked.code(), "login.locked", "one account, whichever way it comes");
    // Two ways to read it: five tries in all, from all networks, whatever they name.
    for n in 0..5 {
        let body = format!("username=a{n}&username=b{n}&password=wrong");
        assert_eq!(send(&gateway, &format!("127.0.0.{}", 90 + n), &form(&body)).status, 401);
    }
    let unclear = send(&gateway, "127.0.0.99", &form("username=c&Username=d&password=right"));
    assert_eq!(unclear.code(), "login.locked", "{unclear:?}");
    assert_eq!(log_in(&gateway, "127.0.0.99", "c", "right"), 200);
}

#[test]
fn a_login_is_read_whole_or_refused_also_without_the_inspection() {
    let upstream = upstream();
    let plain = attempt("eve", "wrong").body;
    let padded = |bytes: usize| [&plain[..], &vec![b' '; bytes - plain.len()]].concat();
    for waf in ["\"off\"", "{ mode = \"shadow\" }", "{}"] {
        let gateway = Setup::new(&upstream).with(LOGIN).set("controls.waf", waf).start();
        let post = |body: &[u8]| Request::post("/login", body).header("Content-Type", "application/json");
        let fits = send(&gateway, "127.0.0.1", &post(&padded(65_536)));
        assert_eq!(fits.status, 401, "{waf}: {fits:?}");
        let large = send(&gateway, "127.0.0.1", &post(&padded(65_537)));
        assert_eq!((large.status, large.code().as_str()), (413, "login.body_too_large"), "{waf}");
        let chunked = Request::new("POST", "/login").header("Content-Type", "application/json");
        let chunked = send(&gateway, "127.0.0.1", &chunked.chunked(padded(70_000), 10_000));
        assert_eq!((chunked.status, chunked.code().as_str()), (413, "login.body_too_large"), "{waf}");
        fail(&gateway, "127.0.0.1", "eve", 4);
        assert_eq!(log_in(&gateway, "127.0.0.1", "eve", "right"), 429, "{waf}: the padded one was counted");
    }
}

#[test]
fn logins_at_once_get_no_more_tries_than_one_after_the_other() {
    let (upstream, asked) = slow();
    let gateway = Setup::new(&upstream).with(LOGIN).start();
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let sent: Vec<_> = (0..20).map(|_| scope.spawn(|| log_in(&gateway, "127.0.0.1", "ann", "wrong"))).collect();
        // Those that are refused come back first; then the upstream answers the others.
        wait_for("fifteen to be refused", || {
            (gateway.metric("portcullis_decisions_total", &["code=\"login.locked\""]) == Some(15.0)).then_some(())
        });
        drop(asked);
        sent.into_iter().map(|sent| sent.join().expect("it answers")).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 401).count(), 5, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 429).count(), 15, "{statuses:?}");
}

/// An upstream that refuses every login once the sender is dropped.
fn slow() -> (Upstream, std::sync::mpsc::Sender<()>) {
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let receiver = std::sync::Mutex::new(receiver);
    let upstream = Upstream::scripted(move |_| {
        // Hangs up when the test is ready.
        let _hung_up = receiver.lock().expect("no other test has it").recv();
        Reply::with(401, &[], "no\n")
    });
    (upstream, sender)
}

#[test]
fn a_reload_forgets_no_lock() {
    let upstream = upstream();
    let gateway = gateway(&upstream);
    fail(&gateway, "127.0.0.1", "ann", 5);
    let (gateway, taken) = gateway.reload(|setup| setup.with("controls.login = { preset = \"five_in_15m\" }"));
    assert!(taken);
    assert_eq!(log_in(&gateway, "127.0.0.1", "ann", "right"), 429);
}

#[test]
fn shadow_says_what_it_would_refuse_and_refuses_nothing() {
    let upstream = upstream();
    let gateway = Setup::new(&upstream).with(LOGIN).with("controls.login = { mode = \"shadow\" }").start();
    fail(&gateway, "127.0.0.1", "ann", 5);
    let passed = send(&gateway, "127.0.0.1", &attempt("ann", "right"));
    assert_eq!(passed.status, 200);
    let line = gateway.line(passed.header("x-request-id").expect("an id"));
    let step = line["trail"].as_array().expect("steps").iter().find(|step| step["code"] == "login.locked");
    assert_eq!(step.expect("it is noted")["mode"], "shadow");
}

#[test]
fn failures_on_two_gateways_lock_on_both_and_a_lift_on_one_lifts_on_both() {
    let (upstream, redis) = (upstream(), Redis::start());
    let [first, second] = [0, 1].map(|_| sharing(&upstream, &redis));
    fail(&first, "127.0.0.51", "ann", 3);
    fail(&second, "127.0.0.51", "ann", 2);
    let took = until_listed(&[&second, &first], 3);
    assert!(took < SECOND, "{took:?}");
    assert_eq!([&first, &second].map(|gateway| log_in(gateway, "127.0.0.51", "ann", "right")), [429, 429]);
    let began: f64 = [&first, &second].iter().filter_map(|g| g.metric("portcullis_lockouts_total", &[])).sum();
    assert!((began - 3.0).abs() < 0.1, "begun once each: {began}");
    second.said(|line| line.contains("login.locked")).expect("the one that began them says so");
    first.said(|line| line.contains("login.learned")).expect("the other one says that it learned them");
    let list = first.cli(&["lockouts", "list"]);
    let text = String::from_utf8_lossy(&list.stdout).into_owned();
    assert_eq!(text.lines().filter(|line| line.contains(" 5 failures, ")).count(), 3, "{text}");
    // By the account, on the one that did not begin them; then the network by its key, on the other.
    let lift = first.cli(&["lockouts", "lift", "--account", "ANN", "--in", "api.example.test"]);
    assert!(lift.status.success(), "{lift:?}");
    first.said(|line| line.contains("login.lifted")).expect("a lift is in the log");
    let took = until_listed(&[&first, &second], 1);
    assert!(took < SECOND, "{took:?}");
    assert_eq!(log_in(&second, "127.0.0.52", "ann", "right"), 200);
    let network = listed(&second)[0]["lock"].as_str().expect("a key").to_owned();
    assert!(second.cli(&["lockouts", "lift", &network]).status.success());
    until_listed(&[&first, &second], 0);
    assert_eq!(log_in(&first, "127.0.0.51", "ann", "right"), 200);
    assert!(!first.cli(&["lockouts", "lift", &network]).status.success(), "there is nothing left to lift");
    let elsewhere = first.cli(&["lockouts", "lift", "--account", "ann", "--in", "nowhere"]);
    let why = String::from_utf8_lossy(&elsewhere.stderr).into_owned();
    assert!(why.contains("known are api.example.test"), "{why}");
    for key in redis.keys() {
        assert!(key.starts_with("portcullis:{portcullis}:") && !key.contains("ann") && !key.contains("127.0"), "{key}");
    }
    for gateway in [&first, &second] {
        assert!(!gateway.output().to_lowercase().contains("\"ann\"") && !gateway.output().contains("127.0.0.51"));
    }
}

#[test]
fn a_network_that_one_gateway_knows_is_known_to_all_and_after_a_restart() {
    let (upstream, redis) = (upstream(), Redis::start());
    let first = sharing(&upstream, &redis);
    assert_eq!(log_in(&first, "127.0.0.53", "victim", "right"), 200);
    for n in 60..65 {
        fail(&first, &format!("127.0.0.{n}"), "victim", 1);
    }
    until_listed(&[&first], 1);
    drop(first);
    let second = sharing(&upstream, &redis);
    // At once: it has read what is locked before it was ready.
    assert_eq!(log_in(&second, "127.0.0.66", "victim", "right"), 429);
    assert_eq!(log_in(&second, "127.0.0.53", "victim", "right"), 200);
}

#[test]
fn without_the_store_a_known_lock_stays_and_no_login_is_refused_for_it() {
    let (upstream, mut redis) = (upstream(), Redis::start());
    let [first, second] = [0, 1].map(|_| sharing(&upstream, &redis));
    fail(&first, "127.0.0.55", "ann", 5);
    until_listed(&[&first, &second], 3);
    redis.kill();
    for gateway in [&first, &second] {
        assert_eq!(log_in(gateway, "127.0.0.55", "ann", "right"), 429, "a known lock stays");
        assert_eq!(log_in(gateway, "127.0.0.56", "bob", "right"), 200, "nobody else waits for the store");
    }
    fail(&first, "127.0.0.57", "cid", 5);
    until_listed(&[&first], 6);
    assert_eq!([&first, &second].map(|gateway| log_in(gateway, "127.0.0.57", "cid", "right")), [429, 200]);
    assert!(first.metric("portcullis_login_alone_total", &[]).is_some_and(|alone| alone >= 5.0));
    let key = listed(&first)[0]["lock"].as_str().expect("a key").to_owned();
    let lift = first.cli(&["lockouts", "lift", &key]);
    assert!(!lift.status.success(), "{lift:?}");
    assert!(String::from_utf8_lossy(&lift.stderr).contains("it is lifted on this gateway only"), "{lift:?}");
    // The store begins anew, empty. What is known stays, and what is new is shared again.
    for (what, stands) in [("missed", "degraded"), ("used again", "healthy")] {
        if stands == "healthy" {
            redis.restart();
        }
        for gateway in [&first, &second] {
            wait_for(what, || gateway.admin("GET", "/readyz").text().contains(stands).then_some(()));
        }
    }
    assert_eq!(log_in(&second, "127.0.0.55", "ann", "right"), 429);
    fail(&second, "127.0.0.58", "dan", 5);
    until_listed(&[&second], 6);
    until_listed(&[&first], 8);
    assert_eq!(log_in(&first, "127.0.0.58", "dan", "right"), 429);
}
