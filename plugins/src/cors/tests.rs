//! SES-06 of the threats: no origin is reflected that is not written, and the upstream grants nothing.

use portcullis_api::Protocol;

use super::*;

const RULES: &str = r#"
origins = ["https://app.example.com", "http://localhost:3000"]
headers = ["content-type", "x-trace"]
expose = ["ratelimit", "retry-after"]
"#;

fn cors(text: &str) -> Cors {
    let mut issues = Issues::default();
    let cors = Cors::compile(&toml::from_str(text).unwrap(), &mut issues);
    cors.unwrap_or_else(|| panic!("{:?}", issues.as_slice()))
}

fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap());
    }
    headers
}

fn facts<'r>(method: &'r Method, headers: &'r HeaderMap) -> Facts<'r> {
    Facts { method, host: "api.example.com", path: "/", query: "", headers, protocol: Protocol::Http1 }
}

fn ask(cors: Option<&Cors>, fields: &[(&str, &str)], methods: &[Method]) -> Preflight {
    preflight(cors, &facts(&Method::OPTIONS, &headers(fields)), methods)
}

const APP: (&str, &str) = ("origin", "https://app.example.com");
const POST: (&str, &str) = ("access-control-request-method", "POST");

#[test]
fn a_preflight_of_a_listed_origin_is_answered_with_exactly_what_it_may_do() {
    let asked = [APP, POST, ("access-control-request-headers", "X-Trace,content-type, x-trace")];
    let Preflight::Answer(answer) = ask(Some(&cors(RULES)), &asked, &[Method::GET, Method::POST]) else {
        panic!("allowed")
    };
    let expected = headers(&[
        ("access-control-allow-origin", "https://app.example.com"),
        ("access-control-allow-methods", "GET, POST, HEAD"),
        ("access-control-allow-headers", "content-type, x-trace"),
        ("access-control-max-age", "600"),
        ("vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"),
    ]);
    assert_eq!(answer, expected);
}

#[test]
fn cookies_come_along_only_where_it_is_written() {
    let with = cors(&format!("{RULES}credentials = \"allow\""));
    for (cors, expected) in [(with, Some("true")), (cors(RULES), None)] {
        let mut answer = HeaderMap::new();
        let request = headers(&[APP]);
        response_headers(Some(&cors), &facts(&Method::GET, &request), &mut answer);
        let told = answer.get(ACCESS_CONTROL_ALLOW_CREDENTIALS).map(|value| value.to_str().unwrap());
        assert_eq!(told, expected);
        let Preflight::Answer(answer) = ask(Some(&cors), &[APP, POST], &[Method::POST]) else { panic!("allowed") };
        assert_eq!(answer.get(ACCESS_CONTROL_ALLOW_CREDENTIALS).is_some(), expected.is_some());
    }
}

#[test]
fn ses_06_no_origin_but_an_exact_one_is_let_in() {
    let cors = cors(RULES);
    for origin in [
        "null",
        "",
        "*",
        "https://evil.example",
        "https://app.example.com.evil.example",
        "https://evil-app.example.com",
        "http://app.example.com",
        "https://app.example.com:444",
        "https://APP.example.com",
        "https://app.example.com/",
        "http://localhost",
    ] {
        let refused = ask(Some(&cors), &[("origin", origin), POST], &[Method::POST]);
        assert!(matches!(refused, Preflight::Refused), "{origin}");
        let mut answer = HeaderMap::new();
        let request = headers(&[("origin", origin)]);
        response_headers(Some(&cors), &facts(&Method::GET, &request), &mut answer);
        assert_eq!(answer, headers(&[("vary", "Origin")]), "{origin}");
    }
    let two = ask(Some(&cors), &[APP, APP, POST], &[Method::POST]);
    assert!(matches!(two, Preflight::Refused));
}

