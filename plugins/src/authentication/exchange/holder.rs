//! A token of the exchange when it comes back: what it says beside the usual claims, and that its key still stands.

use std::sync::Arc;

use portcullis_api::{Environment, UnixSeconds};

use super::EMBED_ISSUER;
use crate::{
    authentication::{
        API_KEY_ISSUER, Authentication, Failure, Filters, Identity, Kind, RouteRule,
        api_keys::is_api_key_id,
        claims::Claims,
        deny::{Deny, Why},
        fault,
        identity::{Credential, Environments, Parts},
        strict_json::Json,
    },
    revocations::{Revocable, Target},
};

/// Who a verified token of the exchange stands for, and the key that it hangs on.
pub(in crate::authentication) struct Holder {
    environment: Environment,
    kind: Kind,
    key_id: String,
    filters: Option<Filters>,
}

/// Reads what no other issuer's token says. All of it was signed by a gateway, so what does not fit is another version's.
pub(in crate::authentication) fn claims_of(payload: &Json, claims: &Claims) -> Result<Holder, Why> {
    let text = |name: &str| payload.member(name).and_then(Json::text).ok_or(Why::Exchanged);
    let key_id = text("key_id")?;
    let environment = Environment::parse(text("env")?).map_err(|_| Why::Exchanged)?;
    let kind = match claims.subject.split_once(':') {
        Some((API_KEY_ISSUER, id)) if id == key_id => Kind::ApiKey,
        Some((EMBED_ISSUER, id)) if id == key_id => Kind::Embed,
        Some(_) | None => return Err(Why::Exchanged),
    };
    if !is_api_key_id(key_id) {
        return Err(Why::Exchanged);
    }
    let filters = payload.member("flt").map(Filters::of).transpose().map_err(|_| Why::Exchanged)?;
    // What is for pages that others show never shows all.
    if kind == Kind::Embed && filters.is_none() {
        return Err(Why::Exchanged);
    }
    Ok(Holder { environment, kind, key_id: key_id.to_owned(), filters })
}

impl Holder {
    /// Its key: what revokes it ends the token.
    pub(in crate::authentication) fn target(&self) -> Target {
        Target::ApiKey { id: self.key_id.clone() }
    }

    /// The identity: of the key, with what is left of its rights.
    pub(in crate::authentication) fn identity(self, claims: Claims, signed_by: u128, revocable: Revocable) -> Identity {
        let Claims {
            tenant,
            subject: _,
            role,
            scopes,
            environments: _,
            auth_time,
            issued: _,
            expires,
            jti,
            sid: _,
            bound,
        } = claims;
        let Self { environment, kind, key_id, filters } = self;
        Identity::verified(Parts {
            tenant,
            issuer: issuer_of(kind).into(),
            subject: key_id.clone(),
            kind,
            role,
            scopes,
            environment: Some(environment),
            key_id: Some(key_id),
            credential: Credential::Bearer,
            expires: Some(expires),
            jti,
            certificate: None,
            bound,
            revocable,
            // The record's own, as it is when the token is shown: see `Authentication::held`.
            uses: None,
            signed_by: Some(signed_by),
            auth_time,
            environments: Environments::Any,
            filters,
        })
    }
}

/// Where a key's kind stands for an issuer.
pub(in crate::authentication) const fn issuer_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Embed => EMBED_ISSUER,
        Kind::User | Kind::ApiKey | Kind::Agent => API_KEY_ISSUER,
    }
}

impl Authentication {
    /// The key that an exchanged token hangs on, as it is now: a token is never more than its key. Asked of remembered
    /// tokens too. `None` for every other credential.
    pub(in crate::authentication) fn holder(
        &self,
        identity: &Identity,
        now: UnixSeconds,
    ) -> Result<Option<Arc<Identity>>, Failure> {
        if !identity.is_exchanged() {
            return Ok(None);
        }
        let table = self.needs.api_keys.table.load();
        if let Some(why) = table.why_away() {
            return Err(Failure::Unknown(fault(format!("the store of API keys: {why}"))));
        }
        table.holder(identity, now).map(|key| Some(Arc::clone(key))).map_err(ended)
    }

    /// Asked of whatever verified: that its key stands, and is of the route's environment.
    pub(in crate::authentication) fn held(
        &self,
        identity: Arc<Identity>,
        route: &RouteRule,
        now: UnixSeconds,
    ) -> Result<Arc<Identity>, Failure> {
        if self.holder(&identity, now)?.is_some()
            && route.environment.as_ref().is_some_and(|needed| identity.environment() != Some(needed))
        {
            return Err(ended(Why::ApiKeyEnvironment));
        }
        Ok(identity)
    }
}

/// Not as an API key's: a token whose key is gone is no guess at a key.
fn ended(why: Why) -> Failure {
    Failure::Denied(Deny::Invalid { why, issuer: Some(super::EXCHANGE_ISSUER.into()) })
}
