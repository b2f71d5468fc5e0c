//! The exchange: an API key buys a token that lives for minutes, has the key's rights or fewer, and ends with its key.

use std::sync::LazyLock;

use portcullis_tests::{
    Dial, Gateway, H1, Protocol, Request, Setup, Upstream,
    exchange::{EXCHANGE, TOKEN, asking, exchanging, form, part, refusal, token, told},
    wait_for,
};
use serde_json::json;

use crate::World;

/// One gateway whose keys buy tokens, and its upstream.
fn world() -> &'static World {
    static WORLD: LazyLock<World> = LazyLock::new(|| {
        let upstream = Upstream::start();
        let gateway = exchanging(&upstream)
            .key(
                "writer",
                &["--tenant", "acme", "--role", "developer", "--scope", "orders:read", "--scope", "orders:write"],
            )
            .key("test", &["--tenant", "acme", "--env", "test"])
            .key("here", &["--tenant", "acme", "--cidr", "127.0.0.1/32", "--route", "api.example.test/orders"])
            .start();
        World { upstream, gateway }
    });
    &WORLD
}

fn id(key: &str) -> &str {
    key.split('_').nth(2).expect("a key has an id")
}

fn status(gateway: &Gateway, path: &str, token: &str) -> u16 {
    gateway.send(&Request::get(path).bearer(token)).status
}

#[test]
fn a_key_buys_a_token_that_says_who_it_is_and_the_app_is_told_the_same_of_both() {
    let World { upstream, gateway } = world();
    let key = gateway.key("writer");
    for protocol in Protocol::BOTH {
        let answer = gateway.ask(protocol, &asking(key, ""));
        assert_eq!(answer.status, 200, "{answer:?}");
        let told = told(&answer);
        let wanted = ("urn:ietf:params:oauth:token-type:access_token", "Bearer", 300, "orders:read orders:write");
        assert_eq!(
            (&told["issued_token_type"], &told["token_type"], &told["expires_in"], &told["scope"]),
            (&json!(wanted.0), &json!(wanted.1), &json!(wanted.2), &json!(wanted.3))
        );
        let token = told["access_token"].as_str().expect("a token");
        let (header, claims) = (part(token, 0), part(token, 1));
        assert_eq!((&header["alg"], &header["typ"]), (&json!("HS256"), &json!("at+jwt")));
        for (name, value) in [
            ("iss", json!(EXCHANGE)),
            ("aud", json!(EXCHANGE)),
            ("sub", json!(format!("apikey:{}", id(key)))),
            ("tid", json!("acme")),
            ("env", json!("live")),
            ("role", json!("developer")),
            ("scp", json!(["orders:read", "orders:write"])),
            ("key_id", json!(id(key))),
        ] {
            assert_eq!(claims[name], value, "{name} in {claims}");
        }
        assert_eq!(claims["exp"].as_u64().zip(claims["iat"].as_u64()).map(|(exp, iat)| exp - iat), Some(300));

        let by_token = Request::get("/v1/scoped").bearer(token);
        let by_key = Request::get("/v1/scoped").header("X-Api-Key", key);
        let seen = [by_token, by_key].map(|request| {
            assert_eq!(gateway.ask(protocol, &request).status, 200);
            upstream.seen(&request.mark)
        });
        for name in ["subject", "kind", "role", "env", "scopes", "tenant"] {
            let [of_token, of_key] = seen.each_ref().map(|seen| seen.header(&format!("x-portcullis-{name}")));
            assert!(of_token.is_some(), "{name}");
            assert_eq!(of_token, of_key, "{name}");
        }
        assert!(seen.iter().all(|seen| seen.header("authorization").is_none()), "the upstream never sees a token");
    }
}

#[test]
fn what_is_asked_for_narrows_the_token() {
    let gateway = &world().gateway;
    let key = gateway.key("writer");
    let read = token(gateway, key, "&scope=orders:read&portcullis_role=viewer");
    assert_eq!((&part(&read, 1)["scp"], &part(&read, 1)["role"]), (&json!(["orders:read"]), &json!("viewer")));
    assert_eq!((status(gateway, "/v1/orders", &read), status(gateway, "/v1/scoped", &read)), (200, 403));
    let answer = gateway
        .send(&asking(key, &format!("&audience={EXCHANGE}&requested_token_type=urn:ietf:params:oauth:token-type:jwt")));
    assert_eq!(told(&answer)["issued_token_type"], "urn:ietf:params:oauth:token-type:jwt");
}

