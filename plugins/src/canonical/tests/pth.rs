//! Path, host and routing: THREATS B.

use super::*;

/// Refused over both protocols.
#[track_caller]
fn path(code: &str, path: &str) {
    refused(code, get(path));
    refused(code, H2 { path, ..H2 }.read());
}

/// Accepted over both protocols, and not a byte is changed.
#[track_caller]
fn kept(path: &str) {
    assert_eq!(accepted(get(path)).origin_form(), path);
    assert_eq!(accepted(H2 { path, ..H2 }.read()).origin_form(), path);
}

#[test]
fn pth_01_dot_segments_are_refused_never_resolved() {
    for bad in ["/public/../admin", "/..", "/.", "/./x", "/a/.", "/a/..", "/../", "/a/./b"] {
        path("dot_segment", bad);
    }
    for good in ["/...", "/.well-known/x", "/a..b", "/..a", "/a.", "/.a/b"] {
        kept(good);
    }
    kept("/x?q=/../admin");
}

#[test]
fn pth_02_encoded_dots_and_slashes_are_refused() {
    for bad in ["/%2e%2e/admin", "/%2E./x", "/.%2e/x", "/%2e", "/a/%2e%2E"] {
        path("dot_segment", bad);
    }
    for bad in ["/a%2fb", "/a%2Fb", "/%2f", "/a%3bb", "/a%3Bb", "/a%3fb"] {
        path("encoded_delimiter", bad);
    }
    path("backslash", "/a%5cb");
    path("backslash", "/a%5Cb");
}

#[test]
fn pth_03_a_path_that_is_encoded_twice_is_refused() {
    for bad in ["/%252e%252e/admin", "/%252f", "/%255c", "/%2500", "/%2561", "/%252525"] {
        path("double_encoding", bad);
    }
    // The digits of the inner triplet, encoded: caught as encoded digits.
    path("encoded_unreserved", "/%25%32%65");
    for good in ["/100%25", "/100%25-off", "/a%25%20b", "/%25zz", "/%252"] {
        kept(good);
    }
}

#[test]
fn pth_04_empty_segments_are_refused_and_a_trailing_slash_is_none() {
    for bad in ["//admin", "/a//b", "/a//", "//", "//evil.example/x"] {
        path("empty_segment", bad);
    }
    for good in ["/", "/a/", "/a/b/"] {
        kept(good);
    }
}

#[test]
fn pth_05_path_parameters_are_refused() {
    for bad in ["/public/..;/admin", "/admin;a=b", "/;", "/a;/b"] {
        path("path_parameter", bad);
    }
    kept("/x?a;b");
}

#[test]
fn pth_06_backslashes_are_refused() {
    for bad in ["/public\\..\\admin", "/\\evil.example", "/a\\"] {
        path("backslash", bad);
    }
    kept("/x?a\\b");
}

#[test]
fn pth_07_a_fragment_is_refused_raw_and_encoded() {
    refused("fragment", get("/public#/../admin"));
    refused("fragment", get("/#"));
    refused("fragment", get("/x?a#b"));
    path("encoded_delimiter", "/public%23/x");
    // Where the raw line is not there to show it, the target must not carry one either.
    refused("fragment", H2 { path: "/public#/x", ..H2 }.read());
    refused("fragment", H2 { path: "/x?a#b", ..H2 }.read());
}

#[test]
fn pth_08_letter_case_is_kept_for_the_route_to_judge() {
    kept("/ADMIN");
    kept("/a%C3%A9");
    kept("/a%c3%a9");
}

#[test]
fn pth_09_what_is_no_utf8_after_one_decode_is_refused() {
    for bad in [
        "/adm%ffin",
        "/%c0%ae",
        "/%c0%af",
        "/%e0%80%ae",
        "/%ed%a0%80",
        "/%f4%90%80%80",
        "/%80",
        "/%c3",
        "/%c3a",
        "/%c3%41",
        "/%e2%82",
        "/%f5%80%80%80",
    ] {
        path("path_utf8", bad);
    }
    for bad in ["/%", "/%4", "/%zz", "/%2", "/a%g0", "/%+1", "/%c3%", "/% 41"] {
        assert!(["percent_encoding", "path_utf8", "request_line"].contains(&said(&get(bad))), "{bad}");
    }
    path("percent_encoding", "/%zz");
    refused("path_byte", h1(b"GET /adm\xffin HTTP/1.1\r\nHost: a.example\r\n\r\n"));
    refused("path_byte", get("/caf\u{e9}"));
    refused("path_byte", H2 { path: "/caf\u{e9}", ..H2 }.read());
    for good in ["/caf%C3%A9", "/%e2%82%ac", "/%F0%9F%98%80", "/%e8%b5%b5%e8%b5%b5"] {
        kept(good);
    }
}

