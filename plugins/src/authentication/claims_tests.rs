//! Tests of `claims`: each claim missing, of another type, at its edge and one past it.

use serde_json::{Value, json};

use super::*;
use crate::authentication::strict_json::{TOKEN, parse};

const NOW: u64 = 1_800_000_000;

fn rules() -> Rules {
    Rules {
        jti: Presence::Optional,
        audiences: vec!["orders".into(), "billing".into()],
        audience_form: AudienceForm::Several,
        tenant: Path::parse("tenant_id").unwrap(),
        roles: Path::parse("realm.roles"),
        environments: None,
        scopes: Path::parse("scope"),
        role_names: vec![("gw-view".into(), Role::Viewer), ("gw-admin".into(), Role::Admin)],
        max_lifetime_s: 3600,
        clock_skew_s: 30,
    }
}

fn payload() -> Value {
    json!({ "iss": "x", "aud": "orders", "sub": "u-1", "tenant_id": "acme", "iat": NOW - 10, "exp": NOW + 100 })
}

fn read_value(value: &Value) -> Result<Claims, Why> {
    read(&parse(value.to_string().as_bytes(), TOKEN).unwrap(), &rules(), NOW)
}

/// The payload with one member set, or removed with `null`.
fn with(name: &str, value: Value) -> Result<Claims, Why> {
    let mut payload = payload();
    payload[name] = value;
    read_value(&payload)
}

fn without(name: &str) -> Result<Claims, Why> {
    let mut payload = payload();
    payload.as_object_mut().unwrap().remove(name);
    read_value(&payload)
}

#[test]
fn a_plain_payload_is_read() {
    let claims = read_value(&payload()).unwrap();
    assert_eq!((claims.tenant.as_str(), claims.subject.as_str(), claims.role), ("acme", "u-1", None));
    assert_eq!((claims.expires, claims.jti, claims.scopes.len()), (NOW + 100, None, 0));
}

#[test]
fn jwt_08_required_claims_are_required_and_have_one_type() {
    for (name, why) in [
        ("aud", Why::AudienceForm),
        ("sub", Why::Subject),
        ("exp", Why::TimeForm),
        ("iat", Why::TimeForm),
        ("tenant_id", Why::Tenant),
    ] {
        assert_eq!(without(name).unwrap_err(), why, "{name}");
        for value in [json!(null), json!(true), json!({}), json!([1]), json!(1.5), json!(-1)] {
            assert_eq!(with(name, value.clone()).unwrap_err(), why, "{name} {value}");
        }
    }
    for name in ["exp", "iat", "nbf"] {
        for value in [
            json!("9999999999"),
            json!(0),
            json!(1_800_000_000.0),
            json!(1e18),
            json!(1u64 << 53),
            json!(u64::MAX),
            json!(null),
        ] {
            assert_eq!(with(name, value.clone()).unwrap_err(), Why::TimeForm, "{name} {value}");
        }
    }
}

#[test]
fn jwt_09_a_lifetime_is_bounded_by_the_issuer() {
    assert!(with("exp", json!(NOW - 10 + 3600)).is_ok());
    assert_eq!(with("exp", json!(NOW - 10 + 3601)).unwrap_err(), Why::Lifetime);
    assert_eq!(with("exp", json!((1u64 << 53) - 1)).unwrap_err(), Why::Lifetime);
    assert_eq!(with("exp", json!(NOW - 11)).unwrap_err(), Why::Lifetime, "it ends before it begins");
}

#[test]
fn jwt_10_skew_applies_to_iat_and_nbf_and_never_to_exp() {
    assert!(with("exp", json!(NOW + 1)).is_ok());
    assert_eq!(with("exp", json!(NOW)).unwrap_err(), Why::Expired);
    assert!(with("iat", json!(NOW + 30)).is_ok());
    assert_eq!(with("iat", json!(NOW + 31)).unwrap_err(), Why::IssuedInFuture);
    assert!(with("nbf", json!(NOW + 30)).is_ok());
    assert_eq!(with("nbf", json!(NOW + 31)).unwrap_err(), Why::NotYet);
}

#[test]
fn jwt_11_our_audience_must_be_present() {
    assert!(with("aud", json!("billing")).is_ok());
    assert!(with("aud", json!(["other", "orders"])).is_ok());
    assert!(with("aud", json!(["a", "b", "c", "d", "e", "f", "g", "orders"])).is_ok());
    for (aud, why) in [
        (json!("Orders"), Why::Audience),
        (json!("orders "), Why::Audience),
        (json!(["other"]), Why::Audience),
        (json!([]), Why::AudienceForm),
        (json!(["orders", 1]), Why::AudienceForm),
        (json!(["orders", "b", "c", "d", "e", "f", "g", "h", "i"]), Why::AudienceForm),
    ] {
        assert_eq!(with("aud", aud.clone()).unwrap_err(), why, "{aud}");
    }
}

