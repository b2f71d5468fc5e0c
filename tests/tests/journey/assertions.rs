//! Signed assertions: an app that verifies them itself, whatever it is sent, and while the key changes.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use portcullis_tests::{
    Gateway, H1, Protocol, Reply, Request, Seen, Setup, Token, Upstream,
    assertion::{self, CachingApp, ISSUER, ed25519, keys, p256, verified},
    free_address,
    tokens::{main_key, main_token},
    wait_for,
};
use serde_json::{Value, json};

/// The default, with assertions to `app`, signed with these keys.
fn asserting(upstream: &Upstream, es256: &[&str]) -> Setup {
    let list = |names: &[&str]| format!("{:?}", names.iter().map(|name| format!("file:{name}")).collect::<Vec<_>>());
    Setup::new(upstream).file("a.pem", p256()).file("b.pem", p256()).file("e.pem", ed25519()).with(&format!(
        "[assertion]\nissuer = \"{ISSUER}\"\nes256 = {}\neddsa = [\"file:e.pem\"]\n[upstreams.app]\nassertion = \"ES256\"\n",
        list(es256)
    ))
}

/// A gateway with two upstreams behind it, one for each algorithm.
struct Two {
    app: Upstream,
    billing: Upstream,
    gateway: Gateway,
}

fn two() -> &'static Two {
    static TWO: LazyLock<Two> = LazyLock::new(|| {
        let (app, billing) = (Upstream::start(), Upstream::start());
        let gateway = asserting(&app, &["a.pem"])
            .with(&format!("[upstreams.billing]\nservers = [\"{}\"]\nassertion = \"EdDSA\"", billing.address()))
            .set("hosts.\"api.example.test\".routes.local.upstream", "\"billing\"")
            .set("hosts.\"api.example.test\".routes.local.auth", r#"{ accept = ["jwt:main"] }"#)
            .start();
        Two { app, billing, gateway }
    });
    &TWO
}

fn sent(protocol: Protocol, request: &Request) -> Seen {
    let answer = two().gateway.ask(protocol, request);
    assert_eq!(answer.status, 200, "{answer:?}");
    two().app.seen_whole(&request.mark)
}

fn claims(seen: &Seen) -> Value {
    verified(seen, &keys(&two().gateway.admin("GET", assertion::KEY_SET).text()), "upstream:app").unwrap().1
}

#[test]
fn a_user_is_asserted_for_exactly_this_request() {
    for protocol in Protocol::BOTH {
        let request = Request::post("/v1/orders/a%20b?x=1&y", "{}").bearer(
            Token::main("acme").claim("sub", "赵\"1").claim("roles", "admin").claim("scope", "b a").sign(main_key()),
        );
        let told = claims(&sent(protocol, &request.header("Content-Type", "application/json")));
        assert_eq!(told["iss"], ISSUER);
        assert_eq!(told["sub"], "main:赵\"1");
        assert_eq!((&told["kind"], &told["tid"]), (&json!("user"), &json!("acme")));
        assert_eq!((&told["role"], &told["scp"]), (&json!("admin"), &json!(["a", "b"])));
        assert_eq!((&told["htm"], &told["htu"]), (&json!("POST"), &json!("/v1/orders/a%20b")));
        assert_eq!(told["exp"].as_u64().unwrap(), told["iat"].as_u64().unwrap() + 30);
        assert!(told.get("key_id").is_none() && told.get("env").is_none(), "{told}");
    }
}

#[test]
fn an_api_key_is_asserted_with_its_id_and_environment() {
    let key = two().gateway.key("acme");
    let told = claims(&sent(Protocol::H1, &Request::get("/v1/orders").header("X-Api-Key", key)));
    let id = key.split('_').nth(2).expect("a key has an id");
    assert_eq!((&told["kind"], &told["key_id"], &told["env"]), (&json!("apikey"), &json!(id), &json!("live")));
    assert_eq!(told["sub"], format!("apikey:{id}"));
}

#[test]
fn nobody_is_asserted_as_anonymous() {
    for protocol in Protocol::BOTH {
        let told = claims(&sent(protocol, &Request::get("/public")));
        assert_eq!(told["kind"], "anonymous");
        for name in ["sub", "tid", "role", "scp", "env", "key_id"] {
            assert!(told.get(name).is_none(), "{told}");
        }
    }
}

#[test]
fn an_assertion_of_the_client_never_arrives() {
    let stolen = sent(Protocol::H1, &Request::get("/v1/orders").bearer(main_token("acme")));
    let stolen = stolen.header("x-portcullis-assertion").unwrap();
    for protocol in Protocol::BOTH {
        let request = Request::get("/public").header("X-Portcullis-Assertion", &stolen);
        let seen = sent(protocol, &request);
        assert_eq!(claims(&seen)["kind"], "anonymous");
        assert!(!String::from_utf8_lossy(&seen.head).contains(&stolen));
    }
}

