//! Tokens with every byte under the test's control, and the keys that sign them.

use std::{
    sync::LazyLock,
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    encoding::AsBigEndian as _,
    hmac,
    rand::SystemRandom,
    rsa,
    signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// A signing key.
pub struct Key {
    /// Its id in a key set and in the tokens that it signs.
    pub kid: String,
    kind: Kind,
}

enum Kind {
    Es256(EcdsaKeyPair),
    EdDsa(Ed25519KeyPair),
    Rsa(RsaKeyPair, &'static str),
    Hs256(Vec<u8>),
}

/// The key of issuer `main` of the default setup.
pub fn main_key() -> &'static Key {
    static KEY: LazyLock<Key> = LazyLock::new(|| Key::es256("main-1"));
    &KEY
}

/// The shared secret of issuer `local` of the default setup.
pub const LOCAL_SECRET: &[u8] = b"planted-local-issuer-secret-0123456789abcdef";

/// The key of issuer `local` of the default setup.
pub fn local_key() -> &'static Key {
    static KEY: LazyLock<Key> = LazyLock::new(|| Key::hs256("local-1", LOCAL_SECRET));
    &KEY
}

/// `iss` of issuer `main` of the default setup.
pub const MAIN_ISSUER: &str = "https://id.example.test";
/// `iss` of issuer `local` of the default setup.
pub const LOCAL_ISSUER: &str = "https://local.example.test";
/// The audience of both.
pub const AUDIENCE: &str = "portcullis";

impl Key {
    /// ECDSA on P-256.
    pub fn es256(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key is generated");
        Self { kid: kid.to_owned(), kind: Kind::Es256(pair) }
    }

    /// Ed25519.
    pub fn eddsa(kid: &str) -> Self {
        Self { kid: kid.to_owned(), kind: Kind::EdDsa(Ed25519KeyPair::generate().expect("a key is generated")) }
    }

    /// RSA with 2048 bits, for `RS256` or `PS256`.
    pub fn rsa(kid: &str, alg: &'static str) -> Self {
        let pair = RsaKeyPair::generate(rsa::KeySize::Rsa2048).expect("a key is generated");
        Self { kid: kid.to_owned(), kind: Kind::Rsa(pair, alg) }
    }

    /// HMAC with SHA-256.
    pub fn hs256(kid: &str, secret: &[u8]) -> Self {
        Self { kid: kid.to_owned(), kind: Kind::Hs256(secret.to_vec()) }
    }

    /// The algorithm's name.
    pub fn alg(&self) -> &'static str {
        match &self.kind {
            Kind::Es256(_) => "ES256",
            Kind::EdDsa(_) => "EdDSA",
            Kind::Rsa(_, alg) => alg,
            Kind::Hs256(_) => "HS256",
        }
    }

    /// Signs.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.kind {
            Kind::Es256(pair) => pair.sign(&random, message).expect("it signs").as_ref().to_vec(),
            Kind::EdDsa(pair) => pair.sign(message).as_ref().to_vec(),
            Kind::Rsa(pair, alg) => {
                let padding: &dyn signature::RsaEncoding =
                    if *alg == "PS256" { &signature::RSA_PSS_SHA256 } else { &signature::RSA_PKCS1_SHA256 };
                let mut out = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, message, &mut out).expect("it signs");
                out
            }
            Kind::Hs256(secret) => hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_vec(),
        }
    }

    /// The public key as bytes, as an attacker would use it for a secret.
    pub fn public_bytes(&self) -> Vec<u8> {
        match &self.kind {
            Kind::Es256(pair) => pair.public_key().as_ref().to_vec(),
            Kind::EdDsa(pair) => pair.public_key().as_ref().to_vec(),
            Kind::Rsa(pair, _) => pair.public_key().as_ref().to_vec(),
            Kind::Hs256(_) => panic!("an HMAC key has no public half"),
        }
    }

    /// The public key as a JWK (RFC 7517).
    pub fn jwk(&self) -> Value {
        let public = match &self.kind {
            Kind::Hs256(secret) => return json!({"kty": "oct", "k": b64(secret), "kid": self.kid, "alg": "HS256"}),
            _ => self.public_bytes(),
        };
        let mut jwk = match &self.kind {
            // An uncompressed point: 4, x, y.
            Kind::Es256(_) => json!({"kty": "EC", "crv": "P-256", "x": b64(&public[1..33]), "y": b64(&public[33..])}),
            Kind::EdDsa(_) => json!({"kty": "OKP", "crv": "Ed25519", "x": b64(&public)}),
            Kind::Rsa(..) => {
                let (n, e) = modulus_and_exponent(&public);
                json!({"kty": "RSA", "n": b64(n), "e": b64(e)})
            }
            Kind::Hs256(_) => Value::Null,
        };
        jwk["kid"] = self.kid.clone().into();
        jwk["alg"] = self.alg().into();
        jwk["use"] = "sig".into();
        jwk
    }

    /// The private scalar's bytes, to be sure that a key is never printed by accident.
    pub fn secret_bytes(&self) -> Vec<u8> {
        match &self.kind {
            Kind::Es256(pair) => pair.private_key().as_be_bytes().expect("a scalar").as_ref().to_vec(),
            Kind::Hs256(secret) => secret.clone(),
            Kind::EdDsa(_) | Kind::Rsa(..) => Vec::new(),
        }
    }
}

