//! A tenant that wants to read another's series from an app that both share: each way to say a query so that the gateway
//! reads one and the app another.

use std::sync::LazyLock;

use portcullis_tests::{
    Gateway, Protocol, Request, Setup, Upstream,
    tokens::{local_token, main_token},
};

const FORM: &str = "application/x-www-form-urlencoded";

struct Shared {
    upstream: Upstream,
    gateway: Gateway,
}

static SHARED: LazyLock<Shared> = LazyLock::new(|| {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream)
        .with(
            r#"
[hosts."api.example.test".routes.query]
path = "/api/v1"
methods = ["GET", "POST"]
auth = { accept = ["jwt:main", "cookie:local"] }
scope = { labels = { tenant = "tenant" }, promql = ["query"], selectors = ["match[]"], absent = "set", others = ["time"] }
upstream = "app"
"#,
        )
        .start();
    Shared { upstream, gateway }
});

/// Refused by the gateway, or by its parser of HTTP; and never seen by the app.
fn refused(protocol: Protocol, request: Request) {
    let request = request.bearer(main_token("acme"));
    let status = SHARED.gateway.status(protocol, &request);
    let shown = String::from_utf8_lossy(&request.target).into_owned();
    assert!(status.is_none_or(|status| matches!(status, 400 | 403 | 405 | 413 | 415)), "{status:?} {shown}");
    assert!(SHARED.upstream.saw(&request.mark).is_none(), "the app saw {shown}");
}

fn post(media: &str, body: impl AsRef<[u8]>) -> Request {
    Request::post("/api/v1/query", body).header("Content-Type", media)
}

/// Everything but letters and digits, so that the target itself is in order.
fn enc(text: &str) -> String {
    let plain = |c: u8| c.is_ascii_alphanumeric();
    text.bytes().map(|c| if plain(c) { char::from(c).to_string() } else { format!("%{c:02x}") }).collect()
}

