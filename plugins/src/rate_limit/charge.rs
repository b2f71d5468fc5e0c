//! Asks all rules of a stage about one request: charged to all or to none, in memory or in the shared store.

use std::{num::NonZeroU32, sync::Arc};

use portcullis_api::{Clock, ControlName, Fault, Mode, Secret, TenantId};

use super::{
    Excess, KeyHasher, OnStoreFailure, Table,
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
    clock: Arc<dyn Clock>,
    /// The buckets, or the local shares while a shared store is away.
    table: Arc<Table>,
    hasher: Arc<KeyHasher>,
    shared: Option<Shared>,
}

#[derive(Clone)]
struct Shared {
    counters: Arc<dyn SharedCounters>,
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
    if asked.is_empty() {
        return Ok(Ok(Counted::default()));
    }
    let buckets: Vec<Bucket<'_>> = asked.iter().map(Asked::bucket).collect();
    let Some(shared) = &needs.shared else {
        let levels = needs.table.take(needs.clock.now(), &buckets);
        return Ok(judge(&asked, &levels, CountedAt::Memory, Vec::new()));
    };
    match shared.counters.take(&buckets).await {
        Ok(levels) if levels.len() == asked.len() => Ok(judge(&asked, &levels, CountedAt::Shared, Vec::new())),
        Ok(_) => locally(control, needs, shared, asked, &StoreFault::Refused("an answer of another length".into())),
        Err(fault) => locally(control, needs, shared, asked, &fault),
    }
}

/// What each rule said is to happen when the store does not answer.
fn locally(
    control: ControlName,
    needs: &Needs,
    shared: &Shared,
    asked: Vec<Asked<'_>>,
    why: &StoreFault,
) -> Result<Result<Counted, Excess>, Fault> {
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
    let levels = needs.table.take(needs.clock.now(), &buckets);
    Ok(judge(&counted, &levels, CountedAt::LocalShare, notes))
}

fn judge(asked: &[Asked<'_>], levels: &[Level], at: CountedAt, mut notes: Vec<Note>) -> Result<Counted, Excess> {
    let mut enforced = Vec::with_capacity(asked.len());
    for (asked, level) in asked.iter().zip(levels) {
        match (asked.rule.mode, level.answer) {
            (Mode::Enforce, _) => enforced.push(Standing::new(&asked.rule.name, asked.numbers, asked.key, *level)),
            (Mode::Shadow, Answer::Short) => {
                let detail = "would have answered 429".to_owned();
                notes.push(Note { rule: asked.rule.name.clone(), kind: NoteKind::Shadow, detail });
            }
            (Mode::Shadow, Answer::Charged | Answer::Spared | Answer::Unasked) => {}
        }
    }
    if enforced.iter().any(|standing| standing.answer() == Answer::Short) {
        Err(Excess::new(enforced, at))
    } else {
        Ok(Counted::new(enforced, notes))
    }
}
