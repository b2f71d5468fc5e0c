use portcullis_api::TenantId;
use portcullis_plugins::authentication::{AgentName, UriPattern};
use rcgen::{CertificateParams, IsCa, KeyPair, SanType};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use time::{Duration, OffsetDateTime};
use x509_parser::extensions::GeneralName;

use super::{authority::AuthorityError, *};

fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap()
}

fn sign(authority: &Authority, request: &str, now: OffsetDateTime) -> Result<String, AuthorityError> {
    let pattern = UriPattern::parse("spiffe://example.test/tenant/{tenant}/agent/{agent}").unwrap();
    let (tenant, agent) = (TenantId::parse("acme").unwrap(), AgentName::parse("billing-7").unwrap());
    authority.sign(request, (&pattern, &tenant, &agent), now)
}

/// A request that asks for everything it must not get.
fn greedy(key: &KeyPair) -> String {
    let mut params = CertificateParams::new(vec!["root.example.test".to_owned()]).unwrap();
    params.subject_alt_names.push(SanType::URI("spiffe://example.test/tenant/globex/agent/root".try_into().unwrap()));
    params.distinguished_name.push(rcgen::DnType::CommonName, "root");
    params.serialize_request(key).unwrap().pem().unwrap()
}

fn authority() -> Authority {
    let made = make("example", now()).unwrap();
    Authority::read(&made.issuing, &made.issuing_key).unwrap()
}

#[test]
fn of_a_request_the_key_is_taken_and_nothing_else() {
    let key = KeyPair::generate().unwrap();
    let chain = sign(&authority(), &greedy(&key), now()).unwrap();
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>().unwrap();
    assert_eq!(chain.len(), 2, "the leaf and who signed it, not the root");
    let (_, leaf) = x509_parser::parse_x509_certificate(chain.first().unwrap()).unwrap();
    assert_eq!(leaf.public_key().subject_public_key.data.as_ref(), key.public_key_raw());
    assert_eq!(leaf.subject().iter().count(), 0);
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    let expected = [GeneralName::URI("spiffe://example.test/tenant/acme/agent/billing-7")];
    assert_eq!(names.value.general_names, expected);
    assert!(!leaf.is_ca());
    let lives = leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp();
    assert_eq!(lives, LIFETIME.whole_seconds());
    assert!(!leaf.tbs_certificate.raw_serial().is_empty());
}

#[test]
fn a_request_that_was_not_signed_with_its_key_is_refused() {
    let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let (theirs, ours) = (greedy(&key), greedy(&other));
    let der = |pem: &str| rustls_pki_types::CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap();
    let mut forged = der(&theirs).as_ref().to_vec();
    // The signature is at the end: one changed bit in it, and the key in the middle replaced by another's.
    *forged.last_mut().unwrap() ^= 1;
    let point =
        |request: &[u8], key: &KeyPair| request.windows(65).position(|window| window == key.public_key_raw()).unwrap();
    let mut stolen = der(&ours).as_ref().to_vec();
    let at = point(&stolen, &other);
    stolen.get_mut(at..at + 65).unwrap().copy_from_slice(key.public_key_raw());
    for request in [forged, stolen] {
        let body = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &request);
        let pem = format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n");
        assert!(matches!(sign(&authority(), &pem, now()), Err(AuthorityError::Request(_))));
    }
    for request in ["", "no request", &"x".repeat(16 << 10)] {
        assert!(matches!(sign(&authority(), request, now()), Err(AuthorityError::Request(_))), "{request:.10}");
    }
    assert!(matches!(sign(&authority(), &"x".repeat((16 << 10) + 1), now()), Err(AuthorityError::Long)));
}

#[test]
fn no_certificate_outlives_the_authority_and_an_expired_one_signs_none() {
    let authority = authority();
    let request = greedy(&KeyPair::generate().unwrap());
    let year = Duration::days(365);
    let chain = sign(&authority, &request, now() + year - Duration::seconds(10)).unwrap();
    let leaf = CertificateDer::from_pem_slice(chain.as_bytes()).unwrap();
    let (_, leaf) = x509_parser::parse_x509_certificate(&leaf).unwrap();
    assert_eq!(leaf.validity().not_after.to_datetime(), now() + year);
    assert!(matches!(sign(&authority, &request, now() + year), Err(AuthorityError::Expired(_))));
}

#[test]
fn only_an_authority_with_its_own_key_signs() {
    let (made, other) = (make("example", now()).unwrap(), make("other", now()).unwrap());
    let read = |certificate: &str, key: &str| Authority::read(certificate, key).err().map(|error| error.to_string());
    assert_eq!(
        read(&made.issuing, &other.issuing_key).as_deref(),
        Some("the issuing key is not the issuing certificate's")
    );
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::ExplicitNoCa;
    let leaf = params.self_signed(&key).unwrap().pem();
    assert!(read(&leaf, &key.serialize_pem()).unwrap().contains("not an authority's"));
    assert!(read("nothing", &made.issuing_key).is_some() && read(&made.issuing, "nothing").is_some());
    assert_eq!(read(&made.issuing, &made.issuing_key), None);
}
