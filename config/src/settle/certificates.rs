//! Certificates of ours: readable, each with its own key, in date, and for its host, or for the gateway as a client of an
//! upstream. Found out at load, not by a peer.

use std::{fmt, ops::Range, sync::Arc};

use portcullis_api::Secret;

use rustls::{crypto::aws_lc_rs, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer, time::ASN1Time};

use super::{Room, references::Holds};
use crate::{document::Certificate, pattern::HostPattern, settled::ClientCertificateSpec};

/// What a certificate is for.
#[derive(Clone, Copy)]
enum Purpose<'p> {
    /// To be shown by a host.
    Host(&'p HostPattern),
    /// To be shown to the servers of an upstream.
    Upstream(&'p str),
}

impl fmt::Display for Purpose<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => write!(f, "host `{host}`"),
            Self::Upstream(upstream) => write!(f, "upstream `{upstream}`"),
        }
    }
}

/// Why a chain and a key are no certificate for a host.
#[derive(Debug, thiserror::Error)]
enum CertificateError {
    #[error("the chain is no PEM file with certificates")]
    NoChain,
    #[error("certificate {0} of the chain is not X.509")]
    NotX509(usize),
    #[error("certificate {0} of the chain did not sign the one before it")]
    Order(usize),
    #[error("the key is no PEM file with a private key")]
    NoKey,
    #[error("the key cannot be used: {0}")]
    BadKey(rustls::Error),
    #[error("the key is not the certificate's")]
    OtherKey,
    #[error("certificate {0} of the chain expired on {1}")]
    Expired(usize, Date),
    #[error("certificate {0} of the chain is not valid before {1}")]
    NotYet(usize, Date),
    #[error("the certificate is not for this host: {}", names(.0))]
    OtherHost(Vec<String>),
    #[error("the certificate is not for clients: its extended key usage leaves out clientAuth")]
    OtherUse,
}

/// A day, as in `2026-01-31`.
#[derive(Debug)]
struct Date(ASN1Time);

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.to_datetime().date())
    }
}

fn names(names: &[String]) -> String {
    if names.is_empty() { "it has no names".to_owned() } else { format!("its names are {}", names.join(", ")) }
}

impl CertificateError {
    const fn code(&self) -> &'static str {
        match self {
            Self::NoChain | Self::NotX509(_) => "certificate.no_chain",
            Self::Order(_) => "certificate.order",
            Self::NoKey | Self::BadKey(_) => "certificate.no_key",
            Self::OtherKey => "certificate.other_key",
            Self::Expired(..) => "certificate.expired",
            Self::NotYet(..) => "certificate.not_yet_valid",
            Self::OtherHost(_) => "certificate.other_host",
            Self::OtherUse => "certificate.other_use",
        }
    }

    const fn help(&self) -> &'static str {
        match self {
            Self::NoChain | Self::NotX509(_) => {
                "write the leaf first, then what signed it, each as -----BEGIN CERTIFICATE-----"
            }
            Self::Order(_) => "write the leaf first, then what signed it, and leave the root out",
            Self::NoKey => "write a key as -----BEGIN PRIVATE KEY-----; an encrypted one cannot be read",
            Self::BadKey(_) => "ECDSA on P-256 or P-384, Ed25519, and RSA of 2048 bits and more are possible",
            Self::OtherKey => "the two files belong to different certificates",
            Self::Expired(..) => "renew it; a peer would refuse it",
            Self::NotYet(..) => "check this machine's clock",
            Self::OtherHost(_) => "a wildcard covers exactly one label",
            Self::OtherUse => "have one issued with extendedKeyUsage = clientAuth; servers refuse any other",
        }
    }

    /// Whether the first certificate is perhaps not the leaf, so that what is said of it would mislead.
    const fn hides_others(&self) -> bool {
        matches!(self, Self::NotX509(_) | Self::Order(_))
    }

    /// Whether the fault is in the key's file.
    const fn is_about_key(&self) -> bool {
        matches!(self, Self::NoKey | Self::BadKey(_) | Self::OtherKey)
    }
}

