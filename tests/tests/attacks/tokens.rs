//! THREATS D1 to D6 and D12 to D18: the form of a token. `claims.rs` has what it says, `signatures.rs` the keys and their
//! signatures, `issuers.rs` what an issuer pins, `credentials.rs` where a token stands.

use portcullis_tests::{
    Key, Protocol, Request, Setup, Token,
    tokens::{AUDIENCE, LOCAL_SECRET, b64, compact, key_set, local_token, main_key, main_token},
};
use serde_json::{Value, json};

use crate::{INVALID_REQUEST, INVALID_TOKEN, world};

pub(crate) fn with(token: impl AsRef<str>) -> Request {
    Request::get("/v1/orders").bearer(token)
}

#[track_caller]
pub(crate) fn unauthorised(token: impl AsRef<str>) {
    world().challenges(401, INVALID_TOKEN, &with(token));
}

#[track_caller]
pub(crate) fn accepted(token: impl AsRef<str>) {
    let seen = world().admits(Protocol::H1, &with(token));
    assert_eq!(seen.header("x-portcullis-tenant").as_deref(), Some("acme"));
}

pub(crate) fn payload() -> String {
    Token::main("acme").payload()
}

#[test]
fn jwt_01_no_algorithm_in_any_case() {
    accepted(main_token("acme"));
    for alg in ["none", "None", "NONE", "nOnE", "", "es256", "ES256 ", "ES384", "HS256"] {
        unauthorised(Token::main("acme").header("alg", alg).sign(main_key()));
        let header = json!({"typ": "JWT", "kid": "main-1", "alg": alg}).to_string();
        unauthorised(format!("{}.{}.", b64(header.as_bytes()), b64(payload().as_bytes())));
    }
    for alg in [Value::Null, json!(1), json!(["ES256"]), json!({})] {
        let header = json!({"typ": "JWT", "kid": "main-1", "alg": alg}).to_string();
        unauthorised(compact(&header, &payload(), main_key()));
    }
}

#[test]
fn jwt_02_a_public_key_is_no_shared_secret() {
    let jwk = main_key().jwk();
    let x = jwk["x"].as_str().expect("an EC key has x").to_owned();
    for secret in [
        main_key().public_bytes(),
        jwk.to_string().into_bytes(),
        key_set(&[main_key()]).into_bytes(),
        x.into_bytes(),
        Vec::new(),
    ] {
        unauthorised(Token::main("acme").sign(&Key::hs256("main-1", &secret)));
    }
    unauthorised(Token::main("acme").sign(&Key::hs256("main-1", LOCAL_SECRET)));
    // Nor does a key set that holds a secret make it one.
    let secret = Key::hs256("main-1", LOCAL_SECRET);
    let gateway =
        Setup::new(&world().upstream).file("jwks/main.json", key_set(&[&secret, &Key::es256("main-2")])).start();
    assert_eq!(gateway.send(&with(Token::main("acme").sign(&secret))).status, 401);
}

#[test]
fn jwt_03_a_key_in_the_token_is_not_used() {
    let attacker = Key::es256("main-1");
    unauthorised(Token::main("acme").sign(&attacker));
    unauthorised(Token::main("acme").header("jwk", attacker.jwk()).sign(&attacker));
    unauthorised(Token::main("acme").header("jwk", main_key().jwk()).sign(main_key()));
    unauthorised(Token::main("acme").header("x5c", json!(["MIIC"])).sign(main_key()));
}

#[test]
fn jwt_04_a_key_by_url_is_not_fetched() {
    let fetched = portcullis_tests::Upstream::start();
    let url = format!("http://{}/jwks.json", fetched.address());
    for member in ["jku", "x5u", "jwks_uri"] {
        unauthorised(Token::main("acme").header(member, url.clone()).sign(main_key()));
    }
    unauthorised(Token::main("acme").claim("iss", url.clone()).sign(main_key()));
    unauthorised(Token::main("acme").claim("aud", url).sign(main_key()));
    assert_eq!(fetched.connections(), 0);
}

