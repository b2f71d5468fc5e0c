//! Whose signature on client certificates is believed, by listener. It outlives every snapshot: a reload, or a new
//! revocation list, is asked at the next request of connections that are open.
//!
//! Invariant: revocation lists are only ever replaced by others that were read whole. While they cannot be read the last
//! ones stay, are told, and refuse everybody once they are past their next update.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use portcullis_api::{Clock as _, UnixSeconds};
use portcullis_config::{ClientCertificatesSpec, ListenerSpec, Settled};
use portcullis_plugins::authentication::{CertificateMode, Standing};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::aws_lc_rs,
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime, pem::PemObject as _};
use x509_parser::{prelude::FromDer as _, revocation_list::CertificateRevocationList};

use crate::{
    clock::SystemClock,
    key_sets::{FILE_INTERVAL, Stamp, stamp},
    metrics::Metrics,
    streams::News,
};

/// More than a list of all certificates of an authority of agents takes. The configuration reads no larger file.
const CRL_BYTES_MAX: u64 = 1 << 20;

/// What one listener believes.
pub(crate) struct ClientTrust {
    listener: Arc<str>,
    current: ArcSwap<Trust>,
    source: Mutex<Source>,
}

/// What is believed at a time.
pub(crate) struct Trust {
    /// No other has it.
    pub(crate) generation: u64,
    /// How long a connection is used.
    pub(crate) connection_age_max: Duration,
    verifier: Arc<dyn ClientCertVerifier>,
    /// Of all lists the earliest; none without lists.
    next_update: Option<UnixSeconds>,
}

/// Where it is from.
struct Source {
    spec: ClientCertificatesSpec,
    good: Vec<Option<Stamp>>,
    /// What could not be read and was reported.
    reported: Option<Vec<Option<Stamp>>>,
    /// The next update that was reported as past.
    late: Option<UnixSeconds>,
}

/// Whether a look at the files changed what is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    Same,
    Changed,
}

/// What a listener is to believe, read and not yet in force.
pub(crate) struct ReadTrust {
    source: Source,
    verifier: Arc<dyn ClientCertVerifier>,
    next_update: Option<UnixSeconds>,
}

impl ReadTrust {
    fn of(spec: &ClientCertificatesSpec) -> Result<Self, String> {
        // Before the files: one that changes meanwhile is read again.
        let good = stamps(spec);
        let (verifier, next_update) = verifier(spec)?;
        Ok(Self { source: Source { spec: spec.clone(), good, reported: None, late: None }, verifier, next_update })
    }
}

impl ClientTrust {
    fn new(listener: Arc<str>, read: ReadTrust) -> Arc<Self> {
        let ReadTrust { source, verifier, next_update } = read;
        let connection_age_max = source.spec.connection_age_max.duration();
        let trust = Trust { generation: 1, connection_age_max, verifier, next_update };
        Arc::new(Self { listener, current: ArcSwap::from_pointee(trust), source: Mutex::new(source) })
    }

    /// What is believed now.
    pub(crate) fn current(&self) -> arc_swap::Guard<Arc<Trust>> {
        self.current.load()
    }

    fn adopt(&self, read: ReadTrust) {
        let ReadTrust { source, verifier, next_update } = read;
        let mut ours = self.source.lock();
        self.put(source.spec.connection_age_max.duration(), verifier, next_update);
        *ours = source;
    }

    fn put(
        &self,
        connection_age_max: Duration,
        verifier: Arc<dyn ClientCertVerifier>,
        next_update: Option<UnixSeconds>,
    ) {
        let generation = self.current.load().generation.saturating_add(1);
        self.current.store(Arc::new(Trust { generation, connection_age_max, verifier, next_update }));
    }

