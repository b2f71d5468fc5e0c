//! What a client and a log are told of limits: `RateLimit-Policy`, `RateLimit` (draft-ietf-httpapi-ratelimit-headers,
//! structured fields of RFC 9651), `Retry-After` (RFC 9110 10.2.3), and the notes of the trail.

use std::{cmp::Reverse, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, header::RETRY_AFTER};
use portcullis_api::{ControlName, Micros, Mode, Outcome, Trail};

use super::{
    Numbers,
    cost::{Charged, Dues},
    counters::{Answer, Level},
};

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// A field of an answer.
pub type Field = (HeaderName, HeaderValue);

/// Proof that a request was charged to every rule of its stage that is in force.
#[derive(Debug, Default)]
pub struct Counted {
    standings: Vec<Standing>,
    notes: Vec<Note>,
    /// What the upstream may say that the request costs beyond what it was charged.
    dues: Option<Dues>,
}

/// Something that the trail must show although the request passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The limit.
    pub rule: Arc<str>,
    /// What it is.
    pub kind: NoteKind,
    /// In words.
    pub detail: String,
}

/// What a note is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoteKind {
    /// A rule in shadow would have refused.
    Shadow,
    /// A rule ran on what it says for the time when the store is away.
    Degraded,
}

/// Where a request was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CountedAt {
    Memory,
    Shared,
    /// Of a rule that is always counted by shares.
    Share,
    /// Of one that is so while the shared store is away.
    LocalShare,
}

/// How one rule stands after a request.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    name: Arc<str>,
    policy: Arc<str>,
    requests: u32,
    key: u128,
    level: Level,
}

impl Standing {
    pub(crate) fn new(name: &Arc<str>, numbers: &Numbers, key: u128, level: Level) -> Self {
        let requests = numbers.requests.get();
        Self { name: name.clone(), policy: numbers.policy.clone(), requests, key, level }
    }

    pub(crate) fn answer(&self) -> Answer {
        self.level.answer
    }

    /// Whole seconds until there is more, rounded up, at least 1. From ten on up to a tenth more, by the bucket, so
    /// that clients who were refused together do not come back together.
    fn t(&self) -> u64 {
        let after = if self.level.retry_after > 0 { self.level.retry_after } else { self.level.reset_after };
        let seconds = seconds(after);
        let spread = u128::from(seconds.checked_div(10).unwrap_or(0)).saturating_add(1);
        let jitter = self.key.checked_rem(spread).and_then(|jitter| u64::try_from(jitter).ok()).unwrap_or(0);
        seconds.saturating_add(jitter)
    }

    fn item(&self) -> String {
        format!("\"{}\";r={};t={}", self.name, self.level.remaining, self.t())
    }

    /// Whether less of this rule's quota is left than of the other's; among equals, the one that takes longer.
    fn is_tighter_than(&self, other: &Self) -> bool {
        let part = |one: &Self, by: &Self| u64::from(one.level.remaining).saturating_mul(u64::from(by.requests));
        let (mine, its) = (part(self, other), part(other, self));
        (mine, Reverse(self.level.retry_after)) < (its, Reverse(other.level.retry_after))
    }
}

fn seconds(micros: Micros) -> u64 {
    micros.div_ceil(1_000_000).max(1)
}

fn tightest<'s>(standings: impl Iterator<Item = &'s Standing>) -> Option<&'s Standing> {
    standings.reduce(|best, next| if next.is_tighter_than(best) { next } else { best })
}

/// `RateLimit-Policy` of all, and `RateLimit` of one.
fn told(standings: &[&Standing], tightest: &Standing) -> Option<[Field; 2]> {
    let mut policies = String::with_capacity(standings.len().saturating_mul(32));
    for standing in standings {
        if !policies.is_empty() {
            policies.push_str(", ");
        }
        policies.push_str(&standing.policy);
    }
    // Names have no byte that cannot stand in a header.
    let value = |text: String| HeaderValue::try_from(text).ok();
    Some([(RATE_LIMIT_POLICY, value(policies)?), (RATE_LIMIT, value(tightest.item())?)])
}

