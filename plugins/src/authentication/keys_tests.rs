//! Tests of `keys` and `jwk`: which keys are used, which are dropped, and which key a token gets.

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair, UnparsedPublicKey,
    },
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const ALL: &[Algorithm] = &[Algorithm::ES256, Algorithm::EdDSA, Algorithm::RS256];

fn b64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
fn set(keys: &[Value], allowed: &[Algorithm]) -> Result<KeySet, KeySetError> {
    KeySet::from_jwks(json!({ "keys": keys }).to_string().as_bytes(), allowed)
}
/// The reason for which the only key of a set is dropped.
fn dropped(key: Value) -> String {
    match set(&[key], ALL) {
        Err(KeySetError::NoneUsable(reasons)) => reasons.join("; "),
        other => panic!("{other:?}"),
    }
}
fn with(mut key: Value, name: &str, value: Value) -> Value {
    key[name] = value;
    key
}
fn ec() -> Value {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let point = pair.public_key().as_ref();
    json!({ "kty": "EC", "crv": "P-256", "kid": "ec", "x": b64(&point[1..33]), "y": b64(&point[33..]) })
}
fn ed() -> Value {
    let pair = Ed25519KeyPair::generate().unwrap();
    json!({ "kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": b64(pair.public_key().as_ref()) })
}
fn rsa(size: KeySize) -> Value {
    let pair = RsaKeyPair::generate(size).unwrap();
    let public = pair.public_key();
    let (n, e) =
        (public.modulus().big_endian_without_leading_zero(), public.exponent().big_endian_without_leading_zero());
    json!({ "kty": "RSA", "kid": "rsa", "n": b64(n), "e": b64(e) })
}

#[test]
fn each_kind_of_key_is_used_with_the_one_algorithm_it_is_for() {
    let set = set(&[ec(), ed(), rsa(KeySize::Rsa2048)], ALL).unwrap();
    assert_eq!((set.usable(), set.warnings()), (3, &[][..]));
    for (kid, algorithm) in [("ec", Algorithm::ES256), ("ed", Algorithm::EdDSA), ("rsa", Algorithm::RS256)] {
        assert!(set.select(Some(kid), algorithm).is_ok());
        for other in [Algorithm::ES256, Algorithm::EdDSA, Algorithm::RS256, Algorithm::PS256, Algorithm::HS256] {
            if other != algorithm {
                assert_eq!(set.select(Some(kid), other).err(), Some(Why::KeyAlgorithm), "jwt_02 {kid} {other:?}");
            }
        }
    }
    assert_eq!(set.select(Some("x"), Algorithm::ES256).err(), Some(Why::KidUnknown));
    assert!(set.select(None, Algorithm::ES256).is_ok(), "only one key could have signed it");
}

#[test]
fn a_token_without_kid_needs_a_set_in_which_one_key_could_match() {
    let two = set(&[with(ec(), "kid", json!("a")), with(ec(), "kid", json!("b"))], ALL).unwrap();
    assert_eq!(two.select(None, Algorithm::ES256).err(), Some(Why::KidMissing));
    assert!(two.select(Some("b"), Algorithm::ES256).is_ok());
}

#[test]
fn key_03_an_empty_or_unusable_set_is_an_error() {
    assert_eq!(set(&[], ALL).err(), Some(KeySetError::NoneUsable(vec![])));
    for bad in ["{}", "[]", r#"{"keys":{}}"#, r#"{"keys":null}"#] {
        assert_eq!(KeySet::from_jwks(bad.as_bytes(), ALL).err(), Some(KeySetError::Shape), "{bad}");
    }
    assert!(matches!(KeySet::from_jwks(b"{\"keys\":[],\"keys\":[]}", ALL), Err(KeySetError::Json(_))));
    assert!(matches!(KeySet::from_jwks(b"<html>", ALL), Err(KeySetError::Json(_))));
    let many: Vec<Value> = (0..65).map(|_| json!({})).collect();
    assert!(matches!(set(&many[..64], ALL), Err(KeySetError::NoneUsable(reasons)) if reasons.len() == 64));
    assert_eq!(set(&many, ALL).err(), Some(KeySetError::TooMany));
    assert_eq!(KeySet::from_jwks(&vec![b' '; JWKS_BYTES_MAX + 1], ALL).err(), Some(KeySetError::TooLarge));
}

