//! What was revoked is refused: at the first sight of a token, when it is known, and under whatever signature.

use aws_lc_rs::{digest, signature::KeyPair};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis_api::TenantId;
use serde_json::{Value, json};

use super::{super::*, rig::*};
use crate::revocations::{Freshness, Kind, Reason, Record, Target};

fn revoke(rig: &Rig, kind: Kind, value: &str, at: u64) {
    let tenant = TenantId::parse("acme").unwrap();
    let (issuer, tenant) = match kind {
        Kind::Jti | Kind::Sid | Kind::Sub => (Some(ISS), Some(&tenant)),
        Kind::Kid => (Some(ISS), None),
        Kind::Token | Kind::Tenant | Kind::ApiKey | Kind::Issuer | Kind::Cert => (None, None),
    };
    let target = Target::parse(kind, issuer, tenant, value).unwrap();
    let record = Record::new(&target, at, Reason::try_from("a test".to_owned()).unwrap());
    rig.needs.revocations.learn(record, NOW).unwrap();
}

fn token(rig: &Rig, change: impl FnOnce(&mut Value)) -> String {
    let mut payload = payload();
    payload["sid"] = json!("s-1");
    change(&mut payload);
    rig.sign(&json!({ "alg": "ES256", "kid": "ec" }), &payload)
}

