//! The keys of one algorithm, and which of them signs.
//!
//! A key set is kept by verifiers for up to `max_age`. So a new key is published and signs nothing until every kept set
//! has it; then it signs; and the old one stays published until what it signed has ended and every kept set is newer.
//!
//! Invariant: what signs was published by this process for twice `max_age`, or was the first of its list at the start. No
//! verifier that keeps the set no longer than `max_age` meets a key that it cannot know.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use portcullis_api::{Micros, Millis};

use super::signing_key::SigningKey;

/// Of a key that never signed.
const NEVER: Micros = Micros::MAX;

/// Keys of one algorithm in the order of the document: the oldest first.
pub struct Ring {
    first: Arc<Published>,
    later: Vec<Arc<Published>>,
    /// The longest `max_age` that this process ever told a verifier.
    max_age: Micros,
}

/// A key and its place in time. It outlives the ring that it was read for.
struct Published {
    key: Arc<SigningKey>,
    /// From when on it may sign; set when it is published.
    ready: OnceLock<Micros>,
    /// When it may have signed last; [`NEVER`] for never.
    used: AtomicU64,
}

/// How long things are kept.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Verifiers keep the key set for so long.
    pub max_age: Millis,
    /// An assertion is valid for so long.
    pub lifetime: Millis,
}

/// A key that was left out of the list while verifiers still need it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InUse {
    /// No other key could sign now.
    #[error("key {0} signs assertions: leave it in the list, and add the new key at its end")]
    Signs(String),
    /// What it signed may still be under way.
    #[error("key {kid} signed until a moment ago: it can be left out in {seconds} s")]
    Signed {
        /// The key.
        kid: String,
        /// How long to wait.
        seconds: u64,
    },
}

impl Ring {
    /// The ring of the next configuration, or of the first; `None` when there are no keys. What was published before
    /// keeps its place in time.
    ///
    /// # Errors
    /// [`InUse`] when a key was left out too early.
    pub fn next(
        before: Option<&Self>,
        keys: &[Arc<SigningKey>],
        timing: Timing,
        now: Micros,
    ) -> Result<Option<Self>, InUse> {
        let max_age = timing.max_age.as_micros().max(before.map_or(0, |before| before.max_age));
        if let Some(before) = before.filter(|_| !keys.is_empty()) {
            before.check_left_out(keys, max_age.saturating_add(timing.lifetime.as_micros().saturating_mul(2)), now)?;
        }
        let mut published = keys.iter().enumerate().map(|(index, key)| {
            let known = before.and_then(|before| before.all().find(|known| known.key.kid() == key.kid()));
            match (known, before) {
                (Some(known), _) => known.clone(),
                (None, Some(_)) => Arc::new(Published::new(key, OnceLock::new(), NEVER)),
                // At the start a former process may have signed with any of them, and the first of them is the oldest.
                (None, None) if index == 0 => Arc::new(Published::new(key, OnceLock::from(now), now)),
                (None, None) => Arc::new(Published::new(key, OnceLock::new(), now)),
            }
        });
        let Some(first) = published.next() else { return Ok(None) };
        Ok(Some(Self { first, later: published.collect(), max_age }))
    }

    /// The key set is handed out from now on: what is new in it may sign when every kept set has it.
    pub fn publish(&self, now: Micros) {
        for published in self.all() {
            let _since_before = published.ready.set(now.saturating_add(self.max_age.saturating_mul(2)));
        }
    }

    /// The key that signs now: the last of the list that may.
    #[must_use]
    pub fn signing(&self, now: Micros) -> &SigningKey {
        let published = self.signs(now);
        published.used.store(now, Ordering::Relaxed);
        &published.key
    }

    /// The name of the key that would sign now.
    #[must_use]
    pub fn signing_kid(&self, now: Micros) -> &str {
        self.signs(now).key.kid()
    }

    /// Every key of it.
    pub fn keys(&self) -> impl Iterator<Item = &Arc<SigningKey>> {
        self.all().map(|published| &published.key)
    }

    fn signs(&self, now: Micros) -> &Published {
        self.later.iter().rev().find(|published| published.is_ready(now)).unwrap_or(&self.first)
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Published>> {
        std::iter::once(&self.first).chain(&self.later)
    }

    fn check_left_out(&self, keys: &[Arc<SigningKey>], needed: Micros, now: Micros) -> Result<(), InUse> {
        let signs = self.signing_kid(now);
        for published in self.all().filter(|published| keys.iter().all(|key| key.kid() != published.key.kid())) {
            let kid = published.key.kid();
            if kid == signs {
                return Err(InUse::Signs(kid.to_owned()));
            }
            let used = published.used.load(Ordering::Relaxed);
            let free = if used == NEVER { now } else { used.saturating_add(needed) };
            if free > now {
                let seconds = free.saturating_sub(now).div_ceil(1_000_000);
                return Err(InUse::Signed { kid: kid.to_owned(), seconds });
            }
        }
        Ok(())
    }
}

impl Published {
    fn new(key: &Arc<SigningKey>, ready: OnceLock<Micros>, used: Micros) -> Self {
        Self { key: key.clone(), ready, used: AtomicU64::new(used) }
    }

