//! `bans`: a client that violates too often is blocked for a while.
//!
//! The table counts violations per client (its /64 for IPv6) in a sliding window, exactly, and holds the blocks. It is
//! bounded: 65,536 clients, eight to a set; where room is needed, clients without a violation in the window go first,
//! then those with the fewest, and blocked ones last. It outlives every snapshot, so a reload forgives nobody.
//!
//! With a shared store ([`SharedBans`]) violations are counted there, and the table holds what it said. A client is then
//! found by a keyed hash of its address, for that is all that another gateway tells. A request is hashed only while the
//! table may hold a block that is on.

mod shared;

use std::{
    borrow::Cow,
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use http::{HeaderMap, HeaderValue, header::RETRY_AFTER};
use parking_lot::{Mutex, RwLock};
use portcullis_api::{
    ClientIp, Clock, Code, Control, ControlName, Fault, Issues, Micros, Refusal, Secret, Strict, Verdict,
};
pub use shared::{Asking, Block, Change, Changes, Client, ClientKey, Cursor, NoClientKey, SharedBans, Strike, Struck};

use crate::{
    rate_limit::{KeyHasher, Origin},
    waf::Violations,
};

/// The control's name.
pub const NAME: ControlName = ControlName::new("bans");

/// Clients that the table holds at most.
pub const CLIENTS_MAX: usize = 65_536;

/// The most violations that can be asked for: each one of a client is remembered with its time.
pub const VIOLATIONS_MAX: u32 = 256;

const WAYS: usize = 8;

/// Codes whose refusals count as violations.
const VIOLATION_CODES: &[&str] = &["burst.exceeded", "waf.urls", "waf.phones", "waf.chars", "waf.not_utf8"];

/// Whether a refusal with this code counts against the client.
#[must_use]
pub fn is_violation(code: &Code) -> bool {
    VIOLATION_CODES.contains(&code.name)
}

/// The code of a violation that this version does not count and another gateway's does. It blocks all the same.
const CODE_OF_ANOTHER_VERSION: &str = "unknown";

fn known(code: &str) -> &'static str {
    VIOLATION_CODES.iter().find(|known| **known == code).copied().unwrap_or(CODE_OF_ANOTHER_VERSION)
}

/// One block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ban {
    /// The client.
    pub client: Client,
    /// The code of the violation that was one too many.
    pub code: &'static str,
    /// When it began, on the monotonic clock.
    pub since: Micros,
    /// When it ends.
    pub until: Micros,
}

impl Ban {
    /// Whole seconds until it ends, rounded up, at least 1.
    #[must_use]
    pub fn remaining_s(&self, now: Micros) -> u64 {
        self.until.saturating_sub(now).div_ceil(1_000_000).max(1)
    }
}

/// Violations and blocks of all clients.
#[derive(Debug)]
pub struct BanTable {
    sets: Box<[Mutex<Vec<Entry>>]>,
    hasher: RandomState,
    keying: Keying,
    settings: RwLock<Numbers>,
    /// No block that the table has ever held ends later: past it nobody is looked up.
    last_end: AtomicU64,
}

/// What clients are found by.
#[derive(Debug)]
enum Keying {
    Address,
    Hash(KeyHasher),
}

#[derive(Debug, Clone, Copy)]
struct Numbers {
    max: usize,
    window: Micros,
    block: Micros,
}

#[derive(Debug)]
struct Entry {
    key: ClientKey,
    /// Times of violations, oldest first, never more than `max`.
    stamps: VecDeque<Micros>,
    ban: Option<Ban>,
}

impl Numbers {
    fn of(violations: &Violations) -> Self {
        let Violations { max, window, block } = violations;
        let max = usize::try_from(max.value.get().min(VIOLATIONS_MAX)).unwrap_or(1);
        Self { max, window: window.as_micros(), block: block.as_micros() }
    }
}

impl Entry {
    fn active(&self, now: Micros) -> Option<Ban> {
        self.ban.filter(|ban| now < ban.until)
    }

    fn forget_before(&mut self, window: Micros, now: Micros) {
        while self.stamps.front().is_some_and(|stamp| now.saturating_sub(*stamp) >= window) {
            self.stamps.pop_front();
        }
    }

    /// What is lost if the entry goes: the end of its block, then its violations, then how fresh they are.
    fn worth(&self, now: Micros) -> (Micros, usize, Micros) {
        let blocked = self.active(now).map_or(0, |ban| ban.until);
        (blocked, self.stamps.len(), self.stamps.back().copied().unwrap_or(0))
    }
}

impl BanTable {
    /// An empty table under these numbers. `hasher` spreads the clients, so that none can choose its neighbours.
    #[must_use]
    pub fn new(violations: &Violations, hasher: RandomState) -> Self {
        Self::keyed(violations, hasher, Keying::Address)
    }

