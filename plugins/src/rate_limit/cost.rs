//! Costs that are known behind the answer: an upstream says in a header what a request took, and the rest of it, beyond
//! what was charged at the admission, is charged to the same bucket.
//!
//! Invariant: an upstream that lies or is broken can take no request below its `cost` nor above `at_most`, and never
//! refuses one: a bucket that has too little is empty then. A [`Due`] is settled once: settling takes it.

use std::{num::NonZeroU32, ops::Range, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue};
use portcullis_api::{ControlName, Issues, Millis, Mode, Outcome, Trail};

use super::{
    CostFrom, Needs, Rate,
    counters::{Binding, Bucket, Leasing},
    table::Table,
    told::CountedAt,
};
use crate::reserved;

/// Headers that frame or describe an answer, or that clients act on. One that is read is taken out of the answer.
const NEEDED: &[&str] = &[
    "age",
    "allow",
    "alt-svc",
    "cache-control",
    "connection",
    "content-",
    "date",
    "etag",
    "expires",
    "grpc-",
    "keep-alive",
    "last-modified",
    "link",
    "location",
    "proxy-authenticate",
    "ratelimit",
    "ratelimit-",
    "retry-after",
    "sec-",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "vary",
    "via",
    "www-authenticate",
];

/// Where a rule reads what a request took.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) header: HeaderName,
    pub(super) at_most: NonZeroU32,
}

/// What an answer says of it.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Nothing,
    Cost(NonZeroU32),
    /// Something that is no whole number, or several.
    NoNumber,
}

impl Measured {
    pub(super) fn compile(name: &str, from: &CostFrom, cost: NonZeroU32, issues: &mut Issues) -> Option<Arc<Self>> {
        let CostFrom { header, at_most } = from;
        if at_most.value <= cost {
            issues.push_help(
                "limits.cost_at_most",
                &at_most.span,
                format!(
                    "`{name}`: a request takes {cost} in any case and at most {}: the header says nothing",
                    at_most.value
                ),
                "write more, or leave `cost_from` out",
            );
            return None;
        }
        let header = self::header(name, &header.value, &header.span, issues)?;
        Some(Arc::new(Self { header, at_most: at_most.value }))
    }

    fn read(&self, answer: &HeaderMap) -> Said {
        let mut values = answer.get_all(&self.header).iter();
        match (values.next(), values.next()) {
            (None, _) => Said::Nothing,
            (Some(value), None) => {
                whole_number(value).map_or(Said::NoNumber, |cost| Said::Cost(cost.clamp(NonZeroU32::MIN, self.at_most)))
            }
            (Some(_), Some(_)) => Said::NoNumber,
        }
    }
}

/// A number of digits only, whatever its length; 0 counts as 1.
fn whole_number(value: &HeaderValue) -> Option<NonZeroU32> {
    let digits = value.as_bytes();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let of = |digits: &[u8]| std::str::from_utf8(digits).ok()?.parse::<u32>().ok();
    // Digits that are too many are a number that is too large.
    Some(NonZeroU32::new(of(digits).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN))
}

fn header(name: &str, written: &str, span: &Range<usize>, issues: &mut Issues) -> Option<HeaderName> {
    let shown: String = written.chars().take(64).flat_map(char::escape_default).collect();
    let mut say = |wrong: &str, help: &str| {
        issues.push_help("limits.cost_header", span, format!("`{name}` reads its cost from `{shown}`, {wrong}"), help);
    };
    let Ok(header) = HeaderName::from_bytes(written.as_bytes()) else {
        say("which is no name of a header", "write letters, digits and hyphens, e.g. \"x-request-cost\"");
        return None;
    };
    let needed = NEEDED
        .iter()
        .chain(reserved::SECURITY)
        .any(|needed| header.as_str() == *needed || (needed.ends_with('-') && header.as_str().starts_with(needed)));
    if needed || reserved::is_response_reserved(&header) {
        say(
            "which clients or the gateway itself need: it would be taken out of every answer",
            "let the upstream send one of its own, e.g. \"x-request-cost\"",
        );
        return None;
    }
    Some(header)
}

/// What a request may still have to be charged to one bucket.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) rule: Arc<str>,
    pub(super) measured: Arc<Measured>,
    pub(super) key: u128,
    pub(super) table: Arc<Table>,
    /// Of the whole limit.
    pub(super) rate: Rate,
    pub(super) window: Millis,
    pub(super) at: CountedAt,
}

/// The dues of one request, with what they are charged to.
#[derive(Debug)]
pub(super) struct Dues {
    needs: Needs,
    list: Vec<Due>,
}

/// What was charged to a bucket behind the answer.
pub(super) struct Charged {
    pub(super) key: u128,
    pub(super) tokens: NonZeroU32,
    /// Of the bucket, or of the share of it that is in this process.
    pub(super) rate: Rate,
}

impl Dues {
    /// `None` for a request that none of its rules measures, as most are.
    pub(super) fn of(needs: &Needs, list: Vec<Due>) -> Option<Self> {
        (!list.is_empty()).then(|| Self { needs: needs.clone(), list })
    }

