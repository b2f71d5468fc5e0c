//! Tokens that this gateway has taken ahead of its requests: most checks of a busy bucket need no round trip.
//!
//! They are debited in Redis when they are taken, so they are counted wherever they are spent: with `L` the most that one
//! of `N` gateways may hold of a bucket of rate `r`, in any window `W` at most `burst + r·W + min(N·L, 2·r·LIFE)` are
//! admitted. While one holds tokens another may refuse: so a gateway takes no more than its own requests of the last
//! moment, gives back what it has not spent after [`LIFE`], and Redis gives little where little is left.
//!
//! A bucket of which less than two requests could be taken ahead is asked for each request.

use std::{num::NonZeroU32, sync::Arc};

use parking_lot::Mutex;
use portcullis_api::Micros;
use portcullis_plugins::rate_limit::{Answer, Bucket, Leasing, Level, Rate};

use super::{
    call::{Ahead, Asked, Given},
    settle::Move,
};

/// How long tokens are kept that nobody spends, and over how long a bucket's traffic is looked at.
pub(super) const LIFE: Micros = 1_000_000;

/// How long an empty bucket is taken for empty. Not longer, for others give back what they do not spend; and not less,
/// though a token flows in earlier: gateways that all ask for each one would ask as often as without taking any ahead.
const BELIEVED: Micros = 100_000;

/// An empty bucket that is still asked for is asked again when it is believed for no longer than this.
const BELIEVED_LAST: Micros = 60_000;

const WAYS: usize = 4;
/// Three megabytes, whatever clients send.
const SETS: usize = 1 << 12;

/// What one bucket has ahead, and how busy it is. Times are microseconds since the store was started.
#[derive(Debug)]
struct Lease {
    key: u128,
    name: Arc<str>,
    rate: Rate,
    /// Spent first.
    older: Held,
    newer: Held,
    /// Tokens when there were most: at half of it more are wanted.
    size: u32,
    /// When the bucket is full, as Redis said last.
    full: Micros,
    empty: Option<Empty>,
    renewal: Renewal,
    listing: Listing,
    /// Which [`LIFE`] since the start the counts are of.
    moment: u64,
    /// Requests in it, and in the one before.
    seen: u32,
    before: u32,
}

/// Tokens that were taken together.
#[derive(Debug, Clone, Copy, Default)]
struct Held {
    tokens: u32,
    /// When what they took of the bucket will have flowed in again.
    due: Micros,
    /// When they are given back.
    expires: Micros,
}

/// A bucket that Redis said is empty.
#[derive(Debug, Clone, Copy)]
struct Empty {
    /// How long that is believed.
    until: Micros,
    /// When a request could be admitted.
    token: Micros,
    remaining: u32,
}

#[derive(Debug, PartialEq, Eq)]
enum Renewal {
    Idle,
    /// More is to be asked for at the next opportunity.
    Due,
    UnderWay,
}

/// Whether it is among those that are looked at for what nobody has spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listing {
    Not,
    Listed,
}

/// What came of a look at what is held.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Spend {
    /// The request is paid, and how the bucket stands.
    Paid(Level),
    /// Nothing is held, and the bucket is known to be empty.
    Empty(Level),
    /// Redis must be asked, and for how many requests besides.
    Ask(u32),
}

pub(super) struct Leases {
    sets: Box<[Mutex<[Option<Lease>; WAYS]>]>,
    /// Which may hold something.
    holders: Mutex<Vec<u128>>,
    /// Of which more is wanted.
    due: Mutex<Vec<u128>>,
    /// To be given back.
    strays: Mutex<Vec<Stray>>,
}

/// Tokens that no bucket here holds any more: what of them has flowed in is seen when they are given back.
#[derive(Debug)]
struct Stray {
    name: Arc<str>,
    rate: Rate,
    held: Held,
}

impl Leases {
    pub(super) fn new() -> Self {
        Self {
            sets: std::iter::repeat_with(Mutex::default).take(SETS).collect(),
            holders: Mutex::default(),
            due: Mutex::default(),
            strays: Mutex::default(),
        }
    }

