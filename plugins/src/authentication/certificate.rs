//! A client's certificate, as far as it says who calls: its URI, its dates and its fingerprint. Whether its signatures
//! hold was found out in the handshake, and is found out again by whoever holds the connection.
//!
//! Invariant: nothing but the subject alternative name is read for a name. No common name, no other field of the subject.

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis_api::UnixSeconds;
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer,
};

use super::deny::Why;
use crate::revocations::{Revocable, Target};

/// The longest that a certificate may live, in seconds: revocations of tenants and certificates are kept a day longer, so
/// that nothing outlives what refuses it.
pub const CERTIFICATE_LIFETIME_MAX_S: u64 = 365 * 86_400;
/// The longest URI that names anybody: what SPIFFE allows.
const URI_BYTES_MAX: usize = 2048;

/// The leaf of a chain that a client has proved to hold the key of.
#[derive(Debug, Clone)]
pub struct ClientCertificate {
    fingerprint: [u8; 32],
    not_before: UnixSeconds,
    not_after: UnixSeconds,
    uri: Result<String, Why>,
    revocable: Revocable,
}

/// It is not X.509, or has dates that none can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client's certificate cannot be read")]
pub struct CertificateError;

/// What those who signed a certificate say of it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The authorities that are believed now signed it, and none has revoked it.
    Trusted,
    /// They did not, or no longer do.
    Untrusted,
    /// It is on a revocation list, or one of those who signed it is.
    Listed,
    /// There is no revocation list of it that is still good.
    Unlisted,
}

/// The certificate of the connection that a request came on.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'r> {
    /// The certificate.
    pub certificate: &'r ClientCertificate,
    /// The listener, by its index: whom a certificate names is the listener's word.
    pub listener: usize,
    /// What its authorities say now.
    pub standing: Standing,
}

impl ClientCertificate {
    /// Reads a leaf.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        let Ok((&[], leaf)) = X509Certificate::from_der(der) else { return Err(CertificateError) };
        let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).map_err(|_| CertificateError);
        let fingerprint = fingerprint(der);
        let not_before = seconds(leaf.validity().not_before)?;
        Ok(Self {
            fingerprint,
            not_before,
            not_after: seconds(leaf.validity().not_after)?,
            uri: uri(&leaf),
            revocable: Revocable::new(&[Target::Cert { fingerprint }], not_before),
        })
    }

    /// The SHA-256 of its DER.
    #[must_use]
    pub const fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    /// When it begins, in seconds since 1970.
    pub(super) const fn not_before(&self) -> UnixSeconds {
        self.not_before
    }

    /// The last second in which it counts.
    pub(super) const fn not_after(&self) -> UnixSeconds {
        self.not_after
    }

    /// The one URI of its subject alternative name.
    pub(super) fn uri(&self) -> Result<&str, Why> {
        self.uri.as_deref().map_err(|why| *why)
    }

    /// What revokes it, whomever it names.
    pub(super) const fn revocable(&self) -> &Revocable {
        &self.revocable
    }

    /// Whether it counts at this time, by its own dates and by the word of those who signed it.
    pub(super) fn counts(&self, standing: Standing, now: UnixSeconds) -> Result<(), Why> {
        match standing {
            Standing::Trusted => {}
            Standing::Untrusted => return Err(Why::CertificateUntrusted),
            Standing::Listed => return Err(Why::CertificateListed),
            Standing::Unlisted => return Err(Why::CertificateUnlisted),
        }
        if now < self.not_before {
            return Err(Why::CertificateNotYet);
        }
        if now > self.not_after {
            return Err(Why::CertificateExpired);
        }
        // RFC 5280 4.1.2.5: both ends are included, so a year that ends at 23:59:59 is a year.
        match self.not_after.checked_sub(self.not_before) {
            Some(lifetime) if lifetime <= CERTIFICATE_LIFETIME_MAX_S => Ok(()),
            Some(_) | None => Err(Why::CertificateLifetime),
        }
    }
}

/// The SHA-256 of a certificate's DER.
#[must_use]
pub fn fingerprint(der: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (slot, byte) in bytes.iter_mut().zip(digest(&SHA256, der).as_ref()) {
        *slot = *byte;
    }
    bytes
}

/// A fingerprint as `x5t#S256` has it (RFC 8705 3.1).
#[must_use]
pub fn thumbprint(fingerprint: &[u8; 32]) -> String {
    URL_SAFE_NO_PAD.encode(fingerprint)
}

/// The fingerprint of a canonical `x5t#S256`.
pub(super) fn from_thumbprint(text: &str) -> Option<[u8; 32]> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

/// Exactly one URI, as SPIFFE demands (X.509-SVID 2): of two nobody can say which one counts.
fn uri(leaf: &X509Certificate<'_>) -> Result<String, Why> {
    let mut uris = Vec::new();
    // All of them: what stands twice, some parsers read the first of and others the last.
    for extension in leaf.extensions() {
        if extension.oid != x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME {
            continue;
        }
        let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else {
            return Err(Why::CertificateName);
        };
        for name in &names.general_names {
            match name {
                GeneralName::URI(uri) => uris.push(*uri),
                GeneralName::Invalid(..) => return Err(Why::CertificateName),
                GeneralName::DNSName(_)
                | GeneralName::IPAddress(_)
                | GeneralName::OtherName(..)
                | GeneralName::RFC822Name(_)
                | GeneralName::X400Address(_)
                | GeneralName::DirectoryName(_)
                | GeneralName::EDIPartyName(_)
                | GeneralName::RegisteredID(_) => {}
            }
        }
    }
    match uris.as_slice() {
        [] => Err(Why::CertificateNameless),
        [uri] if uri.len() <= URI_BYTES_MAX => Ok((*uri).to_owned()),
        [_] => Err(Why::CertificateName),
        [_, _, ..] => Err(Why::CertificateNames),
    }
}