#[test]
fn a_token_is_taken_where_a_route_says_so_and_nowhere_else() {
    let gateway = &world().gateway;
    let bought = token(gateway, gateway.key("writer"), "");
    assert_eq!(status(gateway, "/v1/orders", &bought), 200);
    assert_eq!(status(gateway, "/public", &bought), 200, "a public route knows every credential");
    assert_eq!(status(gateway, "/local", &bought), 401, "it accepts tokens of another issuer");
    assert_eq!(status(gateway, "/t/acme/things", &bought), 200);
    assert_eq!(status(gateway, "/t/globex/things", &bought), 404, "the tenant is the key's");
    let test = token(gateway, gateway.key("test"), "");
    assert_eq!((status(gateway, "/v1/live", &bought), status(gateway, "/v1/live", &test)), (200, 401));
    let fixed = gateway.send(&asking(gateway.key("writer"), "").host("fixed.example.test"));
    assert_eq!(fixed.status, 404, "a host that does not say so serves none: {fixed:?}");
}

#[test]
fn where_and_for_what_a_key_may_be_used_holds_for_its_tokens() {
    let gateway = &world().gateway;
    let key = gateway.key("here");
    let bought = token(gateway, key, "");
    assert_eq!(status(gateway, "/v1/orders", &bought), 200);
    let refused = gateway.send(&Request::get("/v1/live").bearer(&bought));
    assert_eq!((refused.status, refused.code()), (403, "authentication.key_route".to_owned()));
    let elsewhere = Dial::tls(gateway.address(), portcullis_tests::request::HOST).from("127.0.0.9");
    let refused = gateway.send_from(&elsewhere, &Request::get("/v1/orders").bearer(&bought));
    assert_eq!((refused.status, refused.code()), (403, "authentication.key_address".to_owned()));
    let refused = gateway.send_from(&elsewhere, &asking(key, ""));
    assert_eq!((refused.status, refused.code()), (403, "exchange.key_address".to_owned()));
}

#[test]
fn a_token_ends_with_its_key_also_when_it_is_remembered() {
    let upstream = Upstream::start();
    let gateway = exchanging(&upstream).with("[revocations]\njournal = \"revocations.journal\"").start();
    for how in ["keys revoke", "revoke api_key", "gone"] {
        let key = gateway.setup().issued(&["--tenant", "acme"]);
        wait_for("the gateway to hear of the key", || (gateway.send(&asking(&key, "")).status == 200).then_some(()));
        let bought = token(&gateway, &key, "");
        assert_eq!((status(&gateway, "/v1/orders", &bought), status(&gateway, "/v1/orders", &bought)), (200, 200));
        let file = gateway.setup().path("keys.json");
        let output = match how {
            "keys revoke" => Some(gateway.cli(&["keys", "revoke", id(&key)])),
            "revoke api_key" => Some(gateway.cli(&["revoke", "api_key", id(&key), "--reason", "a test of it"])),
            _ => {
                let mut records: serde_json::Value =
                    serde_json::from_slice(&std::fs::read(&file).expect("the file")).expect("JSON");
                records["keys"].as_array_mut().expect("keys").retain(|record| record["id"] != id(&key));
                portcullis_tests::document::write_private(&file, records.to_string().as_bytes());
                None
            }
        };
        if let Some(output) = output {
            assert!(output.status.success(), "{how}: {}", String::from_utf8_lossy(&output.stderr));
        }
        wait_for(how, || (status(&gateway, "/v1/orders", &bought) == 401).then_some(()));
        assert_eq!(refusal(&gateway.send(&asking(&key, ""))), (401, "invalid_client".to_owned()), "{how}");
    }
}

#[test]
fn a_token_never_outlives_its_key_and_a_lifetime_is_the_operators() {
    let upstream = Upstream::start();
    let gateway = exchanging(&upstream)
        .with("[exchange]\nlifetime = \"15m\"")
        .key("short", &["--tenant", "acme", "--expires", "100s"])
        .start();
    let exp = |name: &str| {
        let claims = part(&token(&gateway, gateway.key(name), ""), 1);
        claims["exp"].as_u64().zip(claims["iat"].as_u64()).map(|(exp, iat)| exp - iat).expect("times")
    };
    assert_eq!(exp("acme"), 900);
    assert!(exp("short") <= 100, "it ends with the key");
}

#[test]
fn an_older_key_of_the_exchange_verifies_and_the_newest_signs() {
    let upstream = Upstream::start();
    let gateway = exchanging(&upstream).start();
    let before = token(&gateway, gateway.key("acme"), "");
    let rotate = |setup: Setup| {
        setup
            .file("secrets/next", b"planted-exchange-secret-next-0123456789abcdef")
            .set("exchange.key", "\"file:secrets/next\"")
            .with("[exchange]\nolder_keys = [\"file:secrets/exchange\"]")
    };
    let (gateway, reloaded) = gateway.reload(rotate);
    assert!(reloaded);
    let after = token(&gateway, gateway.key("acme"), "");
    assert_ne!(part(&before, 0)["kid"], part(&after, 0)["kid"]);
    assert_eq!((status(&gateway, "/v1/orders", &before), status(&gateway, "/v1/orders", &after)), (200, 200));
    let (gateway, reloaded) = gateway.reload(|setup| setup.remove("exchange.older_keys"));
    assert!(reloaded);
    assert_eq!((status(&gateway, "/v1/orders", &before), status(&gateway, "/v1/orders", &after)), (401, 200));
}