    /// Pays one request out of what is held, if it can. `most` is what [`most`] says.
    pub(super) fn spend(&self, bucket: &Bucket<'_>, most: u32, now: Micros) -> Spend {
        self.with(bucket.key, Spend::Ask(0), |lease| {
            // A reload changed what a request costs: what was counted in another rate is given back.
            if lease.rate != bucket.rate {
                self.stray(lease.lose(|_| true));
                lease.adopt(bucket.rate);
            }
            self.stray(lease.lose(|held| held.expires <= now));
            let was_idle = lease.renewal == Renewal::Idle;
            let spend = lease.spend(most, now);
            if was_idle && lease.renewal == Renewal::Due {
                self.due.lock().push(lease.key);
            }
            spend
        })
    }

    /// What is to be asked for ahead by now, for buckets of which more was wanted since the last call.
    pub(super) fn due(&self, instances: NonZeroU32) -> Vec<Ahead> {
        let due = std::mem::take(&mut *self.due.lock());
        let ask = |key| self.with(key, None, |lease| lease.renewed_when_due(instances));
        due.into_iter().filter_map(ask).collect()
    }

    /// Takes back what [`Leases::spend`] paid, because the request was refused elsewhere.
    pub(super) fn unspend(&self, bucket: &Bucket<'_>) {
        let cost = bucket.rate.cost();
        self.with(bucket.key, (), |lease| {
            // A reload meanwhile changed what a request costs: what it was paid is not worth the same any more.
            if lease.rate != bucket.rate {
                return;
            }
            // With the older, if there are any: it may be one of them, and they flow in and end first.
            let lot = if lease.older.expires > 0 { &mut lease.older } else { &mut lease.newer };
            lot.tokens = lot.tokens.saturating_add(cost);
            self.list(lease);
        });
    }

    /// Notes what Redis said of a bucket, and how many requests' tokens it gave ahead.
    pub(super) fn granted(&self, asked: &Asked, given: &Given, now: Micros) {
        let Asked { name, key, rate, .. } = asked;
        let tokens = given.ahead.saturating_mul(rate.cost());
        let full = now.saturating_add(given.level.reset_after);
        let held = Held { tokens, due: full, expires: now.saturating_add(LIFE) };
        let Some(set) = self.set(*key) else { return };
        let mut set = set.lock();
        if let Some(lease) = set.iter_mut().flatten().find(|lease| lease.key == *key) {
            // Only the answer that is waited for: others may have asked for a request alone meanwhile.
            if asked.ahead > 0 {
                lease.renewal = Renewal::Idle;
            }
            if lease.rate != *rate {
                // The answer to a question in another rate.
                return self.stray([Stray { name: name.clone(), rate: *rate, held }]);
            }
            self.stray(lease.lose(|held| held.expires <= now));
            lease.empty = lease.emptied(asked, given, now);
            lease.full = full;
            lease.take(held);
            return self.list(lease);
        }
        if tokens > 0 {
            return self.stray([Stray { name: name.clone(), rate: *rate, held }]);
        }
        // Nobody loses tokens for a newcomer, which may be anybody's.
        let place = set.iter_mut().filter(|place| place.as_ref().is_none_or(|lease| lease.tokens() == 0));
        if let Some(place) = place.min_by_key(|place| place.as_ref().map_or(0, |lease| lease.moment)) {
            let mut lease = Lease::of(name.clone(), *key, *rate, full, now);
            lease.empty = lease.emptied(asked, given, now);
            *place = Some(lease);
        }
    }

    /// Makes the next look at what has expired find what this one holds.
    fn list(&self, lease: &mut Lease) {
        if lease.listing == Listing::Not && lease.tokens() > 0 {
            lease.listing = Listing::Listed;
            self.holders.lock().push(lease.key);
        }
    }

    /// Has these given back.
    fn stray(&self, strays: impl IntoIterator<Item = Stray>) {
        for stray in strays {
            self.strays.lock().push(stray);
        }
    }

    /// What was asked for `ahead` is not coming. Who asked for nothing ends no other's question.
    pub(super) fn failed(&self, key: u128, ahead: u32) {
        if ahead > 0 {
            self.with(key, (), |lease| lease.renewal = Renewal::Idle);
        }
    }

    /// Nothing is held of a bucket any more, and it is not empty: an operator filled it.
    pub(super) fn forget(&self, key: u128) {
        self.with(key, (), |lease| (lease.older, lease.newer, lease.empty) = Default::default());
    }

