//! `portcullis doctor upstream`: apps that verify, apps that verify all but one thing, and apps that trust everybody.

use std::sync::{Arc, OnceLock};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis_tests::{
    Reply, Seen, Setup, Upstream,
    agents::Wanted,
    assertion::{ISSUER, Keys, ed25519, keys, p256, verified},
    ca::{Ca, ca},
    free_address,
    grpc::GrpcUpstream,
    tokens::now,
};
use serde_json::Value;

const NAME: &str = "orders.internal.test";

/// With assertions to `app` of this algorithm.
fn asserting(setup: Setup, algorithm: &str) -> Setup {
    setup.file("a.pem", p256()).file("e.pem", ed25519()).with(&format!(
        "[assertion]\nissuer = \"{ISSUER}\"\nes256 = [\"file:a.pem\"]\neddsa = [\"file:e.pem\"]\n\
         [upstreams.app]\nassertion = \"{algorithm}\"\n"
    ))
}

/// What it printed, and its exit code.
fn asked(setup: &Setup, arguments: &[&str]) -> (Vec<String>, Option<i32>) {
    let output = setup.cli(&[&["doctor", "upstream"], arguments].concat());
    let said = String::from_utf8(output.stdout).expect("text");
    (said.lines().map(str::to_owned).collect(), output.status.code())
}

fn has(said: &[String], what: &str) -> bool {
    said.iter().any(|line| line.contains(what))
}

/// An app that leaves out one check, or none.
#[derive(Clone, Copy, PartialEq, Eq)]
enum App {
    Careful,
    TakesNone,
    AnySignature,
    AnyAudience,
    AnyTime,
    AnyPath,
}

impl App {
    /// Reads the claims by hand: the harness's verifier refuses at the first thing that is wrong.
    fn lets_in(self, seen: &Seen, keys: &Keys) -> bool {
        let Some(token) = seen.header("x-portcullis-assertion") else { return self == Self::TakesNone };
        let payload = token.split('.').nth(1).expect("three parts");
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).expect("base64url")).expect("JSON");
        assert_eq!(claims["kind"], "anonymous", "the doctor speaks of nobody");
        assert!(claims.get("sub").is_none() && claims.get("tid").is_none(), "{claims}");
        let forged = verified(seen, keys, "upstream:app").is_err_and(|why| why.to_string().contains("signature"));
        (self == Self::AnySignature || !forged)
            && (self == Self::AnyAudience || claims["aud"] == "upstream:app")
            && (self == Self::AnyTime || claims["exp"].as_u64().expect("a time") > now())
            && (self == Self::AnyPath || claims["htu"] == seen.target().split('?').next().expect("a path"))
    }

    fn start(self) -> (Upstream, Arc<OnceLock<Keys>>) {
        let keys: Arc<OnceLock<Keys>> = Arc::default();
        let known = Arc::clone(&keys);
        let upstream = Upstream::scripted(move |seen| {
            let good = self.lets_in(seen, known.get().expect("the app has the keys"));
            if good { Reply::ok() } else { Reply::with(401, &[], "") }
        });
        (upstream, keys)
    }
}

fn examined(app: App, algorithm: &str, arguments: &[&str]) -> (Vec<String>, Option<i32>, Upstream) {
    let (upstream, known) = app.start();
    let setup = asserting(Setup::new(&upstream), algorithm);
    let printed = setup.cli(&["keys", "jwks"]);
    known.set(keys(&String::from_utf8_lossy(&printed.stdout))).expect("set once");
    let (said, code) = asked(&setup, arguments);
    (said, code, upstream)
}

#[test]
fn an_app_that_verifies_refuses_everything() {
    for algorithm in ["ES256", "EdDSA"] {
        let (said, code, upstream) = examined(App::Careful, algorithm, &["app", "--path", "/public/a?b=c"]);
        assert_eq!(code, Some(0), "{said:#?}");
        assert!(has(&said, "it can be reached around the gateway (HTTP 401)"), "{said:#?}");
        assert!(has(&said, "a request as the gateway sends them: HTTP 200"), "{said:#?}");
        for check in [
            "a request without an assertion",
            "a forged assertion",
            "an assertion for another upstream",
            "an expired assertion",
            "an assertion for another path",
        ] {
            assert!(has(&said, &format!("refused: {check} (HTTP 401)")), "{check}: {said:#?}");
        }
        assert_eq!(said.last().map(String::as_str), Some("refused: 5, let in: 0, unknown: 0"));
        let seen = upstream.all();
        assert!(seen.iter().all(|seen| seen.request_line() == "GET /public/a?b=c HTTP/1.1"), "{seen:?}");
        assert!(seen.iter().all(|seen| seen.header("host").as_deref() == Some("api.example.test")), "{seen:?}");
    }
}

#[test]
fn an_app_that_leaves_one_check_out_is_found_by_exactly_that() {
    for (app, check) in [
        (App::TakesNone, "a request without an assertion"),
        (App::AnySignature, "a forged assertion"),
        (App::AnyAudience, "an assertion for another upstream"),
        (App::AnyTime, "an expired assertion"),
        (App::AnyPath, "an assertion for another path"),
    ] {
        let (said, code, _upstream) = examined(app, "ES256", &["app"]);
        assert_eq!(code, Some(1), "{said:#?}");
        assert!(has(&said, &format!("LET IN: {check} (HTTP 200)")), "{said:#?}");
        assert_eq!(said.last().map(String::as_str), Some("refused: 4, let in: 1, unknown: 0"), "{said:#?}");
    }
}

