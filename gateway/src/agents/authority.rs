//! The issuing key at work.

use portcullis_plugins::authentication::{AgentName, UriPattern};
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use time::{Duration, OffsetDateTime};

/// How long an agent's certificate counts.
pub(crate) const LIFETIME: Duration = Duration::hours(24);
/// More than a request with an RSA key of 8,192 bits takes.
const REQUEST_BYTES_MAX: usize = 16 << 10;

/// Signs agents' certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    chain: String,
    not_after: OffsetDateTime,
}

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    /// The issuing certificate cannot be read, or may not sign.
    #[error("the issuing certificate cannot be used: {0}")]
    Certificate(String),
    /// The issuing key cannot be read.
    #[error("the issuing key cannot be used: {0}")]
    Key(rcgen::Error),
    /// The two do not belong together.
    #[error("the issuing key is not the issuing certificate's")]
    OtherKey,
    /// It is over.
    #[error("the issuing certificate expired on {0}: make a new one with the root's key")]
    Expired(time::Date),
    /// A request that is none, or was not signed with its own key.
    #[error("that is no signing request of the key that it names: {0}")]
    Request(rcgen::Error),
    /// A request that is longer than any.
    #[error("a signing request has at most {REQUEST_BYTES_MAX} bytes")]
    Long,
    /// The machine gives no randomness, or the name is none.
    #[error("the certificate could not be made: {0}")]
    Failed(String),
}

impl Authority {
    /// From the issuing certificate and its key, as PEM.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub(crate) fn read(certificate: &str, key: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(key).map_err(AuthorityError::Key)?;
        let wrong = |why: &str| AuthorityError::Certificate(why.to_owned());
        let der =
            CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|_| wrong("it is no PEM file of one"))?;
        let (_, read) = x509_parser::parse_x509_certificate(&der).map_err(|_| wrong("it is not X.509"))?;
        if !read.is_ca() {
            return Err(wrong("it is not an authority's"));
        }
        if read.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(AuthorityError::OtherKey);
        }
        let not_after = read.validity().not_after.to_datetime();
        let chain = certificate.to_owned();
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|error| wrong(&error.to_string()))?;
        Ok(Self { issuer, chain, not_after })
    }

    /// A certificate for this agent and the key of this request, for a day and not longer than the authority itself: the
    /// chain as PEM, without the root.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub(crate) fn sign(
        &self,
        request: &str,
        (pattern, tenant, agent): (&UriPattern, &portcullis_api::TenantId, &AgentName),
        now: OffsetDateTime,
    ) -> Result<String, AuthorityError> {
        if now >= self.not_after {
            return Err(AuthorityError::Expired(self.not_after.date()));
        }
        if request.len() > REQUEST_BYTES_MAX {
            return Err(AuthorityError::Long);
        }
        // Its signature is verified here; its subject, its names and its wishes are left.
        let CertificateSigningRequestParams { params: _, public_key } =
            CertificateSigningRequestParams::from_pem(request).map_err(AuthorityError::Request)?;
        let failed = |error: &dyn std::fmt::Display| AuthorityError::Failed(error.to_string());
        let uri = pattern.uri_of(tenant, agent).as_str().try_into().map_err(|error: rcgen::Error| failed(&error))?;
        let mut params = CertificateParams::default();
        params.not_before = now;
        params.not_after = now.saturating_add(LIFETIME).min(self.not_after);
        params.serial_number = Some(serial()?);
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.distinguished_name = DistinguishedName::new();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(&public_key, &self.issuer).map_err(|error| failed(&error))?;
        Ok(format!("{}{}", leaf.pem(), self.chain))
    }
}

/// 120 random bits: nobody can guess the next one, and the first byte keeps it positive (RFC 5280 4.1.2.2).
fn serial() -> Result<SerialNumber, AuthorityError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| AuthorityError::Failed("the system gives no randomness".to_owned()))?;
    if let Some(first) = bytes.first_mut() {
        *first = 0x5a;
    }
    Ok(SerialNumber::from_slice(&bytes))
}
