//! Whom certificates name, without a gateway around it.

use portcullis_api::{Issues, TenantId};
use proptest::prelude::*;
use rcgen::{CertificateParams, CustomExtension, KeyPair, SanType};
use time::OffsetDateTime;

use super::super::{
    AgentName, ClientCertificates, Standing, UriPattern, UriPatternError,
    agents::{Rules, check},
    certificate::{CERTIFICATE_LIFETIME_MAX_S, ClientCertificate, from_thumbprint, thumbprint},
    deny::Why,
};

const NOW: u64 = 1_800_000_000;
const URI: &str = "spiffe://example.test/tenant/acme/agent/a";

fn leaf(params: CertificateParams) -> ClientCertificate {
    let key = KeyPair::generate().unwrap();
    ClientCertificate::parse(params.self_signed(&key).unwrap().der()).unwrap()
}

fn params(uris: &[&str], from: u64, to: u64) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    let at = |seconds: u64| OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).unwrap()).unwrap();
    (params.not_before, params.not_after) = (at(from), at(to));
    params
}

fn settings(text: &str) -> ClientCertificates {
    toml::from_str(&format!("ca = \"ca.pem\"\n{text}")).unwrap()
}

#[test]
fn a_certificate_counts_from_its_first_second_to_its_last_and_not_one_more() {
    let certificate = leaf(params(&[URI], NOW, NOW + 60));
    let at = |now| certificate.counts(Standing::Trusted, now);
    assert_eq!(at(NOW - 1), Err(Why::CertificateNotYet));
    assert_eq!((at(NOW), at(NOW + 60)), (Ok(()), Ok(())));
    assert_eq!(at(NOW + 61), Err(Why::CertificateExpired));
    for (standing, why) in [
        (Standing::Untrusted, Why::CertificateUntrusted),
        (Standing::Listed, Why::CertificateListed),
        (Standing::Unlisted, Why::CertificateUnlisted),
    ] {
        assert_eq!(certificate.counts(standing, NOW), Err(why));
    }
}

#[test]
fn a_certificate_lives_a_year_and_not_a_second_more() {
    let living = |lifetime| leaf(params(&[URI], NOW, NOW + lifetime)).counts(Standing::Trusted, NOW);
    assert_eq!(living(CERTIFICATE_LIFETIME_MAX_S), Ok(()));
    assert_eq!(living(CERTIFICATE_LIFETIME_MAX_S + 1), Err(Why::CertificateLifetime));
}

#[test]
fn names_that_stand_in_two_extensions_or_cannot_be_read_are_nobody() {
    let san = |der: &[u8]| CustomExtension::from_oid_content(&[2, 5, 29, 17], der.to_vec());
    let uri = |text: &str| {
        let text = text.as_bytes();
        let length = u8::try_from(text.len()).unwrap();
        [&[0x30, length + 2, 0x86, length], text].concat()
    };
    let with = |extensions: Vec<CustomExtension>| {
        let mut params = params(&[], NOW, NOW + 60);
        params.custom_extensions = extensions;
        leaf(params).uri().map(str::to_owned)
    };
    assert_eq!(with(vec![san(&uri(URI))]).as_deref(), Ok(URI));
    assert_eq!(with(vec![san(&uri(URI)), san(&uri(URI))]), Err(Why::CertificateNames));
    assert_eq!(with(vec![san(&[0x30, 0x03, 0x86, 0x05, 0x61])]), Err(Why::CertificateName), "a length that lies");
    assert_eq!(with(vec![san(&[0x30, 0x03, 0x86, 0x01, 0xff])]), Err(Why::CertificateName), "no ASCII");
    assert_eq!(with(Vec::new()), Err(Why::CertificateNameless));
    let long = format!("spiffe://{}", "a".repeat(2048));
    assert_eq!(leaf(params(&[&long], NOW, NOW + 60)).uri(), Err(Why::CertificateName));
}

#[test]
fn bytes_that_are_no_certificate_are_none() {
    let key = KeyPair::generate().unwrap();
    let der = params(&[URI], NOW, NOW + 60).self_signed(&key).unwrap().der().to_vec();
    for bytes in [&[][..], &[0x30], &[der.clone(), vec![0]].concat(), der.split_last().unwrap().1] {
        assert!(ClientCertificate::parse(bytes).is_err());
    }
}

