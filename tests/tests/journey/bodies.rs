//! Bodies: judged before the upstream sees them, counted, and not waited for without end.

use std::{io::Write as _, time::Duration};

use portcullis_tests::{Answer, H1, Protocol, Request, Setup, Upstream, tokens::main_token};
use serde_json::json;

use crate::world;

#[track_caller]
fn judged(request: &Request, status: u16, code: &str) {
    for protocol in Protocol::BOTH {
        let mut request = request.clone();
        request.mark = portcullis_tests::request::mark();
        let answer = world().gateway.ask(protocol, &request);
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{protocol:?} {answer:?}");
        assert!(world().upstream.saw(&request.mark).is_none(), "{protocol:?}: the upstream saw it");
    }
}

#[track_caller]
fn passes(request: &Request) {
    for protocol in Protocol::BOTH {
        let mut request = request.clone();
        request.mark = portcullis_tests::request::mark();
        let answer = world().gateway.ask(protocol, &request);
        assert_eq!(answer.status, 200, "{protocol:?} {answer:?}");
        if let Some(body) = Some(&request.body).filter(|body| !body.is_empty()) {
            assert!(&world().upstream.seen_whole(&request.mark).body == body);
        }
    }
}

fn urls(count: usize) -> String {
    (0..count).map(|i| format!("see https://a{i}.example.com/x ")).collect()
}

fn phones(count: usize) -> String {
    (0..count).map(|i| format!("call +44 20 7946 01{i:02} or ")).collect()
}

fn form(value: &str) -> Request {
    let encoded: String = value.bytes().map(|b| format!("%{b:02x}")).collect();
    Request::post("/public", format!("a=b&text={encoded}")).header("Content-Type", "application/x-www-form-urlencoded")
}

fn multipart(value: &str) -> Request {
    let body = format!("--bound\r\nContent-Disposition: form-data; name=\"t\"\r\n\r\n{value}\r\n--bound--\r\n");
    Request::post("/public", body).header("Content-Type", "multipart/form-data; boundary=bound")
}

fn query(value: &str) -> Request {
    let encoded: String = value.bytes().map(|b| if b == b' ' { "+".to_owned() } else { format!("%{b:02x}") }).collect();
    Request::get(format!("/public?q={encoded}"))
}

fn text(value: &str) -> Request {
    Request::post("/public", value).header("Content-Type", "text/plain")
}

#[test]
fn five_urls_pass_and_six_do_not_wherever_they_stand() {
    passes(&Request::post("/public", "").json(&json!({"t": urls(5)})));
    judged(&Request::post("/public", "").json(&json!({"t": urls(6)})), 403, "waf.urls");
    judged(&Request::post("/public", "").json(&json!({"t": [urls(3), {"deep": urls(3)}]})), 403, "waf.urls");
    passes(&form(&urls(5)));
    judged(&form(&urls(6)), 403, "waf.urls");
    passes(&multipart(&urls(5)));
    judged(&multipart(&urls(6)), 403, "waf.urls");
    passes(&text(&urls(5)));
    judged(&text(&urls(6)), 403, "waf.urls");
    passes(&query(&urls(5)));
    judged(&query(&urls(6)), 403, "waf.urls");
    let both = Request::post(format!("/public?q={}", "https%3A%2F%2Fq.example.com+".repeat(3)), urls(3));
    judged(&both.header("Content-Type", "text/plain"), 403, "waf.urls");
}

#[test]
fn three_phone_numbers_pass_and_four_do_not() {
    passes(&Request::post("/public", "").json(&json!({"t": phones(3)})));
    judged(&Request::post("/public", "").json(&json!({"t": phones(4)})), 403, "waf.phones");
    passes(&text(&phones(3)));
    judged(&text(&phones(4)), 403, "waf.phones");
    judged(&query(&phones(4)), 403, "waf.phones");
}

#[test]
fn a_value_of_8192_characters_passes_and_one_more_does_not() {
    for letter in ["a", "é", "赵"] {
        passes(&Request::post("/public", "").json(&json!({"t": letter.repeat(8192)})));
        judged(&Request::post("/public", "").json(&json!({"t": letter.repeat(8193)})), 403, "waf.chars");
    }
    judged(&text(&"a".repeat(8193)), 403, "waf.chars");
    // Many values, none of them too long.
    passes(&Request::post("/public", "").json(&json!({"t": vec!["a".repeat(8192); 7]})));
}

#[test]
fn what_is_no_utf8_is_refused_where_it_is_text() {
    judged(&Request::post("/public", b"a\xffb").header("Content-Type", "text/plain"), 400, "waf.not_utf8");
    judged(
        &Request::post("/public", b"{\"a\":\"\xc3\x28\"}").header("Content-Type", "application/json"),
        400,
        "waf.not_utf8",
    );
    judged(
        &Request::post("/public", "a=%ff").header("Content-Type", "application/x-www-form-urlencoded"),
        400,
        "waf.not_utf8",
    );
    passes(&Request::post("/public", b"a\xffb").header("Content-Type", "application/octet-stream"));
}

