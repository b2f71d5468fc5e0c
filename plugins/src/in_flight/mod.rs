//! `in_flight`: how many requests may be under way at once, by whatever limits count by.
//!
//! A request takes a slot of each limit that it is under, of all or of none, and holds them as a value: [`UnderWay`]
//! gives them back when it is dropped, however the request ends. It is asked once the tenant is known, and before
//! [`crate::quota`]: what a quota refuses gives its slots back, while a slot that is refused could not give a quota its
//! tokens back. Each gateway counts its own requests and enforces its share; see `gateway/adr/0008-in-flight-limits.md`.

mod inspect;
mod rules;
mod settings;
mod slots;

use std::{borrow::Cow, num::NonZeroU32, sync::Arc};

use http::{
    HeaderMap, HeaderValue,
    header::{HeaderName, RETRY_AFTER},
};
use portcullis_api::{
    Adjustable, ClientIp, Code, Control, ControlName, Facts, Fault, Issues, Mode, Outcome, Refusal, RouteId, TenantId,
    Trail, Verdict,
};

pub use inspect::Seen;
pub use rules::{Input, RouteInFlight};
pub use settings::{Settings, Tenant};
pub use slots::{Held, Slots, Wanted};

use crate::{
    authentication::Caller,
    rate_limit::{Fleet, KeyHasher, Origin, Who, no_plan},
};
use rules::{Rule, Rules};

/// The control's name.
pub const NAME: ControlName = ControlName::new("in_flight");

/// Proof that a request is under way in every limit that is in force. Dropped, it is over.
#[derive(Debug, Default)]
pub struct UnderWay {
    /// Given back by their own drop.
    held: Option<Held>,
    /// What limits in shadow would have refused.
    notes: Vec<Full>,
}

impl UnderWay {
    /// Writes into the trail what limits in shadow would have refused.
    pub fn record(&self, trail: &mut Trail) {
        for full in &self.notes {
            let detail = format!("would have answered 429: {}", full.detail());
            trail.note(NAME, Outcome::Deny, Mode::Shadow, &full.name, &detail);
        }
    }
}

/// Why a request is refused.
#[derive(Debug, Clone)]
pub enum Deny {
    /// As many as may be are under way already, in one or more limits. None was taken of any.
    Exceeded(Vec<Full>),
}

/// A limit that has no slot left.
#[derive(Debug, Clone)]
pub struct Full {
    name: Arc<str>,
    under_way: u32,
    most: Most,
}

/// How many may be under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Most {
    /// In this gateway.
    here: NonZeroU32,
    /// In all of them.
    all: NonZeroU32,
}

impl Full {
    fn detail(&self) -> String {
        let Self { name, under_way, most: Most { here, all } } = self;
        if here == all {
            format!("{name} has {under_way} of {here} under way")
        } else {
            format!("{name} has {under_way} of {here} under way, this instance's share of {all}")
        }
    }
}

const EXCEEDED: Code = Code { name: "in_flight.exceeded", status: 429, title: "Too many requests are under way" };

/// When a slot will be free cannot be known. A request that comes back is refused at little cost.
const RETRY_AFTER_S: u64 = 1;

impl Refusal for Deny {
    const CODES: &'static [Code] = &[EXCEEDED];

    fn code(&self) -> Code {
        match self {
            Self::Exceeded(_) => EXCEEDED,
        }
    }

    fn rule(&self) -> Option<Cow<'_, str>> {
        let Self::Exceeded(full) = self;
        full.first().map(|full| Cow::Borrowed(&*full.name))
    }

    fn detail(&self) -> Option<Cow<'_, str>> {
        let Self::Exceeded(full) = self;
        Some(Cow::Owned(full.iter().map(Full::detail).collect::<Vec<_>>().join(", ")))
    }

    /// `RateLimit-Policy` and `RateLimit` in the unit of requests under way (draft-ietf-httpapi-ratelimit-headers).
    fn headers(&self, answer: &mut HeaderMap) {
        let Self::Exceeded(full) = self;
        let list =
            |item: fn(&Full) -> String| HeaderValue::try_from(full.iter().map(item).collect::<Vec<_>>().join(", "));
        let policy = list(|full| format!("\"{}\";q={};qu=\"concurrent-requests\"", full.name, full.most.all));
        let left = list(|full| format!("\"{}\";r=0", full.name));
        // Names have no byte that cannot stand in a header.
        if let (Ok(policy), Ok(left)) = (policy, left) {
            answer.insert(HeaderName::from_static("ratelimit-policy"), policy);
            answer.insert(HeaderName::from_static("ratelimit"), left);
        }
        answer.insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
    }

    fn members(&self) -> Vec<(&'static str, Vec<String>)> {
        let Self::Exceeded(full) = self;
        vec![("violated-policies", full.iter().map(|full| full.name.to_string()).collect())]
    }
}

