//! From written limits to rules: the built-in ones, the operator's, and each tenant's numbers of them.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU32,
    ops::Range,
    sync::Arc,
};

use http::Method;
use portcullis_api::{At, Issues, Layers, Millis, Mode, TenantId};

use super::{
    Class, Consistency, Input, KeyHasher, KeyPart, Limit, Numbers, OnStoreFailure, PER_KEY, RateError, TenantLimit,
    WINDOW_MAX,
    cost::Measured,
    keys::{Origin, Parts, with_class},
    matching::{Counts, LIMITS},
    numbers::Written,
};

/// One limit, ready to be asked.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) name: Arc<str>,
    /// Its place among the limits of the snapshot.
    pub(super) index: usize,
    pub(super) parts: Parts,
    pub(super) counts: Counts,
    pub(crate) mode: Mode,
    pub(crate) consistency: Consistency,
    pub(crate) on_store_failure: OnStoreFailure,
    pub(super) measured: Option<Arc<Measured>>,
    pub(super) numbers: Numbers,
    /// Numbers of the tenants that have others.
    tenants: HashMap<TenantId, Numbers>,
}

impl Rule {
    /// Whether requests of this method are counted.
    pub(crate) fn counts(&self, method: &Method) -> bool {
        self.counts.has(method)
    }

    pub(crate) fn numbers(&self, tenant: Option<&TenantId>) -> &Numbers {
        tenant.and_then(|tenant| self.tenants.get(tenant)).unwrap_or(&self.numbers)
    }

    /// Whether any tenant has numbers of its own.
    pub(super) fn has_tenants(&self) -> bool {
        !self.tenants.is_empty()
    }

    /// Whether the rule can be asked only after authentication.
    pub(super) fn needs_identity(&self) -> bool {
        self.parts.need_identity()
    }

    /// The bucket that a request is counted in. One that lacks a part is counted in the rule's one `unknown` bucket.
    pub(crate) fn key(&self, numbers: &Numbers, origin: &Origin<'_>, hasher: &KeyHasher) -> u128 {
        let revision = numbers.revision();
        let key = self.parts.hash(origin, || {
            let mut hashing = hasher.begin();
            hashing.field(self.name.as_bytes());
            hashing.field(&revision);
            hashing
        });
        with_class(key, &revision)
    }
}

/// Every limit there is, by name: the built-in ones, or what the operator wrote in their place, and all others.
/// `None` where one was wrong; its name is still known.
pub(super) type Defined = BTreeMap<String, Option<Arc<Rule>>>;

/// The tenants' numbers by limit.
pub(super) type Tenants<'d> = [(TenantId, Layers<'d, BTreeMap<String, TenantLimit>>)];

pub(super) fn define(input: &Input<'_>, issues: &mut Issues) -> Defined {
    let Input { limits: written, routes: _, tenants, in_flight } = *input;
    let mut limits = built_in();
    limits.extend(written.iter().map(|(name, limit)| (name.clone(), limit.clone())));
    unknown_in_tenants(&limits, tenants, in_flight, issues);
    let numbered = limits.iter().enumerate();
    numbered
        .map(|(index, (name, limit))| (name.clone(), rule(name, index, limit, tenants, issues).map(Arc::new)))
        .collect()
}

/// `per_key`, and one limit a class.
fn built_in() -> BTreeMap<String, Limit> {
    let limit = |part, requests: u32, window| Limit {
        key: At::nowhere(vec![At::nowhere(part)]),
        methods: None,
        requests: At::nowhere(NonZeroU32::new(requests).unwrap_or(NonZeroU32::MIN)),
        window: At::nowhere(window),
        burst: None,
        cost: None,
        cost_from: None,
        mode: Mode::default(),
        consistency: Consistency::default(),
        on_store_failure: OnStoreFailure::default(),
    };
    let class =
        |class: Class| (class.as_str().to_owned(), limit(KeyPart::Caller, class.per_minute(), Millis::from_secs(60)));
    let per_key = (PER_KEY.to_owned(), limit(KeyPart::ApiKey, 10, Millis::from_secs(1)));
    [Class::Auth, Class::Management, Class::Evaluation].map(class).into_iter().chain([per_key]).collect()
}

fn rule(name: &str, index: usize, limit: &Limit, tenants: &Tenants<'_>, issues: &mut Issues) -> Option<Rule> {
    let sound = issues.as_slice().len();
    let Limit { key, methods, requests, window, burst, cost, cost_from, mode, consistency, on_store_failure } = limit;
    LIMITS.check_name(name, &requests.span, issues);
    let parts = LIMITS.parts(name, key, issues);
    let counts = LIMITS.counts(name, methods.as_ref(), issues);
    if window.value > WINDOW_MAX {
        issues.push(
            "limits.window_too_long",
            &window.span,
            format!("the window of `{name}` is {}, longer than {WINDOW_MAX}", window.value),
        );
    }
    check_store(name, limit, issues);
    let site = Written {
        requests: requests.value,
        window: window.value,
        burst: burst.as_ref().map(|burst| burst.value),
        cost: cost.as_ref().map_or(NonZeroU32::MIN, |cost| cost.value),
        at_most: cost_from.as_ref().map(|from| from.at_most.value),
    };
    let measured = cost_from.as_ref().and_then(|from| Measured::compile(name, from, site.cost, issues));
    let numbers = site.numbers(name).map_err(|wrong| {
        let most = cost_from.as_ref().filter(|_| matches!(wrong, RateError::MostTooHigh { .. }));
        let span = most.map(|from| &from.at_most.span).or(cost.as_ref().map(|cost| &cost.span));
        issues.push("limits.numbers", span.unwrap_or(&requests.span), format!("`{name}`: {wrong}"));
    });
    let mut rule = Rule {
        name: name.into(),
        index,
        parts,
        counts,
        mode: *mode,
        consistency: *consistency,
        on_store_failure: on_store_failure.clone(),
        measured,
        numbers: numbers.ok()?,
        tenants: HashMap::new(),
    };
    rule.tenants = of_tenants(&rule, site, tenants, issues);
    (issues.as_slice().len() == sound).then_some(rule)
}

