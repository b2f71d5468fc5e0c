//! THREATS E and F, as far as this gateway has them: key sets and API keys.

use std::fs;

use portcullis_tests::{Key, Protocol, Request, Setup, Token, tokens::key_set, wait_for};
use serde_json::json;

use crate::world;

fn with(key: impl AsRef<[u8]>) -> Request {
    Request::get("/v1/orders").header("X-Api-Key", key)
}

#[test]
fn key_02_a_key_that_leaves_the_set_is_trusted_no_longer() {
    let (old, new) = (Key::es256("old"), Key::es256("new"));
    let gateway = Setup::new(&world().upstream).file("jwks/main.json", key_set(&[&old, &new])).start();
    let status = |key: &Key| gateway.send(&Request::get("/v1/orders").bearer(Token::main("acme").sign(key))).status;
    let stolen = Token::main("acme").sign(&old);
    let cached = || gateway.send(&Request::get("/v1/orders").bearer(&stolen)).status;
    assert_eq!((status(&old), status(&new), cached()), (200, 200, 200));
    portcullis_tests::document::write_private(&gateway.setup().path("jwks/main.json"), key_set(&[&new]).as_bytes());
    wait_for("the old key to be gone", || (status(&old) == 401).then_some(()));
    assert_eq!((status(&new), cached()), (200, 401));
}

#[test]
fn key_03_a_set_without_a_usable_key_is_no_set() {
    let good = Key::es256("main-1");
    let token = Token::main("acme").sign(&good);
    let mut encryption = good.jwk();
    encryption["use"] = "enc".into();
    let secret = Key::hs256("main-1", &[7; 32]).jwk();
    let (twin, other) = (Key::es256("main-1").jwk(), good.jwk());
    for (what, set) in [
        ("empty", json!({"keys": []})),
        ("for encryption", json!({"keys": [encryption]})),
        ("a secret", json!({"keys": [secret]})),
        ("two of one name", json!({"keys": [other, twin]})),
    ] {
        let setup = Setup::new(&world().upstream).file("jwks/main.json", set.to_string());
        // Either it says so at once, or it cannot tell: it never lets anybody in.
        if setup.check().status.code() == Some(0) {
            let gateway = setup.launch();
            let answer = gateway.send(&Request::get("/v1/orders").bearer(&token));
            assert!(matches!(answer.status, 401 | 503), "{what}: {answer:?}");
        }
    }
}

#[test]
fn key_20_the_store_holds_no_key() {
    let gateway = &world().gateway;
    let file = fs::read_to_string(gateway.setup().path("keys.json")).expect("the key file is there");
    for name in ["acme", "globex"] {
        let key = gateway.key(name);
        let secret = key.split('_').nth(3).expect("brand, environment, id, secret, checksum");
        assert!(secret.len() >= 43, "{key}");
        assert!(!file.contains(secret));
        assert_eq!(gateway.send(&with(key)).status, 200);
    }
}

#[test]
fn key_21_an_unknown_key_and_a_wrong_one_look_the_same() {
    let key = world().gateway.key("acme");
    let wrong = forge(key, |parts| parts[3] = "A".repeat(43));
    let unknown = forge(key, |parts| parts[2] = "A".repeat(12));
    let body = |key: &str| {
        let answer = world().gateway.send(&with(key));
        assert_eq!(answer.status, 401);
        let mut problem = answer.problem();
        problem["request_id"] = "".into();
        (problem, answer.header("www-authenticate").map(str::to_owned))
    };
    let same = body(&wrong);
    assert_eq!(body(&unknown), same);
    assert_eq!(body("garbage"), same);
    for key in [&wrong, &unknown] {
        world().refuses_both(401, &with(key));
        world().refuses_both(401, &Request::get("/v1/orders").bearer(key));
    }
}

/// The same key with other parts and a checksum that is right again.
fn forge(key: &str, change: impl Fn(&mut [String])) -> String {
    let mut parts: Vec<String> = key.split('_').map(str::to_owned).collect();
    assert_eq!(parts.len(), 5, "{key}");
    assert_eq!(parts[4], checksum(&parts[..4].join("_")), "the checksum is not what the format says");
    change(&mut parts);
    parts[4] = checksum(&parts[..4].join("_"));
    parts.join("_")
}

/// CRC-32 (IEEE) of everything before, six base62 digits.
fn checksum(text: &str) -> String {
    let crc = !text.bytes().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    });
    let digits: Vec<char> = ('0'..='9').chain('A'..='Z').chain('a'..='z').collect();
    let mut out = Vec::new();
    let mut rest = crc;
    for _ in 0..6 {
        out.push(digits[(rest % 62) as usize]);
        rest /= 62;
    }
    out.iter().rev().collect()
}

#[test]
fn key_22_a_stored_hash_is_no_key() {
    let file = fs::read_to_string(world().gateway.setup().path("keys.json")).expect("the key file is there");
    // Every long piece of text in the store.
    let pieces: Vec<&str> = file.split(['"', '$']).filter(|piece| piece.len() >= 16).collect();
    assert!(!pieces.is_empty(), "{file}");
    for piece in pieces.iter().filter(|piece| piece.is_ascii() && !piece.contains(['\n', ' '])) {
        world().refuses(Protocol::H1, 401, &with(piece));
    }
}

#[test]
fn key_22_a_key_with_one_character_changed_is_none() {
    let key = world().gateway.key("acme");
    for at in [0, 4, 9, 15, 30, key.len() - 1] {
        let mut bytes = key.as_bytes().to_vec();
        bytes[at] = if bytes[at] == b'x' { b'y' } else { b'x' };
        world().refuses(Protocol::H1, 401, &with(&bytes));
    }
    for bad in [format!("{key}x"), key[1..].to_owned(), key.to_uppercase(), key.replace('_', "-")] {
        world().refuses(Protocol::H1, 401, &with(bad));
    }
}

#[test]
fn key_24_a_key_of_another_environment_opens_nothing() {
    let gateway =
        Setup::new(&world().upstream).key("test", &["--tenant", "acme", "--env", "test", "--role", "owner"]).start();
    let ask = |key: &str| gateway.send(&Request::get("/v1/live").header("X-Api-Key", key)).status;
    assert_eq!(ask(gateway.key("acme")), 200);
    assert_eq!(ask(gateway.key("test")), 401);
    // Its environment renamed, its checksum right.
    assert_eq!(ask(&forge(gateway.key("test"), |parts| parts[1] = "live".to_owned())), 401);
    assert_eq!(ask(&forge(gateway.key("acme"), |parts| parts[1] = "test".to_owned())), 401);
}

#[test]
fn key_24_a_key_carries_its_own_tenant() {
    for name in ["acme", "globex"] {
        for protocol in Protocol::BOTH {
            let seen =
                world().admits(protocol, &with(world().gateway.key(name)).header("X-Portcullis-Tenant", "other"));
            assert_eq!(seen.header("x-portcullis-tenant").as_deref(), Some(name));
            assert_eq!(seen.header("x-portcullis-kind").as_deref(), Some("apikey"));
            assert_eq!(seen.header("x-api-key"), None);
        }
    }
}
