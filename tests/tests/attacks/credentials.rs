//! THREATS D25 to D29: where a credential stands, and how many there are.

use portcullis_tests::{
    Protocol, Request, Token,
    tokens::{main_key, main_token, now},
};

use crate::{tokens::with, world};

#[test]
fn jwt_25_a_token_in_the_url_is_refused_and_not_logged() {
    let token = main_token("acme");
    for name in ["access_token", "api_key", "apikey"] {
        for path in ["/v1/orders", "/public"] {
            let request = Request::get(format!("{path}?a=b&{name}={token}"));
            world().refuses_both(400, &request);
            let both = Request::get(format!("{path}?{name}={token}")).bearer(&token);
            world().refuses_both(400, &both);
        }
    }
    let answer = world().gateway.send(&Request::get(format!("/v1/orders?access_token={token}")));
    world().gateway.line(&answer.request_id());
    assert!(!world().gateway.output().contains(&token));
}

#[test]
fn jwt_26_two_credentials_are_one_too_many() {
    let (token, key) = (main_token("acme"), world().gateway.key("acme"));
    let one = || with(&token);
    world().refuses_both(400, &one().bearer(&token));
    world().refuses_both(400, &one().header("X-Api-Key", key));
    world().refuses_both(400, &Request::get("/v1/orders").bearer(key).header("X-Api-Key", key));
    world().refuses_both(
        400,
        &Request::get("/v1/orders").header("Authorization", format!("Bearer {token}, Bearer {token}")),
    );
    let cookie = format!("__Host-session={}", portcullis_tests::tokens::local_token("acme"));
    world().refuses_both(400, &Request::get("/forward").bearer(&token).header("Cookie", &cookie));
    world().refuses_both(400, &Request::get("/forward").header("X-Api-Key", key).header("Cookie", &cookie));
}

#[test]
fn jwt_27_the_scheme_has_one_form() {
    let token = main_token("acme");
    for good in ["Bearer", "bearer", "BEARER"] {
        for protocol in Protocol::BOTH {
            world().admits(protocol, &Request::get("/v1/orders").header("Authorization", format!("{good} {token}")));
        }
    }
    for bad in [
        format!("Bearer  {token}"),
        format!("Bearer\t{token}"),
        format!("Bearer {token} x"),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        format!("Bearer {token},"),
        format!("Bearer \"{token}\""),
        format!("Bearer {token}\u{e9}"),
    ] {
        world().refuses_both(400, &Request::get("/v1/orders").header("Authorization", &bad));
    }
    // Another scheme is no credential of ours, and no anonymous request either.
    for other in ["Basic dXNlcjpwYXNz", "Digest username=x", &token, "Bearer: x", "DPoP x"] {
        let request = Request::get("/v1/orders").header("Authorization", other);
        let status = world().gateway.send(&request).status;
        assert!(matches!(status, 400 | 401), "{other} {status}");
        assert!(world().upstream.saw(&request.mark).is_none());
    }
}

#[test]
fn jwt_28_a_credential_that_is_merely_present_proves_nothing() {
    for token in ["x", "null", "undefined", "eyJ", "e30.e30.e30", "acme"] {
        for protocol in Protocol::BOTH {
            world().refuses(protocol, 401, &with(token));
        }
    }
}

#[test]
fn jwt_29_a_bad_credential_on_a_public_route_is_not_ignored() {
    for protocol in Protocol::BOTH {
        world().admits(protocol, &Request::get("/public"));
        world().refuses(protocol, 401, &Request::get("/public").bearer("x"));
        let expired = Token::main("acme").claim("iat", now() - 100).claim("exp", now() - 1).sign(main_key());
        world().refuses(protocol, 401, &Request::get("/public").bearer(expired));
        world().refuses(protocol, 401, &Request::get("/public").header("X-Api-Key", "pck_live_x"));
    }
}