    /// Reads the lists where they are not the ones that were read last. Those that cannot be read change nothing, are
    /// reported once, and are tried again at each look.
    fn look(&self, now: UnixSeconds, metrics: &Metrics) -> Look {
        let mut source = self.source.lock();
        let before = self.current.load().generation;
        let read = self.renew(&mut source);
        let mut look = if self.current.load().generation == before { Look::Same } else { Look::Changed };
        let ok = metrics.client_crl_ok.with_label_values(&[&*self.listener]);
        ok.set(i64::from(read.is_ok()));
        let Some(next_update) = self.current.load().next_update else { return look };
        let gauge = metrics.client_crl_next_update.with_label_values(&[&*self.listener]);
        gauge.set(i64::try_from(next_update).unwrap_or(i64::MAX));
        if next_update <= now && source.late.replace(next_update) != Some(next_update) {
            tracing::error!(
                event = "client_certificates.crl_expired",
                listener = &*self.listener,
                next_update,
                "a revocation list is past its next update: the certificates of its authority are refused"
            );
            // Another generation, so that what was found before is not believed for a while longer.
            let current = self.current.load_full();
            self.put(current.connection_age_max, Arc::clone(&current.verifier), current.next_update);
            look = Look::Changed;
        }
        look
    }

    fn renew(&self, source: &mut Source) -> Result<(), ()> {
        let now = stamps(&source.spec);
        if now == source.good {
            source.reported = None;
            return Ok(());
        }
        match verifier(&source.spec) {
            Ok((verifier, next_update)) => {
                self.put(source.spec.connection_age_max.duration(), verifier, next_update);
                (source.good, source.reported) = (now, None);
                let listener = &*self.listener;
                tracing::info!(
                    event = "client_certificates.crl_loaded",
                    listener,
                    "the revocation lists were read again"
                );
                Ok(())
            }
            Err(why) => {
                if source.reported.replace(now.clone()).as_ref() != Some(&now) {
                    let listener = &*self.listener;
                    tracing::error!(
                        event = "client_certificates.crl_failed",
                        listener,
                        why,
                        "the revocation lists could not be read; the last good ones stay until their next update"
                    );
                }
                Err(())
            }
        }
    }
}

impl Trust {
    /// What the authorities say of a chain, its leaf first.
    pub(crate) fn standing(&self, chain: &[CertificateDer<'static>]) -> Standing {
        let Some((leaf, others)) = chain.split_first() else { return Standing::Untrusted };
        match self.verifier.verify_client_cert(leaf, others, UnixTime::now()) {
            Ok(_verified) => Standing::Trusted,
            Err(rustls::Error::InvalidCertificate(CertificateError::Revoked)) => Standing::Listed,
            Err(
                rustls::Error::InvalidCertificate(
                    CertificateError::UnknownRevocationStatus
                    | CertificateError::ExpiredRevocationList
                    | CertificateError::ExpiredRevocationListContext { .. },
                )
                | rustls::Error::InvalidCertRevocationList(_),
            ) => Standing::Unlisted,
            Err(_) => Standing::Untrusted,
        }
    }
}

fn stamps(spec: &ClientCertificatesSpec) -> Vec<Option<Stamp>> {
    spec.crl.iter().map(|path| stamp(path)).collect()
}

/// Every certificate of a chain but the root must be on no list and of an authority whose list is there and still good:
/// that is what rustls does unless it is told otherwise, but for the time, which it must be told.
fn verifier(spec: &ClientCertificatesSpec) -> Result<(Arc<dyn ClientCertVerifier>, Option<UnixSeconds>), String> {
    let mut roots = RootCertStore::empty();
    for authority in &spec.ca {
        roots.add(authority.clone()).map_err(|error| format!("an authority cannot be used: {error}"))?;
    }
    let mut lists = Vec::new();
    let mut next_update = None;
    for path in &spec.crl {
        let (read, earliest) = lists_of(path).map_err(|why| format!("{}: {why}", path.display()))?;
        lists.extend(read);
        next_update = [next_update, Some(earliest)].into_iter().flatten().min();
    }
    let builder = WebPkiClientVerifier::builder_with_provider(roots.into(), aws_lc_rs::default_provider().into())
        .with_crls(lists)
        .enforce_revocation_expiration();
    let verifier = builder.build().map_err(|error| format!("the authorities and lists cannot be used: {error}"))?;
    Ok((verifier, next_update))
}

fn lists_of(path: &PathBuf) -> Result<(Vec<CertificateRevocationListDer<'static>>, UnixSeconds), String> {
    let bytes = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if bytes > CRL_BYTES_MAX {
        return Err(format!("{bytes} bytes are more than {CRL_BYTES_MAX}"));
    }
    let pem = std::fs::read(path).map_err(|error| error.to_string())?;
    let lists: Vec<_> = CertificateRevocationListDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|_| "is no PEM file".to_owned())?;
    let mut earliest = None;
    for list in &lists {
        let read = CertificateRevocationList::from_der(list.as_ref()).ok();
        let next = read.and_then(|(_, list)| u64::try_from(list.next_update()?.timestamp()).ok());
        let next = next.ok_or("has a list that cannot be read, or without a next update")?;
        earliest = [earliest, Some(next)].into_iter().flatten().min();
    }
    earliest.map(|earliest| (lists, earliest)).ok_or_else(|| "has no revocation lists".to_owned())
}