    /// What nobody has spent in time, to be given back.
    pub(super) fn expired(&self, now: Micros) -> Vec<Move> {
        self.give_back(now, |held| held.expires <= now)
    }

    /// All that is held, to be given back.
    pub(super) fn all(&self, now: Micros) -> Vec<Move> {
        self.give_back(now, |_| true)
    }

    /// Whether tokens are on their way.
    pub(super) fn is_waiting(&self) -> bool {
        let waits = |set: &Mutex<[Option<Lease>; WAYS]>| {
            set.lock().iter().flatten().any(|lease| lease.renewal == Renewal::UnderWay)
        };
        self.sets.iter().any(waits)
    }

    fn give_back(&self, now: Micros, which: impl Fn(&Held) -> bool) -> Vec<Move> {
        let mut strays = std::mem::take(&mut *self.strays.lock());
        let holders = std::mem::take(&mut *self.holders.lock());
        for key in holders {
            self.with(key, (), |lease| {
                lease.listing = Listing::Not;
                strays.extend(lease.lose(&which));
                self.list(lease);
            });
        }
        strays.into_iter().filter_map(|stray| stray.back(now)).collect()
    }

    fn with<T>(&self, key: u128, otherwise: T, act: impl FnOnce(&mut Lease) -> T) -> T {
        let Some(set) = self.set(key) else { return otherwise };
        let mut set = set.lock();
        match set.iter_mut().flatten().find(|lease| lease.key == key) {
            Some(lease) => act(lease),
            None => otherwise,
        }
    }

    /// Keys are keyed hashes: nobody outside can crowd a set.
    fn set(&self, key: u128) -> Option<&Mutex<[Option<Lease>; WAYS]>> {
        let index = key.checked_rem(u128::try_from(self.sets.len()).ok()?)?;
        self.sets.get(usize::try_from(index).ok()?)
    }
}

impl Lease {
    fn of(name: Arc<str>, key: u128, rate: Rate, full: Micros, now: Micros) -> Self {
        let (older, newer) = Default::default();
        let (renewal, listing, moment) = (Renewal::Idle, Listing::Not, moment(now));
        Self { key, name, rate, older, newer, size: 0, full, empty: None, renewal, listing, moment, seen: 1, before: 0 }
    }

    fn tokens(&self) -> u32 {
        self.older.tokens.saturating_add(self.newer.tokens)
    }

    fn adopt(&mut self, rate: Rate) {
        (self.rate, self.size, self.empty, self.renewal) = (rate, 0, None, Renewal::Idle);
    }

    fn spend(&mut self, most: u32, now: Micros) -> Spend {
        self.count(now);
        let cost = self.rate.cost();
        if self.tokens() < cost {
            let Some(empty) = self.empty.filter(|empty| empty.until > now) else {
                return Spend::Ask(self.renewed(most));
            };
            if empty.until.saturating_sub(now) <= BELIEVED_LAST {
                self.want();
            }
            return Spend::Empty(empty.level(self.full, now));
        }
        let of_older = self.older.tokens.min(cost);
        self.older.tokens = self.older.tokens.saturating_sub(of_older);
        self.newer.tokens = self.newer.tokens.saturating_sub(cost.saturating_sub(of_older));
        if self.tokens() <= (self.size >> 1).max(cost) {
            self.want();
        }
        // What is held counts as not taken: whoever is told how much is left may spend it.
        let held = self.rate.interval().saturating_mul(u64::from(self.tokens()));
        let level = Level::at_rest(self.rate, self.full.saturating_sub(held), now);
        Spend::Paid(Level { answer: Answer::Charged, ..level })
    }

    /// What `given` says of how empty the bucket is.
    fn emptied(&self, asked: &Asked, given: &Given, now: Micros) -> Option<Empty> {
        let Level { answer, remaining, retry_after, .. } = given.level;
        let is_believed_empty = self.empty.is_some_and(|empty| empty.until > now);
        let is_empty = match answer {
            Answer::Short => true,
            // Little is left as long as not all that is wanted is given.
            Answer::Charged | Answer::Spared => {
                !asked.is_for_request() && is_believed_empty && given.ahead < asked.ahead
            }
            Answer::Unasked => is_believed_empty,
        };
        if !is_empty {
            return None;
        }
        // It must not run full meanwhile.
        let until = now.saturating_add((self.rate.refill() >> 3).max(retry_after).min(BELIEVED));
        Some(Empty { until, token: now.saturating_add(retry_after).max(until), remaining })
    }

