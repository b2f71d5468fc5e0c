//! Limits by identity. Who calls is handed in as the parts that limits read of an identity.

use std::sync::Arc;

use http::{HeaderMap, Method};
use portcullis_api::Refusal;

use super::*;
use crate::{
    rate_limit::tests::site::{client, needs, rules},
    testing::{HandClock, facts, now_or_never},
};

const NOBODY: Who<'static> = Who { key_id: None, subject: None, tenant: None };

fn key(id: &'static str) -> Who<'static> {
    Who { key_id: Some(id), subject: Some(("apikey", id)), tenant: None }
}

fn user(subject: &'static str) -> Who<'static> {
    Who { key_id: None, subject: Some(("main", subject)), tenant: None }
}

fn quota(text: &str, clock: &Arc<HandClock>) -> Quota {
    Quota::compile(rules(text), &needs(clock), &mut Issues::default()).unwrap()
}

fn ask_from(quota: &Quota, ip: &str, route: u32, who: Who<'_>) -> Result<Counted, Vec<String>> {
    let headers = HeaderMap::new();
    match now_or_never(quota.judge(facts(&Method::GET, &headers), client(ip), RouteId::new(route), who)).unwrap() {
        Verdict::Pass(counted) => Ok(counted),
        Verdict::Deny(Deny::Exceeded(excess)) => Err(excess.violated_policies()),
    }
}

fn ask(quota: &Quota, route: u32, who: Who<'_>) -> Result<Counted, Vec<String>> {
    ask_from(quota, "192.0.2.1", route, who)
}

/// How many of 2,000 requests pass.
fn passes(quota: &Quota, route: u32, who: Who<'_>) -> usize {
    (0..2_000).filter(|_| ask(quota, route, who).is_ok()).count()
}

#[test]
fn every_api_key_has_ten_a_second_without_a_word_of_configuration() {
    let clock = HandClock::new();
    let quota = quota("[routes.a]\napi_keys = \"yes\"\n[routes.b]\napi_keys = \"yes\"", &clock);
    assert_eq!(passes(&quota, 0, key("k1")), 10);
    assert_eq!(ask(&quota, 0, key("k1")).unwrap_err(), ["per_key"]);
    assert!(ask(&quota, 1, key("k1")).is_err(), "one bucket for all routes");
    assert_eq!(passes(&quota, 0, key("k2")), 10);
    clock.advance(1_000_000);
    assert_eq!(passes(&quota, 0, key("k1")), 10);
}

#[test]
fn the_built_in_limit_binds_callers_with_a_key_only() {
    let quota = quota("[routes.a]\napi_keys = \"yes\"", &HandClock::new());
    assert_eq!(passes(&quota, 0, user("ann")), 2_000);
    assert_eq!(passes(&quota, 0, NOBODY), 2_000);
}

#[test]
fn where_it_is_named_callers_without_a_key_share_one_bucket() {
    let quota = quota("[routes.a]\napi_keys = \"yes\"\nlimits = [\"per_key\"]", &HandClock::new());
    assert_eq!(passes(&quota, 0, key("k1")), 10, "charged once, not twice");
    assert_eq!((0..2_000).filter(|_| ask(&quota, 0, user("ann")).is_ok()).count(), 10);
    assert!(ask(&quota, 0, user("ben")).is_err() && ask(&quota, 0, NOBODY).is_err());
}

#[test]
fn the_operator_may_write_the_built_in_limit_anew() {
    let text = "[limits.per_key]\nkey = [\"api_key\"]\nrequests = 3\nwindow = \"1s\"\n[routes.a]\napi_keys = \"yes\"";
    assert_eq!(passes(&quota(text, &HandClock::new()), 0, key("k1")), 3);
    // Even if it counts by something that is known earlier, it binds callers with a key only.
    let text = text.replace("api_key\"]", "client\"]");
    let quota = quota(&text, &HandClock::new());
    assert_eq!(passes(&quota, 0, user("ann")), 2_000);
    assert_eq!(passes(&quota, 0, key("k1")), 3);
}

#[test]
fn a_class_counts_whoever_calls() {
    let text = "[routes.a]\nclass = \"auth\"\n[routes.b]\nclass = \"auth\"\n[routes.c]\nclass = \"management\"";
    let quota = quota(text, &HandClock::new());
    assert_eq!(passes(&quota, 0, user("ann")), 20);
    assert!(ask(&quota, 1, user("ann")).is_err(), "the class is one bucket for all its routes");
    assert_eq!(passes(&quota, 2, user("ann")), 100, "and another class another");
    assert_eq!(passes(&quota, 0, user("ben")), 20);
    assert_eq!(passes(&quota, 0, key("k1")), 20);
    assert_eq!(passes(&quota, 0, NOBODY), 20);
    assert!(ask_from(&quota, "192.0.2.2", 0, NOBODY).is_ok(), "without an identity the client is the caller");
}

#[test]
fn a_tenant_has_its_own_numbers_and_its_own_bucket() {
    let text = r#"
        [limits.t]
        key = ["tenant"]
        requests = 20
        window = "1s"
        [routes.a]
        limits = ["t"]
        [tenants.acme.grant]
        t = { requests = 50 }
        [tenants.globex.own]
        t = { requests = 5 }
    "#;
    let quota = quota(text, &HandClock::new());
    for (tenant, expected) in [("acme", 50), ("globex", 5), ("initech", 20), ("hooli", 20)] {
        let tenant = TenantId::parse(tenant).unwrap();
        assert_eq!(passes(&quota, 0, Who { tenant: Some(&tenant), ..user("ann") }), expected, "{tenant}");
    }
    assert_eq!(passes(&quota, 0, NOBODY), 20, "no tenant: the one bucket of the unknown");
}

#[test]
fn limits_by_client_are_not_asked_again_after_authentication() {
    let text = "[limits.c]\nkey = [\"client\"]\nrequests = 1\nwindow = \"1s\"\n[routes.a]\nlimits = [\"c\"]";
    assert_eq!(passes(&quota(text, &HandClock::new()), 0, user("ann")), 2_000);
}

#[test]
fn a_refusal_is_the_quotas_own() {
    let quota = quota("[routes.a]\napi_keys = \"yes\"", &HandClock::new());
    assert_eq!(passes(&quota, 0, key("k1")), 10);
    let headers = HeaderMap::new();
    let verdict =
        now_or_never(quota.judge(facts(&Method::GET, &headers), client("192.0.2.1"), RouteId::new(0), key("k1")))
            .unwrap();
    let Verdict::Deny(deny) = verdict else { panic!("exceeded") };
    let mut answer = HeaderMap::new();
    deny.headers(&mut answer);
    assert_eq!((deny.code().name, deny.code().status), ("quota.exceeded", 429));
    assert_eq!(answer.get("retry-after").unwrap(), "1");
    assert_eq!(answer.get("ratelimit-policy").unwrap(), "\"per_key\";q=10;w=1");
    assert_eq!(deny.members(), [("violated-policies", vec!["per_key".to_owned()])]);
}

#[test]
fn a_route_of_another_snapshot_is_a_fault_and_no_pass() {
    let quota = quota("[routes.a]", &HandClock::new());
    let headers = HeaderMap::new();
    assert!(
        now_or_never(quota.judge(facts(&Method::GET, &headers), client("192.0.2.1"), RouteId::new(1), NOBODY)).is_err()
    );
}
