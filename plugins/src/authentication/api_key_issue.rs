//! New keys, and the key file with a record added or revoked: text in, text out, nothing lost.

use portcullis_api::{Cidrs, Environment, Role, Scope, TenantId, UnixSeconds, hex};
use serde_json::Value;
use zeroize::Zeroizing;

use super::{
    api_key_file::{ApiKeyFileError, read, write},
    api_key_kind::{KeyKind, check_kind},
    api_key_pepper::Peppers,
    api_key_record::{LIFETIME_MAX_S, Record, SCOPES_MAX, check_cidrs, check_name, check_routes, shown},
    api_keys::{self, BASE62, ID_CHARS, SECRET_CHARS},
    filters::Filters,
};

/// How long a key lives when nothing else is asked for, in seconds: 90 days.
pub const LIFETIME_DEFAULT_S: u64 = 90 * 86_400;

/// What a new key may do.
#[derive(Debug, Clone)]
pub struct IssueRequest {
    /// First part of the key, as in `[api_keys] brand`.
    pub brand: Environment,
    /// Environment, e.g. `live`.
    pub environment: Environment,
    /// Whose key it is.
    pub tenant: TenantId,
    /// Its role; `None` is no role.
    pub role: Option<Role>,
    /// Its scopes, at most 64.
    pub scopes: Vec<Scope>,
    /// What the operator calls it, at most 64 characters.
    pub name: Option<String>,
    /// Seconds until it expires; [`LIFETIME_DEFAULT_S`] when not given, at most [`LIFETIME_MAX_S`].
    pub lifetime_s: Option<u64>,
    /// Where it may be used from, 1 to 64 networks; `None` is anywhere.
    pub cidrs: Option<Cidrs>,
    /// Which routes it may be used for, 1 to 64 of `host/route`; `None` is all.
    pub routes: Option<Vec<String>>,
    /// Who asked for it, at most 64 characters.
    pub created_by: Option<String>,
    /// What it is for; a service when not given.
    pub kind: Option<KeyKind>,
    /// Which data its holder may see; `None` is all of the tenant's.
    pub filters: Option<Filters>,
}

/// A new key.
pub struct Issued {
    /// The key itself: shown once, kept nowhere.
    pub key: Zeroizing<String>,
    /// The key's id.
    pub id: String,
    /// The record for [`add_record`].
    pub record: Value,
}

/// Makes a key. `entropy` must fill its argument with bytes from the system's random source.
///
/// # Errors
/// [`ApiKeyFileError`] when the pepper is weak or the request asks for more than a key may have.
pub fn issue(
    request: IssueRequest,
    peppers: &Peppers,
    entropy: &mut dyn FnMut(&mut [u8]),
    now: UnixSeconds,
) -> Result<Issued, ApiKeyFileError> {
    let (key, record) = make(request, peppers, entropy, now)?;
    Ok(Issued { key, id: record.id.clone(), record: record.to_json() })
}

