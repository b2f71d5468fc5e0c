//! Routes of which the requests are confined to their tenant: what the app reads is what the tenant may ask for, over both
//! protocols, in the query and in a form, to HTTP/1.1 and HTTP/2 upstreams.

use std::sync::LazyLock;

use portcullis_tests::{
    Answer, Gateway, Protocol, Request, Seen, Setup, Upstream,
    assertion::{self, ISSUER, keys, p256, verified},
    free_address,
    grpc::GrpcUpstream,
    tokens::{local_token, main_token},
};

const ROUTES: &str = r#"
[hosts."api.example.test".routes.query]
path = "/api/v1/query"
methods = ["GET", "POST"]
auth = { accept = ["jwt:main"] }
scope = { labels = { tenant = "tenant" }, promql = ["query"], others = ["time", "timeout"] }
upstream = "app"

[hosts."api.example.test".routes.series]
path = "/api/v1/series"
methods = ["GET", "POST"]
auth = { accept = ["jwt:main"] }
scope = { labels = { tenant = "tenant" }, selectors = ["match[]"], others = ["start", "end"] }
upstream = "app"

[hosts."api.example.test".routes.labels]
path = "/api/v1/labels"
methods = ["GET"]
auth = { accept = ["jwt:main"] }
scope = { labels = { tenant = "tenant" }, selectors = ["match[]"], absent = "set" }
upstream = "app"

[hosts."api.example.test".routes.mimir]
path = "/mimir"
methods = ["GET", "PUT", "POST"]
auth = { accept = ["jwt:main"] }
scope = { headers = { X-Scope-OrgID = "tenant", THANOS-TENANT = "tenant" } }
upstream = "app"

[hosts."api.example.test".routes.plain]
path = "/plain"
methods = ["GET", "POST"]
auth = { accept = ["jwt:main"] }
scope = { plain = { org = "tenant" }, others = ["q"] }
upstream = "app"

[hosts."fixed.example.test".routes.query]
path = "/api/v1/query"
methods = ["GET"]
auth = { public = "the tenant is the host's" }
scope = { labels = { tenant = "tenant" }, promql = ["query"] }
upstream = "app"
"#;

struct World {
    upstream: Upstream,
    gateway: Gateway,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let upstream = Upstream::start();
    let signed =
        format!("[assertion]\nissuer = \"{ISSUER}\"\nes256 = [\"file:a.pem\"]\n[upstreams.app]\nassertion = \"ES256\"");
    let gateway = Setup::new(&upstream).file("a.pem", p256()).with(&signed).with(ROUTES).start();
    World { upstream, gateway }
});

/// Every byte that is no letter and no digit, in `%` and two digits.
fn enc(text: &str) -> String {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"-._~".contains(&c);
    text.bytes().map(|c| if plain(c) { char::from(c).to_string() } else { format!("%{c:02X}") }).collect()
}

/// What the upstream saw, which is what the assertion says.
fn sent(protocol: Protocol, request: Request) -> Seen {
    let request = request.bearer(main_token("acme"));
    let answer = WORLD.gateway.ask(protocol, &request);
    assert_eq!(answer.status, 200, "{answer:?} to {}", request.mark);
    let seen = WORLD.upstream.seen_whole(&request.mark);
    let set = keys(&WORLD.gateway.admin("GET", assertion::KEY_SET).text());
    verified(&seen, &set, "upstream:app").unwrap_or_else(|e| panic!("{e:#} of {seen:?}"));
    seen
}

fn refused(protocol: Protocol, request: Request, status: u16, code: &str) -> Answer {
    let request = request.bearer(main_token("acme"));
    let answer = WORLD.gateway.ask(protocol, &request);
    assert_eq!((answer.status, answer.code().as_str()), (status, code), "{answer:?}");
    assert!(WORLD.upstream.saw(&request.mark).is_none(), "the upstream saw it");
    answer
}

fn form(target: &str, body: impl AsRef<[u8]>) -> Request {
    Request::post(target, body).header("Content-Type", "application/x-www-form-urlencoded")
}

