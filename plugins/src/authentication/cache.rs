//! Tokens that were verified, so that a repeat costs a hash and a look-up instead of a signature.
//!
//! Invariant: a hit is an answer only while the token lives, under the same settings of its issuer and the same keys.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use aws_lc_rs::digest::{Context, SHA256};
use moka::sync::Cache;
use portcullis_api::UnixSeconds;

use super::identity::{Credential, Identity};

/// Bounded by weight; it outlives every snapshot and is shared by all of them.
pub struct VerifiedCache {
    entries: Cache<Key, Arc<Entry>>,
    compiled: AtomicU64,
}

/// The SHA-256 of where the token came from and every byte of it. The issuer is a function of the token and of the
/// settings, and stands in the entry: it is not known before the token is parsed, which is what a hit saves.
pub(super) type Key = [u8; 32];

pub(super) struct Entry {
    pub(super) identity: Arc<Identity>,
    /// The issuer's index in the settings of this generation.
    pub(super) issuer: usize,
    pub(super) settings_generation: u64,
    pub(super) keys_generation: u128,
    pub(super) expires: UnixSeconds,
}

/// What 50,000 tokens take.
pub const CACHE_BYTES: u64 = 64 << 20;

impl VerifiedCache {
    /// A cache of about `bytes_max` bytes; [`CACHE_BYTES`] suits most.
    #[must_use]
    pub fn new(bytes_max: u64) -> Self {
        let entries = Cache::builder()
            .max_capacity(bytes_max)
            .weigher(|_, entry: &Arc<Entry>| u32::try_from(entry.identity.weight()).unwrap_or(u32::MAX))
            .build();
        Self { entries, compiled: AtomicU64::new(0) }
    }

    /// How many tokens it holds, about.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.entries.entry_count()
    }

    /// Whether it holds none, about.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A number no other compiled set of settings has. Settings that changed cannot hit what others verified.
    pub(super) fn settings_generation(&self) -> u64 {
        self.compiled.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn key(credential: Credential, token: &[u8]) -> Key {
        let mut context = Context::new(&SHA256);
        context.update(credential.as_str().as_bytes());
        context.update(&[0]);
        context.update(token);
        let mut key = [0; 32];
        for (slot, byte) in key.iter_mut().zip(context.finish().as_ref()) {
            *slot = *byte;
        }
        key
    }

    /// The key of an agent: no token is looked up under it, since no other entry begins with this kind.
    pub(super) fn agent_key(listener: usize, fingerprint: &[u8; 32]) -> Key {
        let mut bytes = listener.to_be_bytes().to_vec();
        bytes.extend_from_slice(fingerprint);
        Self::key(Credential::Certificate, &bytes)
    }

    pub(super) fn get(&self, key: &Key) -> Option<Arc<Entry>> {
        self.entries.get(key)
    }

    pub(super) fn insert(&self, key: Key, entry: Entry) {
        self.entries.insert(key, Arc::new(entry));
    }

    /// Forgets a token that can no longer hit.
    pub(super) fn forget(&self, key: &Key) {
        self.entries.invalidate(key);
    }
}
