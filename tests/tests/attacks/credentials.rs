//! THREATS D25 to D29: where a credential stands, and how many there are.

use portcullis_tests::{
    Protocol, Request, Token,
    tokens::{main_key, main_token, now},
};

use crate::{CHALLENGE, INVALID_REQUEST, INVALID_TOKEN, tokens::with, world};

#[track_caller]
fn malformed(request: &Request) {
    world().challenges(400, INVALID_REQUEST, request);
}

#[test]
fn jwt_25_a_token_in_the_url_is_refused_and_not_logged() {
    let token = main_token("acme");
    for name in ["access_token", "api_key", "apikey"] {
        for path in ["/v1/orders", "/public"] {
            let request = Request::get(format!("{path}?a=b&{name}={token}"));
            malformed(&request);
            let both = Request::get(format!("{path}?{name}={token}")).bearer(&token);
            malformed(&both);
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
    malformed(&one().bearer(&token));
    malformed(&one().header("X-Api-Key", key));
    malformed(&Request::get("/v1/orders").bearer(key).header("X-Api-Key", key));
    malformed(&Request::get("/v1/orders").header("Authorization", format!("Bearer {token}, Bearer {token}")));
    let cookie = format!("__Host-session={}", portcullis_tests::tokens::local_token("acme"));
    malformed(&Request::get("/forward").bearer(&token).header("Cookie", &cookie));
    malformed(&Request::get("/forward").header("X-Api-Key", key).header("Cookie", &cookie));
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
        malformed(&Request::get("/v1/orders").header("Authorization", &bad));
    }
    // Another scheme is no credential of ours, and no anonymous request either.
    for other in ["Basic dXNlcjpwYXNz", "Digest username=x", &token, "DPoP x", "Bearer"].map(str::to_owned) {
        for path in ["/v1/orders", "/public"] {
            let request = Request::get(path).header("Authorization", &other);
            if other == "Bearer" { malformed(&request) } else { world().challenges(401, INVALID_TOKEN, &request) }
        }
    }
    for no_scheme in ["Bearer: x", "", "\"Bearer\" x"] {
        malformed(&Request::get("/v1/orders").header("Authorization", no_scheme));
    }
}

#[test]
fn jwt_28_a_credential_that_is_merely_present_proves_nothing() {
    world().challenges(401, CHALLENGE, &Request::get("/v1/orders"));
    for token in ["x", "null", "undefined", "eyJ", "e30.e30.e30", "acme"] {
        world().challenges(401, INVALID_TOKEN, &with(token));
    }
    world().challenges(401, INVALID_TOKEN, &Request::get("/app").header("Cookie", "__Host-session=x"));
    world().challenges(401, INVALID_TOKEN, &Request::get("/v1/orders").header("X-Api-Key", "x"));
    // Headers of other gateways that say that somebody has looked already.
    for proof in ["X-Jwt-Payload", "X-Userinfo", "X-Forwarded-User", "X-Auth-Request-User", "X-Consumer-Username"] {
        world().challenges(401, CHALLENGE, &Request::get("/v1/orders").header(proof, "acme"));
    }
}

#[test]
fn jwt_29_a_bad_credential_on_a_public_route_is_not_ignored() {
    let public = || Request::get("/public");
    let expired = Token::main("acme").claim("iat", now() - 100).claim("exp", now() - 1).sign(main_key());
    for bad in ["x", &expired, &main_token("__system__")] {
        world().challenges(401, INVALID_TOKEN, &public().bearer(bad));
    }
    world().challenges(401, INVALID_TOKEN, &public().header("X-Api-Key", "pck_live_x"));
    world().challenges(401, INVALID_TOKEN, &public().header("Cookie", "__Host-session=x"));
    for protocol in Protocol::BOTH {
        let seen = world().admits(protocol, &public());
        assert_eq!(seen.header("x-portcullis-kind").as_deref(), Some("anonymous"));
        let seen = world().admits(protocol, &public().bearer(main_token("acme")));
        assert_eq!(seen.header("x-portcullis-subject").as_deref(), Some("main:user-1"));
    }
}