#[test]
fn each_upstream_has_its_audience_and_its_algorithm() {
    let request = Request::get("/local").bearer(main_token("acme"));
    assert_eq!(two().gateway.send(&request).status, 200);
    let seen = two().billing.seen(&request.mark);
    let set = keys(&two().gateway.admin("GET", assertion::KEY_SET).text());
    let (head, told) = verified(&seen, &set, "upstream:billing").unwrap();
    assert_eq!((&head["alg"], &told["aud"]), (&json!("EdDSA"), &json!("upstream:billing")));
    assert!(verified(&seen, &set, "upstream:app").is_err());
}

#[test]
fn no_two_requests_share_an_assertion_or_its_name() {
    let ids: std::collections::BTreeSet<String> = (0..5)
        .map(|_| claims(&sent(Protocol::H1, &Request::get("/public")))["jti"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids.len(), 5);
}

#[test]
fn each_attempt_carries_an_assertion_of_its_own() {
    let first = Upstream::scripted(|seen| if seen.target().contains("die") { Reply::Close } else { Reply::ok() });
    let gateway = asserting(&first, &["a.pem"]).with("upstreams.app.retries_max = 2").start();
    let set = keys(&gateway.admin("GET", assertion::KEY_SET).text());
    let ids = wait_for("a request to be tried twice", || {
        // Warm, so that the connection is a reused one.
        assert_eq!(gateway.send(&Request::get("/public")).status, 200);
        let request = Request::get("/public/die");
        assert_eq!(gateway.send(&request).status, 502);
        let every = first.every(&request.mark);
        let told = every.iter().map(|seen| verified(seen, &set, "upstream:app").unwrap().1["jti"].clone());
        (every.len() > 1).then(|| told.collect::<Vec<_>>())
    });
    assert_ne!(ids[0], ids[1]);
    let elsewhere = Upstream::start();
    let servers = format!("[\"{}\", \"{}\"]", free_address(), elsewhere.address());
    let (gateway, taken) = gateway.reload(|setup| setup.set("upstreams.app.servers", &servers));
    assert!(taken);
    for _ in 0..2 {
        let request = Request::get("/public");
        assert_eq!(gateway.send(&request).status, 200);
        assert!(verified(&elsewhere.seen(&request.mark), &set, "upstream:app").is_ok());
    }
}

#[test]
fn what_does_not_fit_is_refused_and_never_cut() {
    const TOO_LARGE: &str = "request.identity_too_large";
    let with = |count: usize, subject: &str| {
        let scopes: Vec<String> = (0..count).map(|n| format!("{n:02}{}", "s".repeat(58))).collect();
        let token = Token::main("acme").claim("scope", scopes).claim("sub", subject);
        Request::get("/v1/orders").bearer(token.sign(main_key()))
    };
    let (signed, plain) = (two(), crate::world());
    assert_eq!(claims(&sent(Protocol::H1, &with(40, "u")))["scp"].as_array().unwrap().len(), 40);
    let refused = |gateway: &Gateway, protocol, request: &Request| {
        let answer = gateway.ask(protocol, request);
        assert_eq!((answer.status, answer.code().as_str()), (431, TOO_LARGE));
        assert!(signed.app.saw(&request.mark).is_none() && plain.upstream.saw(&request.mark).is_none());
    };
    for protocol in Protocol::BOTH {
        // 64 scopes of 60 bytes fit into 4 KiB; with the same in an assertion they do not fit into 8.
        assert_eq!(plain.gateway.ask(protocol, &with(64, "u")).status, 200);
        refused(&signed.gateway, protocol, &with(64, "u"));
        refused(&plain.gateway, protocol, &with(64, &"赵".repeat(80)));
        // The path is in the assertion, and the query's hash.
        let long = Request::get(format!("/public/{}", "p".repeat(7000)));
        refused(&signed.gateway, protocol, &long);
        assert_eq!(plain.gateway.ask(protocol, &long).status, 200);
        let query = Request::get(format!("/public?{}", "q".repeat(7000)));
        assert_eq!(claims(&sent(protocol, &query))["kind"], "anonymous");
    }
}

#[test]
fn the_key_set_is_public_and_without_assertions_there_is_none() {
    let answer = two().gateway.admin_with("GET", assertion::KEY_SET, "");
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("max-age=300")));
    assert_eq!(answer.header("content-type"), Some("application/jwk-set+json"));
    assert_eq!(keys(&answer.text()).len(), 2);
    assert!(!answer.text().contains("\"d\""));
    let printed = two().gateway.cli(&["keys", "jwks"]);
    assert_eq!(String::from_utf8_lossy(&printed.stdout).trim_end(), answer.text().trim_end());
    assert_eq!(crate::world().gateway.admin("GET", assertion::KEY_SET).status, 404);
    let printed = crate::world().gateway.cli(&["keys", "jwks"]);
    assert!(!printed.status.success() && String::from_utf8_lossy(&printed.stderr).contains("[assertion]"));
    assert_eq!(two().gateway.send(&Request::get(assertion::KEY_SET)).status, 404, "not for clients");
}

