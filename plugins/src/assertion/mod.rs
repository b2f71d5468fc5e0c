//! The signed assertion: who calls, for one request to one upstream, so that an app need not trust the network between.
//!
//! A JWS (RFC 7515) of `typ` `portcullis-assertion+jwt` with a life of seconds. Its `aud` is one upstream, and `htm`, `htu`
//! and `qh` bind it to the method, the path and the query that go there: for another request it is worth nothing. The body
//! is not covered, because bodies stream.
//!
//! Rejected: `jsonwebtoken::encode`, which parses the key anew for each token; a cache of assertions, which could not be
//! bound to a request; header members beyond `alg`, `kid` and `typ`, which verifiers only could get wrong.
//!
//! Invariant: only an [`Admitted`] can be asserted, and nobody: an assertion of nobody, as `doctor` shows them to an upstream,
//! says what a public route's says.

mod claims;
mod ring;
mod settings;
mod signing_key;

use std::sync::Arc;

use http::{HeaderValue, Method};
use portcullis_api::{Micros, UnixSeconds};
pub use ring::{InUse, Ring, Timing};
pub use settings::{Algorithm, KEYS_MAX, LIFETIME_MAX, MAX_AGE_MAX, Settings};
pub use signing_key::{KeyError, SigningKey, key_set};

use crate::{admitted::Admitted, authentication::Caller};

/// `typ` of every assertion: no token of another kind can be taken for one (RFC 8725 3.11).
pub const TYPE: &str = "portcullis-assertion+jwt";

/// Signs what one upstream is told.
pub struct Signer {
    ring: Arc<Ring>,
    issuer: Arc<str>,
    audience: String,
    lifetime_s: u64,
}

/// The request as it goes upstream.
#[derive(Clone, Copy)]
pub struct Bound<'r> {
    /// The method.
    pub method: &'r Method,
    /// The path, percent-encoded as it is sent.
    pub path: &'r str,
    /// The query as it is sent, without `?`; empty when there is none.
    pub query: &'r str,
}

/// When an assertion is made, and its name.
#[derive(Clone, Copy)]
pub struct Minted<'r> {
    /// For the choice of the key.
    pub now: Micros,
    /// For `iat` and `exp`.
    pub unix: UnixSeconds,
    /// `jti`: no other assertion's.
    pub id: &'r str,
}

/// Why there is no assertion. The request must not go on without it.
#[derive(Debug, thiserror::Error)]
pub enum Unsigned {
    /// The claims are no JSON.
    #[error("the claims could not be written")]
    Claims,
    /// The key does not sign.
    #[error("the key does not sign")]
    Key,
    /// The token is no header value.
    #[error("the assertion cannot stand in a header")]
    Value,
}

impl Signer {
    /// For the upstream of this name.
    #[must_use]
    pub fn new(ring: Arc<Ring>, issuer: Arc<str>, upstream: &str, lifetime_s: u64) -> Self {
        Self { ring, issuer, audience: format!("upstream:{upstream}"), lifetime_s }
    }

    /// The assertion of one attempt to send one admitted request.
    ///
    /// # Errors
    /// [`Unsigned`]; none is expected.
    pub fn mint(&self, admitted: &Admitted, bound: &Bound<'_>, minted: &Minted<'_>) -> Result<HeaderValue, Unsigned> {
        let tenant = admitted.tenant().map(portcullis_api::TenantId::as_str);
        self.assert(admitted.caller(), tenant, bound, minted)
    }

    /// The assertion of a request of nobody, for no tenant.
    ///
    /// # Errors
    /// [`Unsigned`]; none is expected.
    pub fn of_nobody(&self, bound: &Bound<'_>, minted: &Minted<'_>) -> Result<HeaderValue, Unsigned> {
        self.assert(&Caller::Anonymous, None, bound, minted)
    }

    fn assert(
        &self,
        caller: &Caller,
        tenant: Option<&str>,
        bound: &Bound<'_>,
        minted: &Minted<'_>,
    ) -> Result<HeaderValue, Unsigned> {
        let claims = claims::Claims::of(self, caller, tenant, bound, minted);
        let payload = serde_json::to_vec(&claims).map_err(|_| Unsigned::Claims)?;
        let token = self.ring.signing(minted.now).sign(&payload).ok_or(Unsigned::Key)?;
        HeaderValue::try_from(token).map_err(|_| Unsigned::Value)
    }
}

#[cfg(test)]
mod tests;