#[test]
fn what_cannot_be_parsed_is_refused_where_it_must_be_looked_into() {
    for body in ["{", "{\"a\":}", "{\"a\":1}x", "\"", "{\"a\":\"\\x\"}", "nope"] {
        judged(&Request::post("/public", body).header("Content-Type", "application/json"), 400, "waf.malformed_body");
    }
    judged(
        &Request::post("/public", "a=%zz").header("Content-Type", "application/x-www-form-urlencoded"),
        400,
        "waf.malformed_body",
    );
    judged(
        &Request::post("/public", "no boundary").header("Content-Type", "multipart/form-data; boundary=b"),
        400,
        "waf.malformed_body",
    );
    let deep = format!("{}1{}", "[".repeat(33), "]".repeat(33));
    judged(&Request::post("/public", deep).header("Content-Type", "application/json"), 400, "waf.too_deep");
}

/// A JSON body of exactly `size` bytes that breaks a limit in its last bytes when it is `bad`.
fn sized(size: usize, bad: bool) -> Vec<u8> {
    let end = if bad { urls(6) } else { String::new() };
    let mut items = String::new();
    let frame = "[\"\"]".len() + end.len();
    let mut left = size - frame;
    while left > 8000 {
        items.push_str(&format!("\"{}\",", "a".repeat(7997)));
        left -= 8000;
    }
    let body = format!("[{items}\"{}{end}\"]", "b".repeat(left));
    assert_eq!(body.len(), size);
    body.into_bytes()
}

const JUDGED: usize = 64 << 10;

#[test]
fn a_body_of_64_kib_is_judged_to_its_last_byte_before_the_upstream_sees_anything() {
    for size in [JUDGED - 1, JUDGED] {
        let good = Request::post("/public", sized(size, false)).header("Content-Type", "application/json");
        passes(&good);
        judged(
            &Request::post("/public", sized(size, true)).header("Content-Type", "application/json"),
            403,
            "waf.urls",
        );
    }
    for bad in [false, true] {
        let request = Request::new("POST", "/public")
            .header("Content-Type", "application/json")
            .chunked(sized(JUDGED, bad), 5000);
        let answer = world().gateway.send(&request);
        assert_eq!(answer.status, if bad { 403 } else { 200 }, "{answer:?}");
        assert_eq!(world().upstream.saw(&request.mark).is_some(), !bad);
    }
}

#[test]
fn of_an_http2_body_without_a_length_the_upstream_sees_no_byte_before_it_is_judged() {
    for size in [1000, 40 << 10, 60 << 10, JUDGED, 70 << 10, 80 << 10, 200 << 10] {
        for bad in [false, true] {
            let request = Request::new("POST", "/public").header("Content-Type", "application/json");
            let mut client = world().gateway.h2();
            let mut open = client.open(&request).expect("a stream");
            let sent = open.data(&sized(size, bad)).and_then(|()| open.finish(None));
            let answer = sent.and_then(|()| open.answer()).expect("an answer");
            assert_eq!(answer.status, if bad { 403 } else { 200 }, "{size}: {answer:?}");
            if bad {
                assert!(world().upstream.saw(&request.mark).is_none_or(|seen| seen.body.is_empty() && !seen.complete));
            } else {
                assert_eq!(world().upstream.seen_whole(&request.mark).body.len(), size);
            }
        }
    }
}

#[test]
fn of_a_larger_body_the_upstream_sees_no_byte_before_it_is_judged() {
    for size in [JUDGED + 1, JUDGED * 2, 1 << 20] {
        passes(&Request::post("/public", sized(size, false)).header("Content-Type", "application/json"));
        for protocol in Protocol::BOTH {
            let request = Request::post("/public", sized(size, true)).header("Content-Type", "application/json");
            let answer = world().gateway.ask(protocol, &request);
            assert_eq!((answer.status, answer.code().as_str()), (403, "waf.urls"), "{protocol:?} {answer:?}");
            if let Some(seen) = world().upstream.saw(&request.mark) {
                assert!(
                    seen.body.is_empty() && !seen.complete,
                    "{protocol:?}: {} bytes of {size} went out",
                    seen.body.len()
                );
            }
        }
    }
}

#[test]
fn expect_is_answered_by_the_gateway_and_not_forwarded() {
    let request = Request::new("POST", "/v1/orders")
        .bearer(main_token("acme"))
        .header("Content-Type", "text/plain")
        .header("Content-Length", "5")
        .header("Expect", "100-continue");
    let mut client = world().gateway.h1();
    client.send(request.h1_head());
    assert_eq!(client.head().map(|a| a.status), Some(100));
    client.send("hello");
    assert_eq!(client.answer().map(|a| a.status), Some(200));
    let seen = world().upstream.seen_whole(&request.mark);
    assert_eq!((seen.header("expect"), seen.body.as_slice()), (None, &b"hello"[..]));
}

