//! The upstream receives the identity that was verified, and no credential.

use portcullis_tests::{
    Protocol, Request, Seen, Token,
    tokens::{local_token, main_key, main_token},
};

use crate::world;

fn admitted(protocol: Protocol, request: &Request) -> Seen {
    let answer = world().gateway.ask(protocol, request);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.body, if request.method == "HEAD" { &b""[..] } else { b"ok\n" });
    world().upstream.seen_whole(&request.mark)
}

fn names(seen: &Seen) -> Vec<String> {
    let mut names: Vec<String> = seen.fields().into_iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    names.sort();
    names
}

#[test]
fn a_bearer_token_becomes_an_identity_and_the_head_holds_nothing_else() {
    for protocol in Protocol::BOTH {
        let request = Request::get("/v1/orders/7?a=b%20c&d").bearer(main_token("acme")).header("Accept", "*/*");
        let answer = world().gateway.ask(protocol, &request);
        assert_eq!(answer.status, 200, "{answer:?}");
        let seen = world().upstream.seen(&request.mark);
        assert_eq!(seen.request_line(), "GET /v1/orders/7?a=b%20c&d HTTP/1.1");
        let field = |name: &str| seen.header(name);
        assert_eq!(field("host").as_deref(), Some("api.example.test"));
        assert_eq!(field("accept").as_deref(), Some("*/*"));
        assert_eq!(field("x-portcullis-tenant").as_deref(), Some("acme"));
        assert_eq!(field("x-portcullis-subject").as_deref(), Some("main:user-1"));
        assert_eq!(field("x-portcullis-kind").as_deref(), Some("user"));
        assert_eq!(field("x-portcullis-role").as_deref(), Some("developer"));
        assert_eq!(field("x-portcullis-scopes").as_deref(), Some("orders"));
        assert_eq!(field("x-forwarded-for").as_deref(), Some("127.0.0.1"));
        assert_eq!(field("x-forwarded-proto").as_deref(), Some("https"));
        assert_eq!(field("x-forwarded-host").as_deref(), Some("api.example.test"));
        assert_eq!(field("x-request-id"), Some(answer.request_id()));
        let known = [
            "accept",
            "connection",
            "host",
            "via",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-port",
            "x-forwarded-proto",
            "x-mark",
            "x-portcullis-kind",
            "x-portcullis-role",
            "x-portcullis-scopes",
            "x-portcullis-subject",
            "x-portcullis-tenant",
            "x-request-id",
        ];
        let names = names(&seen);
        let unknown: Vec<&String> = names.iter().filter(|name| !known.contains(&name.as_str())).collect();
        assert!(unknown.is_empty(), "the upstream also saw {unknown:?}");
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "something is there twice: {names:?}");
    }
}

#[test]
fn an_api_key_becomes_an_identity_wherever_it_stands() {
    let key = world().gateway.key("acme");
    for protocol in Protocol::BOTH {
        for request in [Request::get("/v1/orders").header("X-Api-Key", key), Request::get("/v1/orders").bearer(key)] {
            let seen = admitted(protocol, &request);
            assert_eq!(seen.header("x-portcullis-tenant").as_deref(), Some("acme"));
            assert_eq!(seen.header("x-portcullis-kind").as_deref(), Some("apikey"));
            assert_eq!(seen.header("x-portcullis-env").as_deref(), Some("live"));
            assert_eq!(seen.header("x-portcullis-role").as_deref(), Some("developer"));
            assert_eq!(seen.header("x-portcullis-scopes").as_deref(), Some("orders"));
            let id = key.split('_').nth(2).expect("a key has an id");
            assert!(seen.header("x-portcullis-subject").is_some_and(|subject| subject.contains(id)), "{seen:?}");
            assert!(!String::from_utf8_lossy(&seen.head).contains(key));
        }
    }
}

#[test]
fn a_session_cookie_becomes_an_identity_and_other_cookies_pass() {
    let token = local_token("globex");
    for protocol in Protocol::BOTH {
        let request = Request::get("/app").header("Cookie", format!("theme=dark; __Host-session={token}; lang=en"));
        let seen = admitted(protocol, &request);
        assert_eq!(seen.header("x-portcullis-tenant").as_deref(), Some("globex"));
        assert_eq!(seen.header("x-portcullis-subject").as_deref(), Some("local:user-1"));
        assert_eq!(seen.header("cookie").as_deref(), Some("theme=dark; lang=en"));
    }
    let request = Request::get("/app").header("Cookie", format!("__Host-session={token}"));
    assert_eq!(admitted(Protocol::H1, &request).header("cookie"), None);
}

