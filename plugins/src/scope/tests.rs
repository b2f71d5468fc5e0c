use std::sync::Arc;

use http::{HeaderMap, HeaderName, Method};
use portcullis_api::{At, Refusal as _, RouteRef};
use proptest::prelude::*;

use super::*;
use crate::{authentication::Auth, testing::now_or_never};

const ROUTE: RouteId = RouteId::new(0);

fn compiled(scope: &str, public: bool) -> Result<Scope, Vec<&'static str>> {
    let scope: At<ScopeRoute> = At::nowhere(toml::from_str(scope).unwrap());
    let auth = if public { "public = \"a written reason\"" } else { "accept = [\"jwt:main\"]" };
    let auth: Auth = toml::from_str(auth).unwrap();
    let route = RouteRef { id: ROUTE, name: Arc::from("host/route") };
    let methods = [At::nowhere("GET".to_owned()), At::nowhere("POST".to_owned())];
    let routes = [RouteScope { route: &route, scope: Some(&scope), auth: &auth, methods: &methods, tenant: None }];
    let mut issues = Issues::default();
    let compiled = Scope::compile(Input { routes: &routes }, &(), &mut issues);
    compiled.ok_or_else(|| issues.as_slice().iter().map(|issue| issue.code).collect())
}

const PROMETHEUS: &str = r#"
labels = { tenant = "tenant" }
promql = ["query"]
selectors = ["match[]"]
absent = "set"
plain = { org = "tenant" }
headers = { X-Scope-OrgID = "tenant" }
others = ["time", "step"]
"#;

/// A request: what goes upstream of its query and its form, or why it does not.
fn ask(scope: &Scope, query: &str, body: Option<(&str, &str)>) -> Result<(String, Option<String>), &'static str> {
    let mut headers = HeaderMap::new();
    if let Some((media, _)) = body {
        headers.insert(http::header::CONTENT_TYPE, media.parse().unwrap());
    }
    let method = if body.is_some() { Method::POST } else { Method::GET };
    let sees = body.map_or(Body::Absent, |(_, body)| Body::Whole(body.as_bytes()));
    decide(scope, &method, query, &headers, sees).map(|passed| {
        assert_eq!(
            passed.target().unwrap().strip_prefix("/p").unwrap().trim_start_matches('?'),
            passed.query().unwrap()
        );
        let form = passed.form().map(|form| String::from_utf8(form.to_vec()).unwrap());
        (passed.query().unwrap().to_owned(), form)
    })
}

fn decide(
    scope: &Scope,
    method: &Method,
    query: &str,
    headers: &HeaderMap,
    body: Body<'_>,
) -> Result<InScope, &'static str> {
    let tenant = TenantId::parse("acme").unwrap();
    let facts = Facts { path: "/p", query, ..crate::testing::facts(method, headers) };
    match now_or_never(scope.check(Sees { facts, route: ROUTE, tenant: Some(&tenant), body })) {
        Ok(Verdict::Pass(passed)) => Ok(passed),
        Ok(Verdict::Deny(deny)) => {
            assert!(Deny::CODES.contains(&deny.code()) && deny.detail().is_some());
            Err(deny.code().name)
        }
        Err(_) => Err("fault"),
    }
}

const FORM: &str = "application/x-www-form-urlencoded";
const SENT: &str = "up%7Btenant%3D%22acme%22%7D";

#[test]
fn a_query_is_written_anew_wherever_it_stands_and_what_is_absent_is_set() {
    let scope = compiled(PROMETHEUS, false).unwrap();
    let set = "match%5B%5D=%7Btenant%3D%22acme%22%7D&org=acme";
    assert_eq!(ask(&scope, "query=up&time=1;2", None), Ok((format!("query={SENT}&time=1%3B2&{set}"), None)));
    assert_eq!(ask(&scope, "%71uery=u%70", None), Ok((format!("query={SENT}&{set}"), None)));
    let sent = ask(&scope, "match[]=up&match%5b%5d=up&org=acme", Some((FORM, "query=up&step=1+s")));
    let query = format!("match%5B%5D={SENT}&match%5B%5D={SENT}&org=acme");
    assert_eq!(sent, Ok((query, Some(format!("query={SENT}&step=1%20s")))));
    let sent = ask(&scope, "", Some(("Application/X-WWW-Form-Urlencoded; Charset=\"UTF-8\"", "query=up")));
    assert_eq!(sent, Ok((set.to_owned(), Some(format!("query={SENT}")))));
}

