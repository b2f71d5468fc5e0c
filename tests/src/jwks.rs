//! A key server over https, whose key set the test changes and whose requests it counts.

use std::sync::{Arc, Mutex, PoisonError};

use crate::{Reply, Seen, Setup, Upstream, ca};

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
        Self::listen(set, move |_| match &*served.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(set) => Reply::with(200, &[("Content-Type", "application/jwk-set+json")], set),
            None => Reply::with(503, &[], ""),
        })
    }

    /// One that answers as the script says.
    pub fn scripted(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::listen(Arc::default(), script)
    }

    fn listen(set: Arc<Mutex<Option<String>>>, script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let leaf = ca::ca().leaf(&["localhost", "127.0.0.1"]);
        let config = leaf.server(&[&rustls::version::TLS13, &rustls::version::TLS12], &[b"http/1.1"]);
        Self { set, server: Upstream::scripted_tls(config, script) }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("https://localhost:{}/jwks.json", self.server.address().port())
    }

    /// The URL of another page of it.
    pub fn page(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.server.address().port())
    }

    /// A setup whose issuer `main` has its keys here, and whose gateway believes this server and may ask it.
    pub fn of_main(&self, setup: Setup) -> Setup {
        self.of_main_at(setup, &format!("{{ jwks_url = \"{}\" }}", self.url()))
    }

    /// [`Self::of_main`] with these `keys`.
    pub fn of_main_at(&self, setup: Setup, keys: &str) -> Setup {
        let bundle = setup.path("tls/ca.pem").display().to_string();
        setup
            .environment("SSL_CERT_FILE", &bundle)
            .set("issuers.main.keys", keys)
            .set("issuers.main.private_networks", r#"["127.0.0.0/8", "::1"]"#)
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