/// `RateLimit-Policy` (every rule in force) and `RateLimit` (the tightest) for an answer, over what the upstream may
/// have written there. None without a rule in force.
pub fn fields<'c>(counted: impl Iterator<Item = &'c Counted>) -> Option<[Field; 2]> {
    // A rule that two stages asked is one policy.
    let mut all: Vec<&Standing> = Vec::with_capacity(4);
    for standing in counted.flat_map(|counted| &counted.standings) {
        if !all.iter().any(|known| known.name == standing.name) {
            all.push(standing);
        }
    }
    told(&all, tightest(all.iter().copied())?)
}

impl Counted {
    pub(super) fn new(standings: Vec<Standing>, notes: Vec<Note>, dues: Option<Dues>) -> Self {
        Self { standings, notes, dues }
    }

    /// Charges what the head of the upstream's answer says that the request cost beyond what it was charged. Once: a
    /// second answer has nothing left to settle.
    pub fn settle(&mut self, control: ControlName, answer: &HeaderMap, trail: &mut Trail) {
        let Some(dues) = self.dues.take() else { return };
        for Charged { key, tokens, rate } in dues.settle(control, answer, trail) {
            for standing in self.standings.iter_mut().filter(|standing| standing.key == key) {
                standing.level.charge(rate, tokens);
            }
        }
    }

    /// What the trail must show.
    #[must_use]
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// Writes the notes into the trail.
    pub fn record(&self, control: ControlName, trail: &mut Trail) {
        for Note { rule, kind, detail } in &self.notes {
            match kind {
                NoteKind::Shadow => trail.note(control, Outcome::Deny, Mode::Shadow, rule, detail),
                NoteKind::Degraded => trail.note(control, Outcome::Degraded, Mode::Enforce, rule, detail),
            }
        }
    }
}

/// A request exceeds one or more rules. None was charged.
#[derive(Debug, Clone)]
pub struct Excess {
    /// Every rule of the stage that is in force.
    standings: Vec<Standing>,
    at: CountedAt,
}

impl Excess {
    pub(super) fn new(standings: Vec<Standing>, at: CountedAt) -> Self {
        Self { standings, at }
    }

    /// An excess of one bucket in memory.
    pub(crate) fn of_one(standing: Standing) -> Self {
        Self { standings: vec![standing], at: CountedAt::Memory }
    }

    fn violated(&self) -> impl Iterator<Item = &Standing> + Clone {
        self.standings.iter().filter(|standing| standing.answer() == Answer::Short)
    }

    /// The rule that takes longest to admit the client again.
    #[must_use]
    pub fn rule(&self) -> Option<&str> {
        tightest(self.violated()).map(|standing| &*standing.name)
    }

    /// Which rules, and where they were counted.
    #[must_use]
    pub fn detail(&self) -> String {
        let at = match self.at {
            CountedAt::Memory => "in this process",
            CountedAt::Shared => "in the shared store",
            CountedAt::Share => "as this instance's share",
            CountedAt::LocalShare => "as this instance's share, the shared store is away",
        };
        let left = |one: &Standing| format!("{} has {} of {} left", one.name, one.level.remaining, one.requests);
        format!("{}; counted {at}", self.violated().map(left).collect::<Vec<_>>().join(", "))
    }

    /// Names of the rules it exceeds, for `violated-policies`.
    #[must_use]
    pub fn violated_policies(&self) -> Vec<String> {
        self.violated().map(|standing| standing.name.to_string()).collect()
    }

    /// Seconds until no rule refuses any more, at least 1, and never earlier than the `t` of `RateLimit`.
    #[must_use]
    pub fn retry_after_s(&self) -> u64 {
        self.violated().map(Standing::t).max().unwrap_or(1)
    }