/// The two INTEGERs of an RSAPublicKey (RFC 8017 A.1.1), without their leading zero.
fn modulus_and_exponent(der: &[u8]) -> (&[u8], &[u8]) {
    fn element(der: &[u8]) -> (&[u8], &[u8]) {
        let (length, head) = match der[1] {
            short @ 0..=127 => (usize::from(short), 2),
            long => {
                let count = usize::from(long & 0x7f);
                (der[2..2 + count].iter().fold(0, |n, b| n * 256 + usize::from(*b)), 2 + count)
            }
        };
        der[head..].split_at(length)
    }
    let positive = |bytes: &'_ [u8]| bytes.iter().take_while(|b| **b == 0).count();
    let (sequence, _) = element(der);
    let (n, rest) = element(sequence);
    let (e, _) = element(rest);
    (&n[positive(n)..], &e[positive(e)..])
}

/// A key set of these keys.
pub fn key_set(keys: &[&Key]) -> String {
    json!({ "keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>() }).to_string()
}

/// Base64url without padding.
pub fn b64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The bytes of base64url without padding.
pub fn unb64(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text).expect("base64url")
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// A token of exactly these bytes, signed.
pub fn compact(header: &str, payload: &str, key: &Key) -> String {
    let input = format!("{}.{}", b64(header.as_bytes()), b64(payload.as_bytes()));
    let signature = b64(&key.sign(input.as_bytes()));
    format!("{input}.{signature}")
}

/// A token that is right in everything, until a test changes it.
#[derive(Debug, Clone)]
pub struct Token {
    header: Value,
    payload: Value,
}

impl Token {
    /// Of issuer `main` for a user of this tenant, a developer with the scope `orders`.
    pub fn main(tenant: &str) -> Self {
        Self::of(MAIN_ISSUER, tenant)
    }

    /// Of issuer `local`.
    pub fn local(tenant: &str) -> Self {
        Self::of(LOCAL_ISSUER, tenant)
    }

    /// Of any issuer.
    pub fn of(issuer: &str, tenant: &str) -> Self {
        let now = now();
        Self {
            header: json!({"typ": "JWT"}),
            payload: json!({
                "iss": issuer, "aud": AUDIENCE, "sub": "user-1", "jti": crate::request::mark(), "iat": now,
                "exp": now + 600, "tenant_id": tenant, "roles": ["developer"], "scope": "orders",
            }),
        }
    }

    /// With this claim.
    #[must_use]
    pub fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.payload[name] = value.into();
        self
    }

    /// Without this claim.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.payload.as_object_mut().expect("an object").remove(name);
        self
    }

    /// With this header member.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.header[name] = value.into();
        self
    }

    /// Without this header member.
    #[must_use]
    pub fn headerless(mut self, name: &str) -> Self {
        self.header.as_object_mut().expect("an object").remove(name);
        self
    }

    /// The payload as it will be signed.
    pub fn payload(&self) -> String {
        self.payload.to_string()
    }

    /// Signed by this key, whose algorithm and id go into the header unless the test wrote others.
    pub fn sign(&self, key: &Key) -> String {
        let mut header = self.header.clone();
        for (name, value) in [("alg", key.alg()), ("kid", key.kid.as_str())] {
            if header.get(name).is_none() {
                header[name] = value.into();
            }
        }
        header.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
        compact(&header.to_string(), &self.payload.to_string(), key)
    }
}

/// A token that issuer `main` of the default setup signed.
pub fn main_token(tenant: &str) -> String {
    Token::main(tenant).sign(main_key())
}

/// A token that issuer `local` of the default setup signed.
pub fn local_token(tenant: &str) -> String {
    Token::local(tenant).sign(local_key())
}
