//! What compiled limits do to requests.

use http::header::RETRY_AFTER;
use portcullis_api::{Mode, Outcome, Refusal, Trail};

use super::site::{ask, ask_with, before, needs, rules, send};
use crate::{
    rate_limit::{NAME, fields},
    testing::HandClock,
};

use http::{HeaderMap, Method};
use portcullis_api::{TenantId, Verdict};

const TWO: &str = r#"
[limits.wide]
key = ["client"]
requests = 5
window = "10s"
[limits.tight]
key = ["client", "route"]
requests = 2
window = "1s"
[routes.a]
limits = ["wide", "tight"]
[routes.b]
limits = ["wide"]
[routes.free]
"#;

#[test]
fn all_rules_of_a_route_are_asked_and_a_refusal_charges_none() {
    let clock = HandClock::new();
    let control = before(TWO, &needs(&clock));
    assert!(ask(&control, "192.0.2.1", 0).is_ok() && ask(&control, "192.0.2.1", 0).is_ok());
    for _ in 0..10 {
        assert_eq!(ask(&control, "192.0.2.1", 0).unwrap_err(), ["tight"]);
    }
    // `wide` was charged twice, not twelve times.
    assert!((0..3).all(|_| ask(&control, "192.0.2.1", 1).is_ok()));
    assert_eq!(ask(&control, "192.0.2.1", 1).unwrap_err(), ["wide"]);
    assert_eq!(ask(&control, "192.0.2.1", 0).unwrap_err(), ["tight", "wide"]);
    assert!(ask(&control, "192.0.2.2", 0).is_ok(), "another client");
    assert!((0..99).all(|_| ask(&control, "192.0.2.1", 2).is_ok()), "a route without limits");
}

#[test]
fn a_refusal_says_which_and_how_long() {
    let control = before(TWO, &needs(&HandClock::new()));
    assert!(ask(&control, "192.0.2.1", 0).is_ok() && ask(&control, "192.0.2.1", 0).is_ok());
    let Verdict::Deny(deny) = ask_with(&control, "192.0.2.1", 0, &[]).unwrap() else { panic!("exceeded") };
    let mut headers = HeaderMap::new();
    deny.headers(&mut headers);
    assert_eq!((deny.code().name, deny.code().status), ("rate_limit.exceeded", 429));
    assert_eq!(deny.rule().unwrap(), "tight");
    assert_eq!(deny.detail().unwrap(), "tight has 0 of 2 left; counted in this process");
    assert_eq!(deny.members(), [("violated-policies", vec!["tight".to_owned()])]);
    assert_eq!(headers.get(RETRY_AFTER).unwrap(), "1");
    assert_eq!(headers.get("ratelimit").unwrap(), "\"tight\";r=0;t=1");
    assert_eq!(headers.get("ratelimit-policy").unwrap(), "\"tight\";q=2;w=1, \"wide\";q=5;w=10");
}

#[test]
fn the_wait_that_is_told_is_enough() {
    let clock = HandClock::new();
    let control = before(TWO, &needs(&clock));
    while ask(&control, "192.0.2.1", 0).is_ok() {}
    clock.advance(1_000_000);
    assert!(ask(&control, "192.0.2.1", 0).is_ok());
}

#[test]
fn a_rule_in_shadow_refuses_nobody_and_is_noted() {
    let shadow = TWO.replace("requests = 2", "requests = 2\nmode = \"shadow\"");
    let control = before(&shadow, &needs(&HandClock::new()));
    assert!((0..2).all(|_| ask(&control, "192.0.2.1", 0).unwrap().notes().is_empty()));
    let counted = ask(&control, "192.0.2.1", 0).unwrap();
    let mut trail = Trail::default();
    counted.record(NAME, &mut trail);
    let step = &trail.steps()[0];
    assert_eq!((step.outcome, step.mode, step.rule.as_deref()), (Outcome::Deny, Mode::Shadow, Some("tight")));
    let mut headers = HeaderMap::new();
    for (name, value) in fields(std::iter::once(&counted)).into_iter().flatten() {
        headers.insert(name, value);
    }
    assert_eq!(headers.get("ratelimit-policy").unwrap(), "\"wide\";q=5;w=10", "a rule in shadow is not told");
    assert!((0..2).all(|_| ask(&control, "192.0.2.1", 0).is_ok()));
    assert_eq!(ask(&control, "192.0.2.1", 0).unwrap_err(), ["wide"]);
}

#[test]
fn a_request_that_lacks_a_part_is_counted_in_one_bucket_that_all_such_share() {
    let text = r#"
        [limits.plan]
        key = ["header:x-plan", "client"]
        requests = 2
        window = "1s"
        [routes.a]
        limits = ["plan"]
    "#;
    let control = before(text, &needs(&HandClock::new()));
    let passes = |ip, fields: &[(&'static str, &'static str)]| {
        matches!(ask_with(&control, ip, 0, fields).unwrap(), Verdict::Pass(_))
    };
    assert!(passes("192.0.2.1", &[]) && passes("192.0.2.2", &[]));
    assert!(!passes("192.0.2.3", &[]), "whatever else it has");
    assert!(passes("192.0.2.3", &[("x-plan", "gold")]));
}

