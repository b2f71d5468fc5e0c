//! A document that was found right: everything the gateway builds a snapshot from, but the compiled controls.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    num::NonZeroU32,
    path::PathBuf,
    sync::Arc,
};

use http::HeaderValue;
use portcullis_api::{Cidrs, Environment, Millis, Secret, TenantId, Topology};
use portcullis_plugins::{
    assertion,
    authentication::{Algorithm, ApiKeyFileError, CertificateMode, Peppers},
    cors, signature,
};
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;

use crate::{
    document::{AccessLog, Bounds, TlsVersion, UpstreamProtocol},
    pattern::HostPattern,
    router::Router,
    store_url::StoreUrl,
};

/// Everything a document says, resolved and checked.
///
/// Invariant: only [`crate::settle`] makes one, and only when it found no issue.
#[derive(Debug)]
pub struct Settled {
    /// At least one.
    pub listeners: Vec<ListenerSpec>,
    /// The certificate of each host that has one; every host has, where a listener speaks TLS.
    pub certificates: HashMap<HostPattern, Arc<CertifiedKey>>,
    /// From host and path to a route.
    pub router: Router,
    /// Cross-origin rules; hosts refer to them by index.
    pub cors: Vec<cors::Settings>,
    /// At least one; routes refer to them by index.
    pub upstreams: Vec<UpstreamSpec>,
    /// Signed assertions; there are keys for every upstream that asks for them.
    pub assertion: Option<AssertionSpec>,
    /// The operator's listener.
    pub admin: Option<AdminSpec>,
    /// Logs.
    pub log: LogSpec,
    /// Shared state.
    pub stores: StoresSpec,
    /// The file that revocations are kept in, resolved. It need not exist.
    pub revocations: Option<PathBuf>,
    /// Who issues tokens, by name.
    pub issuers: BTreeMap<String, IssuerSpec>,
    /// API keys.
    pub api_keys: Option<ApiKeysSpec>,
    /// The hosts that serve tokens for API keys, as they are written. The exchange itself is one of `issuers`.
    pub exchange: Vec<String>,
    /// Every tenant the document names, in `[tenants]` or as the fixed tenant of a host.
    pub tenants: Vec<TenantId>,
}

/// A socket that clients connect to.
#[derive(Debug, Clone)]
pub struct ListenerSpec {
    /// Its name in the document.
    pub name: Arc<str>,
    /// Where it listens.
    pub address: SocketAddr,
    /// Whom to believe about the client's address.
    pub topology: Topology,
    /// The oldest TLS version; `None` is plain, on loopback only.
    pub tls: Option<TlsVersion>,
    /// Certificates of clients; none are asked for without.
    pub client_certificates: Option<ClientCertificatesSpec>,
    /// Bounds on connections and heads.
    pub bounds: Bounds,
}

/// Certificates of clients. Whom they name stays in the document.
#[derive(Debug, Clone)]
pub struct ClientCertificatesSpec {
    /// Who signs them; at least one, and each was parsed as X.509.
    pub ca: Vec<CertificateDer<'static>>,
    /// Files of revocation lists, resolved; each held some.
    pub crl: Vec<PathBuf>,
    /// Whether a connection needs one.
    pub mode: CertificateMode,
    /// How long a connection is used, 1 s to 1 h.
    pub connection_age_max: Millis,
}

/// An app behind the gateway.
#[derive(Debug, Clone)]
pub struct UpstreamSpec {
    /// Its name in the document.
    pub name: Arc<str>,
    /// At least one.
    pub servers: Vec<Server>,
    /// TLS to the servers.
    pub tls: Option<UpstreamTlsSpec>,
    /// What the servers speak.
    pub protocol: UpstreamProtocol,
    /// How to find out whether a server is well.
    pub health: Option<HealthSpec>,
    /// To connect, with TLS.
    pub connect_timeout: Millis,
    /// To the first byte of the answer and between two pieces of it.
    pub response_timeout: Millis,
    /// To write a piece of the request.
    pub write_timeout: Millis,
    /// How long an unused connection is kept.
    pub idle_timeout: Millis,
    /// Further attempts, 0 to 5.
    pub retries_max: u32,
    /// With what the assertion of who calls is signed.
    pub assertion: Option<assertion::Algorithm>,
    /// What signs its requests; no other upstream has this key.
    pub signature: Option<Arc<signature::Signer>>,
}

