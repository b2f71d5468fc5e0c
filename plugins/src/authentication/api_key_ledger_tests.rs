//! Tests of what a store does to its records.

use portcullis_api::{Cidrs, Role, Scope, Secret, TenantId};

use super::*;
use crate::authentication::ApiKeyTable;

const NOW: u64 = 1_800_000_000;

fn peppers() -> Peppers {
    Peppers::new(&Secret::new(b"k3f9Zq0vT7mWc2Xb8LpR5sYd1HnJ6gUe".to_vec()), &[]).unwrap()
}

fn ledger() -> Ledger {
    let active_max = NonZeroU32::MIN.saturating_add(1);
    Ledger { peppers: peppers(), brand: Environment::parse("pck").unwrap(), active_max }
}

fn fill(bytes: &mut [u8]) {
    aws_lc_rs::rand::fill(bytes).unwrap();
}

fn request(name: &str) -> IssueRequest {
    IssueRequest {
        brand: Environment::parse("pck").unwrap(),
        environment: Environment::parse("live").unwrap(),
        tenant: TenantId::parse("acme").unwrap(),
        role: Some(Role::Developer),
        scopes: vec![Scope::parse("orders").unwrap()],
        name: Some(name.to_owned()),
        lifetime_s: None,
        cidrs: Some(Cidrs::new(vec!["10.0.0.0/8".parse().unwrap()])),
        routes: Some(vec!["a.example/orders".to_owned()]),
        created_by: Some("kim".to_owned()),
        kind: None,
        filters: None,
    }
}

fn rotation(overlap_s: u64) -> RotateRequest {
    RotateRequest { overlap_s: Some(overlap_s), lifetime_s: None, created_by: None }
}

fn one() -> Row {
    ledger().issue(&[], request("till"), &mut fill, NOW).unwrap().rows.remove(0)
}

fn unusable(row: &Row) -> usize {
    ApiKeyTable::of_rows(std::slice::from_ref(row), &peppers(), &ledger().brand).1.len()
}

#[test]
fn key_23_every_field_of_a_record_is_under_its_mac() {
    let row = one();
    assert_eq!(unusable(&row), 0);
    for (from, to) in [
        ("10.0.0.0/8", "0.0.0.0/0"),
        ("a.example/orders", "a.example/admin"),
        ("\"kim\"", "\"lee\""),
        ("\"developer\"", "\"owner\""),
        ("\"cidrs\":[\"10.0.0.0/8\"],", ""),
        ("\"routes\":[\"a.example/orders\"],", ""),
        ("\"created_by\":\"kim\",", ""),
        ("\"created_by\":\"kim\",", "\"created_by\":\"kim\",\"successor\":\"AAAAAAAAAAAA\","),
    ] {
        let before = row.record.clone().unwrap();
        let record = before.replace(from, to);
        assert_ne!(record, before, "{from}");
        assert_eq!(unusable(&Row { record: Ok(record), ..row.clone() }), 1, "{from} -> {to}");
    }
    for wrong in [Row { id: "AAAAAAAAAAAA".into(), ..row.clone() }, Row { tenant: "globex".into(), ..row.clone() }] {
        assert_eq!(unusable(&wrong), 1, "a row is its record's");
    }
}

#[test]
fn a_rotation_has_bounds_and_the_old_key_never_lives_longer_for_it() {
    let row = one();
    for (overlap, possible) in [(0, false), (1, true), (OVERLAP_MAX_S, true), (OVERLAP_MAX_S + 1, false)] {
        assert_eq!(ledger().rotate(&row, rotation(overlap), &mut fill, NOW).is_ok(), possible, "{overlap}");
    }
    let before = row.read().unwrap().expires;
    let late = before - 10;
    let made = ledger().rotate(&row, rotation(OVERLAP_MAX_S), &mut fill, late).unwrap();
    let records: Vec<Record> = made.rows.iter().map(|row| row.read().unwrap()).collect();
    let old = records.iter().find(|record| record.id == row.id).unwrap();
    assert_eq!(old.expires, before);
    assert!(made.rows.iter().all(|row| unusable(row) == 0));
    let old = made.rows.iter().find(|old| old.id == row.id).unwrap();
    assert!(matches!(
        ledger().rotate(old, rotation(1), &mut fill, late),
        Err(ApiKeyFileError::NotActive { state: "superseded", .. })
    ));
    let revoked = ledger().revoke(&row, NOW).unwrap().unwrap();
    assert!(matches!(
        ledger().rotate(&revoked, rotation(1), &mut fill, NOW),
        Err(ApiKeyFileError::NotActive { state: "revoked", .. })
    ));
    assert_eq!(ledger().revoke(&revoked, NOW + 1).unwrap(), None, "once");
}

#[test]
fn names_and_numbers_are_counted_over_what_is_active() {
    let ledger = ledger();
    let first = one();
    let rows = [first.clone()];
    assert!(matches!(ledger.issue(&rows, request("till"), &mut fill, NOW), Err(ApiKeyFileError::NameTaken { .. })));
    let second = ledger.issue(&rows, request("two"), &mut fill, NOW).unwrap().rows.remove(0);
    let rows = [first.clone(), second.clone()];
    assert!(matches!(
        ledger.issue(&rows, request("three"), &mut fill, NOW),
        Err(ApiKeyFileError::TenantFull { max: 2, .. })
    ));
    let rows = [ledger.revoke(&first, NOW).unwrap().unwrap(), second];
    assert!(ledger.issue(&rows, request("till"), &mut fill, NOW).is_ok());
    let end = first.read().unwrap().expires;
    assert!(ledger.issue(&[first], request("till"), &mut fill, end).is_ok());
}

#[test]
fn another_pepper_makes_no_key_that_the_gateways_would_refuse() {
    let row = one();
    let other = Secret::new(b"Ye1u9Zq0vT7mWc2Xb8LpR5sYd1HnJ6gU".to_vec());
    let alone = Ledger { peppers: Peppers::new(&other, &[]).unwrap(), ..ledger() };
    assert!(alone.issue(std::slice::from_ref(&row), request("two"), &mut fill, NOW).is_err());
    let first = Secret::new(b"k3f9Zq0vT7mWc2Xb8LpR5sYd1HnJ6gUe".to_vec());
    let both = Ledger { peppers: Peppers::new(&other, std::slice::from_ref(&first)).unwrap(), ..ledger() };
    let made = both.rotate(&row, rotation(60), &mut fill, NOW).unwrap();
    let (table, bad) = ApiKeyTable::of_rows(&made.rows, &both.peppers, &both.brand);
    assert_eq!((table.len(), bad.len()), (2, 0), "each by its own pepper");
    assert!(Peppers::new(&first, std::slice::from_ref(&first)).is_err(), "one twice");
}