#[test]
fn each_kind_refuses_a_token_that_is_in_the_cache_and_one_that_is_not() {
    for (kind, value, why) in [
        (Kind::Jti, "j-1", "token revoked"),
        (Kind::Sid, "s-1", "session revoked"),
        (Kind::Sub, "u-1", "subject revoked"),
        (Kind::Tenant, "acme", "tenant revoked"),
        (Kind::Kid, "ec", "kid revoked"),
        (Kind::Issuer, ISS, "issuer revoked"),
    ] {
        for known in [true, false] {
            let rig = Rig::new();
            let token = token(&rig, |_| {});
            if known {
                assert!(rig.bearer(MAIN, &token).is_verified());
            }
            revoke(&rig, kind, value, NOW);
            let refused = rig.bearer(MAIN, &token);
            assert_eq!(refused.why(), Some(why), "{known} {refused:?}");
            let Answer::Denied { issuer, challenge, .. } = refused else { panic!("it is refused") };
            assert_eq!(issuer.as_deref(), Some("main"));
            assert_eq!(challenge, r#"Bearer realm="portcullis", error="invalid_token""#);
            assert_eq!(rig.bearer(MAIN, &token).why(), Some(why), "and again");
        }
    }
}

#[test]
fn another_token_session_subject_tenant_key_and_issuer_come_in() {
    for (kind, value) in [
        (Kind::Jti, "j-2"),
        (Kind::Sid, "s-2"),
        (Kind::Sub, "u-2"),
        (Kind::Tenant, "globex"),
        (Kind::Kid, "ed"),
        (Kind::Issuer, "https://local.example.com"),
    ] {
        let rig = Rig::new();
        revoke(&rig, kind, value, NOW);
        assert!(rig.bearer(MAIN, &token(&rig, |_| {})).is_verified(), "{kind:?}");
    }
    let rig = Rig::new();
    revoke(&rig, Kind::Jti, "j-1", NOW);
    assert!(rig.bearer(MAIN, &token(&rig, |payload| payload["tenant_id"] = json!("globex"))).is_verified());
}

#[test]
fn who_signs_in_after_the_revocation_comes_in_and_who_did_in_its_second_does_not() {
    for (kind, value) in [(Kind::Sub, "u-1"), (Kind::Tenant, "acme"), (Kind::Issuer, ISS)] {
        let rig = Rig::new();
        revoke(&rig, kind, value, NOW);
        let issued = |iat: u64| rig.bearer(MAIN, &token(&rig, |payload| payload["iat"] = json!(iat))).is_verified();
        assert_eq!((issued(NOW - 1), issued(NOW), issued(NOW + 1)), (false, false, true), "{kind:?}");
    }
}

#[test]
fn a_subject_is_revoked_in_all_tenants_where_none_is_named() {
    let rig = Rig::new();
    let target = Target::parse(Kind::Sub, Some(ISS), None, "u-1").unwrap();
    let record = Record::new(&target, NOW, Reason::try_from("left".to_owned()).unwrap());
    rig.needs.revocations.learn(record, NOW).unwrap();
    for tenant in ["acme", "globex"] {
        let token = token(&rig, |payload| payload["tenant_id"] = json!(tenant));
        assert_eq!(rig.bearer(MAIN, &token).why(), Some("subject revoked"), "{tenant}");
    }
}

#[test]
fn an_api_key_is_revoked_by_its_id_and_with_its_tenant() {
    let rig = Rig::new();
    let id = rig.api_key.split('_').nth(2).unwrap().to_owned();
    let ask = |rig: &Rig| rig.ask(BOTH, &[("x-api-key", &rig.api_key)]);
    assert!(ask(&rig).is_verified());
    revoke(&rig, Kind::ApiKey, &id, NOW - 500);
    assert_eq!(ask(&rig).why(), Some("api key revoked"));
    let rig = Rig::new();
    revoke(&rig, Kind::Tenant, "acme", NOW - 1);
    assert!(ask(&rig).is_verified(), "it was issued afterwards");
    revoke(&rig, Kind::Tenant, "acme", NOW);
    assert_eq!(ask(&rig).why(), Some("tenant revoked"));
}

#[test]
fn jwt_22_a_token_without_an_id_is_revoked_with_the_other_signature_of_it() {
    let text = super::rig::DOC.replacen("[issuers.main]", "[issuers.main]\njti = \"optional\"", 1);
    let rig = Rig::new();
    let mut issues = Issues::default();
    let control = compile(&text, &rig.needs, &mut issues).unwrap();
    let token = token(&rig, |payload| drop(payload.as_object_mut().unwrap().remove("jti")));
    let (input, signature) = token.rsplit_once('.').unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let twin = format!("{input}.{}", URL_SAFE_NO_PAD.encode(twin(&signature)));
    assert_ne!(twin, token);
    let ask = |token: &str| ask(&control, MAIN, &[("authorization", &format!("Bearer {token}"))]);
    assert!(ask(&token).is_verified() && ask(&twin).is_verified());
    let digest = digest::digest(&digest::SHA256, input.as_bytes());
    revoke(&rig, Kind::Token, &portcullis_api::hex(digest.as_ref()), NOW);
    assert_eq!((ask(&token).why(), ask(&twin).why()), (Some("token revoked"), Some("token revoked")));
}

/// (r, n - s), which verifies too.
fn twin(signature: &[u8]) -> Vec<u8> {
    const ORDER: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad,
        0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let out_of = |i: usize| i.saturating_add(32);
    let mut out = signature.to_vec();
    let mut borrow = 0;
    for i in (0..32).rev() {
        let (low, high) = (i32::from(signature[out_of(i)]), i32::from(ORDER[i]));
        let digit = high.saturating_sub(low).saturating_sub(borrow);
        out[out_of(i)] = u8::try_from(digit.rem_euclid(256)).unwrap();
        borrow = i32::from(digit < 0);
    }
    out
}

#[test]
fn a_key_that_was_chosen_without_a_name_in_the_token_is_revoked_by_its_name() {
    let rig = Rig::new();
    assert_eq!(rig.ec.public_key().as_ref().len(), 65);
    let token = rig.sign(&json!({ "alg": "ES256" }), &payload());
    assert!(rig.bearer(MAIN, &token).is_verified());
    revoke(&rig, Kind::Kid, "ec", NOW);
    assert_eq!(rig.bearer(MAIN, &token).why(), Some("kid revoked"));
}

#[test]
fn a_session_that_cannot_be_read_is_refused_for_it_could_not_be_revoked() {
    let rig = Rig::new();
    for sid in [json!(7), json!(""), json!(null), json!(["s"]), json!("a\u{0}"), json!("s".repeat(256))] {
        let token = token(&rig, |payload| payload["sid"] = sid.clone());
        assert_eq!(rig.bearer(MAIN, &token).why(), Some("sid malformed"), "{sid}");
    }
    assert!(rig.bearer(MAIN, &token(&rig, |payload| payload["sid"] = json!("s".repeat(255)))).is_verified());
}

#[test]
fn key_08_what_is_too_old_to_tell_is_a_fault_with_a_code_and_what_is_known_stays_refused() {
    let classes = "[revocation]\na_main = \"strict\"\n[max_stale]\nstrict = \"2s\"\nstandard = \"9s\"";
    let text = format!("{DOC}\n{classes}");
    let rig = Rig::new();
    let control = compile(&text, &rig.needs, &mut Issues::default()).unwrap();
    let bearer = |route: u32, token: &str| ask(&control, route, &[("authorization", &format!("Bearer {token}"))]);
    let known = token(&rig, |payload| payload["jti"] = json!("known"));
    let stale = |route: u32| matches!(bearer(route, &token(&rig, |_| {})), Answer::Fault(_));
    revoke(&rig, Kind::Jti, "known", NOW);
    assert_eq!((stale(MAIN), stale(BOTH)), (false, false), "alone it decides what is revoked");
    rig.needs.revocations.follow();
    assert_eq!((stale(MAIN), stale(BOTH)), (true, true), "nothing was ever heard");
    rig.needs.revocations.confirm(0);
    for (later, behind) in [(2, (false, false)), (3, (true, false)), (9, (true, false)), (10, (true, true))] {
        rig.at(NOW + later);
        assert_eq!((stale(MAIN), stale(BOTH)), behind, "after {later} s");
        assert_eq!(bearer(MAIN, &known).why(), Some("token revoked"), "what is known is no fault");
        assert_eq!(bearer(MAIN, "x").why(), Some("token is not three parts"), "and nobody is told that it may be good");
        assert_eq!(ask(&control, PUBLIC, &[]), Answer::Anonymous, "nobody's credential depends on it");
    }
    let Answer::Fault(what) = bearer(MAIN, &token(&rig, |_| {})) else { panic!("it cannot tell") };
    assert_eq!(what, "what is revoked was confirmed 10 s ago, and a strict route needs it within 2s");
    rig.needs.revocations.confirm(10_000_000);
    assert_eq!((stale(MAIN), stale(BOTH)), (false, false), "it was heard again");
}

#[test]
fn a_route_whose_tokens_are_short_lived_may_do_without() {
    let text = DOC.replace("[issuers.main]", "[issuers.main]\nmax_lifetime = \"5m\"");
    let text = format!("{text}\n[revocation]\na_main = \"until_exp\"");
    let rig = Rig::new();
    let control = compile(&text, &rig.needs, &mut Issues::default()).unwrap();
    rig.needs.revocations.follow();
    let token = token(&rig, |_| {});
    let bearer = |token: &str| ask(&control, MAIN, &[("authorization", &format!("Bearer {token}"))]);
    assert!(bearer(&token).is_verified());
    rig.at(NOW + 100);
    assert_eq!(bearer(&token).why(), Some("expired"));
}

#[test]
fn who_is_under_way_is_asked_about_again() {
    let rig = Rig::new();
    let identity = |fields: &[(&'static str, &str)]| identity(&rig.control, BOTH, fields);
    let bearer = identity(&[("authorization", &format!("Bearer {}", token(&rig, |_| {})))]);
    let key = identity(&[("x-api-key", &rig.api_key)]);
    let still = |who: &Identity| match rig.control.still(who, None, Freshness::Standard) {
        Ok(Verdict::Pass(())) => "still",
        Ok(Verdict::Deny(Deny::Invalid { why, .. })) => why.as_str(),
        Ok(Verdict::Deny(_)) => "another refusal",
        Err(_) => "nobody can tell",
    };
    assert_eq!((still(&bearer), still(&key)), ("still", "still"));
    let fresh = |route: &str| rig.control.freshness_of(route);
    assert_eq!((fresh("a.example/b_both"), fresh("a.example/gone")), (Freshness::Standard, Freshness::Strict));
    rig.needs.revocations.follow();
    assert_eq!((still(&bearer), still(&key)), ("nobody can tell", "nobody can tell"));
    rig.needs.revocations.confirm(i64::MAX);
    revoke(&rig, Kind::Tenant, "acme", NOW);
    assert_eq!((still(&bearer), still(&key)), ("tenant revoked", "tenant revoked"));
    rig.at(NOW + 100);
    assert_eq!((still(&bearer), still(&key)), ("expired", "tenant revoked"));
    rig.at(NOW + 90 * 86_400);
    assert_eq!(still(&key), "api key expired");
    rig.needs.api_keys.table.store(Arc::new(ApiKeyTable::empty()));
    assert_eq!(still(&key), "api key unknown");
}

#[test]
fn who_is_under_way_ends_with_an_issuer_that_is_gone_or_is_another_one() {
    let rig = Rig::new();
    let who = identity(&rig.control, BOTH, &[("authorization", &format!("Bearer {}", token(&rig, |_| {})))]);
    for (text, known) in [
        (DOC.to_owned(), true),
        (DOC.replace("[issuers.main]", "[issuers.other]").replace("jwt:main", "jwt:other"), false),
        (DOC.replace(ISS, "https://id2.example.com"), false),
    ] {
        let (needs, cells) = needs(&["main", "local", "other"], Arc::clone(&rig.clock));
        let control = compile(&text, &needs, &mut Issues::default()).unwrap();
        cells.of("main").store(rig.cells.of("main").load_full());
        let still = control.still(&who, None, Freshness::Standard).unwrap();
        assert_eq!(matches!(still, Verdict::Pass(())), known);
    }
}

#[test]
fn who_is_under_way_ends_with_the_key_that_signed_for_them() {
    let rig = Rig::new();
    let who = identity(&rig.control, BOTH, &[("authorization", &format!("Bearer {}", token(&rig, |_| {})))]);
    let still = || rig.control.still(&who, None, Freshness::Standard);
    assert!(matches!(still(), Ok(Verdict::Pass(()))));
    // Another key beside it changes nothing.
    rig.set_keys(&[rig.ed_jwk("new"), rig.ec_jwk("ec")]);
    assert!(matches!(still(), Ok(Verdict::Pass(()))));
    rig.set_keys(&[rig.ed_jwk("new")]);
    assert!(matches!(still(), Ok(Verdict::Deny(Deny::Invalid { why: Why::KidUnknown, .. }))));
    rig.set("main", KeySetState::Missing { why: "too old".into() });
    assert!(still().is_err());
}
