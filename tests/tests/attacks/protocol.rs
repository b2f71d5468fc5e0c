//! THREATS C: framing, upgrades, methods, and what differs between protocols.

use std::time::Duration;

use portcullis_tests::{
    Protocol, Request,
    tokens::{local_token, main_token},
};

use crate::{headers::handshake, world};

#[test]
fn prt_01_an_upgrade_is_no_way_past_the_gateway() {
    let smuggled = Request::get("/v1/orders");
    for (path, upgrade) in [("/public", "foo"), ("/public", "websocket"), ("/ws", "foo"), ("/ws", "foo, websocket")] {
        let first = Request::get(path)
            .bearer(main_token("acme"))
            .header("Connection", "Upgrade")
            .header("Upgrade", upgrade)
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
        let mut client = world().gateway.h1();
        client.send([first.h1(), smuggled.h1()].concat());
        let status = client.answer().map(|a| a.status);
        assert_ne!(status, Some(101), "{path} {upgrade}");
        if let Some(seen) = world().upstream.saw(&first.mark) {
            assert_eq!(seen.header("upgrade"), None, "{path} {upgrade}");
        }
        assert!(world().upstream.saw(&smuggled.mark).is_none(), "{path} {upgrade}: the second request went through");
    }
}

#[test]
fn prt_01_a_websocket_handshake_is_only_for_websocket_routes() {
    let request = handshake("/v1/orders").bearer(main_token("acme"));
    let status = world().gateway.status(Protocol::H1, &request);
    assert_ne!(status, Some(101));
    if let Some(seen) = world().upstream.saw(&request.mark) {
        assert_eq!(seen.header("upgrade"), None);
    }
}

#[test]
fn prt_02_h2c_is_never_upgraded_to() {
    let request = Request::get("/public")
        .header("Connection", "Upgrade, HTTP2-Settings")
        .header("Upgrade", "h2c")
        .header("HTTP2-Settings", "AAMAAABkAAQAAP__");
    let status = world().gateway.status(Protocol::H1, &request);
    assert_ne!(status, Some(101));
    if let Some(seen) = world().upstream.saw(&request.mark) {
        assert_eq!((seen.header("upgrade"), seen.header("http2-settings")), (None, None));
    }
}

