//! Header spoofing and normalisation: THREATS A.

use super::*;

#[test]
fn hdr_02_a_name_with_an_underscore_is_refused() {
    for line in ["X_Portcullis_Tenant: victim", "X-Tenant_Id: v", "_: v", "x_mine: v"] {
        refused("field_name", fields(&[line]));
    }
    refused("field_name", H2 { fields: &[("x_tenant_id", "v")], ..H2 }.read());
    accepted(fields(&["X-Mine-2: v"]));
}

#[test]
fn hdr_03_a_name_with_any_other_token_byte_is_refused() {
    for byte in "!#$%&'*+.^_`|~".chars() {
        refused("field_name", fields(&[&format!("X{byte}Portcullis-Tenant: v")]));
    }
    refused("field_name", fields(&["x.tenant.id: v"]));
    refused("field_name", H2 { fields: &[("x.tenant.id", "v")], ..H2 }.read());
    // Two hyphens are letters of the grammar; the fold catches them, and the header is stripped.
    accepted(fields(&["x-portcullis--tenant: v"]));
    assert!(crate::reserved::is_reserved("x-portcullis--tenant"));
}

#[test]
fn hdr_04_a_singleton_that_comes_twice_is_refused_even_when_both_are_equal() {
    for (name, value) in [
        ("Authorization", "Bearer a"),
        ("Content-Type", "text/plain"),
        ("X-Api-Key", "k"),
        ("Origin", "https://a.example"),
        ("Expect", "100-continue"),
        ("Host", "a.example"),
        ("Access-Control-Request-Method", "GET"),
        ("Sec-Fetch-Site", "same-origin"),
        ("Sec-Fetch-Mode", "navigate"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Version", "13"),
    ] {
        let (one, other) = (format!("{name}: {value}"), format!("{}:{value}", name.to_ascii_lowercase()));
        refused("repeated_field", fields(&[&one, "Accept: */*", &other]));
    }
    refused("content_length", with("POST", "/x", &["Content-Length: 5", "Content-Length: 5"]));
    refused("repeated_field", H2 { fields: &[("authorization", "a"), ("authorization", "a")], ..H2 }.read());
    accepted(fields(&["Cookie: a=1", "Cookie: b=2", "X-Role: user", "X-Role: admin", "Accept: a", "Accept: b"]));
    accepted(H2 { fields: &[("cookie", "a=1"), ("cookie", "b=2")], ..H2 }.read());
}

#[test]
fn hdr_05_connection_may_not_remove_what_somebody_relies_on() {
    for option in [
        "X-Portcullis-Tenant",
        "x-portcullis-anything",
        "Authorization",
        "Cookie",
        "X-Real-IP",
        "Forwarded",
        "Host",
        "Content-Length",
        "Content-Type",
        "X-Api-Key",
        "X-Forwarded-For",
        "X-Request-Id",
        "X-Tenant-Id",
        "Origin",
        "Transfer-Encoding",
        "Expect",
        "Sec-WebSocket-Key",
    ] {
        for line in [
            format!("Connection: close, {option}"),
            format!("Connection: {}", option.to_ascii_uppercase()),
            format!("connection: ,,\t{option} ,close").replace('\t', " "),
        ] {
            refused("connection", fields(&[&line]));
        }
        refused("connection", fields(&["Connection: keep-alive", &format!("Connection: {option}")]));
    }
}

#[test]
fn hdr_05_connection_options_are_plain_names_and_at_most_nine() {
    for option in ["\"X-Forwarded-For\"", "X_Portcullis_Tenant", ":authority", "a b", "x;q=1", "caf\u{e9}", "x\ty"] {
        assert!(
            ["connection", "field_value"].contains(&said(&fields(&[&format!("Connection: {option}")]))),
            "{option}"
        );
    }
    let options = |count: usize| format!("Connection: {}", vec!["x-a"; count].join(","));
    accepted(fields(&[&options(9)]));
    refused("connection", fields(&[&options(10)]));
    refused("connection", fields(&[&options(5), &options(5)]));
    accepted(fields(&["Connection: keep-alive, TE, Upgrade, HTTP2-Settings", "TE: trailers"]));
    accepted(fields(&["Connection: close, X-Hop"]));
    accepted(fields(&["Connection: "]));
}

#[test]
fn hdr_05_http2_has_no_connection_specific_fields() {
    for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"] {
        refused("connection", H2 { fields: &[(name, "close")], ..H2 }.read());
    }
    refused("connection", H2 { fields: &[("te", "gzip")], ..H2 }.read());
    refused("connection", H2 { fields: &[("te", "trailers, gzip")], ..H2 }.read());
    accepted(H2 { fields: &[("te", "trailers")], ..H2 }.read());
}

