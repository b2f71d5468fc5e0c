//! Tests of `csrf`: which requests need evidence, and what counts as evidence.

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use http::HeaderValue;
use portcullis_api::Protocol;

use super::*;
use crate::authentication::Identity;

fn control() -> Csrf {
    let listed: cors::Settings =
        toml::from_str("origins = [\"https://app.example\"]\ncredentials = \"allow\"").unwrap();
    let public: cors::Settings = toml::from_str("origins = [\"https://app.example\"]").unwrap();
    let routes = [(0, None), (1, Some(&listed)), (2, Some(&public))]
        .map(|(id, cors)| (RouteRef { id: RouteId::new(id), name: "a".into() }, cors));
    Csrf::compile(Input { routes: &routes }, &(), &mut Issues::default()).unwrap()
}

fn ask(
    route: u32,
    credential: Option<Credential>,
    method: &Method,
    fields: &[(&'static str, &str)],
) -> Result<(), Option<Deny>> {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, HeaderValue::from_str(value).unwrap());
    }
    let caller = credential.map_or(Caller::Anonymous, |credential| {
        Caller::Verified(Arc::new(Identity::for_test("acme", None, &[], credential)))
    });
    let facts =
        Facts { method, host: "api.example", path: "/", query: "", headers: &headers, protocol: Protocol::Http1 };
    let control = control();
    let check = pin!(control.check(Sees { facts, route: RouteId::new(route), caller: &caller }));
    match check.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(Verdict::Pass(_))) => Ok(()),
        Poll::Ready(Ok(Verdict::Deny(deny))) => Err(Some(deny)),
        Poll::Ready(Err(_)) => Err(None),
        Poll::Pending => panic!("it never waits"),
    }
}
fn post(route: u32, fields: &[(&'static str, &str)]) -> Result<(), Option<Deny>> {
    ask(route, Some(Credential::Cookie), &Method::POST, fields)
}

#[test]
fn only_cookies_on_acting_methods_need_evidence() {
    for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
        assert_eq!(ask(0, Some(Credential::Cookie), &method, &[("sec-fetch-site", "cross-site")]), Ok(()));
    }
    for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::from_bytes(b"PURGE").unwrap()] {
        assert_eq!(ask(0, Some(Credential::Cookie), &method, &[]), Err(Some(Deny::NoEvidence)), "{method}");
        for credential in [Some(Credential::Bearer), Some(Credential::ApiKey), None] {
            let fields = [("sec-fetch-site", "cross-site"), ("cookie", "x=y")];
            assert_eq!(ask(0, credential, &method, &fields), Ok(()), "the cookie is not the credential");
        }
    }
}

#[test]
fn ses_05_the_browsers_word_decides_where_it_is_given() {
    let own = ("origin", "https://api.example");
    assert_eq!(post(0, &[("sec-fetch-site", "same-origin")]), Ok(()));
    for site in ["same-site", "cross-site"] {
        assert_eq!(post(0, &[("sec-fetch-site", site)]), Err(Some(Deny::OtherOrigin)), "{site}");
        assert_eq!(
            post(0, &[("sec-fetch-site", site), own]),
            Err(Some(Deny::OtherOrigin)),
            "{site} contradicts itself"
        );
        assert_eq!(post(1, &[("sec-fetch-site", site), ("origin", "https://app.example")]), Ok(()), "{site}");
        assert_eq!(
            post(1, &[("sec-fetch-site", site), ("origin", "https://evil.example")]),
            Err(Some(Deny::OtherOrigin))
        );
    }
    assert_eq!(post(0, &[("sec-fetch-site", "none")]), Err(Some(Deny::NoEvidence)));
    assert_eq!(post(0, &[("sec-fetch-site", "none"), own]), Ok(()));
    assert_eq!(post(0, &[("sec-fetch-site", "Same-Origin"), own]), Err(Some(Deny::Ambiguous)));
    assert_eq!(
        post(0, &[("sec-fetch-site", "same-origin"), ("sec-fetch-site", "same-origin")]),
        Err(Some(Deny::Ambiguous))
    );
}

#[test]
fn without_it_the_origin_must_be_ours_or_listed() {
    let origin = |route, origin: &str| post(route, &[("origin", origin)]);
    assert_eq!(origin(0, "https://api.example"), Ok(()));
    assert_eq!(origin(1, "https://app.example"), Ok(()));
    assert_eq!(origin(0, "https://app.example"), Err(Some(Deny::OtherOrigin)));
    assert_eq!(origin(2, "https://app.example"), Err(Some(Deny::OtherOrigin)), "it may not send cookies");
    for bad in [
        "null",
        "http://api.example",
        "https://api.example.evil.example",
        "https://evil.example",
        "https://API.example",
        "https://api.example/",
        "https://api.example:8443",
        "https://xapi.example",
        "api.example",
        "",
    ] {
        assert_eq!(origin(1, bad), Err(Some(Deny::OtherOrigin)), "{bad}");
    }
    assert_eq!(
        post(0, &[("origin", "https://api.example"), ("origin", "https://api.example")]),
        Err(Some(Deny::Ambiguous))
    );
}

#[test]
fn a_port_counts_as_ours_only_where_the_client_used_it() {
    let with_host = |origin: &str, host: &str| post(0, &[("origin", origin), ("host", host)]);
    assert_eq!(with_host("https://api.example:8443", "api.example:8443"), Ok(()));
    assert_eq!(with_host("https://api.example:8443", "api.example"), Err(Some(Deny::OtherOrigin)));
    assert_eq!(with_host("https://api.example:8443", "api.example:18443"), Err(Some(Deny::OtherOrigin)));
    assert_eq!(with_host("https://api.example:843", "api.example:8443"), Err(Some(Deny::OtherOrigin)));
    assert_eq!(with_host("https://api.example:", "api.example:"), Err(Some(Deny::OtherOrigin)));
}

#[test]
fn prt_09_a_websocket_handshake_on_a_cookie_needs_evidence() {
    let handshake = |fields: &[(&'static str, &str)]| ask(0, Some(Credential::Cookie), &Method::GET, fields);
    for upgrade in ["websocket", "WebSocket", "foo, websocket", "websocket/13"] {
        assert_eq!(handshake(&[("upgrade", upgrade)]), Err(Some(Deny::NoEvidence)), "{upgrade}");
        assert_eq!(
            handshake(&[("upgrade", upgrade), ("origin", "https://evil.example")]),
            Err(Some(Deny::OtherOrigin))
        );
        assert_eq!(handshake(&[("upgrade", upgrade), ("origin", "https://api.example")]), Ok(()));
    }
    assert_eq!(handshake(&[("upgrade", "h2c")]), Ok(()));
}

#[test]
fn a_route_without_rules_is_a_fault() {
    assert_eq!(ask(9, Some(Credential::Cookie), &Method::POST, &[]), Err(None));
}
