//! A key that signs assertions, parsed once, and the public half that verifiers are given.

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    digest::{SHA256, digest},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Serialize;

use super::{Algorithm, TYPE};

/// Characters of a thumbprint that name a key: 72 bits.
const KID_CHARS: usize = 12;

/// A private key and everything about it that does not change from one assertion to the next.
pub struct SigningKey {
    pair: Pair,
    public: Public,
    kid: String,
    /// The encoded header, with the dot after it.
    header: String,
}

enum Pair {
    Es256(Box<EcdsaKeyPair>),
    EdDsa(Box<Ed25519KeyPair>),
}

/// A public key as the members of a JWK (RFC 7517), in the order in which a thumbprint (RFC 7638) hashes them.
#[derive(Serialize)]
struct Public {
    crv: &'static str,
    kty: &'static str,
    x: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    y: Option<String>,
}

/// Why a key cannot sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Another curve, another kind of key, or no PKCS#8.
    #[error("it is no {} key in PKCS#8", kind(*.0))]
    Other(Algorithm),
}

const fn kind(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::ES256 => "P-256",
        Algorithm::EdDSA => "Ed25519",
    }
}

impl SigningKey {
    /// Parses an unencrypted PKCS#8 document.
    ///
    /// # Errors
    /// [`KeyError::Other`] when it is no key of this algorithm.
    pub fn from_pkcs8(algorithm: Algorithm, der: &[u8]) -> Result<Self, KeyError> {
        let other = KeyError::Other(algorithm);
        let (pair, public) = match algorithm {
            Algorithm::ES256 => {
                let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der).map_err(|_| other)?;
                let public = Public::p256(pair.public_key().as_ref()).ok_or(other)?;
                (Pair::Es256(Box::new(pair)), public)
            }
            Algorithm::EdDSA => {
                let pair = Ed25519KeyPair::from_pkcs8(der).map_err(|_| other)?;
                let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
                (Pair::EdDsa(Box::new(pair)), Public { crv: "Ed25519", kty: "OKP", x, y: None })
            }
        };
        let mut kid = public.thumbprint().ok_or(other)?;
        kid.truncate(KID_CHARS);
        let header = serde_json::json!({ "alg": algorithm.as_str(), "kid": kid, "typ": TYPE });
        let header = format!("{}.", URL_SAFE_NO_PAD.encode(header.to_string()));
        Ok(Self { pair, public, kid, header })
    }

    /// The name that tokens and the key set know it by: the first 12 characters of its thumbprint (RFC 7638), so that no
    /// two keys ever share one.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// What it signs with.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        match self.pair {
            Pair::Es256(_) => Algorithm::ES256,
            Pair::EdDsa(_) => Algorithm::EdDSA,
        }
    }

    /// A compact JWS of this payload; `None` when the library refuses to sign.
    pub(super) fn sign(&self, payload: &[u8]) -> Option<String> {
        let mut token = String::with_capacity(self.header.len().saturating_add(payload.len().saturating_mul(2)));
        token.push_str(&self.header);
        URL_SAFE_NO_PAD.encode_string(payload, &mut token);
        let signature = match &self.pair {
            Pair::Es256(pair) => pair.sign(&SystemRandom::new(), token.as_bytes()).ok()?,
            Pair::EdDsa(pair) => pair.try_sign(token.as_bytes()).ok()?,
        };
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature.as_ref(), &mut token);
        Some(token)
    }

    fn jwk(&self) -> serde_json::Value {
        let Public { crv, kty, x, y } = &self.public;
        let mut jwk = serde_json::json!({
            "kty": kty, "crv": crv, "kid": self.kid, "alg": self.algorithm().as_str(), "use": "sig", "x": x,
        });
        if let (Some(y), Some(members)) = (y, jwk.as_object_mut()) {
            members.insert("y".to_owned(), y.as_str().into());
        }
        jwk
    }
}

impl Public {
    /// From an uncompressed point: 4, then x and y of 32 bytes each.
    fn p256(point: &[u8]) -> Option<Self> {
        let (x, y) = point.strip_prefix(&[4]).filter(|both| both.len() == 64)?.split_at_checked(32)?;
        let y = Some(URL_SAFE_NO_PAD.encode(y));
        Some(Self { crv: "P-256", kty: "EC", x: URL_SAFE_NO_PAD.encode(x), y })
    }