    /// Writes `Retry-After`, `RateLimit-Policy` and `RateLimit`.
    pub fn write_headers(&self, answer: &mut HeaderMap) {
        let standings: Vec<&Standing> = self.standings.iter().collect();
        // A rule that the request exceeds, though another may have less left: what it costs there may be less.
        let told = tightest(self.violated()).and_then(|tightest| told(&standings, tightest));
        for (name, value) in told.into_iter().flatten() {
            answer.insert(name, value);
        }
        answer.insert(RETRY_AFTER, HeaderValue::from(self.retry_after_s()));
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "the numbers of the tests are small")]
mod tests {
    use std::num::NonZeroU32;

    use portcullis_api::Millis;
    use proptest::{collection::vec, prelude::*};
    use sfv::{BareItem, List, ListEntry, Parser};

    use super::*;

    fn standing(name: &str, quota: u32, remaining: u32, retry_after: Micros, key: u128) -> Standing {
        let quota = NonZeroU32::new(quota).unwrap();
        let numbers = Numbers::new(name, quota, Millis::from_secs(60), None).unwrap();
        let answer = if remaining == 0 { Answer::Short } else { Answer::Charged };
        let level = Level { answer, remaining, retry_after, reset_after: retry_after.saturating_add(1) };
        Standing::new(&name.into(), &numbers, key, level)
    }

    /// The list of a field as name and integer parameters, by a parser of structured fields.
    fn parsed(headers: &HeaderMap, field: &str) -> Vec<(String, Vec<(String, i64)>)> {
        let text = headers.get(field).unwrap().to_str().unwrap();
        let list: List = Parser::new(text).parse().unwrap();
        list.into_iter()
            .map(|entry| {
                let ListEntry::Item(item) = entry else { panic!("an inner list: {text}") };
                let BareItem::String(name) = item.bare_item else { panic!("no string: {text}") };
                let number = |value: BareItem| i64::from(value.as_integer().unwrap());
                let params = item.params.into_iter().map(|(key, value)| (key.as_str().to_owned(), number(value)));
                (name.as_str().to_owned(), params.collect())
            })
            .collect()
    }

    fn answer_with(counted: &[&Counted], headers: &mut HeaderMap) {
        for (name, value) in fields(counted.iter().copied()).into_iter().flatten() {
            headers.insert(name, value);
        }
    }

    fn named(name: &str, params: &[(&str, i64)]) -> (String, Vec<(String, i64)>) {
        (name.to_owned(), params.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect())
    }

    #[test]
    fn every_policy_is_told_and_the_tightest_stands_for_all() {
        let before = Counted::new(vec![standing("wide", 1_000, 900, 0, 0)], Vec::new(), None);
        let after = Counted::new(
            vec![standing("tight", 100, 5, 2_500_000, 0), standing("middle", 10, 5, 0, 0)],
            Vec::new(),
            None,
        );
        let mut headers = HeaderMap::new();
        headers.insert("ratelimit", HeaderValue::from_static("\"upstream\";r=7"));
        answer_with(&[&before, &after], &mut headers);
        assert_eq!(parsed(&headers, "ratelimit"), [named("tight", &[("r", 5), ("t", 3)])]);
        assert_eq!(
            parsed(&headers, "ratelimit-policy"),
            [
                named("wide", &[("q", 1_000), ("w", 60)]),
                named("tight", &[("q", 100), ("w", 60)]),
                named("middle", &[("q", 10), ("w", 60)])
            ]
        );
    }

    #[test]
    fn without_a_rule_nothing_is_written() {
        let mut headers = HeaderMap::new();
        headers.insert("ratelimit", HeaderValue::from_static("\"upstream\";r=7"));
        answer_with(&[&Counted::default(), &Counted::default()], &mut headers);
        assert_eq!(headers.get("ratelimit").unwrap(), "\"upstream\";r=7");
        assert!(!headers.contains_key("ratelimit-policy"));
    }

