//! The keys of one issuer, ready to verify. A key decides its algorithm; a token only names it.
//!
//! Invariant: every key in a [`KeySet`] passed the rules of `jwk.rs` or is a secret of at least 32 bytes.

use std::{collections::HashSet, fmt, pin::Pin, sync::Arc};

use arc_swap::ArcSwap;
use aws_lc_rs::{
    digest::{self, SHA256},
    hmac,
    signature::ParsedPublicKey,
};
use portcullis_api::Secret;

use super::{
    Algorithm,
    deny::Why,
    jwk,
    strict_json::{self, Json},
};

/// Largest JWKS document, in bytes.
pub const JWKS_BYTES_MAX: usize = 256 * 1024;
const KEYS_MAX: usize = 64;
const SECRET_BYTES_MIN: usize = 32;
/// What a secret of our own is named by: its MAC over this, which tells nothing of it.
const OWN_KID: &[u8] = b"portcullis kid";
const OWN_KID_CHARS: usize = 12;

/// What comes of asking for a key that is not in the set.
pub type Renewing<'a> = Pin<Box<dyn Future<Output = Result<(), CannotTell>> + Send + 'a>>;

/// Whether a key exists is not known: its issuer could not be asked, or does not answer in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CannotTell {
    /// For the log.
    pub why: String,
}

/// Where the control finds the key sets. Fetching and watching is the gateway's work; none of it may block.
pub trait KeySets: Send + Sync {
    /// The cell that always holds the newest key set of this issuer, by its name in the configuration. Called once per
    /// issuer when a snapshot is compiled.
    fn of(&self, issuer_name: &str) -> Arc<ArcSwap<KeySetState>>;

    /// A token named a key that is not in the set: fetch it within your own budget and bounds. Once this answers, the set
    /// in the cell is as new as it may be, and a key that it lacks does not exist.
    fn unknown_kid<'a>(&'a self, issuer_name: &'a str, kid: &'a str) -> Renewing<'a>;
}

/// What is known of an issuer's keys.
#[derive(Debug)]
pub enum KeySetState {
    /// None were ever loaded, or the last good ones are too old. Tokens of this issuer get 503, never 401.
    Missing {
        /// For the log.
        why: String,
    },
    /// Keys to verify with.
    Ready(KeySet),
}

/// Keys that may verify an issuer's tokens.
pub struct KeySet {
    keys: Vec<Key>,
    /// Of each key, its mark: asked for at every request with a body, so it is not made anew.
    marks: Vec<u128>,
    naming: Naming,
    generation: u128,
    warnings: Vec<String>,
}

/// Whether a token's `kid` selects a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Naming {
    /// It does.
    ByKid,
    /// There is one shared secret without a name; a `kid` says nothing.
    One,
}

pub(super) struct Key {
    pub(super) kid: Option<String>,
    pub(super) algorithm: Algorithm,
    /// RFC 7638 in spirit: the bytes that make the key this key.
    pub(super) material: Vec<u8>,
    pub(super) verifier: Verifier,
}

pub(super) enum Verifier {
    Public(ParsedPublicKey),
    Shared(Box<hmac::Key>),
}

/// Why there is no key set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Too large to be a key set.
    #[error("the key set is larger than {JWKS_BYTES_MAX} bytes")]
    TooLarge,
    /// Not JSON in one meaning.
    #[error("the key set is no strict JSON: {0}")]
    Json(String),
    /// Not `{ "keys": [ … ] }`.
    #[error("the key set is no JWKS: an object with a list `keys` (RFC 7517)")]
    Shape,
    /// More keys than any issuer has.
    #[error("the key set has more than {KEYS_MAX} keys")]
    TooMany,
    /// None can be used: an empty set would refuse everybody in silence.
    #[error("the key set has no usable key{}", reasons(.0))]
    NoneUsable(Vec<String>),
    /// Too short a secret.
    #[error("the secret has {0} bytes; at least {SECRET_BYTES_MIN} random bytes are needed")]
    SecretTooShort(usize),
    /// One of several secrets twice.
    #[error("a secret stands there twice")]
    SecretTwice,
    /// A secret that can be guessed.
    #[error("the secret can be guessed: {0}; write at least {SECRET_BYTES_MIN} random bytes")]
    SecretWeak(&'static str),
}

fn reasons(warnings: &[String]) -> String {
    if warnings.is_empty() { String::new() } else { format!(": {}", warnings.join("; ")) }
}

