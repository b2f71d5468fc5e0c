//! Counts phone numbers in plain text, in two stages.
//!
//! The scanner cuts the text into candidates: groups of digits with what may stand between the groups of a phone
//! number ([`candidate`]). What is evidently something else (a date, a card, an address, part of an identifier) is
//! dropped by its shape and its surroundings ([`shape`], [`context`]). What is left is a number only if the numbering
//! plan of a country says so ([`plan`]).
//!
//! Evidence, strongest first: `+` and `00` before a country code (anywhere); the national format of a configured
//! region; with no region configured, a national format behind a word such as "call" or "tel".

mod candidate;
mod context;
mod plan;
mod shape;

use candidate::{Candidate, Group};
use context::Context;
pub(super) use plan::Plan;

/// Fewest digits of a phone number that is counted, the country code included.
pub(super) const DIGITS_MIN: usize = 7;

/// Most questions to the numbering plans in one request. Past it the request is refused: it holds thousands of things
/// that look like phone numbers, and each costs a microsecond or two.
pub(super) const QUESTIONS_MAX: u32 = 20_000;

/// More questions than [`QUESTIONS_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooMany;

/// A counter over all values of one request.
pub(super) struct Counter<'p> {
    plan: &'p Plan,
    questions: u32,
    groups: Vec<Group>,
    digits: String,
}

impl<'p> Counter<'p> {
    pub(super) fn new(plan: &'p Plan) -> Self {
        Self { plan, questions: 0, groups: Vec::new(), digits: String::new() }
    }

    /// The number of phone numbers in `text`, at most `stop_at`. `name` is the name of the field.
    ///
    /// # Errors
    /// [`TooMany`] when the request holds more candidates than may be looked at.
    pub(super) fn count(&mut self, text: &str, name: Option<&str>, stop_at: u32) -> Result<u32, TooMany> {
        let mut counted: u32 = 0;
        let mut from = 0;
        let mut groups = std::mem::take(&mut self.groups);
        while counted < stop_at
            && let Some(candidate) = candidate::next(text, from, &mut groups)
        {
            from = candidate.end;
            if candidate.digits >= DIGITS_MIN {
                counted = counted.saturating_add(self.judge(text, &candidate, &mut groups, name)?);
            }
        }
        self.groups = groups;
        Ok(counted.min(stop_at))
    }

    /// The number of phone numbers in one candidate.
    fn judge(
        &mut self,
        text: &str,
        candidate: &Candidate,
        groups: &mut Vec<Group>,
        name: Option<&str>,
    ) -> Result<u32, TooMany> {
        let edges = shape::edges(text, candidate, groups);
        if edges.drop_last {
            groups.pop();
        }
        if candidate.plus {
            return if edges.plus_stands { self.international(text, groups) } else { Ok(0) };
        }
        if edges.drop_first && edges.stands {
            groups.remove(0);
        }
        if !edges.stands || shape::is_other(text, groups) {
            return Ok(0);
        }
        let context = Context::before(text, candidate.start, edges.keyword_glued, name);
        if context == Context::Other {
            return Ok(0);
        }
        self.national(text, groups, context)
    }

    /// Behind a `+`: the longest leading groups that are a number; what is left may hold national ones.
    fn international(&mut self, text: &str, groups: &[Group]) -> Result<u32, TooMany> {
        for (length, _) in shape::windows(text, groups, plan::INTERNATIONAL_DIGITS_MAX) {
            let (number, rest) = groups.split_at_checked(length).unwrap_or((groups, &[]));
            self.collect(text, number, "+");
            if self.is_international()? {
                let more = if shape::is_new_number(rest) { self.national(text, rest, Context::None)? } else { 0 };
                return Ok(more.saturating_add(1));
            }
        }
        Ok(0)
    }

    fn national(&mut self, text: &str, mut groups: &[Group], context: Context) -> Result<u32, TooMany> {
        let mut counted: u32 = 0;
        while !groups.is_empty() {
            if let Some(length) = self.first_number(text, groups, context)? {
                counted = counted.saturating_add(1);
                groups = groups.get(length..).unwrap_or_default();
            } else {
                groups = shape::restart(text, groups);
            }
        }
        Ok(counted)
    }

    /// How many of the first groups are a number.
    fn first_number(&mut self, text: &str, groups: &[Group], context: Context) -> Result<Option<usize>, TooMany> {
        let Some(first) = groups.first() else { return Ok(None) };
        let head = text.get(first.start..first.end).unwrap_or_default();
        let prefixed = head.starts_with("00") && !head.starts_with("000");
        for (length, ends_well) in shape::windows(text, groups, plan::INTERNATIONAL_DIGITS_MAX) {
            let window = groups.get(..length).unwrap_or_default();
            if prefixed && ends_well {
                self.collect(text, window, "+");
                self.digits.drain(1..3);
                if self.digits.len() > DIGITS_MIN.saturating_add(1) && self.is_international()? {
                    return Ok(Some(length));
                }
            }
            if ends_well && self.is_national(text, window, context)? {
                return Ok(Some(length));
            }
        }
        Ok(None)
    }

    fn is_national(&mut self, text: &str, window: &[Group], context: Context) -> Result<bool, TooMany> {
        self.collect(text, window, "");
        if !(plan::NATIONAL_DIGITS_MIN..=plan::NATIONAL_DIGITS_MAX).contains(&self.digits.len()) {
            return Ok(false);
        }
        let plan = self.plan;
        let keyword = context == Context::Phone;
        for home in plan.regions() {
            if keyword || home.may_be_national(&self.digits, window) {
                self.spend()?;
                if Plan::is_national(&self.digits, home.region, window, keyword) {
                    return Ok(true);
                }
            }
        }
        if keyword && self.digits.len() >= plan::PANEL_DIGITS_MIN {
            for region in plan.panel() {
                self.spend()?;
                if Plan::is_national(&self.digits, *region, window, keyword) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn collect(&mut self, text: &str, groups: &[Group], prefix: &str) {
        self.digits.clear();
        self.digits.push_str(prefix);
        for group in groups {
            self.digits.push_str(text.get(group.start..group.end).unwrap_or_default());
        }
    }

    fn is_international(&mut self) -> Result<bool, TooMany> {
        self.spend()?;
        Ok(plan::is_international(&self.digits))
    }

    fn spend(&mut self) -> Result<(), TooMany> {
        self.questions = self.questions.saturating_add(1);
        if self.questions > QUESTIONS_MAX { Err(TooMany) } else { Ok(()) }
    }
}