    #[test]
    fn a_rule_that_both_stages_asked_is_told_once() {
        let stage = Counted::new(vec![standing("both", 10, 5, 0, 0)], Vec::new(), None);
        let mut headers = HeaderMap::new();
        answer_with(&[&stage, &stage], &mut headers);
        assert_eq!(parsed(&headers, "ratelimit-policy").len(), 1);
    }

    #[test]
    fn a_refusal_names_each_violated_policy_and_waits_for_the_slowest() {
        let standings =
            vec![standing("fast", 10, 0, 1, 0), standing("free", 10, 3, 0, 0), standing("slow", 10, 0, 7_000_001, 0)];
        let excess = Excess::new(standings, CountedAt::Shared);
        let mut headers = HeaderMap::new();
        excess.write_headers(&mut headers);
        assert_eq!(excess.violated_policies(), ["fast", "slow"]);
        assert_eq!(excess.rule(), Some("slow"));
        assert_eq!(headers.get(RETRY_AFTER).unwrap(), "8");
        assert_eq!(parsed(&headers, "ratelimit"), [named("slow", &[("r", 0), ("t", 8)])]);
        assert_eq!(parsed(&headers, "ratelimit-policy").len(), 3);
        assert_eq!(excess.detail(), "fast has 0 of 10 left, slow has 0 of 10 left; counted in the shared store");
    }

    #[test]
    fn a_refusal_tells_the_rule_that_it_exceeds_though_another_has_less_left() {
        let mut dear = standing("dear", 10, 2, 3_000_000, 0);
        dear.level.answer = Answer::Short;
        let cheap = standing("cheap", 100, 1, 0, 0);
        let mut headers = HeaderMap::new();
        Excess::new(vec![cheap, dear], CountedAt::Memory).write_headers(&mut headers);
        assert_eq!(parsed(&headers, "ratelimit"), [named("dear", &[("r", 2), ("t", 3)])]);
        assert_eq!(headers.get(RETRY_AFTER).unwrap(), "3");
    }

    #[test]
    fn a_wait_of_a_microsecond_is_told_as_one_second() {
        assert_eq!(Excess::of_one(standing("r", 10, 0, 1, 0)).retry_after_s(), 1);
        assert_eq!(Excess::of_one(standing("r", 10, 0, 1_000_000, 0)).retry_after_s(), 1);
        assert_eq!(Excess::of_one(standing("r", 10, 0, 1_000_001, 0)).retry_after_s(), 2);
    }

    #[test]
    fn only_a_wait_of_ten_seconds_and_more_is_spread_and_only_to_later() {
        let told = |seconds: u64| -> Vec<u64> {
            (0..1_000).map(|key| standing("r", 10, 0, seconds * 1_000_000, key).t()).collect()
        };
        assert!(told(9).iter().all(|&t| t == 9));
        let spread = told(100);
        assert_eq!((spread.iter().min(), spread.iter().max()), (Some(&100), Some(&110)));
    }

    proptest! {
        #[test]
        fn retry_after_is_never_earlier_than_t(waits in vec((0..200_000_000u64, any::<u128>()), 1..6)) {
            let short = |(n, (wait, key)): (usize, &(u64, u128))| standing(&format!("r{n}"), 10, 0, wait + 1, *key);
            let excess = Excess::new(waits.iter().enumerate().map(short).collect(), CountedAt::Memory);
            let mut headers = HeaderMap::new();
            excess.write_headers(&mut headers);
            let (_, params) = parsed(&headers, "ratelimit").remove(0);
            let t = params.into_iter().find(|(key, _)| key == "t").unwrap().1;
            let retry: i64 = headers.get(RETRY_AFTER).unwrap().to_str().unwrap().parse().unwrap();
            prop_assert!(retry >= t && retry >= 1);
            let longest = waits.iter().map(|(wait, _)| (wait + 1).div_ceil(1_000_000)).max().unwrap();
            prop_assert!(u64::try_from(retry).unwrap() >= longest);
        }
    }
}