    /// As [`Self::new`], beside a shared store. `key` is the deployment's, the same in every gateway.
    #[must_use]
    pub fn shared(violations: &Violations, hasher: RandomState, key: &Secret) -> Self {
        Self::keyed(violations, hasher, Keying::Hash(KeyHasher::deployment(key)))
    }

    fn keyed(violations: &Violations, hasher: RandomState, keying: Keying) -> Self {
        let sets = CLIENTS_MAX.checked_div(WAYS).unwrap_or(1);
        let sets = std::iter::repeat_with(Mutex::default).take(sets).collect();
        let settings = RwLock::new(Numbers::of(violations));
        Self { sets, hasher, keying, settings, last_end: AtomicU64::new(0) }
    }

    /// Takes other numbers from here on. Blocks keep the end they have.
    pub fn configure(&self, violations: &Violations) {
        *self.settings.write() = Numbers::of(violations);
    }

    /// What `client` ([`ClientIp::counted`]) is found by.
    #[must_use]
    pub fn key(&self, client: IpAddr) -> ClientKey {
        match &self.keying {
            Keying::Address => ClientKey(match client {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
                IpAddr::V6(v6) => v6.to_bits(),
            }),
            Keying::Hash(hasher) => {
                let mut hashing = hasher.begin();
                hashing.field(NAME.as_str().as_bytes());
                Origin::add_address(client, &mut hashing);
                ClientKey(hashing.finish())
            }
        }
    }

    /// Counts a violation of `client` ([`ClientIp::counted`]). Answers with the block if this one begins it; while
    /// one is on, nothing is counted.
    pub fn record(&self, client: IpAddr, code: &'static str, now: Micros) -> Option<Ban> {
        let Numbers { max, window, block } = *self.settings.read();
        let key = self.key(client);
        let mut set = self.set(key)?.lock();
        let entry = find_or_add(&mut set, key, window, now)?;
        if entry.active(now).is_some() {
            return None;
        }
        entry.stamps.push_back(now);
        if entry.stamps.len() < max {
            return None;
        }
        let ban = Ban { client: Client::Address(client), code, since: now, until: now.saturating_add(block) };
        self.begin(entry, ban);
        Some(ban)
    }

    /// The violation of `client` ([`ClientIp::counted`]) that a shared store is to count; none while a block is on.
    #[must_use]
    pub fn strike(&self, client: IpAddr, code: &'static str, now: Micros) -> Option<Strike> {
        let Numbers { max, window, block } = *self.settings.read();
        let strike = Strike { client: self.key(client), code, max, window, block };
        self.find(strike.client, now).is_none().then_some(strike)
    }

    /// Takes over a block from the shared store, which was asked at `asked` and has just answered. Answers with the
    /// block if it was news. One that is on already keeps its end, unless the store's is later.
    pub fn learn(&self, key: ClientKey, client: Client, block: &Block, asked: Micros, now: Micros) -> Option<Ban> {
        let window = self.settings.read().window;
        // As early as it can have begun, so that a lift is never taken for older; as late as it can end.
        let (since, until) = (asked.saturating_sub(block.age), now.saturating_add(block.remaining));
        let mut set = self.set(key)?.lock();
        let entry = find_or_add(&mut set, key, window, now)?;
        let before = entry.active(now);
        if before.is_some_and(|ban| ban.until >= until) {
            return None;
        }
        // An address says more than a hash, and is the lesser of the two.
        let client = before.map_or(client, |ban| ban.client.min(client));
        let ban = Ban { client, code: known(&block.code), since, until };
        self.begin(entry, ban);
        before.is_none().then_some(ban)
    }

    fn begin(&self, entry: &mut Entry, ban: Ban) {
        entry.stamps.clear();
        entry.ban = Some(ban);
        self.last_end.fetch_max(ban.until, Ordering::Relaxed);
    }

    /// The block that is on for `client` ([`ClientIp::counted`]).
    #[must_use]
    pub fn active(&self, client: IpAddr, now: Micros) -> Option<Ban> {
        // Spares the hash. What a thread reads late it would have found late.
        if now >= self.last_end.load(Ordering::Relaxed) {
            return None;
        }
        self.find(self.key(client), now)
    }

    fn find(&self, key: ClientKey, now: Micros) -> Option<Ban> {
        self.set(key)?.lock().iter().find(|entry| entry.key == key)?.active(now)
    }

    /// Ends a client's block and forgets its violations. Answers whether there was a block.
    pub fn lift(&self, client: ClientKey) -> bool {
        self.lift_before(client, Micros::MAX)
    }

