//! One test per row of the threat tables and of what was measured on Pingora 0.9.1, named after their ids.

mod hdr;
mod props;
mod prt;
mod pth;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use portcullis_api::{Protocol, Refusal};

use super::*;

const BOUNDS: HeadBounds = HeadBounds { head_bytes_max: 32 << 10, fields_max: 100, target_bytes_max: 8 << 10 };

type Outcome = Result<Canonical, Ambiguity>;

/// Parses as kindly as Pingora does, and in one way more kindly: what its parser refuses before any filter gets here
/// too, so that each row holds without it.
fn h1(raw: impl AsRef<[u8]>) -> Outcome {
    let raw = raw.as_ref();
    let mut headers = HeaderMap::new();
    let mut lines = raw
        .split(|&byte| byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .skip_while(|l| l.is_empty());
    let line = lines.next().unwrap_or_default();
    for line in lines {
        let mut parts = line.splitn(2, |&byte| byte == b':');
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else { continue };
        let (name, value) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(raw::trim(value)));
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    if headers.contains_key("transfer-encoding") {
        headers.remove("content-length");
    }
    // The method before the first space, the version after the last, whatever there is between them.
    let mut parts = line.splitn(2, |&byte| byte == b' ');
    let (method, rest) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let target = rest.rsplitn(2, |&byte| byte == b' ').nth(1).unwrap_or_default();
    let target = target.split(|&byte| byte == b'#').next().unwrap_or_default();
    let method = Method::from_bytes(method).unwrap_or(Method::GET);
    canonicalise(&Head {
        protocol: Protocol::Http1,
        method: &method,
        raw_target: target,
        authority: None,
        scheme: None,
        headers: &headers,
        raw_h1: Some(raw),
        ended: Ended::Open,
        bounds: BOUNDS,
    })
}

/// A request with `Host: a.example` and these lines, each without its CR LF.
fn with(method: &str, target: &str, lines: &[&str]) -> Outcome {
    let mut raw = format!("{method} {target} HTTP/1.1\r\nHost: a.example\r\n");
    for line in lines {
        raw += line;
        raw += "\r\n";
    }
    h1(raw + "\r\n")
}

fn get(target: &str) -> Outcome {
    with("GET", target, &[])
}

fn fields(lines: &[&str]) -> Outcome {
    with("GET", "/x", lines)
}

fn host(value: &str) -> Outcome {
    h1(format!("GET /x HTTP/1.1\r\nHost: {value}\r\n\r\n"))
}

struct H2<'r> {
    method: &'r str,
    path: &'r str,
    authority: Option<&'r str>,
    scheme: Option<&'r str>,
    fields: &'r [(&'static str, &'r str)],
    ended: Ended,
}

const H2: H2<'static> = H2 {
    method: "GET",
    path: "/x",
    authority: Some("a.example"),
    scheme: Some("https"),
    fields: &[],
    ended: Ended::WithHead,
};

impl H2<'_> {
    fn read(&self) -> Outcome {
        let mut headers = HeaderMap::new();
        for (name, value) in self.fields {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        canonicalise(&Head {
            protocol: Protocol::Http2,
            method: &Method::from_bytes(self.method.as_bytes()).unwrap(),
            raw_target: self.path.as_bytes(),
            authority: self.authority,
            scheme: self.scheme,
            headers: &headers,
            raw_h1: None,
            ended: self.ended,
            bounds: BOUNDS,
        })
    }
}

/// `ok`, or the code without `request.`.
fn said(outcome: &Outcome) -> &'static str {
    outcome.as_ref().map_or_else(|refusal| refusal.code().name.strip_prefix("request.").unwrap(), |_| "ok")
}

#[track_caller]
fn refused(code: &str, outcome: Outcome) {
    assert_eq!(said(&outcome), code, "{outcome:?}");
}

#[track_caller]
fn accepted(outcome: Outcome) -> Canonical {
    outcome.unwrap()
}

#[test]
fn an_ordinary_request_is_read_as_it_is() {
    let read = accepted(with("GET", "/v1/orders/a%20b?x=%zz&y", &["Accept: */*", "User-Agent: caf\u{e9}"]));
    assert_eq!((read.host(), read.path(), read.query()), ("a.example", "/v1/orders/a%20b", "x=%zz&y"));
    assert_eq!(read.origin_form(), "/v1/orders/a%20b?x=%zz&y");
    assert_eq!((read.target(), read.framing(), read.upgrade()), (Target::AsReceived, Framing::None, Upgrade::None));
    let read = accepted(H2 { path: "/v1/x?", ..H2 }.read());
    assert_eq!((read.host(), read.path(), read.query(), read.origin_form()), ("a.example", "/v1/x", "", "/v1/x?"));
}