/// What it counts in. All of it outlives every snapshot, so that a reload forgets no request that is under way.
#[derive(Clone)]
pub struct Needs {
    /// Who is under way.
    pub slots: Arc<Slots>,
    /// The key under which they are hashed.
    pub hasher: Arc<KeyHasher>,
    /// Where gateways that share the limits say that they are there; none where each is alone.
    pub fleet: Option<Arc<dyn Fleet>>,
}

impl Needs {
    /// Of a gateway whose limits no other shares.
    #[must_use]
    pub fn alone() -> Self {
        Self { slots: Arc::default(), hasher: Arc::new(KeyHasher::process()), fleet: None }
    }

    /// Of one of as many gateways as count there.
    #[must_use]
    pub fn among(fleet: Arc<dyn Fleet>) -> Self {
        Self { fleet: Some(fleet), ..Self::alone() }
    }

    fn instances(&self) -> NonZeroU32 {
        self.fleet.as_ref().map_or(NonZeroU32::MIN, |fleet| fleet.instances())
    }
}

/// The control.
pub struct InFlight {
    rules: Rules,
    needs: Needs,
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

impl Control for InFlight {
    const NAME: ControlName = NAME;
    type Settings<'d> = Input<'d>;
    type Sees<'r> = Sees<'r>;
    type Proof = UnderWay;
    type Deny = Deny;
    type Needs = Needs;
    type Posture = Adjustable;

    fn compile(input: Input<'_>, needs: &Needs, issues: &mut Issues) -> Option<Self> {
        Rules::compile(input, issues).map(|rules| Self { rules, needs: needs.clone() })
    }

    async fn check<'r>(&'r self, sees: Sees<'r>) -> Result<Verdict<UnderWay, Deny>, Fault> {
        let Sees { facts, client, route, caller, tenant } = sees;
        self.judge(facts, client, route, Who::of(caller, tenant))
    }
}

impl InFlight {
    /// Limits that no route is under, for the lint report.
    pub fn unused(&self) -> impl Iterator<Item = &str> {
        self.rules.unused()
    }

    fn judge(
        &self,
        facts: Facts<'_>,
        client: ClientIp,
        route: RouteId,
        who: Who<'_>,
    ) -> Result<Verdict<UnderWay, Deny>, Fault> {
        let Some(plan) = self.rules.of(route) else { return Err(no_plan(NAME)) };
        let origin = Origin { client: client.counted(), route: &plan.name, headers: facts.headers, who };
        let counts = |mode| plan.rules.iter().filter(move |rule| rule.mode == mode && rule.counts.has(facts.method));
        let mut under_way = match self.take(counts(Mode::Enforce), &origin) {
            Ok(held) => UnderWay { held, notes: Vec::new() },
            Err(full) => return Ok(Verdict::Deny(Deny::Exceeded(full))),
        };
        // One by one, and a slot only where it would have got one: so many would be under way if they were in force.
        for rule in counts(Mode::Shadow) {
            match self.take(std::iter::once(rule), &origin) {
                Ok(held) => under_way.held = Held::both(under_way.held.take(), held),
                Err(mut full) => under_way.notes.append(&mut full),
            }
        }
        Ok(Verdict::Pass(under_way))
    }

    /// A slot of each rule, or which of them have none. Without a rule nothing is hashed, locked or allocated.
    fn take<'r>(
        &self,
        rules: impl Iterator<Item = &'r Arc<Rule>> + Clone,
        origin: &Origin<'_>,
    ) -> Result<Option<Held>, Vec<Full>> {
        let Needs { slots, hasher, fleet: _ } = &self.needs;
        let instances = self.needs.instances();
        let most = |rule: &Rule| rule.most(origin.who.tenant).among(instances);
        let wanted = |rule: &'r Arc<Rule>| Wanted { key: rule.key(origin, hasher), most: most(rule).here };
        let wanted: Vec<Wanted> = rules.clone().map(wanted).collect();
        if wanted.is_empty() {
            return Ok(None);
        }
        slots.take(&wanted).map(Some).map_err(|counts| {
            let asked = rules.zip(counts).filter(|(rule, count)| *count >= most(rule).here.get());
            asked.map(|(rule, under_way)| Full { name: rule.name.clone(), under_way, most: most(rule) }).collect()
        })
    }
}

impl Most {
    fn of(all: NonZeroU32) -> Self {
        Self { here: all, all }
    }

    /// One gateway's share, at least one request.
    fn among(self, instances: NonZeroU32) -> Self {
        let here = self.all.get().checked_div(instances.get()).and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN);
        Self { here, ..self }
    }
}

#[cfg(test)]
mod tests;
