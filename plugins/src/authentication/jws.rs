//! The front end of a token: compact JWS (RFC 7515), parsed once and strictly, before any key is touched.
//!
//! Rejected: `jsonwebtoken::decode`. It ignores `crit`, `b64`, `typ` and embedded keys, accepts duplicate members, and
//! takes the algorithm from a list instead of from the key.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{
    Algorithm,
    deny::Why,
    strict_json::{self, Json},
};

/// Longest token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 8192;
const HEADER_BYTES_MAX: usize = 1024;
pub(super) const PAYLOAD_BYTES_MAX: usize = 6 * 1024;
/// What the largest key (RSA, 8192 bits) makes.
const SIGNATURE_BYTES_MAX: usize = 1024;
const KID_BYTES_MAX: usize = 128;

/// A token in good form. Nothing of it is verified yet.
#[derive(Debug)]
pub(super) struct Jws<'t> {
    pub(super) header: Header,
    pub(super) payload: Json,
    /// `header.payload` as it came: what the signature is over.
    pub(super) signing_input: &'t [u8],
    pub(super) signature: Vec<u8>,
}

/// What a header may say.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) algorithm: Algorithm,
    pub(super) typ: Option<String>,
    pub(super) kid: Option<String>,
}

/// A compact JWS of any payload.
#[derive(Debug)]
pub(super) struct Compact<'t> {
    pub(super) header: Header,
    pub(super) payload: Vec<u8>,
    pub(super) signing_input: &'t [u8],
    pub(super) signature: Vec<u8>,
}

/// Parses a token: a compact JWS whose payload is one JSON object.
pub(super) fn parse(token: &[u8]) -> Result<Jws<'_>, Why> {
    let Compact { header, payload, signing_input, signature } = compact(token)?;
    let payload = strict_json::parse(&payload, strict_json::TOKEN).map_err(Why::payload)?;
    if payload.object().is_none() {
        return Err(Why::PayloadSyntax);
    }
    Ok(Jws { header, payload, signing_input, signature })
}

/// Parses what stands around the payload.
pub(super) fn compact(token: &[u8]) -> Result<Compact<'_>, Why> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Why::TokenTooLong);
    }
    let mut parts = token.split(|&byte| byte == b'.');
    let (Some(header), Some(payload), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Why::TokenParts);
    };
    let signing_input =
        token.get(..header.len().saturating_add(payload.len()).saturating_add(1)).ok_or(Why::TokenParts)?;
    let header = self::header(&decode(header, HEADER_BYTES_MAX, Why::HeaderTooLong)?)?;
    let payload = decode(payload, PAYLOAD_BYTES_MAX, Why::PayloadTooLong)?;
    let signature = decode(signature, SIGNATURE_BYTES_MAX, Why::SignatureTooLong)?;
    Ok(Compact { header, payload, signing_input, signature })
}

/// base64url, no padding, no other alphabet, and the unused bits of the last character zero: one spelling per value.
fn decode(part: &[u8], bytes_max: usize, too_long: Why) -> Result<Vec<u8>, Why> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| Why::TokenEncoding)?;
    if bytes.len() > bytes_max { Err(too_long) } else { Ok(bytes) }
}

fn header(bytes: &[u8]) -> Result<Header, Why> {
    let json = strict_json::parse(bytes, strict_json::TOKEN).map_err(Why::header)?;
    let members = json.object().ok_or(Why::HeaderSyntax)?;
    let (mut algorithm, mut typ, mut kid) = (None, None, None);
    for (name, value) in members {
        match name.as_str() {
            "alg" => algorithm = Some(value.text().and_then(named).ok_or(Why::Algorithm)?),
            "typ" => typ = Some(value.text().ok_or(Why::Typ)?.to_owned()),
            "kid" => kid = Some(value.text().filter(|kid| is_kid(kid)).ok_or(Why::KidForm)?.to_owned()),
            // `crit`, `b64`, `jwk`, `jku`, `x5c`, `x5u`, `zip`, `enc`, `cty` and whatever comes next.
            _ => return Err(Why::HeaderMember),
        }
    }
    Ok(Header { algorithm: algorithm.ok_or(Why::Algorithm)?, typ, kid })
}

