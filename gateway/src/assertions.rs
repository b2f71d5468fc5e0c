//! The keys of assertions over reloads: which are published, which signs, and the set that verifiers are handed.
//!
//! Invariant: a key set is handed out before a key that is new in it begins to be ready. `Runtime` puts the snapshot in
//! force first, and adopts its rings after that.

use std::sync::Arc;

use parking_lot::Mutex;
use portcullis_api::{Clock, Micros};
use portcullis_config::{AssertionSpec, UpstreamSpec};
use portcullis_plugins::assertion::{Algorithm, InUse, Ring, Signer, SigningKey, Timing, key_set};

use crate::clock::SystemClock;

/// The rings in force, for the next configuration.
#[derive(Default)]
pub(crate) struct Assertions(Mutex<Option<Arc<Rings>>>);

/// The assertions of one configuration.
pub(crate) struct Rings {
    /// What verifiers are handed, a JWKS document.
    pub(crate) key_set: String,
    /// How long they may keep it, in seconds.
    pub(crate) max_age_s: u64,
    es256: Option<Arc<Ring>>,
    eddsa: Option<Arc<Ring>>,
    issuer: Arc<str>,
    lifetime_s: u64,
}

impl Assertions {
    /// The rings of the first configuration, in force: no request comes before its snapshot.
    ///
    /// # Errors
    /// None: nothing was published before.
    pub(crate) fn start(spec: Option<&AssertionSpec>, now: Micros) -> Result<(Self, Option<Arc<Rings>>), InUse> {
        let this = Self::default();
        let rings = this.prepare(spec, now)?;
        this.adopt(rings.clone(), now);
        Ok((this, rings))
    }

    /// The rings of a configuration, not yet in force.
    ///
    /// # Errors
    /// [`InUse`] when a key was left out too early.
    pub(crate) fn prepare(&self, spec: Option<&AssertionSpec>, now: Micros) -> Result<Option<Arc<Rings>>, InUse> {
        let Some(spec) = spec else { return Ok(None) };
        let before = self.0.lock().clone();
        let before = before.as_deref();
        let timing = Timing { max_age: spec.max_age, lifetime: spec.lifetime };
        let ring = |before: Option<&Arc<Ring>>, keys: &[Arc<SigningKey>]| {
            Ring::next(before.map(|ring| &**ring), keys, timing, now).map(|ring| ring.map(Arc::new))
        };
        Ok(Some(Arc::new(Rings {
            key_set: published(spec),
            max_age_s: spec.max_age.as_secs_ceil(),
            es256: ring(before.and_then(|before| before.es256.as_ref()), &spec.es256)?,
            eddsa: ring(before.and_then(|before| before.eddsa.as_ref()), &spec.eddsa)?,
            issuer: spec.issuer.clone(),
            lifetime_s: spec.lifetime.as_secs_ceil(),
        })))
    }

    /// The key set of these rings is handed out from now on.
    pub(crate) fn adopt(&self, rings: Option<Arc<Rings>>, now: Micros) {
        for ring in rings.iter().flat_map(|rings| rings.all()) {
            ring.publish(now);
        }
        *self.0.lock() = rings;
    }

    /// Says which key signs, at the start and whenever it is another one.
    pub(crate) async fn run(&self, clock: &SystemClock) {
        let mut said: Vec<String> = Vec::new();
        loop {
            let now = clock.now();
            let kids: Vec<String> = {
                let rings = self.0.lock();
                rings.iter().flat_map(|rings| rings.all()).map(|ring| ring.signing_kid(now).to_owned()).collect()
            };
            for kid in kids.iter().filter(|kid| !said.contains(kid)) {
                tracing::info!(event = "assertion.signing", kid, "this key signs assertions");
            }
            said = kids;
            tokio::time::sleep(std::time::Duration::from_millis(250)).await;
        }
    }
}

impl Rings {
    /// What signs for an upstream, where it asks for it; the configuration has seen to it that there are keys.
    #[must_use]
    pub(crate) fn signer(&self, upstream: &UpstreamSpec) -> Option<Signer> {
        self.signer_for(upstream.assertion?, &upstream.name)
    }

    /// What signs for an upstream of this name; `None` without a key of this algorithm.
    #[must_use]
    pub(crate) fn signer_for(&self, algorithm: Algorithm, upstream: &str) -> Option<Signer> {
        let ring = match algorithm {
            Algorithm::ES256 => &self.es256,
            Algorithm::EdDSA => &self.eddsa,
        };
        Some(Signer::new(ring.clone()?, self.issuer.clone(), upstream, self.lifetime_s))
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Ring>> {
        self.es256.iter().chain(&self.eddsa)
    }
}

/// The key set that a gateway with this configuration hands out.
#[must_use]
pub(crate) fn published(spec: &AssertionSpec) -> String {
    key_set(spec.es256.iter().chain(&spec.eddsa))
}
