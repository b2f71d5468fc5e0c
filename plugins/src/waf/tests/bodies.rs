//! What a body says it is, and whether it is that.

use super::super::{JSON_DEPTH_MAX, JSON_ELEMENTS_MAX, JSON_MEMBERS_MAX, JSON_VALUES_MAX, PARTS_MAX, VALUES_MAX};
use super::*;

const LINK: &str = "http://evil.com";

/// Admits no URL, so that a single one shows that a body was inspected.
fn strict() -> Waf {
    compiled(&Settings { urls_max: At::nowhere(0), ..site() })
}

fn post(content_type: &str, body: impl AsRef<[u8]>) -> &'static str {
    code(ask(&strict(), "", &[("content-type", content_type)], Body::Whole(body.as_ref())))
}

#[test]
fn text_is_inspected_whatever_its_type() {
    for kind in [
        "text/plain",
        "TEXT/PLAIN; charset=UTF-8",
        "text/html",
        "text/csv",
        "application/xml",
        "application/soap+xml",
        "application/javascript",
        "application/x-ndjson",
        "application/unheard-of",
        "multipart/mixed; boundary=a",
    ] {
        assert_eq!(post(kind, LINK), "waf.urls", "{kind}");
    }
    assert_eq!(code(ask(&strict(), "", &[], Body::Whole(LINK.as_bytes()))), "waf.urls");
}

#[test]
fn binary_types_are_judged_by_size_only() {
    for kind in [
        "image/png",
        "video/mp4",
        "audio/ogg",
        "font/woff2",
        "application/octet-stream",
        "application/protobuf",
        "application/grpc",
        "application/grpc+proto",
    ] {
        assert_eq!(post(kind, LINK), "pass", "{kind}");
    }
    for kind in ["application/pdf", "application/zip"] {
        assert_eq!(post(kind, b"http://evil.com\xff"), "pass", "{kind}");
    }
    assert_eq!(code(ask(&strict(), "", &[], Body::Whole(b"\xff"))), "pass");
}

#[test]
fn text_that_is_no_utf8_is_refused() {
    for (kind, body) in [
        ("text/plain", &b"\xff"[..]),
        ("application/json", b"\"\xc0\xaf\""),
        ("application/x-www-form-urlencoded", b"a=%FF"),
        ("application/x-www-form-urlencoded", b"a=\xed\xa0\x80"),
        ("text/plain; charset=utf-16", b"h"),
        ("application/json; charset=latin1", b"1"),
    ] {
        assert_eq!(post(kind, body), "waf.not_utf8", "{kind}");
    }
    assert_eq!(code(ask(&strict(), "q=%ff", &[], Body::Absent)), "waf.not_utf8");
}

#[test]
fn an_encoded_body_is_refused_and_told_what_would_pass() {
    for value in ["gzip", "br", "x", "identity, gzip", "GZIP"] {
        let answer = ask(&strict(), "", &[("content-encoding", value)], Body::Whole(b"a")).unwrap_err();
        assert_eq!((answer.code().name, answer.code().status), ("waf.content_encoding", 415));
        let mut headers = HeaderMap::new();
        answer.headers(&mut headers);
        assert_eq!(headers["accept-encoding"], "identity");
        assert!(ask(&strict(), "", &[("content-encoding", value)], Body::Later { declared: None }).is_err());
        assert!(ask(&strict(), "", &[("content-encoding", value)], Body::Absent).is_ok());
    }
    assert!(ask(&strict(), "", &[("content-encoding", "Identity")], Body::Whole(b"a")).is_ok());
    let twice = [("content-encoding", "identity"), ("content-encoding", "gzip")];
    assert!(ask(&strict(), "", &twice, Body::Whole(b"a")).is_err());
}

#[test]
fn two_content_types_are_refused() {
    let twice = [("content-type", "image/png"), ("content-type", "application/json")];
    assert_eq!(code(ask(&strict(), "", &twice, Body::Whole(b"1"))), "waf.malformed_body");
}

#[test]
fn a_body_of_a_type_that_cannot_be_read_is_refused_before_it_comes() {
    for kind in ["nonsense", "", "application/json, text/plain", "application/x-www-form-urlencoded x"] {
        let headers = [("content-type", kind)];
        for body in [Body::Whole(b"a=b"), Body::Later { declared: None }] {
            let deny = ask(&strict(), "", &headers, body).unwrap_err();
            assert_eq!((deny.code().name, deny.code().status), ("waf.content_type", 415), "{kind}");
        }
        // Nothing is there to be read in two ways.
        assert_eq!(code(ask(&strict(), "", &headers, Body::Absent)), "pass", "{kind}");
    }
}

