//! API keys: the text a client holds, and the table that verifies it.
//!
//! `pck_live_7Q2m4kP9xWbT_<43 base62>_<6 base62>`: brand, environment, id, secret (over 256 bits), and a CRC-32 of
//! everything before the last `_`. The checksum is no security: it stops typos and random floods before any look-up,
//! and lets scanners tell a key from noise. What is stored is a keyed hash; see `api_key_record.rs`.

use std::{collections::HashMap, fmt, sync::Arc};

use aws_lc_rs::hmac;
use portcullis_api::{Environment, UnixSeconds};
use subtle::ConstantTimeEq;

use super::{
    api_key_file::{self, ApiKeyFileError},
    api_key_kind::KeyKind,
    api_key_ledger::{BadRow, Row},
    api_key_pepper::{Pepper, Peppers},
    api_key_record::{Record, shown},
    api_key_uses::KeyUses,
    deny::Why,
    exchange::issuer_of,
    identity::{Credential, Environments, Identity, Kind, Parts},
};
use crate::revocations::{Revocable, Target};

pub(super) const ID_CHARS: usize = 12;
pub(super) const SECRET_CHARS: usize = 43;
const CHECKSUM_CHARS: usize = 6;
pub(super) const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// An API key in good form. Nothing of it is verified yet.
struct Presented<'k> {
    environment: &'k str,
    id: &'k str,
    secret: &'k str,
}

/// Parses a key; the checksum is checked before anything is looked up.
fn parse<'k>(key: &'k [u8], brand: &Environment) -> Result<Presented<'k>, Why> {
    // Ambiguity in the form: base62 has no `_`, so five parts are these five parts.
    let key = std::str::from_utf8(key).map_err(|_| Why::ApiKeyForm)?;
    let mut parts = key.split('_');
    let (Some(first), Some(environment), Some(id), Some(secret), Some(checksum), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Why::ApiKeyForm);
    };
    let base62 =
        |text: &str, chars: usize| text.len() == chars && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let formed = first == brand.as_str()
        && Environment::parse(environment).is_ok()
        && base62(id, ID_CHARS)
        && base62(secret, SECRET_CHARS)
        && base62(checksum, CHECKSUM_CHARS);
    if !formed {
        return Err(Why::ApiKeyForm);
    }
    let body = key.rsplit_once('_').map_or("", |(body, _)| body);
    if self::checksum(body) != checksum {
        return Err(Why::ApiKeyChecksum);
    }
    Ok(Presented { environment, id, secret })
}

