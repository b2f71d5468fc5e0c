//! THREATS A15 to A19: the form of header fields, trailers, and their bounds.

use portcullis_tests::{
    Protocol, Request,
    tokens::{Token, main_key, main_token},
};

use crate::{EVIL, clean, world};

#[test]
fn hdr_15_a_malformed_field_line_is_refused() {
    for line in [
        "X-Portcullis-Tenant : evil\r\n",
        "X-A: b\r\n folded\r\n",
        " X-A: b\r\n",
        ": empty\r\n",
        "X-A: b\rX-B: c\r\n",
        "X-A b\r\n",
    ] {
        let bytes = format!("GET /public HTTP/1.1\r\nHost: api.example.test\r\n{line}\r\n");
        assert_eq!(world().raw(bytes), Some(400), "{line:?}");
        let bytes = format!("GET /public HTTP/1.1\r\n{line}Host: api.example.test\r\n\r\n");
        assert_eq!(world().raw(bytes), Some(400), "first: {line:?}");
    }
}

#[test]
fn hdr_15_a_bare_line_feed_is_refused() {
    for bytes in [
        "GET /public HTTP/1.1\nHost: api.example.test\n\n",
        "GET /public HTTP/1.1\r\nHost: api.example.test\nX-A: b\r\n\r\n",
        "GET /public HTTP/1.1\r\nHost: api.example.test\r\n\n",
    ] {
        assert_eq!(world().raw(bytes), Some(400), "{bytes:?}");
    }
}

#[test]
fn hdr_16_a_control_character_in_a_value_is_refused() {
    for value in [&b"b\0c"[..], b"b\x01c", b"b\x0bc", b"b\x1bc", b"b\x7fc"] {
        world().refuses_both(400, &Request::get("/public").header("X-A", value));
    }
}

#[test]
fn hdr_17_a_claim_cannot_add_a_line_or_an_element() {
    for subject in ["a\r\nX-Role: admin", "users,admin", "赵", "a b", "%0d%0aX-Role: admin"] {
        let request = Request::get("/v1/orders").bearer(Token::main("acme").claim("sub", subject).sign(main_key()));
        match world().gateway.status(Protocol::H1, &request) {
            Some(200) => {
                let seen = world().upstream.seen(&request.mark);
                assert!(seen.folded("x-role").is_empty(), "{seen:?}");
                let value = seen.header("x-portcullis-subject").expect("a verified caller has a subject");
                assert!(value.bytes().all(|b| (0x21..0x7f).contains(&b) && b != b','), "{value:?}");
            }
            other => assert_eq!(other, Some(401), "{subject:?}"),
        }
    }
}

#[test]
fn hdr_17_a_tenant_outside_the_grammar_is_no_tenant() {
    for tenant in ["__system__", "ACME", "acme,globex", "acme\r\nX-Role: admin", "", "identity", &"a".repeat(64)] {
        world().refuses_both(401, &Request::get("/v1/orders").bearer(main_token(tenant)));
    }
}

#[test]
fn hdr_18_identity_in_trailers_is_dropped() {
    let request = Request::new("POST", "/v1/orders")
        .bearer(main_token("acme"))
        .header("Transfer-Encoding", "chunked")
        .header("Trailer", "X-Portcullis-Tenant");
    let mut client = world().gateway.h1();
    client.send(request.h1_head());
    client.send(format!("3\r\nabc\r\n0\r\nX-Portcullis-Tenant: {EVIL}\r\n\r\n"));
    let status = client.answer().map(|a| a.status);
    if status == Some(200) {
        let seen = world().upstream.seen_whole(&request.mark);
        clean(&seen);
        assert_eq!(seen.body, b"abc");
    } else {
        assert_eq!(status, Some(400));
    }
}

#[test]
fn hdr_18_identity_in_http2_trailers_is_dropped() {
    let request = Request::new("POST", "/v1/orders").bearer(main_token("acme"));
    let mut connection = world().gateway.h2();
    let mut open = connection.open(&request).expect("the stream opens");
    open.data(b"abc").expect("the body is taken");
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-portcullis-tenant", http::HeaderValue::from_static(EVIL));
    open.finish(Some(trailers)).expect("the trailers are taken");
    assert_eq!(open.answer().expect("an answer").status, 200);
    let seen = world().upstream.seen_whole(&request.mark);
    clean(&seen);
    assert_eq!(seen.body, b"abc");
}

#[test]
fn hdr_19_a_hundred_fields_pass_and_one_more_does_not() {
    // Host and X-Mark are two of them.
    let with = |count: usize| (0..count - 2).fold(Request::get("/public"), |r, i| r.header(format!("X-F{i}"), "v"));
    world().admits(Protocol::H1, &with(100));
    world().refuses(Protocol::H1, 431, &with(101));
    world().refuses(Protocol::H1, 431, &with(250));
    world().refuses(Protocol::H2, 431, &with(250));
}

#[test]
fn hdr_19_a_head_of_32_kib_passes_and_one_byte_more_does_not() {
    let of = |bytes: usize| {
        let request = Request::get("/public");
        let frame = request.h1_head().len() + "X-Fill: \r\n".len();
        request.header("X-Fill", "f".repeat(bytes - frame))
    };
    assert_eq!(of(32 << 10).h1_head().len(), 32 << 10);
    world().admits(Protocol::H1, &of(32 << 10));
    world().refuses(Protocol::H1, 431, &of((32 << 10) + 1));
    world().refuses(Protocol::H1, 431, &of(64 << 10));
    world().refuses(Protocol::H2, 431, &of(48 << 10));
}