#[test]
fn a_body_to_come_is_pending_where_its_content_matters() {
    let later =
        |kind: &str| ask(&strict(), "", &[("content-type", kind)], Body::Later { declared: None }).unwrap().pending;
    assert!(later("application/json") && later("application/pdf"));
    assert!(!later("image/png"));
    let waf = strict();
    assert!(ask(&waf, "", &[], Body::Later { declared: Some(9) }).unwrap().pending);
    assert!(!ask(&waf, "", &[], Body::Later { declared: Some(0) }).unwrap().pending);
    assert!(!ask(&waf, "", &[], Body::Absent).unwrap().pending);
    assert!(!ask(&waf, "", &[("content-type", "application/json")], Body::Whole(b"")).unwrap().pending);
    assert_eq!(code(ask(&waf, "u=http://a.com", &[], Body::Later { declared: None })), "waf.urls");
}

#[test]
fn valid_json_passes_and_every_string_value_is_inspected() {
    for body in [
        "1",
        "-0.5e+10",
        "\"\"",
        "null",
        " [ ] ",
        "{}",
        r#"{"a":[true,false,null,{"b":"c"}]}"#,
        r#""\u00e9\ud83d\ude00\n\/""#,
        "\"\u{7f}é\"",
    ] {
        assert_eq!(post("application/json", body), "pass", "{body}");
    }
    for body in [
        r#""http://evil.com""#,
        r#"{"a":{"b":[1,["http://evil.com"]]}}"#,
        r#"{"a":"x","a":"http://evil.com"}"#,
        r#"{"a":"http://evil.com","a":"x"}"#,
        r#""http:\/\/evil.com""#,
        r#""\u0068ttp://evil.com""#,
        r#""\\u0068ttp://evil.com""#,
    ] {
        assert_eq!(post("application/vnd.api+json", body), "waf.urls", "{body}");
    }
}

