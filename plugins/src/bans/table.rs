//! Violations and blocks by client: a table of fixed size.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::{Mutex, RwLock};
use portcullis_api::{Micros, Secret};

use super::{Ban, Block, CLIENTS_MAX, Client, ClientKey, NAME, Strike, VIOLATIONS_MAX, known};
use crate::{
    places::{Place, Places, Timed, WAYS},
    rate_limit::{KeyHasher, Origin},
    waf::Violations,
};

/// Violations and blocks of all clients.
#[derive(Debug)]
pub struct BanTable {
    sets: Box<[Mutex<Places<ClientKey, Ban>>]>,
    hasher: RandomState,
    keying: Keying,
    settings: RwLock<Numbers>,
    /// No block that the table has ever held ends later: past it nobody is looked up.
    last_end: AtomicU64,
    /// Blocks that ended early.
    lost: AtomicU64,
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

impl Numbers {
    fn of(violations: &Violations) -> Self {
        let Violations { max, window, block } = violations;
        let max = usize::try_from(max.value.get().min(VIOLATIONS_MAX)).unwrap_or(1);
        Self { max, window: window.as_micros(), block: block.as_micros() }
    }
}

impl Timed for Ban {
    fn since(&self) -> Micros {
        self.since
    }

    fn until(&self) -> Micros {
        self.until
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
        Self { sets, hasher, keying, settings, last_end: AtomicU64::new(0), lost: AtomicU64::new(0) }
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
        let place = set.find_or_add(key, window, now, &self.lost)?;
        if place.active(now).is_some() {
            return None;
        }
        place.stamps.push_back(now);
        if place.stamps.len() < max {
            return None;
        }
        let ban = Ban { client: Client::Address(client), code, since: now, until: now.saturating_add(block) };
        self.begin(place, ban);
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
        let place = set.find_or_add(key, window, now, &self.lost)?;
        let before = place.active(now);
        if before.is_some_and(|ban| ban.until >= until) {
            return None;
        }
        // An address says more than a hash, and is the lesser of the two.
        let client = before.map_or(client, |ban| ban.client.min(client));
        let ban = Ban { client, code: known(&block.code), since, until };
        self.begin(place, ban);
        before.is_none().then_some(ban)
    }

    fn begin(&self, place: &mut Place<ClientKey, Ban>, ban: Ban) {
        place.stamps.clear();
        place.begun = Some(ban);
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
        self.set(key)?.lock().find(key)?.active(now)
    }

    /// Ends a client's block and forgets its violations. Answers whether there was a block.
    pub fn lift(&self, client: ClientKey) -> bool {
        self.lift_before(client, Micros::MAX)
    }

    /// As [`Self::lift`], of what is older than `lifted`: another gateway's operator lifted it then.
    pub fn lift_before(&self, client: ClientKey, lifted: Micros) -> bool {
        self.set(client).is_some_and(|set| set.lock().lift_before(client, lifted).is_some())
    }

    /// Every block that is on, the one that ends first first.
    #[must_use]
    pub fn list(&self, now: Micros) -> Vec<Ban> {
        let mut bans: Vec<Ban> = self.sets.iter().flat_map(|set| set.lock().active(now)).collect();
        bans.sort_unstable_by_key(|ban| (ban.until, ban.client));
        bans
    }

    /// Blocks that ended early because the set of a client was full of blocks.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn set(&self, client: ClientKey) -> Option<&Mutex<Places<ClientKey, Ban>>> {
        let sets = u64::try_from(self.sets.len()).ok()?;
        let index = self.hasher.hash_one(client).checked_rem(sets)?;
        self.sets.get(usize::try_from(index).ok()?)
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "times of the tests are far from any edge")]
mod tests;