#[test]
fn a_promql_query_is_sent_with_the_tenant_in_every_selector_and_the_assertion_is_of_what_is_sent() {
    let query =
        r#"topk(scalar(k), sum by (job) (rate(http_requests_total{code=~"5.."}[5m])) / on (job) group_left () up)"#;
    let confined = r#"topk(scalar(k{tenant="acme"}), sum by (job) (rate(http_requests_total{code=~"5..",tenant="acme"}[5m])) / on (job) group_left () up{tenant="acme"})"#;
    for protocol in Protocol::BOTH {
        let seen = sent(protocol, Request::get(format!("/api/v1/query?time=17&query={}", enc(query))));
        assert_eq!(seen.target(), format!("/api/v1/query?time=17&query={}", enc(confined)));
        // As a form it is longer than it came.
        let seen = sent(protocol, form("/api/v1/query?time=17", format!("query={}&timeout=5s", enc(query))));
        assert_eq!(seen.target(), "/api/v1/query?time=17");
        let body = format!("query={}&timeout=5s", enc(confined));
        assert_eq!(String::from_utf8_lossy(&seen.body), body);
        assert_eq!(seen.request_line().split(' ').next(), Some("POST"));
        let head = sent(protocol, Request::new("HEAD", format!("/api/v1/query?query={}", enc("up"))));
        assert_eq!(head.target(), format!("/api/v1/query?query={}", enc(r#"up{tenant="acme"}"#)));
    }
}

#[test]
fn a_form_keeps_its_framing_and_its_new_length() {
    let body = "query=up&timeout=5s";
    let confined = format!("query={}&timeout=5s", enc(r#"up{tenant="acme"}"#));
    let seen = sent(Protocol::H1, form("/api/v1/query", body));
    assert_eq!(seen.header("content-length"), Some(confined.len().to_string()));
    assert_eq!(String::from_utf8_lossy(&seen.body), confined);
    let media = "application/x-www-form-urlencoded; charset=UTF-8";
    for size in [1, 7, 100] {
        let chunked = Request::new("POST", "/api/v1/query").header("Content-Type", media).chunked(body, size);
        let seen = sent(Protocol::H1, chunked.header("Content-Digest", "sha-256=:of-what-came:"));
        assert_eq!((seen.header("content-length"), seen.header("content-digest")), (None, None));
        assert_eq!(String::from_utf8_lossy(&seen.body), confined);
        assert!(seen.complete);
    }
    // As large as can be read ahead of a stream without a length.
    let long = format!("query=up{}", format!("&timeout={}", "x".repeat(5_000)).repeat(8));
    let grown = enc(r#"up{tenant="acme"}"#).len() - "up".len();
    for protocol in Protocol::BOTH {
        let seen = sent(protocol, form("/api/v1/query", &long));
        assert_eq!((seen.body.len(), seen.complete), (long.len() + grown, true));
    }
}

#[test]
fn a_form_reaches_an_upstream_of_http2_as_it_was_written_anew() {
    let h2 = GrpcUpstream::start();
    let gateway = Setup::with_upstream(h2.address()).with("upstreams.app.protocol = \"h2\"").with(ROUTES).start();
    for protocol in Protocol::BOTH {
        let request = form("/api/v1/query?time=17", "query=up").bearer(main_token("acme"));
        assert_eq!(gateway.ask(protocol, &request).status, 200);
        let seen = h2.seen(&request.mark);
        assert_eq!(seen.target, "/api/v1/query?time=17");
        assert_eq!(String::from_utf8_lossy(&seen.body), format!("query={}", enc(r#"up{tenant="acme"}"#)));
        let request = Request::get("/api/v1/query?query=up").bearer(main_token("acme"));
        assert_eq!(gateway.ask(protocol, &request).status, 200);
        assert_eq!(h2.seen(&request.mark).target, format!("/api/v1/query?query={}", enc(r#"up{tenant="acme"}"#)));
    }
}

#[test]
fn a_query_that_asks_for_another_tenant_is_refused_and_the_log_does_not_say_what_it_was() {
    for protocol in Protocol::BOTH {
        let query = enc(r#"up{tenant="globex",planted="planted-value"}"#);
        let answer = refused(protocol, Request::get(format!("/api/v1/query?query={query}")), 403, "scope.conflict");
        let said = String::from_utf8_lossy(&WORLD.gateway.cli(&["explain", &answer.request_id()]).stdout).into_owned();
        assert!(said.contains("scope.conflict") && said.contains("another matcher"), "{said}");
        assert!(said.contains("rule query"), "{said}");
        refused(protocol, form("/api/v1/query", format!("query={query}")), 403, "scope.conflict");
        refused(protocol, Request::get("/api/v1/query?query=sum(up"), 400, "scope.unreadable");
        refused(protocol, Request::get("/api/v1/query"), 400, "scope.missing");
        refused(protocol, form("/api/v1/query", ""), 400, "scope.missing");
        refused(protocol, Request::get("/api/v1/query?query=up&query=up"), 400, "scope.repeated");
        refused(protocol, Request::get("/api/v1/query?query=up&extra=1"), 400, "scope.parameter");
    }
    assert!(!WORLD.gateway.output().contains("planted-value"));
}

#[test]
fn selectors_are_each_confined_and_set_where_the_route_says_so() {
    let up = enc(r#"up{tenant="acme"}"#);
    let name = enc("match[]");
    for protocol in Protocol::BOTH {
        let seen = sent(protocol, Request::get(format!("/api/v1/series?{name}=up&{name}=up&start=1")));
        assert_eq!(seen.target(), format!("/api/v1/series?{name}={up}&{name}={up}&start=1"));
        let seen = sent(protocol, form("/api/v1/series", format!("{name}=up")));
        assert_eq!(String::from_utf8_lossy(&seen.body), format!("{name}={up}"));
        refused(protocol, Request::get("/api/v1/series"), 400, "scope.missing");
        let seen = sent(protocol, Request::get("/api/v1/labels"));
        assert_eq!(seen.target(), format!("/api/v1/labels?{name}={}", enc(r#"{tenant="acme"}"#)));
        let below = sent(protocol, Request::get("/api/v1/labels/x?"));
        assert_eq!(below.target(), format!("/api/v1/labels/x?{name}={}", enc(r#"{tenant="acme"}"#)));
    }
}

#[test]
fn headers_are_set_and_the_clients_own_are_gone_in_every_spelling() {
    for protocol in Protocol::BOTH {
        let request = Request::new("PUT", "/mimir/push?any=thing;x=1")
            .header("Content-Type", "application/x-protobuf")
            .header("X-Scope-OrgID", "globex")
            .header("Thanos-Tenant", "globex")
            .header("thanos-tenant", "acme")
            .body(vec![7; 100_000]);
        let seen = sent(protocol, request);
        assert_eq!(seen.folded("x-scope-orgid").len(), 1);
        assert_eq!(seen.header("x-scope-orgid").as_deref(), Some("acme"));
        let tenants: Vec<String> = seen.folded("thanos-tenant").into_iter().map(|(_, value)| value).collect();
        assert_eq!(tenants, ["acme"]);
        assert_eq!(seen.target(), "/mimir/push?any=thing;x=1");
        assert_eq!(seen.body, vec![7; 100_000]);
    }
    // A client cannot have them taken away.
    let nominated = Request::get("/mimir").header("Connection", "thanos-tenant").header("Thanos-Tenant", "globex");
    assert_eq!(sent(Protocol::H1, nominated).header("thanos-tenant").as_deref(), Some("acme"));
}

#[test]
fn a_plain_parameter_is_set_and_may_be_there_once_with_the_same_value() {
    for protocol in Protocol::BOTH {
        assert_eq!(sent(protocol, Request::get("/plain?q=a+b")).target(), "/plain?q=a%20b&org=acme");
        assert_eq!(sent(protocol, Request::get("/plain?org=acme&q=1")).target(), "/plain?org=acme&q=1");
        let seen = sent(protocol, form("/plain", "org=acme"));
        assert_eq!((seen.target(), seen.body), ("/plain".to_owned(), b"org=acme".to_vec()));
        refused(protocol, Request::get("/plain?org=globex"), 403, "scope.conflict");
        refused(protocol, form("/plain?org=acme", "org=globex"), 400, "scope.repeated");
    }
}

#[test]
fn the_tenant_is_the_callers_or_the_hosts_and_never_another() {
    for tenant in ["acme", "globex"] {
        let request = Request::get("/api/v1/query?query=up").bearer(main_token(tenant));
        assert_eq!(WORLD.gateway.send(&request).status, 200);
        let query = enc(&format!("up{{tenant=\"{tenant}\"}}"));
        assert_eq!(WORLD.upstream.seen(&request.mark).target(), format!("/api/v1/query?query={query}"));
    }
    let request = Request::get("/api/v1/query?query=up").host("fixed.example.test");
    assert_eq!(WORLD.gateway.send(&request).status, 200);
    assert_eq!(
        WORLD.upstream.seen(&request.mark).target(),
        format!("/api/v1/query?query={}", enc(r#"up{tenant="globex"}"#))
    );
    let anonymous = WORLD.gateway.send(&Request::get("/api/v1/query?query=up"));
    assert_eq!(anonymous.status, 401);
    let other = Request::get("/api/v1/query?query=up").bearer(local_token("acme"));
    assert_eq!(WORLD.gateway.send(&other).status, 401);
}

#[test]
fn each_attempt_sends_what_is_confined() {
    let upstream = Upstream::start();
    let servers = format!("[\"{}\", \"{}\"]", free_address(), upstream.address());
    let gateway = Setup::new(&upstream).set("upstreams.app.servers", &servers).with(ROUTES).start();
    for _ in 0..2 {
        let request = form("/api/v1/query?time=1", "query=up").bearer(main_token("acme"));
        assert_eq!(gateway.send(&request).status, 200);
        let seen = upstream.seen_whole(&request.mark);
        assert_eq!(String::from_utf8_lossy(&seen.body), format!("query={}", enc(r#"up{tenant="acme"}"#)));
    }
}

#[test]
fn a_body_is_confined_with_the_content_inspection_off_and_in_shadow_too() {
    for waf in ["\"off\"", "{ mode = \"shadow\", body_max = \"1KiB\" }"] {
        let upstream = Upstream::start();
        let gateway = Setup::new(&upstream).set("controls.waf", waf).with(ROUTES).start();
        for protocol in Protocol::BOTH {
            let request = form("/api/v1/query", "query=up").bearer(main_token("acme"));
            assert_eq!(gateway.ask(protocol, &request).status, 200, "{waf}");
            assert_eq!(
                upstream.seen_whole(&request.mark).body,
                format!("query={}", enc(r#"up{tenant="acme"}"#)).into_bytes()
            );
            let large =
                form("/api/v1/query", format!("query=up&timeout={}", "5".repeat(70_000))).bearer(main_token("acme"));
            let answer = gateway.ask(protocol, &large);
            assert_eq!((answer.status, answer.code().as_str()), (413, "scope.too_large"), "{waf} {answer:?}");
            assert!(upstream.saw(&large.mark).is_none());
        }
    }
}
