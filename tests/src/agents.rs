//! Agents: clients with certificates of their own, and the lists that revoke them.

use std::{io, sync::Arc};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{
    CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, KeyIdMethod, KeyPair,
    RevokedCertParams, SanType, SerialNumber,
};
use rustls::{ClientConfig, ClientConnection, StreamOwned, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, pem::PemObject as _};
use time::{Duration, OffsetDateTime};

use crate::{
    Dial, H1,
    ca::{self, Ca},
    dial::Wire,
    tokens::b64,
};

/// What an authority is asked to sign.
#[derive(Debug, Clone)]
pub struct Wanted {
    uris: Vec<String>,
    dns: Vec<String>,
    common_name: Option<String>,
    from_s: i64,
    to_s: i64,
    serial: u64,
}

impl Wanted {
    /// Good for an hour, with this URI.
    pub fn uri(uri: &str) -> Self {
        Self { uris: vec![uri.to_owned()], ..Self::nameless() }
    }

    /// Good for an hour, without any name.
    pub fn nameless() -> Self {
        Self { uris: Vec::new(), dns: Vec::new(), common_name: None, from_s: -60, to_s: 3600, serial: 7 }
    }

    /// One URI more.
    #[must_use]
    pub fn and(mut self, uri: &str) -> Self {
        self.uris.push(uri.to_owned());
        self
    }

    /// One DNS name more.
    #[must_use]
    pub fn dns(mut self, name: &str) -> Self {
        self.dns.push(name.to_owned());
        self
    }

    /// With this common name.
    #[must_use]
    pub fn common_name(mut self, name: &str) -> Self {
        self.common_name = Some(name.to_owned());
        self
    }

    /// Good from and to so many seconds from now.
    #[must_use]
    pub fn valid(mut self, from_s: i64, to_s: i64) -> Self {
        (self.from_s, self.to_s) = (from_s, to_s);
        self
    }

    /// With this serial number.
    #[must_use]
    pub fn serial(mut self, serial: u64) -> Self {
        self.serial = serial;
        self
    }
}

/// An agent: a certificate and its key.
#[derive(Debug)]
pub struct Agent {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Ca {
    /// Signs the certificate of a client.
    pub fn agent(&self, wanted: &Wanted) -> Agent {
        let mut params = CertificateParams::new(wanted.dns.clone()).expect("the names are valid");
        params.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(name) = &wanted.common_name {
            params.distinguished_name.push(DnType::CommonName, name.as_str());
        }
        let uris = wanted.uris.iter().map(|uri| SanType::URI(uri.as_str().try_into().expect("ASCII")));
        params.subject_alt_names.extend(uris);
        let now = OffsetDateTime::now_utc();
        params.not_before = now + Duration::seconds(wanted.from_s);
        params.not_after = now + Duration::seconds(wanted.to_s);
        params.serial_number = Some(SerialNumber::from(wanted.serial));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key is generated");
        let leaf = params.signed_by(&key, self.issuer()).expect("the authority signs");
        Agent { chain: vec![leaf.der().clone()], key: PrivatePkcs8KeyDer::from(key.serialize_der()).into() }
    }

    /// A list that revokes these serial numbers, as PEM; its next update comes so many seconds from now.
    pub fn revoking(&self, serials: &[u64], next_s: i64) -> String {
        let now = OffsetDateTime::now_utc();
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: now - Duration::hours(2),
            next_update: now + Duration::seconds(next_s),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(self.issuer()).expect("the authority signs").pem().expect("a list has a form")
    }
}

impl Agent {
    /// Its chain and its key as PEM files.
    pub fn pem(&self) -> (String, String) {
        let block = |kind: &str, der: &[u8]| {
            let lines = STANDARD.encode(der);
            format!("-----BEGIN {kind}-----\n{lines}\n-----END {kind}-----\n")
        };
        let chain = self.chain.iter().map(|certificate| block("CERTIFICATE", certificate)).collect();
        (chain, block("PRIVATE KEY", self.key.secret_der()))
    }

    /// From what an authority answered, and the key that was asked for.
    pub fn of_pem(chain: &str, key: &KeyPair) -> Self {
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>().expect("PEM");
        Self { chain, key: PrivatePkcs8KeyDer::from(key.serialize_der()).into() }
    }

    /// A fresh key, and a request for it that asks for another name than it will get, as PEM.
    pub fn request() -> (KeyPair, String) {
        let key = KeyPair::generate().expect("a key is generated");
        let mut params = CertificateParams::new(vec!["root.example.test".to_owned()]).expect("a name");
        let greedy = "spiffe://example.test/tenant/globex/agent/root";
        params.subject_alt_names.push(SanType::URI(greedy.try_into().expect("ASCII")));
        let request = params.serialize_request(&key).expect("a request").pem().expect("PEM");
        (key, request)
    }

    /// The leaf.
    pub fn leaf(&self) -> &CertificateDer<'static> {
        self.chain.first().expect("a chain has a leaf")
    }

    /// The SHA-256 of its certificate.
    pub fn fingerprint(&self) -> Vec<u8> {
        digest(&SHA256, self.leaf()).as_ref().to_vec()
    }

    /// As `x5t#S256`.
    pub fn thumbprint(&self) -> String {
        b64(&self.fingerprint())
    }

    /// As `openssl x509 -fingerprint -sha256` prints it.
    pub fn openssl_fingerprint(&self) -> String {
        self.fingerprint().iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
    }

    /// A client with this certificate that remembers sessions from connection to connection.
    pub fn client(&self, alpn: &str) -> Arc<ClientConfig> {
        self.client_of(&[&rustls::version::TLS13], alpn)
    }

    /// The same with these TLS versions.
    pub fn client_of(&self, versions: &[&'static SupportedProtocolVersion], alpn: &str) -> Arc<ClientConfig> {
        let mut config = ClientConfig::builder_with_provider(ca::provider())
            .with_protocol_versions(versions)
            .expect("the versions are supported")
            .with_root_certificates(ca::ca().roots())
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .expect("the key belongs to the certificate");
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        Arc::new(config)
    }

    /// A fresh HTTP/1.1 connection with this certificate.
    ///
    /// # Errors
    /// Whatever TCP or TLS says. TLS 1.3 tells a client only afterwards that its certificate was refused.
    pub fn connect(&self, dial: &Dial) -> io::Result<H1> {
        connect(dial, &self.client("http/1.1")).map(H1::over)
    }
}

/// A TLS connection of this client.
///
/// # Errors
/// Whatever TCP or TLS says.
pub fn connect(dial: &Dial, client: &Arc<ClientConfig>) -> io::Result<Wire> {
    let mut tcp = dial.tcp()?;
    let name = ServerName::try_from(dial.name().to_owned()).expect("a server name");
    let mut tls = ClientConnection::new(Arc::clone(client), name).expect("a client configuration that works");
    while tls.is_handshaking() {
        tls.complete_io(&mut tcp)?;
    }
    Ok(Wire::Tls(Box::new(StreamOwned::new(tls, tcp))))
}
