//! `quota`: the limits that count by something of the identity: API key, subject, tenant, whoever calls.
//!
//! The same rules, buckets and answers as [`crate::rate_limit`], asked after authorization. A route that accepts API
//! keys is under `per_key` here without naming it, for callers that come with one.

use std::sync::Arc;

use portcullis_api::{Adjustable, ClientIp, Control, ControlName, Facts, Fault, Issues, RouteId, TenantId, Verdict};

use crate::{
    authentication::Caller,
    rate_limit::{Bound, Counted, Excess, Needs, Origin, Rules, Who, charge, exceeded, no_plan},
};

/// The control's name.
pub const NAME: ControlName = ControlName::new("quota");

exceeded!("quota.exceeded", "The quota of this caller is used up", "It exceeds limits.", Excess::rule);

/// The rules that are asked after authentication.
pub struct Quota {
    rules: Arc<Rules>,
    bound: Bound,
}

/// What must be known.
#[derive(Debug, Clone, Copy)]
pub struct Sees<'r> {
    /// The canonical request.
    pub facts: Facts<'r>,
    /// The settled address.
    pub client: ClientIp,
    /// Where the request goes.
    pub route: RouteId,
    /// Whoever calls.
    pub caller: &'r Caller,
    /// The tenant the request runs for.
    pub tenant: Option<&'r TenantId>,
}

impl Control for Quota {
    const NAME: ControlName = NAME;
    /// [`Rules::compile`] has said already what is wrong with them.
    type Settings<'d> = Arc<Rules>;
    type Sees<'r> = Sees<'r>;
    type Proof = Counted;
    type Deny = Deny;
    type Needs = Needs;
    type Posture = Adjustable;

    fn compile(rules: Arc<Rules>, needs: &Needs, _: &mut Issues) -> Option<Self> {
        let bound = needs.bind(&rules);
        Some(Self { rules, bound })
    }

    async fn check<'r>(&'r self, sees: Sees<'r>) -> Result<Verdict<Counted, Deny>, Fault> {
        let Sees { facts, client, route, caller, tenant } = sees;
        self.judge(facts, client, route, Who::of(caller, tenant)).await
    }
}

impl Quota {
    async fn judge(
        &self,
        facts: Facts<'_>,
        client: ClientIp,
        route: RouteId,
        who: Who<'_>,
    ) -> Result<Verdict<Counted, Deny>, Fault> {
        let Some(plan) = self.rules.of(route) else { return Err(no_plan(NAME)) };
        let origin = Origin { client: client.counted(), route: &plan.name, headers: facts.headers, who };
        let per_key = plan.per_key.iter().filter(|_| who.key_id.is_some());
        let rules = plan.quota.iter().chain(per_key).filter(|rule| rule.counts(facts.method));
        let charged = charge(NAME, &self.bound, rules, origin, who.tenant).await?;
        Ok(charged.map_or_else(|excess| Verdict::Deny(Deny::Exceeded(excess)), Verdict::Pass))
    }
}

#[cfg(test)]
mod tests;
