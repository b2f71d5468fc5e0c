//! What a request's connection says of its caller: the certificate that the client showed, and the tokens that are bound to
//! one.

use std::sync::Arc;

use portcullis_api::UnixSeconds;

use super::{
    Authentication, Deny, Failure, Identity, VerifiedCache, Why, cache,
    certificate::{ClientCertificate, Shown},
    fault, no,
};

impl Authentication {
    /// Asked at each request, however long ago the handshake was.
    pub(super) fn still_counts(&self, shown: &Shown<'_>, now: UnixSeconds) -> Result<(), Why> {
        shown.certificate.counts(shown.standing, now)?;
        match self.needs.revocations.revoked(shown.certificate.revocable()) {
            None => Ok(()),
            Some(kind) => Err(Why::revoked(kind)),
        }
    }

    /// Whoever the certificate of this connection names. It was asked already whether it counts.
    pub(super) fn agent(&self, shown: &Shown<'_>, now: UnixSeconds) -> Result<Arc<Identity>, Failure> {
        let rules = self.certificates.get(shown.listener).and_then(Option::as_ref);
        let rules = rules.ok_or_else(|| Failure::Unknown(fault("a certificate on a listener that asks for none")))?;
        let key = VerifiedCache::agent_key(shown.listener, shown.certificate.fingerprint());
        if let Some(entry) = self.needs.cache.get(&key) {
            if entry.settings_generation == self.settings_generation && now < entry.expires {
                return Ok(Arc::clone(&entry.identity));
            }
            self.needs.cache.forget(&key);
        }
        let identity = Arc::new(rules.identity(shown.certificate).map_err(no)?);
        let entry = cache::Entry {
            identity: Arc::clone(&identity),
            issuer: shown.listener,
            settings_generation: self.settings_generation,
            keys_generation: 0,
            expires: shown.certificate.not_after(),
        };
        self.needs.cache.insert(key, entry);
        Ok(identity)
    }
}

/// A token that says whose it is (RFC 8705 3) is that connection's alone. Asked of cached tokens too: they may come over
/// another one.
pub(super) fn bound(
    identity: Arc<Identity>,
    certificate: Option<&ClientCertificate>,
) -> Result<Arc<Identity>, Failure> {
    match identity.bound() {
        Some(bound) if certificate.is_none_or(|certificate| certificate.fingerprint() != bound) => {
            let issuer = Some(identity.issuer().into());
            Err(Failure::Denied(Deny::Invalid { why: Why::Confirmation, issuer }))
        }
        Some(_) | None => Ok(identity),
    }
}