#[test]
fn a_reload_resets_nobody_and_other_numbers_start_a_fresh_bucket() {
    let needs = needs(&HandClock::new());
    let first = before(TWO, &needs);
    while ask(&first, "192.0.2.1", 0).is_ok() {}
    // The same limits under a route with another index.
    let moved = before(&format!("[routes.Earlier]\n{TWO}"), &needs);
    assert_eq!(ask(&moved, "192.0.2.1", 1).unwrap_err(), ["tight"]);
    let raised = before(&TWO.replace("requests = 2", "requests = 3"), &needs);
    assert!(ask(&raised, "192.0.2.1", 0).is_ok());
}

#[test]
fn a_route_of_another_snapshot_is_a_fault_and_no_pass() {
    let control = before(TWO, &needs(&HandClock::new()));
    assert!(ask_with(&control, "192.0.2.1", 3, &[]).is_err());
}

const TENANTS: &str = r#"
    [limits.t]
    key = ["tenant"]
    requests = 20
    window = "1s"
    [limits.b]
    key = ["tenant"]
    requests = 20
    burst = 7
    window = "1s"
    [tenants.acme.grant]
    per_key = { requests = 50 }
    t = { requests = 50 }
    b = { requests = 50 }
    [tenants.acme.own]
    t = { requests = 30 }
    [tenants.globex.own]
    t = { burst = 4 }
    class_auth = { requests = 5 }
    [tenants.initech.grant]
    t = { requests = 3 }
    b = { burst = 90 }
"#;

#[test]
fn a_grant_raises_or_lowers_and_the_tenants_own_word_lowers() {
    let rules = rules(TENANTS);
    let numbers = |limit, tenant: &str| {
        let tenant = TenantId::parse(tenant).unwrap();
        let numbers = rules.numbers(limit, Some(&tenant)).unwrap();
        (numbers.requests().get(), numbers.burst())
    };
    assert_eq!(numbers("t", "acme"), (30, 30));
    assert_eq!(numbers("b", "acme"), (50, 7), "a burst that is written stays");
    assert_eq!(numbers("per_key", "acme"), (50, 50));
    assert_eq!(numbers("t", "globex"), (20, 4));
    assert_eq!(numbers("class_auth", "globex"), (5, 5));
    assert_eq!(numbers("t", "initech"), (3, 3));
    assert_eq!(numbers("b", "initech"), (20, 90));
    assert_eq!(numbers("t", "somebody"), (20, 20));
    let site = rules.numbers("per_key", None).unwrap();
    assert_eq!((site.requests().get(), site.window().as_secs_ceil()), (10, 1));
    assert!(rules.numbers("nothing", None).is_none());
}

#[test]
fn the_classes_are_built_in_and_can_be_written_anew() {
    let minute = |text: &str, name| {
        let rules = rules(text);
        let numbers = rules.numbers(name, None).unwrap();
        (numbers.requests().get(), numbers.window().as_secs_ceil())
    };
    assert_eq!(minute("", "class_auth"), (20, 60));
    assert_eq!(minute("", "class_management"), (100, 60));
    assert_eq!(minute("", "class_evaluation"), (1_000, 60));
    let own = "[limits.class_auth]\nkey = [\"client\"]\nrequests = 3\nwindow = \"10s\"";
    assert_eq!(minute(own, "class_auth"), (3, 10));
    // Written so, it counts by client, and is asked before authentication.
    let control = before(&format!("{own}\n[routes.login]\nclass = \"auth\""), &needs(&HandClock::new()));
    assert!((0..3).all(|_| ask(&control, "192.0.2.1", 0).is_ok()));
    assert_eq!(ask(&control, "192.0.2.1", 0).unwrap_err(), ["class_auth"]);
}

#[test]
fn the_lint_learns_of_limits_that_nobody_is_under_and_of_those_that_let_pass() {
    let text = r#"
        [limits.soft]
        key = ["client"]
        requests = 2
        window = "1s"
        on_store_failure = { allow = "billed afterwards" }
        [limits.lonely]
        key = ["client"]
        requests = 2
        window = "1s"
        [routes.a]
        limits = ["soft"]
    "#;
    let rules = rules(text);
    assert_eq!(rules.unused().collect::<Vec<_>>(), ["lonely"]);
    assert_eq!(rules.allowing().collect::<Vec<_>>(), [("soft", "billed afterwards")]);
}

#[test]
fn a_limit_of_some_methods_counts_no_other_and_tells_nobody_else() {
    let text = r#"
        [limits.writes]
        key = ["client"]
        methods = ["POST", "PUT"]
        requests = 2
        window = "1s"
        [limits.reads]
        key = ["client"]
        methods = ["GET"]
        requests = 3
        window = "1s"
        [routes.a]
        limits = ["writes", "reads"]
    "#;
    let control = before(text, &needs(&HandClock::new()));
    let told = |method: &Method| match send(&control, method, "192.0.2.1", 0, &[]).unwrap() {
        Verdict::Pass(counted) => fields(std::iter::once(&counted)).map(|[_, (_, left)]| left),
        Verdict::Deny(deny) => Some(format!("refused by {}", deny.rule().unwrap()).parse().unwrap()),
    };
    assert_eq!(told(&Method::POST).unwrap(), "\"writes\";r=1;t=1");
    assert_eq!(told(&Method::PUT).unwrap(), "\"writes\";r=0;t=1");
    assert_eq!(told(&Method::POST).unwrap(), "refused by writes");
    // What reads is counted by itself, and HEAD with GET.
    assert_eq!(told(&Method::GET).unwrap(), "\"reads\";r=2;t=1");
    assert_eq!(told(&Method::HEAD).unwrap(), "\"reads\";r=1;t=1");
    assert!((0..99).all(|_| told(&Method::DELETE).is_none()));
}