#[test]
fn what_has_a_second_reading_is_refused() {
    let scope = compiled(PROMETHEUS, false).unwrap();
    for (query, form, code) in [
        ("", None, "scope.missing"),
        ("query", None, "scope.unreadable"),
        ("query=up&query=up", None, "scope.repeated"),
        ("query=up", Some("query=up"), "scope.repeated"),
        ("query=up&org=acme&org=acme", None, "scope.repeated"),
        ("query=up&org=acme", Some("org=acme"), "scope.repeated"),
        ("query=up&org=globex", None, "scope.conflict"),
        ("query=up&org=", None, "scope.conflict"),
        ("query=up&org", None, "scope.conflict"),
        ("query=up", Some("org=globex"), "scope.conflict"),
        ("query=up{tenant=\"globex\"}", None, "scope.conflict"),
        ("query=up&match[]={tenant=\"globex\"}", None, "scope.conflict"),
        ("query=up&match[]=sum(up)", None, "scope.unreadable"),
        ("query=up&match=up", None, "scope.parameter"),
        ("query=up&Query=up", None, "scope.parameter"),
        ("query=up&query%00=up", None, "scope.parameter"),
        ("query=up&query[]=up", None, "scope.parameter"),
        ("query=up&%20query=up", None, "scope.parameter"),
        ("query=up&time=1;query=globex", None, "fine"),
        ("query=up;org=globex", None, "scope.unreadable"),
        ("query=up&=x", None, "scope.parameter"),
        ("query=up&time=%zz", None, "scope.unreadable"),
        ("query=up&time=%4", None, "scope.unreadable"),
        ("query=up&time=%ff", None, "scope.unreadable"),
        ("query=up", Some("time=%ff"), "scope.unreadable"),
        ("query=up", Some("{\"query\":\"up\"}"), "scope.parameter"),
    ] {
        let answer = ask(&scope, query, form.map(|form| (FORM, form)));
        assert_eq!(answer.err().unwrap_or("fine"), code, "{query} {form:?}");
    }
}

#[test]
fn a_body_is_a_plain_form_of_a_post_or_refused() {
    let scope = compiled(PROMETHEUS, false).unwrap();
    for media in [
        "multipart/form-data; boundary=x",
        "application/json",
        "text/plain",
        "application/x-www-form-urlencoded; charset=utf-7",
        "application/x-www-form-urlencoded; charset",
        "application/x-www-form-urlencoded, text/plain",
        "",
    ] {
        assert_eq!(ask(&scope, "", Some((media, "query=up"))), Err("scope.body"), "{media}");
    }
    let mut headers = HeaderMap::new();
    let body = Body::Whole(b"query=up");
    assert_eq!(decide(&scope, &Method::POST, "", &headers, body).err(), Some("scope.body"));
    headers.append(http::header::CONTENT_TYPE, FORM.parse().unwrap());
    assert!(decide(&scope, &Method::POST, "", &headers, body).is_ok());
    assert_eq!(decide(&scope, &Method::GET, "query=up", &headers, body).err(), Some("scope.body"));
    assert_eq!(decide(&scope, &Method::POST, "query=up", &headers, Body::Unread).err(), Some("fault"));
    let large = format!("query=up&time={}", "1".repeat(BODY_BYTES_MAX - 13));
    assert_eq!(
        decide(&scope, &Method::POST, "", &headers, Body::Whole(large.as_bytes())).err(),
        Some("scope.too_large")
    );
    headers.insert(http::header::CONTENT_ENCODING, "gzip".parse().unwrap());
    assert_eq!(decide(&scope, &Method::POST, "", &headers, body).err(), Some("scope.body"));
    headers.remove(http::header::CONTENT_ENCODING);
    headers.append(http::header::CONTENT_TYPE, FORM.parse().unwrap());
    assert_eq!(decide(&scope, &Method::POST, "", &headers, body).err(), Some("scope.body"));
}

#[test]
fn there_are_as_many_parameters_and_bytes_as_may_be() {
    let scope = compiled(PROMETHEUS, false).unwrap();
    let many = |n: usize| format!("query=up{}", "&time=1".repeat(n - 1));
    assert!(ask(&scope, &many(PARAMETERS_MAX), None).is_ok());
    assert_eq!(ask(&scope, &many(PARAMETERS_MAX + 1), None), Err("scope.too_large"));
    assert_eq!(ask(&scope, &many(PARAMETERS_MAX), Some((FORM, "time=1"))), Err("scope.too_large"));
    let queries = |n: usize| format!("match[]=up&query=up{{a='{}'}}", "b".repeat(n - "upup{a=''}".len()));
    assert!(ask(&scope, &queries(promql::QUERY_BYTES_MAX), None).is_ok());
    assert_eq!(ask(&scope, &queries(promql::QUERY_BYTES_MAX + 1), None), Err("scope.too_large"));
    let long = |n: usize| format!("query=up&org=acme&match[]=up&time={}", "1".repeat(n));
    let fixed = ask(&scope, &long(0), None).unwrap().0.len() + "/p?".len();
    assert!(ask(&scope, &long(TARGET_BYTES_MAX - fixed), None).is_ok());
    assert_eq!(ask(&scope, &long(TARGET_BYTES_MAX - fixed + 1), None), Err("scope.too_large"));
}