#[test]
fn a_public_route_is_anonymous_and_says_so() {
    for protocol in Protocol::BOTH {
        let seen = admitted(protocol, &Request::get("/public"));
        assert_eq!(seen.header("x-portcullis-kind").as_deref(), Some("anonymous"));
        assert!(seen.fields().iter().all(|(name, _)| {
            !name.to_ascii_lowercase().starts_with("x-portcullis-") || name.eq_ignore_ascii_case("x-portcullis-kind")
        }));
    }
}

#[test]
fn credentials_are_removed_unless_the_route_says_that_they_pass() {
    let (token, key) = (main_token("acme"), world().gateway.key("acme"));
    for protocol in Protocol::BOTH {
        let seen = admitted(protocol, &Request::get("/v1/orders").bearer(&token));
        assert_eq!(seen.header("authorization"), None);
        let seen = admitted(protocol, &Request::get("/forward").bearer(&token));
        assert_eq!(seen.header("authorization"), Some(format!("Bearer {token}")));
        assert_eq!(seen.header("x-portcullis-tenant").as_deref(), Some("acme"));
        let seen = admitted(protocol, &Request::get("/forward").header("X-Api-Key", key));
        assert_eq!(seen.header("x-api-key").as_deref(), Some(key));
        let cookie = format!("a=b; __Host-session={}", local_token("acme"));
        let seen = admitted(protocol, &Request::get("/forward").header("Cookie", &cookie));
        assert_eq!(seen.header("cookie"), Some(cookie));
    }
}

#[test]
fn head_is_forwarded_as_head_and_answered_without_a_body() {
    for protocol in Protocol::BOTH {
        let seen = admitted(protocol, &Request::new("HEAD", "/v1/orders").bearer(main_token("acme")));
        assert!(seen.request_line().starts_with("HEAD /v1/orders "));
    }
    // The connection goes on after it.
    let mut client = world().gateway.h1();
    client.send(Request::new("HEAD", "/public").h1());
    let answer = client.answer_to("HEAD").expect("an answer");
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("3")));
    client.send(Request::get("/public").h1());
    assert_eq!(client.answer().map(|a| a.status), Some(200));
}

#[test]
fn the_strongest_role_counts_and_an_unknown_one_is_none() {
    let with = |roles: serde_json::Value| {
        Request::get("/v1/orders").bearer(Token::main("acme").claim("roles", roles).sign(main_key()))
    };
    let role = |roles| admitted(Protocol::H1, &with(roles)).header("x-portcullis-role");
    assert_eq!(role(serde_json::json!("admin")).as_deref(), Some("admin"));
    assert_eq!(role(serde_json::json!(["viewer", "owner", "developer"])).as_deref(), Some("owner"));
    assert_eq!(role(serde_json::json!(["root"])), None);
    assert_eq!(role(serde_json::json!([])), None);
}

#[test]
fn a_subject_of_any_script_arrives_percent_encoded() {
    let request = Request::get("/v1/orders").bearer(Token::main("acme").claim("sub", "赵 1,2").sign(main_key()));
    let seen = admitted(Protocol::H1, &request);
    assert_eq!(seen.header("x-portcullis-subject").as_deref(), Some("main:%E8%B5%B5%201%2C2"));
}

#[test]
fn a_body_arrives_as_it_was_sent() {
    let body: Vec<u8> = (0..40_000_u32).map(|i| b"abcdefghij klmnop\n"[(i % 18) as usize]).collect();
    for protocol in Protocol::BOTH {
        let request = Request::post("/v1/orders", &body)
            .bearer(main_token("acme"))
            .header("Content-Type", "application/octet-stream");
        let seen = admitted(protocol, &request);
        assert!(seen.body == body, "{} bytes arrived", seen.body.len());
    }
    let request = Request::new("POST", "/v1/orders")
        .bearer(main_token("acme"))
        .header("Content-Type", "application/octet-stream")
        .chunked(&body, 1000);
    let seen = admitted(Protocol::H1, &request);
    assert!(seen.body == body, "{} bytes arrived", seen.body.len());
}

#[test]
fn one_connection_carries_many_requests_of_many_callers() {
    let mut client = world().gateway.h1();
    let mut connection = world().gateway.h2();
    for tenant in ["acme", "globex", "acme"] {
        let request = Request::get("/v1/orders").bearer(main_token(tenant));
        client.send(request.h1());
        assert_eq!(client.answer().map(|a| a.status), Some(200));
        assert_eq!(world().upstream.seen(&request.mark).header("x-portcullis-tenant").as_deref(), Some(tenant));
        let request = Request::get("/v1/orders").bearer(main_token(tenant));
        assert_eq!(connection.send(&request).expect("an answer").status, 200);
        assert_eq!(world().upstream.seen(&request.mark).header("x-portcullis-tenant").as_deref(), Some(tenant));
    }
}
