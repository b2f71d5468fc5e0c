//! Tests of `api_keys` and `api_key_file`: the form of a key, the table, and the file nobody may change unseen.

use portcullis_api::{Role, Secret};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::authentication::{
    Filters, IssueRequest, LIFETIME_DEFAULT_S, LIFETIME_MAX_S, add_record, issue, revoke_record,
};

const NOW: u64 = 1_800_000_000;

fn pepper() -> Peppers {
    Peppers::new(&Secret::new(b"k3f9Zq0vT7mWc2Xb8LpR5sYd1HnJ6gUe".to_vec()), &[]).unwrap()
}
fn brand() -> Environment {
    Environment::parse("pck").unwrap()
}
fn request() -> IssueRequest {
    IssueRequest {
        brand: brand(),
        environment: Environment::parse("live").unwrap(),
        tenant: portcullis_api::TenantId::parse("acme").unwrap(),
        role: Some(portcullis_api::Role::Developer),
        scopes: vec![portcullis_api::Scope::parse("orders").unwrap()],
        name: Some("till 7".into()),
        lifetime_s: None,
        cidrs: None,
        routes: None,
        created_by: None,
        kind: None,
        filters: None,
    }
}
/// Deterministic bytes that differ from call to call.
fn entropy(seed: u8) -> impl FnMut(&mut [u8]) {
    let mut state = u64::from(seed) | 1;
    move |out| {
        for byte in out {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = state.to_be_bytes()[0];
        }
    }
}
fn issued(seed: u8) -> (String, Value) {
    let issued = issue(request(), &pepper(), &mut entropy(seed), NOW).unwrap();
    (issued.key.as_str().to_owned(), issued.record)
}
fn table(text: &str) -> Result<ApiKeyTable, ApiKeyFileError> {
    ApiKeyTable::parse(text.as_bytes(), &pepper(), &brand())
}
fn one() -> (String, String) {
    let (key, record) = issued(1);
    (key, add_record("", &record).unwrap())
}

#[test]
fn a_key_that_was_issued_is_verified() {
    let (key, file) = one();
    assert_eq!(key.len(), 4 + 5 + 13 + 44 + 6);
    assert!(!file.contains(key.split('_').nth(3).unwrap()), "key_20: the file holds no secret");
    let table = table(&file).unwrap();
    let identity = table.verify(key.as_bytes(), NOW).unwrap();
    assert_eq!((identity.tenant().as_str(), identity.issuer(), identity.kind()), ("acme", "apikey", Kind::ApiKey));
    assert_eq!(identity.key_id(), Some(identity.subject()));
    assert_eq!((identity.role(), identity.scopes().len()), (Some(portcullis_api::Role::Developer), 1));
    assert_eq!(identity.environment().unwrap().as_str(), "live");
    assert_eq!(identity.expires(), Some(NOW + LIFETIME_DEFAULT_S));
}

#[test]
fn key_22_only_the_exact_form_is_a_key() {
    let (key, file) = one();
    let table = table(&file).unwrap();
    let why = |key: &str| table.verify(key.as_bytes(), NOW).unwrap_err();
    let mut parts: Vec<&str> = key.split('_').collect();
    for bad in [
        "",
        "pck",
        "pck____",
        "pck_live",
        &format!("{key}_"),
        &format!("{key}0"),
        &format!(" {key}"),
        &key.to_uppercase(),
        &key.replacen("pck", "abc", 1),
        &key.replacen("live", "L1ve", 1),
        &key.replacen("live", "live_x", 1),
    ] {
        assert_eq!(why(bad), Why::ApiKeyForm, "{bad}");
    }
    let hash = serde_json::from_str::<Value>(&file).unwrap()["keys"][0]["hash"].as_str().unwrap().to_owned();
    assert_eq!(why(&hash), Why::ApiKeyForm, "the stored hash is no key");
    assert_eq!(table.verify(b"pck_live_\xff", NOW).unwrap_err(), Why::ApiKeyForm);
    parts[4] = "000000";
    assert_eq!(why(&parts.join("_")), Why::ApiKeyChecksum);
}

#[test]
fn key_25_the_checksum_catches_every_changed_character() {
    let (key, file) = one();
    let table = table(&file).unwrap();
    for index in 9..key.len() {
        let mut bytes = key.clone().into_bytes();
        if bytes[index] != b'_' {
            bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
            assert_eq!(table.verify(&bytes, NOW).unwrap_err(), Why::ApiKeyChecksum, "{index}");
        }
    }
}

#[test]
fn crc_32_is_the_one_everybody_means() {
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    assert_eq!(crc32(b""), 0);
    assert_eq!(checksum("").len(), 6);
}