#[test]
fn jwt_11_a_token_of_a_shared_secret_is_for_one_audience() {
    let rules = Rules { audience_form: AudienceForm::One, ..rules() };
    let of = |aud: Value| {
        let mut payload = payload();
        payload["aud"] = aud;
        read(&parse(payload.to_string().as_bytes(), TOKEN).unwrap(), &rules, NOW).map(|_| ())
    };
    assert_eq!(of(json!("orders")), Ok(()));
    assert_eq!(of(json!("other")), Err(Why::Audience));
    for aud in [json!(["orders"]), json!(["orders", "billing"]), json!([])] {
        assert_eq!(of(aud.clone()), Err(Why::AudienceForm), "{aud}");
    }
}

#[test]
fn hdr_17_a_subject_is_printable_and_bounded() {
    for good in ["赵", "a b", "auth0|x,y", &"s".repeat(255)] {
        assert!(with("sub", json!(good)).is_ok(), "{good}");
    }
    for bad in ["", "a\r\nX-Role: admin", "a\u{0}", "a\u{7f}", "a\u{85}", "a\u{202e}b", "a\u{200b}", &"s".repeat(256)] {
        assert_eq!(with("sub", json!(bad)).unwrap_err(), Why::Subject, "{bad:?}");
    }
}

#[test]
fn a_jti_may_be_absent_and_is_bounded_when_present() {
    assert_eq!(with("jti", json!("j".repeat(128))).unwrap().jti, Some("j".repeat(128)));
    for bad in [json!(""), json!("j".repeat(129)), json!(7), json!(null), json!("a\nb")] {
        assert_eq!(with("jti", bad.clone()).unwrap_err(), Why::TokenId, "{bad}");
    }
}

#[test]
fn ten_02_a_reserved_or_odd_tenant_is_refused() {
    for bad in ["", "__system__", "system", "Acme", "acme ", "a.b", "*", "acme\n"] {
        assert_eq!(with("tenant_id", json!(bad)).unwrap_err(), Why::Tenant, "{bad}");
    }
    assert_eq!(with("tenant_id", json!(["acme"])).unwrap_err(), Why::Tenant);
}

#[test]
fn an_unknown_role_is_no_role_and_the_highest_known_one_counts() {
    let role = |roles: Value| with("realm", json!({ "roles": roles })).map(|claims| claims.role);
    assert_eq!(role(json!("gw-view")), Ok(Some(Role::Viewer)));
    assert_eq!(role(json!(["gw-view", "x", "gw-admin"])), Ok(Some(Role::Admin)));
    assert_eq!(role(json!(["root", "owner", "GW-ADMIN", "admin"])), Ok(None));
    assert_eq!(role(json!([])), Ok(None));
    assert_eq!(role(json!("gw-view,gw-admin")), Ok(None), "a list is a list, never split text");
    for bad in [json!(1), json!([1]), json!(null), json!({ "gw-admin": true })] {
        assert_eq!(role(bad.clone()), Err(Why::Roles), "{bad}");
    }
}

#[test]
fn scopes_are_all_understood_or_the_token_is_refused() {
    let scopes = |value: Value| with("scope", value).map(|claims| claims.scopes.len());
    assert_eq!(scopes(json!("")), Ok(0));
    assert_eq!(scopes(json!("read:a  write:a ")), Ok(2));
    assert_eq!(scopes(json!(["read:a"])), Ok(1));
    assert_eq!(scopes(json!((0..64).map(|i| format!("s{i}")).collect::<Vec<_>>())), Ok(64));
    for bad in [
        json!("read:a User.Read"),
        json!("a,b"),
        json!(["a b"]),
        json!([""]),
        json!(1),
        json!(["a", 1]),
        json!("a\tb"),
        json!((0..65).map(|i| format!("s{i}")).collect::<Vec<_>>()),
    ] {
        assert_eq!(scopes(bad.clone()), Err(Why::Scopes), "{bad}");
    }
}

#[test]
fn jwt_31_a_bound_token_is_never_taken_for_a_bearer_token() {
    for cnf in [json!({ "jkt": "x" }), json!({ "x5t#S256": "x" }), json!({}), json!(null)] {
        assert_eq!(with("cnf", cnf).unwrap_err(), Why::Confirmation);
    }
}

#[test]
fn a_path_is_dotted_and_a_url_is_one_name() {
    assert_eq!(Path::parse("a.b").unwrap().steps(), ["a", "b"]);
    assert_eq!(Path::parse("https://example.com/tenant").unwrap().steps(), ["https://example.com/tenant"]);
    for bad in ["", ".", "a.", ".a", "a..b", "a.b.c.d.e.f.g.h.i", "a\n"] {
        assert_eq!(Path::parse(bad), None, "{bad}");
    }
}
