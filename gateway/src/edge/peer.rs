//! The certificate that a client showed in its handshake, and whether it still counts.

use std::{fmt, sync::Arc, time::Duration};

use parking_lot::Mutex;
use portcullis_plugins::authentication::{CertificateError, ClientCertificate, Shown, Standing};
use rustls_pki_types::CertificateDer;
use tokio::time::Instant;

use crate::client_trust::ClientTrust;

/// How long the word of the authorities is taken without asking again, where nothing of it has changed: for those dates that
/// only they know, of certificates between the leaf and the root and of revocation lists.
const ASKED_AGAIN: Duration = Duration::from_secs(10);

/// The chain of a client that has proved to hold the leaf's key.
pub(crate) struct PeerCertificate {
    chain: Vec<CertificateDer<'static>>,
    certificate: ClientCertificate,
    trust: Arc<ClientTrust>,
    /// Of this connection alone, and held for as long as a chain is verified.
    judged: Mutex<Option<Judged>>,
}

struct Judged {
    generation: u64,
    at: Instant,
    standing: Standing,
}

impl PeerCertificate {
    /// Reads the leaf. The handshake has verified the chain; the first request asks again, since what is believed may have
    /// changed meanwhile.
    pub(super) fn read(
        chain: &[CertificateDer<'static>],
        trust: &Arc<ClientTrust>,
    ) -> Result<Arc<Self>, CertificateError> {
        let leaf = chain.first().ok_or(CertificateError)?;
        let certificate = ClientCertificate::parse(leaf)?;
        Ok(Arc::new(Self { chain: chain.to_vec(), certificate, trust: trust.clone(), judged: Mutex::default() }))
    }

    /// As the control of this listener sees it now.
    pub(crate) fn shown(&self, listener: usize) -> Shown<'_> {
        Shown { certificate: &self.certificate, listener, standing: self.standing() }
    }

    /// How long its connection is used.
    pub(super) fn connection_age_max(&self) -> Duration {
        self.trust.current().connection_age_max
    }

    fn standing(&self) -> Standing {
        let trust = self.trust.current();
        let mut judged = self.judged.lock();
        if let Some(judged) = &*judged
            && judged.generation == trust.generation
            && judged.at.elapsed() < ASKED_AGAIN
        {
            return judged.standing;
        }
        let standing = trust.standing(&self.chain);
        *judged = Some(Judged { generation: trust.generation, at: Instant::now(), standing });
        standing
    }
}

/// One certificate is one peer.
impl PartialEq for PeerCertificate {
    fn eq(&self, other: &Self) -> bool {
        self.certificate.fingerprint() == other.certificate.fingerprint()
    }
}

impl Eq for PeerCertificate {}

/// Without its names.
impl fmt::Debug for PeerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fingerprint = portcullis_api::hex(self.certificate.fingerprint());
        f.debug_struct("PeerCertificate").field("fingerprint", &fingerprint).finish_non_exhaustive()
    }
}
