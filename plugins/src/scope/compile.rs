//! From what a route says to what its requests are confined by.

use std::collections::BTreeMap;

use http::{HeaderName, Method};
use portcullis_api::{At, Issues, RouteRef, TenantId};

use super::{Absent, Claim, Input, LabelName, ParameterName, ScopeRoute, settings::HeaderText};
use crate::{authentication::Auth, rate_limit::CREDENTIALS, rate_limit::admitted, reserved};

/// One route, ready to be asked.
#[derive(Debug)]
pub(super) struct Rule {
    /// None where only headers are set: query and body are then nobody's business here.
    pub(super) parameters: Option<Parameters>,
    pub(super) headers: Box<[(HeaderName, Claim)]>,
}

/// What is known of the parameters of a route. There are no others.
#[derive(Debug)]
pub(super) struct Parameters {
    pub(super) labels: Box<[(LabelName, Claim)]>,
    pub(super) known: BTreeMap<String, Known>,
    pub(super) absent: Absent,
}

/// One parameter.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) name: ParameterName,
    pub(super) what: What,
}

/// What a parameter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// A PromQL expression, once.
    Expression,
    /// Series selectors.
    Selector,
    /// Set from a claim.
    Plain(Claim),
    /// Comes along.
    Other,
}

/// What one route says.
#[derive(Debug, Clone)]
pub struct RouteScope<'d> {
    /// The route.
    pub route: &'d RouteRef,
    /// Its `scope`.
    pub scope: Option<&'d At<ScopeRoute>>,
    /// How it is authenticated.
    pub auth: &'d Auth,
    /// The methods it admits.
    pub methods: &'d [At<String>],
    /// The tenant of its host, where that is fixed.
    pub tenant: Option<&'d TenantId>,
}

/// The rules by route; `Some(None)` for one that confines nothing.
pub(super) fn rules(input: &Input<'_>, issues: &mut Issues) -> Option<Box<[Option<Option<Rule>>]>> {
    let sound = issues.as_slice().len();
    let count = input.routes.iter().map(|route| route.route.id.index().saturating_add(1)).max().unwrap_or(0);
    let mut rules: Vec<Option<Option<Rule>>> = std::iter::repeat_with(|| None).take(count).collect();
    for route in input.routes {
        let rule = route.scope.map(|scope| rule(route, scope, issues));
        if let Some(place) = rules.get_mut(route.route.id.index()) {
            *place = Some(rule);
        }
    }
    (issues.as_slice().len() == sound).then(|| rules.into())
}

fn rule(route: &RouteScope<'_>, At { value: scope, span }: &At<ScopeRoute>, issues: &mut Issues) -> Rule {
    let ScopeRoute { labels, promql, selectors, absent, plain, headers, others } = scope;
    let name = &*route.route.name;
    let mut say = |code: &'static str, message: String, help: &str| issues.push_help(code, span, message, help);
    let queries = !promql.is_empty() || !selectors.is_empty();
    let has_parameters = queries || !plain.is_empty();
    if !has_parameters && headers.is_empty() {
        let message = format!("`scope` of `{name}` confines nothing");
        say("scope.empty", message, "name `promql`, `selectors`, `plain` or `headers`, or leave it out");
    }
    if queries && labels.is_empty() {
        let message = format!("`scope` of `{name}` names queries and no label that they must carry");
        say("scope.labels", message, "write `labels`, as in { tenant = \"tenant\" }");
    }
    if !queries && !labels.is_empty() {
        let message = format!("`scope` of `{name}` names labels and no query that must carry them");
        say("scope.labels", message, "name the parameters in `promql` or `selectors`");
    }
    if let (Some(absent), true) = (absent, selectors.is_empty()) {
        let message = format!("`scope` of `{name}` says what happens without a selector, and names none");
        issues.push_help("scope.absent", &absent.span, message, "name the parameters in `selectors`");
    }
    if let (Some(others), false) = (others, has_parameters) {
        let message = format!("`scope` of `{name}` sets headers only: every parameter comes along");
        issues.push_help("scope.others", &others.span, message, "leave `others` out");
    }
    if route.auth.public.is_some() && route.tenant.is_none() {
        let message = format!("route `{name}` is public and has `scope`: nobody is verified who would have a tenant");
        let help = "write `accept`, or give the host a fixed tenant";
        issues.push_help("scope.anonymous", span, message, help);
    }
    if has_parameters {
        methods(route, span, issues);
    }
    let parameters = has_parameters.then(|| Parameters {
        labels: labels.iter().map(|(label, claim)| (label.clone(), *claim)).collect(),
        known: known(name, At { value: scope, span: span.clone() }, issues),
        absent: absent.as_ref().map(|absent| absent.value).unwrap_or_default(),
    });
    Rule { parameters, headers: self::headers(name, headers, span, issues) }
}

