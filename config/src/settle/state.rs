//! Logs, shared state and API keys: mostly secrets to be read.

use std::{ops::RangeInclusive, path::PathBuf};

use portcullis_api::{At, Environment, Millis, Secret};

use super::{Room, references::Holds};
use crate::{
    document::{AccessLog, CountersAt, Revocations},
    report::{INLINE_SECRET, NO_STORE_URL},
    settled::{Counters, LogSpec, StoresSpec},
    store_url::{StoreUrl, StoreUrlError, has_password},
};

/// The longest a check may wait for the store: what waits longer holds the request, and the client's patience, up.
const DEADLINE_MAX: Millis = Millis::from_secs(5);

/// Buckets of each limit: below, a handful of callers would crowd each other; above, a limit takes 350 MB.
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
            let help = "write how many callers each limit counts at once; 21 bytes are taken for each";
            self.issues.push_help("stores.keys_max", &stores.keys_max.span, message, help);
        }
        let counters = self.counters(&stores.counters);
        let key = match (&stores.key, &counters) {
            (Some(key), _) => Some(self.secret(&key.value, &key.span, "stores.key")?),
            (None, Some(Counters::Memory)) => None,
            (None, Some(Counters::Redis(_)) | None) => {
                let message =
                    "counters in Redis need `key`: without it addresses and subjects would stand there in the clear";
                let help =
                    "make one with: openssl rand -hex 32, the same for every gateway, and write key = \"file:…\"";
                self.issues.push_help("stores.no_key", &stores.counters.span, message, help);
                None
            }
        };
        let (deadline, instances) = (stores.deadline, stores.instances);
        let (keys_max, prefix) = (stores.keys_max.value, prefix.value.clone());
        Some(StoresSpec { counters: counters?, deadline, instances, keys_max, prefix, key })
    }

    /// The folder must be there: a journal that cannot be written would be found out with the first revocation.
    pub(super) fn revocations(&mut self) -> Option<PathBuf> {
        let Revocations { journal, max_stale } = &self.document.revocations.as_ref()?.value;
        match (&self.document.stores.counters.value, max_stale) {
            (CountersAt::Memory, Some(max_stale)) => self.issues.push_help(
                "revocations.alone",
                &max_stale.span,
                "`max_stale` has no meaning with counters in memory: this gateway decides alone what is revoked",
                "leave it out, or share revocations over [stores]",
            ),
            (CountersAt::Memory | CountersAt::Redis(_) | CountersAt::RedisAt(_), _) => {}
        }
        let Some(journal) = journal else {
            if max_stale.is_none() {
                let help = "write journal = \"revocations.journal\", or leave the section out";
                let span = &self.document.revocations.as_ref()?.span;
                self.issues.push_help("revocations.empty", span, "[revocations] says nothing", help);
            }
            return None;
        };
        if journal.value.as_os_str().is_empty() {
            let help = "write a path, e.g. journal = \"revocations.journal\"";
            self.issues.push_help("revocations.no_path", &journal.span, "the journal of revocations has no path", help);
            return None;
        }
        let path = self.resolve(&journal.value);
        if path.is_dir() || !path.parent().is_some_and(|folder| folder.as_os_str().is_empty() || folder.is_dir()) {
            let message =
                format!("there is no folder for the journal `{}`, or it is one itself", journal.value.display());
            self.issues.push_help(
                "revocations.no_folder",
                &journal.span,
                message,
                "make the folder, owned by the gateway's user",
            );
        }
        Some(path)
    }

    fn counters(&mut self, counters: &At<CountersAt>) -> Option<Counters> {
        let span = &counters.span;
        let (text, whose) = match &counters.value {
            CountersAt::Memory => return Some(Counters::Memory),
            CountersAt::Redis(url) => {
                if has_password(url) {
                    let help = "keep the URL in a file and write a `file:` reference to it";
                    self.issues.push_help(INLINE_SECRET, span, "the URL of the store holds a password", help);
                }
                (Secret::new(url.clone().into_bytes()), "`stores.counters` is no URL of a store".to_owned())
            }
            CountersAt::RedisAt(reference) => {
                (self.read(reference, span, Holds::Secret)?, format!("`{reference}` holds no URL of a Redis"))
            }
        };
        let url = std::str::from_utf8(text.expose()).map_err(|_| StoreUrlError::Encoding).and_then(StoreUrl::parse);
        match url {
            Ok(url) => Some(Counters::Redis(url)),
            Err(error) => {
                self.issues.push_help(NO_STORE_URL, span, format!("{whose}: {error}"), error.help());
                None
            }
        }
    }
}

/// The first part of every API key, when none is written.
pub(crate) fn default_brand() -> Option<Environment> {
    Environment::parse(BRAND).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_brand_has_the_grammar_of_one() {
        assert!(default_brand().is_some());
    }
}
