//! A token whose issuer is known: its type, its algorithm, its key, its signature, its claims. In that order.

use portcullis_api::{Fault, UnixSeconds};

use super::{Authentication, IssuerRule, KeySetState, Why, claims, fault, jws};

/// `typ` of a token whose issuer does not pin one (RFC 7519 5.1, RFC 9068 2.1).
const TYPES: &[&str] = &["JWT", "at+jwt"];

impl Authentication {
    /// Verifies the signature and reads the claims; also tells which keys did it.
    pub(super) fn signed_claims(
        &self,
        issuer: &IssuerRule,
        jws: &jws::Jws<'_>,
        now: UnixSeconds,
    ) -> Result<Signed, Stop> {
        let typ_fits = match (&issuer.typ, &jws.header.typ) {
            (Some(pinned), Some(typ)) => pinned == typ,
            (Some(_), None) => false,
            (None, Some(typ)) => TYPES.contains(&typ.as_str()),
            (None, None) => true,
        };
        if !typ_fits {
            return Err(Stop::Why(Why::Typ));
        }
        if !issuer.algorithms.contains(&jws.header.algorithm) {
            return Err(Stop::Why(Why::AlgorithmNotAllowed));
        }
        let state = issuer.keys.load();
        let keys = match &**state {
            KeySetState::Missing { why } => {
                return Err(Stop::Fault(fault(format!("no key set of issuer {}: {why}", issuer.name))));
            }
            KeySetState::Ready(keys) => keys,
        };
        let key = keys.select(jws.header.kid.as_deref(), jws.header.algorithm).map_err(|why| {
            if why == Why::KidUnknown {
                self.needs.key_sets.unknown_kid(&issuer.name);
            }
            Stop::Why(why)
        })?;
        key.verify(jws.signing_input, &jws.signature).map_err(Stop::Why)?;
        let claims = claims::read(&jws.payload, &issuer.claims, now).map_err(Stop::Why)?;
        Ok(Signed { claims, keys_generation: keys.generation(), kid: key.kid.clone() })
    }
}

/// What the signature of a token's issuer stands for.
pub(super) struct Signed {
    pub(super) claims: claims::Claims,
    pub(super) keys_generation: u128,
    /// Of the key that verified it, which is not always what the token says.
    pub(super) kid: Option<String>,
}

/// Why a token of a known issuer gave no claims.
pub(super) enum Stop {
    Why(Why),
    Fault(Fault),
}