/// Signed assertions.
#[derive(Debug, Clone)]
pub struct AssertionSpec {
    /// `iss`: an https URL.
    pub issuer: Arc<str>,
    /// Keys of each algorithm, the oldest first; at least one key in all.
    pub es256: Vec<Arc<assertion::SigningKey>>,
    /// The same for Ed25519.
    pub eddsa: Vec<Arc<assertion::SigningKey>>,
    /// Whole seconds, 1 to 60.
    pub lifetime: Millis,
    /// Whole seconds, at most a day.
    pub max_age: Millis,
}

/// Where a server of an upstream is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Server {
    /// An address and port.
    Address(SocketAddr),
    /// A name to be resolved behind the traffic, and a port.
    Name {
        /// Lower case.
        host: String,
        /// More than zero.
        port: u16,
    },
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// TLS to the servers of an upstream.
#[derive(Debug, Clone)]
pub struct UpstreamTlsSpec {
    /// The name in their certificate; never empty, because Pingora verifies nothing without one.
    pub sni: String,
    /// Who signs it.
    pub ca: UpstreamCaSpec,
    /// What the gateway shows to a server that asks.
    pub client_certificate: Option<ClientCertificateSpec>,
}

/// The gateway's own certificate for an upstream.
#[derive(Debug, Clone)]
pub struct ClientCertificateSpec {
    /// At least one, the leaf first, and each was parsed as X.509.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's private key, in a form that rustls recognises by its bytes alone.
    pub key: Secret,
    /// When the first of the chain expires, in seconds since 1970-01-01 UTC.
    pub not_after: i64,
}

/// Whose signature on an upstream's certificate is believed.
#[derive(Debug, Clone)]
pub enum UpstreamCaSpec {
    /// The roots of the system.
    System,
    /// These certificates; at least one, and each was parsed as X.509.
    Certificates(Vec<CertificateDer<'static>>),
}

/// How to find out whether a server is well.
#[derive(Debug, Clone)]
pub struct HealthSpec {
    /// A path that must answer 200; a TCP connection is enough without.
    pub path: Option<String>,
    /// Between two checks.
    pub interval: Millis,
    /// For one check.
    pub timeout: Millis,
}

/// The operator's listener.
#[derive(Debug, Clone)]
pub struct AdminSpec {
    /// Loopback.
    pub address: SocketAddr,
    /// At least 32 bytes.
    pub token: Option<Secret>,
}

/// Logs.
#[derive(Debug, Clone)]
pub struct LogSpec {
    /// Where the access log goes; a file's path is resolved.
    pub access: AccessLog,
    /// At least 32 bytes.
    pub pseudonym_key: Option<Secret>,
}

/// Shared state.
#[derive(Debug, Clone)]
pub struct StoresSpec {
    /// Where limits count.
    pub counters: Counters,
    /// How long a check may wait for the store.
    pub deadline: Millis,
    /// How many gateways share it.
    pub instances: NonZeroU32,
    /// Buckets of each limit in the memory of this process.
    pub keys_max: u32,
    /// First part of every key in it: 1 to 32 of a-z, 0-9, `-` and `_`.
    pub prefix: String,
    /// Hides what is counted; at least 32 bytes. There is one wherever `counters` is a Redis.
    pub key: Option<Secret>,
}

/// Where limits count.
#[derive(Debug, Clone)]
pub enum Counters {
    /// In this process.
    Memory,
    /// In the Redis of this URL, in what Sentinels name, or in a cluster.
    Redis(StoreUrl),
}

/// An issuer's keys and what they may sign with. Its claims and audiences stay in the document.
#[derive(Debug, Clone)]
pub struct IssuerSpec {
    /// Its `iss`.
    pub issuer: String,
    /// Where its keys are.
    pub keys: KeySource,
    /// Its signature algorithms.
    pub algorithms: Vec<Algorithm>,
    /// Networks that are not public and may be asked for its keys.
    pub private_networks: Cidrs,
    /// How long a key set is used after it was fetched or read last.
    pub max_stale: Millis,
    /// Where the last good set of fetched keys is kept, resolved.
    pub copy: Option<PathBuf>,
}

/// Where an issuer's keys are, resolved.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// Fetched and refreshed behind the traffic.
    JwksUrl(String),
    /// As `JwksUrl`, from where the document at this URL says.
    Discovery(String),
    /// Read again when it changes; the path is resolved, and it was there.
    JwksFile(PathBuf),
    /// A shared secret, at least 32 bytes.
    Secret(Secret),
    /// Secrets that this gateway signs with.
    Own {
        /// Signs; at least 32 bytes.
        newest: Secret,
        /// Those before it, at most 7.
        older: Vec<Secret>,
    },
}