#[test]
fn expect_is_no_way_to_learn_whether_a_body_would_be_taken_without_a_credential() {
    let mut client = world().gateway.h1();
    client.send(
        Request::new("POST", "/v1/orders").header("Content-Length", "5").header("Expect", "100-continue").h1_head(),
    );
    assert_eq!(client.head().map(|a| a.status), Some(401));
    let other = Request::post("/public", "x").header("Content-Type", "text/plain").header("Expect", "200-maybe");
    let answer = world().gateway.send(&other);
    assert_eq!(answer.status, 417, "{answer:?}");
}

/// The code of a body that did not come in time.
const LATE: &str = "request.body_timeout";

#[test]
fn a_slow_head_and_a_slow_body_are_cut() {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream)
        .with("[listeners.public.bounds]\nhead_timeout = \"700ms\"\nbody_timeout = \"300ms\"\nidle_timeout = \"900ms\"")
        .start();
    let patience = Duration::from_secs(10);
    // A head that is dripped.
    let mut client = gateway.h1();
    client.send("GET /public HTTP/1.1\r\nHost: api.example.test\r\n");
    assert!(
        ends(&mut client, patience, |wire| wire.write_all(b"X-A: b\r\n").is_ok()).is_none_or(|status| status == 408)
    );
    // A body that never ends.
    let request = Request::new("POST", "/public").header("Content-Type", "text/plain").header("Content-Length", "1000");
    let mut client = gateway.h1();
    client.send([request.h1_head(), b"a".to_vec()].concat());
    assert_eq!(client.answer().map(|answer: Answer| (answer.status, answer.code())), Some((408, LATE.to_owned())));
    // A body that is dripped inside the pause that is allowed, for ten times as long in all.
    let request =
        Request::new("POST", "/public").header("Content-Type", "text/plain").header("Content-Length", "100000");
    let mut client = gateway.h1();
    client.send(request.h1_head());
    assert!(ends(&mut client, patience, |wire| wire.write_all(b"a").is_ok()).is_none_or(|status| status == 408));
    // Both are in the record as what they are, whether or not the client could still read it.
    let late = || gateway.access_log().iter().filter(|line| line.contains(LATE)).count();
    portcullis_tests::wait_for("two lines of late bodies", || (late() == 2).then_some(()));
    assert!(!upstream.saw(&request.mark).is_some_and(|seen| seen.complete));
    // A connection that says nothing.
    let mut client = gateway.h1();
    assert!(client.closes_within(patience));
    // And one that says nothing more.
    let mut client = gateway.h1();
    client.send(Request::get("/public").h1());
    assert_eq!(client.answer().map(|a| a.status), Some(200));
    assert!(client.closes_within(patience));
}

/// Keeps dripping until the gateway ends it; the status that it said, if it said one.
fn ends(
    client: &mut H1,
    patience: Duration,
    mut drip: impl FnMut(&mut portcullis_tests::dial::Wire) -> bool,
) -> Option<u16> {
    let start = std::time::Instant::now();
    client.drip(Duration::from_millis(100), |wire| {
        assert!(start.elapsed() < patience, "it goes on for ever");
        drip(wire)
    });
    client.answer().map(|answer| answer.status)
}

#[test]
fn a_slow_http2_body_is_cut_too() {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream).with("[listeners.public.bounds]\nbody_timeout = \"300ms\"").start();
    let request = Request::new("POST", "/public").header("Content-Type", "text/plain");
    let mut connection = gateway.h2();
    let mut open = connection.open(&request).expect("the stream opens");
    open.data(b"a").expect("a piece is taken");
    // Nothing more is sent: an answer or a reset comes all the same.
    if let Ok(answer) = open.answer() {
        assert_eq!(answer.status, 408, "{answer:?}");
    }
    // The connection ends with it, so what the client could not read is in the record.
    let line = gateway.line_where(|line| line["status"] == 408).expect("a line of a late body");
    assert_eq!(line["code"], LATE, "{line}");
    assert!(!upstream.saw(&request.mark).is_some_and(|seen| seen.complete));
}

#[test]
fn a_client_that_takes_its_request_back_is_no_fault_of_the_gateway() {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream).start();
    let request = Request::new("POST", "/public").header("Content-Type", "text/plain");
    let mut connection = gateway.h2();
    let mut open = connection.open(&request).expect("the stream opens");
    open.data(b"a").expect("a piece is taken");
    drop(open);
    let line = gateway.line_where(|line| line["method"] == "POST").expect("a line of the request");
    assert_eq!(line["status"], 499, "{line}");
}