/// Whether a key can have this id.
pub(crate) fn is_api_key_id(text: &str) -> bool {
    text.len() == ID_CHARS && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// The six base62 digits of the CRC-32 of `body`, most significant first.
pub(super) fn checksum(body: &str) -> String {
    let mut rest = crc32(body.as_bytes());
    let mut digits = [b'0'; CHECKSUM_CHARS];
    for digit in digits.iter_mut().rev() {
        let index = usize::try_from(rest % 62).unwrap_or(0);
        *digit = BASE62.get(index).copied().unwrap_or(b'0');
        rest /= 62;
    }
    digits.iter().map(|&digit| char::from(digit)).collect()
}

/// CRC-32 (ISO-HDLC, as in zip), bit by bit: 70 bytes a key do not need a table.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

/// Every key that this gateway knows, as keyed hashes. Replaced whole when the file or the store changes.
pub struct ApiKeyTable {
    /// `None` for a table that knows no key.
    brand: Option<Environment>,
    keys: HashMap<String, Entry>,
    peppers: Peppers,
    /// Why nobody can say which keys there are.
    away: Option<Arc<str>>,
    /// Compared with when an id is unknown, so that an unknown id costs what a wrong secret costs.
    dummy: [u8; 32],
}

struct Entry {
    hash: [u8; 32],
    /// The version that its hash was made with.
    pepper: Arc<Pepper>,
    identity: Arc<Identity>,
    expires: UnixSeconds,
    revoked: bool,
}

impl Entry {
    /// What a record stands for, once its MAC is right.
    fn of(record: Record, peppers: &Peppers, last_used: Option<UnixSeconds>) -> Result<Self, ApiKeyFileError> {
        let (hash, pepper) = record.verified(peppers)?;
        let pepper = Arc::clone(pepper);
        let (expires, revoked) = (record.expires, record.revoked.is_some());
        let targets = [Target::ApiKey { id: record.id.clone() }, Target::Tenant { tenant: record.tenant.clone() }];
        let revocable = Revocable::new(&targets, record.created);
        let kind = match record.kind {
            Some(KeyKind::Embed) => Kind::Embed,
            Some(KeyKind::Service) | None => Kind::ApiKey,
        };
        let identity = Arc::new(Identity::verified(Parts {
            tenant: record.tenant,
            issuer: issuer_of(kind).into(),
            subject: record.id.clone(),
            kind,
            role: record.role,
            scopes: record.scopes,
            environment: Some(record.env),
            key_id: Some(record.id),
            credential: Credential::ApiKey,
            expires: Some(expires),
            jti: None,
            certificate: None,
            bound: None,
            signed_by: None,
            auth_time: None,
            environments: Environments::Any,
            filters: record.filters,
            revocable,
            uses: Some(Arc::new(KeyUses::new(record.cidrs, record.routes, last_used))),
        }));
        Ok(Self { hash, pepper, identity, expires, revoked })
    }
}

impl ApiKeyTable {
    /// Reads the file of key records. `brand` is the first part of every key.
    ///
    /// # Errors
    /// [`ApiKeyFileError`] names the record and the field. One bad record refuses the whole file: a record that was
    /// tampered with is not skipped in silence.
    pub fn parse(json: &[u8], peppers: &Peppers, brand: &Environment) -> Result<Self, ApiKeyFileError> {
        let file = api_key_file::read(json)?;
        let mut keys = HashMap::with_capacity(file.len());
        for record in file {
            keys.insert(record.id.clone(), Entry::of(record, peppers, None)?);
        }
        Ok(Self::known(keys, peppers, brand))
    }

    /// The keys of a store, and the rows that were left out because they cannot be believed.
    #[must_use]
    pub fn of_rows(rows: &[Row], peppers: &Peppers, brand: &Environment) -> (Self, Vec<BadRow>) {
        let (mut keys, mut bad) = (HashMap::with_capacity(rows.len()), Vec::new());
        for row in rows {
            match row.read().and_then(|record| Entry::of(record, peppers, row.last_used)) {
                Ok(entry) => {
                    keys.insert(row.id.clone(), entry);
                }
                Err(why) => bad.push(BadRow { id: shown(&row.id), why: why.to_string() }),
            }
        }
        (Self::known(keys, peppers, brand), bad)
    }

    fn known(keys: HashMap<String, Entry>, peppers: &Peppers, brand: &Environment) -> Self {
        Self { brand: Some(brand.clone()), keys, peppers: peppers.clone(), away: None, dummy: [0; 32] }
    }

    /// Whether there is a key of this id, revoked and expired ones too.
    #[must_use]
    pub fn knows(&self, id: &str) -> bool {
        self.keys.contains_key(id)
    }

    /// A table that knows no key, for a gateway without any.
    #[must_use]
    pub fn empty() -> Self {
        Self { brand: None, keys: HashMap::new(), peppers: Peppers::none(), away: None, dummy: [0; 32] }
    }

    /// A table of which nobody knows what should be in it: no key is refused for being unknown.
    #[must_use]
    pub fn away(why: &str) -> Self {
        Self { away: Some(why.into()), ..Self::empty() }
    }

    /// Why nobody can say which keys there are.
    pub(super) fn why_away(&self) -> Option<&str> {
        self.away.as_deref()
    }

    /// How many keys it holds, also expired and revoked ones.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// When a key ends: a rotation may have brought it forward.
    pub(super) fn expires(&self, identity: &Identity) -> Option<UnixSeconds> {
        identity.key_id().and_then(|id| self.keys.get(id)).map(|entry| entry.expires)
    }

    /// Whether a key that verified before would verify now.
    pub(super) fn stands(&self, identity: &Identity, now: UnixSeconds) -> Result<(), Why> {
        let entry = identity.key_id().and_then(|id| self.keys.get(id)).ok_or(Why::ApiKeyUnknown)?;
        entry.stands(now)
    }

    /// The key that a token of the exchange hangs on, as long as it stands and is the tenant's and the environment's.
    pub(super) fn holder(&self, identity: &Identity, now: UnixSeconds) -> Result<&Arc<Identity>, Why> {
        let entry = identity.key_id().and_then(|id| self.keys.get(id)).ok_or(Why::ApiKeyUnknown)?;
        entry.stands(now)?;
        let key = &entry.identity;
        let same = key.tenant() == identity.tenant()
            && key.environment() == identity.environment()
            && key.kind() == identity.kind();
        if same { Ok(key) } else { Err(Why::Exchanged) }
    }

    /// Verifies a key. The hash is made and compared whether the id is known or not.
    pub(super) fn verify(&self, key: &[u8], now: UnixSeconds) -> Result<Arc<Identity>, Why> {
        let presented = parse(key, self.brand.as_ref().ok_or(Why::ApiKeyUnknown)?)?;
        let entry = self.keys.get(presented.id);
        let pepper = entry.map_or(self.peppers.newest(), |entry| &entry.pepper);
        let made = pepper.hash(presented.environment, presented.id, presented.secret);
        let stored = entry.map_or(&self.dummy, |entry| &entry.hash);
        let equal = bool::from(made.as_ref().ct_eq(stored.as_slice()));
        let Some(entry) = entry.filter(|_| equal) else { return Err(Why::ApiKeyUnknown) };
        entry.stands(now)?;
        Ok(Arc::clone(&entry.identity))
    }
}

impl Entry {
    fn stands(&self, now: UnixSeconds) -> Result<(), Why> {
        if self.revoked {
            return Err(Why::ApiKeyRevoked);
        }
        if now >= self.expires {
            return Err(Why::ApiKeyExpired);
        }
        Ok(())
    }
}

impl fmt::Debug for ApiKeyTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKeyTable").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

/// HMAC-SHA256 as an array.
pub(super) fn mac(key: &hmac::Key, parts: &[&[u8]]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(key);
    for part in parts {
        context.update(part);
    }
    let mut out = [0; 32];
    for (slot, byte) in out.iter_mut().zip(context.sign().as_ref()) {
        *slot = *byte;
    }
    out
}

#[cfg(test)]
#[path = "api_keys_tests.rs"]
mod tests;