    /// Charges what the answer says beyond what was charged, and says how much to which bucket.
    pub(super) fn settle(self, control: ControlName, answer: &HeaderMap, trail: &mut Trail) -> Vec<Charged> {
        let Self { needs, list } = self;
        let settle = |due: Due| {
            let Due { rule, measured, key: _, table: _, rate, window: _, at: _ } = &due;
            let Measured { header, at_most } = &**measured;
            let cost = match measured.read(answer) {
                Said::Nothing => return None,
                Said::Cost(cost) => cost,
                Said::NoNumber => {
                    let detail = format!("{header} is no whole number: charged {at_most}, the most");
                    trail.note(control, Outcome::Degraded, Mode::Enforce, rule, &detail);
                    *at_most
                }
            };
            let tokens = cost.get().checked_sub(rate.cost()).and_then(NonZeroU32::new)?;
            Some(needs.charge(&due, tokens))
        };
        list.into_iter().filter_map(settle).collect()
    }
}

impl Needs {
    /// Charges a due where its request was counted.
    fn charge(&self, due: &Due, tokens: NonZeroU32) -> Charged {
        let Due { rule, measured: _, key, table, rate, window, at } = due;
        let (table, clock, key, rate) = (table.clone(), self.clock.clone(), *key, *rate);
        let share = rate.share(*window, self.instances());
        let bucket = Bucket { rule, key, rate, binding: Binding::Alone, leasing: Leasing::Never };
        let rate = match (at, &self.shared) {
            (CountedAt::Share, _) | (CountedAt::LocalShare, None) => {
                table.charge(clock.now(), key, share, tokens);
                share
            }
            (CountedAt::LocalShare, Some(shared)) => {
                table.charge(clock.now(), key, share, tokens);
                shared.owe(&bucket, share, tokens.get());
                share
            }
            (CountedAt::Memory, _) | (CountedAt::Shared, None) => {
                table.charge(clock.now(), key, rate, tokens);
                rate
            }
            (CountedAt::Shared, Some(shared)) => {
                let (rule, later) = (rule.clone(), shared.clone());
                // Whether the store took them is not known then: it is charged when it is back, and until then the share.
                let instead = move || {
                    table.charge(clock.now(), key, share, tokens);
                    let bucket = Bucket { rule: &rule, key, rate, binding: Binding::Alone, leasing: Leasing::Never };
                    later.owe(&bucket, share, tokens.get());
                };
                shared.charge(&bucket, tokens, Box::new(instead));
                rate
            }
        };
        Charged { key, tokens, rate }
    }
}

#[cfg(test)]
mod tests {
    use portcullis_api::At;

    use super::*;

    fn said(values: &[&str]) -> Said {
        let measured = Measured { header: HeaderName::from_static("x-cost"), at_most: NonZeroU32::new(50).unwrap() };
        let mut answer = HeaderMap::new();
        for value in values {
            answer.append("x-cost", HeaderValue::from_str(value).unwrap());
        }
        measured.read(&answer)
    }

    #[test]
    fn a_whole_number_is_a_cost_and_one_above_the_most_is_the_most() {
        let cost = |n| Said::Cost(NonZeroU32::new(n).unwrap());
        for (value, expected) in [("1", 1), ("49", 49), ("50", 50), ("51", 50), ("007", 7), ("0", 1)] {
            assert_eq!(said(&[value]), cost(expected), "{value}");
        }
        for large in ["4294967296", "99999999999999999999999999999999999999"] {
            assert_eq!(said(&[large]), cost(50), "{large}");
        }
    }

    #[test]
    fn what_is_no_whole_number_is_none_and_two_are_none() {
        assert_eq!(said(&[]), Said::Nothing);
        for value in ["", "-1", "+1", "1.5", "1e3", "0x10", "1 2", "1, 2", "ten", "\u{661}"] {
            assert_eq!(said(&[value]), Said::NoNumber, "{value:?}");
        }
        assert_eq!(said(&["3", "3"]), Said::NoNumber);
    }

    #[test]
    fn a_header_that_an_answer_needs_is_not_read() {
        let read = |name: &str| {
            let mut issues = Issues::default();
            let from =
                CostFrom { header: At::nowhere(name.to_owned()), at_most: At::nowhere(NonZeroU32::new(5).unwrap()) };
            let measured = Measured::compile("t", &from, NonZeroU32::MIN, &mut issues);
            assert_eq!(measured.is_some(), issues.is_empty());
            issues.as_slice().first().map(|issue| issue.code)
        };
        for name in ["x-request-cost", "X-Cost", "cost", "openai-tokens", "technical-units", "security-cost"] {
            assert_eq!(read(name), None, "{name}");
        }
        for name in [
            "content-length",
            "Content-Type",
            "set-cookie",
            "transfer-encoding",
            "te",
            "ratelimit",
            "ratelimit-policy",
            "sec-websocket-accept",
            "grpc-status",
            "x-request-id",
            "x-portcullis-cost",
            "access-control-allow-origin",
            "strict-transport-security",
            "server",
            "no name",
            "",
        ] {
            assert_eq!(read(name), Some("limits.cost_header"), "{name}");
        }
    }
}