#[test]
fn pth_10_encoded_controls_are_refused() {
    for bad in ["/admin%00.css", "/%0a", "/%0D%0aX", "/%1f", "/%7f", "/%09", "/%c2%80", "/%C2%9F"] {
        path("encoded_control", bad);
    }
    kept("/%c2%a0");
}

#[test]
fn pth_11_the_query_is_no_part_of_the_path() {
    let read = accepted(get("/admin?x=/public"));
    assert_eq!((read.path(), read.query()), ("/admin", "x=/public"));
    let read = accepted(get("/admin?x=?y"));
    assert_eq!((read.path(), read.query()), ("/admin", "x=?y"));
    for bad in ["/x?caf\u{e9}", "/x?a\u{7f}", "/x?a\tb"] {
        refused("query_byte", get(bad));
        refused("query_byte", H2 { path: bad, ..H2 }.read());
    }
    refused("query_byte", H2 { path: "/x?a b", ..H2 }.read());
    kept("/x?a=%zz%00<>\"{}|^`[]");
}

#[test]
fn pth_an_encoded_unreserved_character_is_refused_and_an_encoded_reserved_one_is_kept() {
    for bad in ["/%61dmin", "/%41", "/a%2Db", "/a%5fb", "/%7E", "/v1%2e2", "/%30"] {
        path("encoded_unreserved", bad);
    }
    for good in ["/a%20b", "/a%2Bb", "/a%3Ab", "/a%40b", "/%22%3C%3E", "/a%7Cb"] {
        kept(good);
    }
}

#[test]
fn pth_a_byte_that_every_client_encodes_is_refused_raw() {
    for byte in "\"<>`{}\u{7f}\u{1}".chars() {
        refused("path_byte", get(&format!("/a{byte}b")));
        refused("path_byte", H2 { path: &format!("/a{byte}b"), ..H2 }.read());
    }
    refused("path_byte", H2 { path: "/a b", ..H2 }.read());
    kept("/-._~!$&'()*+,=:@[]|^");
}

#[test]
fn pth_16_an_absolute_form_target_is_rewritten_when_its_host_is_the_same() {
    for (target, origin) in [
        ("http://a.example/x?y", "/x?y"),
        ("HTTPS://A.Example./x", "/x"),
        ("http://a.example:8080/x", "/x"),
        ("http://a.example", "/"),
        ("http://a.example?y=/z", "/?y=/z"),
    ] {
        let read = accepted(get(target));
        assert_eq!((read.target(), read.origin_form(), read.host()), (Target::Rewritten, origin, "a.example"));
    }
    for (code, target) in [
        ("scheme", "foo://a.example/x"),
        ("scheme", "ws://a.example/x"),
        ("host_mismatch", "http://b.example/x"),
        ("host", "http://a.example@b.example/x"),
        ("host_missing", "http:///x"),
        ("host", "http://a.example\\@b/x"),
        ("dot_segment", "http://a.example/../x"),
        ("empty_segment", "http://a.example//x"),
        ("target", "http:/a.example/x"),
        ("target", "x y://a.example/".replace(' ', "/").as_str()),
        ("fragment", "http://a.example/#x"),
    ] {
        refused(code, get(target));
    }
    refused("host_missing", h1("GET http://a.example/x HTTP/1.1\r\n\r\n"));
    refused("target", H2 { path: "https://a.example/x", ..H2 }.read());
}

