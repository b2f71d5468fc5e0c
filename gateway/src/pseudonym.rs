//! Addresses and subjects leave the process only as pseudonyms: HMAC-SHA256 with a secret, cut to 128 bits.
//!
//! Pseudonymous, not anonymous: whoever holds the key can try every IPv4 address.

use std::{
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use aws_lc_rs::{hmac, rand};
use parking_lot::Mutex;
use portcullis_api::{Secret, hex};
use portcullis_plugins::authentication::Identity;

/// Makes pseudonyms.
pub(crate) struct Pseudonyms(hmac::Key);

/// The pseudonyms of one connection. Most have one client and one caller, so each is hashed once.
#[derive(Default)]
pub(crate) struct Known {
    /// The first client; behind a balancer others may follow.
    client: OnceLock<(IpAddr, Arc<str>)>,
    /// The last caller.
    caller: Mutex<Option<(Arc<Identity>, Arc<str>)>>,
}

impl Pseudonyms {
    /// With the configured secret, or a random one that ends with the process.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub(crate) fn new(secret: Option<&Secret>) -> anyhow::Result<Self> {
        let key = match secret {
            Some(secret) => hmac::Key::new(hmac::HMAC_SHA256, secret.expose()),
            None => {
                let mut bytes = [0u8; 32];
                rand::fill(&mut bytes).map_err(|_| anyhow::anyhow!("no randomness from the system"))?;
                hmac::Key::new(hmac::HMAC_SHA256, &bytes)
            }
        };
        Ok(Self(key))
    }

    /// Of the client of a request on a connection.
    #[must_use]
    pub(crate) fn client(&self, ip: IpAddr, known: &Known) -> Arc<str> {
        let (first, pseudonym) = known.client.get_or_init(|| (ip, self.ip(ip).into()));
        if *first == ip { Arc::clone(pseudonym) } else { self.ip(ip).into() }
    }

    /// Of the caller of a request on a connection.
    #[must_use]
    pub(crate) fn caller(&self, identity: &Arc<Identity>, known: &Known) -> Arc<str> {
        let mut last = known.caller.lock();
        if let Some((last, pseudonym)) = &*last
            && Arc::ptr_eq(last, identity)
        {
            return Arc::clone(pseudonym);
        }
        let pseudonym: Arc<str> = self.subject(identity.issuer(), identity.subject()).into();
        *last = Some((Arc::clone(identity), Arc::clone(&pseudonym)));
        pseudonym
    }

    /// Of an address.
    #[must_use]
    pub(crate) fn ip(&self, ip: IpAddr) -> String {
        match ip {
            IpAddr::V4(v4) => self.of(b"ip4", &v4.octets()),
            IpAddr::V6(v6) => self.of(b"ip6", &v6.octets()),
        }
    }

    /// Of a subject, within its issuer.
    #[must_use]
    pub(crate) fn subject(&self, issuer: &str, subject: &str) -> String {
        self.of(issuer.as_bytes(), subject.as_bytes())
    }

    fn of(&self, domain: &[u8], value: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(domain);
        context.update(&[0]);
        context.update(value);
        hex(context.sign().as_ref().get(..16).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pseudonym_is_stable_under_one_key_and_differs_under_another() {
        let a = Pseudonyms::new(Some(&Secret::new(vec![7; 32]))).unwrap();
        let b = Pseudonyms::new(None).unwrap();
        let ip = "203.0.113.9".parse().unwrap();
        assert_eq!(a.ip(ip), a.ip(ip));
        assert_ne!(a.ip(ip), b.ip(ip));
        assert_eq!(a.ip(ip).len(), 32);
        assert!(!a.ip(ip).contains("203"));
    }

    #[test]
    fn another_client_on_the_same_connection_has_its_own_pseudonym() {
        let (pseudonyms, known) = (Pseudonyms::new(None).unwrap(), Known::default());
        for ip in ["203.0.113.9", "203.0.113.10", "203.0.113.9"] {
            let ip = ip.parse().unwrap();
            assert_eq!(*pseudonyms.client(ip, &known), *pseudonyms.ip(ip));
        }
    }
}
