//! Tokens that this gateway has taken ahead of its requests: most checks of a busy bucket need no round trip.
//!
//! They are debited in Redis when they are taken, so they are counted wherever they are spent: with `L` the most that one
//! of `N` gateways may hold of a bucket of rate `r`, in any window `W` at most `burst + r·W + min(N·L, 2·r·LIFE)` are
//! admitted. While one holds tokens another may refuse: so a gateway takes no more than its own requests of the last
//! moment, gives back what it has not spent after [`LIFE`], and Redis gives little where little is left.
//!
//! A bucket of which less than two requests could be taken ahead is asked for each request.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use portcullis_api::Micros;
use portcullis_plugins::rate_limit::{Answer, Bucket, Leasing, Level, Rate};

use super::settle::Move;

/// How long tokens are kept that nobody spends, and over how long a bucket's traffic is looked at.
pub(super) const LIFE: Micros = 1_000_000;

const WAYS: usize = 4;
/// Two megabytes, whatever clients send.
const SETS: usize = 1 << 12;

/// What one bucket has ahead, and how busy it is. Times are microseconds since the store was started.
#[derive(Debug)]
struct Lease {
    key: u128,
    name: Arc<str>,
    rate: Rate,
    /// Spent first: by the time more is asked for, nothing is left of it.
    older: Held,
    newer: Held,
    /// Tokens when there were most: at an eighth of it more are asked for.
    size: u32,
    expires: Micros,
    /// When the bucket is full, as Redis said last.
    full: Micros,
    renewal: Renewal,
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
}

#[derive(Debug, PartialEq, Eq)]
enum Renewal {
    Idle,
    UnderWay,
}

/// What came of a look at what is held.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Spend {
    /// The request is paid.
    Paid {
        /// How the bucket stands.
        level: Level,
        /// For how many requests more should be taken; 0 for none.
        renew: u32,
    },
    /// Redis must be asked, and for how many requests besides.
    Ask(u32),
}

pub(super) struct Leases {
    sets: Box<[Mutex<[Option<Lease>; WAYS]>]>,
    /// Whether anything was taken since the last look at what has expired.
    held: AtomicBool,
    /// Taken for a bucket that has lost its place meanwhile: to be given back.
    strays: Mutex<Vec<Move>>,
}

impl Leases {
    pub(super) fn new() -> Self {
        Self {
            sets: std::iter::repeat_with(Mutex::default).take(SETS).collect(),
            held: AtomicBool::new(false),
            strays: Mutex::default(),
        }
    }

    /// Pays one request out of what is held, if it can. `most` is what [`most`] says.
    pub(super) fn spend(&self, bucket: &Bucket<'_>, most: u32, now: Micros) -> Spend {
        self.with(bucket.key, Spend::Ask(0), |lease| {
            // A reload changed what a request costs: what was counted in another rate is given back.
            let changed = if lease.rate == bucket.rate { None } else { lease.adopt(bucket.rate, now) };
            self.hold(0, changed);
            lease.spend(most, now)
        })
    }

    /// Takes back what [`Leases::spend`] paid, because the request was refused elsewhere.
    pub(super) fn unspend(&self, bucket: &Bucket<'_>) {
        let cost = bucket.rate.cost();
        self.with(bucket.key, (), |lease| {
            lease.newer.tokens = lease.newer.tokens.saturating_add(cost);
            self.hold(cost, None);
        });
    }

    /// Notes what Redis said of a bucket, and how many requests' tokens it gave ahead.
    pub(super) fn granted(&self, name: &Arc<str>, key: u128, rate: Rate, level: Level, ahead: u32, now: Micros) {
        let tokens = ahead.saturating_mul(rate.cost());
        let full = now.saturating_add(level.reset_after);
        let Some(set) = self.set(key) else { return };
        let mut set = set.lock();
        if let Some(lease) = set.iter_mut().flatten().find(|lease| lease.key == key) {
            if lease.rate != rate {
                // The answer to a question in another rate.
                lease.renewal = Renewal::Idle;
                return self.hold(0, back(name, rate, Held { tokens, due: full }.stands(rate, now)));
            }
            let expired = lease.take(tokens, full, now);
            return self.hold(tokens, expired);
        }
        if tokens > 0 {
            return self.hold(tokens, back(name, rate, Held { tokens, due: full }.stands(rate, now)));
        }
        // Nobody loses tokens for a newcomer, which may be anybody's.
        let place = set.iter_mut().filter(|place| place.as_ref().is_none_or(|lease| lease.tokens() == 0));
        if let Some(place) = place.min_by_key(|place| place.as_ref().map_or(0, |lease| lease.moment)) {
            *place = Some(Lease::of(name.clone(), key, rate, full, now));
        }
    }

    /// Makes the next look at what has expired find these tokens, and what is to be given back at once.
    fn hold(&self, tokens: u32, back: Option<Move>) {
        if tokens > 0 || back.is_some() {
            self.strays.lock().extend(back);
            self.held.store(true, Ordering::Relaxed);
        }
    }

    /// What was asked for ahead is not coming.
    pub(super) fn failed(&self, key: u128) {
        self.with(key, (), |lease| lease.renewal = Renewal::Idle);
    }

