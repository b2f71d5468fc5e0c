//! What limits did, beside what one exact bucket per key over all gateways would have done.
//!
//! The client knows when a request went out and when its answer was there; when a gateway decided is somewhere between.
//! So beside the comparison with an ideal, which is fed with the times of sending, there are two judgements that hold
//! whatever the delays were:
//!
//! - *beyond*: of the requests of a key that went out at `s` or later and were answered by `r`, more were admitted than
//!   `burst + (r − s) / interval`. No order of decisions makes that right.
//! - *early*: a request was refused though the bucket had a token left even if every request that may have been admitted
//!   before it was admitted as late as it can have been.

use std::collections::BTreeMap;

/// A limit as the judge sees it. Times are nanoseconds since the start of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    /// One more is admitted each.
    pub(crate) interval: i64,
    pub(crate) burst: i64,
    /// What the documentation allows for a moment above it: tokens that were charged earlier and are spent late.
    pub(crate) spent_late: i64,
}

/// One request and its answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) key: u32,
    pub(crate) sent: i64,
    pub(crate) received: i64,
    pub(crate) answer: Answer,
}

/// What a limit did with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Admitted,
    Refused,
    /// Neither: 503, or no answer.
    Failed,
}

/// The judgement on one limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Judged {
    pub(crate) offered: u64,
    pub(crate) admitted: u64,
    /// What one exact bucket per key would have admitted.
    pub(crate) ideal: u64,
    /// What it would have admitted more, over the keys of which less was admitted.
    pub(crate) short: u64,
    /// Requests that were certainly not to be admitted, and by how many tokens a window was certainly exceeded at most.
    pub(crate) beyond: u64,
    pub(crate) excess: i64,
    /// The same where [`Limit::spent_late`] is allowed for.
    pub(crate) beyond_documented: u64,
    /// Requests that were certainly refused while there was a token.
    pub(crate) early: u64,
}

impl Judged {
    /// Judges requests of one limit.
    pub(crate) fn of(limit: Limit, seen: &[Seen]) -> Self {
        let mut keys: BTreeMap<u32, Vec<Seen>> = BTreeMap::new();
        for one in seen {
            keys.entry(one.key).or_default().push(*one);
        }
        keys.into_values().map(|seen| Self::of_key(limit, seen)).fold(Self::default(), Self::and)
    }

    fn of_key(limit: Limit, mut seen: Vec<Seen>) -> Self {
        seen.sort_by_key(|one| one.sent);
        let admitted: Vec<Seen> = seen.iter().copied().filter(|one| one.answer == Answer::Admitted).collect();
        let mut ideal = Ideal::new(limit);
        let ideal = count(seen.iter().filter(|one| ideal.admits(one.sent)).count());
        let (beyond, excess) = beyond(limit, &admitted);
        let documented = Limit { burst: limit.burst.saturating_add(limit.spent_late), ..limit };
        Self {
            offered: count(seen.len()),
            admitted: count(admitted.len()),
            ideal,
            short: ideal.saturating_sub(count(admitted.len())),
            beyond,
            excess,
            beyond_documented: beyond_only(documented, &admitted),
            early: early(limit, &seen, &admitted),
        }
    }

    /// Both together: other keys, or another round.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            offered: self.offered.saturating_add(other.offered),
            admitted: self.admitted.saturating_add(other.admitted),
            ideal: self.ideal.saturating_add(other.ideal),
            short: self.short.saturating_add(other.short),
            beyond: self.beyond.saturating_add(other.beyond),
            excess: self.excess.max(other.excess),
            beyond_documented: self.beyond_documented.saturating_add(other.beyond_documented),
            early: self.early.saturating_add(other.early),
        }
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// One exact bucket: the theoretical arrival time, as the gateway has it, written here once more so that a mistake there
/// is not made here too.
#[derive(Debug)]
pub(crate) struct Ideal {
    limit: Limit,
    full_at: i64,
}

impl Ideal {
    pub(crate) const fn new(limit: Limit) -> Self {
        Self { limit, full_at: i64::MIN }
    }

    /// Whether a request at this time is admitted; times do not go back.
    pub(crate) fn admits(&mut self, at: i64) -> bool {
        let after = self.full_at.max(at).saturating_add(self.limit.interval);
        let admits = after <= at.saturating_add(self.limit.burst.saturating_mul(self.limit.interval));
        if admits {
            self.full_at = after;
        }
        admits
    }
}

/// How many requests must be taken away until no window is exceeded, taking the one that exceeds it; and by how many
/// tokens a window is exceeded at most, with nothing taken away.
fn beyond(limit: Limit, admitted: &[Seen]) -> (u64, i64) {
    let mut windows = Windows::new(limit, admitted);
    let excess = windows.by_answer().into_iter().map(|(at, received)| windows.add(at, received)).max().unwrap_or(0);
    (beyond_only(limit, admitted), excess.max(0))
}