/// Asks clients of a listener for a certificate and believes what the listener believes at the time.
pub(crate) struct Asking {
    trust: Arc<ClientTrust>,
    mode: CertificateMode,
}

impl Asking {
    /// With the mode of the configuration that is built.
    pub(crate) fn new(trust: Arc<ClientTrust>, mode: CertificateMode) -> Arc<Self> {
        Arc::new(Self { trust, mode })
    }
}

impl fmt::Debug for Asking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asking").field("listener", &self.trust.listener).field("mode", &self.mode).finish()
    }
}

impl ClientCertVerifier for Asking {
    fn client_auth_mandatory(&self) -> bool {
        self.mode == CertificateMode::Required
    }

    /// None: the names of those we believe are nobody's business, and the list may change.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.trust.current().verifier.verify_client_cert(leaf, others, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.trust.current().verifier.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.trust.current().verifier.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.current().verifier.supported_verify_schemes()
    }
}

/// What each listener believes, by its index.
pub(crate) struct ClientTrusts(Vec<Option<Arc<ClientTrust>>>);

impl ClientTrusts {
    /// Reads what each listener is to believe.
    ///
    /// # Errors
    /// What cannot be read.
    pub(crate) fn start(settled: &Settled) -> anyhow::Result<Self> {
        let read = Self::read(settled)?;
        let names = settled.listeners.iter().map(|listener| &listener.name);
        Ok(Self(names.zip(read).map(|(name, read)| read.map(|read| ClientTrust::new(name.clone(), read))).collect()))
    }

    /// The next of each.
    ///
    /// # Errors
    /// What cannot be read.
    pub(crate) fn read(settled: &Settled) -> anyhow::Result<Vec<Option<ReadTrust>>> {
        let read = |listener: &ListenerSpec| {
            let spec = listener.client_certificates.as_ref();
            let read = spec.map(ReadTrust::of).transpose();
            read.map_err(|why| anyhow::anyhow!("client certificates of listener {}: {why}", listener.name))
        };
        settled.listeners.iter().map(read).collect()
    }

    /// Puts them in force. Which listeners ask for certificates is fixed at the start.
    pub(crate) fn adopt(&self, next: Vec<Option<ReadTrust>>) {
        for (current, next) in self.0.iter().zip(next) {
            if let (Some(current), Some(next)) = (current, next) {
                current.adopt(next);
            }
        }
    }

    /// What a listener believes.
    pub(crate) fn of(&self, listener: usize) -> Option<&Arc<ClientTrust>> {
        self.0.get(listener).and_then(Option::as_ref)
    }

    /// Looks at the files every second until the process ends. What it finds may end exchanges that go on.
    pub(crate) async fn run(&self, clock: &SystemClock, metrics: &Metrics, news: &News) {
        loop {
            for trust in self.0.iter().flatten() {
                if trust.look(clock.unix(), metrics) == Look::Changed {
                    news.tell();
                }
            }
            tokio::time::sleep(FILE_INTERVAL).await;
        }
    }
}
