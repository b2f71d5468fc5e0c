//! Asks all rules of a stage about one request: charged to all or to none, in memory or in the shared store.

use std::{fmt, num::NonZeroU32, sync::Arc};

use portcullis_api::{Clock, ControlName, Fault, Micros, Mode, Secret, TenantId};

use super::{
    Consistency, Excess, KeyHasher, OnStoreFailure, Table,
    cost::{Due, Dues, Measured},
    counters::{Answer, Binding, Bucket, Level, SharedCounters, StoreFault},
    define::Rule,
    keys::Origin,
    told::{Counted, CountedAt, Note, NoteKind, Standing},
};

/// What rules need. All of it outlives every snapshot, so that a reload resets nobody's limit: made once at the start.
///
/// Invariant: buckets in a shared store are hashed under the deployment's key, so that all instances mean the same one.
#[derive(Clone)]
pub struct Needs {
    pub(super) clock: Arc<dyn Clock>,
    /// The buckets, or the local shares while a shared store is away.
    pub(super) table: Arc<Table>,
    hasher: Arc<KeyHasher>,
    pub(super) shared: Option<Shared>,
}

#[derive(Clone)]
pub(super) struct Shared {
    pub(super) counters: Arc<dyn SharedCounters>,
    instances: NonZeroU32,
}

impl Needs {
    /// Buckets in the memory of this process, under a key that is drawn here.
    #[must_use]
    pub fn in_memory(clock: Arc<dyn Clock>, table: Arc<Table>) -> Self {
        Self { clock, table, hasher: Arc::new(KeyHasher::process()), shared: None }
    }

    /// Buckets in a store that `instances` gateways share, under the deployment's key, which all of them have. `table`
    /// holds the local shares while the store is away.
    #[must_use]
    pub fn shared(
        clock: Arc<dyn Clock>,
        table: Arc<Table>,
        counters: Arc<dyn SharedCounters>,
        instances: NonZeroU32,
        key: &Secret,
    ) -> Self {
        let hasher = Arc::new(KeyHasher::deployment(key));
        Self { clock, table, hasher, shared: Some(Shared { counters, instances }) }
    }

    /// The same buckets, shared by another number of gateways: for a reload that changed it.
    #[must_use]
    pub fn among(mut self, instances: NonZeroU32) -> Self {
        if let Some(shared) = &mut self.shared {
            shared.instances = instances;
        }
        self
    }
}

/// Where a bucket is.
pub(super) enum Place<'n> {
    /// In this process, and the clock now.
    Memory(&'n Table, Micros),
    /// As this instance's share, and the clock now.
    Share(&'n Table, Micros),
    Shared(&'n dyn SharedCounters),
}

impl fmt::Debug for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Needs").finish_non_exhaustive()
    }
}

impl Needs {
    pub(super) fn hasher(&self) -> &KeyHasher {
        &self.hasher
    }

    /// How many gateways share the store; 1 without one.
    pub(super) fn instances(&self) -> NonZeroU32 {
        self.shared.as_ref().map_or(NonZeroU32::MIN, |shared| shared.instances)
    }

    /// A rule's bucket, and where it is while the store answers.
    pub(super) fn place<'r>(&self, rule: &'r Rule, numbers: &'r super::Numbers, key: u128) -> (Bucket<'r>, Place<'_>) {
        let asked = Asked { rule, numbers, key };
        let now = self.clock.now();
        match (&self.shared, rule.consistency) {
            (None, Consistency::Exact | Consistency::Local) => (asked.bucket(), Place::Memory(&self.table, now)),
            (Some(shared), Consistency::Local) => (asked.share(shared.instances), Place::Share(&self.table, now)),
            (Some(shared), Consistency::Exact) => (asked.bucket(), Place::Shared(&*shared.counters)),
        }
    }
}

/// A rule and its bucket for this request.
struct Asked<'r> {
    rule: &'r Rule,
    numbers: &'r super::Numbers,
    key: u128,
}

