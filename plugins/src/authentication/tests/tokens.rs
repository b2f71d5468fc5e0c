//! The attacks of THREATS section D that need a signature, named after their rows.

use aws_lc_rs::{hmac, signature::KeyPair};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::{super::*, rig::*};

fn header() -> Value {
    json!({ "alg": "ES256", "kid": "ec" })
}
/// The reason for which a token with this payload member is refused, if it is.
fn refused(rig: &Rig, name: &str, value: Value) -> Option<String> {
    let mut payload = payload();
    payload[name] = value;
    rig.bearer(MAIN, &rig.sign(&header(), &payload)).why().map(str::to_owned)
}

#[test]
fn jwt_01_an_unsigned_token_is_refused() {
    let rig = Rig::new();
    let (_, payload, _) = split(&rig.good());
    for alg in ["none", "None", "nOnE"] {
        let head = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{alg}"}}"#));
        assert_eq!(rig.bearer(MAIN, &format!("{head}.{payload}.")).why(), Some("alg missing or unknown"));
    }
    let (head, payload, _) = split(&rig.good());
    assert_eq!(rig.bearer(MAIN, &format!("{head}.{payload}.")).why(), Some("signature does not verify"));
}

fn split(token: &str) -> (String, String, String) {
    let mut parts = token.split('.').map(str::to_owned);
    (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap())
}

#[test]
fn jwt_02_a_public_key_is_never_a_shared_secret() {
    let rig = Rig::new();
    let public = rig.ec.public_key().as_ref();
    for secret in [public, &public[1..], URL_SAFE_NO_PAD.encode(public).as_bytes()] {
        let input = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","kid":"ec"}"#),
            URL_SAFE_NO_PAD.encode(payload().to_string())
        );
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), input.as_bytes());
        let token = format!("{input}.{}", URL_SAFE_NO_PAD.encode(tag));
        assert_eq!(rig.bearer(MAIN, &token).why(), Some("alg not of this issuer"));
    }
    // Of two algorithms that the issuer does use, the key has one.
    let token = rig.sign(&json!({ "alg": "EdDSA", "kid": "ec" }), &payload());
    assert_eq!(rig.bearer(MAIN, &token).why(), Some("alg is not the key's"));
}

#[test]
fn the_fully_specified_name_of_eddsa_is_accepted() {
    let rig = Rig::new();
    for alg in ["EdDSA", "Ed25519"] {
        assert!(rig.bearer(MAIN, &rig.sign(&json!({ "alg": alg, "kid": "ed" }), &payload())).is_verified(), "{alg}");
    }
}

#[test]
fn jwt_06_a_kid_of_another_issuer_selects_nothing() {
    let rig = Rig::new();
    // `local` has a secret without a name; its tokens under `main`'s kid are still `local`'s and HS256.
    let mut payload = payload();
    payload["iss"] = json!("https://local.example.com");
    let token = rig.sign(&json!({ "alg": "ES256", "kid": "ec", "typ": "session+jwt" }), &payload);
    assert_eq!(rig.bearer(BOTH, &token).why(), Some("alg not of this issuer"));
}

#[test]
fn jwt_07_iss_is_one_exact_string() {
    let rig = Rig::new();
    for bad in
        ["https://id.example.com/", "https://ID.example.com", "https://id.example.com ", "http://id.example.com", ""]
    {
        assert_eq!(refused(&rig, "iss", json!(bad)).as_deref(), Some("iss unknown"), "{bad}");
    }
    for bad in [json!(null), json!(1), json!(["https://evil.example", ISS]), json!([ISS]), json!({})] {
        assert_eq!(refused(&rig, "iss", bad.clone()).as_deref(), Some("iss missing or no string"), "{bad}");
    }
    let mut none = payload();
    none.as_object_mut().unwrap().remove("iss");
    assert_eq!(rig.bearer(MAIN, &rig.sign(&header(), &none)).why(), Some("iss missing or no string"));
}

