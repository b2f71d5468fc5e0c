//! THREATS D20 to D24: keys and their signatures.

use portcullis_tests::{
    Key, Setup, Token,
    tokens::{b64, key_set, main_key, main_token, unb64},
};
use serde_json::json;

use crate::{
    INVALID_TOKEN,
    tokens::{payload, unauthorised, with},
    world,
};

#[test]
fn jwt_20_a_short_or_guessable_shared_secret_is_refused_at_the_start() {
    let counting: Vec<u8> = (1..=40).collect();
    for (secret, why) in [
        (&b""[..], "32"),
        (b"tiny-one", "32"),
        (&[b'x'; 31], "32"),
        (&[b'x'; 32], "guessed"),
        (&b"secret-word-".repeat(3), "guessed"),
        (&counting, "guessed"),
        (b"your-256-bit-secret-your-256-bit-secret", "guessed"),
    ] {
        let output = Setup::new(&world().upstream).file("secrets/local", secret).check();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(why), "{said}");
        assert!(secret.is_empty() || !said.contains(&*String::from_utf8_lossy(secret)), "{said}");
    }
    assert_eq!(Setup::new(&world().upstream).check().status.code(), Some(0));
}

#[test]
fn jwt_21_a_signature_of_zeros() {
    let good = main_token("acme");
    let (input, _) = good.rsplit_once('.').expect("a token has dots");
    for signature in [vec![0; 64], vec![], vec![0; 63], vec![0; 65], vec![0xff; 64], vec![0x30, 6, 2, 1, 0, 2, 1, 0]] {
        unauthorised(format!("{input}.{}", b64(&signature)));
    }
    // A good signature over something else.
    let other = main_token("globex");
    let (_, signature) = other.rsplit_once('.').expect("a token has dots");
    unauthorised(format!("{input}.{signature}"));
}

/// The order of the group of P-256.
const ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad, 0xa7,
    0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];
/// The order of the group of Ed25519, the highest byte first.
const ED_ORDER: [u8; 32] = [
    0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x14, 0xde, 0xf9, 0xde, 0xa2, 0xf7, 0x9c, 0xd6, 0x58, 0x12,
    0x63, 0x1a, 0x5c, 0xf5, 0xd3, 0xed,
];

/// `a + b` or `a - b`, the highest byte first; the result fits.
fn sum(a: &[u8; 32], b: &[u8], sign: i32) -> Vec<u8> {
    let (mut out, mut carry) = (vec![0; 32], 0);
    for i in (0..32).rev() {
        let digit = i32::from(a[i]) + sign * i32::from(b[i]) + carry;
        out[i] = digit.rem_euclid(256) as u8;
        carry = digit.div_euclid(256);
    }
    assert_eq!(carry, 0);
    out
}

/// The signature of a token, and what it is over.
fn cut(token: &str) -> (&str, Vec<u8>) {
    let (input, signature) = token.rsplit_once('.').expect("a token has dots");
    (input, unb64(signature))
}

#[test]
fn jwt_22_the_other_signature_of_a_token_is_the_same_caller() {
    // Whoever has a token can make a second one, (r, n - s), that verifies: nothing may be remembered of its bytes.
    let gateway = Setup::new(&world().upstream)
        .with("[limits.few]\nkey = [\"subject\"]\nrequests = 2\nwindow = \"1h\"")
        .set(r#"hosts."api.example.test".routes.orders.limits"#, r#"["few"]"#)
        .start();
    let token = Token::main("acme").claim("sub", "malleable").sign(main_key());
    let (input, signature) = cut(&token);
    let twin = [&signature[..32], &sum(&ORDER, &signature[32..], -1)].concat();
    let twin = format!("{input}.{}", b64(&twin));
    assert_ne!(twin, token);
    let status = |token: &str| gateway.send(&with(token)).status;
    assert_eq!((status(&token), status(&twin), status(&twin), status(&token)), (200, 200, 429, 429));
}

#[test]
fn jwt_22_the_other_signature_of_a_revoked_token_is_revoked() {
    let gateway = Setup::new(&world().upstream)
        .with("[revocations]\njournal = \"revocations.journal\"")
        .set("issuers.main.jti", "\"optional\"")
        .start();
    let status = |token: &str| gateway.send(&with(token)).status;
    for token in [Token::main("acme").sign(main_key()), Token::main("globex").without("jti").sign(main_key())] {
        let (input, signature) = cut(&token);
        let twin = [&signature[..32], &sum(&ORDER, &signature[32..], -1)].concat();
        let twin = format!("{input}.{}", b64(&twin));
        assert_eq!((status(&token), status(&twin)), (200, 200));
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, input.as_bytes());
        let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let asked = json!({"kind": "token", "value": digest, "reason": "stolen"});
        assert_eq!(gateway.admin_post("/admin/v1/revocations", &asked).status, 200);
        assert_eq!((status(&token), status(&twin)), (401, 401));
    }
}