#[test]
fn a_method_or_a_header_that_is_not_listed_is_refused() {
    let cors = cors(RULES);
    let methods = [Method::GET, Method::POST];
    let with = |field: (&'static str, &'static str)| ask(Some(&cors), &[APP, POST, field], &methods);
    assert!(matches!(with(("access-control-request-headers", "x-trace, authorization")), Preflight::Refused));
    assert!(matches!(with(("access-control-request-headers", "*")), Preflight::Refused));
    assert!(matches!(with(("access-control-request-method", "POST")), Preflight::Refused), "twice");
    assert!(matches!(with(("access-control-request-headers", "")), Preflight::Answer(_)));
    for (method, allowed) in [("GET", true), ("HEAD", true), ("POST", true), ("DELETE", false), ("post", false)] {
        let asked = [APP, ("access-control-request-method", method)];
        assert_eq!(matches!(ask(Some(&cors), &asked, &methods), Preflight::Answer(_)), allowed, "{method}");
    }
}

#[test]
fn only_options_with_origin_and_a_requested_method_is_a_preflight() {
    let cors = cors(RULES);
    let methods = [Method::POST];
    assert!(matches!(ask(Some(&cors), &[APP], &methods), Preflight::No));
    assert!(matches!(ask(Some(&cors), &[POST], &methods), Preflight::No));
    let fields = headers(&[APP, POST]);
    assert!(matches!(preflight(Some(&cors), &facts(&Method::POST, &fields), &methods), Preflight::No));
}

#[test]
fn a_host_without_rules_refuses_every_preflight_and_grants_nothing() {
    assert!(matches!(ask(None, &[APP, POST], &[Method::POST]), Preflight::Refused));
    let mut answer = headers(&[("access-control-allow-origin", "*"), ("etag", "1")]);
    let request = headers(&[APP]);
    response_headers(None, &facts(&Method::GET, &request), &mut answer);
    assert_eq!(answer, headers(&[("etag", "1")]));
}

#[test]
fn what_the_upstream_grants_is_removed_and_ours_is_added() {
    let cors = cors(RULES);
    let mut answer = headers(&[
        ("access-control-allow-origin", "*"),
        ("access-control-allow-origin", "https://evil.example"),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-private-network", "true"),
        ("vary", "Accept-Encoding"),
    ]);
    let request = headers(&[APP]);
    response_headers(Some(&cors), &facts(&Method::GET, &request), &mut answer);
    let expected = headers(&[
        ("access-control-allow-origin", "https://app.example.com"),
        ("access-control-expose-headers", "ratelimit, retry-after"),
        ("vary", "Accept-Encoding"),
        ("vary", "Origin"),
    ]);
    assert_eq!(answer, expected);
}

#[test]
fn an_answer_that_varies_by_origin_already_is_not_told_again() {
    let cors = cors(RULES);
    for vary in ["*", "origin", "Accept , ORIGIN"] {
        let mut answer = headers(&[("vary", vary)]);
        response_headers(Some(&cors), &facts(&Method::GET, &HeaderMap::new()), &mut answer);
        assert_eq!(answer, headers(&[("vary", vary)]));
    }
}

#[test]
fn what_is_written_wrongly_is_an_issue_with_its_place() {
    let origin = "origins = [\"https://a.example\"]\n";
    for (text, code) in [
        ("origins = []".to_owned(), "cors.no_origin"),
        ("origins = [\"https://a.example\", \"https://a.example\"]".to_owned(), "cors.duplicate"),
        ("origins = [\"https://a.example:443\"]".to_owned(), "cors.default_port"),
        ("origins = [\"http://a.example:80\"]".to_owned(), "cors.default_port"),
        (format!("{origin}headers = [\"X-Trace\"]"), "cors.header"),
        (format!("{origin}headers = [\"*\"]"), "cors.header"),
        (format!("{origin}headers = [\"x y\"]"), "cors.header"),
        (format!("{origin}headers = [\"\"]"), "cors.header"),
        (format!("{origin}expose = [\"etag\", \"etag\"]"), "cors.duplicate"),
    ] {
        let mut issues = Issues::default();
        assert!(Cors::compile(&toml::from_str(&text).unwrap(), &mut issues).is_none(), "{text}");
        assert_eq!(issues.as_slice().iter().map(|issue| issue.code).collect::<Vec<_>>(), [code], "{text}");
    }
    for bad in ["*", "null", "https://*.example.com", "https://a.example/", "ftp://a.example"] {
        assert!(toml::from_str::<Settings>(&format!("origins = [\"{bad}\"]")).is_err(), "{bad}");
    }
}