#[test]
fn pth_17_a_host_has_one_spelling() {
    for spelling in ["a.example", "A.Example", "a.example.", "a.example:443", "a.example:80", "A.EXAMPLE.:8443"] {
        assert_eq!(accepted(host(spelling)).host(), "a.example", "{spelling}");
        assert_eq!(accepted(H2 { authority: Some(spelling), ..H2 }.read()).host(), "a.example", "{spelling}");
    }
    for (spelling, canonical) in [
        ("[2001:DB8::1]", "[2001:db8::1]"),
        ("[2001:db8:0:0::1]:8443", "[2001:db8::1]"),
        ("[::1]", "[::1]"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("localhost", "localhost"),
    ] {
        assert_eq!(accepted(host(spelling)).host(), canonical, "{spelling}");
    }
}

#[test]
fn pth_18_a_host_that_is_no_name_and_no_literal_is_refused() {
    for bad in [
        "a, b",
        "a/b",
        "a b",
        "a:80:81",
        "a@b",
        "user@a.example",
        "a%2eb",
        "a.example:",
        "a.example:x",
        "a:99999",
        "a:+80",
        ".",
        "..",
        "a..b",
        ".a",
        "a.example..",
        "-a.example",
        "a-.example",
        "a_b.example",
        "[::1",
        "[::1]x",
        "[::1]:",
        "[zz]",
        "[]",
        "[::1%25eth0]",
        "::1",
        "a\\b",
        "a?b",
        "a#b",
        "*",
        "*.example",
        "127.1",
        "0x7f.1",
        "2130706433",
        "1.2.3.04",
        "1.2.3.256",
        "a.0x1",
        "a;b",
        "\"a\"",
        "a=b",
    ] {
        refused("host", host(bad));
        refused("host", H2 { authority: Some(bad), ..H2 }.read());
    }
    let label = |len: usize| format!("{}.example", "a".repeat(len));
    accepted(host(&label(63)));
    refused("host", host(&label(64)));
    let name = |len: usize| "a.".chars().cycle().take(len).collect::<String>();
    accepted(host(&name(253)));
    refused("host", host(&name(255)));
}

#[test]
fn pth_18_a_missing_empty_or_second_host_is_refused() {
    for version in ["1.1", "1.0"] {
        refused("host_missing", h1(format!("GET /x HTTP/{version}\r\nAccept: */*\r\n\r\n")));
        refused("host_missing", h1(format!("GET /x HTTP/{version}\r\n\r\n")));
    }
    refused("host_missing", host(""));
    refused("host_missing", host("  "));
    refused("repeated_field", fields(&["Host: a.example"]));
    refused("repeated_field", fields(&["Host: b.example"]));
    refused("host_missing", H2 { authority: None, ..H2 }.read());
    refused("host_missing", H2 { authority: Some(""), ..H2 }.read());
    assert_eq!(accepted(H2 { authority: None, fields: &[("host", "A.example")], ..H2 }.read()).host(), "a.example");
}

#[test]
fn pth_19_http2_host_and_authority_must_agree() {
    refused("host_mismatch", H2 { fields: &[("host", "b.example")], ..H2 }.read());
    refused("host_missing", H2 { fields: &[("host", "")], ..H2 }.read());
    refused("host", H2 { fields: &[("host", "a, b")], ..H2 }.read());
    assert_eq!(accepted(H2 { fields: &[("host", "A.Example:443")], ..H2 }.read()).host(), "a.example");
}

#[test]
fn pth_21_a_target_that_is_no_path_is_refused() {
    for bad in ["../admin", "admin", "?x=1", "%20/x", "*", "**", "", ":80", "a.example:80", "*/x"] {
        refused("target", with("GET", bad, &[]));
        refused("target", H2 { path: bad, ..H2 }.read());
    }
    refused("target", with("OPTIONS", "*?x", &[]));
    // Two spaces: Pingora hands over `%20/x` in both places.
    refused("request_line", get(" /x"));
    refused("request_line", get("/x "));
    refused("request_line", get("/a b"));
}

#[test]
fn pth_21_options_of_the_server_is_answered_here_and_matches_no_path() {
    for outcome in [
        with("OPTIONS", "*", &[]),
        with("OPTIONS", "http://a.example", &[]),
        H2 { method: "OPTIONS", path: "*", ..H2 }.read(),
    ] {
        let read = accepted(outcome);
        assert_eq!((read.target(), read.path(), read.query()), (Target::Server, "*", ""));
    }
    assert_eq!(accepted(with("OPTIONS", "http://a.example/", &[])).target(), Target::Rewritten);
}
