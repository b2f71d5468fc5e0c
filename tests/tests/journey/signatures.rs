//! Signed requests (RFC 9421): what is covered, with which key, and what of the client's own never arrives.

use std::{collections::BTreeSet, sync::LazyLock};

use portcullis_tests::{
    Gateway, Protocol, Reply, Request, Seen, Setup, Upstream,
    assertion::{ISSUER, ed25519, p256},
    grpc::GrpcUpstream,
    signature::{AppKey, verified},
    tokens::main_token,
    wait_for,
};

const SECRET: &str = "planted-signature-secret-0123456789abcdef0123456789";

/// A gateway that signs with HMAC for `app`, which is sent assertions too, and with Ed25519 for `billing`.
struct Two {
    app: Upstream,
    billing: Upstream,
    public: AppKey,
    gateway: Gateway,
}

fn signing(upstream: &Upstream) -> Setup {
    Setup::new(upstream)
        .file("secrets/signature", SECRET)
        .with("upstreams.app.signature = { algorithm = \"hmac-sha256\", key = \"file:secrets/signature\", keyid = \"app-1\" }")
}

fn two() -> &'static Two {
    static TWO: LazyLock<Two> = LazyLock::new(|| {
        let (app, billing) = (Upstream::start(), Upstream::start());
        let pem = ed25519();
        let gateway = signing(&app)
            .file("a.pem", p256())
            .file("billing.pem", &pem)
            .with(&format!(
                "[assertion]\nissuer = \"{ISSUER}\"\nes256 = [\"file:a.pem\"]\n[upstreams.app]\nassertion = \"ES256\"\n\
                 [upstreams.billing]\nservers = [\"{}\"]\n\
                 signature = {{ algorithm = \"ed25519\", key = \"file:billing.pem\", keyid = \"billing-1\" }}",
                billing.address()
            ))
            .set("hosts.\"api.example.test\".routes.local.upstream", "\"billing\"")
            .set("hosts.\"api.example.test\".routes.local.auth", "{ accept = [\"jwt:main\"] }")
            .start();
        Two { app, billing, public: AppKey::public(&pem), gateway }
    });
    &TWO
}

fn secret() -> AppKey {
    AppKey::Hmac(SECRET.as_bytes().to_vec())
}

fn sent(protocol: Protocol, request: &Request) -> Seen {
    let answer = two().gateway.ask(protocol, request);
    assert_eq!(answer.status, 200, "{answer:?}");
    two().app.seen_whole(&request.mark)
}

#[test]
fn a_request_is_signed_with_everything_about_the_caller_and_its_whole_body() {
    for protocol in Protocol::BOTH {
        for query in ["?x=1&y", "?", ""] {
            let request = Request::post(format!("/v1/orders/a%20b{query}"), "{\"a\":1}").bearer(main_token("acme"));
            let seen = sent(protocol, &request.header("Content-Type", "application/json"));
            let covered = verified(&seen, &secret(), "app-1").unwrap().covered;
            for name in ["x-portcullis-tenant", "x-portcullis-subject", "x-portcullis-assertion", "content-digest"] {
                assert!(covered.iter().any(|covered| covered == name), "{name}: {covered:?}");
            }
        }
        // Nothing to cover is not covered, and nobody is signed for as nobody.
        let covered = verified(&sent(protocol, &Request::get("/public")), &secret(), "app-1").unwrap().covered;
        assert_eq!(covered[3..], ["x-portcullis-kind", "x-portcullis-assertion", "x-request-id"]);
    }
}

#[test]
fn each_upstream_has_its_key_and_its_algorithm() {
    let request = Request::get("/local?a=b").bearer(main_token("acme"));
    assert_eq!(two().gateway.send(&request).status, 200);
    let seen = two().billing.seen(&request.mark);
    assert!(verified(&seen, &two().public, "billing-1").is_ok());
    assert!(verified(&seen, &AppKey::public(&ed25519()), "billing-1").is_err());
    assert!(verified(&seen, &secret(), "billing-1").is_err());
}