/// What a limit says of where it is counted must be something that happens.
fn check_store(name: &str, limit: &Limit, issues: &mut Issues) {
    let Limit { key, requests, burst, cost, cost_from, consistency, on_store_failure, .. } = limit;
    if let OnStoreFailure::Allow(reason) = on_store_failure
        && reason.trim().is_empty()
    {
        issues.push_help(
            "limits.reason_missing",
            &key.span,
            format!("`{name}` lets requests pass while the store is away, and gives no reason"),
            "write why, as in `{ allow = \"a soft quota, billed afterwards\" }`",
        );
    }
    match (consistency, on_store_failure) {
        (Consistency::Exact | Consistency::Leased, _) | (Consistency::Local, OnStoreFailure::LocalShare) => {}
        (Consistency::Local, OnStoreFailure::Deny | OnStoreFailure::Allow(_)) => issues.push_help(
            "limits.never_asked",
            &key.span,
            format!("`{name}` says what happens when the store is away, and never asks it"),
            "leave `on_store_failure` out, or write `consistency = \"exact\"`",
        ),
    }
    if let (Consistency::Local, Some(from)) = (consistency, cost_from) {
        issues.push_help(
            "limits.cost_local",
            &from.at_most.span,
            format!("`{name}` is counted by shares: a cost may be more than a share holds, and the rest would be lost"),
            "leave `cost_from` out, or write `consistency = \"exact\"`",
        );
    }
    let at_once = burst.as_ref().unwrap_or(requests);
    let cost = cost.as_ref().map_or(1, |cost| cost.value.get());
    if *consistency == Consistency::Leased && at_once.value.get() >> 3 < cost {
        issues.push_help(
            "limits.never_leased",
            &at_once.span,
            format!("`{name}` is too small to be taken ahead: not even one gateway alone would"),
            "leave `consistency` out, or let at least eight times as much come at once as a request costs",
        );
    }
}

/// Each tenant's numbers of one rule, for those that have others than the site.
fn of_tenants(rule: &Rule, site: Written, tenants: &Tenants<'_>, issues: &mut Issues) -> HashMap<TenantId, Numbers> {
    let mut of_tenants = HashMap::new();
    for (tenant, layers) in tenants {
        let of =
            |layer: Option<&BTreeMap<String, TenantLimit>>| layer.and_then(|limits| limits.get(&*rule.name)).cloned();
        let (grant, own) = (of(layers.grant), of(layers.own));
        let Some(span) = own.as_ref().or(grant.as_ref()).map(span_of) else { continue };
        if !rule.needs_identity() {
            issues.push_help(
                "limits.tenant_unknown_yet",
                &span,
                format!(
                    "tenant `{tenant}` cannot have its own numbers of `{}`: it is asked before the tenant is known",
                    rule.name
                ),
                "count by something of the identity too, e.g. add \"tenant\" to the limit's key",
            );
            continue;
        }
        let granted = grant.map_or(site, |grant| site.granted(&grant));
        let settled = own.map_or(granted, |own| granted.tightened(&own, (tenant, &rule.name), issues));
        match settled.numbers(&rule.name) {
            Ok(numbers) => drop(of_tenants.insert(tenant.clone(), numbers)),
            Err(wrong) => {
                issues.push("limits.numbers", &span, format!("`{}` of tenant `{tenant}`: {wrong}", rule.name))
            }
        }
    }
    of_tenants
}

fn span_of(limit: &TenantLimit) -> Range<usize> {
    let TenantLimit { requests, burst } = limit;
    requests.as_ref().or(burst.as_ref()).map_or(0..0, |number| number.span.clone())
}

fn unknown_in_tenants(
    limits: &BTreeMap<String, Limit>,
    tenants: &Tenants<'_>,
    in_flight: &[&str],
    issues: &mut Issues,
) {
    let known = || limits.keys().map(String::as_str);
    for (tenant, layers) in tenants {
        let written = layers.grant.into_iter().chain(layers.own).flatten();
        for (name, limit) in written.filter(|(name, _)| !limits.contains_key(*name)) {
            let whose = format!("tenant `{tenant}`");
            LIMITS.unknown((name, &span_of(limit)), &whose, known(), ("in_flight", in_flight), issues);
        }
    }
}
