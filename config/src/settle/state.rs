//! Logs, shared state, issuers and API keys: mostly secrets to be read.

use std::{collections::BTreeMap, ops::RangeInclusive};

use portcullis_api::{Environment, Millis, Secret};
use portcullis_plugins::authentication::Keys;

use super::{Room, references::Holds};
use crate::{
    document::{AccessLog, CountersAt},
    report::INLINE_SECRET,
    settled::{ApiKeysSpec, Counters, IssuerSpec, KeySource, LogSpec, StoresSpec},
};

/// The longest a check may wait for the store: what waits longer holds the request, and the client's patience, up.
const DEADLINE_MAX: Millis = Millis::from_secs(5);

/// Buckets of each limit: below, a handful of callers would crowd each other; above, a limit takes 300 MB.
const KEYS_MAX: RangeInclusive<u32> = 1 << 10..=1 << 24;

const BRAND: &str = "pck";

impl Room<'_> {
    pub(super) fn log(&mut self) -> Option<LogSpec> {
        let log = &self.document.log;
        let access = match &log.access {
            AccessLog::Stdout => AccessLog::Stdout,
            AccessLog::File(path) if path.as_os_str().is_empty() => {
                let span = self.key(&["log", "access"]);
                self.issues.push_help("log.no_path", &span, "the access log has no path", "write one, or \"stdout\"");
                AccessLog::Stdout
            }
            AccessLog::File(path) => AccessLog::File(self.resolve(path)),
        };
        let pseudonym_key = match &log.pseudonym_key {
            Some(key) => Some(self.secret(&key.value, &key.span, "the pseudonym key")?),
            None => None,
        };
        Some(LogSpec { access, pseudonym_key })
    }

    pub(super) fn stores(&mut self) -> Option<StoresSpec> {
        let stores = &self.document.stores;
        let prefix = &stores.prefix;
        let ok = (1..=32).contains(&prefix.value.len())
            && prefix.value.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'_');
        if !ok {
            let message = format!("prefix {:?} is not possible", prefix.value);
            let help = "write 1 to 32 of a-z, 0-9, `-` and `_`; other characters mean something to Redis";
            self.issues.push_help("stores.prefix", &prefix.span, message, help);
        }
        if stores.deadline > DEADLINE_MAX {
            let span = self.key(&["stores", "deadline"]);
            let message = format!("deadline is {}, more than {DEADLINE_MAX}", stores.deadline);
            self.issues.push_help(
                "stores.deadline",
                &span,
                message,
                "a limit is checked on each request; write milliseconds",
            );
        }
        if !KEYS_MAX.contains(&stores.keys_max.value) {
            let (least, most) = KEYS_MAX.into_inner();
            let message = format!("keys_max is {}, not between {least} and {most}", stores.keys_max.value);
            let help = "write how many callers each limit counts at once; 18 bytes are taken for each";
            self.issues.push_help("stores.keys_max", &stores.keys_max.span, message, help);
        }
        let span = &stores.counters.span;
        let counters = match &stores.counters.value {
            CountersAt::Memory => Counters::Memory,
            CountersAt::Redis(url) => {
                if has_password(url) {
                    let help = "keep the URL in a file and write a `file:` reference to it";
                    self.issues.push_help(INLINE_SECRET, span, "the URL of the store holds a password", help);
                }
                Counters::Redis(Secret::new(url.clone().into_bytes()))
            }
            CountersAt::RedisAt(reference) => {
                let url = self.read(reference, span, Holds::Secret)?;
                let known = [&b"redis://"[..], b"rediss://"].iter().any(|scheme| url.expose().starts_with(scheme));
                if !known || std::str::from_utf8(url.expose()).is_err() {
                    let message = format!("`{reference}` holds no URL of a Redis");
                    let help = "it must start with redis:// or rediss://";
                    self.issues.push_help("stores.no_url", span, message, help);
                }
                Counters::Redis(url)
            }
        };
        let key = match (&stores.key, &counters) {
            (Some(key), _) => Some(self.secret(&key.value, &key.span, "stores.key")?),
            (None, Counters::Memory) => None,
            (None, Counters::Redis(_)) => {
                let message =
                    "counters in Redis need `key`: without it addresses and subjects would stand there in the clear";
                let help =
                    "make one with: openssl rand -hex 32, the same for every gateway, and write key = \"file:…\"";
                self.issues.push_help("stores.no_key", span, message, help);
                None
            }
        };
        let (deadline, instances) = (stores.deadline, stores.instances);
        let (keys_max, prefix) = (stores.keys_max.value, prefix.value.clone());
        Some(StoresSpec { counters, deadline, instances, keys_max, prefix, key })
    }

    pub(super) fn issuers(&mut self) -> BTreeMap<String, IssuerSpec> {
        let document = self.document;
        let mut specs = BTreeMap::new();
        for (name, issuer) in &document.issuers {
            self.name(&["issuers", name]);
            let span = &issuer.keys.span;
            let keys = match &issuer.keys.value {
                Keys::JwksUrl(url) => Some(KeySource::JwksUrl(url.clone())),
                // It is read here only to say early that it cannot be; whoever verifies reads it again when it changes.
                Keys::JwksFile(path) => self.public_file(path, span).map(|_| KeySource::JwksFile(self.resolve(path))),
                Keys::Secret(reference) => {
                    self.secret(reference, span, &format!("the secret of issuer `{name}`")).map(KeySource::Secret)
                }
            };
            if let Some(keys) = keys {
                let algorithms = issuer.algorithms.value.iter().map(|algorithm| algorithm.value).collect();
                specs.insert(name.clone(), IssuerSpec { keys, algorithms });
            }
        }
        specs
    }

    /// The inner `None` is "no API keys", the outer one is "something was wrong".
    pub(super) fn api_keys(&mut self) -> Option<Option<ApiKeysSpec>> {
        let Some(api_keys) = &self.document.api_keys else { return Some(None) };
        let pepper = self.secret(&api_keys.pepper.value, &api_keys.pepper.span, "the pepper")?;
        let brand = match &api_keys.brand {
            Some(brand) => brand.value.clone(),
            None => default_brand()?,
        };
        Some(Some(ApiKeysSpec { path: self.resolve(&api_keys.file.value), pepper, brand }))
    }
}

/// The first part of every API key, when none is written.
pub(crate) fn default_brand() -> Option<Environment> {
    Environment::parse(BRAND).ok()
}

/// Whether the user information of a URL has a password.
fn has_password(url: &str) -> bool {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest).split(['/', '?', '#']).next();
    let user = authority.and_then(|authority| authority.rsplit_once('@')).map(|(user, _)| user);
    user.and_then(|user| user.split_once(':')).is_some_and(|(_, password)| !password.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_a_url_is_seen() {
        assert!(has_password("redis://:hunter2@127.0.0.1/") && has_password("rediss://u:p@h:6380"));
        assert!(
            !has_password("redis://127.0.0.1:6379/0")
                && !has_password("redis://user@h")
                && !has_password("redis://u:@h")
        );
    }

    #[test]
    fn the_default_brand_has_the_grammar_of_one() {
        assert!(default_brand().is_some());
    }
}