#[test]
fn an_app_that_trusts_everybody_lets_everything_in() {
    let upstream = Upstream::start();
    let (said, code) = asked(&asserting(Setup::new(&upstream), "ES256"), &["app"]);
    assert_eq!((said.last().map(String::as_str), code), (Some("refused: 0, let in: 5, unknown: 0"), Some(1)));
    // Nothing is configured that it could refuse by.
    let (said, code) = asked(&Setup::new(&upstream), &["app"]);
    assert!(has(&said, "LET IN: a request of anybody (HTTP 200)"), "{said:#?}");
    assert_eq!(code, Some(1));
    let upstream = GrpcUpstream::start();
    let setup = asserting(Setup::with_upstream(upstream.address()), "ES256").with("upstreams.app.protocol = \"h2\"");
    let (said, code) = asked(&setup, &["app"]);
    assert_eq!((said.last().map(String::as_str), code), (Some("refused: 0, let in: 5, unknown: 0"), Some(1)));
}

#[test]
fn what_refuses_a_good_request_too_tells_nothing() {
    for (reply, why) in
        [(401, "a good request is refused too"), (404, "this is no refusal"), (302, "this is no refusal")]
    {
        let upstream = Upstream::scripted(move |_| Reply::with(reply, &[], ""));
        let (said, code) = asked(&asserting(Setup::new(&upstream), "ES256"), &["app"]);
        assert!(has(&said, &format!("UNKNOWN: a forged assertion (HTTP {reply}): {why}")), "{said:#?}");
        assert_eq!((said.last().map(String::as_str), code), (Some("refused: 0, let in: 0, unknown: 5"), Some(2)));
    }
    let silent = Upstream::scripted(|_| Reply::Close);
    let (said, code) = asked(&asserting(Setup::new(&silent), "ES256"), &["app"]);
    assert_eq!((said.last().map(String::as_str), code), (Some("refused: 0, let in: 0, unknown: 5"), Some(2)));
}

#[test]
fn a_server_that_cannot_be_reached_tells_nothing_and_others_are_asked_all_the_same() {
    let upstream = Upstream::start();
    let nobody = free_address();
    let both = format!("[\"{nobody}\", \"{}\"]", upstream.address());
    let (said, code) = asked(&Setup::new(&upstream).set("upstreams.app.servers", &both), &["app"]);
    assert!(has(&said, &format!("{nobody}: UNKNOWN: it cannot be reached from here")), "{said:#?}");
    assert_eq!((said.last().map(String::as_str), code), (Some("refused: 0, let in: 1, unknown: 1"), Some(1)));
    let (said, code) = asked(&Setup::with_upstream(nobody), &["app"]);
    assert_eq!((said.last().map(String::as_str), code), (Some("refused: 0, let in: 0, unknown: 1"), Some(2)));
}

/// The default, with a certificate of the gateway for an upstream over TLS.
fn showing(upstream: &Upstream, clients: &Ca) -> Setup {
    let (chain, key) = clients.agent(&Wanted::nameless()).pem();
    Setup::new(upstream).file("own.pem", chain).file("own-key.pem", key).with(&format!(
        "upstreams.app.tls = {{ sni = \"{NAME}\", ca = {{ file = \"tls/ca.pem\" }}, \
         client_certificate = {{ chain = \"file:own.pem\", key = \"file:own-key.pem\" }} }}"
    ))
}

#[test]
fn an_app_that_requires_a_client_certificate_refuses_whoever_has_none() {
    let clients = Ca::new("the authority of gateways");
    let leaf = ca().leaf(&[NAME]);
    let upstream = Upstream::tls(leaf.asking(&clients, &[b"http/1.1"]));
    let (said, code) = asked(&showing(&upstream, &clients), &["app"]);
    assert!(has(&said, "it tells nothing to whoever is not the gateway (no answer: "), "{said:#?}");
    assert!(has(&said, "refused: a connection without a client certificate (no answer: "), "{said:#?}");
    assert_eq!((said.last().map(String::as_str), code), (Some("refused: 1, let in: 0, unknown: 0"), Some(0)));
    // The same app without the requirement, and one that believes another authority.
    let open = Upstream::tls(leaf.server(&[&rustls::version::TLS13], &[b"http/1.1"]));
    let (said, code) = asked(&showing(&open, &clients), &["app"]);
    assert!(has(&said, "LET IN: a connection without a client certificate (HTTP 200)"), "{said:#?}");
    assert_eq!(code, Some(1));
    let other = Upstream::tls(leaf.asking(&Ca::new("another authority"), &[b"http/1.1"]));
    let (said, code) = asked(&showing(&other, &clients), &["app"]);
    assert!(has(&said, "UNKNOWN: a connection without a client certificate"), "{said:#?}");
    assert_eq!(code, Some(2));
}

#[test]
fn a_question_that_cannot_be_asked_says_why() {
    let setup = Setup::new(&Upstream::start());
    for (arguments, why) in [
        (&["orders"][..], "there is no upstream `orders`: there are app"),
        (&["app", "--path", "orders"][..], "is no path"),
        (&["app", "--path", "/a b"][..], "is no path"),
    ] {
        let output = setup.cli(&[&["doctor", "upstream"], arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(why), "{output:?}");
    }
    let broken = setup.with("upstreams.app.servers = []").cli(&["doctor", "upstream", "app"]);
    assert_eq!(broken.status.code(), Some(2), "{broken:?}");
}
