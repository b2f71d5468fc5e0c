//! What the run makes for itself: a certificate authority, a certificate, a signing key and a token.

use std::{
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use portcullis_benches::{
    redis_server::store_key,
    token::{self, ISSUER},
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{ClientConfig, RootCertStore, version::TLS13};

use crate::flags::Protocol;

/// The host that the proxies serve.
pub(crate) const HOST: &str = "gateway.test";

/// Files and secrets of one run.
#[derive(Debug)]
pub(crate) struct Pki {
    /// PEM chain of [`HOST`].
    pub(crate) chain: PathBuf,
    /// Its PEM key.
    pub(crate) key: PathBuf,
    /// JWKS of the issuer.
    pub(crate) jwks: PathBuf,
    /// Key of the store of limits.
    pub(crate) store: PathBuf,
    /// A token that every request repeats.
    pub(crate) token: String,
    roots: RootCertStore,
}

impl Pki {
    /// Makes everything in `folder`.
    pub(crate) fn make(folder: &Path) -> anyhow::Result<Self> {
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_key = KeyPair::generate()?;
        let root = authority.self_signed(&authority_key)?;
        let issuer = Issuer::from_params(&authority, &authority_key);
        let key = KeyPair::generate()?;
        let leaf = CertificateParams::new(vec![HOST.to_owned()])?.signed_by(&key, &issuer)?;

        let mut roots = RootCertStore::empty();
        roots.add(root.der().clone())?;
        let signed = token::es256()?;
        let pki = Self {
            chain: folder.join("chain.pem"),
            key: folder.join("key.pem"),
            jwks: folder.join("jwks.json"),
            store: store_key(folder)?,
            token: signed.token,
            roots,
        };
        fs::write(&pki.chain, leaf.pem())?;
        // The gateway refuses a key that others may read.
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&pki.key)?
            .write_all(key.serialize_pem().as_bytes())?;
        fs::write(&pki.jwks, signed.jwks)?;
        Ok(pki)
    }

    /// A client that speaks TLS 1.3 and this protocol, and nothing else.
    pub(crate) fn client(&self, protocol: Protocol) -> Arc<ClientConfig> {
        let mut config = ClientConfig::builder_with_protocol_versions(&[&TLS13])
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![match protocol {
            Protocol::H1 => b"http/1.1".to_vec(),
            Protocol::H2 => b"h2".to_vec(),
        }];
        Arc::new(config)
    }
}

/// The issuer as the gateway's configuration names it.
pub(crate) fn issuer_section(jwks: &Path) -> String {
    format!(
        "[issuers.load]\nissuer = \"{ISSUER}\"\naudiences = [\"load\"]\nalgorithms = [\"ES256\"]\n\
         keys = {{ jwks_file = {jwks:?} }}\n\
         claims = {{ tenant = \"tenant_id\", roles = \"roles\", scopes = \"scope\" }}\n"
    )
}
