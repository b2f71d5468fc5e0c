//! `scope`: what a route asks its upstream for is confined to the tenant, before the upstream sees it.
//!
//! For apps that share one store between tenants and let the request say what to read: Prometheus, Thanos, Mimir, Loki. A
//! route's `scope` names where its requests say it. A parameter that is `PromQL` is parsed, a matcher for the tenant is added
//! to every selector of its syntax tree, and the printed tree is sent, never the text that came. A plain parameter and a
//! header are set.
//!
//! # Settings
//! A route's `scope`, see [`ScopeRoute`].
//!
//! # Codes
//! `scope.*`, see [`Deny`]. No detail holds a value of the client's.
//!
//! Invariants: where parameters are confined, the query and the form that go upstream are written anew from what was read,
//! and hold no parameter that the route does not name: so there is nothing that only the upstream understands. A query
//! goes upstream only after its printed text was parsed again, is the same tree, and has the matcher in every selector.
//!
//! The operator's page is `docs/controls/scope.md`; why it is like this stands in `gateway/adr/0015-scope.md`.

mod compile;
mod deny;
mod parameters;
pub mod promql;
mod rewrite;
mod settings;

#[cfg(test)]
mod tests;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use portcullis_api::{Control, ControlName, Facts, Fault, Issues, RouteId, Strict, TenantId, UNAVAILABLE, Verdict};

pub use compile::RouteScope;
pub use deny::Deny;
pub use settings::{Absent, Claim, HeaderText, LabelName, ParameterName, ScopeRoute};

use compile::Rule;

/// The control's name.
pub const NAME: ControlName = ControlName::new("scope");

/// Largest form that is read: it is read before the upstream sees anything.
pub const BODY_BYTES_MAX: usize = 64 << 10;

/// Parameters of one request, in query and form together.
pub const PARAMETERS_MAX: usize = 256;

/// Bytes of a target as it is sent. A request line past this is refused by the servers that this is for.
pub const TARGET_BYTES_MAX: usize = 48 << 10;

/// Every route.
#[derive(Debug, Clone, Copy)]
pub struct Input<'d> {
    /// One entry per route.
    pub routes: &'d [RouteScope<'d>],
}

/// The body of a request, as far as it is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body<'r> {
    /// There is none.
    Absent,
    /// All of it.
    Whole(&'r [u8]),
    /// It comes later.
    Unread,
}

/// What must be known.
#[derive(Debug, Clone, Copy)]
pub struct Sees<'r> {
    /// The canonical request.
    pub facts: Facts<'r>,
    /// Where it goes.
    pub route: RouteId,
    /// The tenant it runs for.
    pub tenant: Option<&'r TenantId>,
    /// Its body; whole where [`Scope::reads_body`].
    pub body: Body<'r>,
}

/// The proof: the route confines nothing, or this is what goes upstream instead.
#[derive(Debug, Default)]
pub struct InScope(Option<Box<Confined>>);

/// What goes upstream instead of what came.
#[derive(Debug, Default)]
struct Confined {
    target: Option<Target>,
    form: Option<Bytes>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// Path, and `?` with the query where there is one.
#[derive(Debug)]
struct Target {
    text: String,
    path_len: usize,
}

impl InScope {
    /// Path and query as they go upstream, where they are not what came.
    #[must_use]
    pub fn target(&self) -> Option<&str> {
        Some(self.0.as_ref()?.target.as_ref()?.text.as_str())
    }

    /// The query of [`Self::target`], without `?`.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        let Target { text, path_len } = self.0.as_ref()?.target.as_ref()?;
        Some(text.get(*path_len..).and_then(|rest| rest.strip_prefix('?')).unwrap_or_default())
    }

    /// The form that goes upstream instead of the body.
    #[must_use]
    pub fn form(&self) -> Option<&Bytes> {
        self.0.as_ref()?.form.as_ref()
    }

    /// Headers to set. Whatever came under a name that an upstream could take for one of these is to be removed.
    pub fn headers(&self) -> impl Iterator<Item = &(HeaderName, HeaderValue)> {
        self.0.iter().flat_map(|confined| &confined.headers)
    }
}

/// The control.
#[derive(Debug)]
pub struct Scope {
    /// By route; `Some(None)` for one that confines nothing.
    rules: Box<[Option<Option<Rule>>]>,
}

impl Control for Scope {
    const NAME: ControlName = NAME;
    type Settings<'d> = Input<'d>;
    type Sees<'r> = Sees<'r>;
    type Proof = InScope;
    type Deny = Deny;
    type Needs = ();
    type Posture = Strict;

    fn compile(input: Input<'_>, (): &(), issues: &mut Issues) -> Option<Self> {
        compile::rules(&input, issues).map(|rules| Self { rules })
    }

    fn check<'r>(&'r self, sees: Sees<'r>) -> impl Future<Output = Result<Verdict<InScope, Deny>, Fault>> + Send + 'r {
        std::future::ready(self.decide(sees))
    }
}

impl Scope {
    /// Whether the whole body of a request must be read before this control is asked.
    #[must_use]
    pub fn reads_body(&self, route: RouteId) -> bool {
        matches!(self.rule(route), Ok(Some(rule)) if rule.parameters.is_some())
    }

    fn decide(&self, sees: Sees<'_>) -> Result<Verdict<InScope, Deny>, Fault> {
        let Some(rule) = self.rule(sees.route)? else { return Ok(Verdict::Pass(InScope::default())) };
        let Some(tenant) = sees.tenant else { return Err(fault("a request without a tenant")) };
        if rule.parameters.is_some() && sees.body == Body::Unread {
            return Err(fault("a body that was not read"));
        }
        Ok(match rewrite::confine(rule, tenant, &sees) {
            Ok(confined) => Verdict::Pass(InScope(Some(Box::new(confined)))),
            Err(deny) => Verdict::Deny(deny),
        })
    }

    /// The rule of a route; none for one that confines nothing.
    fn rule(&self, route: RouteId) -> Result<Option<&Rule>, Fault> {
        let known = self.rules.get(route.index()).and_then(Option::as_ref).map(Option::as_ref);
        known.ok_or_else(|| fault("a route without a plan"))
    }
}

fn fault(what: &'static str) -> Fault {
    Fault { control: NAME, what: what.into(), retry_after_s: 1, code: UNAVAILABLE }
}
