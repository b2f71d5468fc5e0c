//! Costs that upstreams tell behind the answer.

use http::{HeaderMap, HeaderValue};
use portcullis_api::{Mode, Outcome, RouteId, TenantId, Trail};

use super::{
    away::{Answers, with_store},
    site::{ask, before, compile, needs, rules},
};
use crate::{
    rate_limit::{Answer, Counted, NAME, Named, Needs, StoreFault, fields},
    testing::{HandClock, now_or_never},
};

const SITE: &str = r#"
    [limits.work]
    key = ["client"]
    requests = 100
    window = "100s"
    cost = 2
    cost_from = { header = "x-request-cost", at_most = 50 }
    [routes.a]
    limits = ["work"]
"#;

/// Settles what an answer with these values says.
fn settle(counted: &mut Counted, values: &[&str]) -> Trail {
    let mut answer = HeaderMap::new();
    for value in values {
        answer.append("x-request-cost", HeaderValue::from_str(value).unwrap());
    }
    let mut trail = Trail::default();
    counted.settle(NAME, &answer, &mut trail);
    trail
}

fn left(needs: &Needs, text: &str) -> u32 {
    let named = Named { client: "192.0.2.1".parse().ok(), ..Named::default() };
    now_or_never(needs.look(&rules(text), "work", &named)).unwrap().level.remaining
}

fn told(counted: &Counted) -> String {
    let [_, (_, value)] = fields(std::iter::once(counted)).unwrap();
    value.to_str().unwrap().to_owned()
}

#[test]
fn a_request_is_charged_its_cost_at_once_and_the_rest_behind_the_answer() {
    let needs = needs(&HandClock::new());
    let control = before(SITE, &needs);
    let mut counted = ask(&control, "192.0.2.1", 0).unwrap();
    assert_eq!((left(&needs, SITE), told(&counted).as_str()), (98, "\"work\";r=98;t=2"));
    let trail = settle(&mut counted, &["9"]);
    assert!(trail.steps().is_empty());
    assert_eq!((left(&needs, SITE), told(&counted).as_str()), (91, "\"work\";r=91;t=9"));
    // A second answer has nothing left to settle.
    settle(&mut counted, &["40"]);
    assert_eq!(left(&needs, SITE), 91);
}

#[test]
fn an_upstream_can_take_a_request_neither_below_its_cost_nor_above_the_most() {
    for (values, charged) in [
        (&[][..], 2),
        (&["0"], 2),
        (&["1"], 2),
        (&["2"], 2),
        (&["3"], 3),
        (&["50"], 50),
        (&["51"], 50),
        (&["18446744073709551616"], 50),
    ] {
        let needs = needs(&HandClock::new());
        let mut counted = ask(&before(SITE, &needs), "192.0.2.1", 0).unwrap();
        assert!(settle(&mut counted, values).steps().is_empty(), "{values:?}");
        assert_eq!(left(&needs, SITE), 100 - charged, "{values:?}");
    }
}

#[test]
fn what_is_no_whole_number_counts_as_the_most_and_is_noted_without_its_text() {
    for values in [&["ten"][..], &["-5"], &[""], &["1.5"], &["3", "4"]] {
        let needs = needs(&HandClock::new());
        let mut counted = ask(&before(SITE, &needs), "192.0.2.1", 0).unwrap();
        let trail = settle(&mut counted, values);
        let step = &trail.steps()[0];
        assert_eq!((step.control, step.outcome, step.mode), (NAME, Outcome::Degraded, Mode::Enforce));
        assert_eq!(step.rule.as_deref(), Some("work"));
        assert_eq!(step.detail.as_deref(), Some("x-request-cost is no whole number: charged 50, the most"));
        assert_eq!(left(&needs, SITE), 50, "{values:?}");
    }
}

#[test]
fn a_bucket_that_has_too_little_is_empty_and_never_less() {
    let clock = HandClock::new();
    let needs = needs(&clock);
    let control = before(SITE, &needs);
    // Three at the same time: none is refused for what the others turn out to cost.
    let three = [(); 3].map(|()| ask(&control, "192.0.2.1", 0).unwrap());
    for mut counted in three {
        settle(&mut counted, &["50"]);
    }
    assert_eq!(left(&needs, SITE), 0);
    assert_eq!(ask(&control, "192.0.2.1", 0).unwrap_err(), ["work"]);
    assert!(ask(&control, "192.0.2.2", 0).is_ok(), "another's bucket");
    clock.advance(2_000_000);
    assert!(ask(&control, "192.0.2.1", 0).is_ok(), "two units flowed in, as into an empty bucket");
}

#[test]
fn a_rule_in_shadow_is_charged_too_and_one_without_a_header_is_not() {
    let shadow = SITE.replace("cost = 2", "cost = 2\nmode = \"shadow\"");
    let both = shadow.replace("limits = [\"work\"]", "limits = [\"work\", \"plain\"]")
        + "[limits.plain]\nkey = [\"client\"]\nrequests = 9\nwindow = \"9s\"";
    let needs = needs(&HandClock::new());
    let mut counted = ask(&before(&both, &needs), "192.0.2.1", 0).unwrap();
    settle(&mut counted, &["12"]);
    assert_eq!(left(&needs, &both), 88);
    assert_eq!(told(&counted), "\"plain\";r=8;t=1");
}