#[test]
fn jwt_23_an_ed25519_signature_has_one_form() {
    let key = Key::eddsa("ed-1");
    let gateway = Setup::new(&world().upstream)
        .file("jwks/main.json", key_set(&[&key]))
        .set("issuers.main.algorithms", r#"["EdDSA"]"#)
        .start();
    let token = Token::main("acme").sign(&key);
    let (input, signature) = cut(&token);
    // (R, S + L): S stands there with its lowest byte first.
    let turned: Vec<u8> = signature[32..].iter().rev().copied().collect();
    let mut above = sum(&ED_ORDER, &turned, 1);
    above.reverse();
    let twin = format!("{input}.{}", b64(&[&signature[..32], &above].concat()));
    let answer = gateway.send(&with(twin));
    assert_eq!((answer.status, answer.all("www-authenticate")), (401, vec![INVALID_TOKEN]));
    assert_eq!(gateway.send(&with(&token)).status, 200);
}

#[test]
fn jwt_23_a_small_order_key_signs_nothing() {
    let key = Key::eddsa("ed-1");
    let mut small = key.jwk();
    small["kid"] = "small".into();
    // The identity point: any message verifies with R = identity, S = 0.
    let mut identity = [0_u8; 32];
    identity[0] = 1;
    small["x"] = b64(&identity).into();
    let set = json!({"keys": [key.jwk(), small]}).to_string();
    let gateway = Setup::new(&world().upstream)
        .file("jwks/main.json", set)
        .set("issuers.main.algorithms", r#"["EdDSA"]"#)
        .start();
    assert_eq!(gateway.send(&with(Token::main("acme").sign(&key))).status, 200);
    let header = json!({"alg": "EdDSA", "kid": "small"}).to_string();
    let input = format!("{}.{}", b64(header.as_bytes()), b64(payload().as_bytes()));
    let signature = [identity, [0; 32]].concat();
    assert_eq!(gateway.send(&with(format!("{input}.{}", b64(&signature)))).status, 401);
    // A set of nothing else is none: y is 1, 0, -1, and above the field.
    let minus_one: Vec<u8> = [&[0xec], &[0xff; 30][..], &[0x7f]].concat();
    for (x, why) in [
        (identity.to_vec(), "small order"),
        (vec![0; 32], "small order"),
        (minus_one, "small order"),
        (vec![0xff; 32], "not canonical"),
    ] {
        let mut small = key.jwk();
        small["x"] = b64(&x).into();
        let setup = Setup::new(&world().upstream)
            .file("jwks/main.json", json!({"keys": [small]}).to_string())
            .set("issuers.main.algorithms", r#"["EdDSA"]"#);
        let output = setup.check();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains(why), "{said}");
    }
}

#[test]
fn jwt_every_algorithm_verifies_with_its_own_key_only() {
    let keys = [Key::es256("es"), Key::eddsa("ed"), Key::rsa("rs", "RS256"), Key::rsa("ps", "PS256")];
    let set = key_set(&keys.iter().collect::<Vec<_>>());
    let gateway = Setup::new(&world().upstream)
        .file("jwks/main.json", set)
        .set("issuers.main.algorithms", r#"["ES256", "EdDSA", "RS256", "PS256"]"#)
        .start();
    for key in &keys {
        assert_eq!(gateway.send(&with(Token::main("acme").sign(key))).status, 200, "{}", key.alg());
        for other in keys.iter().filter(|other| other.kid != key.kid) {
            let token = Token::main("acme").header("kid", other.kid.clone()).sign(key);
            assert_eq!(gateway.send(&with(token)).status, 401, "{} as {}", key.alg(), other.alg());
            let token = Token::main("acme").header("alg", other.alg()).sign(key);
            assert_eq!(gateway.send(&with(token)).status, 401, "{} says {}", key.alg(), other.alg());
        }
    }
}
