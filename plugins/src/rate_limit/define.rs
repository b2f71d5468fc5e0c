//! From written limits to rules: the built-in ones, the operator's, and each tenant's numbers of them.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU32,
    ops::Range,
    sync::Arc,
};

use http::{HeaderName, Method};
use portcullis_api::{At, Issues, Layers, MethodName, Millis, Mode, TenantId, nearest};

use super::{
    Class, Consistency, KeyHasher, KeyPart, Limit, Numbers, OnStoreFailure, PER_KEY, TenantLimit, WINDOW_MAX,
    keys::{Origin, Part},
    numbers::Written,
};
use crate::reserved;

/// Headers that carry a credential.
const CREDENTIALS: &[&str] = &["authorization", "cookie", "proxy-authorization", "x-api-key"];

/// One limit, ready to be asked.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) name: Arc<str>,
    parts: Box<[Part]>,
    counts: Counts,
    pub(crate) mode: Mode,
    pub(crate) consistency: Consistency,
    pub(crate) on_store_failure: OnStoreFailure,
    pub(super) numbers: Numbers,
    /// Numbers of the tenants that have others.
    tenants: HashMap<TenantId, Numbers>,
}

/// Requests of which methods a rule counts.
#[derive(Debug)]
enum Counts {
    All,
    /// At least one; `HEAD` is among them where `GET` is.
    Only(Box<[Method]>),
}

impl Rule {
    /// Whether requests of this method are counted.
    pub(crate) fn counts(&self, method: &Method) -> bool {
        match &self.counts {
            Counts::All => true,
            Counts::Only(methods) => methods.contains(method),
        }
    }

    pub(crate) fn numbers(&self, tenant: Option<&TenantId>) -> &Numbers {
        tenant.and_then(|tenant| self.tenants.get(tenant)).unwrap_or(&self.numbers)
    }

    /// Whether any tenant has numbers of its own.
    pub(super) fn has_tenants(&self) -> bool {
        !self.tenants.is_empty()
    }

    pub(super) fn parts(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter()
    }

    /// Whether the rule can be asked only after authentication.
    pub(super) fn needs_identity(&self) -> bool {
        self.parts.iter().any(|part| match part {
            Part::ApiKey | Part::Subject | Part::Tenant | Part::Caller => true,
            Part::Client | Part::Route | Part::Header(_) => false,
        })
    }

    /// The bucket that a request is counted in. One that lacks a part is counted in the rule's one `unknown` bucket.
    pub(crate) fn key(&self, numbers: &Numbers, origin: &Origin<'_>, hasher: &KeyHasher) -> u128 {
        let begin = |kind: &[u8]| {
            let mut hashing = hasher.begin();
            hashing.field(self.name.as_bytes());
            hashing.field(&numbers.revision());
            hashing.field(kind);
            hashing
        };
        let mut hashing = begin(b"known");
        match self.parts.iter().try_for_each(|part| origin.add(part, &mut hashing)) {
            Some(()) => hashing.finish(),
            None => begin(b"unknown").finish(),
        }
    }
}

/// Every limit there is, by name: the built-in ones, or what the operator wrote in their place, and all others.
/// `None` where one was wrong; its name is still known.
pub(super) type Defined = BTreeMap<String, Option<Arc<Rule>>>;

/// The tenants' numbers by limit.
pub(super) type Tenants<'d> = [(TenantId, Layers<'d, BTreeMap<String, TenantLimit>>)];

pub(super) fn define(written: &BTreeMap<String, Limit>, tenants: &Tenants<'_>, issues: &mut Issues) -> Defined {
    let mut limits = built_in();
    limits.extend(written.iter().map(|(name, limit)| (name.clone(), limit.clone())));
    unknown_in_tenants(&limits, tenants, issues);
    limits.iter().map(|(name, limit)| (name.clone(), rule(name, limit, tenants, issues).map(Arc::new))).collect()
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
        mode: Mode::default(),
        consistency: Consistency::default(),
        on_store_failure: OnStoreFailure::default(),
    };
    let class =
        |class: Class| (class.as_str().to_owned(), limit(KeyPart::Caller, class.per_minute(), Millis::from_secs(60)));
    let per_key = (PER_KEY.to_owned(), limit(KeyPart::ApiKey, 10, Millis::from_secs(1)));
    [Class::Auth, Class::Management, Class::Evaluation].map(class).into_iter().chain([per_key]).collect()
}

fn rule(name: &str, limit: &Limit, tenants: &Tenants<'_>, issues: &mut Issues) -> Option<Rule> {
    let sound = issues.as_slice().len();
    let Limit { key, methods, requests, window, burst, cost, mode, consistency, on_store_failure } = limit;
    check_name(name, &requests.span, issues);
    let parts = parts(name, key, issues);
    let counts = counts(name, methods.as_ref(), issues);
    if window.value > WINDOW_MAX {
        issues.push(
            "limits.window_too_long",
            &window.span,
            format!("the window of `{name}` is {}, longer than {WINDOW_MAX}", window.value),
        );
    }
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
        (Consistency::Exact, _) | (Consistency::Local, OnStoreFailure::LocalShare) => {}
        (Consistency::Local, OnStoreFailure::Deny | OnStoreFailure::Allow(_)) => issues.push_help(
            "limits.never_asked",
            &key.span,
            format!("`{name}` says what happens when the store is away, and never asks it"),
            "leave `on_store_failure` out, or write `consistency = \"exact\"`",
        ),
    }
    let site = Written {
        requests: requests.value,
        window: window.value,
        burst: burst.as_ref().map(|burst| burst.value),
        cost: cost.as_ref().map_or(NonZeroU32::MIN, |cost| cost.value),
    };
    let span = cost.as_ref().map_or(&requests.span, |cost| &cost.span);
    let numbers = site.numbers(name).map_err(|wrong| issues.push("limits.numbers", span, format!("`{name}`: {wrong}")));
    let mut rule = Rule {
        name: name.into(),
        parts,
        counts,
        mode: *mode,
        consistency: *consistency,
        on_store_failure: on_store_failure.clone(),
        numbers: numbers.ok()?,
        tenants: HashMap::new(),
    };
    rule.tenants = of_tenants(&rule, site, tenants, issues);
    (issues.as_slice().len() == sound).then_some(rule)
}