#[test]
fn what_is_changed_on_its_way_does_not_verify() {
    let request = Request::post("/v1/orders?a=b", "a body").bearer(main_token("acme"));
    let seen = sent(Protocol::H1, &request.header("Content-Type", "text/plain"));
    assert!(verified(&seen, &secret(), "app-1").is_ok());
    let changed = |from: &str, to: &str| {
        let head = String::from_utf8(seen.head.clone()).unwrap();
        let lower = head.to_ascii_lowercase();
        let at = lower.find(&from.to_ascii_lowercase()).unwrap_or_else(|| panic!("no {from} in {head}"));
        let (before, after) = head.split_at(at);
        let (_, after) = after.split_at(from.len());
        Seen { head: format!("{before}{to}{after}").into_bytes(), ..seen.clone() }
    };
    for (from, to) in [
        ("POST ", "PUT "),
        ("/v1/orders?", "/v1/others?"),
        ("?a=b", "?a=c"),
        ("x-portcullis-tenant: acme", "x-portcullis-tenant: globex"),
        ("\r\n\r\n", "\r\nX-Portcullis-Env: live\r\n\r\n"),
        ("expires=", "expires=1"),
        ("keyid=\"app-1\"", "keyid=\"app-2\""),
    ] {
        assert!(verified(&changed(from, to), &secret(), "app-1").is_err(), "{from} to {to}");
    }
    assert!(verified(&Seen { body: b"another".to_vec(), ..seen.clone() }, &secret(), "app-1").is_err());
}

#[test]
fn a_signature_of_the_client_never_arrives() {
    for protocol in Protocol::BOTH {
        let request = Request::post("/public", "a body")
            .header("Content-Type", "text/plain")
            .header("Signature", "portcullis=:cGxhbnRlZA==:")
            .header("Signature-Input", "portcullis=(\"@method\");created=1;keyid=\"planted\"")
            .header("Content-Digest", "sha-256=:cGxhbnRlZA==:");
        let seen = sent(protocol, &request);
        assert!(verified(&seen, &secret(), "app-1").is_ok());
        assert!(!String::from_utf8_lossy(&seen.head).contains("cGxhbnRlZA"), "{seen:?}");
        assert!(!String::from_utf8_lossy(&seen.head).contains("planted"), "{seen:?}");
        // An upstream that is not signed for gets what the client wrote.
        let plain = crate::world();
        assert_eq!(plain.gateway.ask(protocol, &request).status, 200);
        let seen = plain.upstream.seen(&request.mark);
        assert_eq!(seen.header("signature").as_deref(), Some("portcullis=:cGxhbnRlZA==:"));
        assert_eq!(seen.header("content-digest").as_deref(), Some("sha-256=:cGxhbnRlZA==:"));
    }
}

#[test]
fn a_body_that_is_not_read_whole_before_its_head_goes_is_visibly_not_covered() {
    // 64 KiB are read ahead.
    for (length, covered) in [(64 << 10, true), ((64 << 10) + 1, false)] {
        let request = Request::post("/public", format!("[1]{}", " ".repeat(length - 3)))
            .header("Content-Type", "application/json");
        let digest = request.header("Content-Digest", "sha-256=:b2YgdGhlIGNsaWVudA==:");
        let seen = sent(Protocol::H1, &digest);
        let names = verified(&seen, &secret(), "app-1").unwrap().covered;
        assert_eq!(names.iter().any(|name| name == "content-digest"), covered, "{length}");
        assert_eq!(seen.body.len(), length);
    }
}

#[test]
fn each_attempt_has_a_signature_of_its_own() {
    let first = Upstream::scripted(|seen| if seen.target().contains("die") { Reply::Close } else { Reply::ok() });
    let gateway = signing(&first).with("upstreams.app.retries_max = 2").start();
    let nonces = wait_for("a request to be tried twice", || {
        assert_eq!(gateway.send(&Request::get("/public")).status, 200);
        let request = Request::get("/public/die");
        assert_eq!(gateway.send(&request).status, 502);
        let every = first.every(&request.mark);
        let nonces = every.iter().map(|seen| verified(seen, &secret(), "app-1").unwrap().nonce);
        (every.len() > 1).then(|| nonces.collect::<Vec<_>>())
    });
    assert_eq!(nonces.iter().collect::<BTreeSet<_>>().len(), nonces.len());
}