impl<'r> Asked<'r> {
    fn bucket(&self) -> Bucket<'r> {
        let binding = match self.rule.mode {
            Mode::Enforce => Binding::Together,
            Mode::Shadow => Binding::Alone,
        };
        Bucket { rule: &self.rule.name, key: self.key, rate: self.numbers.rate(), binding }
    }

    /// What may still have to be charged to it.
    fn due(&self, measured: &Arc<Measured>, at: CountedAt) -> Due {
        let Self { rule, numbers, key } = *self;
        let (rule, measured) = (rule.name.clone(), measured.clone());
        Due { rule, measured, key, rate: numbers.rate(), window: numbers.window, at }
    }

    /// The same bucket with one instance's share of the numbers.
    fn share(&self, instances: NonZeroU32) -> Bucket<'r> {
        Bucket { rate: self.numbers.rate().share(self.numbers.window, instances), ..self.bucket() }
    }
}

/// Charges a request, or says which rules it exceeds.
pub(crate) async fn charge<'r>(
    control: ControlName,
    needs: &Needs,
    rules: impl Iterator<Item = &'r Arc<Rule>>,
    origin: Origin<'r>,
    tenant: Option<&TenantId>,
) -> Result<Result<Counted, Excess>, Fault> {
    let asked: Vec<Asked<'_>> = rules
        .map(|rule| {
            let numbers = rule.numbers(tenant);
            Asked { rule, numbers, key: rule.key(numbers, &origin, &needs.hasher) }
        })
        .collect();
    let Some(shared) = &needs.shared else {
        let buckets: Vec<Bucket<'_>> = asked.iter().map(Asked::bucket).collect();
        let levels = needs.take(needs.clock.now(), &buckets);
        return Ok(Judged::of(&asked, &levels, CountedAt::Memory).verdict(needs, CountedAt::Memory));
    };
    let (local, exact): (Vec<_>, Vec<_>) =
        asked.into_iter().partition(|asked| asked.rule.consistency == Consistency::Local);
    let shares: Vec<Bucket<'_>> = local.iter().map(|asked| asked.share(shared.instances)).collect();
    let taken = needs.clock.now();
    let levels = needs.take(taken, &shares);
    let mut judged = Judged::of(&local, &levels, CountedAt::Share);
    if judged.is_short() {
        // The store is not asked, so that nothing is charged there.
        judged.add(Judged::of(&exact, &vec![Level::UNASKED; exact.len()], CountedAt::Shared));
        return Ok(judged.verdict(needs, CountedAt::Share));
    }
    let (of_exact, at) = match exactly(control, needs, shared, exact).await {
        Ok(judged) => judged,
        Err(fault) => {
            needs.table.give_back(needs.clock.now(), taken, &shares, &levels);
            return Err(fault);
        }
    };
    if of_exact.is_short() {
        needs.table.give_back(needs.clock.now(), taken, &shares, &levels);
    }
    judged.add(of_exact);
    Ok(judged.verdict(needs, at))
}

/// Asks the store, or does what each rule says for the time when it is away.
async fn exactly<'r>(
    control: ControlName,
    needs: &Needs,
    shared: &Shared,
    asked: Vec<Asked<'r>>,
) -> Result<(Judged, CountedAt), Fault> {
    if asked.is_empty() {
        return Ok((Judged::default(), CountedAt::Share));
    }
    let buckets: Vec<Bucket<'_>> = asked.iter().map(Asked::bucket).collect();
    match shared.counters.take(&buckets).await {
        Ok(levels) if is_answer(&levels, asked.len()) => {
            Ok((Judged::of(&asked, &levels, CountedAt::Shared), CountedAt::Shared))
        }
        Ok(_) => locally(control, needs, shared, asked, &StoreFault::Refused("an answer that does not fit".into())),
        Err(fault) => locally(control, needs, shared, asked, &fault),
    }
}

/// One level a bucket, and a bucket is left out only because another has too little: else nothing would be counted.
fn is_answer(levels: &[Level], buckets: usize) -> bool {
    let has = |answer| levels.iter().any(|level| level.answer == answer);
    levels.len() == buckets && (has(Answer::Short) || !has(Answer::Unasked))
}

