//! THREATS I1 to I4: tenants.

use portcullis_tests::{
    Answer, Protocol, Request, Token,
    tokens::{main_key, main_token},
};

use crate::world;

#[test]
fn ten_01_the_tenant_in_a_path_must_be_the_verified_one() {
    for protocol in Protocol::BOTH {
        let seen = world().admits(protocol, &Request::get("/t/acme/things/1").bearer(main_token("acme")));
        assert_eq!(seen.header("x-portcullis-tenant").as_deref(), Some("acme"));
        for victim in ["globex", "ACME", "acme%20", "ac%6de", "nobody", "%61cme"] {
            let request = Request::get(format!("/t/{victim}/things/1")).bearer(main_token("acme"));
            let status = world().gateway.status(protocol, &request);
            assert!(matches!(status, Some(404 | 400)), "{victim} {status:?}");
            assert!(world().upstream.saw(&request.mark).is_none());
        }
        world().refuses(
            protocol,
            404,
            &Request::get("/t/acme/things").header("X-Api-Key", world().gateway.key("globex")),
        );
    }
}

#[test]
fn ten_01_a_host_of_one_tenant_is_not_there_for_another() {
    for protocol in Protocol::BOTH {
        let orders = || Request::get("/v1/orders").host("fixed.example.test");
        let seen = world().admits(protocol, &orders().bearer(main_token("globex")));
        assert_eq!(seen.header("x-portcullis-tenant").as_deref(), Some("globex"));
        world().refuses(protocol, 404, &orders().bearer(main_token("acme")));
        world().refuses(protocol, 404, &orders().header("X-Api-Key", world().gateway.key("acme")));
        world().refuses(protocol, 404, &orders().bearer(main_token("acme")).header("X-Tenant-Id", "globex"));
    }
}

#[test]
fn ten_02_a_reserved_tenant_is_no_tenant() {
    for tenant in ["system", "default", "unknown", "any", "none", "admin", "portcullis", "__system__"] {
        world().refuses_both(401, &Request::get("/v1/orders").bearer(main_token(tenant)));
    }
}

/// An answer without what is different every time.
fn constant(answer: &Answer) -> (u16, Vec<(String, String)>, String) {
    let id = answer.request_id();
    let mut headers: Vec<(String, String)> = answer
        .headers
        .iter()
        .filter(|(n, _)| !matches!(n.to_ascii_lowercase().as_str(), "date" | "x-request-id"))
        .cloned()
        .collect();
    headers.sort();
    (answer.status, headers, answer.text().replace(&id, "ID"))
}

#[test]
fn ten_03_what_belongs_to_another_tenant_looks_like_nothing() {
    for protocol in Protocol::BOTH {
        let of = |request: Request| constant(&world().gateway.ask(protocol, &request));
        let unknown = of(Request::get("/there/is/nothing").bearer(main_token("acme")));
        assert_eq!(unknown.0, 404);
        assert_eq!(of(Request::get("/there/is/nothing")), unknown, "without a credential");
        assert_eq!(
            of(Request::get("/t/globex/things/1").bearer(main_token("acme"))),
            unknown,
            "a path of another tenant"
        );
        assert_eq!(of(Request::get("/t/nobody/things/1").bearer(main_token("acme"))), unknown, "a path of no tenant");
        let fixed = of(Request::get("/v1/orders").host("fixed.example.test").bearer(main_token("acme")));
        assert_eq!(fixed, unknown, "a host of another tenant");
        // A role or scope that would not suffice must not be told first.
        let viewer = Token::main("acme").claim("roles", "viewer").claim("scope", "").sign(main_key());
        assert_eq!(of(Request::get("/t/globex/things/1").bearer(viewer)), unknown, "with fewer rights");
    }
}
