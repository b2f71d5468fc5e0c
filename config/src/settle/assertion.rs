//! Signed assertions: the issuer's name, and keys that can sign.

use std::sync::Arc;

use portcullis_api::{At, Millis, SecretRef};
use portcullis_plugins::assertion::{Algorithm, KEYS_MAX, LIFETIME_MAX, MAX_AGE_MAX, SigningKey};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject};

use super::{Room, references::Holds};
use crate::settled::AssertionSpec;

/// Longer ones only make every request larger.
const ISSUER_BYTES_MAX: usize = 255;

impl Room<'_> {
    /// The inner `None` is "no assertions", the outer one is "something was wrong".
    pub(super) fn assertion(&mut self) -> Option<Option<AssertionSpec>> {
        let Some(assertion) = &self.document.assertion else { return Some(None) };
        self.assertion_issuer(&assertion.issuer);
        let mut keys = |algorithm, list: &Option<At<Vec<At<SecretRef>>>>| match list {
            Some(list) => self.signing_keys(algorithm, list),
            None => Some(Vec::new()),
        };
        let es256 = keys(Algorithm::ES256, &assertion.es256);
        let eddsa = keys(Algorithm::EdDSA, &assertion.eddsa);
        if assertion.es256.is_none() && assertion.eddsa.is_none() {
            let span = self.key(&["assertion"]);
            let help = "write es256 = [\"file:…\"]; make a key with: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256";
            self.issues.push_help("assertion.no_keys", &span, "`assertion` has no keys", help);
        }
        self.whole_seconds("lifetime", &assertion.lifetime, LIFETIME_MAX);
        self.whole_seconds("max_age", &assertion.max_age, MAX_AGE_MAX);
        let (lifetime, max_age) = (assertion.lifetime.value, assertion.max_age.value);
        let issuer = assertion.issuer.value.as_str().into();
        Some(Some(AssertionSpec { issuer, es256: es256?, eddsa: eddsa?, lifetime, max_age }))
    }

    /// The algorithm that an upstream asks for, which must have keys.
    pub(super) fn asserted(&mut self, algorithm: &At<Algorithm>) -> Algorithm {
        let document = self.document;
        let list = document.assertion.as_ref().map(|assertion| match algorithm.value {
            Algorithm::ES256 => &assertion.es256,
            Algorithm::EdDSA => &assertion.eddsa,
        });
        if list.is_none_or(Option::is_none) {
            let (name, field) = (algorithm.value.as_str(), algorithm.value.field());
            let message = format!("there are no keys for {name} assertions");
            let help = format!("write [assertion] with an issuer and {field} = [\"file:…\"]");
            self.issues.push_help("assertion.no_keys", &algorithm.span, message, help);
        }
        algorithm.value
    }

    fn assertion_issuer(&mut self, issuer: &At<String>) {
        let At { value, span } = issuer;
        let document = self.document;
        if !is_issuer(value) {
            let message = format!("{value:?} is no issuer");
            let help =
                "write the https URL of this gateway, as in \"https://gw.example.com\", without query and fragment";
            self.issues.push_help("assertion.issuer", span, message, help);
        }
        // Its assertions would otherwise name somebody whose tokens are accepted from clients.
        if let Some((name, _)) = document.issuers.iter().find(|(_, other)| other.issuer.value == *value) {
            let message = format!("issuer `{name}` of tokens has the same name");
            self.issues.push_help("assertion.issuer_twice", span, message, "write a name that nobody else signs under");
        }
    }

    fn whole_seconds(&mut self, field: &str, duration: &At<Millis>, most: Millis) {
        if duration.value.as_millis().is_multiple_of(1000) && duration.value <= most {
            return;
        }
        let message = format!("{field} is {}, not whole seconds up to {most}", duration.value);
        let help = "tokens and caches count in seconds; write one as in \"30s\"";
        self.issues.push_help("assertion.time", &duration.span, message, help);
    }

    fn signing_keys(&mut self, algorithm: Algorithm, list: &At<Vec<At<SecretRef>>>) -> Option<Vec<Arc<SigningKey>>> {
        if !(1..=KEYS_MAX).contains(&list.value.len()) {
            let message = format!("{} has {} keys, not 1 to {KEYS_MAX}", algorithm.field(), list.value.len());
            let help = "write the keys in use, the oldest first; leave the setting out for none";
            self.issues.push_help("assertion.keys", &list.span, message, help);
            return None;
        }
        let mut keys: Vec<Arc<SigningKey>> = Vec::new();
        for reference in &list.value {
            let key = self.signing_key(algorithm, reference)?;
            if keys.iter().any(|other| other.kid() == key.kid()) {
                let message = format!("`{}` holds a key that is in the list already", reference.value);
                self.issues.push_help("assertion.key_twice", &reference.span, message, "write each key once");
            }
            keys.push(Arc::new(key));
        }
        Some(keys)
    }

    fn signing_key(&mut self, algorithm: Algorithm, At { value, span }: &At<SecretRef>) -> Option<SigningKey> {
        let pem = self.read(value, span, Holds::Secret)?;
        let key = match PrivatePkcs8KeyDer::from_pem_slice(pem.expose()) {
            Ok(der) => SigningKey::from_pkcs8(algorithm, der.secret_pkcs8_der()).map_err(|error| error.to_string()),
            Err(_) => Err("it is no PEM file with -----BEGIN PRIVATE KEY-----".to_owned()),
        };
        let help = match algorithm {
            Algorithm::ES256 => "make one with: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256",
            Algorithm::EdDSA => "make one with: openssl genpkey -algorithm ED25519",
        };
        key.map_err(|why| self.issues.push_help("assertion.key", span, format!("`{value}` cannot sign: {why}"), help))
            .ok()
    }
}

/// An https URL in ASCII with nothing after its path.
fn is_issuer(text: &str) -> bool {
    text.len() <= ISSUER_BYTES_MAX
        && text.strip_prefix("https://").is_some_and(|rest| {
            let host = rest.split('/').next().unwrap_or_default();
            !host.is_empty()
                && !host.contains('@')
                && rest.bytes().all(|c| c.is_ascii_graphic() && !b"?#\"\\<>".contains(&c))
        })
}

#[cfg(test)]
mod tests {
    use super::is_issuer;

    #[test]
    fn an_issuer_is_an_https_url_without_anything_after_its_path() {
        let long = |more: usize| format!("https://{}", "a".repeat(247 + more));
        for good in ["https://gw.example.com", "https://gw.example.com:8443/eu", "https://[2001:db8::1]/", &long(0)] {
            assert!(is_issuer(good), "{good}");
        }
        for bad in [
            "",
            "gw.example.com",
            "http://gw.example.com",
            "https://",
            "https:///x",
            "https://u@h",
            "https://h?q",
            "https://h#f",
            "https://h x",
            "https://h\n",
            "https://bücher.example",
            &long(1),
        ] {
            assert!(!is_issuer(bad), "{bad}");
        }
    }
}