#[test]
fn jwt_05_a_key_id_is_a_name_and_nothing_else() {
    let long = "k".repeat(10_000);
    for kid in [
        "../../dev/null",
        "' OR 1=1 --",
        "",
        "main-1 ",
        " main-1",
        "MAIN-1",
        "main-1\0",
        "main-1\nX: y",
        "unknown",
        long.as_str(),
    ] {
        unauthorised(Token::main("acme").header("kid", kid).sign(main_key()));
    }
    for kid in [json!(1), json!(["main-1"]), json!({"main-1": 1})] {
        unauthorised(Token::main("acme").header("kid", kid).sign(main_key()));
    }
    // What a client wrote there is in no log, whether it is in the grammar or not.
    for kid in ["planted-kid-0123456789", "planted-kid\n0123456789"] {
        let answer = world().gateway.send(&with(Token::main("acme").header("kid", kid).sign(main_key())));
        world().gateway.line(&answer.request_id());
    }
    assert!(!world().gateway.output().contains("planted-kid"));
}

#[test]
fn jwt_06_equal_key_ids_of_two_issuers_are_two_keys() {
    let (first, second) = (Key::es256("same"), Key::es256("same"));
    let other = "https://other.example.test";
    let gateway = Setup::new(&world().upstream)
        .file("jwks/main.json", key_set(&[&first]))
        .file("jwks/other.json", key_set(&[&second]))
        .with(&format!(
            r#"
            [issuers.other]
            issuer = "{other}"
            audiences = ["{AUDIENCE}"]
            algorithms = ["ES256"]
            keys = {{ jwks_file = "jwks/other.json" }}
            claims = {{ tenant = "tenant_id" }}
            "#
        ))
        .set(r#"hosts."api.example.test".routes.orders.auth"#, r#"{ accept = ["jwt:main", "jwt:other"] }"#)
        .start();
    let status = |token: String| gateway.send(&with(token)).status;
    // In this order, so that a cache by key id alone would be filled with the other one.
    assert_eq!(status(Token::main("acme").sign(&first)), 200);
    assert_eq!(status(Token::of(other, "acme").sign(&first)), 401);
    assert_eq!(status(Token::of(other, "acme").sign(&second)), 200);
    assert_eq!(status(Token::main("acme").sign(&second)), 401);
}

#[test]
fn jwt_13_critical_members_are_not_ignored() {
    for crit in [json!(["cnf"]), json!([]), json!(["b64"]), json!("exp"), Value::Null] {
        let header = json!({"alg": "ES256", "kid": "main-1", "crit": crit}).to_string();
        unauthorised(compact(&header, &payload(), main_key()));
    }
}

#[test]
fn jwt_14_an_unencoded_payload() {
    for b64 in [json!(false), json!(true)] {
        unauthorised(Token::main("acme").header("b64", b64).sign(main_key()));
    }
    unauthorised(Token::main("acme").header("b64", false).header("crit", json!(["b64"])).sign(main_key()));
}

#[test]
fn jwt_15_a_token_for_something_else() {
    accepted(Token::main("acme").header("typ", "at+jwt").sign(main_key()));
    accepted(Token::main("acme").headerless("typ").sign(main_key()));
    for typ in ["logout+jwt", "portcullis-session+jwt", "portcullis-assertion+jwt", "dpop+jwt", "JWE", ""] {
        unauthorised(Token::main("acme").header("typ", typ).sign(main_key()));
    }
    unauthorised(Token::main("acme").header("cty", "JWT").sign(main_key()));
    // A session's token is none for the API, and the API's is none in the session's cookie.
    unauthorised(local_token("acme"));
    let in_cookie = Request::get("/app").header("Cookie", format!("__Host-session={}", main_token("acme")));
    world().challenges(401, INVALID_TOKEN, &in_cookie);
}

#[test]
fn jwt_15_an_issuer_may_pin_its_type() {
    let gateway = Setup::new(&world().upstream).with("issuers.main.typ = \"at+jwt\"").start();
    let status = |token: Token| gateway.send(&with(token.sign(main_key()))).status;
    assert_eq!(status(Token::main("acme").header("typ", "at+jwt")), 200);
    assert_eq!(status(Token::main("acme")), 401);
    assert_eq!(status(Token::main("acme").headerless("typ")), 401);
}

#[test]
fn jwt_16_other_shapes_than_three_parts() {
    let good = main_token("acme");
    let parts: Vec<&str> = good.split('.').collect();
    let (h, p, s) = (parts[0], parts[1], parts[2]);
    for bad in [
        format!("{h}.{p}"),
        format!("{h}.{p}."),
        format!(".{p}.{s}"),
        format!("{h}..{s}"),
        format!("{h}.{p}.{s}."),
        format!("{h}.{p}.{s}.{s}.{s}"),
        format!("{h}.{p}.{s}.x"),
        "..".to_owned(),
        ".".to_owned(),
        "a.b.c".to_owned(),
    ] {
        unauthorised(bad);
    }
}

#[test]
fn jwt_16_base64_has_one_spelling() {
    let good = main_token("acme");
    // The last character of a 64-byte signature carries 2 bits that must be zero.
    let last = good.chars().last().expect("a token has characters");
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let at = alphabet.find(last).expect("base64url");
    let twin = alphabet.chars().nth(at ^ 1).expect("64 characters");
    unauthorised(format!("{}{twin}", &good[..good.len() - 1]));
    unauthorised(format!("{good}A"));
    unauthorised(format!("{good}="));
    unauthorised(format!("{good}=="));
    // `=` stands nowhere but at the end of a credential.
    world().challenges(400, INVALID_REQUEST, &with(good.replacen('.', "=.", 1)));
    let standard = good.replacen(['-', '_'], "+", 1);
    unauthorised(if standard == good { format!("{good}+") } else { standard });
}

#[test]
fn jwt_17_compression_and_password_based_encryption() {
    unauthorised(Token::main("acme").header("zip", "DEF").sign(main_key()));
    unauthorised(Token::main("acme").header("p2c", 2_000_000_000).header("p2s", "x").sign(main_key()));
    unauthorised(Token::main("acme").header("enc", "A256GCM").sign(main_key()));
}

#[test]
fn jwt_18_a_huge_token() {
    let fill = |count: usize| Token::main("acme").claim("x", json!(vec!["y".repeat(1000); count])).sign(main_key());
    accepted(fill(4));
    unauthorised(fill(7));
    unauthorised("a".repeat(8193));
    unauthorised(format!("{}.{}.{}", "a".repeat(4000), "b".repeat(4000), "c".repeat(4000)));
    unauthorised(Token::main("acme").header("typ", "j".repeat(1100)).sign(main_key()));
}

#[test]
fn jwt_18_the_longest_token_and_one_byte_more() {
    let header = r#"{"alg":"ES256","kid":"main-1"}"#;
    let spaces = |count: usize| " ".repeat(count);
    // White space is part of neither value, so it fills a part to the byte.
    accepted(compact(&format!("{header}{}", spaces(1024 - header.len())), &payload(), main_key()));
    unauthorised(compact(&format!("{header}{}", spaces(1025 - header.len())), &payload(), main_key()));
    let payload = payload();
    let token = |bytes: usize| compact(header, &format!("{payload}{}", spaces(bytes - payload.len())), main_key());
    let longest = (payload.len()..).take_while(|bytes| token(*bytes).len() <= 8192).last().expect("a short one");
    let (at, past) = (token(longest), token(longest + 1));
    assert!((8191..=8192).contains(&at.len()) && (8193..=8194).contains(&past.len()), "{} {}", at.len(), past.len());
    accepted(at);
    unauthorised(past);
}