#[test]
fn key_03_two_keys_of_one_kid_are_both_dropped_and_reported() {
    let set1 =
        set(&[with(ec(), "kid", json!("a")), with(ec(), "kid", json!("a")), with(ec(), "kid", json!("a")), ed()], ALL)
            .unwrap();
    assert_eq!(set1.usable(), 1);
    assert_eq!(set1.select(Some("a"), Algorithm::ES256).err(), Some(Why::KidUnknown));
    assert_eq!(set1.warnings().len(), 1);
    assert!(set1.warnings()[0].contains("`a`"));
    let same = ec();
    let set2 = set(&[same.clone(), same], ALL).unwrap();
    assert_eq!((set2.usable(), set2.warnings().len()), (1, 0), "one key twice is one key");
    let mixed = set(&[with(ec(), "kid", json!("a")), with(ed(), "kid", json!("a"))], ALL);
    assert!(matches!(mixed, Err(KeySetError::NoneUsable(reasons)) if reasons.len() == 1));
}

#[test]
fn a_bad_key_is_dropped_with_its_reason_and_the_good_ones_stay() {
    let set = set(&[json!({ "kty": "oct", "kid": "h", "alg": "HS256" }), ec()], ALL).unwrap();
    assert_eq!(set.usable(), 1);
    assert_eq!(set.warnings(), ["key 0 (kid `h`): a shared secret has no place in a key set"]);
}

#[test]
fn keys_that_are_not_for_verifying_tokens_are_dropped() {
    for (name, value, reason) in [
        ("use", json!("enc"), "use is not sig"),
        ("use", json!(1), "use is not sig"),
        ("key_ops", json!(["sign"]), "lack verify"),
        ("key_ops", json!("verify"), "no list"),
        ("alg", json!("ES384"), "none that this gateway verifies"),
        ("alg", json!("RS256"), "does not fit its kty"),
        ("alg", json!("none"), "none that this gateway verifies"),
        ("d", json!("AAAA"), "private members"),
        ("k", json!("AAAA"), "private members"),
        ("crv", json!("P-384"), "not P-256"),
        ("crv", json!("secp256k1"), "not P-256"),
        ("kty", json!("ec"), "none of RSA, EC, OKP"),
        ("kid", json!("a b"), "kid is outside"),
        ("kid", json!(1), "kid is outside"),
        ("x", json!(""), "not 32 bytes"),
        ("x", json!("!"), "no base64url"),
        ("x", json!(b64(&[1; 32])), "not on the curve"),
        ("x", json!(b64(&[0; 33])), "not 32 bytes"),
    ] {
        let why = dropped(with(ec(), name, value.clone()));
        assert!(why.contains(reason), "{name} {value}: {why}");
    }
    assert!(dropped(json!({ "kty": "oct", "k": b64(&[7; 32]) })).contains("private members"));
    assert!(set(&[with(with(ec(), "use", json!("sig")), "key_ops", json!(["verify"]))], ALL).is_ok());
    assert!(set(&[with(ed(), "alg", json!("Ed25519"))], ALL).is_ok());
}

#[test]
fn rsa_keys_have_2048_to_8192_bits_and_an_odd_exponent_from_65537() {
    let good = rsa(KeySize::Rsa2048);
    for (name, value, reason) in [
        ("e", json!(b64(&[3])), "exponent"),
        ("e", json!(b64(&[1, 0, 0])), "exponent"),
        ("e", json!(b64(&[2, 0, 0, 0, 1])), "exponent"),
        ("e", json!(b64(&[0, 1, 0, 1])), "leading zero"),
        ("n", json!(b64(&[0xff; 128])), "1024 bits"),
        ("n", json!(b64(&[0x7f; 256])), "2047 bits"),
        ("n", json!(b64(&[0xff; 1025])), "8200 bits"),
        ("n", json!(b64(&[0xfe; 256])), "even"),
        ("n", json!(b64(&[&[0][..], &[0xff; 256]].concat())), "leading zero"),
    ] {
        let why = dropped(with(good.clone(), name, value));
        assert!(why.contains(reason), "{name}: {why}");
    }
    assert!(set(&[rsa(KeySize::Rsa3072)], ALL).is_ok());
    let both = &[Algorithm::RS256, Algorithm::PS256];
    assert!(set(std::slice::from_ref(&good), both).is_err(), "one key has one algorithm");
    let stated = set(&[with(good, "alg", json!("PS256"))], both).unwrap();
    assert!(stated.select(None, Algorithm::PS256).is_ok());
    assert_eq!(stated.select(None, Algorithm::RS256).err(), Some(Why::KeyAlgorithm));
}