impl KeySource {
    /// Whether its keys come over the network.
    #[must_use]
    pub const fn are_fetched(&self) -> bool {
        match self {
            Self::JwksUrl(_) | Self::Discovery(_) => true,
            Self::JwksFile(_) | Self::Secret(_) | Self::Own { .. } => false,
        }
    }
}

/// API keys.
#[derive(Debug, Clone)]
pub struct ApiKeysSpec {
    /// Where their records are.
    pub source: ApiKeySource,
    /// Keys the hashes; at least 32 bytes.
    pub pepper: Secret,
    /// Those before it, at most 7.
    pub older_peppers: Vec<Secret>,
    /// The first part of every key.
    pub brand: Environment,
}

impl ApiKeysSpec {
    /// The versions of the pepper.
    ///
    /// # Errors
    /// When one can be guessed, or is there twice.
    pub fn peppers(&self) -> Result<Peppers, ApiKeyFileError> {
        Peppers::new(&self.pepper, &self.older_peppers)
    }
}

/// Where the records of API keys are.
#[derive(Debug, Clone)]
pub enum ApiKeySource {
    /// The file of key records, resolved. It need not exist: `portcullis keys issue` makes it.
    File(PathBuf),
    /// A store that is followed and written to.
    Store(KeyStoreSpec),
}

/// A store of key records.
#[derive(Debug, Clone)]
pub struct KeyStoreSpec {
    /// Which.
    pub store: KeyStore,
    /// How long known keys go on while it is away; whole seconds.
    pub max_stale: Millis,
    /// Active keys a tenant may have.
    pub keys_max: NonZeroU32,
}

/// Which store.
#[derive(Debug, Clone)]
pub enum KeyStore {
    /// A file, resolved; made where there is none. Its folder is there.
    Sqlite(PathBuf),
    /// A server.
    Postgres(Box<PostgresSpec>),
}

/// A PostgreSQL server.
#[derive(Debug, Clone)]
pub struct PostgresSpec {
    /// Where it is, and as whom; one host. Says whether TLS is spoken, as `tls` does.
    pub config: tokio_postgres::Config,
    /// Whether it is verified.
    pub tls: PostgresTls,
    /// As written, to be compared with the next one.
    pub url: Secret,
}

/// How a PostgreSQL server is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PostgresTls {
    /// In the clear, on this machine.
    Plain,
    /// Over TLS, certificate and name verified.
    Verified {
        /// Who signs its certificate; never empty.
        roots: Vec<CertificateDer<'static>>,
    },
}

/// The security headers of a host's answers, ready to be sent. The default is for requests whose host is unknown.
#[derive(Debug, Clone)]
pub struct SecurityHeaderValues {
    /// `Strict-Transport-Security`, over TLS only.
    pub strict_transport_security: HeaderValue,
    /// `Content-Security-Policy`, where the upstream sends none.
    pub content_security_policy: HeaderValue,
    /// `X-Frame-Options`.
    pub x_frame_options: HeaderValue,
    /// `Referrer-Policy`.
    pub referrer_policy: HeaderValue,
}

impl Default for SecurityHeaderValues {
    fn default() -> Self {
        Self {
            strict_transport_security: HeaderValue::from_static("max-age=31536000"),
            content_security_policy: HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"),
            x_frame_options: HeaderValue::from_static("DENY"),
            referrer_policy: HeaderValue::from_static("no-referrer"),
        }
    }
}
