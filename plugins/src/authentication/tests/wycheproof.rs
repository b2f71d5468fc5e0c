//! Wycheproof's vectors of JSON Web Signatures and of their keys (C2SP, `wycheproof/README.md`): no invalid vector is
//! accepted, every valid one of an algorithm that this gateway has is, but for those of [`STRICTER`], each with its reason.
//!
//! Their payloads are no claims, so this is the layer below: the key, the compact form, its header, the signature.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis_api::Secret;
use serde_json::{Value, json};

use super::super::{Algorithm, KeySet, KeySetError, jws};

const SIGNATURES: &str = include_str!("wycheproof/json_web_signature_test.json");
const KEYS: &str = include_str!("wycheproof/json_web_key_test.json");
const PUBLIC: &[Algorithm] = &[Algorithm::ES256, Algorithm::EdDSA, Algorithm::RS256, Algorithm::PS256];

/// Vectors that are called valid and are refused, each with its file, its `tcId` and why.
const STRICTER: &[(&str, u64, &str)] = &[
    (
        SIGNATURES,
        372,
        "a `?` inside the header's base64url is skipped; RFC 4648 3.3 has a decoder reject it, and a token that is \
         skipped over has more than one spelling",
    ),
    (SIGNATURES, 373, "a `?` inside the payload's base64url is skipped, as in 372"),
    (
        KEYS,
        2,
        "a JWKS of two shared secrets; a secret comes from a file of the operator, one for an issuer, and never from a \
         document that is published",
    ),
];

/// Vectors that are called invalid and have the very key and bytes of 357, which is called valid: the padding that their
/// comments speak of is not there (C2SP/wycheproof#236). What they mean has a test of its own.
const MISLABELLED: &[u64] = &[367, 370];

/// Valid vectors whose secret an operator could not use: 32 zero bytes can be guessed. They are verified all the same.
const GUESSABLE: &[u64] = &[357, 358, 359, 376, 377];

struct Vector {
    id: u64,
    comment: String,
    valid: bool,
    jws: String,
    keys: Vec<Value>,
}

fn vectors(file: &str) -> Vec<Vector> {
    let file: Value = serde_json::from_str(file).unwrap();
    let mut all = Vec::new();
    for group in file["testGroups"].as_array().unwrap() {
        // A shared secret stands under `private` alone.
        let key = group.get("public").unwrap_or(&group["private"]);
        let keys = key.get("keys").map_or_else(|| vec![key.clone()], |keys| keys.as_array().unwrap().clone());
        for test in group["tests"].as_array().unwrap() {
            all.push(Vector {
                id: test["tcId"].as_u64().unwrap(),
                comment: test["comment"].as_str().unwrap().to_owned(),
                valid: match test["result"].as_str().unwrap() {
                    "valid" => true,
                    "invalid" => false,
                    other => panic!("a result that was not there before: {other}"),
                },
                jws: test["jws"].as_str().unwrap().to_owned(),
                keys: keys.clone(),
            });
        }
    }
    assert_eq!(u64::try_from(all.len()).unwrap(), file["numberOfTests"].as_u64().unwrap());
    all
}

/// As an operator would load them: a key set, or one secret for HS256 by itself.
fn load(keys: &[Value]) -> Result<KeySet, KeySetError> {
    let set = KeySet::from_jwks(json!({ "keys": keys }).to_string().as_bytes(), PUBLIC);
    match keys {
        [only] if only["kty"] == "oct" && only["alg"] == "HS256" => {
            assert!(matches!(set, Err(KeySetError::NoneUsable(_))), "a secret has no place in a key set");
            KeySet::from_secret(&Secret::new(secret(only)))
        }
        _ => set,
    }
}

fn secret(jwk: &Value) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(jwk["k"].as_str().unwrap()).unwrap()
}

fn verifies(keys: &KeySet, token: &str) -> bool {
    jws::compact(token.as_bytes()).is_ok_and(|jws| {
        keys.select(jws.header.kid.as_deref(), jws.header.algorithm)
            .is_ok_and(|key| key.verify(jws.signing_input, &jws.signature).is_ok())
    })
}