#[test]
fn key_21_an_unknown_id_and_a_wrong_secret_are_one_answer() {
    let (_, file) = one();
    let (other, _) = issued(2);
    let table = table(&file).unwrap();
    assert_eq!(table.verify(other.as_bytes(), NOW).unwrap_err(), Why::ApiKeyUnknown);
    let (key, _) = issued(1);
    let secret = other.split('_').nth(3).unwrap();
    let body = key.split('_').take(3).chain([secret]).collect::<Vec<_>>().join("_");
    let forged = format!("{body}_{}", checksum(&body));
    assert_eq!(table.verify(forged.as_bytes(), NOW).unwrap_err(), Why::ApiKeyUnknown);
    assert_eq!(ApiKeyTable::empty().verify(key.as_bytes(), NOW).unwrap_err(), Why::ApiKeyUnknown);
}

#[test]
fn key_24_the_environment_is_part_of_what_is_hashed() {
    let (key, file) = one();
    let body = key.replacen("live", "test", 1).rsplit_once('_').unwrap().0.to_owned();
    let crossed = format!("{body}_{}", checksum(&body));
    assert_eq!(table(&file).unwrap().verify(crossed.as_bytes(), NOW).unwrap_err(), Why::ApiKeyUnknown);
}

#[test]
fn a_key_ends_at_its_expiry_and_when_revoked() {
    let (key, file) = one();
    let before = table(&file).unwrap();
    let expiry = NOW + LIFETIME_DEFAULT_S;
    assert!(before.verify(key.as_bytes(), expiry - 1).is_ok());
    assert_eq!(before.verify(key.as_bytes(), expiry).unwrap_err(), Why::ApiKeyExpired);
    let id = key.split('_').nth(2).unwrap();
    let file = revoke_record(&file, id, &pepper(), NOW + 5).unwrap();
    assert_eq!(table(&file).unwrap().verify(key.as_bytes(), NOW).unwrap_err(), Why::ApiKeyRevoked);
    assert_eq!(revoke_record(&file, id, &pepper(), NOW + 9).unwrap(), file, "the time of the first stays");
    assert!(matches!(revoke_record(&file, "zzzzzzzzzzzz", &pepper(), NOW), Err(ApiKeyFileError::Unknown(_))));
}

#[test]
fn key_23_a_record_that_was_edited_is_a_load_error_that_names_it() {
    let (_, file) = one();
    let (_, other) = one();
    let value: Value = serde_json::from_str(&file).unwrap();
    let id = value["keys"][0]["id"].as_str().unwrap();
    let edited = |name: &str, new: Value| {
        let mut value: Value = serde_json::from_str(&other).unwrap();
        value["keys"][0][name] = new;
        table(&value.to_string()).unwrap_err()
    };
    for (name, new) in [
        ("env", json!("test")),
        ("tenant", json!("globex")),
        ("role", json!("owner")),
        ("role", json!(null)),
        ("scopes", json!(["orders", "admin"])),
        ("scopes", json!([])),
        ("created", json!(NOW + 1)),
        ("expires", json!(NOW + 1000)),
        ("revoked", json!(NOW)),
        ("name", json!("till 8")),
        ("id", json!("AAAAAAAAAAAA")),
        ("mac", json!("0".repeat(64))),
    ] {
        let error = edited(name, new.clone());
        let ApiKeyFileError::Record { id: named, field, .. } = &error else { panic!("{name}: {error}") };
        assert_eq!(*field, "mac", "{name}");
        assert!(named == id || name == "id");
    }
    let hash = value["keys"][0]["hash"].as_str().unwrap();
    let swapped = format!("{}{}", hash.trim_end_matches(|c: char| c.is_ascii_hexdigit()), "0".repeat(64));
    assert!(edited("hash", json!(swapped)).to_string().contains("mac"));
    assert!(edited("hash", json!("v1$sha256$x$00")).to_string().contains("hash"));
    assert!(edited("mac", json!("xyz")).to_string().contains("mac"));
    let mut unsafe_revive: Value = serde_json::from_str(&revoke_record(&file, id, &pepper(), NOW).unwrap()).unwrap();
    unsafe_revive["keys"][0].as_object_mut().unwrap().remove("revoked");
    assert!(table(&unsafe_revive.to_string()).is_err(), "a revoked key cannot be revived");
}

#[test]
fn another_pepper_is_named_as_what_it_is() {
    let (_, file) = one();
    let other = Peppers::new(&Secret::new(b"Ye1u9Zq0vT7mWc2Xb8LpR5sYd1HnJ6gU".to_vec()), &[]).unwrap();
    let error = ApiKeyTable::parse(file.as_bytes(), &other, &brand()).unwrap_err();
    assert!(error.to_string().contains("made with pepper"), "{error}");
    for weak in [vec![7; 64], vec![1; 31], vec![]] {
        let weak = Secret::new(weak);
        assert!(matches!(Peppers::new(&weak, &[]), Err(ApiKeyFileError::Pepper(_))));
    }
}

