//! The signature of an upstream's requests: a key that can sign, of this upstream alone, and a name for it.

use std::sync::Arc;

use portcullis_api::{At, SecretRef};
use portcullis_plugins::signature::{Algorithm, KEYID_BYTES_MAX, Settings, Signer};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject};

use super::{Room, references::Holds};
use crate::settled::UpstreamSpec;

impl Room<'_> {
    pub(super) fn signature(&mut self, settings: &Settings) -> Option<Arc<Signer>> {
        let Settings { algorithm, key, keyid } = settings;
        let At { value: name, span } = keyid;
        let named = (1..=KEYID_BYTES_MAX).contains(&name.len())
            && name.bytes().all(|c| c.is_ascii_graphic() && c != b'"' && c != b'\\');
        if !named {
            let message = format!("keyid {name:?} is not possible");
            let help = format!("write 1 to {KEYID_BYTES_MAX} printable characters without space, `\"` and `\\`");
            self.issues.push_help("signature.keyid", span, message, help);
        }
        let signer = match algorithm {
            Algorithm::HmacSha256 => Signer::hmac_sha256(
                self.secret(&key.value, &key.span, "the key of a signature")?.expose(),
                name.clone(),
            ),
            Algorithm::Ed25519 => self.ed25519(key, name)?,
        };
        named.then(|| Arc::new(signer))
    }

    fn ed25519(&mut self, At { value, span }: &At<SecretRef>, keyid: &str) -> Option<Signer> {
        let pem = self.read(value, span, Holds::Secret)?;
        let signer = match PrivatePkcs8KeyDer::from_pem_slice(pem.expose()) {
            Ok(der) => Signer::ed25519(der.secret_pkcs8_der(), keyid.to_owned()).map_err(|error| error.to_string()),
            Err(_) => Err("it is no PEM file with -----BEGIN PRIVATE KEY-----".to_owned()),
        };
        let help = "make one with: openssl genpkey -algorithm ED25519";
        signer
            .map_err(|why| self.issues.push_help("signature.key", span, format!("`{value}` cannot sign: {why}"), help))
            .ok()
    }

    /// An app that verifies by HMAC can sign too: with a shared key it could sign for another app. With Ed25519 one app's
    /// requests could be played to the other.
    pub(super) fn signature_keys(&mut self, upstreams: &[UpstreamSpec]) {
        let document = self.document;
        let mut known: Vec<(&str, &Signer)> = Vec::new();
        for upstream in upstreams {
            let Some(signer) = upstream.signature.as_deref() else { continue };
            let written = document.upstreams.get(&*upstream.name).and_then(|upstream| upstream.signature.as_ref());
            let twin = known.iter().find(|(_, other)| other.shares_key_with(signer));
            if let (Some((other, _)), Some(written)) = (twin, written) {
                let message = format!("upstream `{other}` has the same key");
                let help =
                    "give each upstream a key of its own: an app could sign for the other one, or be sent its requests";
                self.issues.push_help("signature.key_twice", &written.key.span, message, help);
            }
            known.push((&upstream.name, signer));
        }
    }
}
