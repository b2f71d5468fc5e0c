//! Which certificate and which TLS versions a host gets, and the handshake itself.
//!
//! Invariant: a `ServerConfig` names its provider, versions, suites and groups itself. The process-wide provider
//! decides nothing here, so TLS 1.3 only towards clients does not take TLS 1.2 from the upstream side.

use std::{io, sync::Arc};

use pingora_core::protocols::l4::stream::Stream as L4Stream;
use portcullis_config::{HostTable, TlsVersion};
use portcullis_plugins::authentication::CertificateError;
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{
        Acceptor, ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert, danger::ClientCertVerifier,
    },
    sign::CertifiedKey,
};
use tokio::io::AsyncWriteExt;
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use super::{conn::TlsFacts, peer::PeerCertificate};
use crate::client_trust::ClientTrust;

/// Fatal alert `unrecognized_name` (RFC 6066, 3) as a record of its own: no keys exist yet.
const UNRECOGNIZED_NAME: [u8; 7] = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 112];

/// What a client that offers nothing in common is told besides the alert: the event's `version` and `group`.
const NONE: &str = "none";

/// The configurations of a listener by host. Replaced as a whole on a reload; connections keep what they have.
pub(crate) type TlsTable = HostTable<Arc<ServerConfig>>;

/// What a listener does about who its clients are.
pub(crate) enum Clients {
    /// Nothing: they may resume sessions with these tickets.
    Unasked(Arc<dyn ProducesTickets>),
    /// They are asked for a certificate. No session is resumed: rustls would take the certificate of the first handshake for
    /// that of the second, without asking anybody.
    Asked(Arc<dyn ClientCertVerifier>),
}

/// The configuration of one host.
///
/// # Errors
/// When the key does not fit the certificate.
pub(crate) fn server_config(
    certificate: Arc<CertifiedKey>,
    minimum: TlsVersion,
    clients: Clients,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    match certificate.keys_match() {
        // A key that keeps its public half to itself (an HSM) cannot be compared.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        Err(error) => return Err(error),
    }
    let versions: &[&rustls::SupportedProtocolVersion] = match minimum {
        TlsVersion::V1_3 => &[&rustls::version::TLS13],
        TlsVersion::V1_2 => &[&rustls::version::TLS13, &rustls::version::TLS12],
    };
    let builder = ServerConfig::builder_with_provider(Arc::new(provider(minimum))).with_protocol_versions(versions)?;
    let resolver = Arc::new(One(certificate));
    let mut config = match clients {
        Clients::Unasked(ticketer) => {
            let mut config = builder.with_no_client_auth().with_cert_resolver(resolver);
            // Tickets only: they outlive a reload with their ticketer, a store in memory would not.
            config.ticketer = ticketer;
            config
        }
        Clients::Asked(verifier) => {
            let mut config = builder.with_client_cert_verifier(verifier).with_cert_resolver(resolver);
            config.send_tls13_tickets = 0;
            config
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // 0-RTT can be replayed (RFC 8446, 8).
    config.max_early_data_size = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// Suites and groups, strongest first. All TLS 1.2 suites here are ECDHE with an AEAD.
fn provider(minimum: TlsVersion) -> CryptoProvider {
    use aws_lc_rs::{cipher_suite as suite, kx_group as group};
    let mut cipher_suites =
        vec![suite::TLS13_AES_256_GCM_SHA384, suite::TLS13_AES_128_GCM_SHA256, suite::TLS13_CHACHA20_POLY1305_SHA256];
    match minimum {
        TlsVersion::V1_3 => {}
        TlsVersion::V1_2 => cipher_suites.extend([
            suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        ]),
    }
    CryptoProvider {
        cipher_suites,
        kx_groups: vec![group::X25519MLKEM768, group::X25519, group::SECP256R1, group::SECP384R1],
        ..aws_lc_rs::default_provider()
    }
}

/// One certificate, whatever is asked: the table has chosen already.
#[derive(Debug)]
struct One(Arc<CertifiedKey>);

impl ResolvesServerCert for One {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// Why a handshake ended without a connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    /// The client named no host.
    #[error("the client named no host")]
    NoName,
    /// The client named a host that has no certificate here.
    #[error("the client named a host that is not served here")]
    UnknownName,
    /// The client's certificate holds, and cannot be read.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// rustls or the socket.
    #[error("the handshake failed")]
    Io(#[from] io::Error),
}

impl HandshakeError {
    /// As written in metric labels.
    pub(super) fn as_str(&self) -> &'static str {
        let io = match self {
            Self::NoName => return "no_name",
            Self::UnknownName => return "unknown_name",
            Self::Certificate(_) => return "client_certificate",
            Self::Io(io) => io,
        };
        match io.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            None => "closed",
            Some(rustls::Error::PeerIncompatible(_)) => "incompatible",
            Some(rustls::Error::NoApplicationProtocol) => "no_alpn",
            Some(rustls::Error::AlertReceived(_)) => "client_alert",
            Some(rustls::Error::InvalidMessage(_)) => "malformed",
            Some(rustls::Error::NoCertificatesPresented) => "no_client_certificate",
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::InvalidCertRevocationList(_)) => {
                "client_certificate"
            }
            Some(_) => "failed",
        }
    }
}

/// A client that has said hello and was found.
pub(super) struct Hello {
    start: tokio_rustls::StartHandshake<L4Stream>,
    config: Arc<ServerConfig>,
    sni: String,
}

/// Reads the ClientHello and finds its host. An unknown or missing name is answered with `unrecognized_name`.
pub(super) async fn hello(stream: L4Stream, table: &TlsTable) -> Result<Hello, HandshakeError> {
    let mut start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let sni = start.client_hello().server_name().map(canonical);
    let config = sni.as_deref().and_then(|sni| table.find(sni)).cloned();
    match (sni, config) {
        (Some(sni), Some(config)) => Ok(Hello { start, config, sni }),
        (sni, _) => {
            // Best effort: the client may have left already, and what it asked for is what counts.
            if start.io.write_all(&UNRECOGNIZED_NAME).await.is_ok() {
                start.io.shutdown().await.unwrap_or_default();
            }
            Err(if sni.is_some() { HandshakeError::UnknownName } else { HandshakeError::NoName })
        }
    }
}

impl Hello {
    /// Key exchange, certificate, Finished.
    pub(super) async fn finish(
        self,
        clients: Option<&Arc<ClientTrust>>,
    ) -> Result<(TlsStream<L4Stream>, TlsFacts), HandshakeError> {
        let stream = self.start.into_stream(self.config).await?;
        let connection = stream.get_ref().1;
        let certificate = match (connection.peer_certificates(), clients) {
            (Some(chain), Some(trust)) => Some(PeerCertificate::read(chain, trust)?),
            (None, _) => None,
            // Not asked for, and there nevertheless: nobody could say whether it counts.
            (Some(_), None) => return Err(HandshakeError::Certificate(CertificateError)),
        };
        let facts = TlsFacts {
            sni: self.sni,
            version: connection.protocol_version().and_then(|version| version.as_str()).unwrap_or(NONE),
            group: connection.negotiated_key_exchange_group().and_then(|group| group.name().as_str()),
            certificate,
        };
        Ok((stream, facts))
    }
}

/// rustls has checked that it is a DNS name; case and one trailing dot are left.
fn canonical(sni: &str) -> String {
    sni.strip_suffix('.').unwrap_or(sni).to_ascii_lowercase()
}