#[test]
fn jwt_23_small_order_and_non_canonical_ed25519_keys_are_dropped() {
    // The identity (y = 1): under it the signature R = identity, S = 0 verifies any message, and aws-lc says so.
    let mut identity = [0u8; 32];
    identity[0] = 1;
    let mut trivial = [0u8; 64];
    trivial[0] = 1;
    assert!(UnparsedPublicKey::new(&ED25519, identity).verify(b"anything", &trivial).is_ok());

    let mut p = [0xffu8; 32];
    (p[0], p[31]) = (0xed, 0x7f);
    let order8 = [
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    ]
    .map(|hex| -> [u8; 32] {
        std::array::from_fn(|i| u8::from_str_radix(hex.get(2 * i..2 * i + 2).unwrap(), 16).unwrap())
    });
    let mut minus_one = p;
    minus_one[0] = 0xec;
    for y in [[0; 32], identity, minus_one, order8[0], order8[1]] {
        for sign in [0, 0x80] {
            let mut point = y;
            point[31] |= sign;
            let why = dropped(with(ed(), "x", json!(b64(&point))));
            assert!(why.contains("small order"), "{point:?}: {why}");
        }
    }
    let mut p_plus_one = p;
    p_plus_one[0] = 0xee;
    for point in [p, p_plus_one, [0xff; 32]] {
        assert!(dropped(with(ed(), "x", json!(b64(&point)))).contains("canonical"));
    }
}

#[test]
fn a_key_off_the_edwards_curve_verifies_nothing() {
    // y = 2 is on no point; it is not worth a check of its own.
    let mut off = [0u8; 32];
    off[0] = 2;
    let set = set(&[with(ed(), "x", json!(b64(&off)))], ALL);
    if let Ok(set) = set {
        assert_eq!(set.select(None, Algorithm::EdDSA).unwrap().verify(b"m", &[0; 64]), Err(Why::Signature));
    }
}

#[test]
fn jwt_20_a_secret_is_long_and_not_guessable() {
    let from = |bytes: &[u8]| KeySet::from_secret(&Secret::new(bytes.to_vec())).map(|_| ());
    let good = b"k3f9Zq0vT7mWc2Xb8LpR5sYd1HnJ6gUe";
    assert_eq!(good.len(), 32);
    assert_eq!(from(good), Ok(()));
    assert_eq!(from(&good[..31]), Err(KeySetError::SecretTooShort(31)));
    assert_eq!(from(b""), Err(KeySetError::SecretTooShort(0)));
    for weak in [
        vec![0u8; 32],
        vec![b'a'; 64],
        b"abababababababababababababababab".to_vec(),
        b"changeme1changeme1changeme1changeme1".to_vec(),
        (0..64).collect(),
        b"a-string-secret-at-least-256-bits-long".to_vec(),
    ] {
        assert!(matches!(from(&weak), Err(KeySetError::SecretWeak(_))), "{weak:?}");
    }
    assert!(!format!("{:?}", KeySet::from_secret(&Secret::new(good.to_vec())).unwrap()).contains("k3f9"));
}

#[test]
fn the_newest_of_our_own_secrets_signs_and_each_verifies_what_names_it() {
    let secret = |text: &str| Secret::new(text.as_bytes().to_vec());
    let (new, old) = (secret("k3f9Zq0vT7mWc2Xb8LpR5sYd1HnJ6gUe"), secret("Q0vT7mWc2Xb8LpR5sYd1HnJ6gUek3f9Z"));
    let set = KeySet::from_own_secrets(&new, std::slice::from_ref(&old)).unwrap();
    let before = KeySet::from_own_secrets(&old, &[]).unwrap();
    for signer in [set.newest().unwrap(), before.newest().unwrap()] {
        let signature = signer.sign(b"message").unwrap();
        let found = set.select(signer.kid.as_deref(), Algorithm::HS256).unwrap();
        assert_eq!(found.verify(b"message", signature.as_ref()), Ok(()));
    }
    assert_ne!(set.newest().unwrap().kid, before.newest().unwrap().kid);
    assert!(set.select(None, Algorithm::HS256).is_err(), "nobody tries one after the other");
    assert_eq!(KeySet::from_own_secrets(&new, std::slice::from_ref(&new)).map(|_| ()), Err(KeySetError::SecretTwice));
    assert!(KeySet::from_own_secrets(&secret("short"), &[]).is_err());
}

#[test]
fn a_shared_secret_verifies_hs256_only_whatever_the_kid() {
    let set = KeySet::from_secret(&Secret::new(b"k3f9Zq0vT7mWc2Xb8LpR5sYd1HnJ6gUe".to_vec())).unwrap();
    assert!(set.select(None, Algorithm::HS256).is_ok());
    assert!(set.select(Some("any"), Algorithm::HS256).is_ok());
    assert_eq!(set.select(None, Algorithm::RS256).err(), Some(Why::KeyAlgorithm));
}

