//! A key server over https, whose key set the test changes and whose requests it counts.

use std::sync::{Arc, Mutex, PoisonError};

use crate::{Reply, Upstream, ca};

/// A key server.
pub struct JwksServer {
    set: Arc<Mutex<Option<String>>>,
    server: Upstream,
}

impl JwksServer {
    /// One that serves this key set; `None` is 503.
    pub fn start(set: Option<String>) -> Self {
        let set = Arc::new(Mutex::new(set));
        let served = Arc::clone(&set);
        let leaf = ca::ca().leaf(&["localhost", "127.0.0.1"]);
        let config = leaf.server(&[&rustls::version::TLS13, &rustls::version::TLS12], &[b"http/1.1"]);
        let server =
            Upstream::scripted_tls(config, move |_| match &*served.lock().unwrap_or_else(PoisonError::into_inner) {
                Some(set) => Reply::with(200, &[("Content-Type", "application/jwk-set+json")], set),
                None => Reply::with(503, &[], ""),
            });
        Self { set, server }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("https://localhost:{}/jwks.json", self.server.address().port())
    }

    /// Serves this from now on.
    pub fn serve(&self, set: Option<String>) {
        *self.set.lock().unwrap_or_else(PoisonError::into_inner) = set;
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.server.all().len()
    }
}