#[test]
fn hdr_15_blanks_and_folds_around_a_name_are_refused() {
    for line in ["X-A : v", "X-A\t: v", " X-A: v", "\tX-A: v", ": v", "X-A", " ", "folded"] {
        refused("field_line", fields(&[line]));
    }
    refused("field_line", fields(&["X-A: b", " c: d"]));
    refused("field_line", h1("GET /x HTTP/1.1\r\n Host: a.example\r\n\r\n"));
    refused("field_name", fields(&["X A: v"]));
    refused("field_line", h1("GET /x HTTP/1.1\r\nHost: a.example\r\n\r\nX-A: b\r\n\r\n"));
}

#[test]
fn hdr_15_a_line_ends_in_cr_lf_and_nothing_else() {
    for raw in [
        "GET /x HTTP/1.1\nHost: a.example\n\n",
        "GET /x HTTP/1.1\r\nHost: a.example\n\r\n",
        "GET /x HTTP/1.1\r\nHost: a.example\r\n\n",
        "GET /x HTTP/1.1\r\nHost: a.example\rX-A: b\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: a.example\r\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: a.example\r\n",
        "GET /x HTTP/1.1\r\nHost: a.example",
        "",
    ] {
        refused("line_end", h1(raw));
    }
}

#[test]
fn hdr_16_control_bytes_in_a_value_are_refused() {
    for byte in (0..=0x1f).chain([0x7f]).filter(|byte| ![b'\t', b'\n', b'\r'].contains(byte)) {
        let mut raw = b"GET /x HTTP/1.1\r\nHost: a.example\r\nX-A: b".to_vec();
        raw.extend([byte, b'c']);
        raw.extend(b"\r\n\r\n");
        refused("field_value", h1(raw));
    }
    accepted(fields(&["X-A: b\tc"]));
}

#[test]
fn hdr_16_values_that_decide_are_visible_ascii() {
    for name in [
        "Authorization",
        "Content-Type",
        "Cookie",
        "Origin",
        "X-Forwarded-For",
        "X-Api-Key",
        "Expect",
        "Connection",
        "Content-Encoding",
        "Sec-Fetch-Site",
    ] {
        refused("field_value", fields(&[&format!("{name}: a\u{e9}")]));
        refused("field_value", fields(&[&format!("{name}: a\tb")]));
    }
    refused("field_value", host("caf\u{e9}.example"));
    refused("field_value", H2 { fields: &[("cookie", "a=\u{e9}")], ..H2 }.read());
    accepted(fields(&["User-Agent: caf\u{e9}", "X-Mine: \u{8d75}"]));
}

#[test]
fn hdr_18_a_trailer_may_not_announce_identity() {
    for name in ["X-Portcullis-Tenant", "Authorization", "Content-Length", "x_portcullis_tenant", "\"a\""] {
        refused("trailer", fields(&[&format!("Trailer: grpc-status, {name}")]));
    }
    accepted(fields(&["Trailer: Grpc-Status, X-Checksum", "TE: trailers"]));
}

/// A head of exactly this many bytes.
fn head_of(bytes: usize) -> String {
    let empty = "GET /x HTTP/1.1\r\nHost: a.example\r\nX-A: \r\n\r\n";
    empty.replace("X-A: ", &format!("X-A: {}", "a".repeat(bytes.checked_sub(empty.len()).unwrap())))
}

#[test]
fn hdr_19_a_head_has_bounds_in_bytes_and_fields_and_target() {
    accepted(h1(head_of(BOUNDS.head_bytes_max)));
    refused("head_too_large", h1(head_of(BOUNDS.head_bytes_max + 1)));

    let many = |count: usize| vec!["X-A: b"; count - 1];
    accepted(fields(&many(BOUNDS.fields_max)));
    refused("too_many_fields", fields(&many(BOUNDS.fields_max + 1)));

    let target = |bytes: usize| format!("/{}", "a".repeat(bytes - 1));
    accepted(get(&target(BOUNDS.target_bytes_max)));
    refused("target_too_long", get(&target(BOUNDS.target_bytes_max + 1)));

    let statuses =
        [h1(head_of(40_000)), fields(&many(200)), get(&target(9000))].map(|it| it.unwrap_err().code().status);
    assert_eq!(statuses, [431, 431, 414]);
}

#[test]
fn hdr_19_http2_is_measured_as_it_would_be_written_on_http1() {
    // target 2, name 3, value, 4 around it
    let value = |bytes: usize| "a".repeat(bytes - 9);
    accepted(H2 { fields: &[("x-a", &value(BOUNDS.head_bytes_max))], ..H2 }.read());
    refused("head_too_large", H2 { fields: &[("x-a", &value(BOUNDS.head_bytes_max + 1))], ..H2 }.read());
    refused("too_many_fields", H2 { fields: &[("x-a", "b"); 101], ..H2 }.read());
    accepted(H2 { fields: &[("x-a", "b"); 100], ..H2 }.read());
}
