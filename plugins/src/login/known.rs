//! From which networks an account has logged in: a table of fixed size.
//!
//! An account has room for [`NETWORKS_MAX`], so whoever has one account and many networks pushes out nobody but himself.

use parking_lot::Mutex;
use portcullis_api::Micros;

use super::{ENTRIES_MAX, keys::Keys};

/// Networks that are known of one account; the one it has not logged in from for the longest time goes first.
pub const NETWORKS_MAX: usize = 8;

const WAYS: usize = 8;

#[derive(Debug)]
pub(super) struct Known {
    sets: Box<[Mutex<Vec<Entry>>]>,
}

#[derive(Debug)]
struct Entry {
    account: u128,
    /// The latest login first.
    networks: Vec<(u64, Micros)>,
}

impl Known {
    pub(super) fn new() -> Self {
        Self { sets: std::iter::repeat_with(Mutex::default).take(ENTRIES_MAX.div_ceil(WAYS)).collect() }
    }

    /// Whether the account has logged in from this network since `now - known_for`.
    pub(super) fn has(&self, keys: &Keys, known_for: Micros, now: Micros) -> bool {
        let Some(set) = super::table::set_of(&self.sets, keys.account) else { return false };
        let set = set.lock();
        let Some(entry) = set.iter().find(|entry| entry.account == keys.account.0) else { return false };
        let tag = keys.pair.network_part();
        entry.networks.iter().any(|(network, at)| *network == tag && now.saturating_sub(*at) < known_for)
    }

    /// The account has logged in from this network.
    pub(super) fn add(&self, keys: &Keys, now: Micros) {
        let Some(set) = super::table::set_of(&self.sets, keys.account) else { return };
        let mut set = set.lock();
        let mut entry = match set.iter().position(|entry| entry.account == keys.account.0) {
            Some(place) => set.swap_remove(place),
            None => Entry { account: keys.account.0, networks: Vec::new() },
        };
        let tag = keys.pair.network_part();
        entry.networks.retain(|(network, _)| *network != tag);
        entry.networks.insert(0, (tag, now));
        entry.networks.truncate(NETWORKS_MAX);
        if set.len() >= WAYS {
            let latest = |entry: &Entry| entry.networks.first().map_or(0, |(_, at)| *at);
            if let Some((place, _)) = set.iter().enumerate().min_by_key(|(_, entry)| latest(entry)) {
                set.swap_remove(place);
            }
        }
        set.push(entry);
    }
}
