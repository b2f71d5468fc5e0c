//! Cuts text into candidates: groups of digits and what may stand between the groups of a phone number.

use super::super::text::{before, byte};

/// Most bytes between two groups, as in `(020) - 7946`.
const GAP_BYTES_MAX: usize = 4;

/// Most groups that are kept. A longer candidate is no number and is dropped whole.
pub(super) const GROUPS_MAX: usize = 24;

/// One group of digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) start: usize,
    pub(super) end: usize,
    /// What stands before it, inside the candidate.
    pub(super) gap: Gap,
}

impl Group {
    pub(super) const fn len(&self) -> usize {
        self.end.saturating_sub(self.start)
    }
}

/// What stands between two groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gap {
    /// Nothing: it is the first group.
    Start,
    /// A space.
    Space,
    /// A hyphen.
    Hyphen,
    /// A full stop.
    Dot,
    /// Parentheses, with or without a space.
    Paren,
    /// What rather divides two numbers: a slash, several spaces, a hyphen between spaces.
    Wide,
}

/// A candidate. Its groups are in the caller's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Where it begins: at a `+` or `(`, else at the first digit.
    pub(super) start: usize,
    /// Where it ends, extension included.
    pub(super) end: usize,
    /// Digits in all groups.
    pub(super) digits: usize,
    /// Whether a `+` stands before the first digit.
    pub(super) plus: bool,
}

/// The next candidate at or behind `from`.
pub(super) fn next(text: &str, from: usize, groups: &mut Vec<Group>) -> Option<Candidate> {
    let bytes = text.as_bytes();
    let offset = bytes.get(from..)?.iter().position(u8::is_ascii_digit)?;
    let first = from.saturating_add(offset);
    let (start, plus) = lead(bytes, first, from);
    groups.clear();
    let mut digits: usize = 0;
    let mut at = first;
    let mut gap = Gap::Start;
    loop {
        let length = bytes.get(at..).map_or(0, |rest| rest.iter().take_while(|c| c.is_ascii_digit()).count());
        let end = at.saturating_add(length);
        digits = digits.saturating_add(length);
        if groups.len() <= GROUPS_MAX {
            groups.push(Group { start: at, end, gap });
        }
        match next_group(bytes, end) {
            Some((next, kind)) => (at, gap) = (next, kind),
            None => {
                let end = skip_extension(bytes, end);
                return Some(Candidate { start, end, digits, plus });
            }
        }
    }
}

/// Where a candidate begins whose first digit is at `first`, and whether a `+` leads it: `+44`, `+ 44`, `(+44`, `+(44`.
fn lead(bytes: &[u8], first: usize, from: usize) -> (usize, bool) {
    let mut start = first;
    let mut plus = false;
    for _ in 0..4 {
        match before(bytes, start) {
            b'+' if !plus => plus = true,
            b'(' => {}
            b' ' if !plus && matches!(before(bytes, start.saturating_sub(1)), b'+') => {}
            _ => break,
        }
        if start <= from {
            break;
        }
        start = start.saturating_sub(1);
    }
    (start, plus)
}

/// Where the next group begins, if what stands at `end` may stand inside a phone number.
fn next_group(bytes: &[u8], end: usize) -> Option<(usize, Gap)> {
    let window = bytes.get(end..)?;
    let length = window.iter().take(GAP_BYTES_MAX.saturating_add(1)).position(u8::is_ascii_digit)?;
    let gap = window.get(..length)?;
    let kind = match gap {
        b" " | b"\t" => Gap::Space,
        b"-" => Gap::Hyphen,
        b"." => Gap::Dot,
        b") " | b")" | b" (" | b"(" | b")-" | b" (-" | b")." => Gap::Paren,
        b"/" | b" / " | b" /" | b"/ " | b"  " | b"   " | b" - " | b" -" | b"- " | b"--" | b") - " | b") / "
        | b") (" => Gap::Wide,
        _ => return None,
    };
    Some((end.saturating_add(length), kind))
}

/// An extension is part of the number before it: `x123`, ` ext. 123`, `;ext=123`, `#123`.
fn skip_extension(bytes: &[u8], end: usize) -> usize {
    const MARKS: &[&[u8]] =
        &[b";ext=", b", ext. ", b" ext. ", b" ext.", b" ext ", b" ext: ", b"ext", b" x ", b" x", b"x", b" #"];
    let rest = bytes.get(end..).unwrap_or_default();
    for mark in MARKS {
        if rest.get(..mark.len()).is_some_and(|head| head.eq_ignore_ascii_case(mark)) {
            let start = end.saturating_add(mark.len());
            let digits =
                bytes.get(start..).map_or(0, |rest| rest.iter().take(8).take_while(|c| c.is_ascii_digit()).count());
            let after = start.saturating_add(digits);
            if (1..=7).contains(&digits) && !byte(bytes, after).is_ascii_alphanumeric() {
                return after;
            }
        }
    }
    end
}