#[test]
fn what_is_no_strict_json_is_refused() {
    for body in [
        " ",
        "{",
        "[",
        "\"",
        "[1,]",
        "{\"a\":1,}",
        "{a:1}",
        "{'a':1}",
        "[1 2]",
        "{\"a\" 1}",
        "{\"a\":}",
        "01",
        "-",
        "1.",
        ".5",
        "1e",
        "+1",
        "NaN",
        "tru",
        "nul",
        "1 1",
        "{} x",
        "\"a\nb\"",
        "\"\\x41\"",
        "\"\\u12\"",
        "\"\\ud800\"",
        "\"\\udc00\\ud800\"",
        "\"\\\"",
        "/**/1",
        "[1]//",
        "\u{feff}1",
        "]",
        "{\"a\":1]",
        "\"\\u00zz\"",
        "1\0",
    ] {
        assert_eq!(post("application/json", body), "waf.malformed_body", "{body:?}");
    }
    assert_eq!(detail(json(&strict(), r#"{"a":[1,}"#)), "no value where one must be in json.a[1] (byte 8)");
}

#[test]
fn json_is_bounded_in_depth_and_number() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(post("application/json", nested(JSON_DEPTH_MAX)), "pass");
    assert_eq!(post("application/json", nested(JSON_DEPTH_MAX + 1)), "waf.too_deep");
    assert_eq!(post("application/json", "[".repeat(100_000)), "waf.too_deep");
    let members = |count: usize| format!("{{{}}}", vec!["\"a\":1"; count].join(","));
    assert_eq!(post("application/json", members(JSON_MEMBERS_MAX)), "pass");
    assert_eq!(post("application/json", members(JSON_MEMBERS_MAX + 1)), "waf.too_many_values");
    let elements = |count: usize| format!("[{}]", vec!["1"; count].join(","));
    assert_eq!(post("application/json", elements(JSON_ELEMENTS_MAX)), "pass");
    assert_eq!(post("application/json", elements(JSON_ELEMENTS_MAX + 1)), "waf.too_many_values");
    let values = |count: usize| {
        // One for the outer array, one for each inner one and its elements.
        let inner = elements(JSON_ELEMENTS_MAX - 1);
        let full = count / JSON_ELEMENTS_MAX;
        format!("[{},{}]", vec![inner; full - 1].join(","), elements(count - (full - 1) * JSON_ELEMENTS_MAX - 2))
    };
    assert_eq!(post("application/json", values(JSON_VALUES_MAX)), "pass");
    assert_eq!(post("application/json", values(JSON_VALUES_MAX + 1)), "waf.too_many_values");
}

#[test]
fn forms_are_inspected_and_strict() {
    let form = |body: &str| post("application/x-www-form-urlencoded", body);
    for body in [
        "a=http://evil.com",
        "a=1&b=http%3A%2F%2Fevil.com",
        "http://evil.com",
        "a=x&a=http://evil.com",
        "=http://evil.com",
        "http://evil.com/=1",
        "a=1&http%3A%2F%2Fevil.com=",
    ] {
        assert_eq!(form(body), "waf.urls", "{body}");
    }
    for body in ["a=b&c=d", "&&", "a", "a=%41+b", "a==b"] {
        assert_eq!(form(body), "pass", "{body}");
    }
    for body in ["a=%", "a=%4", "a=%zz", "%=a"] {
        assert_eq!(form(body), "waf.malformed_body", "{body}");
    }
    assert_eq!(form(&vec!["a=b"; VALUES_MAX].join("&")), "pass");
    assert_eq!(form(&vec!["a=b"; VALUES_MAX + 1].join("&")), "waf.too_many_values");
}

#[test]
fn the_name_of_a_field_is_inspected_like_its_value_and_not_shown() {
    let waf = strict();
    let query = |query: &str| ask(&waf, query, &[], Body::Absent);
    for name in ["http://evil.com/=1", "http://evil.com/=", "a=1&%68ttp://evil.com/x=", "www.evil.example=1"] {
        assert_eq!(detail(query(name)), "1 URLs, at most 0; last in query.?", "{name}");
    }
    assert_eq!(code(query("%ff=1")), "waf.not_utf8");
    for name in ["user.name=1", "filter[created.at]=2", "a%5B%5D=1", "q.sort=-x", "_=1", "100%=1", "own.example=1"] {
        assert_eq!(code(query(name)), "pass", "{name}");
    }
    let both = compiled(&Settings { urls_max: At::nowhere(1), ..site() });
    assert_eq!(code(ask(&both, "http://evil.com/=http://evil.com/", &[], Body::Absent)), "waf.urls");
    let phones = compiled(&Settings { phones_max: At::nowhere(0), ..site() });
    assert_eq!(code(ask(&phones, "%2B442079460018=1", &[], Body::Absent)), "waf.phones");
    let part = |name: &str| parts(&[&format!("Content-Disposition: form-data; name=\"{name}\"\r\n\r\n1")]);
    assert_eq!(post(MULTIPART, part("http://evil.com/")), "waf.urls");
    assert_eq!(post(MULTIPART, part("user.name")), "pass");
    let long = compiled(&Settings { chars_max: At::nowhere(NonZeroU32::new(9).unwrap()), ..site() });
    assert_eq!(code(ask(&long, &format!("{}=1", "a".repeat(9)), &[], Body::Absent)), "pass");
    assert_eq!(code(ask(&long, &format!("{}=1", "a".repeat(10)), &[], Body::Absent)), "waf.chars");
    // The names of JSON members are the program's, not the writer's.
    assert_eq!(code(json(&waf, r#"{"http://evil.com/":1}"#)), "pass");
}

#[test]
fn a_stray_percent_in_a_query_is_text() {
    for query in ["q=100%", "q=%zz", "%", "a=%4"] {
        assert_eq!(code(ask(&strict(), query, &[], Body::Absent)), "pass", "{query}");
    }
    assert_eq!(
        detail(ask(&strict(), "q=100%&note=http://evil.com", &[], Body::Absent)),
        "1 URLs, at most 0; last in query.note"
    );
    let waf = compiled(&Settings { phones_max: At::nowhere(0), ..site() });
    assert_eq!(code(ask(&waf, "tel=+442079460018", &[], Body::Absent)), "waf.phones");
}

const MULTIPART: &str = "multipart/form-data; boundary=XX";

fn parts(parts: &[&str]) -> String {
    parts.iter().map(|part| format!("--XX\r\n{part}\r\n")).collect::<String>() + "--XX--\r\n"
}

#[test]
fn text_parts_are_inspected_and_files_are_not() {
    for part in [
        "Content-Disposition: form-data; name=\"note\"\r\n\r\nhttp://evil.com",
        "content-disposition:form-data;name=note\r\n\r\nhttp://evil.com",
        "Content-Disposition: form-data; name=\"f\"; filename=\"\"\r\n\r\nhttp://evil.com",
        "Content-Disposition: form-data; name=\"f\"; filename*=UTF-8''a.png\r\n\r\nhttp://evil.com",
        "Content-Disposition: form-data; name=\"f\"; filename=\"a.txt\"\r\nContent-Type: text/plain\r\n\r\nhttp://evil.com",
        "Content-Disposition: form-data; name=\"f\"\r\nContent-Type: image/png\r\n\r\nhttp://evil.com",
        "Content-Disposition: form-data; name=\"j\"\r\nContent-Type: application/json\r\n\r\n[\"http://evil.com\"]",
    ] {
        assert_eq!(
            post(MULTIPART, parts(&["Content-Disposition: form-data; name=a\r\n\r\n1", part])),
            "waf.urls",
            "{part}"
        );
    }
    for part in [
        "Content-Disposition: form-data; name=\"f\"; filename=\"a.png\"\r\nContent-Type: image/png\r\n\r\nhttp://evil.com",
        "Content-Disposition: form-data; name=\"f\"; filename=\"a.bin\"\r\n\r\nhttp://evil.com",
        "Content-Disposition: form-data; name=\"f\"\r\n\r\n",
        "Content-Disposition: form-data; name=\"f\"\r\nContent-Transfer-Encoding: 8bit\r\n\r\na\r\nb",
    ] {
        assert_eq!(post(MULTIPART, parts(&[part])), "pass", "{part}");
    }
    let waf = strict();
    let body = parts(&["Content-Disposition: form-data; name=\"note\"\r\n\r\nhttp://evil.com"]);
    let answer = ask(&waf, "", &[("content-type", MULTIPART)], Body::Whole(body.as_bytes()));
    assert_eq!(detail(answer), "1 URLs, at most 0; last in multipart.note");
}

#[test]
fn a_multipart_body_that_could_be_read_in_two_ways_is_refused() {
    let field = "Content-Disposition: form-data; name=\"a\"\r\n\r\n1";
    for body in [
        String::from("x"),
        "--XX--x".into(),
        format!("preamble\r\n{}", parts(&[field])),
        format!("{}epilogue", parts(&[field])),
        format!("--XX\n{field}\r\n--XX--"),
        format!("--XX \r\n{field}\r\n--XX--"),
        format!("--XX\r\n{field}\n--XX--"),
        format!("--XX\r\n{field}\r\n--XX"),
        format!("--XX\r\n{field}\r\n"),
        parts(&[
            "Content-Disposition: form-data; name=\"a\"\r\n\r\n1\n--XX\nContent-Disposition: form-data; name=\"b\"\n\n2",
        ]),
        parts(&["Content-Disposition: form-data; name=\"a\"\r\n\r\n--XXX"]),
        parts(&["Content-Disposition: form-data; name=\"a\""]),
        parts(&["Content-Disposition: form-data\r\n\r\n1"]),
        parts(&["Content-Disposition: attachment; name=\"a\"\r\n\r\n1"]),
        parts(&["\r\n1"]),
        parts(&["Content-Type: text/plain\r\n\r\n1"]),
        parts(&["Content-Disposition: form-data; name=a; name=b\r\n\r\n1"]),
        parts(&["Content-Disposition: form-data; name=a; filename=b; filename=c\r\n\r\n1"]),
        parts(&["Content-Disposition: form-data; name=\"a\\\"; filename=\\\"b\"\r\n\r\n1"]),
        parts(&["Content-Disposition: form-data; name=a\r\nContent-Disposition: form-data; name=b\r\n\r\n1"]),
        parts(&["Content-Disposition: form-data;\r\n name=a\r\n\r\n1"]),
        parts(&["Content-Disposition : form-data; name=a\r\n\r\n1"]),
        parts(&["Content-Disposition: form-data; name=a\r\nContent-Transfer-Encoding: base64\r\n\r\n1"]),
        parts(&["Content-Disposition: form-data; name=a\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n1"]),
        parts(&["Content-Disposition: form-data; name=a\r\nContent-Type: application/json, text/plain\r\n\r\n1"]),
        parts(&["Content-Disposition: form-data; name=a\r\nContent-Type: text/plain\r\nContent-Type: a/b\r\n\r\n1"]),
    ] {
        assert_eq!(post(MULTIPART, &body), "waf.malformed_body", "{body:?}");
    }
    assert_eq!(post(MULTIPART, parts(&[field])), "pass");
    // What a browser sends for an empty form.
    assert_eq!(post(MULTIPART, "--XX--\r\n"), "pass");
    assert_eq!(
        post(MULTIPART, parts(&["Content-Disposition: form-data; name=a\r\n\r\n\u{fffd}"]).replace('\u{fffd}', "é")),
        "pass"
    );
    let mut latin = parts(&[field]).into_bytes();
    let last = latin.iter().rposition(|&c| c == b'1').unwrap();
    latin[last] = 0xe9;
    assert_eq!(post(MULTIPART, latin), "waf.not_utf8");
    assert_eq!(post(MULTIPART, parts(&vec![field; PARTS_MAX])), "pass");
    assert_eq!(post(MULTIPART, parts(&vec![field; PARTS_MAX + 1])), "waf.too_many_values");
}

#[test]
fn a_refusal_shows_nothing_of_the_value() {
    let waf = strict();
    for body in [r#"{"secret":"http://evil.com/token"}"#, r#"{"http://evil.com/token":{"x":"http://evil.com/token"}}"#]
    {
        let shown = format!("{}{:?}", detail(json(&waf, body)), json(&waf, body));
        assert!(!shown.contains("evil.com") && !shown.contains("http:"), "{shown}");
    }
}
