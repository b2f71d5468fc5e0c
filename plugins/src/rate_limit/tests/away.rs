//! What rules do with the shared store, and without it.

use std::{num::NonZeroU32, sync::Arc};

use parking_lot::Mutex;
use portcullis_api::{Outcome, Secret, Trail, Verdict};

use super::site::{ask, ask_with, before};
use crate::{
    rate_limit::{
        Answer, Bucket, Clearing, Fleet, Instead, Level, NAME, Needs, Peeking, Rate, SharedCounters, StoreFault,
        Tables, Taking,
    },
    testing::HandClock,
};

/// A store that answers what it is told to, and remembers what it was asked.
pub(super) struct Scripted {
    answer: Mutex<Answers>,
    instances: NonZeroU32,
    asked: Mutex<Vec<Vec<(String, u128)>>>,
    pub(super) charged: Mutex<Vec<(String, u32)>>,
    /// The rules whose shares were charged while it was away.
    pub(super) owed: Mutex<Vec<(String, u32)>>,
}

impl Scripted {
    /// It answers no more.
    pub(super) fn go_away(&self) {
        *self.answer.lock() = Answers::Fault(StoreFault::Away);
    }
}

pub(super) enum Answers {
    Fault(StoreFault),
    All(Answer),
    TooFew,
}

impl Fleet for Scripted {
    fn instances(&self) -> NonZeroU32 {
        self.instances
    }
}

impl SharedCounters for Scripted {
    fn take<'a>(&'a self, buckets: &'a [Bucket<'a>]) -> Taking<'a> {
        self.asked.lock().push(buckets.iter().map(|bucket| (bucket.rule.to_owned(), bucket.key)).collect());
        let level = |answer| Level { answer, remaining: 0, retry_after: 2_000_001, reset_after: 3_000_000 };
        let result = match &*self.answer.lock() {
            Answers::Fault(fault) => Err(fault.clone()),
            Answers::All(answer) => Ok(buckets.iter().map(|_| level(*answer)).collect()),
            Answers::TooFew => Ok(Vec::new()),
        };
        Box::pin(std::future::ready(result))
    }

    fn charge(&self, bucket: &Bucket<'_>, tokens: NonZeroU32, instead: Instead) {
        match &*self.answer.lock() {
            Answers::Fault(_) => instead(),
            Answers::All(_) | Answers::TooFew => self.charged.lock().push((bucket.rule.to_owned(), tokens.get())),
        }
    }

    fn peek<'a>(&'a self, bucket: &'a Bucket<'a>) -> Peeking<'a> {
        Box::pin(std::future::ready(Ok(Level::at_rest(bucket.rate, 0, 1))))
    }

    fn clear<'a>(&'a self, _: &'a Bucket<'a>) -> Clearing<'a> {
        Box::pin(std::future::ready(Err(StoreFault::Away)))
    }

    fn owe(&self, bucket: &Bucket<'_>, _: Rate, tokens: u32) {
        self.owed.lock().push((bucket.rule.to_owned(), tokens));
    }
}

pub(super) fn with_store(answer: Answers, instances: u32) -> (Arc<Scripted>, Arc<HandClock>, Needs) {
    let clock = HandClock::new();
    let instances = NonZeroU32::new(instances).unwrap();
    let store = Arc::new(Scripted {
        answer: Mutex::new(answer),
        instances,
        asked: Mutex::default(),
        charged: Mutex::default(),
        owed: Mutex::default(),
    });
    let tables = Arc::new(Tables::new(1 << 10));
    let key = Secret::new(vec![7; 32]);
    let needs = Needs::shared(clock.clone(), tables, store.clone(), &key);
    (store, clock, needs)
}

fn limit(name: &str, requests: u32, more: &str) -> String {
    format!("[limits.{name}]\nkey = [\"client\"]\nrequests = {requests}\nwindow = \"10s\"\n{more}\n")
}

fn route(names: &str) -> String {
    format!("[routes.a]\nlimits = [{names}]\n")
}