#[test]
fn scope_01_a_query_in_another_place_or_under_another_name() {
    let theirs = enc(r#"up{tenant="globex"}"#);
    for protocol in Protocol::BOTH {
        for target in [
            format!("query=up&query={theirs}"),
            format!("query={theirs}&query=up"),
            format!("query=up&%71uery={theirs}"),
            format!("query=up&Query={theirs}"),
            format!("query=up&QUERY={theirs}"),
            format!("query=up&query[]={theirs}"),
            format!("query=up&match={theirs}"),
            format!("query=up&match[]={theirs}"),
            format!("query=up&match%5B%5D={theirs}"),
            format!("query=up&extra_filters[]={theirs}"),
            format!("query=up;query={theirs}"),
            format!("query=up%00&query={theirs}"),
            format!("query=up&time=1%26query={theirs}&query%3d{theirs}"),
            "time=1".to_owned(),
        ] {
            refused(protocol, Request::get(format!("/api/v1/query?{target}")));
        }
        for (query, body) in [
            ("?query=up", format!("query={theirs}")),
            ("", format!("query=up&query={theirs}")),
            ("", format!("query=up;query={theirs}")),
            ("?query=up", format!("match[]={theirs}")),
        ] {
            refused(protocol, Request::post(format!("/api/v1/query{query}"), body).header("Content-Type", FORM));
        }
    }
    // What only a lenient server would split arrives as one value.
    let request = Request::get(format!("/api/v1/query?query=up&time=1;query={theirs}")).bearer(main_token("acme"));
    assert_eq!(SHARED.gateway.send(&request).status, 200);
    let target = SHARED.upstream.seen(&request.mark).target();
    assert!(!target.contains(';') && target.matches("query=").count() == 1, "{target}");
}

#[test]
fn scope_02_a_query_in_words_that_are_read_in_two_ways() {
    for protocol in Protocol::BOTH {
        for query in [
            r#"up{tenant=~".*"}"#,
            r#"up{tenant=~"acme|globex"}"#,
            r#"up{tenant!="acme"}"#,
            r#"up{"tenant"="globex"}"#,
            r#"up{"\x74enant"="globex"}"#,
            r#"up{tenant="acme" or tenant="globex"}"#,
            r#"up{a="b" or c="d"}"#,
            "info(up)",
            r#"topk(scalar(up{tenant="globex"}), up)"#,
            r#"up{tenant="acme"} or up{tenant="globex"} # {tenant="acme"}"#,
            "up # \n or up{tenant='globex'}",
            "WITH (x = up) x",
            "up\u{0}{tenant=\"acme\"}",
            "up\u{2028}up",
            "up{",
            "",
        ] {
            refused(protocol, Request::get(format!("/api/v1/query?query={}", enc(query))));
            refused(protocol, post(FORM, format!("query={}", enc(query))));
        }
    }
    // A comment is not where the matcher ends.
    let request =
        Request::get(format!("/api/v1/query?query={}", enc("up #{tenant=\"globex\"}"))).bearer(main_token("acme"));
    assert_eq!(SHARED.gateway.send(&request).status, 200);
    assert!(SHARED.upstream.seen(&request.mark).target().contains("query=up%7Btenant%3D%22acme%22%7D"));
}

#[test]
fn scope_03_a_body_that_the_gateway_does_not_read() {
    let theirs = enc(r#"up{tenant="globex"}"#);
    for protocol in Protocol::BOTH {
        for media in [
            "multipart/form-data; boundary=x",
            "application/json",
            "text/plain",
            "application/x-www-form-urlencoded; charset=utf-16",
        ] {
            refused(protocol, post(media, format!("query={theirs}")));
            refused(protocol, post(media, "query=up"));
        }
        refused(protocol, Request::post("/api/v1/query", "query=up"));
        refused(protocol, post(FORM, "query=up").header("Content-Encoding", "gzip"));
        refused(protocol, post(FORM, "query=up").header("Content-Type", "application/json"));
        refused(protocol, post(FORM, format!("query=up&time={}", "&time=1".repeat(12_000))));
        refused(
            protocol,
            Request::new("GET", "/api/v1/query?query=up").header("Content-Type", FORM).body(format!("query={theirs}")),
        );
        refused(
            protocol,
            Request::new("PUT", "/api/v1/query?query=up").header("Content-Type", FORM).body(format!("query={theirs}")),
        );
    }
}

#[test]
fn scope_04_a_query_that_takes_the_gateway_down() {
    for protocol in Protocol::BOTH {
        for query in [
            "(".repeat(8_000),
            format!("{}up{}", "(".repeat(1_000), ")".repeat(1_000)),
            format!("{}up", "-".repeat(6_000)),
            format!("up{}", "[5m:]".repeat(1_000)),
            "sum(".repeat(1_500),
            "up[1e300]".to_owned(),
            "up[Inf]".to_owned(),
            "up offset 1e300".to_owned(),
            format!("up{{{}}}", vec![r#"a=~"\\pL{1000}""#; 300].join(",")),
        ] {
            refused(protocol, post(FORM, format!("query={}", enc(&query))));
        }
    }
    let request = Request::get("/api/v1/query?query=up").bearer(main_token("acme"));
    assert_eq!(SHARED.gateway.send(&request).status, 200);
    assert!(!SHARED.gateway.output().contains("panicked"), "the gateway panicked");
}

#[test]
fn scope_05_a_tenant_that_is_not_the_verified_one() {
    for protocol in Protocol::BOTH {
        let anonymous = Request::get("/api/v1/query?query=up");
        assert_eq!(SHARED.gateway.status(protocol, &anonymous), Some(401));
        let request = Request::get("/api/v1/query?query=up")
            .bearer(main_token("acme"))
            .header("X-Tenant-Id", "globex")
            .header("X-Scope-OrgID", "globex");
        assert_eq!(SHARED.gateway.status(protocol, &request), Some(200));
        let seen = SHARED.upstream.seen(&request.mark);
        assert!(seen.folded("x-scope-orgid").is_empty() && seen.target().contains("acme"), "{}", seen.target());
        let session = Request::get("/api/v1/query?query=up")
            .header("Cookie", format!("__Host-session={}", local_token("globex")));
        assert_eq!(SHARED.gateway.status(protocol, &session), Some(200));
        let target = SHARED.upstream.seen(&session.mark).target();
        assert!(target.contains("globex") && !target.contains("acme"), "{target}");
    }
}