impl KeySet {
    /// Reads a JWKS (RFC 7517) and keeps the keys that may verify tokens signed with one of `allowed`.
    ///
    /// # Errors
    /// [`KeySetError`] when it is no key set or has no usable key. Single bad keys are dropped and told in
    /// [`KeySet::warnings`].
    pub fn from_jwks(bytes: &[u8], allowed: &[Algorithm]) -> Result<Self, KeySetError> {
        if bytes.len() > JWKS_BYTES_MAX {
            return Err(KeySetError::TooLarge);
        }
        let json =
            strict_json::parse(bytes, strict_json::KEY_SET).map_err(|error| KeySetError::Json(error.to_string()))?;
        let items = json.member("keys").and_then(Json::list).ok_or(KeySetError::Shape)?;
        if items.len() > KEYS_MAX {
            return Err(KeySetError::TooMany);
        }
        let mut warnings = Vec::new();
        let mut keys: Vec<Key> = Vec::new();
        for (index, item) in items.iter().enumerate() {
            match jwk::parse(item, allowed) {
                Ok(key) => keys.push(key),
                Err(reason) => warnings.push(format!("key {index}{}: {reason}", shown_kid(item))),
            }
        }
        drop_conflicts(&mut keys, &mut warnings);
        if keys.is_empty() {
            return Err(KeySetError::NoneUsable(warnings));
        }
        Ok(Self { warnings, ..Self::of(keys, Naming::ByKid) })
    }

    fn of(keys: Vec<Key>, naming: Naming) -> Self {
        let (marks, generation) = (keys.iter().map(Key::mark).collect(), generation(&keys));
        Self { keys, marks, naming, generation, warnings: Vec::new() }
    }

    /// One shared secret for HS256.
    ///
    /// # Errors
    /// [`KeySetError`] when it is shorter than 32 bytes or can be guessed.
    pub fn from_secret(secret: &Secret) -> Result<Self, KeySetError> {
        let bytes = secret.expose();
        if bytes.len() < SECRET_BYTES_MIN {
            return Err(KeySetError::SecretTooShort(bytes.len()));
        }
        if let Some(why) = weakness(bytes) {
            return Err(KeySetError::SecretWeak(why));
        }
        Ok(Self::shared(bytes))
    }

    /// Secrets that sign too, the newest first. A token names its secret by what no two of them share.
    ///
    /// # Errors
    /// [`KeySetError`] when one is shorter than 32 bytes, can be guessed, or stands there twice.
    pub fn from_own_secrets(newest: &Secret, older: &[Secret]) -> Result<Self, KeySetError> {
        let mut keys: Vec<Key> = Vec::new();
        for secret in std::iter::once(newest).chain(older) {
            let Self { keys: one, .. } = Self::from_secret(secret)?;
            let name = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.expose()), OWN_KID);
            let kid: String = portcullis_api::hex(name.as_ref()).chars().take(OWN_KID_CHARS).collect();
            if keys.iter().any(|key| key.kid.as_ref() == Some(&kid)) {
                return Err(KeySetError::SecretTwice);
            }
            keys.extend(one.into_iter().map(|key| Key { kid: Some(kid.clone()), ..key }));
        }
        Ok(Self::of(keys, Naming::ByKid))
    }

    /// The key that signs, of secrets of our own.
    pub(super) fn newest(&self) -> Option<&Key> {
        self.keys.first()
    }

    pub(super) fn shared(bytes: &[u8]) -> Self {
        let key = Key {
            kid: None,
            algorithm: Algorithm::HS256,
            // Not the secret itself: the material outlives the call and is not wiped.
            material: digest::digest(&SHA256, bytes).as_ref().to_vec(),
            verifier: Verifier::Shared(Box::new(hmac::Key::new(hmac::HMAC_SHA256, bytes))),
        };
        Self::of(vec![key], Naming::One)
    }

    /// What was dropped and why, for the log: one line a key.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// How many keys can be used.
    #[must_use]
    pub fn usable(&self) -> usize {
        self.keys.len()
    }

    /// Whether a key has this name.
    #[must_use]
    pub fn has_kid(&self, kid: &str) -> bool {
        self.keys.iter().any(|key| key.kid.as_deref() == Some(kid))
    }

    /// The keys that can be used, by name and algorithm.
    pub fn listed(&self) -> impl Iterator<Item = (Option<&str>, Algorithm)> {
        self.keys.iter().map(|key| (key.kid.as_deref(), key.algorithm))
    }

    /// Changes whenever a key, a name or an algorithm changes, and only then: a refresh that brings the same keys
    /// does not empty the cache.
    pub(super) const fn generation(&self) -> u128 {
        self.generation
    }

    /// Whether a key of this mark is in it.
    pub(super) fn has(&self, mark: u128) -> bool {
        self.marks.contains(&mark)
    }

    /// The one key that may have signed this token.
    pub(super) fn select(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<&Key, Why> {
        let named = match (self.naming, kid) {
            (Naming::ByKid, Some(kid)) => Some(kid),
            (Naming::ByKid, None) | (Naming::One, _) => None,
        };
        if let Some(kid) = named {
            let key = self.keys.iter().find(|key| key.kid.as_deref() == Some(kid)).ok_or(Why::KidUnknown)?;
            return if key.algorithm == algorithm { Ok(key) } else { Err(Why::KeyAlgorithm) };
        }
        let mut matching = self.keys.iter().filter(|key| key.algorithm == algorithm);
        match (matching.next(), matching.next()) {
            (Some(key), None) => Ok(key),
            (Some(_), Some(_)) => Err(Why::KidMissing),
            (None, _) => Err(Why::KeyAlgorithm),
        }
    }
}