#[test]
fn an_upstream_of_http_2_gets_one_too() {
    let upstream = GrpcUpstream::start();
    let gateway = Setup::with_upstream(upstream.address())
        .file("secrets/signature", SECRET)
        .with("upstreams.app.signature = { algorithm = \"hmac-sha256\", key = \"file:secrets/signature\", keyid = \"app-1\" }")
        .with("upstreams.app.protocol = \"h2\"")
        .start();
    for protocol in Protocol::BOTH {
        let request = Request::post("/public?a=b", "a body").header("Content-Type", "text/plain");
        assert_eq!(gateway.ask(protocol, &request).status, 200);
        let call = upstream.seen(&request.mark);
        // As HTTP/1.1 would have written it: the components are the same (RFC 9421 2).
        let fields = call.headers.iter().map(|(name, value)| format!("{name}: {}\r\n", value.to_str().unwrap()));
        let head = format!("{} {} HTTP/1.1\r\n{}\r\n", call.method, call.target, fields.collect::<String>());
        let seen = Seen { head: head.into_bytes(), body: call.body, ..Seen::default() };
        assert!(verified(&seen, &secret(), "app-1").unwrap().covered.contains(&"content-digest".to_owned()));
    }
}

#[test]
fn a_reload_takes_a_new_key_and_refuses_a_shared_one() {
    let upstream = Upstream::start();
    let gateway = signing(&upstream).start();
    let new = "planted-other-secret-0123456789abcdef0123456789abcdef";
    let (gateway, taken) = gateway.reload(|setup| setup.file("secrets/signature", new));
    assert!(taken);
    let request = Request::get("/public");
    assert_eq!(gateway.send(&request).status, 200);
    assert!(verified(&upstream.seen(&request.mark), &AppKey::Hmac(new.as_bytes().to_vec()), "app-1").is_ok());
    let (gateway, taken) = gateway.reload(|setup| {
        setup.with(&format!(
            "[upstreams.other]\nservers = [\"{}\"]\n\
             signature = {{ algorithm = \"hmac-sha256\", key = \"file:secrets/signature\", keyid = \"other-1\" }}",
            upstream.address()
        ))
    });
    assert!(!taken);
    assert!(gateway.said(|line| line.contains("signature.key_twice")).is_some());
    assert!(!gateway.output().contains("planted-"));
}

#[test]
fn a_form_that_was_confined_is_covered_as_it_goes_upstream() {
    let upstream = Upstream::start();
    let gateway = signing(&upstream)
        .with(
            r#"
            [hosts."api.example.test".routes.query]
            path = "/api/v1/query"
            methods = ["GET", "POST"]
            auth = { accept = ["jwt:main"] }
            scope = { labels = { tenant = "tenant" }, promql = ["query"], others = ["time"] }
            upstream = "app"
            "#,
        )
        .start();
    for protocol in Protocol::BOTH {
        let form = Request::post("/api/v1/query?time=17", "query=up").bearer(main_token("acme"));
        let form = form.header("Content-Type", "application/x-www-form-urlencoded");
        let get = Request::get("/api/v1/query?time=17&query=up").bearer(main_token("acme"));
        assert_eq!(gateway.ask(protocol, &get).status, 200);
        let seen = upstream.seen_whole(&get.mark);
        assert!(seen.target().contains("tenant"), "{seen:?}");
        assert!(verified(&seen, &secret(), "app-1").is_ok());
        assert_eq!(gateway.ask(protocol, &form).status, 200);
        let seen = upstream.seen_whole(&form.mark);
        assert!(String::from_utf8_lossy(&seen.body).contains("tenant"), "{seen:?}");
        assert!(verified(&seen, &secret(), "app-1").unwrap().covered.contains(&"content-digest".to_owned()));
    }
}