/// A name goes into header fields, metric labels and keys of the store.
fn check_name(name: &str, span: &Range<usize>, issues: &mut Issues) {
    let ok = (1..=64).contains(&name.len())
        && name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_' || c == b'-');
    if !ok {
        let name: String = name.chars().take(64).flat_map(char::escape_default).collect();
        issues.push("limits.name", span, format!("`{name}` is no name of a limit: write 1 to 64 of a-z, 0-9, _ and -"));
    }
}

fn parts(name: &str, key: &At<Vec<At<KeyPart>>>, issues: &mut Issues) -> Box<[Part]> {
    if key.value.is_empty() {
        issues.push_help(
            "limits.key_empty",
            &key.span,
            format!("`{name}` counts by nothing: everybody would share one bucket"),
            "write what is counted, e.g. `key = [\"client\"]`; to share one bucket per route write `[\"route\"]`",
        );
    }
    let mut parts = Vec::with_capacity(key.value.len());
    for At { value, span } in &key.value {
        let part = match value {
            KeyPart::Client => Part::Client,
            KeyPart::ApiKey => Part::ApiKey,
            KeyPart::Subject => Part::Subject,
            KeyPart::Tenant => Part::Tenant,
            KeyPart::Route => Part::Route,
            KeyPart::Caller => Part::Caller,
            KeyPart::Header(header) => match header_part(header) {
                Ok(header) => header,
                Err((wrong, help)) => {
                    let header: String = header.chars().take(64).flat_map(char::escape_default).collect();
                    issues.push_help(
                        "limits.key_header",
                        span,
                        format!("`{name}` counts by `{header}`, {wrong}"),
                        help,
                    );
                    continue;
                }
            },
        };
        if parts.contains(&part) {
            issues.push("limits.key_duplicate", span, format!("`{name}` counts by one thing twice"));
        } else {
            parts.push(part);
        }
    }
    parts.into()
}

fn counts(name: &str, methods: Option<&At<Vec<At<MethodName>>>>, issues: &mut Issues) -> Counts {
    let Some(At { value: written, span }) = methods else { return Counts::All };
    if written.is_empty() {
        let message = format!("`{name}` counts requests of no method");
        issues.push_help("limits.methods", span, message, "leave `methods` out to count all, or list them");
    }
    for (n, At { value, span }) in written.iter().enumerate() {
        if written.iter().take(n).any(|earlier| earlier.value == *value) {
            let message = format!("`{name}`: method {} is written twice", value.method());
            issues.push_help("limits.methods", span, message, "write each method once");
        }
    }
    Counts::Only(MethodName::with_head(written.iter().map(|method| method.value.clone())).into())
}

/// A header that a client's request can have when it is counted, or what is wrong with it and what to write.
fn header_part(name: &str) -> Result<Part, (&'static str, &'static str)> {
    let header = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| ("which is no name of a header", "write letters, digits and hyphens, e.g. \"header:x-plan\""))?;
    if reserved::is_reserved(&header) {
        return Err((
            "a header that the gateway strips: all clients would share one bucket, and each could use it up for all",
            "count by \"client\", \"tenant\", \"subject\" or \"api_key\", which the gateway verifies itself",
        ));
    }
    if CREDENTIALS.contains(&header.as_str()) {
        return Err((
            "a credential, which is not verified yet when it is counted: each guess would have a bucket of its own",
            "count by \"caller\", \"subject\" or \"api_key\"",
        ));
    }
    Ok(Part::Header(header))
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

fn unknown_in_tenants(limits: &BTreeMap<String, Limit>, tenants: &Tenants<'_>, issues: &mut Issues) {
    for (tenant, layers) in tenants {
        let written = layers.grant.into_iter().chain(layers.own).flatten();
        for (name, limit) in written.filter(|(name, _)| !limits.contains_key(*name)) {
            unknown(name, &span_of(limit), &format!("tenant `{tenant}`"), limits.keys(), issues);
        }
    }
}

pub(super) fn unknown<'k>(
    name: &str,
    span: &Range<usize>,
    whose: &str,
    known: impl Iterator<Item = &'k String> + Clone,
    issues: &mut Issues,
) {
    let shown: String = name.chars().take(64).flat_map(char::escape_default).collect();
    let message = format!("{whose} names a limit `{shown}` that does not exist");
    let help = match nearest(name, known.clone().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known are {}", known.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")),
    };
    issues.push_help("limits.unknown", span, message, help);
}
