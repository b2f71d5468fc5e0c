//! What each credential comes to on each kind of route.

use std::sync::atomic::Ordering;

use serde_json::json;

use super::{super::*, rig::*};

fn verified(issuer: &str, subject: &str, credential: Credential) -> Answer {
    Answer::Verified { tenant: "acme".into(), issuer: issuer.into(), subject: subject.into(), credential }
}

#[test]
fn a_good_token_of_an_accepted_issuer_is_verified() {
    let rig = Rig::new();
    assert_eq!(rig.bearer(MAIN, &rig.good()), verified("main", "u-1", Credential::Bearer));
    assert_eq!(rig.bearer(BOTH, &rig.session()), verified("local", "u-1", Credential::Bearer));
    assert_eq!(
        rig.ask(BOTH, &[("cookie", &format!("__Host-sid={}", rig.session()))]),
        verified("local", "u-1", Credential::Cookie)
    );
    let id = rig.api_key.split('_').nth(2).unwrap();
    for fields in [[("x-api-key", rig.api_key.clone())], [("authorization", format!("bearer {}", rig.api_key))]] {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(rig.ask(BOTH, &fields), verified("apikey", id, Credential::ApiKey));
        assert_eq!(rig.ask(LIVE, &fields), verified("apikey", id, Credential::ApiKey));
    }
}

