//! Every refusal is a problem document with a stable code, a request id and the right header fields.

use portcullis_tests::{
    Answer, Protocol, Request, Setup, Token,
    tokens::{main_key, main_token},
};

use crate::world;

#[track_caller]
fn refused(protocol: Protocol, request: &Request, status: u16, code: &str) -> Answer {
    let answer = world().gateway.ask(protocol, request);
    assert_eq!((answer.status, answer.code().as_str()), (status, code), "{answer:?}");
    assert!(world().upstream.saw(&request.mark).is_none());
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{answer:?}");
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{answer:?}");
    answer
}

#[test]
fn no_credential_is_401_with_a_challenge() {
    for protocol in Protocol::BOTH {
        let answer = world().gateway.ask(protocol, &Request::get("/v1/orders"));
        assert_eq!(answer.status, 401);
        assert!(answer.code().starts_with("authentication."));
        assert!(answer.header("www-authenticate").is_some_and(|v| v.starts_with("Bearer realm=")), "{answer:?}");
    }
}

#[test]
fn a_lacking_scope_is_403_and_says_which() {
    for protocol in Protocol::BOTH {
        let answer =
            refused(protocol, &Request::get("/v1/scoped").bearer(main_token("acme")), 403, "authorization.scope");
        let challenge = answer.header("www-authenticate").expect("it says what is lacking");
        assert!(challenge.contains("insufficient_scope") && challenge.contains("orders:write"), "{challenge}");
        let enough = Token::main("acme").claim("scope", "a orders:write b").sign(main_key());
        assert_eq!(world().gateway.ask(protocol, &Request::get("/v1/scoped").bearer(enough)).status, 200);
        let list = Token::main("acme").claim("scope", vec!["orders:write"]).sign(main_key());
        assert_eq!(world().gateway.ask(protocol, &Request::get("/v1/scoped").bearer(list)).status, 200);
        let part = Token::main("acme").claim("scope", "orders:writer orders:writ").sign(main_key());
        refused(protocol, &Request::get("/v1/scoped").bearer(part), 403, "authorization.scope");
    }
}

#[test]
fn a_lower_role_is_403_and_a_higher_one_passes() {
    let with = |role: &str| Request::get("/v1/admin").bearer(Token::main("acme").claim("roles", role).sign(main_key()));
    for protocol in Protocol::BOTH {
        for role in ["viewer", "developer", "root", ""] {
            refused(protocol, &with(role), 403, "authorization.role");
        }
        for role in ["admin", "owner"] {
            assert_eq!(world().gateway.ask(protocol, &with(role)).status, 200);
        }
    }
}

#[test]
fn an_unknown_route_is_404_and_a_method_not_listed_is_405() {
    for protocol in Protocol::BOTH {
        refused(protocol, &Request::get("/nowhere").bearer(main_token("acme")), 404, "route.not_found");
        let answer = world().gateway.ask(protocol, &Request::new("PATCH", "/v1/orders").bearer(main_token("acme")));
        assert_eq!(answer.status, 405);
        assert!(answer.code().starts_with("route."), "{answer:?}");
        assert!(answer.header("allow").is_some_and(|v| v.contains("GET")), "{answer:?}");
    }
}

#[test]
fn another_host_than_the_connections_is_421() {
    for protocol in Protocol::BOTH {
        let request = Request::get("/public").host("nowhere.invalid");
        let answer = world().gateway.ask(protocol, &request);
        assert_eq!(answer.status, 421, "{answer:?}");
        assert!(answer.code().starts_with("route."), "{answer:?}");
    }
}

#[test]
fn a_body_over_the_limit_is_413_declared_or_counted() {
    let over = vec![b'a'; (1 << 20) + 1];
    let request = Request::post("/public", &over).header("Content-Type", "application/octet-stream");
    let answer = world().gateway.send(&request);
    assert_eq!((answer.status, answer.code().as_str()), (413, "waf.body_too_large"));
    assert!(world().upstream.saw(&request.mark).is_none());
    let counted =
        Request::new("POST", "/public").header("Content-Type", "application/octet-stream").chunked(&over, 65_536);
    let answer = world().gateway.send(&counted);
    assert_eq!((answer.status, answer.code().as_str()), (413, "waf.body_too_large"));
    assert!(!world().upstream.saw(&counted.mark).is_some_and(|seen| seen.complete));
    let edge = Request::post("/public", &over[1..]).header("Content-Type", "application/octet-stream");
    assert_eq!(world().gateway.send(&edge).status, 200);
    assert_eq!(world().upstream.seen_whole(&edge.mark).body.len(), 1 << 20);
}

