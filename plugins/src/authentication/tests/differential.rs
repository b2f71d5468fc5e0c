//! Whatever this front end accepts, jsonwebtoken accepts too, and reads the same in it: being strict must not mean being
//! different. The tokens are made of good ones: wrong in their structure and signed all the same, or changed in some bytes
//! once they were signed.
//!
//! One thing is accepted that the library refuses: the `alg` named `Ed25519` (RFC 9864), which it does not know.

use std::{cell::RefCell, collections::BTreeMap};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeySize,
    signature::{KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding, RsaKeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm as Theirs, DecodingKey, Validation, decode, decode_header, get_current_timestamp};
use proptest::{
    collection::vec,
    prelude::*,
    sample::select,
    test_runner::{RngAlgorithm, TestRng, TestRunner},
};
use serde_json::{Value, json};

use super::{super::*, rig::*};

const LOCAL: &str = "https://local.example.com";
/// How far a case may drag on between our reading of the clock and the library's.
const PATIENCE_S: u64 = 2;
const SKEW_S: u64 = 30;
/// Of each: its `alg`, its `kid`, and the name by which the library knows it.
const KINDS: [(&str, &str, Theirs); 5] = [
    ("ES256", "ec", Theirs::ES256),
    ("EdDSA", "ed", Theirs::EdDSA),
    ("RS256", "rs", Theirs::RS256),
    ("PS256", "ps", Theirs::PS256),
    ("HS256", "hs", Theirs::HS256),
];

/// One gateway with a key of each algorithm, and the same keys for the library.
struct Sides {
    rig: Rig,
    rsa: [RsaKeyPair; 2],
    keys: Vec<DecodingKey>,
}

impl Sides {
    fn new() -> Self {
        let rsa = [(); 2].map(|()| RsaKeyPair::generate(KeySize::Rsa2048).unwrap());
        let mut rig = Rig::new();
        let doc = DOC.replace(r#"["ES256", "EdDSA"]"#, r#"["ES256", "EdDSA", "RS256", "PS256"]"#);
        rig.control = compile(&doc.replace("typ = \"session+jwt\"\n", ""), &rig.needs, &mut Issues::default()).unwrap();
        let jwk = |pair: &RsaKeyPair, alg: &str, kid: &str| {
            let (n, e) = (pair.public_key().modulus(), pair.public_key().exponent());
            json!({ "kty": "RSA", "alg": alg, "kid": kid, "n": URL_SAFE_NO_PAD.encode(n.big_endian_without_leading_zero()),
                    "e": URL_SAFE_NO_PAD.encode(e.big_endian_without_leading_zero()) })
        };
        let set = [rig.ec_jwk("ec"), rig.ed_jwk("ed"), jwk(&rsa[0], "RS256", "rs"), jwk(&rsa[1], "PS256", "ps")];
        let all = [Algorithm::ES256, Algorithm::EdDSA, Algorithm::RS256, Algorithm::PS256];
        let ours = KeySet::from_jwks(json!({ "keys": set }).to_string().as_bytes(), &all).unwrap();
        assert_eq!(ours.usable(), 4);
        rig.set("main", KeySetState::Ready(ours));
        let theirs = set.map(|jwk| DecodingKey::from_jwk(&serde_json::from_value(jwk).unwrap()).unwrap());
        Self { rig, rsa, keys: theirs.into_iter().chain([DecodingKey::from_secret(SECRET)]).collect() }
    }

    fn sign(&self, kind: usize, header: &str, payload: &str) -> String {
        let rsa = |pair: &RsaKeyPair, padding: &'static dyn RsaEncoding, input: &str| {
            let mut signature = vec![0; pair.public_modulus_len()];
            pair.sign(padding, &SystemRandom::new(), input.as_bytes(), &mut signature).unwrap();
            format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
        };
        let input = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        match KINDS[kind].0 {
            "RS256" => rsa(&self.rsa[0], &RSA_PKCS1_SHA256, &input),
            "PS256" => rsa(&self.rsa[1], &RSA_PSS_SHA256, &input),
            // The rig takes the key by the header's alg, which may say another; it signs any bytes.
            alg => {
                let signature = self.rig.sign_input(alg, &input);
                format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
            }
        }
    }

    /// What a careful user of the library reads in a token, who chooses the issuer by `iss` and the key by `kid`, or by
    /// `alg` where there is none, and pins the key's algorithm.
    fn theirs(&self, token: &str) -> Option<Value> {
        let header = decode_header(token).ok()?;
        let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
        let payload: Value = serde_json::from_slice(&payload).ok()?;
        let (iss, kinds) = match payload["iss"].as_str()? {
            ISS => (ISS, 0..4),
            LOCAL => (LOCAL, 4..5),
            _ => return None,
        };
        let named = |kind: &usize| match &header.kid {
            Some(kid) if iss == ISS => KINDS[*kind].1 == kid,
            Some(_) | None => KINDS[*kind].2 == header.alg,
        };
        let kind = kinds.into_iter().find(named)?;
        let mut validation = Validation::new(KINDS[kind].2);
        validation.set_audience(&["orders"]);
        validation.set_issuer(&[iss]);
        validation.set_required_spec_claims(&["exp", "iss", "sub", "aud"]);
        // One leeway is for both times, and ours differ: none for `exp`, the skew for `nbf`.
        validation.leeway = PATIENCE_S;
        decode::<Value>(token, &self.keys[kind], &validation).ok()?;
        (validation.validate_exp, validation.validate_nbf) = (false, true);
        validation.leeway = SKEW_S + PATIENCE_S;
        Some(decode::<Value>(token, &self.keys[kind], &validation).ok()?.claims)
    }
}