#[test]
fn prt_03_framing_in_doubt_is_refused_and_the_connection_closed() {
    for (lines, body) in [
        ("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "0\r\n\r\n"),
        ("Content-Length: 3\r\nContent-Length: 3\r\n", "abc"),
        ("Content-Length: 3\r\nContent-Length: 4\r\n", "abc"),
        ("Content-Length: 3, 3\r\n", "abc"),
        ("Content-Length: +3\r\n", "abc"),
        ("Content-Length: 0x3\r\n", "abc"),
        ("Content-Length: -1\r\n", ""),
        ("Content-Length: 3 3\r\n", "abc"),
        ("Content-Length: 99999999999999999999999\r\n", "abc"),
        ("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: identity\r\n", ""),
        ("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
    ] {
        let smuggled = Request::get("/public");
        let head = format!("POST /public HTTP/1.1\r\nHost: api.example.test\r\n{lines}\r\n{body}");
        let mut client = world().gateway.h1();
        client.send([head.into_bytes(), smuggled.h1()].concat());
        assert_eq!(client.answer().map(|a| a.status), Some(400), "{lines:?}");
        assert!(client.closes_within(Duration::from_secs(10)), "{lines:?}: the connection goes on");
        assert!(world().upstream.saw(&smuggled.mark).is_none(), "{lines:?}: the rest was read as a request");
    }
}

#[test]
fn prt_03_a_malformed_chunk_is_refused() {
    for body in
        ["2\nab\r\n0\r\n\r\n", "0x2\r\nab\r\n0\r\n\r\n", "zz\r\nab\r\n0\r\n\r\n", "-1\r\n\r\n", "2\r\nabc\r\n0\r\n\r\n"]
    {
        let request = Request::new("POST", "/public").header("Transfer-Encoding", "chunked");
        let mut client = world().gateway.h1();
        client.send([request.h1_head(), body.as_bytes().to_vec()].concat());
        assert_eq!(client.answer().map(|a| a.status), Some(400), "{body:?}");
        assert!(client.closes_within(Duration::from_secs(10)), "{body:?}");
    }
}

#[test]
fn prt_03_other_versions_of_http_are_refused() {
    for line in [
        "GET /public",
        "GET /public HTTP/0.9",
        "GET /public HTTP/1.2",
        "GET /public HTTP/2.0",
        "GET /public HTTP/1.1 x",
    ] {
        let status = world().raw(format!("{line}\r\nHost: api.example.test\r\n\r\n"));
        assert!(matches!(status, Some(400 | 505)), "{line:?} {status:?}");
    }
    let with_te = "POST /public HTTP/1.0\r\nHost: api.example.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(world().raw(with_te), Some(400));
}

#[test]
fn prt_03_http2_whose_length_is_not_its_bodys_is_refused() {
    for length in ["2", "4"] {
        let mut request = Request::new("POST", "/public").header("Content-Length", length);
        request.body = b"abc".to_vec();
        let status = world().gateway.status(Protocol::H2, &request);
        assert_ne!(status, Some(200), "{length}");
        assert!(!world().upstream.saw(&request.mark).is_some_and(|seen| seen.complete), "{length}");
    }
}

#[test]
fn prt_03_an_empty_end_of_an_http2_body_leaves_no_second_terminator_behind() {
    // Pingora issue 935: the next request on the pooled connection would be answered with a stray 400.
    for _ in 0..4 {
        let request = Request::new("POST", "/public");
        let mut connection = world().gateway.h2();
        let mut open = connection.open(&request).expect("the stream opens");
        open.data(b"abc").expect("the body is taken");
        open.finish(None).expect("the body ends");
        assert_eq!(open.answer().expect("an answer").status, 200);
        assert_eq!(world().upstream.seen_whole(&request.mark).body, b"abc");
    }
    assert_eq!(world().gateway.send(&Request::get("/public")).status, 200);
}

#[test]
fn prt_04_connect_is_405() {
    for target in ["api.example.test:443", "/public"] {
        let mut client = world().gateway.h1();
        client.send(format!("CONNECT {target} HTTP/1.1\r\nHost: api.example.test\r\n\r\n"));
        let answer = client.answer().expect("an answer");
        assert_eq!((answer.status, &*answer.code()), (405, "request.connect"), "{target}");
        assert!(client.answer().is_none(), "what follows is not read");
    }
    let request = Request::new("CONNECT", "/public");
    let answer = world().gateway.ask(Protocol::H2, &request);
    assert_eq!((answer.status, &*answer.code(), answer.header("server")), (405, "request.connect", None));
    assert!(world().upstream.saw(&request.mark).is_none());
}

#[test]
fn prt_05_a_method_that_the_route_does_not_list_is_405_with_those_that_it_does() {
    for protocol in Protocol::BOTH {
        for method in ["TRACE", "TRACK", "get", "JEFF", "PATCH", "PROPFIND"] {
            let request = Request::new(method, "/v1/orders").bearer(main_token("acme"));
            world().refuses(protocol, 405, &request);
        }
        let answer = world().gateway.ask(protocol, &Request::new("PATCH", "/v1/orders").bearer(main_token("acme")));
        let mut allowed: Vec<&str> = answer.header("allow").expect("405 says what is allowed").split(", ").collect();
        allowed.sort_unstable();
        let allowed: Vec<&str> = allowed.into_iter().filter(|m| !matches!(*m, "HEAD" | "OPTIONS")).collect();
        assert_eq!(allowed, ["DELETE", "GET", "POST", "PUT"]);
    }
}

#[test]
fn prt_06_options_is_authenticated_unless_it_is_a_true_preflight() {
    for protocol in Protocol::BOTH {
        let options = || Request::new("OPTIONS", "/options");
        world().refuses(protocol, 401, &options());
        world().refuses(protocol, 401, &options().header("Origin", "https://app.example.test"));
        world().refuses(protocol, 401, &options().header("Access-Control-Request-Method", "GET"));
        world().admits(protocol, &options().bearer(main_token("acme")));
        world().refuses(protocol, 405, &Request::new("OPTIONS", "/v1/orders"));
    }
}

#[test]
fn prt_06_a_preflight_never_reaches_the_upstream() {
    for protocol in Protocol::BOTH {
        let request = Request::new("OPTIONS", "/api")
            .host("cors.example.test")
            .header("Origin", "https://app.example.test")
            .header("Access-Control-Request-Method", "GET");
        assert_eq!(world().gateway.status(protocol, &request), Some(204));
        assert!(world().upstream.saw(&request.mark).is_none());
    }
}

#[test]
fn prt_07_head_is_treated_as_get() {
    for protocol in Protocol::BOTH {
        world().refuses(protocol, 401, &Request::new("HEAD", "/v1/orders"));
        world().refuses(protocol, 403, &Request::new("HEAD", "/v1/admin").bearer(main_token("acme")));
        let seen = world().admits(protocol, &Request::new("HEAD", "/v1/orders").bearer(main_token("acme")));
        assert!(seen.request_line().starts_with("HEAD "));
    }
}

#[test]
fn prt_09_another_site_cannot_open_a_websocket_with_a_cookie() {
    let with = |origin: Option<&str>| {
        let request = handshake("/ws").header("Cookie", format!("__Host-session={}", local_token("acme")));
        origin.into_iter().fold(request, |request, origin| request.header("Origin", origin))
    };
    for origin in ["https://evil.example.test", "null", "https://api.example.test.evil.test", "http://api.example.test"]
    {
        world().refuses(Protocol::H1, 403, &with(Some(origin)));
    }
    world().refuses(Protocol::H1, 403, &with(None));
    let request = with(Some("https://api.example.test"));
    let mut client = world().gateway.h1();
    client.send(request.h1());
    assert_eq!(client.answer().map(|a| a.status), Some(101));
    assert_eq!(world().upstream.seen(&request.mark).header("cookie"), None);
}

#[test]
fn prt_10_early_data_is_not_claimed() {
    for protocol in Protocol::BOTH {
        let seen = world().admits(protocol, &Request::get("/public").header("Early-Data", "1"));
        assert_eq!(seen.header("early-data"), None);
    }
}

#[test]
fn prt_12_split_cookies_are_one_cookie_line() {
    let seen = world().admits(Protocol::H2, &Request::get("/public").header("Cookie", "a=1").header("Cookie", "b=2"));
    assert_eq!(seen.header("cookie").as_deref(), Some("a=1; b=2"));
    let request = Request::get("/app")
        .header("Cookie", "a=1")
        .header("Cookie", format!("__Host-session={}", local_token("acme")))
        .header("Cookie", "b=2");
    let seen = world().admits(Protocol::H2, &request);
    assert_eq!(seen.header("cookie").as_deref(), Some("a=1; b=2"));
}