fn beyond_only(limit: Limit, admitted: &[Seen]) -> u64 {
    let mut windows = Windows::new(limit, admitted);
    let mut beyond: u64 = 0;
    for (at, received) in windows.by_answer() {
        if windows.add(at, received) > 0 {
            windows.take_away(at);
            beyond = beyond.saturating_add(1);
        }
    }
    beyond
}

/// All windows that start when a request of a key was sent, with how much is admitted in each: a tree of maxima, because
/// one request counts in every window that starts before it.
struct Windows {
    limit: Limit,
    answered: Vec<(usize, i64)>,
    leaves: usize,
    /// In time: the start of a window plus an interval for each request in it, at most below this node.
    most: Vec<i64>,
    /// What every leaf below this node has in addition.
    more: Vec<i64>,
}

/// Below every time, and far enough from the end of the numbers to be added to.
const NEVER: i64 = i64::MIN / 2;

impl Windows {
    /// `admitted` in the order of sending.
    fn new(limit: Limit, admitted: &[Seen]) -> Self {
        let leaves = admitted.len().next_power_of_two();
        let mut most = vec![NEVER; leaves.saturating_mul(2)];
        for (leaf, one) in most.iter_mut().skip(leaves).zip(admitted) {
            *leaf = one.sent.saturating_add(NEVER);
        }
        let mut answered: Vec<(usize, i64)> = admitted.iter().map(|one| one.received).enumerate().collect();
        answered.sort_by_key(|(_, received)| *received);
        let mut windows = Self { limit, answered, leaves, more: vec![0; most.len()], most };
        for node in (1..leaves).rev() {
            windows.settle(node);
        }
        windows
    }

    /// Place in the order of sending and time of the answer, in the order of answers.
    fn by_answer(&self) -> Vec<(usize, i64)> {
        self.answered.clone()
    }

    /// Adds the request at this place, answered at this time, to the windows that it is in; by how many tokens the
    /// worst of them is exceeded now.
    fn add(&mut self, at: usize, received: i64) -> i64 {
        // Its own window counts from now on; before, it would be one that has not begun.
        self.raise(self.leaves.saturating_add(at), NEVER.saturating_neg());
        self.change(at, self.limit.interval);
        let worst = self.most.get(1).copied().unwrap_or(NEVER);
        let allowed = received.saturating_add(self.limit.burst.saturating_mul(self.limit.interval));
        // Rounded up: half a token too many is one request too many.
        let over = worst.saturating_sub(allowed).saturating_add(self.limit.interval).saturating_sub(1);
        over.div_euclid(self.limit.interval.max(1))
    }

    fn take_away(&mut self, at: usize) {
        self.change(at, self.limit.interval.saturating_neg());
    }

    /// Changes every window that starts with a request up to this place.
    fn change(&mut self, up_to: usize, by: i64) {
        let mut node = self.leaves.saturating_add(up_to);
        self.raise(node, by);
        while node > 1 {
            if !node.is_multiple_of(2) {
                self.raise(node.saturating_sub(1), by);
            }
            node /= 2;
            self.settle(node);
        }
    }

    fn raise(&mut self, node: usize, by: i64) {
        for of in [&mut self.most, &mut self.more] {
            if let Some(value) = of.get_mut(node) {
                *value = value.saturating_add(by);
            }
        }
    }

    fn settle(&mut self, node: usize) {
        let left = node.saturating_mul(2);
        let below = [left, left.saturating_add(1)].map(|child| self.most.get(child).copied().unwrap_or(NEVER));
        let more = self.more.get(node).copied().unwrap_or(0);
        if let Some(most) = self.most.get_mut(node) {
            *most = below[0].max(below[1]).saturating_add(more);
        }
    }
}

/// Requests that were refused though the bucket had a token, however late the others were admitted.
fn early(limit: Limit, seen: &[Seen], admitted: &[Seen]) -> u64 {
    let mut answered = admitted.to_vec();
    answered.sort_by_key(|one| one.received);
    let mut refused: Vec<&Seen> = seen.iter().filter(|one| one.answer == Answer::Refused).collect();
    refused.sort_by_key(|one| one.received);
    let (mut full_at, mut charged) = (i64::MIN, 0_usize);
    let mut early: u64 = 0;
    for one in refused {
        while let Some(next) = answered.get(charged).filter(|next| next.received <= one.received) {
            full_at = full_at.max(next.received).saturating_add(limit.interval);
            charged = charged.saturating_add(1);
        }
        // Sent before this answer, so perhaps charged before it: those that are under way come on top.
        let sent = admitted.partition_point(|other| other.sent <= one.received);
        let under_way = i64::try_from(sent.saturating_sub(charged)).unwrap_or(i64::MAX);
        let taken = full_at.max(one.sent).saturating_add(limit.interval.saturating_mul(under_way.saturating_add(1)));
        if taken <= one.sent.saturating_add(limit.burst.saturating_mul(limit.interval)) {
            early = early.saturating_add(1);
        }
    }
    early
}

#[cfg(test)]
mod tests;