    /// Nothing is held of a bucket any more: an operator filled it.
    pub(super) fn forget(&self, key: u128) {
        self.with(key, (), |lease| (lease.older, lease.newer) = Default::default());
    }

    /// What nobody has spent in time, to be given back.
    pub(super) fn expired(&self, now: Micros) -> Vec<Move> {
        if !self.held.swap(false, Ordering::Relaxed) {
            return Vec::new();
        }
        self.give_up(now, |lease| lease.expires <= now)
    }

    /// All that is held, to be given back.
    pub(super) fn all(&self, now: Micros) -> Vec<Move> {
        self.give_up(now, |_| true)
    }

    /// Whether tokens are on their way.
    pub(super) fn is_waiting(&self) -> bool {
        let waits = |set: &Mutex<[Option<Lease>; WAYS]>| {
            set.lock().iter().flatten().any(|lease| lease.renewal == Renewal::UnderWay)
        };
        self.sets.iter().any(waits)
    }

    fn give_up(&self, now: Micros, which: impl Fn(&Lease) -> bool) -> Vec<Move> {
        let mut moves = std::mem::take(&mut *self.strays.lock());
        for set in &self.sets {
            for lease in set.lock().iter_mut().flatten().filter(|lease| lease.tokens() > 0) {
                if which(lease) {
                    moves.extend(lease.give_up(now));
                } else {
                    self.held.store(true, Ordering::Relaxed);
                }
            }
        }
        moves
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
        let (renewal, moment) = (Renewal::Idle, moment(now));
        Self { key, name, rate, older, newer, size: 0, expires: 0, full, renewal, moment, seen: 1, before: 0 }
    }

    fn tokens(&self) -> u32 {
        self.older.tokens.saturating_add(self.newer.tokens)
    }

    /// Answers with what is given back.
    fn adopt(&mut self, rate: Rate, now: Micros) -> Option<Move> {
        let back = self.give_up(now);
        (self.rate, self.size, self.renewal) = (rate, 0, Renewal::Idle);
        back
    }

    fn spend(&mut self, most: u32, now: Micros) -> Spend {
        self.count(now);
        let cost = self.rate.cost();
        if self.expires <= now || self.tokens() < cost {
            return Spend::Ask(self.renewed(most));
        }
        let of_older = self.older.tokens.min(cost);
        self.older.tokens = self.older.tokens.saturating_sub(of_older);
        self.newer.tokens = self.newer.tokens.saturating_sub(cost.saturating_sub(of_older));
        let renew = if self.tokens() <= (self.size >> 3).max(cost) { self.renewed(most) } else { 0 };
        // What is held counts as not taken: whoever is told how much is left may spend it.
        let held = self.rate.interval().saturating_mul(u64::from(self.tokens()));
        let level = Level::at_rest(self.rate, self.full.saturating_sub(held), now);
        Spend::Paid { level: Level { answer: Answer::Charged, ..level }, renew }
    }

    /// Answers with what has expired meanwhile: it is given back, so that no token grows old by what comes after it.
    fn take(&mut self, tokens: u32, full: Micros, now: Micros) -> Option<Move> {
        self.renewal = Renewal::Idle;
        self.full = full;
        if tokens == 0 {
            return None;
        }
        let back = if self.expires > now { None } else { self.give_up(now) };
        self.older = self.together();
        self.newer = Held { tokens, due: full };
        self.size = self.tokens();
        self.expires = now.saturating_add(LIFE);
        back
    }

    fn give_up(&mut self, now: Micros) -> Option<Move> {
        let stands = self.older.stands(self.rate, now).saturating_add(self.newer.stands(self.rate, now));
        (self.older, self.newer) = Default::default();
        back(&self.name, self.rate, stands)
    }

    /// As one, of which never more stands than of both: the older flows in first, and the newer only behind it.
    fn together(&self) -> Held {
        let Self { older, newer, .. } = self;
        match (older.tokens, newer.tokens) {
            (0, _) => *newer,
            (_, 0) => *older,
            (_, tokens) => {
                let behind = self.rate.interval().saturating_mul(u64::from(tokens));
                Held { tokens: self.tokens(), due: older.due.saturating_add(behind).min(newer.due) }
            }
        }
    }

    /// What is to be asked for ahead: nothing while an answer to that is on its way.
    fn renewed(&mut self, most: u32) -> u32 {
        let wanted = if self.renewal == Renewal::Idle { self.wanted(most) } else { 0 };
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

impl Held {
    /// What it took of the bucket, in microseconds, as far as it has not flowed in since: the rest is somebody else's.
    fn stands(self, rate: Rate, now: Micros) -> Micros {
        rate.interval().saturating_mul(u64::from(self.tokens)).min(self.due.saturating_sub(now))
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

/// What is to be given back of a bucket; nothing where nothing stands of it any more.
fn back(name: &Arc<str>, rate: Rate, stands: Micros) -> Option<Move> {
    let earlier = i64::try_from(stands).ok().filter(|stands| *stands > 0)?;
    Some(Move { name: name.clone(), rate, by: earlier.saturating_neg() })
}

#[cfg(test)]
mod tests;