/// The key and its record.
pub(super) fn make(
    request: IssueRequest,
    peppers: &Peppers,
    entropy: &mut dyn FnMut(&mut [u8]),
    now: UnixSeconds,
) -> Result<(Zeroizing<String>, Record), ApiKeyFileError> {
    let pepper = peppers.newest();
    let IssueRequest {
        brand,
        environment,
        tenant,
        role,
        scopes,
        name,
        lifetime_s,
        cidrs,
        routes,
        created_by,
        kind,
        filters,
    } = request;
    let impossible = |field: &'static str| {
        move |what: &'static str| ApiKeyFileError::Request(format!("{field} is not possible: {what}"))
    };
    let lifetime_s = lifetime_s.unwrap_or(LIFETIME_DEFAULT_S);
    if !(1..=LIFETIME_MAX_S).contains(&lifetime_s) {
        return Err(ApiKeyFileError::Request("lifetime is not between 1 second and 365 days".to_owned()));
    }
    if scopes.len() > SCOPES_MAX {
        return Err(ApiKeyFileError::Request(format!("scopes are more than {SCOPES_MAX}")));
    }
    name.as_deref().map_or(Ok(()), check_name).map_err(impossible("name"))?;
    created_by.as_deref().map_or(Ok(()), check_name).map_err(impossible("created_by"))?;
    cidrs.as_ref().map_or(Ok(()), check_cidrs).map_err(impossible("cidrs"))?;
    routes.as_deref().map_or(Ok(()), check_routes).map_err(impossible("routes"))?;
    check_kind(kind, role, filters.as_ref())
        .map_err(|(field, what)| ApiKeyFileError::Request(format!("{field} is not possible: {what}")))?;
    let id = random_base62(ID_CHARS, entropy)?;
    let secret = random_base62(SECRET_CHARS, entropy)?;
    let body = Zeroizing::new(format!("{brand}_{environment}_{}_{}", id.as_str(), secret.as_str()));
    let key = Zeroizing::new(format!("{}_{}", body.as_str(), api_keys::checksum(&body)));
    let hash = hex(&pepper.hash(environment.as_str(), &id, &secret));
    let record = Record {
        id: id.as_str().to_owned(),
        env: environment,
        tenant,
        hash: format!("v1$hmac-sha256${}${hash}", pepper.id),
        role,
        scopes,
        created: now,
        expires: now.saturating_add(lifetime_s),
        revoked: None,
        name,
        cidrs,
        routes,
        created_by,
        successor: None,
        kind,
        filters,
        mac: String::new(),
    };
    Ok((key, record.signed(pepper)))
}

/// Uniform: bytes from 248 on would favour the first characters, so they are drawn again.
fn random_base62(chars: usize, entropy: &mut dyn FnMut(&mut [u8])) -> Result<Zeroizing<String>, ApiKeyFileError> {
    let mut text = Zeroizing::new(String::with_capacity(chars));
    // A working source needs one or two rounds; a source that always fails this long is broken.
    for _ in 0..64 {
        let mut bytes = Zeroizing::new([0u8; 64]);
        entropy(bytes.as_mut_slice());
        for byte in bytes.iter().filter(|byte| **byte < 248) {
            if text.len() < chars
                && let Some(digit) = BASE62.get(usize::from(byte % 62))
            {
                text.push(char::from(*digit));
            }
        }
        if text.len() >= chars {
            return Ok(text);
        }
    }
    Err(ApiKeyFileError::Request("random source gives no usable bytes".to_owned()))
}

/// The file's text with one more record. An empty text is a new file; any other text must be a key file in which
/// everything is understood, or nothing is written.
///
/// # Errors
/// [`ApiKeyFileError`] when the text is no key file, or already has the record's id.
pub fn add_record(file_text: &str, record: &Value) -> Result<String, ApiKeyFileError> {
    let mut records = if file_text.trim().is_empty() { Vec::new() } else { read(file_text.as_bytes())? };
    let record: Record =
        serde_json::from_value(record.clone()).map_err(|error| ApiKeyFileError::Shape(error.to_string()))?;
    records.push(record);
    write(&records)
}

/// The file's text with one record revoked at `now`. A record that is revoked keeps its time.
///
/// # Errors
/// [`ApiKeyFileError`] when the text is no key file, has no such id, or the record's MAC is wrong.
pub fn revoke_record(
    file_text: &str,
    id: &str,
    peppers: &Peppers,
    now: UnixSeconds,
) -> Result<String, ApiKeyFileError> {
    let mut records = read(file_text.as_bytes())?;
    let record =
        records.iter_mut().find(|record| record.id == id).ok_or_else(|| ApiKeyFileError::Unknown(shown(id)))?;
    record.revoke(peppers, now)?;
    write(&records)
}

impl Record {
    /// Whether there was anything to revoke. A record that someone changed is not given a good MAC.
    pub(super) fn revoke(&mut self, peppers: &Peppers, now: UnixSeconds) -> Result<bool, ApiKeyFileError> {
        let (_, pepper) = self.verified(peppers)?;
        if self.revoked.is_some() {
            return Ok(false);
        }
        self.revoked = Some(now);
        *self = self.clone().signed(pepper);
        Ok(true)
    }
}
