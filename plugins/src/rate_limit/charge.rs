//! Asks all rules of a stage about one request: charged to all or to none, in memory or in the shared store.

use std::{fmt, num::NonZeroU32, sync::Arc};

use portcullis_api::{Clock, ControlName, Fault, Micros, Mode, Secret, TenantId};

use super::{
    Consistency, Excess, KeyHasher, Numbers, OnStoreFailure, Rules, Tables,
    cost::{Due, Dues, Measured},
    counters::{Answer, Binding, Bucket, Leasing, Level, SharedCounters, StoreFault},
    define::Rule,
    keys::Origin,
    no_plan,
    table::{Table, give_back, take},
    told::{Counted, CountedAt, Note, NoteKind, Standing},
};

/// What rules need. All of it outlives every snapshot, so that a reload resets nobody's limit: made once at the start.
///
/// Invariant: buckets in a shared store are hashed under the deployment's key, so that all instances mean the same one.
#[derive(Clone)]
pub struct Needs {
    pub(super) clock: Arc<dyn Clock>,
    /// The buckets, or the local shares beside a shared store.
    tables: Arc<Tables>,
    hasher: Arc<KeyHasher>,
    pub(super) shared: Option<Arc<dyn SharedCounters>>,
}

impl Needs {
    /// Buckets in the memory of this process, under a key that is drawn here.
    #[must_use]
    pub fn in_memory(clock: Arc<dyn Clock>, tables: Arc<Tables>) -> Self {
        Self { clock, tables, hasher: Arc::new(KeyHasher::process()), shared: None }
    }

    /// Buckets in a store that gateways share, under the deployment's key, which all of them have. `tables` hold the local
    /// shares.
    #[must_use]
    pub fn shared(clock: Arc<dyn Clock>, tables: Arc<Tables>, counters: Arc<dyn SharedCounters>, key: &Secret) -> Self {
        Self { clock, tables, hasher: Arc::new(KeyHasher::deployment(key)), shared: Some(counters) }
    }
}

/// [`Needs`], and the tables of a snapshot's limits.
pub(crate) struct Bound {
    needs: Needs,
    /// By the index of the rule.
    tables: Box<[Option<Arc<Table>>]>,
}

impl Needs {
    pub(crate) fn bind(&self, rules: &Rules) -> Bound {
        Bound { needs: self.clone(), tables: self.tables.of(rules) }
    }
}

impl fmt::Debug for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Needs").finish_non_exhaustive()
    }
}

/// Where a bucket is while the store answers.
pub(super) enum Place<'n> {
    /// In this process.
    Memory,
    /// As this instance's share.
    Share,
    Shared(&'n dyn SharedCounters),
}

impl Needs {
    /// How often a bucket was asked that counts as having used what others have, because its table is full.
    #[must_use]
    pub fn crowded(&self) -> u64 {
        self.tables.crowded()
    }

    pub(super) fn hasher(&self) -> &KeyHasher {
        &self.hasher
    }

    /// How many gateways share the store; 1 without one.
    pub(super) fn instances(&self) -> NonZeroU32 {
        self.shared.as_ref().map_or(NonZeroU32::MIN, |shared| shared.instances())
    }

    pub(super) fn now(&self) -> Micros {
        self.clock.now()
    }

    /// The table of a limit, if it was ever counted in.
    pub(super) fn table(&self, rule: &Rule) -> Option<Arc<Table>> {
        self.tables.known(&rule.name)
    }

    /// A rule's bucket, and where it is.
    pub(super) fn place<'r>(&self, rule: &'r Rule, numbers: &'r Numbers, key: u128) -> (Bucket<'r>, Place<'_>) {
        let bucket = rule.bucket(numbers, key);
        match (&self.shared, rule.consistency) {
            (None, Consistency::Exact | Consistency::Leased | Consistency::Local) => (bucket, Place::Memory),
            (Some(shared), Consistency::Local) => (share(&bucket, numbers, shared.instances()), Place::Share),
            (Some(shared), Consistency::Exact | Consistency::Leased) => (bucket, Place::Shared(&**shared)),
        }
    }
}

impl Rule {
    fn bucket(&self, numbers: &Numbers, key: u128) -> Bucket<'_> {
        let binding = match self.mode {
            Mode::Enforce => Binding::Together,
            Mode::Shadow => Binding::Alone,
        };
        let leasing = match self.consistency {
            Consistency::Leased => Leasing::Allowed,
            Consistency::Exact | Consistency::Local => Leasing::Never,
        };
        Bucket { rule: &self.name, key, rate: numbers.rate(), binding, leasing }
    }
}

/// The same bucket with one instance's share of the numbers.
fn share<'r>(bucket: &Bucket<'r>, numbers: &Numbers, instances: NonZeroU32) -> Bucket<'r> {
    Bucket { rate: numbers.rate().share(numbers.window, instances), ..*bucket }
}