impl Room<'_> {
    pub(super) fn certificate(&mut self, host: &HostPattern, certificate: &Certificate) -> Option<Arc<CertifiedKey>> {
        self.certified(Purpose::Host(host), certificate).map(|(certified, _)| certified)
    }

    /// The gateway's own certificate for an upstream.
    pub(super) fn client_certificate(
        &mut self,
        upstream: &str,
        certificate: &Certificate,
    ) -> Option<ClientCertificateSpec> {
        let (certified, key) = self.certified(Purpose::Upstream(upstream), certificate)?;
        let chain = certified.cert.clone();
        let (_, leaf) = chain.first().and_then(|leaf| X509Certificate::from_der(leaf).ok())?;
        let not_after = leaf.validity().not_after.timestamp();
        Some(ClientCertificateSpec { chain, key, not_after })
    }

    fn certified(&mut self, purpose: Purpose<'_>, certificate: &Certificate) -> Option<(Arc<CertifiedKey>, Secret)> {
        let Certificate { chain, key } = certificate;
        let chain_pem = self.read(&chain.value, &chain.span, Holds::Public);
        let key_pem = self.read(&key.value, &key.span, Holds::Secret);
        let now = i64::try_from(self.around.now).ok().and_then(|now| ASN1Time::from_timestamp(now).ok());
        let mut wrong = |error: CertificateError| {
            let span: &Range<usize> = if error.is_about_key() { &key.span } else { &chain.span };
            self.issues.push_help(error.code(), span, format!("{error} ({purpose})"), error.help());
        };
        // Both files are looked at whatever is wrong with the other.
        let key = key_pem.and_then(|pem| {
            PrivateKeyDer::from_pem_slice(pem.expose()).map_err(|_| wrong(CertificateError::NoKey)).ok()
        });
        let chain = chain_pem.and_then(|pem| parsed_chain(pem.expose()).map_err(&mut wrong).ok())?;
        let doubts = doubts(&chain, purpose, now);
        let usable = !doubts.iter().any(CertificateError::hides_others);
        doubts.into_iter().for_each(&mut wrong);
        let key = key.filter(|_| usable)?;
        let der = Secret::new(key.secret_der().to_vec());
        let key = match purpose {
            Purpose::Host(_) => key,
            // Pingora hands rustls the bytes without the kind that the PEM file names, and panics on what is none.
            Purpose::Upstream(_) => match PrivateKeyDer::try_from(der.expose()) {
                Ok(key) => key.clone_key(),
                Err(_) => {
                    wrong(CertificateError::NoKey);
                    return None;
                }
            },
        };
        certified(chain, key).map_err(wrong).ok().map(|certified| (certified, der))
    }
}

fn parsed_chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_| CertificateError::NoChain)?;
    if chain.is_empty() { Err(CertificateError::NoChain) } else { Ok(chain) }
}

fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<CertifiedKey>, CertificateError> {
    match CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()) {
        Ok(certified) => Ok(Arc::new(certified)),
        Err(rustls::Error::InconsistentKeys(_)) => Err(CertificateError::OtherKey),
        Err(error) => Err(CertificateError::BadKey(error)),
    }
}

/// Everything that is wrong with a chain: order, dates, and what it is for.
fn doubts(chain: &[CertificateDer<'static>], purpose: Purpose<'_>, now: Option<ASN1Time>) -> Vec<CertificateError> {
    let mut doubts = Vec::new();
    let mut parsed: Vec<X509Certificate<'_>> = Vec::new();
    for (n, der) in (1_usize..).zip(chain) {
        let Ok((_, certificate)) = X509Certificate::from_der(der) else {
            return vec![CertificateError::NotX509(n)];
        };
        let validity = certificate.validity();
        if now.is_none_or(|now| validity.not_after < now) {
            doubts.push(CertificateError::Expired(n, Date(validity.not_after)));
        } else if now.is_some_and(|now| now < validity.not_before) {
            doubts.push(CertificateError::NotYet(n, Date(validity.not_before)));
        }
        if let Some(signed) = parsed.last()
            && signed.issuer().as_raw() != certificate.subject().as_raw()
        {
            return vec![CertificateError::Order(n)];
        }
        parsed.push(certificate);
    }
    doubts.extend(match purpose {
        Purpose::Host(host) => {
            let names = parsed.first().map(alternative_names).unwrap_or_default();
            (!names.iter().any(|name| host.covered_by(name))).then_some(CertificateError::OtherHost(names))
        }
        Purpose::Upstream(_) => parsed.first().is_none_or(is_not_for_clients).then_some(CertificateError::OtherUse),
    });
    doubts
}

/// Whether the certificate says what it is for (RFC 5280 4.2.1.12), and clients are not among it.
fn is_not_for_clients(leaf: &X509Certificate<'_>) -> bool {
    match leaf.extended_key_usage() {
        Ok(Some(usage)) => !usage.value.client_auth && !usage.value.any,
        Ok(None) => false,
        Err(_) => true,
    }
}

/// The subject's alternative names. The common name is no name: browsers stopped reading it in 2017.
fn alternative_names(leaf: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = leaf.subject_alternative_name() else { return Vec::new() };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => <[u8; 4]>::try_from(*bytes)
            .map(|v4| std::net::Ipv4Addr::from(v4).to_string())
            .or_else(|_| <[u8; 16]>::try_from(*bytes).map(|v6| format!("[{}]", std::net::Ipv6Addr::from(v6))))
            .ok(),
        GeneralName::OtherName(..)
        | GeneralName::RFC822Name(_)
        | GeneralName::X400Address(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EDIPartyName(_)
        | GeneralName::URI(_)
        | GeneralName::RegisteredID(_)
        | GeneralName::Invalid(..) => None,
    };
    extension.value.general_names.iter().filter_map(name).collect()
}