#[test]
fn a_declared_body_over_the_limit_is_refused_before_it_is_sent() {
    let mut client = world().gateway.h1();
    let request = Request::new("POST", "/public").header("Content-Length", "1048577").header("Expect", "100-continue");
    client.send(request.h1_head());
    let answer = client.head().expect("an answer before the body");
    assert_eq!(answer.status, 413);
    assert!(world().upstream.saw(&request.mark).is_none());
}

#[test]
fn a_content_encoding_is_415() {
    for protocol in Protocol::BOTH {
        for coding in ["gzip", "br", "zstd", "deflate", "x-unknown", "gzip, identity"] {
            let request =
                Request::post("/public", "x").header("Content-Encoding", coding).header("Content-Type", "text/plain");
            refused(protocol, &request, 415, "waf.content_encoding");
        }
        let request =
            Request::post("/public", "x").header("Content-Encoding", "identity").header("Content-Type", "text/plain");
        assert_eq!(world().gateway.ask(protocol, &request).status, 200);
    }
}

#[test]
fn a_target_over_8_kib_is_414() {
    let of = |length: usize| format!("/public?q={}", "a".repeat(length - "/public?q=".len()));
    for protocol in Protocol::BOTH {
        assert_eq!(world().gateway.ask(protocol, &Request::get(of(8192))).status, 200);
        let answer = world().gateway.ask(protocol, &Request::get(of(8193)));
        assert_eq!(answer.status, 414, "{answer:?}");
        assert!(answer.code().starts_with("request."), "{answer:?}");
    }
}

#[test]
fn a_malformed_authorization_is_400() {
    for protocol in Protocol::BOTH {
        let answer = world().gateway.ask(protocol, &Request::get("/v1/orders").header("Authorization", "Bearer a b"));
        assert_eq!(answer.status, 400);
        assert!(answer.code().starts_with("authentication."), "{answer:?}");
    }
}

#[test]
fn keys_that_were_never_there_are_503_and_nobody_elses_problem() {
    let setup =
        Setup::new(&world().upstream).set("issuers.main.keys", r#"{ jwks_url = "https://localhost:1/jwks.json" }"#);
    let gateway = setup.launch();
    let request = Request::get("/v1/orders").bearer(main_token("acme"));
    let answer = gateway.send(&request);
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.header("retry-after").is_some_and(|v| v.parse::<u32>().is_ok_and(|s| s >= 1)), "{answer:?}");
    assert_eq!(answer.code(), "gateway.unavailable");
    assert!(world().upstream.saw(&request.mark).is_none());
    let key = gateway.key("acme").to_owned();
    assert_eq!(gateway.send(&Request::get("/v1/orders").header("X-Api-Key", key)).status, 200);
    assert_eq!(gateway.send(&Request::get("/local").bearer(portcullis_tests::tokens::local_token("acme"))).status, 200);
}

#[test]
fn a_refusal_tells_nothing_about_what_is_behind() {
    for request in [
        Request::get("/v1/orders"),
        Request::get("/nowhere"),
        Request::get("/v1/orders").bearer("x"),
        Request::get("/public/.."),
        Request::post("/public", "x").header("Content-Encoding", "gzip"),
    ] {
        let answer = world().gateway.send(&request);
        let problem = answer.problem();
        let members: Vec<&str> = problem.as_object().expect("an object").keys().map(String::as_str).collect();
        let known = ["type", "title", "status", "code", "request_id", "detail", "instance", "violated-policies"];
        assert!(members.iter().all(|member| known.contains(member)), "{members:?}");
        let all = format!("{answer:?}").to_ascii_lowercase();
        for word in ["pingora", "rustls", "127.0.0.1", "jwks", "main-1", "upstream", "panicked"] {
            assert!(!all.contains(word), "{word} in {all}");
        }
    }
}