#[test]
fn without_a_selector_a_route_refuses_unless_it_sets_one() {
    let scope = compiled("labels = { tenant = \"tenant\" }\nselectors = [\"match[]\"]", false).unwrap();
    assert_eq!(ask(&scope, "", None), Err("scope.missing"));
    assert_eq!(ask(&scope, "match[]=", None), Err("scope.unreadable"));
    assert_eq!(ask(&scope, "match[]=up", None), Ok((format!("match%5B%5D={SENT}"), None)));
}

#[test]
fn a_route_with_headers_alone_leaves_query_and_body_alone() {
    let scope = compiled("headers = { X-Scope-OrgID = \"tenant\", THANOS-TENANT = \"tenant\" }", false).unwrap();
    assert!(!scope.reads_body(ROUTE));
    let passed = decide(&scope, &Method::POST, "a=%ff;", &HeaderMap::new(), Body::Unread).unwrap();
    assert_eq!((passed.target(), passed.query(), passed.form()), (None, None, None));
    let set: Vec<_> = passed.headers().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    assert_eq!(set, [("thanos-tenant", "acme"), ("x-scope-orgid", "acme")]);
}

#[test]
fn a_request_without_a_tenant_or_on_an_unknown_route_is_a_fault() {
    let scope = compiled(PROMETHEUS, false).unwrap();
    let (method, headers) = (Method::GET, HeaderMap::new());
    let facts = crate::testing::facts(&method, &headers);
    let nobodys = Sees { facts, route: ROUTE, tenant: None, body: Body::Absent };
    assert!(now_or_never(scope.check(nobodys)).is_err());
    assert!(now_or_never(scope.check(Sees { route: RouteId::new(7), ..nobodys })).is_err());
    assert!(!scope.reads_body(RouteId::new(7)) && scope.reads_body(ROUTE));
}

#[test]
fn what_would_be_ignored_or_cannot_hold_is_refused_at_load() {
    let label = "labels = { tenant = \"tenant\" }\npromql = [\"query\"]\n";
    for (scope, public, code) in [
        ("", false, "scope.empty"),
        ("promql = [\"query\"]", false, "scope.labels"),
        ("labels = { tenant = \"tenant\" }\nplain = { org = \"tenant\" }", false, "scope.labels"),
        (&format!("{label}absent = \"set\""), false, "scope.absent"),
        ("headers = { X-Scope-OrgID = \"tenant\" }\nothers = [\"a\"]", false, "scope.others"),
        (&format!("{label}others = [\"query\"]"), false, "scope.twice"),
        (&format!("{label}plain = {{ query = \"tenant\" }}"), false, "scope.twice"),
        (label, true, "scope.anonymous"),
        ("headers = { Host = \"tenant\" }", false, "scope.header"),
        ("headers = { Content_Length = \"tenant\" }", false, "scope.header"),
        ("headers = { x-portcullis-anything = \"tenant\" }", false, "scope.header"),
        ("headers = { authorization = \"tenant\" }", false, "scope.header"),
        ("headers = { X-Request-Id = \"tenant\" }", false, "scope.header"),
        ("headers = { X-Org = \"tenant\", X_Org = \"tenant\" }", false, "scope.header"),
    ] {
        assert_eq!(compiled(scope, public).err(), Some(vec![code]), "{scope}");
    }
    for wrong in [
        "labels = { __name__ = \"tenant\" }",
        "labels = { \"a-b\" = \"tenant\" }",
        "labels = { or = \"tenant\" }",
        "labels = { tenant = \"subject\" }",
        "promql = [\"a b\"]",
        "promql = [\"\"]",
        "headers = { \"a b\" = \"tenant\" }",
        "absent = \"pass\"",
        "prompql = [\"query\"]",
    ] {
        assert!(toml::from_str::<ScopeRoute>(wrong).is_err(), "{wrong}");
    }
    assert!(HeaderName::from_bytes(b"x-scope-orgid").is_ok());
}

proptest! {
    #[test]
    fn whatever_the_query_every_parameter_that_is_sent_is_known_and_confined(
        query in r"(query|match\[\]|match%5B%5D|org|time|%71uery|qu[a-z]{0,2}|)(=|%3D|)(up|acme|globex|\{tenant=%22globex%22\}|;|&|%26|\+|%zz|[a-z]){0,3}(&(query|org)=(up|acme))?"
    ) {
        let scope = compiled(PROMETHEUS, false).unwrap();
        if let Ok((sent, None)) = ask(&scope, &query, None) {
            let sent = parameters::read(sent.as_bytes()).unwrap();
            for (name, value) in &sent {
                match name.as_ref() {
                    "query" | "match[]" => prop_assert!(value.contains("{tenant=\"acme\"}"), "{}", value),
                    "org" => prop_assert_eq!(value.as_ref(), "acme"),
                    other => prop_assert!(["time", "step"].contains(&other), "{}", other),
                }
            }
            prop_assert_eq!(sent.iter().filter(|(name, _)| name == "query").count(), 1);
            prop_assert_eq!(sent.iter().filter(|(name, _)| name == "org").count(), 1);
        }
    }
}
