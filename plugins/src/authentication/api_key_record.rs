//! One record of an API key: keyed hash and rights, never the key. The same in the file and in a store.
//!
//! Invariant: a record's MAC covers every field of it, so whoever can write where records are kept but does not have the
//! pepper can neither mint a key nor change one. (They can delete a record, or put back an older version of it.) Times are
//! seconds since 1970-01-01 UTC.

use std::sync::Arc;

use portcullis_api::{Cidrs, Environment, Role, Scope, TenantId, UnixSeconds, hex};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use subtle::ConstantTimeEq;

use super::{
    api_key_file::ApiKeyFileError,
    api_key_kind::{KeyKind, check_kind},
    api_key_pepper::{Pepper, Peppers},
    api_keys::{ID_CHARS, is_api_key_id},
    claims::is_printable,
    filters::Filters,
};

pub(super) const SCOPES_MAX: usize = 64;
const CIDRS_MAX: usize = 64;
const ROUTES_MAX: usize = 64;
const ROUTE_BYTES_MAX: usize = 320;
const NAME_CHARS_MAX: usize = 64;
/// How long a key may live, in seconds: 365 days.
pub const LIFETIME_MAX_S: u64 = 365 * 86_400;

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
    /// Where it may be used from; `None` is anywhere.
    pub(super) cidrs: Option<Cidrs>,
    /// Which routes it may be used for, as `host/route`; `None` is all.
    pub(super) routes: Option<Vec<String>>,
    pub(super) created_by: Option<String>,
    /// The key that takes its place.
    pub(super) successor: Option<String>,
    /// What it is for; a service when not written.
    pub(super) kind: Option<KeyKind>,
    /// Which data its holder may see; `None` is all of the tenant's.
    pub(super) filters: Option<Filters>,
    pub(super) mac: String,
}

/// What a key is good for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Active,
    /// Active, and another has taken its place.
    Superseded,
    Expired,
    Revoked,
}

impl State {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Superseded => "superseded",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

impl Record {
    pub(super) fn state(&self, now: UnixSeconds) -> State {
        match (self.revoked, &self.successor) {
            (Some(_), _) => State::Revoked,
            (None, _) if self.expires <= now => State::Expired,
            (None, Some(_)) => State::Superseded,
            (None, None) => State::Active,
        }
    }

    /// Which version of the pepper it was made with, as far as it says so.
    pub(super) fn pepper_id(&self) -> &str {
        self.hash.split('$').nth(2).unwrap_or("-")
    }

    pub(super) fn line(&self, now: UnixSeconds) -> String {
        let scopes: Vec<&str> = self.scopes.iter().map(Scope::as_str).collect();
        let state = match self.state(now) {
            State::Revoked => "revoked".to_owned(),
            State::Expired => "expired".to_owned(),
            State::Active | State::Superseded => {
                format!("{} days left", self.expires.saturating_sub(now).div_euclid(86_400))
            }
        };
        let mut line = format!(
            "{} {} {} role={} scopes={} name={} {state} pepper={}",
            shown(&self.id),
            self.env,
            self.tenant,
            self.role.map_or("-", Role::as_str),
            if scopes.is_empty() { "-".to_owned() } else { scopes.join(",") },
            self.name.as_deref().unwrap_or("-").escape_default(),
            shown(self.pepper_id()),
        );
        if let Some(cidrs) = &self.cidrs {
            line.push_str(&format!(" cidrs={}", texts(cidrs).join(",")));
        }
        if let Some(routes) = &self.routes {
            line.push_str(&format!(" routes={}", routes.join(",").escape_default()));
        }
        if let Some(kind) = self.kind {
            line.push_str(&format!(" kind={}", kind.as_str()));
        }
        if let Some(filters) = &self.filters {
            line.push_str(&format!(" filters={}", filters.as_str().escape_default()));
        }
        if let Some(by) = &self.created_by {
            line.push_str(&format!(" by={}", by.escape_default()));
        }
        if let Some(successor) = &self.successor {
            line.push_str(&format!(" successor={}", shown(successor)));
        }
        line
    }

    fn wrong(&self, field: &'static str, what: impl Into<String>) -> ApiKeyFileError {
        let id: String = self.id.chars().take(ID_CHARS).flat_map(char::escape_default).collect();
        ApiKeyFileError::Record { id, field, what: what.into() }
    }

