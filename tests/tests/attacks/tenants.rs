//! THREATS I1 to I4: tenants.

use portcullis_tests::{
    Answer, Protocol, Request, Token,
    tokens::{main_key, main_token},
};

use crate::world;

#[test]
fn ten_01_the_tenant_in_a_path_must_be_the_verified_one() {
    for protocol in Protocol::BOTH {
        let seen = world().admits(protocol, &Request::get("/t/acme/things/1").bearer(main_token("acme")));
        assert_eq!(seen.header("x-portcullis-tenant").as_deref(), Some("acme"));
        for victim in ["globex", "ACME", "acme%20", "ac%6de", "nobody", "%61cme"] {
            let request = Request::get(format!("/t/{victim}/things/1")).bearer(main_token("acme"));
            let status = world().gateway.status(protocol, &request);
            assert!(matches!(status, Some(404 | 400)), "{victim} {status:?}");
            assert!(world().upstream.saw(&request.mark).is_none());
        }
        world().refuses(
            protocol,
            404,
            &Request::get("/t/acme/things").header("X-Api-Key", world().gateway.key("globex")),
        );
    }
}

#[test]
fn ten_01_a_host_of_one_tenant_is_not_there_for_another() {
    for protocol in Protocol::BOTH {
        let orders = || Request::get("/v1/orders").host("fixed.example.test");
        let seen = world().admits(protocol, &orders().bearer(main_token("globex")));
        assert_eq!(seen.header("x-portcullis-tenant").as_deref(), Some("globex"));
        world().refuses(protocol, 404, &orders().bearer(main_token("acme")));
        world().refuses(protocol, 404, &orders().header("X-Api-Key", world().gateway.key("acme")));
        world().refuses(protocol, 404, &orders().bearer(main_token("acme")).header("X-Tenant-Id", "globex"));
    }
}

#[test]
fn ten_02_a_reserved_tenant_is_no_tenant() {
    for tenant in ["system", "default", "unknown", "any", "none", "admin", "portcullis", "__system__"] {
        world().refuses_both(401, &Request::get("/v1/orders").bearer(main_token(tenant)));
    }
}

/// An answer without what is different every time.
fn constant(answer: &Answer) -> (u16, Vec<(String, String)>, String) {
    let id = answer.request_id();
    let mut headers: Vec<(String, String)> = answer
        .headers
        .iter()
        .filter(|(n, _)| !matches!(n.to_ascii_lowercase().as_str(), "date" | "x-request-id"))
        .cloned()
        .collect();
    headers.sort();
    (answer.status, headers, answer.text().replace(&id, "ID"))
}

#[test]
fn ten_03_what_belongs_to_another_tenant_looks_like_nothing() {
    for protocol in Protocol::BOTH {
        let of = |request: Request| constant(&world().gateway.ask(protocol, &request));
        let unknown = of(Request::get("/there/is/nothing").bearer(main_token("acme")));
        assert_eq!(unknown.0, 404);
        assert_eq!(of(Request::get("/there/is/nothing")), unknown, "without a credential");
        assert_eq!(
            of(Request::get("/t/globex/things/1").bearer(main_token("acme"))),
            unknown,
            "a path of another tenant"
        );
        assert_eq!(of(Request::get("/t/nobody/things/1").bearer(main_token("acme"))), unknown, "a path of no tenant");
        let fixed = of(Request::get("/v1/orders").host("fixed.example.test").bearer(main_token("acme")));
        assert_eq!(fixed, unknown, "a host of another tenant");
        // A role or scope that would not suffice must not be told first.
        let viewer = Token::main("acme").claim("roles", "viewer").claim("scope", "").sign(main_key());
        assert_eq!(of(Request::get("/t/globex/things/1").bearer(viewer)), unknown, "with fewer rights");
    }
}

/// The head and body of a raw answer, with what is different every time masked where it has the length it always has.
fn masked(raw: &[u8]) -> Vec<u8> {
    let text = String::from_utf8(raw.to_vec()).expect("our answers are text");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head ends");
    let mut id = String::new();
    let lines: Vec<String> = head
        .split("\r\n")
        .map(|line| match line.split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("x-request-id") => {
                id = value.to_owned();
                assert_eq!(value.len(), 36, "{line}");
                format!("{name}: {}", "I".repeat(36))
            }
            Some((name, value)) if name.eq_ignore_ascii_case("date") => {
                assert_eq!(value.len(), 29, "{line}");
                format!("{name}: {}", "D".repeat(29))
            }
            _ => line.to_owned(),
        })
        .collect();
    format!("{}\r\n\r\n{}", lines.join("\r\n"), body.replace(&id, &"I".repeat(36))).into_bytes()
}

#[test]
fn ten_03_a_thousand_answers_to_what_is_not_there_are_the_same_bytes() {
    // Sent with a length and closed after each, so that a sample is every byte of the connection.
    let viewer = Token::main("acme").claim("roles", "viewer").claim("scope", "").sign(main_key());
    let full = main_token("acme");
    let fixed = |request: Request| request.host("fixed.example.test");
    for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let at = |path: &str| Request::new(method, path).header("Connection", "close");
        let mut kinds = vec![
            ("unknown, nobody", at("/there/is/nothing")),
            ("unknown, somebody", at("/there/is/nothing").bearer(&full)),
            ("unknown, long", at("/there/is/nothing/at/all/whatever/you/ask/for/0123456789").bearer(&full)),
            ("unknown, query", at("/nothing?tenant=globex").bearer(&full)),
        ];
        // What another tenant has, where the method is one that its route has: any other is 405 for everybody.
        if method == "GET" {
            kinds.push(("another tenant's path", at("/t/globex/things/1").bearer(&full)));
            kinds.push(("no tenant's path", at("/t/nobody/things/1").bearer(&full)));
            kinds.push(("another tenant's path, few rights", at("/t/globex/things/1").bearer(&viewer)));
            kinds.push(("an API key", at("/t/globex/things").header("X-Api-Key", world().gateway.key("acme"))));
        }
        if matches!(method, "GET" | "POST") {
            kinds.push(("another tenant's host", fixed(at("/v1/orders")).bearer(&full)));
            kinds.push(("another tenant's host, few rights", fixed(at("/v1/orders")).bearer(&viewer)));
        }
        let samples = if method == "GET" { 1000 } else { 60 };
        let mut first: Option<Vec<u8>> = None;
        for (what, request) in kinds.iter().cycle().take(samples) {
            let raw = world().gateway.raw(request);
            let answer = masked(&raw);
            assert!(answer.starts_with(b"HTTP/1.1 404 "), "{method} {what}: {}", String::from_utf8_lossy(&answer));
            let expected = first.get_or_insert_with(|| answer.clone());
            assert!(
                answer == *expected,
                "{method} {what}:\n{}\nbut the first was\n{}",
                String::from_utf8_lossy(&answer),
                String::from_utf8_lossy(expected)
            );
            assert!(world().upstream.saw(&request.mark).is_none(), "{what}");
        }
    }
}