fn accepted(vector: &Vector) -> bool {
    match load(&vector.keys) {
        Ok(keys) => verifies(&keys, &vector.jws),
        Err(KeySetError::SecretWeak(_)) => verifies(&KeySet::shared(&secret(&vector.keys[0])), &vector.jws),
        Err(_) => false,
    }
}

/// What the header names, as far as any reader of JSON can tell.
fn algorithm(vector: &Vector) -> Option<Algorithm> {
    let header: String = vector.jws.split('.').next().unwrap_or_default().replace('?', "");
    let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
    jws::named(header["alg"].as_str()?)
}

#[test]
fn no_invalid_vector_is_accepted() {
    let mut refused = 0;
    for (name, file) in [("signature", SIGNATURES), ("key", KEYS)] {
        for vector in vectors(file).iter().filter(|vector| !vector.valid) {
            if file == SIGNATURES && MISLABELLED.contains(&vector.id) {
                continue;
            }
            assert!(!accepted(vector), "{name} {} {}", vector.id, vector.comment);
            refused += 1;
        }
    }
    assert_eq!(refused, 353 + 21);
}

#[test]
fn the_mislabelled_vectors_are_a_valid_one_and_what_they_mean_is_refused() {
    let all = vectors(SIGNATURES);
    let find = |id| all.iter().find(|vector| vector.id == id).unwrap();
    let good = find(357);
    assert!(good.valid && accepted(good));
    for id in MISLABELLED {
        let vector = find(*id);
        assert_eq!((&vector.jws, &vector.keys), (&good.jws, &good.keys), "the file was mended: {id}");
    }
    let keys = KeySet::shared(&secret(&good.keys[0]));
    let parts: Vec<&str> = good.jws.split('.').collect();
    for (header, payload, signature) in [("", "", "="), ("", "=", ""), ("", "==", ""), ("=", "", ""), ("", "=", "=")] {
        let padded = format!("{}{header}.{}{payload}.{}{signature}", parts[0], parts[1], parts[2]);
        assert!(!verifies(&keys, &padded), "{padded}");
    }
}

#[test]
fn every_valid_vector_of_an_algorithm_we_have_is_accepted_or_its_refusal_has_a_reason() {
    let mut count: BTreeMap<String, u32> = BTreeMap::new();
    for file in [SIGNATURES, KEYS] {
        for vector in vectors(file).iter().filter(|vector| vector.valid) {
            let Some(algorithm) = algorithm(vector) else { continue };
            let reason = STRICTER.iter().find(|(of, id, _)| *of == file && *id == vector.id);
            assert_eq!(accepted(vector), reason.is_none(), "{} {} {reason:?}", vector.id, vector.comment);
            *count
                .entry(format!("{algorithm:?} {}", if reason.is_none() { "accepted" } else { "refused" }))
                .or_default() += 1;
        }
    }
    let count: Vec<(&str, u32)> = count.iter().map(|(what, count)| (what.as_str(), *count)).collect();
    assert_eq!(
        count,
        [
            ("ES256 accepted", 2),
            ("HS256 accepted", 9),
            ("HS256 refused", 3),
            ("PS256 accepted", 6),
            ("RS256 accepted", 9)
        ]
    );
}

#[test]
fn only_the_secret_of_zeros_is_one_that_nobody_may_use() {
    for vector in vectors(SIGNATURES).iter().filter(|vector| vector.valid) {
        let weak = matches!(load(&vector.keys), Err(KeySetError::SecretWeak(_)));
        // 372 and 373 share its group.
        assert_eq!(weak, GUESSABLE.contains(&vector.id) || [372, 373].contains(&vector.id), "{}", vector.id);
    }
}

#[test]
fn a_bad_key_of_the_vectors_is_refused_for_what_is_bad_about_it() {
    let keys = vectors(KEYS);
    for (id, why) in [
        (7, "ROCA"),
        (8, "1024 bits"),
        (9, "exponent"),
        (10, "31 bytes"),
        (16, "0 bytes"),
        (19, "alg is none that this gateway verifies"),
        (21, "use is not sig"),
        (22, "not on the curve"),
        (23, "curve is not P-256"),
        (24, "alg does not fit its kty"),
    ] {
        let vector = keys.iter().find(|vector| vector.id == id).unwrap();
        let said = load(&vector.keys).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(said.contains(why), "{id}: {said}");
    }
}
