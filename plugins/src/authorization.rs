//! `authorization`: whether this caller may use this route, and for which tenant the request runs.
//!
//! Order: tenant before environment before role before scope before the age of the sign-in, so that a caller of another tenant never learns whether a role would have
//! been enough. Another tenant's resource is answered exactly like a route that does not exist.
//!
//! Invariant: the tenant comes from the verified identity or the host's settings; host and path are only compared
//! with it.

use std::{borrow::Cow, sync::Arc};

use http::{HeaderMap, HeaderValue, header::WWW_AUTHENTICATE};
use portcullis_api::{
    Clock, Code, Control, ControlName, Environment, Facts, Fault, Issues, Refusal, Role, RouteId, RouteRef, Scope,
    Strict, TenantId, Verdict,
};

use crate::authentication::{Auth, Caller, Identity};

/// The answer to an unknown route and to another tenant's: one code for both, so that they are byte-identical.
pub const NOT_FOUND: Code = Code { name: "route.not_found", status: 404, title: "No such route" };
/// The caller's role is not enough.
pub const ROLE: Code = Code { name: "authorization.role", status: 403, title: "Your role is not enough for this" };
/// The caller has no access to the route's environment.
pub const ENVIRONMENT: Code =
    Code { name: "authorization.environment", status: 403, title: "You have no access to this environment" };
/// The caller signed in too long ago (RFC 9470).
pub const AUTH_AGE: Code =
    Code { name: "authorization.auth_age", status: 401, title: "A more recent sign-in is needed for this" };
/// The caller lacks a scope.
pub const SCOPE: Code =
    Code { name: "authorization.scope", status: 403, title: "Your credential lacks a scope for this" };

/// One route as it is written.
#[derive(Debug, Clone)]
pub struct Route<'d> {
    /// Its id and name.
    pub route: RouteRef,
    /// Its `auth`.
    pub auth: &'d Auth,
    /// Byte range of `auth`, for messages.
    pub span: std::ops::Range<usize>,
    /// The host's fixed tenant, `None` where the host says `identity`.
    pub fixed_tenant: Option<&'d TenantId>,
    /// Whether the path has a `{tenant}` segment.
    pub path: TenantInPath,
}

/// Whether a route's path names a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TenantInPath {
    /// It has no `{tenant}` segment.
    Absent,
    /// One segment is `{tenant}`.
    Present,
}

/// Every route.
#[derive(Debug, Clone, Copy)]
pub struct Input<'d> {
    /// One entry per route.
    pub routes: &'d [Route<'d>],
}

/// What must be known: who calls, and where to.
#[derive(Debug, Clone, Copy)]
pub struct Sees<'r> {
    /// The canonical request.
    pub facts: Facts<'r>,
    /// The route it takes.
    pub route: RouteId,
    /// Who calls.
    pub caller: &'r Caller,
    /// The raw segment that `{tenant}` matched.
    pub path_tenant: Option<&'r str>,
}

/// The proof that the caller may use the route.
#[derive(Debug)]
pub struct Authorized {
    tenant: Option<TenantId>,
}

impl Authorized {
    /// The tenant the request runs for; `None` for an anonymous caller on a host without a fixed tenant.
    #[must_use]
    pub fn tenant(&self) -> Option<&TenantId> {
        self.tenant.as_ref()
    }
}

/// A refusal of `authorization`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deny {
    /// Another tenant's.
    NotFound,
    /// The route is of an environment where the caller has no role.
    Environment,
    /// It is not known that the caller signed in lately enough.
    AuthAge {
        /// How long ago it may be, in seconds.
        max_age_s: u64,
        /// How long ago it was, where the token says so.
        age_s: Option<u64>,
    },
    /// Not enough role.
    Role {
        /// What the route needs.
        needed: Role,
        /// What the caller has.
        has: Option<Role>,
    },
    /// A scope is missing.
    Scope {
        /// Every scope that the route needs, space-separated.
        needed: String,
    },
}

impl Refusal for Deny {
    const CODES: &'static [Code] = &[NOT_FOUND, ENVIRONMENT, ROLE, SCOPE, AUTH_AGE];

    fn code(&self) -> Code {
        match self {
            Self::NotFound => NOT_FOUND,
            Self::Environment => ENVIRONMENT,
            Self::AuthAge { .. } => AUTH_AGE,
            Self::Role { .. } => ROLE,
            Self::Scope { .. } => SCOPE,
        }
    }

    fn detail(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::NotFound => Some("another tenant".into()),
            Self::Environment => Some("no role for the route's environment".into()),
            Self::AuthAge { max_age_s, age_s: Some(age) } => {
                Some(format!("signed in {age} s ago, {max_age_s} s are possible").into())
            }
            Self::AuthAge { max_age_s, age_s: None } => {
                Some(format!("no auth_time, and it may be {max_age_s} s ago").into())
            }
            Self::Role { needed, has } => {
                let has = has.map_or("none", Role::as_str);
                Some(format!("needs role {}, has {has}", needed.as_str()).into())
            }
            Self::Scope { needed } => Some(format!("needs scopes {needed}").into()),
        }
    }

    fn headers(&self, answer: &mut HeaderMap) {
        match self {
            // Nothing: an unknown route has nothing either.
            Self::NotFound | Self::Environment | Self::Role { .. } => {}
            Self::AuthAge { max_age_s, age_s: _ } => {
                let challenge = format!(
                    "Bearer realm=\"portcullis\", error=\"insufficient_user_authentication\", max_age=\"{max_age_s}\""
                );
                if let Ok(value) = HeaderValue::try_from(challenge) {
                    answer.insert(WWW_AUTHENTICATE, value);
                }
            }
            Self::Scope { needed } => {
                // RFC 6750 3.1. A scope's grammar has no quote and no backslash.
                let challenge =
                    format!("Bearer realm=\"portcullis\", error=\"insufficient_scope\", scope=\"{needed}\"");
                if let Ok(value) = HeaderValue::try_from(challenge) {
                    answer.insert(WWW_AUTHENTICATE, value);
                }
            }
        }
    }
}