#[test]
fn a_key_is_exchanged_ten_times_a_minute_unless_the_operator_says_otherwise() {
    let upstream = Upstream::start();
    let gateway = exchanging(&upstream).remove("exchange.rate").start();
    for _ in 0..10 {
        token(&gateway, gateway.key("acme"), "");
    }
    let refused = gateway.send(&asking(gateway.key("acme"), ""));
    assert_eq!((refused.status, refused.code()), (429, "exchange.rate".to_owned()));
    assert!(refused.header("retry-after").is_some());
    token(&gateway, gateway.key("globex"), "");
}

#[test]
fn what_holds_for_every_request_holds_for_it_too() {
    let upstream = Upstream::start();
    let gateway = exchanging(&upstream)
        .set("controls.ip_allowlist", r#"{ allow = ["127.0.0.1/32"] }"#)
        .set("controls.burst", r#"{ requests = 6, window = "60s" }"#)
        .set("api_keys.failures", r#"{ attempts = 2, window = "1m" }"#)
        .with("[tenants.globex.own]\nip_allowlist = { allow = [\"192.0.2.0/24\"] }")
        .start();
    let elsewhere = Dial::tls(gateway.address(), portcullis_tests::request::HOST).from("127.0.0.9");
    let refused = gateway.send_from(&elsewhere, &asking(gateway.key("acme"), ""));
    assert_eq!((refused.status, refused.code()), (403, "ip_allowlist.denied".to_owned()));
    let tenant = gateway.send(&asking(gateway.key("globex"), ""));
    assert_eq!((tenant.status, tenant.code()), (403, "ip_allowlist.denied".to_owned()));
    let garbage = || gateway.send(&asking("pck_live_garbage", ""));
    assert_eq!((garbage().status, garbage().status, garbage().status), (401, 401, 429));
    token(&gateway, gateway.key("acme"), "");
    assert_eq!(gateway.send(&asking(gateway.key("acme"), "")).status, 200, "a good key is not locked out");
    assert_eq!(gateway.send(&asking(gateway.key("acme"), "")).code(), "burst.exceeded");
}

#[test]
fn it_is_told_in_the_log_with_the_key_and_without_what_could_be_replayed() {
    let gateway = &world().gateway;
    let key = gateway.key("writer");
    let answer = gateway.send(&asking(key, ""));
    let line = gateway.line(&answer.request_id());
    assert_eq!((&line["status"], &line["path_template"]), (&json!(200), &json!(TOKEN)));
    assert_eq!((&line["principal"]["key_id"], &line["tenant"]), (&json!(id(key)), &json!("acme")));
    assert!(line["trail"].to_string().contains("\"exchange\""), "{line}");
    let refused = gateway.send(&asking(key, "&scope=root"));
    let line = gateway.line(&refused.request_id());
    assert_eq!((&line["status"], &line["code"]), (&json!(400), &json!("exchange.invalid_scope")));
    let log = gateway.access_log().join("\n");
    let secret = key.split('_').nth(3).expect("a secret");
    assert!(!log.contains(secret) && !log.contains("eyJ"), "{log}");
}

#[test]
fn only_a_small_form_in_a_post_is_read_and_no_other_origin_may() {
    let gateway = &world().gateway;
    let get = gateway.send(&Request::get(TOKEN));
    assert_eq!((get.status, get.header("allow")), (405, Some("POST")));
    let key = gateway.key("writer");
    let good = asking(key, "");
    let padded = |bytes: usize| {
        let body = String::from_utf8(good.body.clone()).expect("text");
        let rest = bytes - body.len() - "&scope=".len();
        form(&format!("{body}&scope={}", "+".repeat(rest)))
    };
    // As long as it may be, it is read: what is wrong is the scope.
    assert_eq!(refusal(&gateway.send(&padded(8192))), (400, "invalid_scope".to_owned()));
    assert_eq!(refusal(&gateway.send(&padded(8193))), (400, "invalid_request".to_owned()));
    let chunked = asking(key, "").chunked(vec![b'a'; 9000], 1000);
    assert_eq!(refusal(&gateway.send(&chunked)), (400, "invalid_request".to_owned()));
    let json = Request::post(TOKEN, "{}").header("Content-Type", "application/json");
    assert_eq!(refusal(&gateway.send(&json)), (400, "invalid_request".to_owned()));
    // The connection goes on: the whole body was read.
    let mut client: H1 = gateway.h1();
    for _ in 0..2 {
        client.send([good.h1_head(), good.body.clone()].concat());
        assert_eq!(client.answer().map(|answer| answer.status), Some(200));
    }
}