    fn is_ready(&self, now: Micros) -> bool {
        self.ready.get().is_some_and(|ready| *ready <= now)
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::Ed25519KeyPair;

    use super::{super::Algorithm, *};

    const TIMING: Timing = Timing { max_age: Millis::from_secs(300), lifetime: Millis::from_secs(30) };
    const S: Micros = 1_000_000;

    fn keys<const N: usize>() -> [Arc<SigningKey>; N] {
        std::array::from_fn(|_| {
            let der = Ed25519KeyPair::generate().unwrap().to_pkcs8v1().unwrap();
            Arc::new(SigningKey::from_pkcs8(Algorithm::EdDSA, der.as_ref()).unwrap())
        })
    }

    fn started(keys: &[Arc<SigningKey>], now: Micros) -> Ring {
        let ring = Ring::next(None, keys, TIMING, now).unwrap().unwrap();
        ring.publish(now);
        ring
    }

    fn reloaded(before: &Ring, keys: &[Arc<SigningKey>], now: Micros) -> Result<Ring, InUse> {
        let ring = Ring::next(Some(before), keys, TIMING, now)?.unwrap();
        ring.publish(now);
        Ok(ring)
    }

    #[test]
    fn a_new_key_signs_once_it_was_published_for_twice_the_age_and_not_a_moment_before() {
        let [old, new] = keys();
        let ring = started(std::slice::from_ref(&old), 0);
        assert_eq!(ring.signing_kid(0), old.kid(), "the only key signs at once");
        let ring = reloaded(&ring, &[old.clone(), new.clone()], 1000 * S).unwrap();
        assert_eq!(ring.signing_kid(1600 * S - 1), old.kid());
        assert_eq!(ring.signing_kid(1600 * S), new.kid());
        let again = reloaded(&ring, &[old.clone(), new.clone()], 1500 * S).unwrap();
        assert_eq!(again.signing_kid(1600 * S), new.kid(), "another reload does not begin anew");
    }

    #[test]
    fn a_key_is_not_left_out_while_it_signs_or_what_it_signed_may_be_needed() {
        let [old, new] = keys();
        let ring = started(&[old.clone(), new.clone()], 0);
        assert_eq!(ring.signing(599 * S).kid(), old.kid());
        let only_new = [new.clone()];
        let left_out = |now| reloaded(&ring, &only_new, now).map(|ring| ring.signing_kid(now).to_owned());
        assert_eq!(left_out(599 * S), Err(InUse::Signs(old.kid().to_owned())));
        assert_eq!(ring.signing(600 * S).kid(), new.kid());
        let wait = |seconds| Err(InUse::Signed { kid: old.kid().to_owned(), seconds });
        assert_eq!(left_out(600 * S), wait(359));
        assert_eq!(left_out(959 * S - 1), wait(1), "300 s and twice 30 s after it signed last");
        assert_eq!(left_out(959 * S), Ok(new.kid().to_owned()));
    }

    #[test]
    fn a_start_signs_with_the_first_key_whatever_else_is_in_the_list() {
        let [old, new] = keys();
        let ring = started(&[old.clone(), new.clone()], 50 * S);
        assert_eq!(ring.signing_kid(50 * S), old.kid());
        // What a former process signed with the second may still be under way.
        assert!(matches!(reloaded(&ring, std::slice::from_ref(&old), 60 * S), Err(InUse::Signed { seconds: 350, .. })));
    }

    #[test]
    fn a_key_that_never_signed_may_be_left_out_at_once() {
        let [old, new] = keys();
        let ring = started(std::slice::from_ref(&old), 0);
        let ring = reloaded(&ring, &[old.clone(), new], S).unwrap();
        assert!(reloaded(&ring, &[old], 2 * S).is_ok());
    }

    #[test]
    fn the_only_key_cannot_be_exchanged_for_another_however_long_it_was_idle() {
        let [old, new] = keys();
        let ring = started(std::slice::from_ref(&old), 0);
        assert_eq!(reloaded(&ring, &[new], 100_000 * S).err(), Some(InUse::Signs(old.kid().to_owned())));
    }

    #[test]
    fn a_new_key_in_front_signs_no_sooner() {
        let [old, new] = keys();
        let ring = started(std::slice::from_ref(&old), 0);
        let ring = reloaded(&ring, &[new, old.clone()], S).unwrap();
        assert_eq!(ring.signing_kid(2 * S), old.kid());
    }

    #[test]
    fn a_key_is_not_ready_before_it_was_published() {
        let [old, new] = keys();
        let ring = started(std::slice::from_ref(&old), 0);
        let ring = Ring::next(Some(&ring), &[old.clone(), new], TIMING, S).unwrap().unwrap();
        assert_eq!(ring.signing_kid(Micros::MAX), old.kid());
    }

    #[test]
    fn a_shorter_age_does_not_hurry_what_verifiers_were_told_before() {
        let [old, new] = keys();
        let ring = started(std::slice::from_ref(&old), 0);
        let short = Timing { max_age: Millis::from_secs(1), ..TIMING };
        let ring = Ring::next(Some(&ring), &[old.clone(), new.clone()], short, 10 * S).unwrap().unwrap();
        ring.publish(10 * S);
        assert_eq!(ring.signing_kid(609 * S), old.kid());
        assert_eq!(ring.signing_kid(610 * S), new.kid());
    }

    #[test]
    fn no_keys_are_no_ring() {
        let [old] = keys();
        let ring = started(&[old], 0);
        assert!(Ring::next(None, &[], TIMING, 0).unwrap().is_none());
        assert!(Ring::next(Some(&ring), &[], TIMING, 0).unwrap().is_none(), "nobody is told anything any more");
    }
}
