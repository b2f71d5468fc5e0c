//! What a store of key records does to them: issue, rotate, revoke, show. Rows in, rows out; the store itself writes.
//!
//! A row that cannot be believed is left out by [`ApiKeyTable::of_rows`] and named. That is not what a file gets, which is
//! refused whole: a file has one author who sees the refusal at once, while a store has many writers, and one bad row must
//! not keep a revocation of another key from being heard.

use std::num::NonZeroU32;

use portcullis_api::{Environment, UnixSeconds};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{
    api_key_file::ApiKeyFileError,
    api_key_issue::{IssueRequest, make},
    api_key_pepper::Peppers,
    api_key_record::{LIFETIME_MAX_S, Record, State, shown},
};

/// How long a key that was rotated goes on, in seconds, when nothing else is asked for: 24 hours.
pub const OVERLAP_DEFAULT_S: u64 = 86_400;
/// How long it may go on: 30 days.
pub const OVERLAP_MAX_S: u64 = 30 * 86_400;

/// A row of a store. `id` and `tenant` are what it is found by, and must be the record's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The key's id.
    pub id: String,
    /// Whose key it is.
    pub tenant: String,
    /// The record, as JSON; or why the row cannot be read.
    pub record: Result<String, &'static str>,
    /// When it was last seen, about; no part of the record.
    pub last_used: Option<UnixSeconds>,
}

impl Row {
    pub(super) fn read(&self) -> Result<Record, ApiKeyFileError> {
        let json = self.record.as_ref().map_err(|why| ApiKeyFileError::Row((*why).to_owned()))?;
        let record: Record = serde_json::from_str(json).map_err(|error| ApiKeyFileError::Row(error.to_string()))?;
        record.bounded()?;
        if record.id != self.id || record.tenant.as_str() != self.tenant {
            return Err(ApiKeyFileError::Row("it is of another id or tenant than its row".to_owned()));
        }
        Ok(record)
    }

    fn of(record: &Record, last_used: Option<UnixSeconds>) -> Self {
        let (id, tenant) = (record.id.clone(), record.tenant.as_str().to_owned());
        Self { id, tenant, record: Ok(record.to_json().to_string()), last_used }
    }
}

/// A row that was left out, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRow {
    /// Its id, fit to be shown.
    pub id: String,
    /// What is wrong with it.
    pub why: String,
}

/// A new key of a store: its text, shown once, and the rows to be written.
pub struct Made {
    /// The key itself.
    pub key: Zeroizing<String>,
    /// Its id.
    pub id: String,
    /// Rows that are new or changed.
    pub rows: Vec<Row>,
}

/// What to do with a key's successor.
#[derive(Debug, Clone)]
pub struct RotateRequest {
    /// Seconds for which the old key goes on; [`OVERLAP_DEFAULT_S`] when not given, 1 to [`OVERLAP_MAX_S`].
    pub overlap_s: Option<u64>,
    /// Seconds until the successor expires; as long as the old key had when not given.
    pub lifetime_s: Option<u64>,
    /// Who asked for it.
    pub created_by: Option<String>,
}

/// How a store's records are made and read.
#[derive(Debug, Clone)]
pub struct Ledger {
    /// The versions of the pepper.
    pub peppers: Peppers,
    /// First part of every key.
    pub brand: Environment,
    /// Active keys a tenant may have.
    pub active_max: NonZeroU32,
}

impl Ledger {
    /// Makes a key. `rows` are all of its tenant.
    ///
    /// # Errors
    /// When it asks for what it may not have, its name is taken, or the tenant has enough.
    pub fn issue(
        &self,
        rows: &[Row],
        request: IssueRequest,
        entropy: &mut dyn FnMut(&mut [u8]),
        now: UnixSeconds,
    ) -> Result<Made, ApiKeyFileError> {
        let Some(name) = request.name.clone() else {
            return Err(ApiKeyFileError::Request("name is missing: a key of a store has one".to_owned()));
        };
        let active = self.active(rows, now)?;
        let tenant = request.tenant.as_str().to_owned();
        if active.iter().any(|record| record.name.as_ref() == Some(&name)) {
            return Err(ApiKeyFileError::NameTaken { tenant, name: name.escape_default().to_string() });
        }
        if u32::try_from(active.len()).unwrap_or(u32::MAX) >= self.active_max.get() {
            return Err(ApiKeyFileError::TenantFull { tenant, max: self.active_max.get() });
        }
        let (key, record) = make(request, &self.peppers, entropy, now)?;
        Ok(Made { key, id: record.id.clone(), rows: vec![Row::of(&record, None)] })
    }

