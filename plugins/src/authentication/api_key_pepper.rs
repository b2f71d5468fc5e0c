//! The peppers: the secrets that key the hashes and the MACs of API key records. The newest makes records, all of them
//! verify, and a record's hash names the one that it was made with.

use std::{fmt, sync::Arc};

use aws_lc_rs::hmac;
use portcullis_api::{Secret, hex};
use zeroize::Zeroizing;

use super::{api_key_file::ApiKeyFileError, api_keys, keys::weakness};

pub(super) const PEPPER_BYTES_MIN: usize = 32;
/// The newest and those before it. Whoever changes it more often than keys expire has to do without some keys.
pub const PEPPERS_MAX: usize = 8;

/// All versions of the pepper that are in use.
#[derive(Clone)]
pub struct Peppers {
    newest: Arc<Pepper>,
    older: Vec<Arc<Pepper>>,
}

impl Peppers {
    /// # Errors
    /// [`ApiKeyFileError::Pepper`] when one is short or can be guessed, is there twice, or there are too many.
    pub fn new(newest: &Secret, older: &[Secret]) -> Result<Self, ApiKeyFileError> {
        if older.len() >= PEPPERS_MAX {
            return Err(ApiKeyFileError::PepperVersions(format!("more than {PEPPERS_MAX} versions")));
        }
        let mut this = Self { newest: Arc::new(Pepper::new(newest)?), older: Vec::with_capacity(older.len()) };
        for secret in older {
            let pepper = Pepper::new(secret)?;
            if this.find(&pepper.id).is_some() {
                return Err(ApiKeyFileError::PepperVersions(format!("version {} is there twice", pepper.id)));
            }
            this.older.push(Arc::new(pepper));
        }
        Ok(this)
    }

    /// For a table without keys: its hashes are compared with nothing.
    pub(super) fn none() -> Self {
        Self { newest: Arc::new(Pepper::derive(&[0; PEPPER_BYTES_MIN])), older: Vec::new() }
    }

    pub(super) fn newest(&self) -> &Pepper {
        &self.newest
    }

    pub(super) fn find(&self, id: &str) -> Option<&Arc<Pepper>> {
        std::iter::once(&self.newest).chain(&self.older).find(|pepper| pepper.id == id)
    }

    /// All of them by name, for people.
    pub(super) fn named(&self) -> String {
        let ids: Vec<&str> = std::iter::once(&self.newest).chain(&self.older).map(|pepper| &*pepper.id).collect();
        ids.join(", ")
    }
}

impl fmt::Debug for Peppers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Peppers").field(&self.named()).finish()
    }
}

/// The keys that are derived from the operator's pepper, one purpose each.
pub(super) struct Pepper {
    hash: hmac::Key,
    record: hmac::Key,
    /// Which version it is: eight hex digits that are derived from it and tell nothing of it.
    pub(super) id: String,
}

impl Pepper {
    fn new(pepper: &Secret) -> Result<Self, ApiKeyFileError> {
        let bytes = pepper.expose();
        if bytes.len() < PEPPER_BYTES_MIN {
            return Err(ApiKeyFileError::Pepper(format!("has {} bytes", bytes.len())));
        }
        if let Some(why) = weakness(bytes) {
            return Err(ApiKeyFileError::Pepper(format!("can be guessed: {why}")));
        }
        Ok(Self::derive(bytes))
    }

    fn derive(bytes: &[u8]) -> Self {
        let root = hmac::Key::new(hmac::HMAC_SHA256, bytes);
        let record = Zeroizing::new(api_keys::mac(&root, &[b"portcullis\0api key record\0v1"]));
        let id = api_keys::mac(&root, &[b"portcullis\0pepper id\0v1"]);
        let id = hex(id.get(..4).unwrap_or_default());
        Self { record: hmac::Key::new(hmac::HMAC_SHA256, record.as_slice()), hash: root, id }
    }

    /// The stored form of a secret: `HMAC(pepper, "pck\0v1\0" env "\0" id "\0" secret)`.
    pub(super) fn hash(&self, environment: &str, id: &str, secret: &str) -> [u8; 32] {
        let parts: [&[u8]; 6] = [b"pck\0v1\0", environment.as_bytes(), b"\0", id.as_bytes(), b"\0", secret.as_bytes()];
        api_keys::mac(&self.hash, &parts)
    }

    /// Of a record's encoded fields.
    pub(super) fn record_mac(&self, encoded: &[u8]) -> [u8; 32] {
        api_keys::mac(&self.record, &[encoded])
    }
}
