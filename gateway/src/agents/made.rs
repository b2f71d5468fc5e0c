//! A new authority: two keys, and two certificates.

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use time::{Duration, OffsetDateTime};

/// The root is changed once in ten years, where nothing happens to it.
const ROOT_LIVES: Duration = Duration::days(3650);
/// The issuing certificate is renewed with the root's key each year.
const ISSUING_LIVES: Duration = Duration::days(365);

/// As PEM.
pub(crate) struct Made {
    pub(crate) root: String,
    pub(crate) root_key: String,
    pub(crate) issuing: String,
    pub(crate) issuing_key: String,
}

/// Makes an authority of this name.
///
/// # Errors
/// When keys cannot be made.
pub(crate) fn make(name: &str, now: OffsetDateTime) -> Result<Made, rcgen::Error> {
    let (root_key, issuing_key) = (KeyPair::generate()?, KeyPair::generate()?);
    let root = params(&format!("{name} agents root"), now, ROOT_LIVES, 1);
    let root_pem = root.self_signed(&root_key)?.pem();
    let issuing = params(&format!("{name} agents issuing"), now, ISSUING_LIVES, 0);
    let issuing_pem = issuing.signed_by(&issuing_key, &Issuer::from_params(&root, &root_key))?.pem();
    Ok(Made {
        root: root_pem,
        root_key: root_key.serialize_pem(),
        issuing: issuing_pem,
        issuing_key: issuing_key.serialize_pem(),
    })
}

/// What signs certificates, and nothing else, with so many authorities below it.
fn params(name: &str, now: OffsetDateTime, lives: Duration, below: u8) -> CertificateParams {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    let mut params = CertificateParams::default();
    params.not_before = now;
    params.not_after = now.saturating_add(lives);
    params.distinguished_name = subject;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params
}
