//! API keys: where their records are, and the peppers.

use std::{net::IpAddr, num::NonZeroU32, ops::RangeInclusive};

use portcullis_api::{At, Millis, Secret};
use portcullis_plugins::authentication::{ApiKeys, KeyStoreAt};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use tokio_postgres::config::{Host, SslMode};

use super::{Room, references::Holds, state::default_brand};
use crate::{
    report::{INLINE_SECRET, NO_KEY_STORE_URL},
    settled::{ApiKeySource, ApiKeysSpec, KeyStore, KeyStoreSpec, PostgresSpec, PostgresTls},
    store_url::has_password,
};

const STALE: RangeInclusive<u64> = 1..=86_400;
const STALE_DEFAULT: Millis = Millis::from_secs(3600);
const KEYS_MAX: RangeInclusive<u32> = 1..=10_000;
const KEYS_MAX_DEFAULT: NonZeroU32 = NonZeroU32::MIN.saturating_add(99);
const OLDER_PEPPERS_MAX: usize = 7;

impl Room<'_> {
    /// The inner `None` is "no API keys", the outer one is "something was wrong".
    pub(super) fn api_keys(&mut self) -> Option<Option<ApiKeysSpec>> {
        let Some(api_keys) = &self.document.api_keys else { return Some(None) };
        let source = self.key_source(api_keys);
        let pepper = self.secret(&api_keys.pepper.value, &api_keys.pepper.span, "the pepper");
        if let Some(over) = api_keys.older_peppers.get(OLDER_PEPPERS_MAX) {
            let message = format!("there are {} older peppers", api_keys.older_peppers.len());
            let help = "at most 7: rotate the keys of the oldest, and leave it out";
            self.issues.push_help("api_keys.older_peppers", &over.span, message, help);
        }
        let older = api_keys.older_peppers.iter().map(|at| self.secret(&at.value, &at.span, "an older pepper"));
        let older_peppers = older.collect::<Option<Vec<Secret>>>();
        let brand = match &api_keys.brand {
            Some(brand) => brand.value.clone(),
            None => default_brand()?,
        };
        Some(Some(ApiKeysSpec { source: source?, pepper: pepper?, older_peppers: older_peppers?, brand }))
    }

    fn key_source(&mut self, api_keys: &ApiKeys) -> Option<ApiKeySource> {
        match (&api_keys.file, &api_keys.store) {
            (Some(file), None) => {
                let max_stale = api_keys.max_stale.as_ref().map(|at| ("max_stale", &at.span));
                let keys_max = api_keys.keys_max.as_ref().map(|at| ("keys_max", &at.span));
                let store_ca = api_keys.store_ca.as_ref().map(|at| ("store_ca", &at.span));
                for (name, span) in [max_stale, keys_max, store_ca].into_iter().flatten() {
                    let message = format!("`{name}` says something of a store, and the keys are in a file");
                    self.issues.push_help("api_keys.not_of_a_file", span, message, "leave it out, or write `store`");
                }
                Some(ApiKeySource::File(self.resolve(&file.value)))
            }
            (None, Some(store)) => Some(ApiKeySource::Store(KeyStoreSpec {
                max_stale: self.max_stale(api_keys.max_stale.as_ref()),
                keys_max: self.active_max(api_keys.keys_max.as_ref()),
                store: self.key_store(store, api_keys)?,
            })),
            (None, None) => {
                let span = self.key(&["api_keys"]);
                let help = "write file = \"keys.json\", or store = \"sqlite:keys.db\"";
                self.issues.push_help("api_keys.no_source", &span, "[api_keys] has no file and no store", help);
                None
            }
            (Some(_), Some(store)) => {
                let message = "[api_keys] has a file and a store: one of them would not be asked";
                self.issues.push_help("api_keys.two_sources", &store.span, message, "leave one of them out");
                None
            }
        }
    }

    fn max_stale(&mut self, written: Option<&At<Millis>>) -> Millis {
        let Some(at) = written else { return STALE_DEFAULT };
        let seconds = at.value.as_secs_ceil();
        if !STALE.contains(&seconds) || at.value != Millis::from_secs(seconds) {
            let message = format!("max_stale is {}", at.value);
            self.issues.push_help("api_keys.max_stale", &at.span, message, "write whole seconds, 1 s to 24 h");
        }
        at.value
    }

    fn active_max(&mut self, written: Option<&At<NonZeroU32>>) -> NonZeroU32 {
        let Some(at) = written else { return KEYS_MAX_DEFAULT };
        if !KEYS_MAX.contains(&at.value.get()) {
            let message = format!("keys_max is {}", at.value);
            self.issues.push_help("api_keys.keys_max", &at.span, message, "write 1 to 10,000 active keys a tenant");
        }
        at.value
    }

    fn key_store(&mut self, store: &At<KeyStoreAt>, api_keys: &ApiKeys) -> Option<KeyStore> {
        let span = &store.span;
        let url = match &store.value {
            KeyStoreAt::Sqlite(path) => {
                if let Some(ca) = &api_keys.store_ca {
                    let message = "`store_ca` verifies PostgreSQL, and the store is SQLite";
                    self.issues.push_help("api_keys.not_of_sqlite", &ca.span, message, "leave it out");
                }
                return self.sqlite(&self.resolve(path), span).map(KeyStore::Sqlite);
            }
            KeyStoreAt::Postgres(url) => {
                if has_password(url) {
                    let help = "keep the URL in a file and write a `file:` reference to it";
                    self.issues.push_help(INLINE_SECRET, span, "the URL of the store holds a password", help);
                }
                Secret::new(url.clone().into_bytes())
            }
            KeyStoreAt::PostgresAt(reference) => self.read(reference, span, Holds::Secret)?,
        };
        let parsed = parse(&url).map_err(|why| {
            let help = "write postgresql://user@host:port/database, with ?sslmode=disable to a loopback address only";
            self.issues.push_help(NO_KEY_STORE_URL, span, format!("the URL of the store: {why}"), help);
        });
        let (config, transport) = parsed.ok()?;
        let tls = match (transport, &api_keys.store_ca) {
            (Transport::Plain, None) => PostgresTls::Plain,
            (Transport::Plain, Some(ca)) => {
                let message = "`store_ca` verifies TLS, and the URL of the store says that there is none";
                self.issues.push_help("api_keys.not_of_plain", &ca.span, message, "leave one of them out");
                return None;
            }
            (Transport::Tls, None) => {
                let message = "PostgreSQL is spoken to over TLS, and there is no `store_ca` to verify it by";
                let help = "write store_ca = \"postgres-ca.pem\": the roots that signed the server's certificate";
                self.issues.push_help("api_keys.no_store_ca", span, message, help);
                return None;
            }
            (Transport::Tls, Some(ca)) => {
                let pem = self.public_file(&ca.value, &ca.span)?;
                let roots: Vec<_> = CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().unwrap_or_default();
                if roots.is_empty() {
                    let message = format!("`{}` holds no PEM certificates", ca.value.display());
                    self.issues.push("api_keys.store_ca", &ca.span, message);
                    return None;
                }
                PostgresTls::Verified { roots }
            }
        };
        Some(KeyStore::Postgres(Box::new(PostgresSpec { config, tls, url })))
    }

    /// The folder must be there: a store that cannot be made would be found out with the first key.
    fn sqlite(&mut self, path: &std::path::Path, span: &std::ops::Range<usize>) -> Option<std::path::PathBuf> {
        let shown = path.display();
        if path.is_dir() {
            let help = "write the path of a file in it, e.g. \"sqlite:keys.db\"";
            self.issues.push_help("api_keys.no_folder", span, format!("the store `{shown}` is a folder"), help);
            return None;
        }
        // The parent of a name alone is empty: the folder that the gateway is started in.
        if !path.parent().is_some_and(|folder| folder.as_os_str().is_empty() || folder.is_dir()) {
            let message = format!("there is no folder for the store `{shown}`");
            self.issues.push_help("api_keys.no_folder", span, message, "make the folder, owned by the gateway's user");
            return None;
        }
        Some(path.to_owned())
    }
}

