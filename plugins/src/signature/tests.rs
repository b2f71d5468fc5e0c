//! RFC 9421's own vectors, and what our signatures cover.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::*;

/// RFC 9421 B.1.5.
const SECRET: &str = "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==";
/// RFC 9421 B.1.4, without its PEM lines.
const ED25519: &str = "MC4CAQAwBQYDK2VwBCIEIJ+DYvh6SEqVTm50DFtMDoQikTmiCqirVv9mWG9qfSnF";

fn secret() -> Signer {
    Signer::hmac_sha256(&STANDARD.decode(SECRET).unwrap(), "test-shared-secret".to_owned())
}

fn ed25519() -> Signer {
    Signer::ed25519(&STANDARD.decode(ED25519).unwrap(), "test-key-ed25519".to_owned()).unwrap()
}

#[test]
fn rfc_9421_b_2_5_hmac_sha256() {
    let components = [
        ("date", "Tue, 20 Apr 2021 02:07:55 GMT"),
        ("@authority", "example.com"),
        ("content-type", "application/json"),
    ];
    let parameters = format!("{};created=1618884473;keyid=\"test-shared-secret\"", names(&components));
    assert_eq!(
        base(&components, &parameters),
        "\"date\": Tue, 20 Apr 2021 02:07:55 GMT\n\
         \"@authority\": example.com\n\
         \"content-type\": application/json\n\
         \"@signature-params\": (\"date\" \"@authority\" \"content-type\");created=1618884473;keyid=\"test-shared-secret\""
    );
    let signature = secret().sign_base(&base(&components, &parameters));
    assert_eq!(signature.as_deref(), Some("pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8="));
}

#[test]
fn rfc_9421_b_2_6_ed25519() {
    let components = [
        ("date", "Tue, 20 Apr 2021 02:07:55 GMT"),
        ("@method", "POST"),
        ("@path", "/foo"),
        ("@authority", "example.com"),
        ("content-type", "application/json"),
        ("content-length", "18"),
    ];
    let parameters = format!("{};created=1618884473;keyid=\"test-key-ed25519\"", names(&components));
    assert_eq!(
        base(&components, &parameters),
        "\"date\": Tue, 20 Apr 2021 02:07:55 GMT\n\
         \"@method\": POST\n\
         \"@path\": /foo\n\
         \"@authority\": example.com\n\
         \"content-type\": application/json\n\
         \"content-length\": 18\n\
         \"@signature-params\": (\"date\" \"@method\" \"@path\" \"@authority\" \"content-type\" \"content-length\")\
         ;created=1618884473;keyid=\"test-key-ed25519\""
    );
    let expected = "wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==";
    assert_eq!(ed25519().sign_base(&base(&components, &parameters)).as_deref(), Some(expected));
}

#[test]
fn a_digest_of_a_body_is_that_of_rfc_9530() {
    // The body of the request of appendix B.2, by SHA-256.
    let digest = Signer::content_digest(b"{\"hello\": \"world\"}").unwrap();
    assert_eq!(digest, "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:");
}

const STAMP: Stamp<'static> = Stamp { unix: 1_795_000_000, nonce: "n-1" };

fn message<'m>(headers: &'m HeaderMap, query: &'m str, digest: Option<&'m HeaderValue>) -> Message<'m> {
    Message { method: &Method::PUT, path: "/v1/a%20b", query, headers, digest }
}

#[test]
fn every_field_about_the_caller_that_is_there_is_covered_and_no_other() {
    let mut headers = HeaderMap::new();
    for name in ["x-request-id", "x-portcullis-tenant", "x-portcullis-kind", "authorization", "content-digest"] {
        headers.insert(name, HeaderValue::from_static("v"));
    }
    let signed = secret().sign(&message(&headers, "", None), &STAMP).unwrap();
    assert_eq!(
        signed.input,
        "portcullis=(\"@method\" \"@path\" \"@query\" \"x-portcullis-kind\" \"x-portcullis-tenant\" \"x-request-id\")\
         ;created=1795000000;expires=1795000030;keyid=\"test-shared-secret\";nonce=\"n-1\";tag=\"gw-upstream\""
    );
    let digest = Signer::content_digest(b"x").unwrap();
    let signed = secret().sign(&message(&headers, "", Some(&digest)), &STAMP).unwrap();
    assert!(signed.input.to_str().unwrap().contains("\"x-request-id\" \"content-digest\")"));
}

#[test]
fn another_method_path_query_field_body_time_or_nonce_is_another_signature() {
    let mut headers = HeaderMap::new();
    headers.insert("x-portcullis-kind", HeaderValue::from_static("user"));
    let mut others = headers.clone();
    others.insert("x-portcullis-kind", HeaderValue::from_static("agent"));
    let [one, two] = [b"1", b"2"].map(|body| Signer::content_digest(body).unwrap());
    let plain = message(&headers, "a=b", Some(&one));
    let later = Stamp { unix: 1_795_000_001, ..STAMP };
    let again = Stamp { nonce: "n-2", ..STAMP };
    for signer in [secret(), ed25519()] {
        let of = |message: Message<'_>, stamp: &Stamp<'_>| signer.sign(&message, stamp).unwrap().signature;
        let all = [
            of(plain, &STAMP),
            of(Message { method: &Method::GET, ..plain }, &STAMP),
            of(Message { path: "/v1/a", ..plain }, &STAMP),
            of(Message { query: "a=c", ..plain }, &STAMP),
            of(Message { headers: &others, ..plain }, &STAMP),
            of(Message { digest: Some(&two), ..plain }, &STAMP),
            of(Message { digest: None, ..plain }, &STAMP),
            of(plain, &later),
            of(plain, &again),
        ];
        let distinct: std::collections::BTreeSet<&[u8]> = all.iter().map(HeaderValue::as_bytes).collect();
        assert_eq!(distinct.len(), all.len());
        assert_eq!(of(plain, &STAMP), all[0], "both algorithms are deterministic");
    }
}

#[test]
fn a_field_that_is_there_twice_or_is_no_text_is_not_signed() {
    let mut headers = HeaderMap::new();
    headers.append("x-portcullis-role", HeaderValue::from_static("admin"));
    headers.append("x-portcullis-role", HeaderValue::from_static("viewer"));
    assert!(matches!(secret().sign(&message(&headers, "", None), &STAMP), Err(Unsigned::Field(_))));
    let mut headers = HeaderMap::new();
    headers.insert("x-portcullis-role", HeaderValue::from_bytes(b"\xff").unwrap());
    assert!(matches!(secret().sign(&message(&headers, "", None), &STAMP), Err(Unsigned::Field(_))));
}

#[test]
fn keys_are_told_apart_by_what_they_are_and_not_by_their_names() {
    let (secret, other) = (secret(), Signer::hmac_sha256(&[7; 32], "test-shared-secret".to_owned()));
    assert!(secret.shares_key_with(&self::secret()) && !secret.shares_key_with(&other));
    assert!(ed25519().shares_key_with(&ed25519()) && !ed25519().shares_key_with(&secret));
    assert!(!format!("{secret:?}{:?}", ed25519()).contains("key:"));
}

#[test]
fn what_is_no_ed25519_key_cannot_sign() {
    assert_eq!(Signer::ed25519(b"x", "k".to_owned()).unwrap_err(), KeyError::NotEd25519);
}
