//! A token, from its bytes to the identity that its issuer's signature stands for.

use std::sync::Arc;

use portcullis_api::{Fault, UnixSeconds};

use super::{
    Authentication, Failure, IssuerRule,
    cache::{self, VerifiedCache},
    caller::{identity_of, revocable},
    claims,
    deny::Why,
    exchange, fault,
    identity::{Credential, Identity},
    jws::{self, TOKEN_BYTES_MAX},
    keys::KeySetState,
    no, strict_json,
};

/// `typ` of a token whose issuer does not pin one (RFC 7519 5.1, RFC 9068 2.1).
const TYPES: &[&str] = &["JWT", "at+jwt"];

impl Authentication {
    /// `accepted` tells by issuer whether the route takes its tokens from this place; `bound` is the issuer whose
    /// cookie it is.
    pub(super) fn token(
        &self,
        accepted: &[bool],
        credential: Credential,
        bound: Option<usize>,
        token: &[u8],
        now: UnixSeconds,
    ) -> Result<Arc<Identity>, Failure> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(no(Why::TokenTooLong));
        }
        let admits =
            |index: usize| accepted.get(index).copied().unwrap_or(false) && bound.is_none_or(|issuer| issuer == index);
        let key = VerifiedCache::key(credential, token);
        if let Some(entry) = self.needs.cache.get(&key) {
            if self.still_good(&entry, now) {
                return if admits(entry.issuer) {
                    Ok(Arc::clone(&entry.identity))
                } else {
                    Err(self.no(entry.issuer, Why::IssuerNotAccepted))
                };
            }
            self.needs.cache.forget(&key);
        }

        let jws = jws::parse(token).map_err(no)?;
        let iss = jws.payload.member("iss").and_then(strict_json::Json::text).ok_or_else(|| no(Why::IssuerForm))?;
        let found = self.issuers.iter().enumerate().find(|(_, issuer)| issuer.iss == iss);
        let Some((index, issuer)) = found else { return Err(no(Why::IssuerUnknown)) };
        if !admits(index) {
            return Err(self.no(index, Why::IssuerNotAccepted));
        }
        let Signed { claims, keys_generation, kid, key: signed_by } =
            self.signed_claims(issuer, &jws, now).map_err(|failure| match failure {
                Stop::Why(why) => self.no(index, why),
                Stop::Fault(fault) => Failure::Unknown(fault),
                Stop::UnknownKid => {
                    Failure::UnknownKid { issuer: index, kid: jws.header.kid.clone().unwrap_or_default() }
                }
            })?;
        let expires = claims.expires;
        let exchanged = self.exchange.as_ref().is_some_and(|exchange| exchange.issuer == index);
        let holder = exchanged.then(|| exchange::claims_of(&jws.payload, &claims)).transpose();
        let holder = holder.map_err(|why| self.no(index, why))?;
        let api_key = holder.as_ref().map(exchange::Holder::target);
        let revocable = revocable(issuer, &claims, kid, api_key, jws.signing_input);
        let identity = Arc::new(match holder {
            Some(holder) => holder.identity(claims, signed_by, revocable),
            None => identity_of(issuer, claims, (credential, signed_by), revocable),
        });
        self.needs.cache.insert(
            key,
            cache::Entry {
                identity: Arc::clone(&identity),
                issuer: index,
                settings_generation: self.settings_generation,
                keys_generation,
                expires,
            },
        );
        Ok(identity)
    }

    /// Whether what was verified once would be verified again now.
    fn still_good(&self, entry: &cache::Entry, now: UnixSeconds) -> bool {
        if entry.settings_generation != self.settings_generation || now >= entry.expires {
            return false;
        }
        let Some(issuer) = self.issuers.get(entry.issuer) else { return false };
        match &**issuer.keys.load() {
            KeySetState::Missing { .. } => false,
            KeySetState::Ready(keys) => keys.generation() == entry.keys_generation,
        }
    }

    /// Verifies the signature and reads the claims; also tells which keys did it.
    fn signed_claims(&self, issuer: &IssuerRule, jws: &jws::Jws<'_>, now: UnixSeconds) -> Result<Signed, Stop> {
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
        let key = keys
            .select(jws.header.kid.as_deref(), jws.header.algorithm)
            .map_err(|why| if why == Why::KidUnknown { Stop::UnknownKid } else { Stop::Why(why) })?;
        key.verify(jws.signing_input, &jws.signature).map_err(Stop::Why)?;
        let claims = claims::read(&jws.payload, &issuer.claims, now).map_err(Stop::Why)?;
        Ok(Signed { claims, keys_generation: keys.generation(), kid: key.kid.clone(), key: key.mark() })
    }
}

/// What the signature of a token's issuer stands for.
struct Signed {
    claims: claims::Claims,
    keys_generation: u128,
    /// Of the key that verified it, which is not always what the token says.
    kid: Option<String>,
    /// Its mark.
    key: u128,
}

/// Why a token of a known issuer gave no claims.
enum Stop {
    Why(Why),
    Fault(Fault),
    UnknownKid,
}
