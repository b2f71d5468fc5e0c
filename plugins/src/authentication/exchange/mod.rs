//! The exchange: an API key buys a token that lives for minutes (RFC 8693), with the key's rights or fewer.
//!
//! Order: the form is read (`form.rs`), the key verified and counted like any other key, what is asked for cut down to what
//! the key has (`mint.rs`), and a token signed with the newest secret. Such tokens come back through `token.rs`, as those of
//! one more issuer, and their key is looked at again at each request (`holder.rs`).
//!
//! Invariants: a minted token never has a right that its key lacks. Nothing but the form is looked at: no cookie, no
//! header, no query decides what a token may do.

mod compile;
mod deny;
mod form;
mod holder;
mod mint;
mod rate;
mod settings;

use portcullis_api::{ClientIp, ControlName, Facts, Fault, TenantId};

pub use deny::Deny;
pub use mint::Granted;
pub use rate::Exchanges;
pub use settings::{ExchangeRate, ExchangeSettings, LIFETIME_MAX};

pub(super) use compile::{check, issuer_rule, rule};
pub(super) use holder::{Holder, claims_of, issuer_of};

use super::{Authentication, Caller, Failure, certificate::Shown, fault};
use crate::{rate_limit::Numbers, revocations::Freshness};

/// The name under which it stands among the issuers, in logs and where an issuer is revoked.
pub const EXCHANGE_ISSUER: &str = "exchange";
/// Where tokens of embed keys have their issuer in the injected identity.
pub const EMBED_ISSUER: &str = "embed";
/// As a step of the trail.
pub const NAME: ControlName = ControlName::new("exchange");
/// Longest form, in bytes.
pub const FORM_BYTES_MAX: u64 = 8 << 10;

/// The exchange, compiled.
pub(super) struct Rule {
    /// Where it stands among the issuers.
    pub(super) issuer: usize,
    lifetime_s: u64,
    rate: Numbers,
}

/// A request for a token.
#[derive(Clone, Copy)]
pub struct Asking<'r> {
    /// The canonical request.
    pub facts: Facts<'r>,
    /// The settled address.
    pub client: ClientIp,
    /// The certificate of its connection.
    pub certificate: Option<Shown<'r>>,
    /// The whole body.
    pub form: &'r [u8],
    /// `jti`: no other token's.
    pub id: &'r str,
}

/// Whose key it was, where it was one.
pub struct Answered {
    /// The holder, once the key was verified: also where the rest was refused.
    pub caller: Option<Caller>,
    /// The token, or why there is none.
    pub outcome: Result<Granted, Deny>,
}

impl Answered {
    /// The tenant of the key.
    #[must_use]
    pub fn tenant(&self) -> Option<&TenantId> {
        self.caller.as_ref().and_then(Caller::identity).map(super::Identity::tenant)
    }
}

impl Authentication {
    /// Answers a request for a token.
    ///
    /// # Errors
    /// A [`Fault`] when nobody can tell whether the key is one, or what of it was revoked.
    pub fn exchange(&self, asking: &Asking<'_>) -> Result<Answered, Fault> {
        let refused = |deny| Ok(Answered { caller: None, outcome: Err(deny) });
        let Some(rule) = &self.exchange else { return Err(fault("an exchange that is not configured was asked")) };
        let now = self.needs.clock.unix();
        if let Some(shown) = &asking.certificate
            && let Err(why) = self.still_counts(shown, now)
        {
            return refused(Deny::Client(why));
        }
        match (self.known.find(&asking.facts), asking.facts.query.is_empty()) {
            (Ok(None), true) => {}
            (Ok(None), false) => return refused(Deny::Request("the query is not empty")),
            (Ok(Some(_)), _) => return refused(Deny::Request("a credential stands elsewhere than in the form")),
            (Err(ambiguity), _) => return refused(Deny::Request(ambiguity.as_str())),
        }
        let form = match form::read(asking.facts.headers, asking.form) {
            Ok(form) => form,
            Err(deny) => return refused(deny),
        };
        let identity = match self.subject(&form, asking.client, now) {
            Ok(identity) => identity,
            Err(Failure::Denied(super::Deny::Invalid { why, .. })) => return refused(Deny::Client(why)),
            Err(Failure::Denied(super::Deny::KeyFailures { why, retry_after_s })) => {
                return refused(Deny::KeyFailures { why, retry_after_s });
            }
            Err(Failure::Denied(_) | Failure::UnknownKid { .. }) => {
                return Err(fault("a key was refused as a token is"));
            }
            Err(Failure::Unknown(fault)) => return Err(fault),
        };
        let caller = Some(Caller::Verified(identity.clone()));
        if identity.uses().is_some_and(|uses| !uses.permits_address(asking.client.ip())) {
            return Ok(Answered { caller, outcome: Err(Deny::KeyAddress) });
        }
        let key_id = identity.key_id().unwrap_or_default();
        if let Some(retry_after_s) = self.needs.api_keys.exchanges.count(key_id, &rule.rate) {
            return Ok(Answered { caller, outcome: Err(Deny::Rate { retry_after_s }) });
        }
        if identity.uses().is_some_and(|uses| uses.due(now)) {
            self.needs.api_keys.used.used(key_id, now);
        }
        let outcome = self.mint(rule, &identity, &form, (asking.id, now))?;
        Ok(Answered { caller, outcome })
    }

    /// The holder of the key in the form, as any route would find it, and counted as any route would count it.
    fn subject(
        &self,
        form: &form::Form<'_>,
        client: ClientIp,
        now: u64,
    ) -> Result<std::sync::Arc<super::Identity>, Failure> {
        let table = self.needs.api_keys.table.load();
        if let Some(why) = table.why_away() {
            return Err(Failure::Unknown(fault(format!("the store of API keys: {why}"))));
        }
        let verified = table.verify(form.subject_token.as_bytes(), now).map_err(super::no);
        // A token outlives the request: what is known must be as fresh as where it matters most.
        let known = verified
            .and_then(|identity| self.unrevoked(&identity).map(|()| identity))
            .and_then(|identity| self.known(Freshness::Strict).map(|()| identity));
        known.map_err(|failure| match failure {
            Failure::Denied(deny) => Failure::Denied(self.counted(deny, client)),
            Failure::Unknown(_) | Failure::UnknownKid { .. } => failure,
        })
    }
}