    /// As [`Self::lift`], of what is older than `lifted`: another gateway's operator lifted it then.
    pub fn lift_before(&self, client: ClientKey, lifted: Micros) -> bool {
        let Some(set) = self.set(client) else { return false };
        let mut set = set.lock();
        let Some(place) = set.iter().position(|entry| entry.key == client) else { return false };
        let Some(entry) = set.get_mut(place) else { return false };
        entry.stamps.retain(|stamp| *stamp >= lifted);
        let had = entry.ban.take_if(|ban| ban.since < lifted).is_some();
        if entry.ban.is_none() && entry.stamps.is_empty() {
            set.swap_remove(place);
        }
        had
    }

    /// Every block that is on, the one that ends first first.
    #[must_use]
    pub fn list(&self, now: Micros) -> Vec<Ban> {
        let mut bans: Vec<Ban> = self
            .sets
            .iter()
            .flat_map(|set| set.lock().iter().filter_map(|entry| entry.active(now)).collect::<Vec<_>>())
            .collect();
        bans.sort_unstable_by_key(|ban| (ban.until, ban.client));
        bans
    }

    fn set(&self, client: ClientKey) -> Option<&Mutex<Vec<Entry>>> {
        let sets = u64::try_from(self.sets.len()).ok()?;
        let index = self.hasher.hash_one(client).checked_rem(sets)?;
        self.sets.get(usize::try_from(index).ok()?)
    }
}

/// The client's entry. Where there is none and the set is full, the one of which the least is lost makes room.
fn find_or_add(set: &mut Vec<Entry>, key: ClientKey, window: Micros, now: Micros) -> Option<&mut Entry> {
    set.iter_mut().for_each(|entry| entry.forget_before(window, now));
    if let Some(place) = set.iter().position(|entry| entry.key == key) {
        return set.get_mut(place);
    }
    if set.len() >= WAYS {
        let (least, _) = set.iter().enumerate().min_by_key(|(_, entry)| entry.worth(now))?;
        set.swap_remove(least);
    }
    set.push(Entry { key, stamps: VecDeque::new(), ban: None });
    set.last_mut()
}

/// No block is on for the client.
#[derive(Debug)]
pub struct NotBanned(());

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deny {
    /// A block is on.
    Active {
        /// The code of the violation that began it.
        code: &'static str,
        /// Whole seconds until it ends, at least 1.
        remaining_s: u64,
    },
}

const ACTIVE: Code =
    Code { name: "bans.active", status: 403, title: "Requests from this client are blocked for a while" };

impl Refusal for Deny {
    const CODES: &'static [Code] = &[ACTIVE];

    fn code(&self) -> Code {
        match self {
            Self::Active { .. } => ACTIVE,
        }
    }

    fn detail(&self) -> Option<Cow<'_, str>> {
        let Self::Active { code, .. } = self;
        Some(Cow::Owned(format!("blocked after repeated {code}")))
    }

    fn headers(&self, answer: &mut HeaderMap) {
        let Self::Active { remaining_s, .. } = self;
        answer.insert(RETRY_AFTER, HeaderValue::from(*remaining_s));
    }
}

/// The control.
pub struct Bans {
    needs: Needs,
}

/// Where the blocks are. Both outlive every snapshot.
#[derive(Clone)]
pub struct Needs {
    /// The table. A snapshot that comes into force calls [`BanTable::configure`]; compiling one changes nothing.
    pub table: Arc<BanTable>,
    /// The monotonic clock.
    pub clock: Arc<dyn Clock>,
}

/// What must be known.
#[derive(Debug, Clone, Copy)]
pub struct Sees {
    /// The settled address.
    pub client: ClientIp,
}

impl Control for Bans {
    const NAME: ControlName = NAME;
    type Settings<'d> = &'d Violations;
    type Sees<'r> = Sees;
    type Proof = NotBanned;
    type Deny = Deny;
    type Needs = Needs;
    type Posture = Strict;

    fn compile(violations: &Violations, needs: &Needs, issues: &mut Issues) -> Option<Self> {
        if violations.max.value.get() > VIOLATIONS_MAX {
            let message = format!("violations.max is {}, more than {VIOLATIONS_MAX}", violations.max.value);
            issues.push_help(
                "bans.violations_max",
                &violations.max.span,
                message,
                "block earlier, or count over a shorter window",
            );
            return None;
        }
        Some(Self { needs: needs.clone() })
    }

    async fn check(&self, sees: Sees) -> Result<Verdict<NotBanned, Deny>, Fault> {
        let Needs { table, clock } = &self.needs;
        let now = clock.now();
        Ok(match table.active(sees.client.counted(), now) {
            Some(ban) => Verdict::Deny(Deny::Active { code: ban.code, remaining_s: ban.remaining_s(now) }),
            None => Verdict::Pass(NotBanned(())),
        })
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "times of the tests are far from any edge")]
mod tests;