#[test]
fn all_rules_of_a_request_are_one_call_and_its_answer_is_followed() {
    let text = limit("one", 5, "") + &limit("two", 5, "") + &route("\"one\", \"two\"");
    let (store, _, needs) = with_store(Answers::All(Answer::Charged), 1);
    let control = before(&text, &needs);
    assert!((0..20).all(|_| ask(&control, "192.0.2.1", 0).unwrap().notes().is_empty()));
    let asked = store.asked.lock();
    assert_eq!(asked.len(), 20);
    assert_eq!(asked[0].iter().map(|(rule, _)| rule.as_str()).collect::<Vec<_>>(), ["one", "two"]);
    assert_ne!(asked[0][0].1, asked[0][1].1, "two rules on one client have two buckets");

    let (_, _, needs) = with_store(Answers::All(Answer::Short), 1);
    assert_eq!(ask(&before(&text, &needs), "192.0.2.1", 0).unwrap_err(), ["one", "two"]);
}

#[test]
fn without_the_store_each_instance_enforces_its_share() {
    let (_, clock, needs) = with_store(Answers::Fault(StoreFault::Away), 4);
    let control = before(&(limit("shared", 20, "") + &route("\"shared\"")), &needs);
    assert!((0..5).all(|_| ask(&control, "192.0.2.1", 0).is_ok()));
    assert_eq!(ask(&control, "192.0.2.1", 0).unwrap_err(), ["shared"]);
    clock.advance(1_999_999);
    assert!(ask(&control, "192.0.2.1", 0).is_err());
    clock.advance(1);
    let counted = ask(&control, "192.0.2.1", 0).unwrap();
    let mut trail = Trail::default();
    counted.record(NAME, &mut trail);
    let step = &trail.steps()[0];
    assert_eq!((step.outcome, step.rule.as_deref()), (Outcome::Degraded, Some("shared")));
    assert_eq!(step.detail.as_deref(), Some("the store is away: this instance enforces its share"));
}

#[test]
fn a_share_is_at_least_one_request() {
    let (_, clock, needs) = with_store(Answers::Fault(StoreFault::Late), 7);
    let control = before(&(limit("small", 2, "") + &route("\"small\"")), &needs);
    assert!(ask(&control, "192.0.2.1", 0).is_ok());
    assert!(ask(&control, "192.0.2.1", 0).is_err());
    clock.advance(10_000_000);
    assert!(ask(&control, "192.0.2.1", 0).is_ok());
}

#[test]
fn a_rule_that_denies_without_the_store_is_a_fault_and_no_429() {
    let text = limit("hard", 5, "on_store_failure = \"deny\"") + &limit("soft", 1, "") + &route("\"hard\", \"soft\"");
    let (_, _, needs) = with_store(Answers::Fault(StoreFault::Busy), 1);
    let control = before(&text, &needs);
    for _ in 0..3 {
        let fault = ask_with(&control, "192.0.2.1", 0, &[]).err().unwrap();
        assert_eq!(fault.what, "limit `hard`: too many calls wait for the store");
        assert!(fault.retry_after_s >= 1);
    }
}

#[test]
fn a_rule_that_allows_without_the_store_passes_with_its_reason() {
    let text = limit("soft", 1, "on_store_failure = { allow = \"billed afterwards\" }") + &route("\"soft\"");
    let (_, _, needs) = with_store(Answers::Fault(StoreFault::Refused("OOM".into())), 1);
    let control = before(&text, &needs);
    for _ in 0..5 {
        let counted = ask(&control, "192.0.2.1", 0).unwrap();
        assert_eq!(counted.notes()[0].detail, "the store refused: OOM: passes, because: billed afterwards");
    }
}

#[test]
fn in_shadow_a_rule_that_would_deny_is_noted() {
    let more = "mode = \"shadow\"\non_store_failure = \"deny\"";
    let (_, _, needs) = with_store(Answers::Fault(StoreFault::Away), 1);
    let control = before(&(limit("hard", 5, more) + &route("\"hard\"")), &needs);
    assert_eq!(
        ask(&control, "192.0.2.1", 0).unwrap().notes()[0].detail,
        "the store is away: it would have answered 503"
    );
}

