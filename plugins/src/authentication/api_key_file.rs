//! The file of key records: `{ "version": 1, "keys": [ … ] }`. Keyed hashes and rights, never a key.
//!
//! Read here; written by `api_key_issue.rs`.
//!
//! Invariant: a record's MAC covers every field of it, so whoever can write the file but does not have the pepper can
//! neither mint a key nor change one. (They can delete a record, or put back an older version of it: keep the file
//! writable for the operator only.) Times are seconds since 1970-01-01 UTC.

use std::collections::HashSet;

use aws_lc_rs::hmac;
use portcullis_api::{Environment, Role, Scope, Secret, TenantId, UnixSeconds, hex};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{
    api_keys::{self, ID_CHARS},
    claims::is_printable,
    keys::weakness,
};

const VERSION: u32 = 1;
const RECORDS_MAX: usize = 100_000;
pub(super) const SCOPES_MAX: usize = 64;
const NAME_CHARS_MAX: usize = 64;
const PEPPER_BYTES_MIN: usize = 32;
/// How long a key may live, in seconds: 365 days.
pub const LIFETIME_MAX_S: u64 = 365 * 86_400;

/// What is wrong with a file of key records, a pepper, or a request for a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiKeyFileError {
    /// Not the documented JSON.
    #[error("the key file is not `{{ \"version\": 1, \"keys\": [ … ] }}` as documented: {0}")]
    Shape(String),
    /// Another version.
    #[error("the key file has version {0}; this gateway reads version 1")]
    Version(u32),
    /// Too many records.
    #[error("the key file has more than {RECORDS_MAX} records")]
    TooMany,
    /// An id twice.
    #[error("key {0}: the id stands twice in the file")]
    Twice(String),
    /// A field of a record.
    #[error("key {id}: {field}: {what}")]
    Record {
        /// The record's id.
        id: String,
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        what: String,
    },
    /// No such record.
    #[error("key {0}: no such record in the file")]
    Unknown(String),
    /// The pepper.
    #[error("the pepper {0}; write at least {PEPPER_BYTES_MIN} random bytes")]
    Pepper(String),
    /// A request for a key that cannot be had.
    #[error("the new key's {0}")]
    Request(String),
}

/// The keys that are derived from the operator's pepper, one purpose each.
pub(super) struct Pepper {
    hash: hmac::Key,
    record: hmac::Key,
    pub(super) id: String,
}

impl Pepper {
    pub(super) fn new(pepper: &Secret) -> Result<Self, ApiKeyFileError> {
        let bytes = pepper.expose();
        if bytes.len() < PEPPER_BYTES_MIN {
            return Err(ApiKeyFileError::Pepper(format!("has {} bytes", bytes.len())));
        }
        if let Some(why) = weakness(bytes) {
            return Err(ApiKeyFileError::Pepper(format!("can be guessed: {why}")));
        }
        Ok(Self::derive(bytes))
    }

    /// For a table without keys: its hashes are compared with nothing.
    pub(super) fn none() -> Self {
        Self::derive(&[0; PEPPER_BYTES_MIN])
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
}

/// One record, exactly as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub(super) id: String,
    pub(super) env: Environment,
    pub(super) tenant: TenantId,
    pub(super) hash: String,
    pub(super) role: Option<Role>,
    pub(super) scopes: Vec<Scope>,
    pub(super) created: UnixSeconds,
    pub(super) expires: UnixSeconds,
    pub(super) revoked: Option<UnixSeconds>,
    pub(super) name: Option<String>,
    pub(super) mac: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    keys: Vec<Record>,
}

/// Reads the records; shapes, bounds and ids are checked, MACs are not.
pub(super) fn read(json: &[u8]) -> Result<Vec<Record>, ApiKeyFileError> {
    let file: File = serde_json::from_slice(json).map_err(|error| ApiKeyFileError::Shape(error.to_string()))?;
    if file.version != VERSION {
        return Err(ApiKeyFileError::Version(file.version));
    }
    if file.keys.len() > RECORDS_MAX {
        return Err(ApiKeyFileError::TooMany);
    }
    let mut ids = HashSet::with_capacity(file.keys.len());
    for record in &file.keys {
        record.bounded()?;
        if !ids.insert(record.id.as_str()) {
            return Err(ApiKeyFileError::Twice(record.id.clone()));
        }
    }
    Ok(file.keys)
}

/// One line a record for people: id, environment, tenant, role, scopes, name, and when it ends. Nothing of it is secret.
///
/// # Errors
/// [`ApiKeyFileError`] when the text is no file of key records.
pub fn list_records(file_text: &str, now: UnixSeconds) -> Result<Vec<String>, ApiKeyFileError> {
    Ok(read(file_text.as_bytes())?.iter().map(|record| record.line(now)).collect())
}

impl Record {
    fn line(&self, now: UnixSeconds) -> String {
        let scopes: Vec<&str> = self.scopes.iter().map(Scope::as_str).collect();
        let state = match self.revoked {
            Some(_) => "revoked".to_owned(),
            None if self.expires <= now => "expired".to_owned(),
            None => format!("{} days left", self.expires.saturating_sub(now).div_euclid(86_400)),
        };
        format!(
            "{} {} {} role={} scopes={} name={} {state}",
            self.id,
            self.env,
            self.tenant,
            self.role.map_or("-", Role::as_str),
            if scopes.is_empty() { "-".to_owned() } else { scopes.join(",") },
            self.name.as_deref().unwrap_or("-").escape_default(),
        )
    }

