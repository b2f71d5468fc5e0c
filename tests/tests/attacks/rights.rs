//! What a caller may do depends on the environment and on how long ago they signed in.

use portcullis_tests::{
    Gateway, Request, Setup, Token,
    tokens::{main_key, now},
};
use serde_json::{Value, json};

use crate::{INVALID_TOKEN, world};

fn ask(gateway: &Gateway, path: &str, token: &Token) -> (u16, String) {
    let answer = gateway.send(&Request::get(path).bearer(token.sign(main_key())));
    let code = if answer.status == 200 { String::new() } else { answer.code() };
    (answer.status, code)
}

const ROUTE: &str = r#"hosts."api.example.test".routes.live.auth"#;

#[test]
fn a_step_up_is_asked_for_with_its_age() {
    let gateway = Setup::new(&world().upstream).set(ROUTE, r#"{ accept = ["jwt:main"], max_auth_age = "5m" }"#).start();
    let signed_in = |at: Value| Token::main("acme").claim("auth_time", at);
    assert_eq!(ask(&gateway, "/v1/live", &signed_in(json!(now() - 100))).0, 200);
    for token in [signed_in(json!(now() - 400)), Token::main("acme")] {
        let answer = gateway.send(&Request::get("/v1/live").bearer(token.sign(main_key())));
        assert_eq!((answer.status, answer.code()), (401, "authorization.auth_age".to_owned()));
        let challenge = r#"Bearer realm="portcullis", error="insufficient_user_authentication", max_age="300""#;
        assert_eq!(answer.all("www-authenticate"), vec![challenge]);
    }
    // What is no time is no token, and a sign-in that is yet to come is none.
    for at in [json!("now"), json!(-1), json!(1.5), json!(null), json!(now() + 600)] {
        let answer = gateway.send(&Request::get("/v1/live").bearer(signed_in(at).sign(main_key())));
        assert_eq!((answer.status, answer.all("www-authenticate")), (401, vec![INVALID_TOKEN]));
    }
    // The same token again, which is remembered as verified: it is judged by the time of each request.
    let token = signed_in(json!(now() - 298));
    let text = token.sign(main_key());
    let status = || gateway.send(&Request::get("/v1/live").bearer(&text)).status;
    assert_eq!(status(), 200);
    portcullis_tests::wait_for("the sign-in to be too long ago", || (status() == 401).then_some(()));
    assert_eq!(gateway.send(&Request::get("/v1/orders").bearer(&text)).status, 200, "other routes do not ask");
}

#[test]
fn a_role_is_the_lesser_of_the_callers_and_the_environments() {
    let gateway = Setup::new(&world().upstream)
        .set(ROUTE, r#"{ accept = ["jwt:main", "api_key"], environment = "live", role = "developer" }"#)
        .set("issuers.main.claims.environments", "\"envs\"")
        .start();
    let of = |roles: &str, envs: Value| Token::main("acme").claim("roles", roles).claim("envs", envs);
    let told = |token: &Token| {
        let request = Request::get("/v1/live").bearer(token.sign(main_key()));
        assert_eq!(gateway.send(&request).status, 200);
        let seen = world().upstream.seen(&request.mark);
        ["x-portcullis-role", "x-portcullis-env"].map(|name| seen.header(name).unwrap_or_default())
    };
    assert_eq!(told(&of("owner", json!({"live": "developer", "test": "owner"}))), ["developer", "live"]);
    assert_eq!(told(&of("developer", json!({"live": "owner"}))), ["developer", "live"]);
    let role = (403, "authorization.role".to_owned());
    let kept_out = (403, "authorization.environment".to_owned());
    for (token, answer) in [
        (of("owner", json!({"live": "viewer"})), &role),
        (of("viewer", json!({"live": "owner"})), &role),
        (of("owner", json!({"live": "root"})), &role),
        (of("root", json!({"live": "owner"})), &role),
        (of("owner", json!({"test": "owner"})), &kept_out),
        (of("owner", json!({})), &kept_out),
        (Token::main("acme").claim("roles", "owner"), &kept_out),
    ] {
        assert_eq!(ask(&gateway, "/v1/live", &token), *answer, "{token:?}");
        // The second time it is remembered.
        assert_eq!(ask(&gateway, "/v1/live", &token), *answer, "{token:?}");
    }
    for envs in [json!("live"), json!(["live"]), json!({"live": 1}), json!({"LIVE": "owner"}), json!(null)] {
        assert_eq!(ask(&gateway, "/v1/live", &of("owner", envs)).1, "authentication.invalid");
    }
    // Where no environment is asked for the role is the caller's own.
    assert_eq!(ask(&gateway, "/v1/admin", &of("admin", json!({"live": "viewer"}))).0, 200);
    assert_eq!(gateway.send(&Request::get("/v1/live").header("X-Api-Key", gateway.key("acme"))).status, 200);
}