#[test]
fn a_check_notes_an_upstream_elsewhere_that_gets_no_assertion() {
    let upstream = Upstream::start();
    let note = |setup: Setup| String::from_utf8_lossy(&setup.check().stdout).contains("gets no `assertion`");
    let elsewhere = |setup: Setup| setup.set("upstreams.app.servers", "[\"app.internal:80\"]");
    assert!(note(elsewhere(Setup::new(&upstream))));
    assert!(!note(Setup::new(&upstream)));
    assert!(!note(elsewhere(asserting(&upstream, &["a.pem"]))));
}

#[test]
fn an_assertion_is_no_token_of_a_client() {
    let seen = sent(Protocol::H1, &Request::get("/v1/orders").bearer(main_token("acme")));
    let assertion = seen.header("x-portcullis-assertion").unwrap();
    assert_eq!(two().gateway.send(&Request::get("/v1/orders").bearer(&assertion)).status, 401);
    let cookie = Request::get("/app").header("Cookie", format!("__Host-session={assertion}"));
    assert_eq!(two().gateway.send(&cookie).status, 401);
}

#[test]
fn no_log_holds_an_assertion() {
    let request = Request::get("/v1/orders").bearer(main_token("acme"));
    let answer = two().gateway.send(&request);
    let assertion = two().app.seen(&request.mark).header("x-portcullis-assertion").unwrap();
    two().gateway.line(&answer.request_id());
    let signature = assertion.rsplit('.').next().unwrap();
    assert!(!two().gateway.output().contains(signature));
}

#[test]
fn the_only_key_is_not_exchanged_at_a_reload() {
    let upstream = Upstream::start();
    let gateway = asserting(&upstream, &["a.pem"]).start();
    let before = gateway.admin("GET", assertion::KEY_SET).text();
    let (gateway, taken) = gateway.reload(|setup| setup.set("assertion.es256", "[\"file:b.pem\"]"));
    assert!(!taken);
    assert!(
        gateway.said(|line| line.contains("config.refused") && line.contains("add the new key at its end")).is_some()
    );
    assert_eq!(gateway.admin("GET", assertion::KEY_SET).text(), before);
}

#[test]
fn no_verification_fails_while_the_key_changes_under_traffic() {
    let app = Arc::new(CachingApp::default());
    let judge = Arc::clone(&app);
    let upstream = Upstream::scripted(move |seen| {
        judge.judge(seen);
        Reply::ok()
    });
    let gateway = asserting(&upstream, &["a.pem"]).with("assertion.lifetime = \"2s\"\nassertion.max_age = \"1s\"");
    app.admin.set(gateway.admin()).expect("set once");
    let gateway = gateway.start();
    let (dial, over) = (gateway.dial(), Arc::new(AtomicBool::new(false)));
    let until = Arc::clone(&over);
    let traffic = std::thread::spawn(move || {
        let mut sent = 0;
        while !until.load(Ordering::Relaxed) {
            let mut client = H1::over(dial.connect().expect("the gateway accepts"));
            for _ in 0..50 {
                client.send(Request::get("/v1/orders?a=b").bearer(main_token("acme")).h1());
                assert_eq!(client.answer().map(|answer| answer.status), Some(200));
                sent += 1;
            }
        }
        sent
    });
    let signer = || wait_for("a request", || app.last()).expect("it verifies");
    let old = signer();
    // Publish the next one.
    let start = Instant::now();
    let (gateway, taken) = gateway.reload(|setup| setup.set("assertion.es256", "[\"file:a.pem\", \"file:b.pem\"]"));
    assert!(taken);
    assert_eq!(keys(&assertion::fetch(*app.admin.get().unwrap()).text()).len(), 3);
    // Sign with it.
    let new = wait_for("the new key to sign", || Some(signer()).filter(|kid| *kid != old));
    assert!(start.elapsed() >= Duration::from_secs(2), "published for twice the age");
    // Retire the old one: not before what it signed has ended, and every kept set is newer.
    let (gateway, taken) = gateway.reload(|setup| setup.set("assertion.es256", "[\"file:b.pem\"]"));
    assert!(!taken, "the old key signed a moment ago");
    wait_for("the old key to be let go", || gateway.hang_up().then_some(()));
    assert!(start.elapsed() >= Duration::from_secs(2 + 5), "the age, and twice the life");
    let left = keys(&assertion::fetch(*app.admin.get().unwrap()).text());
    assert!(left.contains_key(&new) && !left.contains_key(&old));
    wait_for("the app to keep the last set", || (start.elapsed() > Duration::from_secs(9)).then_some(()));
    over.store(true, Ordering::Relaxed);
    let sent = traffic.join().expect("every request is answered");
    let verdicts = app.verdicts.lock().unwrap();
    assert_eq!(verdicts.len(), sent);
    let failed: Vec<_> = verdicts.iter().filter(|verdict| verdict.is_err()).collect();
    assert!(failed.is_empty(), "{} of {sent} failed, first {:?}", failed.len(), failed[0]);
}