#[test]
fn no_credential_is_a_challenge_without_an_error() {
    let Answer::Denied { code, status, detail, challenge, .. } = Rig::new().ask(MAIN, &[]) else { panic!("denied") };
    assert_eq!((code, status, detail), ("authentication.required", 401, None));
    assert_eq!(challenge, r#"Bearer realm="portcullis""#);
}

#[test]
fn an_ambiguous_request_is_malformed() {
    let rig = Rig::new();
    let token = format!("Bearer {}", rig.good());
    for fields in [
        vec![("authorization", token.as_str()), ("authorization", token.as_str())],
        vec![("authorization", token.as_str()), ("x-api-key", rig.api_key.as_str())],
        vec![("authorization", "Bearer  x")],
    ] {
        for route in [MAIN, BOTH, PUBLIC, LIVE] {
            let Answer::Denied { code, status, challenge, .. } = rig.ask(route, &fields) else { panic!("denied") };
            assert_eq!((code, status), ("authentication.malformed", 400));
            assert_eq!(challenge, r#"Bearer realm="portcullis", error="invalid_request""#);
        }
    }
}

#[test]
fn log_02_the_client_sees_one_answer_whatever_is_wrong() {
    let rig = Rig::new();
    let (mut expired, mut stranger) = (payload(), payload());
    expired["exp"] = json!(NOW);
    stranger["iss"] = json!("https://evil.example");
    let header = json!({ "alg": "ES256", "kid": "ec" });
    let answers: Vec<Answer> = ["x".into(), rig.sign(&header, &expired), rig.sign(&header, &stranger), "a.b.c".into()]
        .iter()
        .map(|token: &String| rig.bearer(MAIN, token))
        .chain([rig.ask(BOTH, &[("x-api-key", "pck_live_x")]), rig.ask(MAIN, &[("authorization", "Basic YTpi")])])
        .collect();
    let mut reasons = std::collections::HashSet::new();
    for answer in answers {
        let Answer::Denied { code, status, detail, challenge, .. } = answer else { panic!("denied") };
        assert_eq!((code, status), ("authentication.invalid", 401));
        assert_eq!(challenge, r#"Bearer realm="portcullis", error="invalid_token""#);
        reasons.insert(detail);
    }
    assert!(reasons.len() >= 5, "the log tells them apart: {reasons:?}");
}

#[test]
fn jwt_29_on_a_public_route_absent_is_anonymous_and_bad_is_refused() {
    let rig = Rig::new();
    assert_eq!(rig.ask(PUBLIC, &[]), Answer::Anonymous);
    assert_eq!(rig.ask(PUBLIC, &[("cookie", "theme=dark")]), Answer::Anonymous);
    assert!(rig.bearer(PUBLIC, &rig.good()).is_verified());
    assert!(rig.ask(PUBLIC, &[("x-api-key", &rig.api_key)]).is_verified());
    for field in [
        ("authorization", "Bearer x"),
        ("authorization", "Basic YTpi"),
        ("x-api-key", "x"),
        ("cookie", "__Host-sid=x"),
        ("cookie", "__Host-sid="),
    ] {
        assert!(rig.ask(PUBLIC, &[field]).why().is_some(), "{field:?}");
    }
}

#[test]
fn a_kind_of_credential_that_the_route_does_not_accept_is_refused_not_overlooked() {
    let rig = Rig::new();
    let session = rig.session();
    assert_eq!(rig.bearer(MAIN, &session).why(), Some("issuer not accepted here"));
    assert_eq!(rig.bearer(LIVE, &rig.good()).why(), Some("issuer not accepted here"));
    assert_eq!(rig.ask(MAIN, &[("x-api-key", &rig.api_key)]).why(), Some("kind of credential not accepted here"));
    assert_eq!(rig.ask(MAIN, &[("cookie", &format!("__Host-sid={session}"))]).why(), Some("issuer not accepted here"));
    let in_cookie = format!("__Host-sid={}", rig.good());
    assert_eq!(
        rig.ask(BOTH, &[("cookie", &in_cookie)]).why(),
        Some("issuer not accepted here"),
        "a cookie is one issuer's"
    );
    assert_eq!(rig.ask(PUBLIC, &[("cookie", &in_cookie)]).why(), Some("issuer not accepted here"));
}

#[test]
fn key_24_a_key_of_another_environment_than_the_route_is_refused() {
    let rig = Rig::new();
    let mut issues = Issues::default();
    let text = DOC.replace("environment = \"live\"", "environment = \"test\"");
    let control = compile(&text, &rig.needs, &mut issues).unwrap();
    assert_eq!(ask(&control, LIVE, &[("x-api-key", &rig.api_key)]).why(), Some("api key of another environment"));
    assert!(ask(&control, BOTH, &[("x-api-key", &rig.api_key)]).is_verified());
}

#[test]
fn a_missing_key_set_is_a_fault_of_that_issuer_only() {
    let rig = Rig::new();
    rig.set("main", KeySetState::Missing { why: "never loaded".into() });
    let Answer::Fault(what) = rig.bearer(BOTH, &rig.good()) else { panic!("fault") };
    assert!(what.contains("main") && what.contains("never loaded"));
    assert!(rig.bearer(BOTH, &rig.session()).is_verified());
    assert_eq!(
        rig.bearer(BOTH, "a.b.c").why(),
        Some("token is not canonical base64url"),
        "what is no token is no token"
    );
}

#[test]
fn a_route_that_was_never_compiled_is_a_fault() {
    let rig = Rig::new();
    assert!(matches!(rig.bearer(99, &rig.good()), Answer::Fault(_)));
    assert!(matches!(rig.ask(99, &[]), Answer::Fault(_)));
}

#[test]
fn an_unknown_kid_is_refused_and_hinted() {
    let rig = Rig::new();
    let token = rig.sign(&json!({ "alg": "ES256", "kid": "new" }), &payload());
    assert_eq!(rig.bearer(MAIN, &token).why(), Some("kid unknown"));
    assert_eq!(rig.cells.hints.load(Ordering::Relaxed), 1);
    assert!(rig.bearer(MAIN, &rig.good()).is_verified());
    rig.set_keys(&[rig.ec_jwk("new")]);
    assert!(rig.bearer(MAIN, &token).is_verified(), "rotation needs no restart");
    assert_eq!(rig.bearer(MAIN, &rig.good()).why(), Some("kid unknown"), "key_02: the old name is gone");
}

#[test]
fn an_unknown_kid_is_looked_for_once_more_when_its_issuer_was_asked() {
    let rig = Rig::new();
    let token = rig.sign(&json!({ "alg": "ES256", "kid": "new" }), &payload());
    *rig.cells.next.lock() = Some(Ok(Rig::key_set(&[rig.ec_jwk("ec"), rig.ec_jwk("new")])));
    assert!(rig.bearer(MAIN, &token).is_verified());
    assert!(rig.bearer(MAIN, &rig.good()).is_verified());
    assert_eq!(rig.cells.hints.load(Ordering::Relaxed), 1);
    // A new key does not make a signature good.
    let forged = format!("{}AAAA", token.get(..token.len() - 4).unwrap());
    rig.set_keys(&[rig.ec_jwk("ec")]);
    *rig.cells.next.lock() = Some(Ok(Rig::key_set(&[rig.ec_jwk("new")])));
    assert_eq!(rig.bearer(MAIN, &forged).why(), Some("signature does not verify"));
}

#[test]
fn an_unknown_kid_of_an_issuer_that_does_not_answer_is_a_fault_and_not_a_no() {
    let rig = Rig::new();
    let token = rig.sign(&json!({ "alg": "ES256", "kid": "new" }), &payload());
    *rig.cells.next.lock() = Some(Err("it does not answer".to_owned()));
    let Answer::Fault(why) = rig.bearer(MAIN, &token) else { panic!("no fault") };
    assert!(why.contains("it does not answer"), "{why}");
    assert!(rig.bearer(MAIN, &rig.good()).is_verified());
}

#[test]
fn key_02_a_cached_token_dies_with_its_key() {
    let rig = Rig::new();
    let token = rig.good();
    assert!(rig.bearer(MAIN, &token).is_verified());
    rig.set_keys(&[rig.ed_jwk("ed")]);
    assert_eq!(rig.bearer(MAIN, &token).why(), Some("kid unknown"));
    rig.set("main", KeySetState::Missing { why: "stale".into() });
    assert!(matches!(rig.bearer(MAIN, &token), Answer::Fault(_)));
}

#[test]
fn a_cached_token_dies_at_its_expiry() {
    let rig = Rig::new();
    let token = rig.good();
    assert!(rig.bearer(MAIN, &token).is_verified());
    rig.at(NOW + 99);
    assert!(rig.bearer(MAIN, &token).is_verified());
    rig.at(NOW + 100);
    assert_eq!(rig.bearer(MAIN, &token).why(), Some("expired"));
}

#[test]
fn a_cached_token_does_not_outlive_the_settings_that_verified_it() {
    let rig = Rig::new();
    let token = rig.good();
    assert!(rig.bearer(MAIN, &token).is_verified());
    let mut issues = Issues::default();
    let text = DOC.replace(
        "audiences = [\"orders\"]\nalgorithms = [\"ES256\", \"EdDSA\"]",
        "audiences = [\"billing\"]\nalgorithms = [\"ES256\", \"EdDSA\"]",
    );
    let other = compile(&text, &rig.needs, &mut issues).unwrap();
    assert_eq!(ask(&other, MAIN, &[("authorization", &format!("Bearer {token}"))]).why(), Some("aud without ours"));
    assert!(rig.bearer(MAIN, &token).is_verified(), "requests that began before the reload keep their settings");
}

#[test]
fn key_07_a_cached_token_is_found_by_all_of_its_bytes_and_where_it_stood() {
    let rig = Rig::new();
    let token = rig.session();
    assert!(rig.bearer(BOTH, &token).is_verified());
    rig.cache.get(&VerifiedCache::key(Credential::Bearer, token.as_bytes())).unwrap();
    assert!(rig.cache.get(&VerifiedCache::key(Credential::Cookie, token.as_bytes())).is_none());
    assert_eq!(
        rig.ask(BOTH, &[("cookie", &format!("__Host-sid={token}"))]),
        verified("local", "u-1", Credential::Cookie)
    );
    // The last character's unused bits changed: another spelling is another token, and no token.
    let mut other = token.clone();
    let last = other.pop().unwrap();
    other.push(if last == 'A' { 'B' } else { 'A' });
    assert!(rig.bearer(BOTH, &other).why().is_some());
}

#[test]
fn a_cached_token_is_still_bound_to_what_the_route_accepts() {
    let rig = Rig::new();
    let session = rig.session();
    assert!(rig.bearer(BOTH, &session).is_verified());
    assert_eq!(rig.bearer(MAIN, &session).why(), Some("issuer not accepted here"));
}

#[test]
fn a_refused_token_is_never_cached() {
    let rig = Rig::new();
    let mut later = payload();
    later["nbf"] = json!(NOW + 31);
    let token = rig.sign(&json!({ "alg": "ES256", "kid": "ec" }), &later);
    assert_eq!(rig.bearer(MAIN, &token).why(), Some("nbf in the future"));
    rig.at(NOW + 1);
    assert!(rig.bearer(MAIN, &token).is_verified());
}

#[test]
fn the_upstream_never_sees_what_counts_as_a_credential() {
    let rig = Rig::new();
    assert_eq!(rig.control.credential_headers(), ["authorization", "x-api-key"]);
    assert_eq!(rig.control.cookie_names().collect::<Vec<_>>(), ["__Host-sid"]);
    assert_eq!(rig.control.forward_credentials(RouteId::new(MAIN)), ForwardCredentials::Strip);
    assert_eq!(rig.control.forward_credentials(RouteId::new(99)), ForwardCredentials::Strip);
    let mut issues = Issues::default();
    let none = compile("", &rig.needs, &mut issues).unwrap();
    assert_eq!(none.credential_headers(), ["authorization"]);
}
