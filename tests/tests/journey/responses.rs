//! What goes back: security headers on every answer, CORS for exact origins, nothing of what is behind.

use portcullis_tests::{
    Answer, Protocol, Reply, Request, Setup, Upstream,
    tokens::{local_token, main_token},
};

use crate::world;

fn secured(answer: &Answer) {
    assert_eq!(answer.header("strict-transport-security"), Some("max-age=31536000"), "{answer:?}");
    assert_eq!(answer.header("content-security-policy"), Some("default-src 'none'; frame-ancestors 'none'"));
    assert_eq!(answer.header("x-frame-options").map(str::to_ascii_uppercase).as_deref(), Some("DENY"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
    assert_eq!(answer.header("server"), None);
    assert_eq!(answer.header("x-powered-by"), None);
    assert!(answer.request_id().len() >= 16);
}

#[test]
fn every_answer_carries_the_security_headers() {
    for protocol in Protocol::BOTH {
        for request in [
            Request::get("/public"),
            Request::new("HEAD", "/public"),
            Request::get("/v1/orders"),
            Request::get("/nowhere"),
            Request::get("/public/.."),
            Request::new("TRACE", "/public"),
            Request::get("/public").host("nowhere.invalid"),
            Request::post("/public", "x").header("Content-Encoding", "gzip"),
        ] {
            secured(&world().gateway.ask(protocol, &request));
        }
        let preflight = Request::new("OPTIONS", "/api")
            .host("cors.example.test")
            .header("Origin", "https://app.example.test")
            .header("Access-Control-Request-Method", "GET");
        secured(&world().gateway.ask(protocol, &preflight));
    }
}

/// Fields whose values differ from one refusal to the next.
const PER_ANSWER: [&str; 4] = ["date", "content-length", "connection", "x-request-id"];

#[test]
fn also_what_is_refused_before_it_is_a_request_does_not_name_what_refused_it() {
    let gateway = &world().gateway;
    let usual = gateway.ask(Protocol::H1, &Request::get("/nowhere"));
    for (bytes, status, code) in [
        ("GARBAGE\r\n\r\n", 400, "request.unreadable"),
        ("GET /public HTTP/1.1\r\nHost : x\r\n\r\n", 400, "request.unreadable"),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 405, "request.connect"),
    ] {
        let mut client = gateway.h1();
        client.send(bytes);
        let answer = client.answer().expect("it is told why");
        assert!(!format!("{answer:?}").to_ascii_lowercase().contains("pingora"), "{answer:?}");
        assert_eq!((answer.status, &*answer.code()), (status, code));
        secured(&answer);
        for (name, value) in usual.headers.iter().filter(|(name, _)| !PER_ANSWER.contains(&&*name.to_ascii_lowercase()))
        {
            assert_eq!(answer.header(name), Some(&**value), "what every refusal has: {name}");
        }
        assert_eq!(answer.header("connection").map(str::to_ascii_lowercase).as_deref(), Some("close"));
        assert!(client.answer().is_none(), "the connection ends with it");
        let id = answer.request_id();
        if code == "request.connect" {
            assert_eq!(gateway.line(&id)["code"], code, "it became a request");
            continue;
        }
        let line = gateway.said(|line| line.contains(&id)).expect("the log says it under the same id");
        assert!(line.contains("head.refused") && line.contains(code), "{line}");
    }
}

#[test]
fn an_upstreams_own_policy_stays_and_is_not_doubled() {
    let upstream = Upstream::scripted(|_| {
        Reply::with(
            200,
            &[
                ("Content-Security-Policy", "default-src 'self'"),
                ("Strict-Transport-Security", "max-age=1"),
                ("X-Content-Type-Options", "nosniff"),
                ("Server", "nginx/1.2.3"),
                ("X-Powered-By", "PHP/5"),
                ("Cache-Control", "max-age=60"),
            ],
            "ok",
        )
    });
    let gateway = Setup::new(&upstream).start();
    for protocol in Protocol::BOTH {
        let answer = gateway.ask(protocol, &Request::get("/public"));
        assert_eq!(answer.header("content-security-policy"), Some("default-src 'self'"));
        assert_eq!(answer.header("strict-transport-security"), Some("max-age=31536000"));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("cache-control"), Some("max-age=60"));
        assert_eq!((answer.header("server"), answer.header("x-powered-by")), (None, None));
    }
}

fn preflight(origin: &str, method: &str) -> Request {
    Request::new("OPTIONS", "/api")
        .host("cors.example.test")
        .header("Origin", origin)
        .header("Access-Control-Request-Method", method)
}

#[test]
fn a_preflight_of_a_listed_origin_is_answered_here() {
    for protocol in Protocol::BOTH {
        let request =
            preflight("https://app.example.test", "POST").header("Access-Control-Request-Headers", "content-type");
        let answer = world().gateway.ask(protocol, &request);
        assert_eq!(answer.status, 204, "{answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example.test"));
        assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
        assert!(answer.header("access-control-allow-methods").is_some_and(|v| v.contains("POST")));
        assert!(
            answer
                .header("access-control-allow-headers")
                .is_some_and(|v| v.to_ascii_lowercase().contains("content-type"))
        );
        assert_eq!(answer.header("access-control-max-age"), Some("600"));
        assert!(world().upstream.saw(&request.mark).is_none());
    }
}

#[test]
fn a_preflight_that_asks_for_too_much_is_refused() {
    for protocol in Protocol::BOTH {
        for request in [
            preflight("https://evil.example.test", "GET"),
            preflight("https://app.example.test", "DELETE"),
            preflight("https://app.example.test", "GET").header("Access-Control-Request-Headers", "x-secret"),
            preflight("https://app.example.test", "GET").host("api.example.test"),
        ] {
            let answer = world().gateway.ask(protocol, &request);
            assert!(matches!(answer.status, 403..=405), "{answer:?}");
            assert!(world().upstream.saw(&request.mark).is_none());
        }
    }
}

#[test]
fn a_simple_request_of_a_listed_origin_may_read_the_answer_also_a_refusal() {
    for protocol in Protocol::BOTH {
        let get = || Request::get("/api").host("cors.example.test").header("Origin", "https://app.example.test");
        for (request, status) in [
            (get().bearer(main_token("acme")), 200),
            (get().header("Cookie", format!("__Host-session={}", local_token("acme"))), 200),
            (get(), 401),
        ] {
            let answer = world().gateway.ask(protocol, &request);
            assert_eq!(answer.status, status, "{answer:?}");
            assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example.test"), "{answer:?}");
            assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
            assert!(
                answer.header("access-control-expose-headers").is_some_and(|v| v.contains("x-total")),
                "{answer:?}"
            );
            assert!(answer.all("vary").iter().any(|v| v.to_ascii_lowercase().contains("origin")));
        }
    }
}

#[test]
fn a_host_without_cors_says_nothing_about_origins() {
    let answer = world().gateway.send(&Request::get("/public").header("Origin", "https://app.example.test"));
    assert_eq!(answer.status, 200);
    assert!(
        answer.headers.iter().all(|(name, _)| !name.to_ascii_lowercase().starts_with("access-control-")),
        "{answer:?}"
    );
}