impl Key {
    /// Signs, where it is a secret.
    pub(super) fn sign(&self, message: &[u8]) -> Option<hmac::Tag> {
        match &self.verifier {
            Verifier::Public(_) => None,
            Verifier::Shared(key) => Some(hmac::sign(key, message)),
        }
    }

    /// Verifies a signature over `message`.
    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), Why> {
        let verified = match &self.verifier {
            Verifier::Public(key) => key.verify_sig(message, signature),
            Verifier::Shared(key) => hmac::verify(key, message, signature),
        };
        verified.map_err(|_| Why::Signature)
    }
}

/// The same kid with other material (or another algorithm): nobody can say which is meant, so both go. The same key
/// twice is one key.
fn drop_conflicts(keys: &mut Vec<Key>, warnings: &mut Vec<String>) {
    let mut conflicting: HashSet<String> = HashSet::new();
    let mut kept: Vec<Key> = Vec::with_capacity(keys.len());
    for key in keys.drain(..) {
        let twin = kept.iter().find(|other| other.kid == key.kid && key.kid.is_some());
        match twin {
            Some(other) if other.material == key.material && other.algorithm == key.algorithm => {}
            Some(_) => {
                conflicting.extend(key.kid);
            }
            None => kept.push(key),
        }
    }
    for kid in &conflicting {
        warnings.push(format!("kid `{kid}`: two different keys have this kid, both are dropped"));
    }
    kept.retain(|key| key.kid.as_ref().is_none_or(|kid| !conflicting.contains(kid)));
    *keys = kept;
}

impl Key {
    /// Changes with the key, its name and its algorithm, and only then.
    pub(super) fn mark(&self) -> u128 {
        generation(std::slice::from_ref(self))
    }
}

fn generation(keys: &[Key]) -> u128 {
    let mut context = digest::Context::new(&SHA256);
    let mut add = |bytes: &[u8]| {
        context.update(&bytes.len().to_be_bytes());
        context.update(bytes);
    };
    for key in keys {
        add(key.kid.as_deref().unwrap_or_default().as_bytes());
        add(format!("{:?}", key.algorithm).as_bytes());
        add(&key.material);
    }
    let digest = context.finish();
    digest.as_ref().iter().take(16).fold(0u128, |sum, byte| (sum << 8) | u128::from(*byte))
}

/// The kid of a key that is reported, only when it is in the grammar: a log is no place for other text.
fn shown_kid(item: &Json) -> String {
    item.member("kid")
        .and_then(Json::text)
        .filter(|kid| jwk::is_kid(kid))
        .map_or_else(String::new, |kid| format!(" (kid `{kid}`)"))
}

/// Secrets that stand in tutorials; anyone who signs with one has published their key.
const SAMPLES: &[&str] = &["a-string-secret-at-least-256-bits-long", "your-256-bit-secret-your-256-bit-secret"];

/// Why a secret can be guessed, as far as that can be seen.
pub(super) fn weakness(bytes: &[u8]) -> Option<&'static str> {
    let distinct: HashSet<u8> = bytes.iter().copied().collect();
    if distinct.len() < 8 {
        return Some("it has fewer than 8 different bytes");
    }
    let repeats = |period: usize| bytes.iter().zip(bytes.iter().skip(period)).all(|(a, b)| a == b);
    if (1..=bytes.len() >> 1).any(repeats) {
        return Some("it is one pattern repeated");
    }
    let sequence = bytes.iter().zip(bytes.iter().skip(1)).all(|(a, b)| b.wrapping_sub(*a) == 1);
    if sequence {
        return Some("it counts up");
    }
    if SAMPLES.iter().any(|sample| sample.as_bytes() == bytes) {
        return Some("it is a published sample");
    }
    None
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySet")
            .field("keys", &self.keys.len())
            .field("warnings", &self.warnings)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
