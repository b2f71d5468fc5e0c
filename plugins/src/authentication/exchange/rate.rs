//! How often each key was exchanged.

use std::sync::Arc;

use portcullis_api::Clock;

use crate::rate_limit::{Answer, KeyHasher, Numbers, Table, with_class};

/// Keys that are counted at once, 21 bytes each.
const KEYS_MAX: u32 = 1 << 16;

/// Exchanges by key. They outlive every snapshot: a reload gives nobody another try.
pub struct Exchanges {
    clock: Arc<dyn Clock>,
    table: Table,
    hasher: KeyHasher,
}

impl Exchanges {
    /// None yet.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, table: Table::new(KEYS_MAX), hasher: KeyHasher::process() }
    }

    /// Counts one, and says in how many seconds there is room for another when it was one too many.
    pub(super) fn count(&self, key_id: &str, numbers: &Numbers) -> Option<u64> {
        let mut hashing = self.hasher.begin();
        hashing.field(b"exchange");
        let revision = numbers.revision();
        hashing.field(&revision);
        hashing.field(key_id.as_bytes());
        let key = with_class(hashing.finish(), &revision);
        let level = self.table.take_one(self.clock.now(), key, numbers.rate());
        match level.answer {
            Answer::Charged => None,
            Answer::Spared | Answer::Short | Answer::Unasked => Some(level.retry_after.div_ceil(1_000_000).max(1)),
        }
    }
}