/// How PostgreSQL is spoken to.
enum Transport {
    Plain,
    Tls,
}

/// Strict, because a client of PostgreSQL takes what it does not know as something else, and TLS as a preference.
fn parse(url: &Secret) -> Result<(tokio_postgres::Config, Transport), &'static str> {
    let text = std::str::from_utf8(url.expose()).map_err(|_| "it is no text")?;
    let (plain, query) = text.split_once('?').map_or((text, None), |(plain, query)| (plain, Some(query)));
    if !(plain.starts_with("postgresql://") || plain.starts_with("postgres://")) {
        return Err("it does not begin with postgresql://");
    }
    let mut config: tokio_postgres::Config = plain.parse().map_err(|_| "it cannot be read")?;
    let (host, port) = match (config.get_hosts(), config.get_ports()) {
        ([host], [] | [_]) => (host, config.get_ports().first()),
        _ => return Err("it has not exactly one host"),
    };
    if port == Some(&0) || config.get_user().is_none() || config.get_dbname().is_none() {
        return Err("it has no user, no database or port 0");
    }
    let local = match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()),
    };
    let transport = match (host, query) {
        (Host::Unix(_), None | Some("sslmode=disable")) => Transport::Plain,
        (Host::Tcp(_), Some("sslmode=disable")) if local => Transport::Plain,
        (_, Some("sslmode=disable")) => return Err("without TLS a password and hashes could be read on the way"),
        (Host::Tcp(_), None | Some("sslmode=verify-full")) => Transport::Tls,
        (_, Some(_)) => return Err("nothing may stand after `?` but sslmode=verify-full or sslmode=disable"),
    };
    config.ssl_mode(match transport {
        Transport::Plain => SslMode::Disable,
        Transport::Tls => SslMode::Require,
    });
    config.application_name("portcullis");
    Ok((config, transport))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(url: &str) -> Result<&'static str, &'static str> {
        parse(&Secret::new(url.as_bytes().to_vec())).map(|(_, transport)| match transport {
            Transport::Plain => "plain",
            Transport::Tls => "tls",
        })
    }

    #[test]
    fn postgresql_is_spoken_to_in_the_clear_on_this_machine_only() {
        assert_eq!(told("postgresql://u@db.example.com/k"), Ok("tls"));
        assert_eq!(told("postgresql://u:p@db.example.com:5433/k?sslmode=verify-full"), Ok("tls"));
        assert_eq!(told("postgres://u@127.0.0.1/k"), Ok("tls"));
        assert_eq!(told("postgresql://u@127.0.0.1:5433/k?sslmode=disable"), Ok("plain"));
        assert_eq!(told("postgresql://u@%2Frun%2Fpostgresql/k"), Ok("plain"));
        for bad in [
            "postgresql://u@db.example.com/k?sslmode=disable",
            "postgresql://u@localhost/k?sslmode=disable",
            "postgresql://u@10.0.0.1/k?sslmode=disable",
            "postgresql://u@db.example.com/k?sslmode=prefer",
            "postgresql://u@db.example.com/k?sslmode=require",
            "postgresql://u@db.example.com/k?sslmode=verify-full&host=other",
            "postgresql://u@db.example.com/k?hostaddr=10.0.0.1",
            "postgresql://u@a,b/k",
            "postgresql://db.example.com/k",
            "postgresql://u@db.example.com/",
            "postgresql://u@db.example.com:0/k",
            "postgresql:///k",
            "host=db.example.com user=u dbname=k",
            "mysql://u@db/k",
            "",
        ] {
            assert!(told(bad).is_err(), "{bad}");
        }
    }
}
