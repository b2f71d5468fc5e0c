//! The document by which an issuer says where its keys are (OpenID Connect Discovery 1.0, RFC 8414).

use super::{
    key_server::check_url,
    strict_json::{self, Json},
};

/// Why a discovery document names no key set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryError {
    /// Not JSON in one meaning.
    #[error("the discovery document is no strict JSON: {0}")]
    Json(String),
    /// It is another issuer's, or nobody's.
    #[error("the `issuer` of the discovery document is not the issuer's, byte for byte")]
    Issuer,
    /// Without a `jwks_uri`.
    #[error("the discovery document has no `jwks_uri`")]
    NoKeySet,
    /// At a place where keys may not be fetched from.
    #[error("the `jwks_uri` of the discovery document {0}")]
    Url(&'static str),
}

/// Where the keys of `issuer` are, by its discovery document. A document of another issuer says nothing (RFC 8414 3.3):
/// whoever could serve one in its place could name keys of their own.
///
/// # Errors
/// [`DiscoveryError`].
pub fn jwks_uri(document: &[u8], issuer: &str) -> Result<String, DiscoveryError> {
    let json =
        strict_json::parse(document, strict_json::KEY_SET).map_err(|error| DiscoveryError::Json(error.to_string()))?;
    if json.member("issuer").and_then(Json::text) != Some(issuer) {
        return Err(DiscoveryError::Issuer);
    }
    let url = json.member("jwks_uri").and_then(Json::text).ok_or(DiscoveryError::NoKeySet)?;
    check_url(url).map_err(DiscoveryError::Url)?;
    Ok(url.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ISS: &str = "https://id.example.com/t/";

    fn uri(document: &serde_json::Value) -> Result<String, DiscoveryError> {
        jwks_uri(document.to_string().as_bytes(), ISS)
    }

    #[test]
    fn a_document_of_this_issuer_names_its_key_set() {
        let document =
            json!({"issuer": ISS, "jwks_uri": "https://keys.example.com/a?b=c", "scopes_supported": ["openid"]});
        assert_eq!(uri(&document).as_deref(), Ok("https://keys.example.com/a?b=c"));
    }

    #[test]
    fn a_document_of_nearly_this_issuer_is_anothers() {
        for issuer in [
            json!("https://id.example.com/t"),
            json!("https://ID.example.com/t/"),
            json!("https://id.example.com/t/ "),
            json!("http://id.example.com/t/"),
            json!([ISS]),
            json!(null),
        ] {
            let document = json!({"issuer": issuer, "jwks_uri": "https://keys.example.com/a"});
            assert_eq!(uri(&document), Err(DiscoveryError::Issuer), "{issuer}");
        }
        assert_eq!(uri(&json!({"jwks_uri": "https://keys.example.com/a"})), Err(DiscoveryError::Issuer));
        let twice =
            format!("{{\"issuer\":\"https://evil.example\",\"issuer\":\"{ISS}\",\"jwks_uri\":\"https://a.example\"}}");
        assert!(matches!(jwks_uri(twice.as_bytes(), ISS), Err(DiscoveryError::Json(_))));
    }

    #[test]
    fn key_05_a_key_set_is_named_by_an_https_url_only() {
        for url in [
            json!("http://keys.example.com/a"),
            json!("file:///etc/passwd"),
            json!("https://"),
            json!("https://u:p@keys.example.com/a"),
            json!("//keys.example.com/a"),
            json!("HTTPS://keys.example.com/a"),
        ] {
            let said = uri(&json!({"issuer": ISS, "jwks_uri": url}));
            assert!(matches!(said, Err(DiscoveryError::Url(_))), "{url}: {said:?}");
        }
        for document in [json!({"issuer": ISS}), json!({"issuer": ISS, "jwks_uri": ["https://a.example"]})] {
            assert_eq!(uri(&document), Err(DiscoveryError::NoKeySet));
        }
        assert!(matches!(jwks_uri(b"<html>", ISS), Err(DiscoveryError::Json(_))));
    }
}
