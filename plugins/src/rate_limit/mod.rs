//! `rate_limit`: the limits that can be asked before authentication, because they count by client, route or header.
//!
//! Rules that count by something of the identity are asked by [`crate::quota`] after it. Both stages share this room:
//! `settings` is what is written, [`Rules`] what it compiles to, `charge` asks all rules of a request at once and
//! charges all or none, `table` and [`SharedCounters`] hold the buckets, `told` says what came of it.

mod charge;
mod cost;
mod counters;
mod define;
mod exceeded;
mod gcra;
mod inspect;
mod keys;
mod matching;
mod numbers;
mod rules;
mod settings;
mod table;
mod told;

use std::sync::Arc;

use portcullis_api::{Adjustable, ClientIp, Control, ControlName, Facts, Fault, Issues, RouteId, Verdict};

pub use charge::Needs;
pub(crate) use charge::{Bound, charge};
pub use counters::{
    Answer, Binding, Bucket, Clearing, Fleet, Instead, Leasing, Level, Peeking, SharedCounters, StoreFault, Taking,
};
pub(crate) use exceeded::exceeded;
pub use gcra::{REFILL_MAX, Rate, RateError, Taken};
pub use inspect::{InspectError, Named, Seen};
pub use keys::KeyHasher;
pub(crate) use keys::{Hashing, Origin, Parts, Who, with_class};
pub(crate) use matching::{CREDENTIALS, Counts, Section, admitted};
pub use numbers::Numbers;
pub use rules::{ApiKeyCallers, Input, PER_KEY, RouteLimits, Rules, WINDOW_MAX};
pub use settings::*;
pub use table::{KEYS_MAX, Table, Tables};
pub(crate) use told::Standing;
pub use told::{Counted, Excess, Field, Note, NoteKind, fields};

/// The control's name.
pub const NAME: ControlName = ControlName::new("rate_limit");

exceeded!("rate_limit.exceeded", "Too many requests", "It exceeds limits.", Excess::rule);

/// The rules that are asked before authentication.
pub struct RateLimit {
    rules: Arc<Rules>,
    bound: Bound,
}

impl RateLimit {
    /// The rules of the snapshot, of both stages.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }
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
}

impl Control for RateLimit {
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
        let Sees { facts, client, route } = sees;
        let Some(plan) = self.rules.of(route) else { return Err(no_plan(NAME)) };
        let origin =
            Origin { client: client.counted(), route: &plan.name, headers: facts.headers, who: Who::default() };
        let rules = plan.rate_limit.iter().filter(|rule| rule.counts(facts.method));
        let charged = charge(NAME, &self.bound, rules, origin, None).await?;
        Ok(charged.map_or_else(|excess| Verdict::Deny(Deny::Exceeded(excess)), Verdict::Pass))
    }
}

/// A route of another snapshot has no rules here: passing would lift its limits.
pub(crate) fn no_plan(control: ControlName) -> Fault {
    Fault {
        control,
        what: "no such route in this snapshot".into(),
        retry_after_s: 1,
        code: portcullis_api::UNAVAILABLE,
    }
}

#[cfg(test)]
pub(crate) mod tests;