    fn thumbprint(&self) -> Option<String> {
        Some(URL_SAFE_NO_PAD.encode(digest(&SHA256, &serde_json::to_vec(self).ok()?)))
    }
}

/// Without the private half.
impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// The public halves as a JWKS document (RFC 7517).
#[must_use]
pub fn key_set<'k>(keys: impl IntoIterator<Item = &'k Arc<SigningKey>>) -> String {
    let keys: Vec<_> = keys.into_iter().map(|key| key.jwk()).collect();
    serde_json::json!({ "keys": keys }).to_string()
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::{
        encoding::AsDer,
        signature::{
            ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED_SIGNING, ED25519, UnparsedPublicKey, VerificationAlgorithm,
        },
    };

    use super::*;

    #[test]
    fn a_thumbprint_is_that_of_rfc_8037() {
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo".to_owned();
        let public = Public { crv: "Ed25519", kty: "OKP", x, y: None };
        assert_eq!(public.thumbprint().as_deref(), Some("kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"));
    }

    #[test]
    fn what_is_signed_verifies_with_the_public_half() {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let es256 = SigningKey::from_pkcs8(Algorithm::ES256, pair.to_pkcs8v1().unwrap().as_ref()).unwrap();
        let other = Ed25519KeyPair::generate().unwrap();
        let eddsa = SigningKey::from_pkcs8(Algorithm::EdDSA, other.to_pkcs8v1().unwrap().as_ref()).unwrap();
        let both: [(&SigningKey, &[u8], &dyn VerificationAlgorithm); 2] = [
            (&es256, pair.public_key().as_ref(), &ECDSA_P256_SHA256_FIXED),
            (&eddsa, other.public_key().as_ref(), &ED25519),
        ];
        for (key, public, algorithm) in both {
            let token = key.sign(br#"{"a":1}"#).unwrap();
            let (input, signature) = token.rsplit_once('.').unwrap();
            let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
            assert!(UnparsedPublicKey::new(algorithm, public).verify(input.as_bytes(), &signature).is_ok());
            let (header, payload) = input.split_once('.').unwrap();
            assert_eq!(URL_SAFE_NO_PAD.decode(payload).unwrap(), br#"{"a":1}"#);
            let header: serde_json::Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).unwrap()).unwrap();
            let expected = serde_json::json!({ "alg": key.algorithm().as_str(), "kid": key.kid(), "typ": TYPE });
            assert_eq!(header, expected);
            assert_eq!(key.kid().len(), KID_CHARS);
        }
    }

    #[test]
    fn a_key_of_another_kind_is_no_signing_key() {
        let p384 = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap().to_pkcs8v1().unwrap();
        let ed25519 = Ed25519KeyPair::generate().unwrap().to_pkcs8v1().unwrap();
        let p256 = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let sec1 = p256.private_key().as_der().unwrap();
        for der in [p384.as_ref(), ed25519.as_ref(), sec1.as_ref(), b"", b"x"] {
            let error = SigningKey::from_pkcs8(Algorithm::ES256, der).unwrap_err();
            assert_eq!(error.to_string(), "it is no P-256 key in PKCS#8");
        }
        let p256 = p256.to_pkcs8v1().unwrap();
        for der in [p256.as_ref(), p384.as_ref()] {
            let error = SigningKey::from_pkcs8(Algorithm::EdDSA, der).unwrap_err();
            assert_eq!(error.to_string(), "it is no Ed25519 key in PKCS#8");
        }
    }

    #[test]
    fn a_key_set_holds_the_public_halves_and_nothing_else() {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let key = Arc::new(SigningKey::from_pkcs8(Algorithm::ES256, pair.to_pkcs8v1().unwrap().as_ref()).unwrap());
        let set: serde_json::Value = serde_json::from_str(&key_set([&key])).unwrap();
        let jwk = set["keys"][0].as_object().unwrap();
        let names: Vec<&str> = jwk.keys().map(String::as_str).collect();
        assert_eq!(names, ["kty", "crv", "kid", "alg", "use", "x", "y"]);
        assert_eq!((&jwk["kty"], &jwk["crv"], &jwk["alg"]), (&"EC".into(), &"P-256".into(), &"ES256".into()));
        assert_eq!(key_set([]), r#"{"keys":[]}"#);
    }
}
