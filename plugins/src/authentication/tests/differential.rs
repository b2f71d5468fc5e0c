//! Whatever this front end accepts, jsonwebtoken accepts too: being strict must not mean being different.

use jsonwebtoken::{DecodingKey, Validation, decode, jwk::Jwk};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::rig::*;

fn odd_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!("orders")),
        Just(json!(["orders"])),
        Just(json!(["other", "orders"])),
        Just(json!(ISS)),
        Just(json!([ISS])),
        Just(json!("acme")),
        Just(json!(null)),
        Just(json!(true)),
        Just(json!({})),
        Just(json!(1.5)),
        any::<u32>().prop_map(|n| json!(n)),
        "[ -~]{0,12}".prop_map(|text| json!(text)),
    ]
}

fn token_parts() -> impl Strategy<Value = (Value, Value)> {
    let names = proptest::sample::select(vec![
        "iss",
        "aud",
        "sub",
        "exp",
        "iat",
        "nbf",
        "jti",
        "tenant_id",
        "roles",
        "scope",
        "x",
    ]);
    let changes = proptest::collection::vec((names, odd_value()), 0..2);
    let times = (-40i64..40, -40i64..4000);
    let header = proptest::sample::select(vec![
        json!({ "alg": "ES256", "kid": "ec" }),
        json!({ "alg": "EdDSA", "kid": "ed", "typ": "JWT" }),
        json!({ "alg": "ES256" }),
        json!({ "alg": "ES256", "typ": "at+jwt" }),
        json!({ "alg": "ES256", "kid": "ec", "crit": ["x"] }),
        json!({ "alg": "ES256", "kid": "ed" }),
    ]);
    (header, changes, times, any::<bool>()).prop_map(|(header, changes, (issued, lives), narrow)| {
        let mut payload = payload();
        payload["iat"] = json!(NOW.saturating_add_signed(issued));
        payload["exp"] = json!(NOW.saturating_add_signed(issued.saturating_add(lives)));
        if !narrow {
            for (name, value) in changes {
                payload[name] = value;
            }
        }
        (header, payload)
    })
}

fn library_accepts(rig: &Rig, token: &str, header: &Value) -> bool {
    let eddsa = header["alg"] == "EdDSA";
    let jwk = if eddsa { rig.ed_jwk("ed") } else { rig.ec_jwk("ec") };
    let jwk: Jwk = serde_json::from_value(jwk).unwrap();
    let algorithm = if eddsa { jsonwebtoken::Algorithm::EdDSA } else { jsonwebtoken::Algorithm::ES256 };
    let mut validation = Validation::new(algorithm);
    validation.set_audience(&["orders"]);
    validation.set_issuer(&[ISS]);
    // It reads the system's clock; ours stands still. Times have tests of their own.
    validation.validate_exp = false;
    validation.set_required_spec_claims(&["exp", "iss", "sub", "aud"]);
    decode::<Value>(token, &DecodingKey::from_jwk(&jwk).unwrap(), &validation).is_ok()
}

#[test]
fn what_we_accept_the_library_accepts() {
    let rig = Rig::new();
    let accepted = std::cell::Cell::new(0u32);
    let config = ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    runner
        .run(&token_parts(), |(header, payload)| {
            let token = rig.sign(&header, &payload);
            if rig.bearer(MAIN, &token).is_verified() {
                accepted.set(accepted.get() + 1);
                prop_assert!(library_accepts(&rig, &token, &header), "{header} {payload}");
            }
            Ok(())
        })
        .unwrap();
    assert!(accepted.get() > 20, "only {} of them were accepted: the comparison says nothing", accepted.get());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn arbitrary_credentials_never_panic(authorization in "[ -~]{0,64}", cookie in "[ -~]{0,64}", key in "[!-~]{0,80}") {
        let rig = RIG.get_or_init(Rig::new);
        for route in [MAIN, BOTH, PUBLIC, LIVE] {
            let _ = rig.ask(route, &[("authorization", &authorization), ("cookie", &cookie), ("x-api-key", &key)]);
            prop_assert!(!rig.ask(route, &[("authorization", &authorization)]).is_verified());
            prop_assert!(!rig.ask(route, &[("cookie", &cookie)]).is_verified());
            prop_assert!(!rig.ask(route, &[("x-api-key", &key)]).is_verified());
        }
    }

    #[test]
    fn a_changed_byte_is_never_accepted(index in 0usize..400, byte in 0x21u8..0x7f) {
        let rig = RIG.get_or_init(Rig::new);
        let token = rig.session();
        let mut bytes = token.clone().into_bytes();
        prop_assume!(index < bytes.len());
        prop_assume!(bytes[index] != byte);
        bytes[index] = byte;
        let changed = String::from_utf8(bytes).unwrap();
        prop_assert!(!rig.bearer(BOTH, &changed).is_verified(), "{changed}");
    }
}

static RIG: std::sync::OnceLock<Rig> = std::sync::OnceLock::new();
