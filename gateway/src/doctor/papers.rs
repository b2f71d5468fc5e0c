//! The assertions that a doctor shows: a good one, and those that must be refused. All of them are of nobody.

use anyhow::anyhow;
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderValue, Method};
use portcullis_api::Clock;
use portcullis_config::UpstreamSpec;
use portcullis_plugins::assertion::{Algorithm, Bound, Minted, Signer};
use uuid::Uuid;

use super::Check;
use crate::{assertions::Rings, clock::SystemClock};

/// How long ago the expired one was made: longer than any clock is wrong.
const AGO_S: u64 = 3600;

/// A path that is not asked.
const OTHER_PATH: &str = "/.well-known/portcullis/another-path";

/// Makes assertions for one upstream and one request.
pub(crate) struct Papers<'p> {
    algorithm: Algorithm,
    signer: Signer,
    misdirected: Signer,
    path: &'p str,
    query: &'p str,
    clock: SystemClock,
}

impl<'p> Papers<'p> {
    /// For requests of this target; `None` where the upstream gets no assertions.
    pub(crate) fn new(rings: &Rings, spec: &UpstreamSpec, target: &'p str) -> Option<Self> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        // A name of an upstream has no dot, so nobody has this one.
        let nobody = format!("{}.doctor", spec.name);
        Some(Self {
            algorithm: spec.assertion?,
            signer: rings.signer(spec)?,
            misdirected: rings.signer_for(spec.assertion?, &nobody)?,
            path,
            query,
            clock: SystemClock::start(),
        })
    }

    /// One that must pass.
    ///
    /// # Errors
    /// None is expected.
    pub(crate) fn good(&self) -> anyhow::Result<HeaderValue> {
        self.made(&self.signer, self.path, 0)
    }

    /// One that must not.
    ///
    /// # Errors
    /// None is expected of the checks that show an assertion.
    pub(crate) fn bad(&self, check: Check) -> anyhow::Result<HeaderValue> {
        match check {
            Check::Forged => forged(self.algorithm, &self.good()?),
            Check::OtherUpstream => self.made(&self.misdirected, self.path, 0),
            Check::Expired => self.made(&self.signer, self.path, AGO_S),
            Check::OtherPath => self.made(&self.signer, OTHER_PATH, 0),
            Check::Anybody | Check::NoCertificate | Check::NoAssertion => {
                Err(anyhow!("{check} shows no bad assertion"))
            }
        }
    }

    fn made(&self, signer: &Signer, path: &str, ago_s: u64) -> anyhow::Result<HeaderValue> {
        let mut id = Uuid::encode_buffer();
        let minted = Minted {
            now: self.clock.now(),
            unix: self.clock.unix().saturating_sub(ago_s),
            id: Uuid::now_v7().hyphenated().encode_lower(&mut id),
        };
        Ok(signer.of_nobody(&Bound { method: &Method::GET, path, query: self.query }, &minted)?)
    }
}

/// The same header and claims, with the signature of a key that was made for this and is thrown away.
fn forged(algorithm: Algorithm, good: &HeaderValue) -> anyhow::Result<HeaderValue> {
    let (input, _) = good.to_str()?.rsplit_once('.').ok_or_else(|| anyhow!("an assertion has three parts"))?;
    let failed = |_| anyhow!("no key could be made");
    let signature = match algorithm {
        Algorithm::ES256 => {
            let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(failed)?;
            pair.sign(&SystemRandom::new(), input.as_bytes()).map_err(failed)?.as_ref().to_vec()
        }
        Algorithm::EdDSA => {
            let pair = Ed25519KeyPair::generate().map_err(failed)?;
            pair.try_sign(input.as_bytes()).map_err(failed)?.as_ref().to_vec()
        }
    };
    Ok(HeaderValue::try_from(format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature)))?)
}