#[test]
fn the_store_is_told_the_rest_and_nobody_waits_for_it() {
    let (store, _, needs) = with_store(Answers::All(Answer::Charged), 4);
    let control = before(SITE, &needs);
    for (value, _) in [("12", 10), ("2", 0), ("ten", 48)] {
        settle(&mut ask(&control, "192.0.2.1", 0).unwrap(), &[value]);
    }
    assert_eq!(*store.charged.lock(), [("work".to_owned(), 10), ("work".to_owned(), 48)]);
}

#[test]
fn a_rest_that_the_store_does_not_take_is_charged_to_the_share_here() {
    // The store takes the request and is away when its cost is known.
    let (store, _, needs) = with_store(Answers::All(Answer::Charged), 4);
    let control = before(SITE, &needs);
    let mut counted = ask(&control, "192.0.2.1", 0).unwrap();
    store.go_away();
    settle(&mut counted, &["22"]);
    // Of 25 that are this instance's share 20 are gone: two more requests of two each.
    assert!((0..2).all(|_| ask(&control, "192.0.2.1", 0).is_ok()));
    assert_eq!(ask(&control, "192.0.2.1", 0).unwrap_err(), ["work"]);
}

#[test]
fn what_was_counted_by_shares_is_charged_to_the_share() {
    let (store, _, needs) = with_store(Answers::Fault(StoreFault::Away), 4);
    let control = before(SITE, &needs);
    let mut counted = ask(&control, "192.0.2.1", 0).unwrap();
    settle(&mut counted, &["22"]);
    assert!(told(&counted).starts_with("\"work\";r=3;"), "of 25: {}", told(&counted));
    assert!(store.charged.lock().is_empty());
    assert_eq!(*store.owed.lock(), [("work".to_owned(), 2), ("work".to_owned(), 20)]);
    assert!(ask(&control, "192.0.2.1", 0).is_ok() && ask(&control, "192.0.2.1", 0).is_err());
}

#[test]
fn what_passed_uncounted_is_not_charged_afterwards() {
    let allow = SITE.replace("cost = 2", "cost = 2\non_store_failure = { allow = \"billed afterwards\" }");
    let (store, _, needs) = with_store(Answers::Fault(StoreFault::Away), 4);
    let mut counted = ask(&before(&allow, &needs), "192.0.2.1", 0).unwrap();
    assert!(settle(&mut counted, &["22"]).steps().is_empty());
    assert!(store.charged.lock().is_empty());
}

#[test]
fn the_headers_of_a_route_are_those_of_all_its_limits() {
    let text = format!(
        "{SITE}[routes.b]\napi_keys = \"yes\"\n[limits.per_key]\nkey = [\"api_key\"]\nrequests = 9\n\
        window = \"1s\"\ncost_from = {{ header = \"X-Units\", at_most = 3 }}"
    );
    let rules = rules(&text);
    assert_eq!(rules.cost_headers(RouteId::new(0)), ["x-request-cost"]);
    assert_eq!(rules.cost_headers(RouteId::new(1)), ["x-units"]);
    assert!(rules.cost_headers(RouteId::new(2)).is_empty());
}

#[test]
fn a_cost_that_could_not_be_charged_is_refused() {
    let refused = |from: &str, to: &str| {
        let text = SITE.replace(from, to);
        let issues = compile(&text).expect_err(&text);
        let at = text.get(issues[0].span.clone()).unwrap_or_default().to_owned();
        (issues[0].code, at, issues[0].message.clone())
    };
    let (code, at, said) = refused("at_most = 50", "at_most = 101");
    assert_eq!((code, at.as_str()), ("limits.numbers", "101"));
    let why = "`work`: a request may take 101, more than the 100 that may come at once: the rest would be lost";
    assert_eq!(said, why);
    assert_eq!(refused("at_most = 50", "at_most = 2").0, "limits.cost_at_most");
    let (code, at, _) = refused("x-request-cost", "content-length");
    assert_eq!((code, at.as_str()), ("limits.cost_header", "\"content-length\""));
    let tenant = SITE.replace("[\"client\"]", "[\"tenant\"]") + "[tenants.acme]\nown.work = { burst = 49 }";
    let issues = compile(&tenant).unwrap_err();
    assert_eq!(issues[0].code, "limits.numbers");
    assert!(issues[0].message.starts_with("`work` of tenant `acme`: a request may take 50, more than the 49"));
    let acme = TenantId::parse("acme").unwrap();
    let enough = rules(&tenant.replace("burst = 49", "burst = 50"));
    assert_eq!(enough.numbers("work", Some(&acme)).unwrap().burst(), 50);
}
