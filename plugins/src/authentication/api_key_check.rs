//! The check of an API key: known, of the route's environment, used from where and for what it may be; and who tries keys
//! that are none.

use std::sync::Arc;

use portcullis_api::{ClientIp, UnixSeconds};

use super::{
    Authentication, Failure, RouteRule, Sees,
    deny::{Deny, Why},
    fault,
    identity::Identity,
    no,
};

impl Authentication {
    pub(super) fn api_key(&self, route: &RouteRule, key: &[u8], now: UnixSeconds) -> Result<Arc<Identity>, Failure> {
        if !route.api_key {
            return Err(no(Why::KindNotAccepted));
        }
        let table = self.needs.api_keys.table.load();
        if let Some(why) = table.why_away() {
            return Err(Failure::Unknown(fault(format!("the store of API keys: {why}"))));
        }
        let identity = table.verify(key, now).map_err(no)?;
        if route.environment.as_ref().is_some_and(|needed| identity.environment() != Some(needed)) {
            return Err(no(Why::ApiKeyEnvironment));
        }
        Ok(identity)
    }

    /// Asked last, so that a key that has ended is told nothing of where it could be used; and what passes is in use.
    pub(super) fn permitted(
        &self,
        identity: Arc<Identity>,
        sees: &Sees<'_>,
        route: &RouteRule,
        now: UnixSeconds,
    ) -> Result<Arc<Identity>, Failure> {
        // Of a token that a key bought, the key's record as it is now.
        let holder = self.holder(&identity, now)?;
        if let Some(uses) = holder.as_ref().unwrap_or(&identity).uses() {
            uses.permit(sees.client.ip(), &route.name).map_err(Failure::Denied)?;
            if uses.due(now) {
                self.needs.api_keys.used.used(identity.subject(), now);
            }
        }
        Ok(identity)
    }

    /// A key that is none counts against its network. Only such keys are answered 429, never one that is good: whoever
    /// shares an address with a guesser is not kept out.
    pub(super) fn counted(&self, deny: Deny, client: ClientIp) -> Deny {
        let Deny::Invalid { why, issuer: None } = deny else { return deny };
        if !why.is_guess() {
            return deny;
        }
        match self.needs.api_keys.failures.count(client, &self.failures) {
            Some(retry_after_s) => Deny::KeyFailures { why, retry_after_s },
            None => deny,
        }
    }
}
