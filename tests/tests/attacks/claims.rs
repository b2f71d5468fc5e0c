//! THREATS D7 to D12, D19, D31: what a token says.

use portcullis_tests::{
    Token,
    tokens::{AUDIENCE, MAIN_ISSUER, compact, local_key, main_key, now},
};
use serde_json::{Value, json};

use crate::tokens::{accepted, payload, unauthorised};

#[test]
fn jwt_07_the_issuer_is_one_exact_string() {
    for issuer in [
        json!("https://id.example.test/"),
        json!("https://ID.example.test"),
        json!("https://other.example.test"),
        json!(""),
        json!(1),
        json!([MAIN_ISSUER]),
        json!(["https://evil.example.test", MAIN_ISSUER]),
        json!({}),
        Value::Null,
        json!("main"),
    ] {
        unauthorised(Token::main("acme").claim("iss", issuer).sign(main_key()));
    }
    unauthorised(Token::main("acme").without("iss").sign(main_key()));
    // A good token of an issuer that this route does not accept.
    unauthorised(Token::local("acme").sign(local_key()));
}

#[test]
fn jwt_08_claims_of_a_wrong_type_or_missing_ones() {
    for name in ["exp", "iat", "sub", "aud", "jti", "tenant_id"] {
        unauthorised(Token::main("acme").without(name).sign(main_key()));
        for value in [Value::Null, json!({}), json!([]), json!(true), json!("")] {
            unauthorised(Token::main("acme").claim(name, value).sign(main_key()));
        }
    }
    let soon = now() + 60;
    for name in ["exp", "iat", "nbf"] {
        for value in
            [json!(soon.to_string()), json!(soon as f64 + 0.5), json!(-1), json!(0), json!("9999999999"), json!([soon])]
        {
            unauthorised(Token::main("acme").claim(name, value).sign(main_key()));
        }
    }
    for value in [json!(1), json!(["user-1"]), json!("s".repeat(256))] {
        unauthorised(Token::main("acme").claim("sub", value).sign(main_key()));
    }
    for value in [json!(1), json!(["acme"]), json!(["acme", "globex"])] {
        unauthorised(Token::main("acme").claim("tenant_id", value).sign(main_key()));
    }
}

#[test]
fn jwt_09_a_lifetime_has_an_end() {
    let now = now();
    accepted(Token::main("acme").claim("iat", now - 10).claim("exp", now - 10 + 3600).sign(main_key()));
    for exp in [
        json!(now - 10 + 3601),
        json!(now + 86_400),
        json!(1_000_000_000_000_000_000_u64),
        json!(u64::MAX),
        json!(9_007_199_254_740_992_u64),
    ] {
        unauthorised(Token::main("acme").claim("iat", now - 10).claim("exp", exp).sign(main_key()));
    }
    // The multiplication that overflows.
    let payload = payload();
    let (before, after) = payload.split_once("\"exp\":").expect("it expires");
    let rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
    unauthorised(compact(r#"{"alg":"ES256","kid":"main-1"}"#, &format!("{before}\"exp\":1e300{rest}"), main_key()));
}

#[test]
fn jwt_10_a_clock_that_is_wrong_helps_nobody() {
    let now = now();
    accepted(Token::main("acme").claim("iat", now + 10).claim("exp", now + 600).sign(main_key()));
    accepted(Token::main("acme").claim("nbf", now + 10).sign(main_key()));
    unauthorised(Token::main("acme").claim("iat", now + 120).claim("exp", now + 600).sign(main_key()));
    unauthorised(Token::main("acme").claim("nbf", now + 120).sign(main_key()));
    unauthorised(Token::main("acme").claim("iat", now - 100).claim("exp", now - 1).sign(main_key()));
    unauthorised(Token::main("acme").claim("iat", now - 100).claim("exp", now).sign(main_key()));
    // Issued after it expires.
    unauthorised(Token::main("acme").claim("iat", now + 20).claim("exp", now + 10).sign(main_key()));
}

#[test]
fn jwt_11_the_audience_must_be_ours() {
    accepted(Token::main("acme").claim("aud", json!([AUDIENCE])).sign(main_key()));
    accepted(Token::main("acme").claim("aud", json!(["other", AUDIENCE])).sign(main_key()));
    let nine: Vec<String> = (0..8).map(|i| format!("a{i}")).chain([AUDIENCE.to_owned()]).collect();
    for audience in [
        json!("other"),
        json!(["other"]),
        json!(""),
        json!([]),
        json!(1),
        json!([1, AUDIENCE]),
        json!("Portcullis"),
        json!(nine),
    ] {
        unauthorised(Token::main("acme").claim("aud", audience).sign(main_key()));
    }
}

#[test]
fn jwt_12_a_member_that_is_there_twice() {
    let header = r#"{"alg":"ES256","kid":"main-1","typ":"JWT"}"#;
    accepted(compact(header, &payload(), main_key()));
    for twice in [
        r#""tenant_id":"globex","#,
        r#""tenant_id":"acme","#,
        r#""sub":"root","#,
        r#""\u0074enant_id":"globex","#,
        r#""x":{"a":1,"a":2},"#,
    ] {
        let payload = payload().replacen('{', &format!("{{{twice}"), 1);
        unauthorised(compact(header, &payload, main_key()));
    }
    unauthorised(compact(r#"{"alg":"ES256","kid":"main-1","alg":"ES256"}"#, &payload(), main_key()));
    unauthorised(compact(r#"{"alg":"none","alg":"ES256","kid":"main-1"}"#, &payload(), main_key()));
}

#[test]
fn jwt_19_a_structure_bomb() {
    // The payload is the first of 8 levels, and has members of its own.
    let nested = |depth: usize| (0..depth).fold(json!(1), |inner, _| json!({ "n": inner }));
    let own = payload().matches("\":").count();
    let members = |count: usize| -> Value {
        (0..count).map(|i| (format!("m{i}"), json!(i))).collect::<serde_json::Map<_, _>>().into()
    };
    for (at_the_edge, past_it) in [
        (nested(7), nested(8)),
        (members(127 - own), members(128 - own)),
        (json!("s".repeat(1024)), json!("s".repeat(1025))),
        (json!(vec![1; 128]), json!(vec![1; 129])),
    ] {
        accepted(Token::main("acme").claim("x", at_the_edge).sign(main_key()));
        unauthorised(Token::main("acme").claim("x", past_it).sign(main_key()));
    }
    let header = r#"{"alg":"ES256","kid":"main-1"}"#;
    for (open, close) in [("[", "]"), ("{\"n\":", "}")] {
        let raw = format!("{{\"x\":{}1{},{}", open.repeat(700), close.repeat(700), &payload()[1..]);
        unauthorised(compact(header, &raw, main_key()));
        // Never closed.
        unauthorised(compact(header, &format!("{{\"x\":{}", open.repeat(900)), main_key()));
    }
    unauthorised(Token::main("acme").claim(&"n".repeat(1025), 1).sign(main_key()));
    let header = format!("{{\"alg\":\"ES256\",\"kid\":\"main-1\",\"typ\":{}1{}}}", "[".repeat(400), "]".repeat(400));
    unauthorised(compact(&header, &payload(), main_key()));
}

#[test]
fn jwt_31_a_token_bound_to_a_key_is_not_a_bearer_token() {
    for cnf in [json!({"jkt": "x"}), json!({"x5t#S256": "x"}), json!({}), Value::Null] {
        unauthorised(Token::main("acme").claim("cnf", cnf).sign(main_key()));
    }
}
