//! What an assertion says, byte for byte decoded by hand.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis_api::{Millis, Role};
use serde_json::{Value, json};

use super::*;
use crate::authentication::{Credential, Identity};

fn signer() -> Signer {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap().to_pkcs8v1().unwrap();
    let key = Arc::new(SigningKey::from_pkcs8(Algorithm::ES256, pair.as_ref()).unwrap());
    let timing = Timing { max_age: Millis::from_secs(300), lifetime: Millis::from_secs(30) };
    let ring = Ring::next(None, &[key], timing, 0).unwrap().unwrap();
    Signer::new(Arc::new(ring), "https://gw.example.com".into(), "billing", 30)
}

fn claims(caller: &Caller, tenant: Option<&str>, query: &str) -> Value {
    let bound = Bound { method: &Method::GET, path: "/v1/a%20b", query };
    let minted = Minted { now: 7, unix: 1_795_000_000, id: "id-1" };
    let token = signer().assert(caller, tenant, &bound, &minted).unwrap();
    let payload = token.to_str().unwrap().split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

/// SHA-256 of nothing.
const NO_QUERY: &str = "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU";

#[test]
fn a_user_is_told_with_everything_that_is_known_and_nothing_else() {
    let user = Identity::for_test("acme", Some(Role::Developer), &["read:x", "a"], Credential::Bearer);
    let expected = json!({
        "iss": "https://gw.example.com", "aud": "upstream:billing", "iat": 1_795_000_000, "exp": 1_795_000_030,
        "jti": "id-1", "kind": "user", "tid": "acme", "sub": "main:u-1", "role": "developer", "scp": ["a", "read:x"],
        "htm": "GET", "htu": "/v1/a%20b", "qh": NO_QUERY,
    });
    assert_eq!(claims(&Caller::Verified(user.into()), Some("acme"), ""), expected);
    let bare = Identity::for_test("acme", None, &[], Credential::Cookie);
    let told = claims(&Caller::Verified(bare.into()), Some("acme"), "");
    assert!(["role", "scp", "env", "key_id"].iter().all(|name| told.get(name).is_none()), "{told}");
}

#[test]
fn an_api_key_is_told_with_its_id() {
    let key = Identity::for_test("acme", None, &[], Credential::ApiKey);
    let told = claims(&Caller::Verified(key.into()), Some("acme"), "");
    assert_eq!((&told["kind"], &told["key_id"]), (&json!("apikey"), &json!("k3yid0000000")));
}

#[test]
fn nobody_is_told_as_anonymous_and_without_a_subject() {
    let expected = json!({
        "iss": "https://gw.example.com", "aud": "upstream:billing", "iat": 1_795_000_000, "exp": 1_795_000_030,
        "jti": "id-1", "kind": "anonymous", "htm": "GET", "htu": "/v1/a%20b", "qh": NO_QUERY,
    });
    assert_eq!(claims(&Caller::Anonymous, None, ""), expected);
    assert_eq!(claims(&Caller::Anonymous, Some("acme"), "")["tid"], "acme");
}

#[test]
fn the_query_is_bound_by_its_hash() {
    // SHA-256 of `a=b`.
    assert_eq!(claims(&Caller::Anonymous, None, "a=b")["qh"], "QhRPOTnD_7vwv4sfEq_7XCOkxb1B4P9nLVSldU8GIFg");
}