#[test]
fn jwt_12_duplicate_members_are_refused_even_when_signed() {
    let rig = Rig::new();
    let twice = payload().to_string().replacen('{', r#"{"tenant_id":"globex","#, 1);
    let token = rig.sign_text(r#"{"alg":"ES256","kid":"ec"}"#, &twice);
    assert_eq!(rig.bearer(MAIN, &token).why(), Some("payload with a duplicate member"));
    let token = rig.sign_text(r#"{"alg":"ES256","kid":"x","kid":"ec"}"#, &payload().to_string());
    assert_eq!(rig.bearer(MAIN, &token).why(), Some("header with a duplicate member"));
}

#[test]
fn jwt_15_the_type_of_a_token_is_pinned() {
    let rig = Rig::new();
    let typed =
        |typ: Value| rig.bearer(MAIN, &rig.sign(&json!({ "alg": "ES256", "kid": "ec", "typ": typ }), &payload()));
    assert!(typed(json!("JWT")).is_verified());
    assert!(typed(json!("at+jwt")).is_verified());
    for bad in ["logout+jwt", "session+jwt", "portcullis-assertion+jwt", "jwt", "AT+JWT", "application/at+jwt", ""] {
        assert_eq!(typed(json!(bad)).why(), Some("typ is not the issuer's"), "{bad}");
    }
    assert_eq!(typed(json!(["JWT"])).why(), Some("typ is not the issuer's"));
    let mut local = payload();
    local["iss"] = json!("https://local.example.com");
    for header in [json!({ "alg": "HS256" }), json!({ "alg": "HS256", "typ": "JWT" })] {
        assert_eq!(rig.bearer(BOTH, &rig.sign(&header, &local)).why(), Some("typ is not the issuer's"), "{header}");
    }
}

#[test]
fn jwt_16_an_encrypted_token_is_no_token() {
    let rig = Rig::new();
    let jwe = format!("{}.a.b.c.d", URL_SAFE_NO_PAD.encode(r#"{"alg":"RSA-OAEP","enc":"A256GCM"}"#));
    assert_eq!(rig.bearer(MAIN, &jwe).why(), Some("token is not three parts"));
}

#[test]
fn jwt_18_a_huge_token_is_refused_before_any_decoding() {
    let rig = Rig::new();
    assert_eq!(rig.bearer(MAIN, &"a".repeat(8193)).why(), Some("token longer than 8192 bytes"));
    assert_eq!(rig.bearer(MAIN, &"a".repeat(8192)).why(), Some("token is not three parts"));
}

#[test]
fn jwt_19_a_payload_bomb_is_refused() {
    let rig = Rig::new();
    let mut deep = json!(1);
    for _ in 0..8 {
        deep = json!({ "a": deep });
    }
    assert_eq!(refused(&rig, "x", deep).as_deref(), Some("payload beyond a bound"));
    assert_eq!(refused(&rig, "x", json!(vec![1; 129])).as_deref(), Some("payload beyond a bound"));
    assert_eq!(refused(&rig, "x", json!("a".repeat(1025))).as_deref(), Some("payload beyond a bound"));
    assert_eq!(refused(&rig, "x", json!(vec![1; 128])), None);
}

#[test]
fn jwt_21_the_psychic_signature_is_refused() {
    let rig = Rig::new();
    let (head, payload, _) = split(&rig.good());
    for signature in [vec![0u8; 64], vec![], vec![0xff; 64]] {
        let token = format!("{head}.{payload}.{}", URL_SAFE_NO_PAD.encode(signature));
        assert_eq!(rig.bearer(MAIN, &token).why(), Some("signature does not verify"));
    }
}

/// `(r, n-s)` verifies too: that is how ECDSA is. What matters is that nothing is remembered against a token's bytes;
/// both spellings are one `jti` of one issuer.
#[test]
fn jwt_22_a_malleated_signature_is_the_same_identity() {
    const N: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad,
        0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let rig = Rig::new();
    let token = rig.good();
    let (head, payload, signature) = split(&token);
    let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let mut borrow = 0i32;
    for i in (0..32).rev() {
        let difference = i32::from(N[i]) - i32::from(bytes[32 + i]) - borrow;
        borrow = i32::from(difference < 0);
        bytes[32 + i] = u8::try_from(difference.rem_euclid(256)).unwrap();
    }
    let twin = format!("{head}.{payload}.{}", URL_SAFE_NO_PAD.encode(bytes));
    assert_ne!(twin, token);
    assert_eq!(rig.bearer(MAIN, &twin), rig.bearer(MAIN, &token));
}

#[test]
fn jwt_08_jwt_09_jwt_10_jwt_11_jwt_31_hold_for_signed_tokens() {
    let rig = Rig::new();
    for (name, value, why) in [
        ("exp", json!(1e18), "exp, iat or nbf missing or no integer"),
        ("nbf", json!("9999999999"), "exp, iat or nbf missing or no integer"),
        ("exp", json!(u64::MAX), "exp, iat or nbf missing or no integer"),
        ("exp", json!(NOW - 10 + 3601), "exp - iat out of bounds"),
        ("exp", json!(NOW), "expired"),
        ("iat", json!(NOW + 31), "iat in the future"),
        ("aud", json!(["other"]), "aud without ours"),
        ("aud", json!(null), "aud missing or malformed"),
        ("sub", json!(7), "sub missing or malformed"),
        ("tenant_id", json!("__system__"), "tenant claim missing or malformed"),
        ("cnf", json!({ "jkt": "x" }), "cnf cannot be satisfied"),
    ] {
        assert_eq!(refused(&rig, name, value.clone()).as_deref(), Some(why), "{name} {value}");
    }
}

#[test]
fn every_refusal_of_a_known_issuer_names_it_in_the_log() {
    let rig = Rig::new();
    let mut late = payload();
    late["exp"] = json!(NOW - 1);
    let Answer::Denied { issuer, .. } = rig.bearer(MAIN, &rig.sign(&header(), &late)) else { panic!("denied") };
    assert_eq!(issuer.as_deref(), Some("main"));
}

#[test]
fn role_and_scopes_come_from_the_claims() {
    let rig = Rig::new();
    let token = rig.good();
    assert!(rig.bearer(MAIN, &token).is_verified());
    let entry = rig.cache.get(&VerifiedCache::key(Credential::Bearer, token.as_bytes())).unwrap();
    let identity = &entry.identity;
    assert_eq!(identity.role(), Some(portcullis_api::Role::Admin));
    assert_eq!(
        identity.scopes().iter().map(portcullis_api::Scope::as_str).collect::<Vec<_>>(),
        ["orders", "orders:write"]
    );
    assert_eq!((identity.jti(), identity.expires()), (Some("j-1"), Some(NOW + 100)));
    assert!(!format!("{identity:?}").contains("u-1"), "a subject is a person");
}
