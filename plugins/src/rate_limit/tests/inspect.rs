//! A bucket that an operator looks at is the one that requests meet.

use http::HeaderValue;
use portcullis_api::TenantId;

use super::site::{ask_with, before, needs, rules};
use crate::{
    rate_limit::{InspectError, Named},
    testing::{HandClock, now_or_never},
};

const SITE: &str = "[limits.all]\nkey = [\"client\", \"route\", \"header:x-plan\"]\nrequests = 3\nwindow = \"1h\"\n\
                    [routes.a]\nlimits = [\"all\"]";

/// The parts that `SITE` counts by, of a client in this /64.
fn of(client: &str, plan: &'static str) -> Named {
    let mut named = Named { client: client.parse().ok(), route: Some("host/a".into()), ..Named::default() };
    named.headers.insert("x-plan", HeaderValue::from_static(plan));
    named
}

#[test]
fn a_bucket_is_the_one_that_requests_are_counted_in() {
    let needs = needs(&HandClock::new());
    let (control, rules) = (before(SITE, &needs), rules(SITE));
    let left = |named: &Named| now_or_never(needs.look(&rules, "all", named)).unwrap().level.remaining;
    for expected in [2, 1, 0] {
        ask_with(&control, "[2001:db8::1]", 0, &[("x-plan", "gold")]).unwrap();
        // Any address of the /64 names the client.
        assert_eq!(left(&of("2001:db8::ffff", "gold")), expected);
    }
    for other in [of("2001:db8:0:1::1", "gold"), of("2001:db8::1", "silver"), of("192.0.2.1", "gold")] {
        assert_eq!(left(&other), 3, "{other:?}");
    }
    // Looking takes nothing, and a reset fills this one and no other.
    assert_eq!(left(&of("2001:db8::1", "gold")), 0);
    ask_with(&control, "192.0.2.1", 0, &[("x-plan", "gold")]).unwrap();
    now_or_never(needs.reset(&rules, "all", &of("2001:db8::1", "gold"))).unwrap();
    assert_eq!((left(&of("2001:db8::1", "gold")), left(&of("192.0.2.1", "gold"))), (3, 2));
}

#[test]
fn what_names_no_bucket_is_refused() {
    let (needs, rules) = (needs(&HandClock::new()), rules(SITE));
    let look = |limit: &str, named: &Named| now_or_never(needs.look(&rules, limit, named)).unwrap_err();
    assert_eq!(
        look("al", &of("192.0.2.1", "gold")),
        InspectError::Unknown("al".into(), "; did you mean `all`?".into())
    );
    let missing = |part: &str| InspectError::Missing { limit: "all".into(), part: part.into() };
    assert_eq!(look("all", &Named { client: None, ..of("192.0.2.1", "gold") }), missing("client"));
    let headers = http::HeaderMap::new();
    assert_eq!(look("all", &Named { headers, ..of("192.0.2.1", "gold") }), missing("header:x-plan"));
    let unused = |part: &str| InspectError::Unused { limit: "all".into(), part: part.into() };
    assert_eq!(look("all", &Named { api_key: Some("k".into()), ..of("192.0.2.1", "gold") }), unused("api_key"));
    let mut named = of("192.0.2.1", "gold");
    named.headers.insert("x-other", HeaderValue::from_static("a"));
    assert_eq!(look("all", &named), unused("header:x-other"));
    let elsewhere = Named { route: Some("host/b".into()), ..of("192.0.2.1", "gold") };
    assert_eq!(look("all", &elsewhere), InspectError::NoRoute("host/b".into()));
}

#[test]
fn a_tenants_own_numbers_hold_for_its_bucket() {
    let site =
        "[limits.t]\nkey = [\"tenant\"]\nrequests = 3\nwindow = \"1h\"\n[tenants.acme]\ngrant.t = { requests = 50 }";
    let (needs, rules) = (needs(&HandClock::new()), rules(site));
    let nobody = now_or_never(needs.look(&rules, "t", &Named::default())).unwrap_err();
    assert!(matches!(nobody, InspectError::Missing { .. }), "{nobody}");
    for (tenant, requests) in [("acme", 50), ("globex", 3)] {
        let named = Named { tenant: TenantId::parse(tenant).ok(), ..Named::default() };
        let seen = now_or_never(needs.look(&rules, "t", &named)).unwrap();
        assert_eq!((seen.numbers.requests().get(), seen.level.remaining, seen.counted), (requests, requests, "memory"));
    }
}