/// What is done to a member of an object that is still text.
#[derive(Debug, Clone)]
enum Edit {
    Set(&'static str, Value),
    /// A time, as far from now.
    Time(&'static str, i64),
    Remove(&'static str),
    /// Once more, before the others or after them.
    Again(&'static str, Value, bool),
    /// Its name with its first letter escaped.
    Escaped(&'static str),
    Space,
    Tail(&'static str),
}

/// What is done to a token that is signed: at a place, as a share of its length.
#[derive(Debug, Clone)]
enum Scar {
    None,
    Replace(usize, u8),
    Insert(usize, u8),
    Delete(usize),
    Append(&'static str),
    /// Another last character of a part, which differs in its unused bits alone.
    Twin(usize),
    /// The signature of another good token.
    Grafted,
}

#[derive(Debug, Clone)]
struct Case {
    kind: usize,
    header: Vec<Edit>,
    payload: Vec<Edit>,
    scar: Scar,
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        select(vec![
            json!("orders"),
            json!(["orders"]),
            json!(["other", "orders"]),
            json!(["other"]),
            json!([]),
            json!(ISS),
            json!([ISS]),
            json!(LOCAL),
            json!("acme"),
            json!(["acme"]),
            json!(null),
            json!(true),
            json!({}),
            json!(1.5),
            json!(1e18),
            json!(u64::MAX),
            json!(-1),
            json!("ES256"),
            json!("HS256"),
            json!("none"),
            json!("ec"),
            json!("hs"),
            json!("JWT"),
            json!("at+jwt"),
            json!("Ed25519"),
        ]),
        any::<u32>().prop_map(|n| json!(n)),
        "[ -~\u{e9}\u{202e}]{0,12}".prop_map(|text| json!(text)),
    ]
}

fn edit(names: &'static [&'static str], times: &'static [&'static str]) -> impl Strategy<Value = Edit> {
    let name = || select(names);
    let time = if times.is_empty() {
        Just(Edit::Space).boxed()
    } else {
        (select(times), prop_oneof![-120_i64..120, -4000_i64..4000]).prop_map(|(name, by)| Edit::Time(name, by)).boxed()
    };
    prop_oneof![
        3 => (name(), value()).prop_map(|(name, value)| Edit::Set(name, value)),
        4 => time,
        1 => name().prop_map(Edit::Remove),
        1 => (name(), value(), any::<bool>()).prop_map(|(name, value, first)| Edit::Again(name, value, first)),
        1 => name().prop_map(Edit::Escaped),
        2 => Just(Edit::Space),
        1 => select(&[" ", "\n", "x", "{}", "\0", "\u{feff}"][..]).prop_map(Edit::Tail),
    ]
}

fn scar() -> impl Strategy<Value = Scar> {
    let byte = || select(b"ABCxyz019-_+/=. ".as_slice());
    prop_oneof![
        12 => Just(Scar::None),
        1 => (any::<usize>(), byte()).prop_map(|(at, byte)| Scar::Replace(at, byte)),
        1 => (any::<usize>(), byte()).prop_map(|(at, byte)| Scar::Insert(at, byte)),
        1 => any::<usize>().prop_map(Scar::Delete),
        1 => select(&["=", "==", ".", "A", "AAAA", "\n", "."][..]).prop_map(Scar::Append),
        2 => (0_usize..3).prop_map(Scar::Twin),
        1 => Just(Scar::Grafted),
    ]
}

fn case() -> impl Strategy<Value = Case> {
    // Another algorithm or key than the one that signs, beside all that a header may not say.
    let header = prop_oneof![
        1 => select(&KINDS[..]).prop_map(|(alg, _, _)| Edit::Set("alg", json!(alg))),
        1 => select(&KINDS[..]).prop_map(|(_, kid, _)| Edit::Set("kid", json!(kid))),
        4 => edit(&["alg", "kid", "typ", "crit", "b64", "jwk", "jku", "cty", "zip"], &[]),
    ];
    let payload = edit(
        &["iss", "aud", "sub", "exp", "iat", "nbf", "jti", "tenant_id", "roles", "scope", "cnf", "x"],
        &["exp", "iat", "nbf"],
    );
    let headers = prop_oneof![3 => Just(Vec::new()), 2 => vec(header, 1..3)];
    let payloads = prop_oneof![2 => Just(Vec::new()), 3 => vec(payload, 1..3)];
    (0..KINDS.len(), headers, payloads, scar()).prop_map(|(kind, header, payload, scar)| Case {
        kind,
        header,
        payload,
        scar,
    })
}

fn edited(mut object: Value, edits: &[Edit], now: u64) -> String {
    let mut text = Vec::new();
    for edit in edits {
        match edit {
            Edit::Set(name, value) => object[*name] = value.clone(),
            Edit::Time(name, by) => object[*name] = json!(now.saturating_add_signed(*by)),
            Edit::Remove(name) => drop(object.as_object_mut().unwrap().remove(*name)),
            Edit::Again(..) | Edit::Escaped(_) | Edit::Space | Edit::Tail(_) => text.push(edit),
        }
    }
    text.into_iter().fold(object.to_string(), |text, edit| match edit {
        Edit::Again(name, value, true) => text.replacen('{', &format!("{{\"{name}\":{value},"), 1),
        Edit::Again(name, value, false) => {
            let (members, tail) = text.rsplit_once('}').unwrap();
            format!("{members},\"{name}\":{value}}}{tail}")
        }
        Edit::Escaped(name) => {
            let (first, rest) = name.split_at(1);
            let escaped = format!("\"\\u{:04x}{rest}\"", first.as_bytes()[0]);
            text.replacen(&format!("\"{name}\""), &escaped, 1)
        }
        Edit::Space => text.replacen('{', "{ \t", 1).replacen(',', "\r\n, ", 1),
        Edit::Tail(tail) => format!("{text}{tail}"),
        Edit::Set(..) | Edit::Time(..) | Edit::Remove(_) => text,
    })
}

fn scarred(token: String, scar: &Scar, other: &str) -> String {
    let mut bytes = token.into_bytes();
    let at = |share: &usize| share.checked_rem(bytes.len()).unwrap();
    match scar {
        Scar::None => {}
        Scar::Replace(share, byte) => {
            let at = at(share);
            bytes[at] = *byte;
        }
        Scar::Insert(share, byte) => bytes.insert(at(share), *byte),
        Scar::Delete(share) => drop(bytes.remove(at(share))),
        Scar::Append(tail) => bytes.extend_from_slice(tail.as_bytes()),
        Scar::Twin(part) => {
            const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
            let after = bytes
                .iter()
                .enumerate()
                .filter(|(_, byte)| **byte == b'.')
                .map(|(at, _)| at)
                .chain([bytes.len()])
                .nth(*part)
                .unwrap();
            let end = after.checked_sub(1).unwrap();
            let digit = ALPHABET.iter().position(|letter| *letter == bytes[end]).unwrap();
            bytes[end] = ALPHABET[digit ^ 1];
        }
        Scar::Grafted => {
            let text = String::from_utf8(bytes).unwrap();
            return format!("{}.{}", text.rsplit_once('.').unwrap().0, other.rsplit_once('.').unwrap().1);
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn token(sides: &Sides, case: &Case, now: u64) -> String {
    let (alg, kid, _) = KINDS[case.kind];
    let mut good = payload();
    good["iss"] = json!(if alg == "HS256" { LOCAL } else { ISS });
    (good["iat"], good["exp"]) = (json!(now.saturating_sub(10)), json!(now.saturating_add(100)));
    let header = edited(json!({ "alg": alg, "kid": kid, "typ": "JWT" }), &case.header, now);
    let other = sides.sign(case.kind, &header, &good.to_string());
    scarred(sides.sign(case.kind, &header, &edited(good, &case.payload, now)), &case.scar, &other)
}

#[test]
fn what_we_accept_the_library_accepts_and_reads_the_same() {
    let sides = Sides::new();
    let seen: RefCell<BTreeMap<String, u32>> = RefCell::default();
    let count = |what: String| *seen.borrow_mut().entry(what).or_default() += 1;
    let config = ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let outcome = runner.run(&case(), |case| {
        let now = get_current_timestamp();
        sides.rig.at(now);
        let token = token(&sides, &case, now);
        prop_assume!(token.bytes().all(|byte| byte.is_ascii_graphic()));
        let Answer::Verified { tenant, subject, .. } = sides.rig.bearer(BOTH, &token) else {
            count("refused".to_owned());
            return Ok(());
        };
        if decode_header(&token).is_err() {
            let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
            let header: Value = serde_json::from_slice(&header).unwrap();
            prop_assert_eq!(&header["alg"], "Ed25519", "a header that the library cannot read");
            return Ok(());
        }
        count(KINDS[case.kind].0.to_owned());
        let theirs = sides.theirs(&token);
        prop_assert!(theirs.is_some(), "the library refuses {token}");
        let theirs = theirs.unwrap();
        prop_assert_eq!(theirs["sub"].as_str(), Some(subject.as_str()));
        prop_assert_eq!(theirs["tenant_id"].as_str(), Some(tenant.as_str()));
        Ok(())
    });
    outcome.unwrap();
    let seen = seen.into_inner();
    // Else the comparison says nothing.
    assert!(seen.len() == 6 && seen.values().all(|count| *count > 100), "{seen:?}");
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