#[test]
fn a_pattern_that_could_name_two_or_nobody_is_refused() {
    use UriPatternError::{Form, Places};
    for (text, error) in [
        ("", Form),
        ("spiffe://example.test", Form),
        ("spiffe:///{tenant}/{agent}", Form),
        ("example.test/{tenant}/{agent}", Form),
        ("spiffe://Example.test/{tenant}/{agent}", Form),
        ("spiffe://example.test:1/{tenant}/{agent}", Form),
        ("spiffe://{tenant}/{agent}", Form),
        ("spiffe://example.test//{tenant}/{agent}", Form),
        ("spiffe://example.test/*/{tenant}/{agent}", Form),
        ("spiffe://example.test/%61/{tenant}/{agent}", Form),
        ("spiffe://example.test/{tenant}/{agent}?x", Places),
        ("spiffe://example.test/{tenant}", Places),
        ("spiffe://example.test/{tenant}/{agent}/{agent}", Places),
        ("spiffe://example.test/{tenant}/a-{agent}", Places),
        ("spiffe://example.test/{tenant}/{agent}/{other}", Places),
    ] {
        assert_eq!(UriPattern::parse(text).unwrap_err(), error, "{text}");
    }
}

#[test]
fn settings_that_give_rights_to_nobody_or_could_never_match_are_told() {
    for (text, code) in [
        ("role = \"viewer\"", "client_certificates.rights_of_nobody"),
        ("scopes = [\"a\"]", "client_certificates.rights_of_nobody"),
        ("connection_age_max = \"999ms\"", "client_certificates.age"),
        ("connection_age_max = \"3601s\"", "client_certificates.age"),
        ("[agents.\"spiffe://example.test/*\"]\ntenant = \"acme\"\nagent = \"a\"", "client_certificates.uri"),
        ("[agents.\"billing\"]\ntenant = \"acme\"\nagent = \"a\"", "client_certificates.uri"),
    ] {
        let mut issues = Issues::default();
        check("agents", &settings(text), &mut issues);
        assert_eq!(issues.as_slice().iter().map(|issue| issue.code).collect::<Vec<_>>(), [code], "{text}");
    }
    let good = "connection_age_max = \"1s\"\nuri = \"spiffe://example.test/{tenant}/{agent}\"\nrole = \"viewer\"";
    let mut issues = Issues::default();
    check("agents", &settings(good), &mut issues);
    assert!(issues.is_empty());
}

#[test]
fn only_the_canonical_thumbprint_is_one() {
    let bytes = [0xfb; 32];
    let text = thumbprint(&bytes);
    assert_eq!(from_thumbprint(&text), Some(bytes));
    let last_bits = text.strip_suffix(|_: char| true).map(|most| format!("{most}-")).unwrap();
    for other in ["", "AAAA", &format!("{text}="), &text.replace('-', "+"), &last_bits, &format!(" {text}")] {
        assert_eq!(from_thumbprint(other), None, "{other}");
    }
}

proptest! {
    /// Whoever is named is named by one URI, and that URI names nobody else.
    #[test]
    fn a_uri_and_whom_it_names_are_one(tenant in "[a-z0-9][a-z0-9-]{0,8}[a-z0-9]", agent in "[a-z0-9][a-z0-9._-]{0,8}[a-z0-9]") {
        let pattern = UriPattern::parse("spiffe://example.test/t/{tenant}/a/{agent}").unwrap();
        let (Ok(tenant), Ok(agent)) = (TenantId::parse(&tenant), AgentName::parse(&agent)) else { return Ok(()) };
        let rules = Rules::compile(&settings("uri = \"spiffe://example.test/t/{tenant}/a/{agent}\""));
        let identity = rules.identity(&leaf(params(&[&pattern.uri_of(&tenant, &agent)], NOW, NOW + 60))).unwrap();
        prop_assert_eq!(identity.tenant(), &tenant);
        prop_assert_eq!(identity.subject(), format!("{}:{}", tenant.as_str(), agent.as_str()));
    }

    /// No other URI, however near, names anybody but by the grammar of the two names.
    #[test]
    fn what_is_no_name_names_nobody(segment in "[ -~]{0,12}") {
        let text = format!("spiffe://example.test/t/acme/a/{segment}");
        let rules = Rules::compile(&settings("uri = \"spiffe://example.test/t/{tenant}/a/{agent}\""));
        let named = rules.identity(&leaf(params(&[&text], NOW, NOW + 60))).is_ok();
        prop_assert_eq!(named, AgentName::parse(&segment).is_ok());
    }
}