/// A query is read, and a form is a POST: of other methods apps read a body in ways of their own.
fn methods(route: &RouteScope<'_>, span: &std::ops::Range<usize>, issues: &mut Issues) {
    let read = [Method::GET, Method::HEAD, Method::POST];
    for method in admitted(route.methods).iter().filter(|method| !read.contains(method)) {
        let message = format!("route `{}` admits {method} and its `scope` names parameters", route.route.name);
        let help = "parameters are confined of GET, HEAD and POST: give other methods a route of their own";
        issues.push_help("scope.methods", span, message, help);
    }
}

/// Every parameter by its name, each once.
fn known(route: &str, scope: At<&ScopeRoute>, issues: &mut Issues) -> BTreeMap<String, Known> {
    let At { value: scope, span } = scope;
    let others = scope.others.iter().flat_map(|others| &others.value);
    let written = (scope.promql.iter().map(|name| (&name.value, &name.span, What::Expression)))
        .chain(scope.selectors.iter().map(|name| (&name.value, &name.span, What::Selector)))
        .chain(scope.plain.iter().map(|(name, claim)| (name, &span, What::Plain(*claim))))
        .chain(others.map(|name| (&name.value, &name.span, What::Other)));
    let mut known = BTreeMap::new();
    for (name, span, what) in written {
        if known.insert(name.as_str().to_owned(), Known { name: name.clone(), what }).is_some() {
            let message = format!("`scope` of `{route}` names the parameter `{name}` twice");
            issues.push("scope.twice", span, message);
        }
    }
    known
}

/// What HTTP itself is made of, and what says how a body is to be read.
const NOT_SET: &[&str] = &[
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "date",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

fn headers(
    route: &str,
    written: &BTreeMap<HeaderText, Claim>,
    span: &std::ops::Range<usize>,
    issues: &mut Issues,
) -> Box<[(HeaderName, Claim)]> {
    let mut set: Vec<(HeaderName, Claim)> = Vec::new();
    for (text, claim) in written {
        let Ok(name) = HeaderName::from_bytes(text.as_str().as_bytes()) else { continue };
        let folded = reserved::fold(text.as_str());
        let alike = |other: &str| reserved::fold(other).as_str() == folded.as_str();
        let is_ours = reserved::INJECTED.iter().any(|ours| alike(ours)) || folded.as_str().starts_with("x-portcullis");
        if is_ours || NOT_SET.iter().chain(CREDENTIALS).any(|other| alike(other)) {
            let message =
                format!("`scope` of `{route}` sets `{}`, which the gateway writes or HTTP needs", text.as_str());
            issues.push_help("scope.header", span, message, "name a header that the app alone reads");
        }
        if set.iter().any(|(other, _)| alike(other.as_str())) {
            let message =
                format!("`scope` of `{route}` sets two headers that an app may take for one: `{}`", text.as_str());
            issues.push("scope.header", span, message);
        }
        set.push((name, *claim));
    }
    set.into()
}
