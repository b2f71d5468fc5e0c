//! THREATS F7 and F8: whoever has a key wants more of its token than the key has, or for longer.

use std::sync::LazyLock;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis_tests::{
    Gateway, Key, Protocol, Request, Upstream,
    exchange::{EXCHANGE, EXCHANGE_SECRET, GRANT, TOKEN, asking, exchanging, form, part, refusal, token, told},
    tokens::{local_key, main_key, main_token},
};
use serde_json::{Value, json};

use crate::shown;

struct World {
    gateway: Gateway,
}

fn world() -> &'static World {
    static WORLD: LazyLock<World> = LazyLock::new(|| {
        // It is asked for nothing; it lives as long as the gateway.
        static UPSTREAM: LazyLock<Upstream> = LazyLock::new(Upstream::start);
        let gateway = exchanging(&UPSTREAM)
            .key("small", &["--tenant", "acme", "--role", "viewer", "--scope", "orders:read"])
            .key("filtered", &["--tenant", "acme", "--filter", r#"{"f":"region","op":"eq","v":"eu"}"#])
            .key("embed", &["--tenant", "acme", "--kind", "embed", "--filter", r#"{"f":"region","op":"eq","v":"eu"}"#])
            .start();
        World { gateway }
    });
    &WORLD
}

#[track_caller]
fn refused(request: &Request, status: u16, error: &str) {
    for protocol in Protocol::BOTH {
        let answer = world().gateway.ask(protocol, request);
        assert_eq!(refusal(&answer), (status, error.to_owned()), "{protocol:?} {}", shown(request));
        assert!(told(&answer).get("access_token").is_none());
    }
}

fn small(more: &str) -> Request {
    asking(world().gateway.key("small"), more)
}

#[test]
fn key_26_a_scope_that_the_key_lacks_is_no_scope_of_its_token() {
    for scope in [
        "orders:write",
        "orders:read+orders:write",
        "*",
        "orders:*",
        "ORDERS:READ",
        "orders:read,orders:write",
        "+",
        "orders:read++orders:read",
        "orders%3Aread%0Aorders:write",
        "%D0%BErders:read",
    ] {
        refused(&small(&format!("&scope={scope}")), 400, "invalid_scope");
    }
}

#[test]
fn key_26_a_role_above_the_keys_is_the_keys() {
    let gateway = &world().gateway;
    for role in ["developer", "admin", "owner", "viewer"] {
        let bought = token(gateway, gateway.key("small"), &format!("&portcullis_role={role}"));
        assert_eq!(part(&bought, 1)["role"], "viewer", "{role}");
        assert_eq!(gateway.send(&Request::get("/v1/admin").bearer(&bought)).status, 403);
    }
    let none = token(gateway, gateway.key("filtered"), "&portcullis_role=owner");
    assert!(part(&none, 1).get("role").is_none(), "a key without a role buys none");
    refused(&small("&portcullis_role=root"), 400, "invalid_request");
    refused(&small("&role=owner"), 400, "invalid_request");
}

#[test]
fn key_26_filters_that_widen_or_mean_two_things_buy_nothing() {
    let all = |terms: &str| format!(r#"{{"v":1,"all":[{terms}]}}"#);
    let good = r#"{"f":"region","op":"eq","v":"us"}"#;
    let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
    for filters in [
        all(r#"{"f":"region","op":"or","v":"us"}"#),
        all(r#"{"f":"region","op":"eq","v":"us","or":1}"#),
        all(r#"{"f":"region","f":"tenant","op":"eq","v":"us"}"#),
        all(r#"{"f":"region","op":"ne","op":"eq","v":"us"}"#),
        all(r#"{"f":"age","op":"gt","v":1.5}"#),
        all(r#"{"f":"age","op":"gt","v":1e3}"#),
        all(r#"{"f":"age","op":"gt","v":-1}"#),
        all(r#"{"f":"age","op":"gt","v":99999999999999999999}"#),
        all(r#"{"f":"rеgion","op":"eq","v":"us"}"#), // a Cyrillic letter
        all(r#"{"f":"region\u0000","op":"eq","v":"us"}"#),
        all(r#"{"f":"region","op":"eq","v":"u\u202es"}"#),
        all(r#"{"f":"region","op":"eq","v":{"all":[]}}"#),
        all(&format!(r#"{{"f":"region","op":"in","v":{deep}}}"#)),
        all(&format!(r#"{{"all":[{good}]}}"#)),
        all(""),
        all(&vec![good; 17].join(",")),
        all(&format!(r#"{{"f":"region","op":"eq","v":"{}"}}"#, "x".repeat(257))),
        format!(r#"{{"v":1,"all":[{good}],"any":[{good}]}}"#),
        format!(r#"{{"v":1,"v":1,"all":[{good}]}}"#),
        format!(r#"{{"v":2,"all":[{good}]}}"#),
        format!(r#"{{"v":1,"all":[{good}],"all":[{good}]}}"#),
        format!("{} trailing", all(good)),
        "null".to_owned(),
        "[]".to_owned(),
        "{}".to_owned(),
        "region='eu'%20OR%201=1".to_owned(),
    ] {
        let filters = filters.replace('+', "%2B").replace('&', "%26");
        refused(
            &asking(world().gateway.key("embed"), &format!("&portcullis_filters={filters}")),
            400,
            "invalid_request",
        );
    }
    refused(&asking(world().gateway.key("embed"), "&portcullis_filters="), 400, "invalid_request");
    refused(&asking(world().gateway.key("embed"), "&Portcullis_Filters={}"), 400, "invalid_request");
}

#[test]
fn a_request_for_a_token_is_exactly_what_rfc_8693_says() {
    let key = world().gateway.key("small");
    for grant in [
        "client_credentials",
        "authorization_code",
        "refresh_token",
        "token-exchange",
        "urn:ietf:params:oauth:grant-type:token-exchange2",
    ] {
        let body =
            format!("{GRANT}&subject_token={key}").replace("urn:ietf:params:oauth:grant-type:token-exchange", grant);
        refused(&form(&body), 400, "unsupported_grant_type");
    }
    for kind in ["jwt", "urn:ietf:params:oauth:token-type:access_token", "urn:ietf:params:oauth:token-type:jwt"] {
        let body =
            format!("{GRANT}&subject_token={key}").replace("urn:portcullis:params:oauth:token-type:api-key", kind);
        refused(&form(&body), 400, "invalid_request");
    }
    for more in [
        "&requested_token_type=urn:ietf:params:oauth:token-type:saml2",
        "&actor_token=x&actor_token_type=urn:ietf:params:oauth:token-type:jwt",
        "&client_id=small",
        "&scope=orders:read&scope=orders:read",
        "&subject_token=other",
        "&tenant=globex",
        "&tid=globex",
        "&scope",
        "&scope=%ff",
        "&%73cope=orders:read&scope=orders:read",
    ] {
        refused(&small(more), 400, "invalid_request");
    }
    for target in [
        &format!("&audience={EXCHANGE}/"),
        "&audience=upstream:app",
        "&audience=*",
        "&resource=https://app.example.test",
    ] {
        refused(&small(target), 400, "invalid_target");
    }
    refused(&form(GRANT), 400, "invalid_request");
    refused(&form(""), 400, "invalid_request");
}

#[test]
fn a_credential_elsewhere_than_in_the_form_is_not_overlooked() {
    let key = world().gateway.key("small");
    refused(&small("").header("X-Api-Key", key), 400, "invalid_request");
    refused(&small("").bearer(main_token("acme")), 400, "invalid_request");
    refused(&small("").header("Authorization", "Basic c21hbGw6eA=="), 400, "invalid_request");
    refused(&small("").header("Cookie", "__Host-session=x"), 400, "invalid_request");
    for query in ["?scope=orders:read", "?access_token=x", "?x"] {
        let mut request = small("");
        request.target = format!("{TOKEN}{query}").into_bytes();
        refused(&request, 400, "invalid_request");
    }
}

#[test]
fn what_is_no_key_buys_nothing() {
    let gateway = &world().gateway;
    let bought = token(gateway, gateway.key("small"), "");
    for subject in [&*bought, &main_token("acme"), "x", "pck_live_AAAAAAAAAAAA_x_y"] {
        refused(&asking(subject, ""), 401, "invalid_client");
    }
    let answer = gateway.send(&asking("x", ""));
    assert_eq!(answer.header("www-authenticate"), Some(r#"Bearer realm="portcullis""#));
}

/// Changes a token's header and claims.
type Change<'c> = dyn Fn(&mut Value, &mut Value) + 'c;

/// A token as the exchange makes it, with some claims changed, signed by this key.
fn forged(change: impl Fn(&mut Value, &mut Value), key: &Key) -> String {
    let bought = token(&world().gateway, world().gateway.key("small"), "");
    let (mut header, mut claims) = (part(&bought, 0), part(&bought, 1));
    change(&mut header, &mut claims);
    let encode = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let input = format!("{}.{}", encode(&header), encode(&claims));
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(key.sign(input.as_bytes())))
}

#[test]
fn a_token_of_the_exchange_is_believed_in_one_form_only() {
    let gateway = &world().gateway;
    let ours = Key::hs256("ours", EXCHANGE_SECRET);
    let status = |token: &str| gateway.send(&Request::get("/v1/orders").bearer(token)).status;
    assert_eq!(status(&forged(|_, _| {}, &ours)), 200, "the test signs as the gateway does");
    let other = world().gateway.key("globex").split('_').nth(2).expect("an id").to_owned();
    let changes: [(&str, &Change<'_>); 14] = [
        ("typ", &|header, _| header["typ"] = json!("JWT")),
        ("alg", &|header, _| header["alg"] = json!("none")),
        ("kid", &|header, _| header["kid"] = json!("local-1")),
        ("aud", &|_, claims| claims["aud"] = json!("portcullis")),
        ("aud list", &|_, claims| claims["aud"] = json!([EXCHANGE])),
        ("life", &|_, claims| claims["exp"] = json!(claims["iat"].as_u64().unwrap() + 901)),
        ("no key", &|_, claims| drop(claims.as_object_mut().unwrap().remove("key_id"))),
        ("key that is not there", &|_, claims| {
            claims["key_id"] = json!("AAAAAAAAAAAA");
            claims["sub"] = json!("apikey:AAAAAAAAAAAA");
        }),
        ("another tenant's key", &|_, claims| {
            claims["key_id"] = json!(other);
            claims["sub"] = json!(format!("apikey:{other}"));
        }),
        ("subject of another", &|_, claims| claims["sub"] = json!(format!("apikey:{other}"))),
        ("tenant", &|_, claims| claims["tid"] = json!("globex")),
        ("environment", &|_, claims| claims["env"] = json!("test")),
        ("embed without filters", &|_, claims| {
            claims["sub"] = json!(format!("embed:{}", claims["key_id"].as_str().unwrap()));
        }),
        ("filters", &|_, claims| claims["flt"] = json!({"v": 1, "all": []})),
    ];
    for (what, change) in changes {
        assert_eq!(status(&forged(change, &ours)), 401, "{what}");
    }
    for key in [main_key(), local_key(), &Key::hs256("x", b"another-secret-0123456789abcdef0123456789")] {
        assert_eq!(status(&forged(|_, _| {}, key)), 401);
    }
    let cookie = format!("__Host-session={}", forged(|_, _| {}, &ours));
    assert_eq!(gateway.send(&Request::get("/app").header("Cookie", cookie)).status, 401);
}