/// The compiled control.
pub struct Authorization {
    routes: Vec<Option<Rule>>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
struct Rule {
    fixed_tenant: Option<TenantId>,
    path: TenantInPath,
    anonymous: Anonymous,
    environment: Option<Environment>,
    role: Option<Role>,
    scopes: Vec<Scope>,
    max_auth_age_s: Option<u64>,
}

/// Whether an anonymous caller may be here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Anonymous {
    Admitted,
    Impossible,
}

const NAME: ControlName = ControlName::new("authorization");

impl Control for Authorization {
    const NAME: ControlName = NAME;
    type Settings<'d> = Input<'d>;
    type Sees<'r> = Sees<'r>;
    type Proof = Authorized;
    type Deny = Deny;
    type Needs = Arc<dyn Clock>;
    type Posture = Strict;

    fn compile(settings: Input<'_>, clock: &Arc<dyn Clock>, issues: &mut Issues) -> Option<Self> {
        let before = issues.as_slice().len();
        let slots = settings.routes.iter().map(|route| route.route.id.index().saturating_add(1)).max().unwrap_or(0);
        let mut routes: Vec<Option<Rule>> = Vec::new();
        routes.resize_with(slots, || None);
        for route in settings.routes {
            let anonymous = if route.auth.public.is_some() { Anonymous::Admitted } else { Anonymous::Impossible };
            if anonymous == Anonymous::Admitted && route.path == TenantInPath::Present && route.fixed_tenant.is_none() {
                issues.push_help(
                    "auth.public_tenant_path",
                    &route.span,
                    format!("route `{}` is public and has `{{tenant}}` in its path", route.route.name),
                    "nobody is verified whom the segment could be compared with; write `accept`, or give the host a fixed tenant",
                );
            }
            if let Some(slot) = routes.get_mut(route.route.id.index()) {
                *slot = Some(Rule {
                    fixed_tenant: route.fixed_tenant.cloned(),
                    path: route.path,
                    anonymous,
                    environment: route.auth.environment.as_ref().map(|environment| environment.value.clone()),
                    role: route.auth.role.as_ref().map(|role| role.value),
                    max_auth_age_s: route.auth.max_auth_age.as_ref().map(|age| age.value.as_secs_ceil()),
                    scopes: route.auth.scopes.iter().map(|scope| scope.value.clone()).collect(),
                });
            }
        }
        (issues.as_slice().len() == before).then(|| Self { routes, clock: clock.clone() })
    }

    fn check<'r>(
        &'r self,
        sees: Sees<'r>,
    ) -> impl Future<Output = Result<Verdict<Authorized, Deny>, Fault>> + Send + 'r {
        std::future::ready(self.decide(sees))
    }
}

impl Authorization {
    fn decide(&self, sees: Sees<'_>) -> Result<Verdict<Authorized, Deny>, Fault> {
        let Some(rule) = self.routes.get(sees.route.index()).and_then(Option::as_ref) else {
            return Err(fault("a route without authorization rules"));
        };
        let tenant = match sees.caller {
            Caller::Verified(identity) => Some(identity.tenant()),
            Caller::Anonymous if rule.anonymous == Anonymous::Admitted => rule.fixed_tenant.as_ref(),
            Caller::Anonymous => return Err(fault("an anonymous caller on a route that is not public")),
        };
        if rule.path == TenantInPath::Present && sees.path_tenant.is_none() {
            return Err(fault("a path with {tenant} of which no segment was matched"));
        }
        let bound = rule.fixed_tenant.as_ref().is_none_or(|fixed| tenant == Some(fixed))
            && sees.path_tenant.is_none_or(|segment| tenant.is_some_and(|tenant| tenant.as_str() == segment));
        if !bound {
            return Ok(Verdict::Deny(Deny::NotFound));
        }
        let identity = sees.caller.identity();
        let kept_out =
            |identity: &Identity| rule.environment.as_ref().is_some_and(|place| identity.is_kept_out_of(place));
        if identity.is_some_and(kept_out) {
            return Ok(Verdict::Deny(Deny::Environment));
        }
        if let Some(needed) = rule.role {
            let has = identity.and_then(Identity::role);
            if has.is_none_or(|has| has < needed) {
                return Ok(Verdict::Deny(Deny::Role { needed, has }));
            }
        }
        if !rule.scopes.iter().all(|scope| identity.is_some_and(|identity| identity.has_scope(scope))) {
            let needed = rule.scopes.iter().map(Scope::as_str).collect::<Vec<_>>().join(" ");
            return Ok(Verdict::Deny(Deny::Scope { needed }));
        }
        // Last: who lacks a right would not have it after signing in again either.
        if let Some(max_age_s) = rule.max_auth_age_s {
            let signed_in = identity.and_then(Identity::auth_time);
            let age_s = signed_in.map(|at| self.clock.unix().saturating_sub(at));
            if age_s.is_none_or(|age| age > max_age_s) {
                return Ok(Verdict::Deny(Deny::AuthAge { max_age_s, age_s }));
            }
        }
        Ok(Verdict::Pass(Authorized { tenant: tenant.cloned() }))
    }
}

fn fault(what: &'static str) -> Fault {
    Fault { control: NAME, what: what.into(), retry_after_s: 1, code: portcullis_api::UNAVAILABLE }
}

#[cfg(test)]
#[path = "authorization_tests.rs"]
mod tests;
