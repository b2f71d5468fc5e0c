//! The file of key records: `{ "version": 1, "keys": [ … ] }`. Keyed hashes and rights, never a key.
//!
//! Read here; written by `api_key_issue.rs`; what a record is stands in `api_key_record.rs`.

use std::collections::HashSet;

use portcullis_api::UnixSeconds;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{api_key_pepper::PEPPER_BYTES_MIN, api_key_record::Record};

const VERSION: u32 = 1;
/// Records of one file or one store, revoked and expired ones too.
pub const RECORDS_MAX: usize = 100_000;

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
    #[error("key {0}: no such record")]
    Unknown(String),
    /// The pepper.
    #[error("the pepper {0}; write at least {PEPPER_BYTES_MIN} random bytes")]
    Pepper(String),
    /// The versions of the pepper.
    #[error("the peppers: {0}")]
    PepperVersions(String),
    /// A request for a key that cannot be had.
    #[error("the new key's {0}")]
    Request(String),
    /// Not what a row of a store holds.
    #[error("the record is not as documented: {0}")]
    Row(String),
    /// A name that another key has.
    #[error("tenant {tenant} has an active key `{name}`: rotate it, or write another name")]
    NameTaken {
        /// The tenant.
        tenant: String,
        /// The name.
        name: String,
    },
    /// As many keys as a tenant may have.
    #[error("tenant {tenant} has {max} active keys, as many as api_keys.keys_max allows")]
    TenantFull {
        /// The tenant.
        tenant: String,
        /// The bound.
        max: u32,
    },
    /// A key that cannot be rotated any more.
    #[error("key {id} is {state}: only an active key is rotated")]
    NotActive {
        /// The key.
        id: String,
        /// What it is.
        state: &'static str,
    },
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

pub(super) fn write(records: &[Record]) -> Result<String, ApiKeyFileError> {
    let keys: Vec<Value> = records.iter().map(Record::to_json).collect();
    let text = serde_json::to_string_pretty(&json!({ "version": VERSION, "keys": keys }))
        .map_err(|error| ApiKeyFileError::Shape(error.to_string()))?;
    // Whatever is written can be read again: ids are single and bounds are kept.
    read(text.as_bytes())?;
    Ok(text + "\n")
}