    fn take(&mut self, held: Held) {
        if held.tokens > 0 {
            self.older = self.together();
            self.newer = held;
            self.size = self.tokens();
        }
    }

    /// Takes what is to be given back away.
    fn lose(&mut self, which: impl Fn(&Held) -> bool) -> impl Iterator<Item = Stray> {
        let Self { name, rate, older, newer, .. } = self;
        let lost = [older, newer].into_iter().filter(move |held| held.tokens > 0 && which(held));
        lost.map(|held| Stray { name: name.clone(), rate: *rate, held: std::mem::take(held) })
    }

    /// As one, of which never more stands than of both: the older flows in first, and the newer only behind it.
    fn together(&self) -> Held {
        let Self { older, newer, .. } = self;
        match (older.tokens, newer.tokens) {
            (0, _) => *newer,
            (_, 0) => *older,
            (_, tokens) => {
                let behind = self.rate.interval().saturating_mul(u64::from(tokens));
                let due = older.due.saturating_add(behind).min(newer.due);
                Held { tokens: self.tokens(), due, expires: older.expires }
            }
        }
    }

    fn want(&mut self) {
        if self.renewal == Renewal::Idle {
            self.renewal = Renewal::Due;
        }
    }

    fn renewed_when_due(&mut self, instances: NonZeroU32) -> Option<Ahead> {
        if self.renewal != Renewal::Due {
            return None;
        }
        self.renewal = Renewal::Idle;
        let requests = NonZeroU32::new(self.renewed(self.rate.ahead_max(instances)?))?;
        Some(Ahead { name: self.name.clone(), key: self.key, rate: self.rate, requests })
    }

    /// What is to be asked for ahead: nothing while an answer to that is on its way.
    fn renewed(&mut self, most: u32) -> u32 {
        let wanted = if self.renewal == Renewal::UnderWay { 0 } else { self.wanted(most) };
        if wanted > 0 {
            self.renewal = Renewal::UnderWay;
        }
        wanted
    }

    /// As many requests as came in a moment, less what is held. One alone is no reason to take any ahead.
    fn wanted(&self, most: u32) -> u32 {
        let held = self.tokens().checked_div(self.rate.cost()).unwrap_or(0);
        self.seen.max(self.before).saturating_sub(1).min(most).saturating_sub(held)
    }

    fn count(&mut self, now: Micros) {
        let now = moment(now);
        if now == self.moment {
            self.seen = self.seen.saturating_add(1);
            return;
        }
        self.before = if now == self.moment.saturating_add(1) { self.seen } else { 0 };
        (self.moment, self.seen) = (now, 1);
    }
}

impl Empty {
    fn level(self, full: Micros, now: Micros) -> Level {
        let (retry_after, reset_after) = (self.token.saturating_sub(now), full.saturating_sub(now));
        Level { answer: Answer::Short, remaining: self.remaining, retry_after, reset_after }
    }
}

impl Held {
    /// What it took of the bucket, in microseconds, as far as it has not flowed in since: the rest is somebody else's.
    fn stands(self, rate: Rate, now: Micros) -> Micros {
        rate.interval().saturating_mul(u64::from(self.tokens)).min(self.due.saturating_sub(now))
    }
}

impl Stray {
    /// What is to be given back of it; nothing where nothing stands any more.
    fn back(self, now: Micros) -> Option<Move> {
        let Self { name, rate, held } = self;
        let earlier = i64::try_from(held.stands(rate, now)).ok().filter(|stands| *stands > 0)?;
        Some(Move { name, rate, by: earlier.saturating_neg() })
    }
}

fn moment(now: Micros) -> u64 {
    now.checked_div(LIFE).unwrap_or(0)
}

/// For how many requests a gateway may take tokens ahead; none where that is less than two.
pub(super) fn most(bucket: &Bucket<'_>, instances: NonZeroU32) -> Option<u32> {
    match bucket.leasing {
        Leasing::Never => None,
        Leasing::Allowed => bucket.rate.ahead_max(instances),
    }
}

#[cfg(test)]
mod tests;