/// The algorithm of exactly this name. `Ed25519` (RFC 9864) is the fully specified name of what `EdDSA` means here.
pub(super) fn named(name: &str) -> Option<Algorithm> {
    match name {
        "ES256" => Some(Algorithm::ES256),
        "EdDSA" | "Ed25519" => Some(Algorithm::EdDSA),
        "RS256" => Some(Algorithm::RS256),
        "PS256" => Some(Algorithm::PS256),
        "HS256" => Some(Algorithm::HS256),
        _ => None,
    }
}

/// `[A-Za-z0-9._~:@/+=-]{1,128}`.
pub(crate) fn is_kid(text: &str) -> bool {
    (1..=KID_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._~:@/+=-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token(header: &str, payload: &str) -> String {
        format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload))
    }
    fn why(token: &str) -> Option<Why> {
        parse(token.as_bytes()).err()
    }
    fn header_why(header: &str) -> Option<Why> {
        why(&token(header, "{}"))
    }

    #[test]
    fn a_plain_token_is_parsed() {
        let text = token(r#"{"alg":"ES256","typ":"JWT","kid":"k-1"}"#, r#"{"a":1}"#);
        let jws = parse(text.as_bytes()).unwrap();
        assert_eq!(
            (jws.header.algorithm, jws.header.typ.as_deref(), jws.header.kid.as_deref()),
            (Algorithm::ES256, Some("JWT"), Some("k-1"))
        );
        assert_eq!(jws.signing_input, text.rsplit_once('.').unwrap().0.as_bytes());
        assert_eq!(jws.signature, b"sig");
    }

    #[test]
    fn jwt_01_alg_none_in_any_spelling_is_refused() {
        for alg in ["none", "None", "NONE", "nOnE", "", " none", "es256", "Es256", "HS512", "RS384", "ES256K", "A128KW"]
        {
            assert_eq!(header_why(&format!(r#"{{"alg":"{alg}"}}"#)), Some(Why::Algorithm), "{alg}");
        }
        for header in ["{}", r#"{"alg":null}"#, r#"{"alg":["ES256"]}"#, r#"{"alg":1}"#] {
            assert_eq!(header_why(header), Some(Why::Algorithm), "{header}");
        }
        assert_eq!(why(&token(r#"{"alg":"none"}"#, "{}").replace("c2ln", "")), Some(Why::Algorithm));
    }

    #[test]
    fn jwt_03_jwt_04_jwt_13_jwt_14_jwt_17_no_other_header_member_is_understood() {
        for member in [
            r#""jwk":{"kty":"RSA"}"#,
            r#""x5c":["MII"]"#,
            r#""jku":"https://evil.example/jwks.json""#,
            r#""x5u":"https://evil.example/x""#,
            r#""crit":["cnf"]"#,
            r#""crit":[]"#,
            r#""b64":false"#,
            r#""zip":"DEF""#,
            r#""enc":"A128GCM""#,
            r#""cty":"JWT""#,
            r#""p2c":100000000"#,
            r#""ALG":"none""#,
        ] {
            assert_eq!(header_why(&format!(r#"{{"alg":"ES256",{member}}}"#)), Some(Why::HeaderMember), "{member}");
        }
    }

    #[test]
    fn jwt_05_kid_has_a_narrow_grammar() {
        let kid =
            |kid: &str| header_why(&format!(r#"{{"alg":"ES256","kid":{}}}"#, serde_json::to_string(kid).unwrap()));
        assert_eq!(kid("../../dev/null"), None, "it is only ever a map key");
        assert_eq!(kid(&"k".repeat(128)), None);
        for bad in ["", "' OR 1=1 --", "a b", "a\nb", "a\u{0}", "k\u{e9}", "a;b", &"k".repeat(129)] {
            assert_eq!(kid(bad), Some(Why::KidForm), "{bad}");
        }
        assert_eq!(header_why(r#"{"alg":"ES256","kid":7}"#), Some(Why::KidForm));
    }

    #[test]
    fn jwt_12_duplicate_members_are_refused_in_header_and_payload() {
        assert_eq!(header_why(r#"{"alg":"ES256","alg":"ES256"}"#), Some(Why::HeaderDuplicate));
        let header = r#"{"alg":"ES256"}"#;
        assert_eq!(why(&token(header, r#"{"tenant":"a","tenant":"b"}"#)), Some(Why::PayloadDuplicate));
        assert_eq!(why(&token(header, r#"{"x":{"y":[{"t":1,"t":2}]}}"#)), Some(Why::PayloadDuplicate));
    }

    #[test]
    fn jwt_16_only_three_parts_are_a_token() {
        let good = token(r#"{"alg":"ES256"}"#, "{}");
        for bad in
            [String::new(), "a".into(), "a.b".into(), format!("{good}."), format!("{good}.a.b"), format!(".{good}")]
        {
            assert_eq!(why(&bad), Some(Why::TokenParts), "{bad}");
        }
    }

    #[test]
    fn jwt_18_a_token_is_bounded_before_anything_is_decoded() {
        assert_eq!(why(&"a".repeat(8192)), Some(Why::TokenParts));
        assert_eq!(why(&"a".repeat(8193)), Some(Why::TokenTooLong));
        let pad = |n: usize| format!(r#"{{"alg":"ES256","typ":"{}"}}"#, "a".repeat(n - 24));
        assert_eq!(pad(1024).len(), 1024);
        assert_eq!(header_why(&pad(1024)), None);
        assert_eq!(header_why(&pad(1025)), Some(Why::HeaderTooLong));
    }

    #[test]
    fn one_value_has_one_spelling() {
        let good = token(r#"{"alg":"ES256"}"#, "{}");
        assert_eq!(why(&good), None);
        for bad in [
            good.replace("c2ln", "c2lnZg=="),
            good.replace("c2ln", "c2lnZh"),
            good.replace("c2ln", "c2l+"),
            good.replace("c2ln", "c2 n"),
            good.replace("c2ln", "c2ln\n"),
            good.replace("c2ln", "c2l\u{e9}"),
            good.replace("c2ln", "c"),
        ] {
            assert_eq!(why(&bad), Some(Why::TokenEncoding), "{bad}");
        }
    }

    #[test]
    fn header_and_payload_are_objects() {
        for bad in ["", "[]", "1", "\"ES256\"", "null", "\u{feff}{}"] {
            assert_eq!(header_why(bad), Some(Why::HeaderSyntax), "{bad}");
            assert_eq!(why(&token(r#"{"alg":"ES256"}"#, bad)), Some(Why::PayloadSyntax), "{bad}");
        }
    }

    /// RFC 7515 appendix A.3 (ES256) and RFC 8037 appendix A.4 (its payload is no JSON, so it stops there).
    #[test]
    fn rfc_tokens_are_read() {
        let es256 = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
        let jws = parse(es256.as_bytes()).unwrap();
        assert_eq!(jws.payload.member("iss").and_then(Json::text), Some("joe"));
        assert_eq!(jws.signature.len(), 64);
        let eddsa = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
        assert_eq!(why(eddsa), Some(Why::PayloadSyntax));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn arbitrary_parts_never_panic(header in ".{0,40}", payload in ".{0,80}", signature in ".{0,20}") {
            let text = format!("{}.{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload), URL_SAFE_NO_PAD.encode(signature));
            let _ = parse(text.as_bytes());
        }

        #[test]
        fn what_is_accepted_has_one_spelling(tail in "[A-Za-z0-9_-]{0,8}") {
            let text = format!("{}.{tail}", token(r#"{"alg":"ES256"}"#, "{}").rsplit_once('.').unwrap().0);
            if let Ok(jws) = parse(text.as_bytes()) {
                prop_assert_eq!(URL_SAFE_NO_PAD.encode(&jws.signature), tail);
            }
        }
    }
}