#[test]
fn codes_are_unique_documented_and_belong_to_this_step() {
    let page = include_str!("../../../../docs/canonicalisation.md");
    let mut seen = std::collections::HashSet::new();
    for code in Ambiguity::CODES {
        assert!(code.name.starts_with("request.") && seen.insert(code.name), "{code:?}");
        assert!(page.contains(&format!("| `{}` | {} |", code.name, code.status)), "{code:?} is not in the page");
    }
}

fn detail(outcome: Outcome) -> String {
    outcome.unwrap_err().detail().unwrap().into_owned()
}

#[test]
fn log_05_a_detail_says_where_and_how_long_and_nothing_of_what_was_sent() {
    assert_eq!(detail(get("/a/b;c")), "semicolon in segment 2, of 3 bytes");
    assert_eq!(detail(get("/%2e%2E/")), "dot segment 1, of 6 bytes");
    assert_eq!(detail(get("/<")), "a punctuation character in the path");
    assert_eq!(detail(get("x?y")), "a target of 3 bytes");
    assert_eq!(
        detail(host("a_b")),
        "a label that is not 1 to 63 letters, digits and inner hyphens, in a host of 3 bytes"
    );
    assert_eq!(detail(fields(&["X_Tenant: a"])), "field name of 8 bytes with an underscore");
    assert_eq!(detail(fields(&["Cookie: a\tb"])), "a control byte in the value of the field `cookie`");
    assert_eq!(detail(fields(&["X-Mine: a\u{1}b"])), "a control byte in the value of the field of 6 bytes");
    assert_eq!(
        detail(fields(&["Connection: close, Cookie"])),
        "this field may not be removed on the way: 2, of 6 bytes"
    );
    assert_eq!(detail(fields(&["Trailer: x, x-role"])), "trailer announces a name that it may not: 2, of 6 bytes");
    assert_eq!(detail(fields(&["Expect: later"])), "an expectation of 5 bytes");
    let two = H2 { fields: &[("host", "b.example")], ..H2 };
    assert_eq!(detail(two.read()), "a host of 9 bytes and another of 9");
    assert_eq!(detail(H2 { scheme: Some("ftp"), ..H2 }.read()), "a scheme of 3 bytes");
    assert_eq!(detail(H2 { fields: &[("te", "gzip")], ..H2 }.read()), "te other than trailers on HTTP/2: `te`");
}

#[test]
fn log_05_what_is_planted_into_a_refused_head_is_in_no_detail() {
    let lines = [
        "S_: a",
        "S: a\u{1}",
        "Cookie: S\u{e9}",
        "Authorization: Bearer S\u{e9}",
        "X-Api-Key: S\r\nX-Api-Key: S",
        "Connection: S, cookie, \"S\"",
        "Connection: x-user-S",
        "Trailer: x-user-S",
        "Expect: S",
        "Upgrade: S",
        "Content-Length: S",
        "Transfer-Encoding: S",
        " S: folded",
        "S : a",
        "S",
    ];
    let targets = [
        "/S;",
        "/S%5c",
        "/S%2f",
        "/S%2525",
        "/S%61",
        "/S%00",
        "/S%ff",
        "/S%zz",
        "/S\"",
        "/S//",
        "/S/..",
        "S",
        "S://a/",
        "/?S\u{e9}",
        "/S\u{e9}",
    ];
    let hosts = ["S_", "S:99999", "[S]", "S,b", "S.1"];
    // A word, and what a reader takes for a person: both stand in no text of ours.
    for secret in ["jane7f3a", "2079460018"] {
        let plant = |text: &str| text.replace('S', secret);
        let outcomes = lines.iter().map(|line| fields(&[&plant(line)]));
        let outcomes = outcomes.chain(targets.iter().map(|target| get(&plant(target))));
        for outcome in outcomes.chain(hosts.iter().map(|name| host(&plant(name)))) {
            let ambiguity = outcome.unwrap_err();
            let shown = format!("{ambiguity:?} {ambiguity}");
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}

#[test]
fn an_answer_carries_the_headers_its_status_asks_for() {
    let headers = |outcome: Outcome| {
        let mut headers = HeaderMap::new();
        outcome.unwrap_err().headers(&mut headers);
        headers
    };
    assert_eq!(headers(with("CONNECT", "a:80", &[])).get("allow").unwrap(), "");
    assert_eq!(headers(fields(&["Upgrade: h2c"])).get("sec-websocket-version").unwrap(), "13");
    assert!(headers(get("/a;b")).is_empty());
}

#[test]
fn http1_without_its_raw_head_is_refused_not_guessed_at() {
    let mut headers = HeaderMap::new();
    headers.insert("host", HeaderValue::from_static("a.example"));
    refused(
        "request_line",
        canonicalise(&Head {
            protocol: Protocol::Http1,
            method: &Method::GET,
            raw_target: b"/x",
            authority: None,
            scheme: None,
            headers: &headers,
            raw_h1: None,
            ended: Ended::WithHead,
            bounds: BOUNDS,
        }),
    );
}