    fn wrong(&self, field: &'static str, what: impl Into<String>) -> ApiKeyFileError {
        let id: String = self.id.chars().take(ID_CHARS).flat_map(char::escape_default).collect();
        ApiKeyFileError::Record { id, field, what: what.into() }
    }

    fn bounded(&self) -> Result<(), ApiKeyFileError> {
        if self.id.len() != ID_CHARS || !self.id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(self.wrong("id", "12 of 0-9, A-Z and a-z"));
        }
        if self.scopes.len() > SCOPES_MAX {
            return Err(self.wrong("scopes", format!("more than {SCOPES_MAX}")));
        }
        let lifetime = self.expires.checked_sub(self.created).filter(|lifetime| *lifetime > 0);
        let Some(lifetime) = lifetime else { return Err(self.wrong("expires", "not after created")) };
        if lifetime > LIFETIME_MAX_S {
            return Err(self.wrong("expires", "more than 365 days after created"));
        }
        if let Some(name) = &self.name {
            check_name(name).map_err(|what| self.wrong("name", what))?;
        }
        Ok(())
    }

    /// The stored hash, once the MAC of the record is right.
    pub(super) fn verified(&self, pepper: &Pepper) -> Result<[u8; 32], ApiKeyFileError> {
        let mut parts = self.hash.split('$');
        let (Some("v1"), Some("hmac-sha256"), Some(pepper_id), Some(hash), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(self.wrong("hash", "not `v1$hmac-sha256$PEPPER$HEX`"));
        };
        if pepper_id != pepper.id {
            return Err(self.wrong("hash", format!("made with pepper {}, this one is {}", shown(pepper_id), pepper.id)));
        }
        let hash = unhex(hash).ok_or_else(|| self.wrong("hash", "not 64 lower-case hex digits"))?;
        let mac = unhex(&self.mac).ok_or_else(|| self.wrong("mac", "not 64 lower-case hex digits"))?;
        if bool::from(self.made_mac(pepper).as_slice().ct_eq(mac.as_slice())) {
            Ok(hash)
        } else {
            Err(self.wrong("mac", "does not match: the record was changed by something that does not have the pepper"))
        }
    }

    /// Over every field but itself, each with its length before it: no two records have one encoding.
    fn made_mac(&self, pepper: &Pepper) -> [u8; 32] {
        // Exhaustive, so that a new field cannot be left out.
        let Self { id, env, tenant, hash, role, scopes, created, expires, revoked, name, mac: _ } = self;
        let mut text: Vec<u8> = Vec::with_capacity(256);
        let mut field = |bytes: Option<&[u8]>| {
            text.push(u8::from(bytes.is_some()));
            let bytes = bytes.unwrap_or_default();
            text.extend(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
            text.extend(bytes);
        };
        field(Some(b"record v1"));
        field(Some(id.as_bytes()));
        field(Some(env.as_str().as_bytes()));
        field(Some(tenant.as_str().as_bytes()));
        field(Some(hash.as_bytes()));
        field(role.map(|role| role.as_str().as_bytes()));
        field(Some(&u64::try_from(scopes.len()).unwrap_or(u64::MAX).to_be_bytes()));
        for scope in scopes {
            field(Some(scope.as_str().as_bytes()));
        }
        field(Some(&created.to_be_bytes()));
        field(Some(&expires.to_be_bytes()));
        field(revoked.map(u64::to_be_bytes).as_ref().map(<[u8; 8]>::as_slice));
        field(name.as_ref().map(String::as_bytes));
        api_keys::mac(&pepper.record, &[&text])
    }

    pub(super) fn signed(mut self, pepper: &Pepper) -> Self {
        self.mac = hex(&self.made_mac(pepper));
        self
    }

    pub(super) fn to_json(&self) -> Value {
        let Self { id, env, tenant, hash, role, scopes, created, expires, revoked, name, mac } = self;
        let mut map = Map::new();
        let mut set = |key: &str, value: Value| map.insert(key.to_owned(), value);
        set("id", json!(id));
        set("env", json!(env.as_str()));
        set("tenant", json!(tenant.as_str()));
        if let Some(name) = name {
            set("name", json!(name));
        }
        if let Some(role) = role {
            set("role", json!(role.as_str()));
        }
        set("scopes", scopes.iter().map(|scope| json!(scope.as_str())).collect());
        set("created", json!(created));
        set("expires", json!(expires));
        if let Some(revoked) = revoked {
            set("revoked", json!(revoked));
        }
        set("hash", json!(hash));
        set("mac", json!(mac));
        Value::Object(map)
    }
}

pub(super) fn write(records: &[Record]) -> Result<String, ApiKeyFileError> {
    let keys: Vec<Value> = records.iter().map(Record::to_json).collect();
    let text = serde_json::to_string_pretty(&json!({ "version": VERSION, "keys": keys }))
        .map_err(|error| ApiKeyFileError::Shape(error.to_string()))?;
    // Whatever is written can be read again: ids are single and bounds are kept.
    read(text.as_bytes())?;
    Ok(text + "\n")
}

pub(super) fn check_name(name: &str) -> Result<(), &'static str> {
    let chars = name.chars().count();
    if (1..=NAME_CHARS_MAX).contains(&chars) && is_printable(name) {
        Ok(())
    } else {
        Err("1 to 64 printable characters")
    }
}

pub(super) fn shown(text: &str) -> String {
    text.chars().take(32).flat_map(char::escape_default).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)) {
        return None;
    }
    let mut out = [0; 32];
    for (slot, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *slot = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(out)
}