/// A rule and its bucket for this request.
struct Asked<'r> {
    rule: &'r Rule,
    numbers: &'r Numbers,
    key: u128,
    table: &'r Arc<Table>,
}

impl<'r> Asked<'r> {
    fn bucket(&self) -> Bucket<'r> {
        self.rule.bucket(self.numbers, self.key)
    }

    fn share(&self, instances: NonZeroU32) -> (&'r Table, Bucket<'r>) {
        (self.table, share(&self.bucket(), self.numbers, instances))
    }

    /// What may still have to be charged to it.
    fn due(&self, measured: &Arc<Measured>, at: CountedAt) -> Due {
        let Self { rule, numbers, key, table } = *self;
        let (rule, measured, table) = (rule.name.clone(), measured.clone(), table.clone());
        Due { rule, measured, key, table, rate: numbers.rate(), window: numbers.window, at }
    }
}

/// Charges a request, or says which rules it exceeds.
pub(crate) async fn charge<'r>(
    control: ControlName,
    bound: &'r Bound,
    rules: impl Iterator<Item = &'r Arc<Rule>>,
    origin: Origin<'r>,
    tenant: Option<&TenantId>,
) -> Result<Result<Counted, Excess>, Fault> {
    let Bound { needs, tables } = bound;
    let asked: Option<Vec<Asked<'_>>> = rules
        .map(|rule| {
            let numbers = rule.numbers(tenant);
            let table = tables.get(rule.index)?.as_ref()?;
            Some(Asked { rule, numbers, key: rule.key(numbers, &origin, &needs.hasher), table })
        })
        .collect();
    let Some(asked) = asked else { return Err(no_plan(control)) };
    let Some(shared) = needs.shared.as_deref() else {
        let buckets: Vec<_> = asked.iter().map(|asked| (&**asked.table, asked.bucket())).collect();
        let levels = take(needs.clock.now(), &buckets);
        return Ok(Judged::of(&asked, &levels, CountedAt::Memory).verdict(needs, CountedAt::Memory));
    };
    let (local, asked): (Vec<_>, Vec<_>) =
        asked.into_iter().partition(|asked| asked.rule.consistency == Consistency::Local);
    if local.is_empty() {
        let (judged, at) = together(control, needs, shared, asked).await?;
        return Ok(judged.verdict(needs, at));
    }
    let instances = shared.instances();
    let shares: Vec<_> = local.iter().map(|asked| asked.share(instances)).collect();
    let taken = needs.clock.now();
    let levels = take(taken, &shares);
    let mut judged = Judged::of(&local, &levels, CountedAt::Share);
    if judged.is_short() {
        // The store is not asked, so that nothing is charged there.
        judged.add(Judged::of(&asked, &vec![Level::UNASKED; asked.len()], CountedAt::Shared));
        return Ok(judged.verdict(needs, CountedAt::Share));
    }
    let (of_store, at) = match together(control, needs, shared, asked).await {
        Ok(judged) => judged,
        Err(fault) => {
            give_back(needs.clock.now(), taken, &shares, &levels);
            return Err(fault);
        }
    };
    if of_store.is_short() {
        give_back(needs.clock.now(), taken, &shares, &levels);
    }
    judged.add(of_store);
    Ok(judged.verdict(needs, at))
}

/// Asks the store, or does what each rule says for the time when it is away.
async fn together<'r>(
    control: ControlName,
    needs: &Needs,
    shared: &dyn SharedCounters,
    asked: Vec<Asked<'r>>,
) -> Result<(Judged, CountedAt), Fault> {
    if asked.is_empty() {
        return Ok((Judged::default(), CountedAt::Share));
    }
    let buckets: Vec<Bucket<'_>> = asked.iter().map(Asked::bucket).collect();
    match shared.take(&buckets).await {
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
    shared: &dyn SharedCounters,
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
                return Err(Fault { control, what, retry_after_s: 1, code: portcullis_api::UNAVAILABLE });
            }
        }
    }
    let instances = shared.instances();
    let shares: Vec<_> = counted.iter().map(|asked| asked.share(instances)).collect();
    let levels = take(needs.clock.now(), &shares);
    owe(shared, &counted, &shares, &levels, why);
    let mut judged = Judged::of(&counted, &levels, CountedAt::LocalShare);
    notes.append(&mut judged.notes);
    Ok((Judged { notes, ..judged }, CountedAt::LocalShare))
}

/// What was charged here is charged to the store when it is back. A call that was only late may have been counted there.
fn owe(
    shared: &dyn SharedCounters,
    counted: &[Asked<'_>],
    shares: &[(&Table, Bucket<'_>)],
    levels: &[Level],
    why: &StoreFault,
) {
    match why {
        StoreFault::Late => return,
        StoreFault::Away | StoreFault::Busy | StoreFault::Refused(_) => {}
    }
    for ((asked, (_, share)), level) in counted.iter().zip(shares).zip(levels) {
        if level.answer == Answer::Charged {
            shared.owe(&asked.bucket(), share.rate, share.rate.cost());
        }
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