#[test]
fn a_file_is_understood_whole_or_not_at_all() {
    let (_, file) = one();
    let value: Value = serde_json::from_str(&file).unwrap();
    let record = value["keys"][0].clone();
    let with = |name: &str, new: Value| {
        let mut record = record.clone();
        record[name] = new;
        json!({ "version": 1, "keys": [record] }).to_string()
    };
    for bad in [
        String::new(),
        "{}".into(),
        "[]".into(),
        r#"{"version":1}"#.into(),
        r#"{"version":1,"keys":[],"note":"x"}"#.into(),
        r#"{"version":2,"keys":[]}"#.into(),
        r#"{"version":1,"version":1,"keys":[]}"#.into(),
        r#"{"version":1,"keys":[]} x"#.into(),
        with("scope", json!(["a"])),
        with("env", json!("LIVE")),
        with("tenant", json!("system")),
        with("role", json!("root")),
        with("scopes", json!("orders")),
        with("expires", json!("2027-01-01")),
        with("expires", json!(NOW)),
        with("expires", json!(NOW + LIFETIME_MAX_S + 1)),
        with("id", json!("short")),
        with("id", json!("A_AAAAAAAAAA")),
        with("name", json!("a\nb")),
        with("name", json!("")),
        json!({ "version": 1, "keys": [record, record] }).to_string(),
    ] {
        assert!(table(&bad).is_err(), "{bad}");
        if !bad.is_empty() {
            assert!(add_record(&bad, &issued(9).1).is_err(), "nothing is written over {bad}");
            assert!(revoke_record(&bad, "AAAAAAAAAAAA", &pepper(), NOW).is_err());
        }
    }
    assert_eq!(table(r#"{"version":1,"keys":[]}"#).unwrap().len(), 0);
}

#[test]
fn records_are_added_and_nothing_is_lost() {
    let mut file = String::new();
    let mut keys = Vec::new();
    for seed in [1, 3, 5, 7] {
        let (key, record) = issued(seed);
        file = add_record(&file, &record).unwrap();
        keys.push(key);
    }
    let table = table(&file).unwrap();
    assert_eq!(table.len(), 4);
    assert!(keys.iter().all(|key| table.verify(key.as_bytes(), NOW).is_ok()));
    assert!(matches!(add_record(&file, &issued(3).1), Err(ApiKeyFileError::Twice(_))));
}

#[test]
fn a_request_has_bounds_and_a_broken_random_source_gives_no_key() {
    let ask = |lifetime_s| {
        issue(IssueRequest { lifetime_s: Some(lifetime_s), ..request() }, &pepper(), &mut entropy(1), NOW).map(|_| ())
    };
    assert_eq!(ask(LIFETIME_MAX_S), Ok(()));
    assert!(ask(LIFETIME_MAX_S + 1).is_err());
    assert!(ask(0).is_err());
    let long = IssueRequest { name: Some("n".repeat(65)), ..request() };
    assert!(issue(long, &pepper(), &mut entropy(1), NOW).is_err());
    assert!(issue(request(), &pepper(), &mut |out: &mut [u8]| out.fill(255), NOW).is_err());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
        let _ = parse(&bytes, &brand());
        let _ = table(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn every_issued_key_is_parsed_back(seed in any::<u8>()) {
        let (key, record) = issued(seed);
        let presented = parse(key.as_bytes(), &brand()).unwrap();
        prop_assert_eq!(Some(presented.id), record["id"].as_str());
    }
}

#[test]
fn key_23_kind_and_filters_are_under_the_mac_and_neither_can_be_added_taken_away_or_changed() {
    let filters = |region: &str| {
        let term = json!({ "f": "region", "op": "eq", "v": region });
        Filters::parse(json!({ "v": 1, "all": [term] }).to_string().as_bytes()).unwrap()
    };
    let of = |kind, filters, role| {
        let request = IssueRequest { kind, filters, role, ..request() };
        issue(request, &pepper(), &mut entropy(3), NOW).map(|issued| issued.record)
    };
    let read = |record: &Value| table(&json!({ "version": 1, "keys": [record] }).to_string()).map(|_| ());
    let embed = of(Some(KeyKind::Embed), Some(filters("eu")), Some(Role::Viewer)).unwrap();
    assert_eq!(read(&embed), Ok(()));
    for (name, new) in [
        ("filters", json!(filters("us"))),
        ("filters", Value::Null),
        ("kind", json!("service")),
        ("kind", Value::Null),
        ("role", json!("owner")),
    ] {
        let mut edited = embed.clone();
        edited[name] = new.clone();
        assert!(read(&edited).is_err(), "{name} {new}");
    }
    let plain = of(None, None, None).unwrap();
    assert!(plain.get("kind").is_none() && plain.get("filters").is_none());
    for (name, new) in [("filters", json!(filters("us"))), ("kind", json!("service"))] {
        let mut edited = plain.clone();
        edited[name] = new;
        assert!(read(&edited).is_err(), "{name}");
    }
    assert!(of(Some(KeyKind::Embed), None, None).is_err(), "pages that others show never show all");
    assert!(of(Some(KeyKind::Embed), Some(filters("eu")), Some(Role::Developer)).is_err());
    assert!(of(Some(KeyKind::Service), Some(filters("eu")), Some(Role::Owner)).is_ok());
}
