//! Protocol and framing: THREATS C.

use super::*;

fn post(lines: &[&str]) -> Outcome {
    with("POST", "/x", lines)
}

#[test]
fn prt_02_an_upgrade_to_anything_but_websocket_is_refused() {
    for protocol in ["h2c", "foo", "websocket, h2c", "TLS/1.0", ""] {
        let line = format!("Upgrade: {protocol}");
        refused("upgrade", fields(&["Connection: Upgrade, HTTP2-Settings", &line, "HTTP2-Settings: AAMAAABk"]));
    }
}

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";

#[test]
fn prt_01_a_whole_websocket_handshake_is_recognised() {
    for upgrade in ["Upgrade: websocket", "upgrade: WebSocket"] {
        let lines = ["Connection: keep-alive, Upgrade", upgrade, "Sec-WebSocket-Version: 13", KEY];
        assert_eq!(accepted(fields(&lines)).upgrade(), Upgrade::WebSocket);
    }
    // The option alone asks for nothing.
    assert_eq!(accepted(fields(&["Connection: upgrade"])).upgrade(), Upgrade::None);
}

#[test]
fn prt_01_a_websocket_handshake_with_a_part_missing_or_wrong_is_refused() {
    let whole = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", KEY];
    for missing in [0, 2, 3] {
        let mut lines = whole.to_vec();
        lines.remove(missing);
        refused("upgrade", fields(&lines));
    }
    for (at, wrong) in [
        (0, "Connection: close"),
        (0, "Connection: upgrades"),
        (2, "Sec-WebSocket-Version: 8"),
        (2, "Sec-WebSocket-Version: 13, 8"),
        (3, "Sec-WebSocket-Key: "),
        (3, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ"),
        (3, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZR=="),
        (3, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZTE="),
        (3, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZTEy"),
        (3, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25-ZQ=="),
    ] {
        let mut lines = whole;
        lines[at] = wrong;
        refused("upgrade", fields(&lines));
    }
    refused("upgrade", with("POST", "/x", &whole));
    let http10 = format!("GET /x HTTP/1.0\r\nHost: a.example\r\n{}\r\n\r\n", whole.join("\r\n"));
    refused("upgrade", h1(http10));
}

#[test]
fn prt_03_length_and_encoding_exclude_each_other() {
    refused("length_and_encoding", post(&["Content-Length: 5", "Transfer-Encoding: chunked"]));
    refused("length_and_encoding", post(&["transfer-encoding: chunked", "content-length: 0"]));
    refused("length_and_encoding", post(&["Content-Length: x", "Transfer-Encoding: gzip"]));
}

#[test]
fn prt_03_a_length_is_one_number() {
    for bad in ["", "+4", "-1", "0x2", "5, 5", "5,6", "5 5", "1e3", "5.0", "18446744073709551616", "\u{661}"] {
        assert!(
            ["content_length", "field_value"].contains(&said(&post(&[&format!("Content-Length: {bad}")]))),
            "{bad}"
        );
    }
    refused("content_length", post(&["Content-Length: 5", "Content-Length: 5"]));
    refused("content_length", post(&["Content-Length: 5", "Accept: */*", "CONTENT-LENGTH: 6"]));
    for (text, framing) in [
        ("5", Framing::Length(5)),
        ("  7  ", Framing::Length(7)),
        ("007", Framing::Length(7)),
        ("18446744073709551615", Framing::Length(u64::MAX)),
        ("0", Framing::None),
    ] {
        assert_eq!(accepted(post(&[&format!("Content-Length:{text}")])).framing(), framing);
    }
    assert_eq!(accepted(post(&[])).framing(), Framing::None);
}

#[test]
fn prt_03_an_encoding_is_exactly_one_chunked() {
    for bad in [
        "gzip, chunked",
        "chunked, identity",
        "chunked, chunked",
        "xchunked",
        "identity",
        "",
        "chunked;a=b",
        "\u{b}chunked",
        "\"chunked\"",
        "chunked,",
    ] {
        let said = said(&post(&[&format!("Transfer-Encoding: {bad}")]));
        assert!(["transfer_encoding", "field_value"].contains(&said), "{bad}: {said}");
    }
    refused("transfer_encoding", post(&["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"]));
    refused("transfer_encoding", post(&["Transfer-Encoding: gzip", "Transfer-Encoding: chunked"]));
    refused("transfer_encoding", h1("POST /x HTTP/1.0\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n"));
    assert_eq!(accepted(post(&["Transfer-Encoding: Chunked "])).framing(), Framing::Chunked);
}

#[test]
fn prt_03_http2_framing_agrees_with_the_stream() {
    let read = |fields, ended| H2 { method: "POST", fields, ended, ..H2 }.read();
    assert_eq!(accepted(read(&[], Ended::WithHead)).framing(), Framing::None);
    assert_eq!(accepted(read(&[], Ended::Open)).framing(), Framing::Chunked);
    assert_eq!(accepted(read(&[("content-length", "5")], Ended::Open)).framing(), Framing::Length(5));
    assert_eq!(accepted(read(&[("content-length", "0")], Ended::WithHead)).framing(), Framing::None);
    refused("content_length", read(&[("content-length", "5")], Ended::WithHead));
    refused("content_length", read(&[("content-length", "5"), ("content-length", "5")], Ended::Open));
    refused("content_length", read(&[("content-length", "5, 5")], Ended::Open));
}

#[test]
fn prt_03_a_body_on_get_head_or_options_is_refused() {
    for method in ["GET", "HEAD", "OPTIONS"] {
        refused("unexpected_body", with(method, "/x", &["Content-Length: 1"]));
        refused("unexpected_body", with(method, "/x", &["Transfer-Encoding: chunked"]));
        refused("unexpected_body", H2 { method, ended: Ended::Open, ..H2 }.read());
        accepted(with(method, "/x", &["Content-Length: 0"]));
    }
    for method in ["POST", "PUT", "PATCH", "DELETE", "QUERY"] {
        accepted(with(method, "/x", &["Content-Length: 1"]));
    }
}

#[test]
fn prt_03_the_request_line_has_three_parts_and_one_space_between_them() {
    for bad in [
        "GET  /x HTTP/1.1",
        "GET /x  HTTP/1.1",
        " GET /x HTTP/1.1",
        "GET /x HTTP/1.1 ",
        "GET\t/x HTTP/1.1",
        "GET /x",
        "GET /x HTTP/1.2",
        "GET /x HTTP/2.0",
        "GET /x http/1.1",
        "GET /x HTTP/0.9",
        "GET /x HTTP/1.1x",
        "/x",
        "GET",
    ] {
        refused("request_line", h1(format!("{bad}\r\nHost: a.example\r\n\r\n")));
    }
    refused("request_line", h1("\r\nGET /x HTTP/1.1\r\nHost: a.example\r\n\r\n"));
    refused("line_end", h1("\nGET /x HTTP/1.1\r\nHost: a.example\r\n\r\n"));
    accepted(h1("GET /x HTTP/1.0\r\nHost: a.example\r\n\r\n"));
}

#[test]
fn prt_03_what_was_parsed_must_be_what_was_on_the_wire() {
    let mut headers = HeaderMap::new();
    headers.insert("host", HeaderValue::from_static("a.example"));
    let head = |method, raw_target| {
        canonicalise(&Head {
            protocol: Protocol::Http1,
            method,
            raw_target,
            authority: None,
            scheme: None,
            headers: &headers,
            raw_h1: Some(b"GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n"),
            ended: Ended::Open,
            bounds: BOUNDS,
        })
    };
    accepted(head(&Method::GET, b"/x"));
    refused("request_line", head(&Method::GET, b"/"));
    refused("request_line", head(&Method::POST, b"/x"));
}

#[test]
fn prt_03_an_expectation_other_than_continue_is_417() {
    for expect in ["100-continue", "100-Continue"] {
        accepted(post(&["Content-Length: 5", &format!("Expect: {expect}")]));
    }
    for expect in ["foo", "100-continue, foo", "200-ok", ""] {
        let outcome = post(&[&format!("Expect: {expect}")]);
        assert_eq!(outcome.as_ref().unwrap_err().code().status, 417);
        refused("expectation", outcome);
    }
}

#[test]
fn prt_04_connect_is_405_in_every_form() {
    for target in ["a.example:80", "/x", "*", "http://a.example/"] {
        let outcome = with("CONNECT", target, &[]);
        assert_eq!(outcome.as_ref().unwrap_err().code().status, 405);
        refused("connect", outcome);
        refused("connect", H2 { method: "CONNECT", path: target, ..H2 }.read());
    }
}

#[test]
fn prt_05_other_methods_are_left_to_the_list_of_the_route() {
    for method in ["TRACE", "TRACK", "get", "JEFF"] {
        accepted(with(method, "/x", &[]));
        accepted(H2 { method, ..H2 }.read());
    }
}

#[test]
fn prt_http2_has_a_scheme_that_is_http_or_https() {
    for scheme in [Some("foo"), Some(""), None, Some("ws")] {
        refused("scheme", H2 { scheme, ..H2 }.read());
    }
    accepted(H2 { scheme: Some("http"), ..H2 }.read());
}
