//! What a reload does not change.

use portcullis_config::{ApiKeySource, Counters, KeyStore, Settled};

/// The parts of a configuration that are taken at the start only. A reload that changes one is refused: it would
/// otherwise be read and ignored.
#[derive(PartialEq)]
pub(super) struct Fixed {
    listeners: Vec<String>,
    admin: Option<(std::net::SocketAddr, Option<Vec<u8>>)>,
    log: String,
    pseudonym_key: Option<Vec<u8>>,
    stores: String,
    store_key: Option<Vec<u8>>,
    counters: Vec<u8>,
    journal: Option<std::path::PathBuf>,
    key_store: Option<Vec<u8>>,
}

impl Fixed {
    pub(super) fn of(settled: &Settled) -> Self {
        let expose = |secret: &portcullis_api::Secret| secret.expose().to_vec();
        let stores = &settled.stores;
        Self {
            listeners: settled
                .listeners
                .iter()
                .map(|l| {
                    format!(
                        "{} {} {:?} {} {} {:?}",
                        l.name,
                        l.address,
                        l.topology,
                        l.tls.is_some(),
                        l.client_certificates.is_some(),
                        l.bounds
                    )
                })
                .collect(),
            admin: settled.admin.as_ref().map(|admin| (admin.address, admin.token.as_ref().map(expose))),
            log: format!("{:?}", settled.log.access),
            pseudonym_key: settled.log.pseudonym_key.as_ref().map(expose),
            stores: format!("{} {} {} {}", stores.deadline, stores.instances, stores.keys_max, stores.prefix),
            store_key: stores.key.as_ref().map(expose),
            counters: match &stores.counters {
                Counters::Memory => Vec::new(),
                Counters::Redis(url) => expose(url.text()),
            },
            journal: settled.revocations.clone(),
            key_store: settled.api_keys.as_ref().and_then(|spec| match &spec.source {
                ApiKeySource::File(_) => None,
                ApiKeySource::Store(of) => Some(match &of.store {
                    KeyStore::Sqlite(path) => path.as_os_str().as_encoded_bytes().to_vec(),
                    KeyStore::Postgres(spec) => [spec.url.expose(), format!("{:?}", spec.tls).as_bytes()].concat(),
                }),
            }),
        }
    }
}