#[test]
fn a_local_rule_is_counted_by_shares_and_asks_no_store() {
    let text = limit("near", 20, "consistency = \"local\"") + &route("\"near\"");
    let (store, clock, needs) = with_store(Answers::Fault(StoreFault::Away), 4);
    let control = before(&text, &needs);
    assert!((0..5).all(|_| ask(&control, "192.0.2.1", 0).unwrap().notes().is_empty()), "nothing is degraded");
    assert_eq!(ask(&control, "192.0.2.1", 0).unwrap_err(), ["near"]);
    assert!(store.asked.lock().is_empty());
    clock.advance(2_000_000);
    assert!(ask(&control, "192.0.2.1", 0).is_ok());
}

#[test]
fn a_request_is_charged_to_local_and_exact_rules_or_to_none() {
    let text = limit("near", 3, "consistency = \"local\"") + &limit("far", 5, "") + &route("\"near\", \"far\"");
    // What the store refuses is not charged here.
    let (store, _, needs) = with_store(Answers::All(Answer::Short), 1);
    let control = before(&text, &needs);
    assert!((0..10).all(|_| ask(&control, "192.0.2.1", 0).unwrap_err() == ["far"]));
    assert_eq!(store.asked.lock().len(), 10);
    // What is refused here is not asked there.
    let (store, _, needs) = with_store(Answers::All(Answer::Charged), 1);
    let control = before(&text, &needs);
    assert!((0..3).all(|_| ask(&control, "192.0.2.1", 0).is_ok()));
    assert!((0..10).all(|_| ask(&control, "192.0.2.1", 0).unwrap_err() == ["near"]));
    assert_eq!(store.asked.lock().len(), 3);
    // What could not be decided is not charged here either.
    let deny = text.replace(
        "[routes",
        "[limits.hard]\nkey = [\"client\"]\nrequests = 5\nwindow = \"10s\"\non_store_failure = \"deny\"\n[routes",
    );
    let (_, _, needs) = with_store(Answers::Fault(StoreFault::Away), 1);
    let control = before(&deny.replace("\"far\"]", "\"hard\"]"), &needs);
    assert!((0..10).all(|_| ask_with(&control, "192.0.2.1", 0, &[]).is_err()));
}

#[test]
fn an_answer_that_does_not_fit_the_question_is_no_answer() {
    let text = limit("hard", 5, "on_store_failure = \"deny\"") + &route("\"hard\"");
    for answer in [Answers::TooFew, Answers::All(Answer::Unasked)] {
        let (_, _, needs) = with_store(answer, 1);
        assert!(ask_with(&before(&text, &needs), "192.0.2.1", 0, &[]).is_err(), "nothing was counted");
    }
}

#[test]
fn a_route_without_limits_asks_no_store() {
    let (store, _, needs) = with_store(Answers::Fault(StoreFault::Away), 1);
    let control = before("[routes.a]", &needs);
    assert!(matches!(ask_with(&control, "192.0.2.1", 0, &[]), Ok(Verdict::Pass(_))));
    assert!(store.asked.lock().is_empty());
}

#[test]
fn what_a_share_admits_is_owed_unless_the_store_may_have_counted_it() {
    let faults =
        [(StoreFault::Away, 2), (StoreFault::Busy, 2), (StoreFault::Refused("OOM".into()), 2), (StoreFault::Late, 0)];
    for (fault, owed) in faults {
        let (store, _, needs) = with_store(Answers::Fault(fault.clone()), 2);
        let control = before(&(limit("four", 4, "") + &route("\"four\"")), &needs);
        let passed = (0..9).filter(|_| ask(&control, "192.0.2.1", 0).is_ok()).count();
        assert_eq!((passed, store.owed.lock().len()), (2, owed), "{fault}");
    }
}