    pub(super) fn bounded(&self) -> Result<(), ApiKeyFileError> {
        if !is_api_key_id(&self.id) {
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
        if let Some(cidrs) = &self.cidrs {
            check_cidrs(cidrs).map_err(|what| self.wrong("cidrs", what))?;
        }
        if let Some(routes) = &self.routes {
            check_routes(routes).map_err(|what| self.wrong("routes", what))?;
        }
        if let Some(by) = &self.created_by {
            check_name(by).map_err(|what| self.wrong("created_by", what))?;
        }
        check_kind(self.kind, self.role, self.filters.as_ref()).map_err(|(field, what)| self.wrong(field, what))?;
        match &self.successor {
            Some(successor) if !is_api_key_id(successor) => Err(self.wrong("successor", "12 of 0-9, A-Z and a-z")),
            Some(_) | None => Ok(()),
        }
    }

    /// The stored hash and the pepper that it was made with, once the MAC of the record is right.
    pub(super) fn verified<'p>(&self, peppers: &'p Peppers) -> Result<([u8; 32], &'p Arc<Pepper>), ApiKeyFileError> {
        let mut parts = self.hash.split('$');
        let (Some("v1"), Some("hmac-sha256"), Some(pepper_id), Some(hash), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(self.wrong("hash", "not `v1$hmac-sha256$PEPPER$HEX`"));
        };
        let Some(pepper) = peppers.find(pepper_id) else {
            let what = format!("made with pepper {}, this one is {}", shown(pepper_id), peppers.named());
            return Err(self.wrong("hash", what));
        };
        let hash = unhex(hash).ok_or_else(|| self.wrong("hash", "not 64 lower-case hex digits"))?;
        let mac = unhex(&self.mac).ok_or_else(|| self.wrong("mac", "not 64 lower-case hex digits"))?;
        if bool::from(self.made_mac(pepper).as_slice().ct_eq(mac.as_slice())) {
            Ok((hash, pepper))
        } else {
            Err(self.wrong("mac", "does not match: the record was changed by something that does not have the pepper"))
        }
    }

    /// Over every field but itself, each with its length before it: no two records have one encoding.
    fn made_mac(&self, pepper: &Pepper) -> [u8; 32] {
        // Exhaustive, so that a new field cannot be left out.
        let Self {
            id,
            env,
            tenant,
            hash,
            role,
            scopes,
            created,
            expires,
            revoked,
            name,
            cidrs,
            routes,
            created_by,
            successor,
            kind,
            filters,
            mac: _,
        } = self;
        // A record without any of these is encoded as it was before there were any, and files made then go on.
        let restricted = cidrs.is_some() || routes.is_some() || created_by.is_some() || successor.is_some();
        let mut text: Vec<u8> = Vec::with_capacity(256);
        let mut field = |bytes: Option<&[u8]>| {
            text.push(u8::from(bytes.is_some()));
            let bytes = bytes.unwrap_or_default();
            text.extend(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
            text.extend(bytes);
        };
        let filtered = kind.is_some() || filters.is_some();
        let version: &[u8] = match (filtered, restricted) {
            (true, _) => b"record v3",
            (false, true) => b"record v2",
            (false, false) => b"record v1",
        };
        field(Some(version));
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
        if restricted || filtered {
            for list in [&cidrs.as_ref().map(texts), routes] {
                let items = list.as_deref().unwrap_or_default();
                let count = u64::try_from(items.len()).unwrap_or(u64::MAX).to_be_bytes();
                field(list.is_some().then_some(count.as_slice()));
                for item in items {
                    field(Some(item.as_bytes()));
                }
            }
            field(created_by.as_ref().map(String::as_bytes));
            field(successor.as_ref().map(String::as_bytes));
        }
        if filtered {
            field(kind.map(|kind| kind.as_str().as_bytes()));
            field(filters.as_ref().map(|filters| filters.as_str().as_bytes()));
        }
        pepper.record_mac(&text)
    }

    pub(super) fn signed(mut self, pepper: &Pepper) -> Self {
        self.mac = hex(&self.made_mac(pepper));
        self
    }

    pub(super) fn to_json(&self) -> Value {
        let Self {
            id,
            env,
            tenant,
            hash,
            role,
            scopes,
            created,
            expires,
            revoked,
            name,
            cidrs,
            routes,
            created_by,
            successor,
            kind,
            filters,
            mac,
        } = self;
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
        if let Some(cidrs) = cidrs {
            set("cidrs", json!(texts(cidrs)));
        }
        if let Some(routes) = routes {
            set("routes", json!(routes));
        }
        if let Some(by) = created_by {
            set("created_by", json!(by));
        }
        set("created", json!(created));
        set("expires", json!(expires));
        if let Some(revoked) = revoked {
            set("revoked", json!(revoked));
        }
        if let Some(successor) = successor {
            set("successor", json!(successor));
        }
        if let Some(kind) = kind {
            set("kind", json!(kind.as_str()));
        }
        if let Some(filters) = filters {
            set("filters", json!(filters));
        }
        set("hash", json!(hash));
        set("mac", json!(mac));
        Value::Object(map)
    }
}

pub(super) fn check_name(name: &str) -> Result<(), &'static str> {
    let chars = name.chars().count();
    if (1..=NAME_CHARS_MAX).contains(&chars) && is_printable(name) {
        Ok(())
    } else {
        Err("1 to 64 printable characters")
    }
}

/// Nothing listed would be a key that nobody can use.
pub(super) fn check_cidrs(cidrs: &Cidrs) -> Result<(), &'static str> {
    if (1..=CIDRS_MAX).contains(&cidrs.nets().len()) { Ok(()) } else { Err("1 to 64 networks") }
}

/// Whether the routes exist is asked where they are known.
pub(super) fn check_routes(routes: &[String]) -> Result<(), &'static str> {
    let possible = |route: &String| route.len() <= ROUTE_BYTES_MAX && route.contains('/') && is_printable(route);
    if (1..=ROUTES_MAX).contains(&routes.len()) && routes.iter().all(possible) {
        Ok(())
    } else {
        Err("1 to 64 routes, each written `host/route`")
    }
}

fn texts(cidrs: &Cidrs) -> Vec<String> {
    cidrs.nets().iter().map(ToString::to_string).collect()
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
