//! THREATS D7, D9 to D11, D15, D30: what the operator pins for one issuer holds for its tokens, and for no other's.

use portcullis_tests::{
    Gateway, Key, Request, Setup, Token,
    tokens::{AUDIENCE, key_set, local_key, main_key, now},
};
use serde_json::json;

use crate::{INVALID_TOKEN, tokens::with, world};

const OTHER: &str = "https://other.example.test";

/// The default with a second issuer, `other`, of the keys of `main` and with this more; the route of orders takes both.
fn setup(main: &str, other: &str, keys: &[&Key]) -> Setup {
    Setup::new(&world().upstream)
        .file("jwks/main.json", key_set(keys))
        .with(&format!(
            r#"
            [issuers.other]
            issuer = "{OTHER}"
            audiences = ["{AUDIENCE}"]
            algorithms = ["ES256"]
            keys = {{ jwks_file = "jwks/main.json" }}
            claims = {{ tenant = "tenant_id" }}
            "#
        ))
        .set(r#"hosts."api.example.test".routes.orders.auth"#, r#"{ accept = ["jwt:main", "jwt:other"] }"#)
        .with(&pins("main", main))
        .with(&pins("other", other))
}

fn pins(issuer: &str, lines: &str) -> String {
    format!("[issuers.{issuer}]\n{lines}")
}

/// Asserts 200, or 401 and its challenge.
#[track_caller]
fn takes(gateway: &Gateway, yes: bool, token: String) {
    let answer = gateway.send(&with(token));
    let told = (answer.status, answer.all("www-authenticate"));
    assert_eq!(told, if yes { (200, vec![]) } else { (401, vec![INVALID_TOKEN]) });
}

fn main() -> Token {
    Token::main("acme")
}

fn other() -> Token {
    Token::of(OTHER, "acme")
}

#[test]
fn jwt_02_an_issuer_has_its_own_algorithms() {
    // Both issuers have both keys.
    let (ec, ed) = (Key::es256("ec"), Key::eddsa("ed"));
    let gateway = setup("", "algorithms = [\"EdDSA\"]", &[&ec, &ed]).start();
    takes(&gateway, true, main().sign(&ec));
    takes(&gateway, true, other().sign(&ed));
    takes(&gateway, false, main().sign(&ed));
    takes(&gateway, false, other().sign(&ec));
}

#[test]
fn jwt_15_an_issuer_has_its_own_type() {
    let gateway = setup("typ = \"at+jwt\"", "typ = \"portcullis-exchange+jwt\"", &[main_key()]).start();
    let ours = |token: Token, typ: &str| token.header("typ", typ).sign(main_key());
    takes(&gateway, true, ours(main(), "at+jwt"));
    takes(&gateway, true, ours(other(), "portcullis-exchange+jwt"));
    for typ in ["portcullis-exchange+jwt", "JWT", "AT+JWT", "application/at+jwt", "at+jwt ", ""] {
        takes(&gateway, false, ours(main(), typ));
    }
    takes(&gateway, false, ours(other(), "at+jwt"));
    takes(&gateway, false, main().headerless("typ").sign(main_key()));
}

#[test]
fn jwt_11_an_issuer_has_its_own_audiences() {
    let gateway = setup("audiences = [\"api\", \"mobile\"]", "audiences = [\"partner\"]", &[main_key()]).start();
    let to = |token: Token, aud: serde_json::Value| token.claim("aud", aud).sign(main_key());
    for aud in [json!("api"), json!("mobile"), json!(["partner", "api"])] {
        takes(&gateway, true, to(main(), aud));
    }
    takes(&gateway, true, to(other(), json!("partner")));
    for aud in ["partner", AUDIENCE, "api mobile", "api,mobile", "ap"] {
        takes(&gateway, false, to(main(), json!(aud)));
    }
    takes(&gateway, false, to(other(), json!(["api", "mobile"])));
}

#[test]
fn jwt_11_a_token_of_a_shared_secret_is_for_one_audience() {
    let of = |aud: serde_json::Value| {
        Request::get("/local").bearer(Token::local("acme").claim("aud", aud).sign(local_key()))
    };
    assert_eq!(world().gateway.send(&of(json!(AUDIENCE))).status, 200);
    for aud in [json!([AUDIENCE]), json!([AUDIENCE, "other"]), json!("other"), json!([])] {
        world().challenges(401, INVALID_TOKEN, &of(aud));
    }
}

#[test]
fn jwt_09_an_issuer_has_its_own_longest_lifetime() {
    let gateway = setup("max_lifetime = \"5m\"", "max_lifetime = \"2h\"", &[main_key()]).start();
    let issued = now() - 10;
    let lives = |token: Token, seconds: u64| token.claim("iat", issued).claim("exp", issued + seconds).sign(main_key());
    takes(&gateway, true, lives(main(), 300));
    takes(&gateway, false, lives(main(), 301));
    takes(&gateway, true, lives(other(), 7200));
    takes(&gateway, false, lives(other(), 7201));
}

#[test]
fn jwt_10_an_issuer_has_its_own_skew_of_at_most_30_s_and_none_for_exp() {
    let gateway = setup("clock_skew = \"1s\"", "clock_skew = \"30s\"", &[main_key()]).start();
    for name in ["iat", "nbf"] {
        takes(&gateway, false, main().claim(name, now() + 20).sign(main_key()));
        takes(&gateway, true, other().claim(name, now() + 20).sign(main_key()));
        takes(&gateway, false, other().claim(name, now() + 60).sign(main_key()));
    }
    for token in [main(), other()] {
        takes(&gateway, false, token.claim("iat", now() - 60).claim("exp", now()).sign(main_key()));
    }
    refused("issuers.main.clock_skew", "\"31s\"", "clock_skew 31s is more than 30s");
    refused("issuers.main.max_lifetime", "\"8d\"", "max_lifetime");
}

#[test]
fn claims_are_read_where_the_operator_says_they_are() {
    let elsewhere = r#"
        claims = { tenant = "org.id", roles = "realm_access.roles", scopes = "https://gw.example.test/scopes" }
        roles = { "gw-reader" = "viewer", "gw-boss" = "owner" }
    "#;
    let gateway = setup(elsewhere, "", &[main_key()]).start();
    let good = main()
        .without("tenant_id")
        .claim("org", json!({"id": "acme", "tenant_id": "globex"}))
        .claim("realm_access", json!({"roles": ["gw-boss", "gw-reader", "root"]}))
        .claim("https://gw.example.test/scopes", json!(["orders", "orders:write"]));
    let told = |token: &Token| {
        let request = with(token.sign(main_key()));
        assert_eq!(gateway.send(&request).status, 200);
        let seen = world().upstream.seen(&request.mark);
        ["x-portcullis-tenant", "x-portcullis-role", "x-portcullis-scopes"].map(|name| seen.header(name))
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(told(&good), [some("acme"), some("owner"), some("orders orders:write")]);
    // What stands where another issuer has it, or nearly there, says nothing.
    let decoys = good
        .clone()
        .without("realm_access")
        .without("https://gw.example.test/scopes")
        .claim("tenant_id", "globex")
        .claim("tenant", "globex")
        .claim("org.id", "globex")
        .claim("roles", json!(["gw-boss"]))
        .claim("realm_access.roles", json!(["gw-boss"]))
        .claim("scope", "orders:write");
    assert_eq!(told(&decoys), [some("acme"), None, None]);
    for org in [json!("acme"), json!({"id": {"id": "acme"}}), json!([{"id": "acme"}]), json!({"ID": "acme"}), json!({})]
    {
        takes(&gateway, false, good.clone().claim("org", org).claim("tenant_id", "acme").sign(main_key()));
    }
    takes(&gateway, false, main().sign(main_key()));
    // The other issuer's tenant stands where it always did.
    takes(&gateway, true, other().sign(main_key()));
}

#[test]
fn an_unknown_role_is_no_role_and_opens_nothing() {
    let mapped = r#"roles = { "gw-reader" = "viewer", "gw-boss" = "admin" }"#;
    let gateway = setup(mapped, "", &[main_key()]).start();
    let ask = |roles: serde_json::Value| {
        let request = Request::get("/v1/admin").bearer(main().claim("roles", roles).sign(main_key()));
        gateway.send(&request).status
    };
    assert_eq!(ask(json!("gw-boss")), 200);
    assert_eq!(ask(json!(["root", "gw-boss"])), 200);
    // Our own names are unknown once others are written; and nothing is folded, trimmed or split.
    for roles in
        ["admin", "owner", "GW-BOSS", "gw-boss ", " gw-boss", "gw-boss,x", "gw-boss gw-reader", "root", "*", ""]
    {
        assert_eq!(ask(json!(roles)), 403, "{roles}");
        assert_eq!(ask(json!([roles])), 403, "{roles}");
        let request = with(main().claim("roles", roles).sign(main_key()));
        assert_eq!(gateway.send(&request).status, 200);
        assert_eq!(world().upstream.seen(&request.mark).header("x-portcullis-role"), None, "{roles}");
    }
    assert_eq!(ask(json!("gw-reader")), 403);
    assert_eq!(ask(json!([])), 403);
    for malformed in [json!(1), json!({"gw-boss": true}), json!([["gw-boss"]]), json!(null)] {
        let request = Request::get("/v1/admin").bearer(main().claim("roles", malformed).sign(main_key()));
        let answer = gateway.send(&request);
        assert_eq!((answer.status, answer.all("www-authenticate")), (401, vec![INVALID_TOKEN]));
    }
}

/// Asserts that the default configuration with this setting is refused at the start, in these words.
#[track_caller]
fn refused(path: &str, value: &str, words: &str) {
    let output = Setup::new(&world().upstream).set(path, value).check();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{path} = {value}: {said}");
    assert!(said.contains(words), "{path} = {value}: {said}");
}

#[test]
fn jwt_02_a_public_key_and_a_secret_are_never_of_one_issuer() {
    refused("issuers.main.algorithms", r#"["ES256", "HS256"]"#, "mixes HS256 with public-key algorithms");
    refused("issuers.main.algorithms", r#"["HS256"]"#, "HS256 needs a secret");
    refused("issuers.local.algorithms", r#"["RS256"]"#, "public-key algorithms need a key set");
}

#[test]
fn jwt_15_two_issuers_have_two_names_and_two_secrets() {
    for (issuer, words) in [
        ("https://local.example.test", "have the same `issuer`"),
        ("https://LOCAL.example.test/", "have nearly the same `issuer`"),
    ] {
        refused("issuers.main.issuer", &format!("{issuer:?}"), words);
    }
    let twin = Setup::new(&world().upstream).with(
        r#"
        [issuers.session]
        issuer = "https://session.example.test"
        audiences = ["session"]
        algorithms = ["HS256"]
        keys = { secret = "file:secrets/local" }
        claims = { tenant = "tenant_id" }
        "#,
    );
    let output = twin.check();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("`local` and `session` have one secret"), "{said}");
}

#[test]
fn jwt_30_nothing_that_is_written_reads_a_token_without_verifying_it() {
    refused("issuers.main.algorithms", r#"["none"]"#, "none");
    refused("issuers.main.algorithms", "[]", "no algorithm");
    refused("issuers.main.audiences", "[]", "no audience");
    for (path, value) in [
        ("issuers.main.verify", "\"off\""),
        ("issuers.main.verify_signature", "false"),
        ("issuers.main.mode", "\"extract\""),
        ("issuers.main.mode", "\"shadow\""),
        ("issuers.main.on_failure", "\"pass\""),
        ("controls.authentication", "\"off\""),
        (r#"hosts."api.example.test".routes.orders.auth.optional"#, "\"yes\""),
        (r#"hosts."api.example.test".routes.orders.auth.public"#, "\"tests of both at once\""),
    ] {
        refused(path, value, "");
    }
    for needed in ["issuer", "audiences", "algorithms", "keys", "claims"] {
        let output = Setup::new(&world().upstream).remove(&format!("issuers.main.{needed}")).check();
        assert_eq!(output.status.code(), Some(1), "without {needed}");
    }
}