    /// Makes a key's successor with its name and rights, and lets the key itself end after the overlap.
    ///
    /// # Errors
    /// When there is no such key, it is not active, or its record cannot be believed.
    pub fn rotate(
        &self,
        row: &Row,
        request: RotateRequest,
        entropy: &mut dyn FnMut(&mut [u8]),
        now: UnixSeconds,
    ) -> Result<Made, ApiKeyFileError> {
        let RotateRequest { overlap_s, lifetime_s, created_by } = request;
        let overlap_s = overlap_s.unwrap_or(OVERLAP_DEFAULT_S);
        if !(1..=OVERLAP_MAX_S).contains(&overlap_s) {
            let why = "overlap is not between 1 second and 30 days; to end the old key at once revoke it";
            return Err(ApiKeyFileError::Request(why.to_owned()));
        }
        let mut old = row.read()?;
        let (_, pepper) = old.verified(&self.peppers)?;
        match old.state(now) {
            State::Active => {}
            state @ (State::Superseded | State::Expired | State::Revoked) => {
                return Err(ApiKeyFileError::NotActive { id: shown(&row.id), state: state.as_str() });
            }
        }
        let had = old.expires.saturating_sub(old.created).min(LIFETIME_MAX_S);
        let request = IssueRequest {
            brand: self.brand.clone(),
            environment: old.env.clone(),
            tenant: old.tenant.clone(),
            role: old.role,
            scopes: old.scopes.clone(),
            name: old.name.clone(),
            lifetime_s: Some(lifetime_s.unwrap_or(had)),
            cidrs: old.cidrs.clone(),
            routes: old.routes.clone(),
            created_by,
            kind: old.kind,
            filters: old.filters.clone(),
        };
        let (key, successor) = make(request, &self.peppers, entropy, now)?;
        old.successor = Some(successor.id.clone());
        // A clock that was set back since must not make a record that ends before it begins.
        let least = old.created.saturating_add(1);
        old.expires = old.expires.min(now.saturating_add(overlap_s)).max(least);
        let old = old.signed(pepper);
        Ok(Made { key, id: successor.id.clone(), rows: vec![Row::of(&successor, None), Row::of(&old, row.last_used)] })
    }

    /// Revokes a key; `None` when it was before.
    ///
    /// # Errors
    /// When its record cannot be believed.
    pub fn revoke(&self, row: &Row, now: UnixSeconds) -> Result<Option<Row>, ApiKeyFileError> {
        let mut record = row.read()?;
        Ok(record.revoke(&self.peppers, now)?.then(|| Row::of(&record, row.last_used)))
    }

    /// A key for people and programs. Nothing of it is secret.
    #[must_use]
    pub fn show(&self, row: &Row, now: UnixSeconds) -> Value {
        let (record, state, why) = match row.read() {
            Err(why) => return json!({ "id": shown(&row.id), "state": "unusable", "why": why.to_string() }),
            Ok(record) => match record.verified(&self.peppers).map(|_| ()) {
                Ok(()) => (record.to_json(), record.state(now).as_str(), None),
                Err(why) => (record.to_json(), "unusable", Some(why.to_string())),
            },
        };
        let pepper = row.read().map(|record| shown(record.pepper_id())).unwrap_or_default();
        let mut shown = record;
        if let Some(fields) = shown.as_object_mut() {
            for secret in ["hash", "mac"] {
                fields.shift_remove(secret);
            }
            fields.insert("last_used".to_owned(), json!(row.last_used));
            fields.insert("pepper".to_owned(), json!(pepper));
            fields.insert("state".to_owned(), json!(state));
            if let Some(why) = why {
                fields.insert("why".to_owned(), json!(why));
            }
        }
        shown
    }

    /// A key as a line for people.
    #[must_use]
    pub fn line(&self, row: &Row, now: UnixSeconds) -> String {
        let record = match row.read() {
            Err(why) => return format!("{} unusable: {why}", shown(&row.id)),
            Ok(record) => record,
        };
        let used = row.last_used.map_or_else(|| "never".to_owned(), |at| format!("{}s ago", now.saturating_sub(at)));
        let line = format!("{} used={used}", record.line(now));
        match record.verified(&self.peppers).map(|_| ()) {
            Ok(()) => line,
            Err(why) => format!("{line} unusable: {why}"),
        }
    }

    /// Keys that count. What was made under a pepper that is not ours says that ours is not the store's: a key made with
    /// it would be refused by the gateways.
    fn active(&self, rows: &[Row], now: UnixSeconds) -> Result<Vec<Record>, ApiKeyFileError> {
        let mut active = Vec::with_capacity(rows.len());
        for record in rows.iter().filter_map(|row| row.read().ok()) {
            match record.verified(&self.peppers).map(|_| ()) {
                Ok(()) if record.state(now) == State::Active => active.push(record),
                Err(why @ ApiKeyFileError::Record { field: "hash", .. }) => return Err(why),
                // A record that somebody changed opens nothing, and keeps no name.
                Ok(()) | Err(_) => {}
            }
        }
        Ok(active)
    }
}

#[cfg(test)]
#[path = "api_key_ledger_tests.rs"]
mod tests;