/// What each rule said is to happen when the store does not answer.
fn locally(
    control: ControlName,
    needs: &Needs,
    shared: &Shared,
    asked: Vec<Asked<'_>>,
    why: &StoreFault,
) -> Result<(Judged, CountedAt), Fault> {
    let mut notes = Vec::with_capacity(asked.len());
    let mut counted = Vec::with_capacity(asked.len());
    for asked in asked {
        let note = |kind, detail: String| Note { rule: asked.rule.name.clone(), kind, detail };
        match (&asked.rule.on_store_failure, asked.rule.mode) {
            (OnStoreFailure::LocalShare, _) => {
                notes.push(note(NoteKind::Degraded, format!("{why}: this instance enforces its share")));
                counted.push(asked);
            }
            (OnStoreFailure::Allow(reason), _) => {
                notes.push(note(NoteKind::Degraded, format!("{why}: passes, because: {reason}")));
            }
            (OnStoreFailure::Deny, Mode::Shadow) => {
                notes.push(note(NoteKind::Degraded, format!("{why}: it would have answered 503")));
            }
            (OnStoreFailure::Deny, Mode::Enforce) => {
                let what = format!("limit `{}`: {why}", asked.rule.name).into();
                return Err(Fault { control, what, retry_after_s: 1 });
            }
        }
    }
    let buckets: Vec<Bucket<'_>> = counted.iter().map(|asked| asked.share(shared.instances)).collect();
    let mut judged = Judged::of(&counted, &needs.take(needs.clock.now(), &buckets), CountedAt::LocalShare);
    notes.append(&mut judged.notes);
    Ok((Judged { notes, ..judged }, CountedAt::LocalShare))
}

impl Needs {
    /// Takes from the table, where there is anything to take.
    fn take(&self, now: Micros, buckets: &[Bucket<'_>]) -> Vec<Level> {
        if buckets.is_empty() { Vec::new() } else { self.table.take(now, buckets) }
    }
}

/// What came of rules that were asked together.
#[derive(Default)]
struct Judged {
    /// Of the rules in force.
    enforced: Vec<Standing>,
    notes: Vec<Note>,
    /// Of the rules that were charged, be they in force or in shadow.
    dues: Vec<Due>,
}

impl Judged {
    fn of(asked: &[Asked<'_>], levels: &[Level], at: CountedAt) -> Self {
        let mut judged = Self { enforced: Vec::with_capacity(asked.len()), notes: Vec::new(), dues: Vec::new() };
        for (asked, level) in asked.iter().zip(levels) {
            if let (Some(measured), Answer::Charged) = (&asked.rule.measured, level.answer) {
                judged.dues.push(asked.due(measured, at));
            }
            match (asked.rule.mode, level.answer) {
                (Mode::Enforce, _) => {
                    judged.enforced.push(Standing::new(&asked.rule.name, asked.numbers, asked.key, *level));
                }
                (Mode::Shadow, Answer::Short) => {
                    let detail = "would have answered 429".to_owned();
                    judged.notes.push(Note { rule: asked.rule.name.clone(), kind: NoteKind::Shadow, detail });
                }
                (Mode::Shadow, Answer::Charged | Answer::Spared | Answer::Unasked) => {}
            }
        }
        judged
    }

    fn add(&mut self, mut other: Self) {
        self.enforced.append(&mut other.enforced);
        self.notes.append(&mut other.notes);
        self.dues.append(&mut other.dues);
    }

    fn is_short(&self) -> bool {
        self.enforced.iter().any(|standing| standing.answer() == Answer::Short)
    }

    fn verdict(self, needs: &Needs, at: CountedAt) -> Result<Counted, Excess> {
        if self.is_short() {
            return Err(Excess::new(self.enforced, at));
        }
        Ok(Counted::new(self.enforced, self.notes, Dues::of(needs, self.dues)))
    }
}