#[test]
fn key_02_the_generation_follows_the_keys_and_nothing_else() {
    let (a, b) = (with(ec(), "kid", json!("a")), with(ec(), "kid", json!("b")));
    let generation =
        |keys: &[&Value]| set(&keys.iter().map(|key| (*key).clone()).collect::<Vec<_>>(), ALL).unwrap().generation();
    assert_eq!(generation(&[&a]), generation(&[&a]));
    assert_eq!(generation(&[&a]), generation(&[&with(a.clone(), "x5t", json!("new"))]));
    assert_ne!(generation(&[&a, &b]), generation(&[&a]), "a key was removed");
    assert_ne!(generation(&[&a]), generation(&[&with(a.clone(), "kid", json!("c"))]));
}

/// RFC 7515 appendix A.3: the key and the token.
#[test]
fn the_es256_example_of_rfc_7515_verifies() {
    let key = json!({ "kty": "EC", "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0" });
    let token = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    let jws = crate::authentication::jws::parse(token.as_bytes()).unwrap();
    let set = set(&[key], ALL).unwrap();
    let key = set.select(None, Algorithm::ES256).unwrap();
    assert_eq!(key.verify(jws.signing_input, &jws.signature), Ok(()));
    let mut other = jws.signature.clone();
    other[0] ^= 1;
    assert_eq!(key.verify(jws.signing_input, &other), Err(Why::Signature));
    assert_eq!(key.verify(jws.signing_input, &[0; 64]), Err(Why::Signature), "jwt_21 the psychic signature");
    for length in [0, 63, 65] {
        assert_eq!(key.verify(jws.signing_input, &vec![1; length]), Err(Why::Signature));
    }
}

/// RFC 8037 appendix A.4: the key, the signing input and the signature; its payload is no JSON.
#[test]
fn the_ed25519_example_of_rfc_8037_verifies_and_s_plus_l_does_not() {
    let key = json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" });
    let set = set(&[key], ALL).unwrap();
    let input = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
    let signature = URL_SAFE_NO_PAD
        .decode("hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg")
        .unwrap();
    let key = set.select(None, Algorithm::EdDSA).unwrap();
    assert_eq!(key.verify(input, &signature), Ok(()));
    // jwt_23: S + L is the same signature to a careless verifier.
    let l: [u8; 32] = {
        let mut l = [0; 32];
        l[..16].copy_from_slice(&0x14de_f9de_a2f7_9cd6_5812_631a_5cf5_d3ed_u128.to_le_bytes());
        l[31] = 0x10;
        l
    };
    let mut malleated = signature.clone();
    let mut carry = 0u16;
    for i in 0..32 {
        let sum = u16::from(signature[32 + i]) + u16::from(l[i]) + carry;
        malleated[32 + i] = sum.to_le_bytes()[0];
        carry = sum >> 8;
    }
    assert_eq!(key.verify(input, &malleated), Err(Why::Signature));
}

#[test]
fn rsa_signatures_verify_under_their_own_padding_only() {
    use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding};
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let public = pair.public_key();
    let jwk = json!({ "kty": "RSA", "n": b64(public.modulus().big_endian_without_leading_zero()), "e": b64(public.exponent().big_endian_without_leading_zero()) });
    let sign = |encoding: &'static dyn RsaEncoding| {
        let mut out = vec![0; pair.public_modulus_len()];
        pair.sign(encoding, &SystemRandom::new(), b"m", &mut out).unwrap();
        out
    };
    let (pkcs1, pss) = (sign(&RSA_PKCS1_SHA256), sign(&RSA_PSS_SHA256));
    for (algorithm, good, bad) in [(Algorithm::RS256, &pkcs1, &pss), (Algorithm::PS256, &pss, &pkcs1)] {
        let set = set(std::slice::from_ref(&jwk), &[algorithm]).unwrap();
        let key = set.select(None, algorithm).unwrap();
        assert_eq!((key.verify(b"m", good), key.verify(b"m", bad)), (Ok(()), Err(Why::Signature)));
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        let _ = KeySet::from_jwks(&bytes, ALL);
    }

    #[test]
    fn arbitrary_members_never_panic(kty in "RSA|EC|OKP|oct", x in "[A-Za-z0-9_-]{0,64}", y in "[A-Za-z0-9_-]{43}", crv in "P-256|Ed25519") {
        let _ = set(&[json!({ "kty": kty, "crv": crv, "x": x, "y": y, "n": x, "e": y })], ALL);
    }
}
