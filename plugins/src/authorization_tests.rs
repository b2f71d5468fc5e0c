//! Tests of `authorization`: tenant before role before scope, and nothing learnt about another tenant.

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use http::Method;
use portcullis_api::{At, Protocol, Rejection};

use super::*;
use crate::authentication::{Credential, Identity};

const NOW: u64 = 1_800_000_000;

struct Still;
impl Clock for Still {
    fn now(&self) -> portcullis_api::Micros {
        0
    }
    fn unix(&self) -> portcullis_api::UnixSeconds {
        NOW
    }
}

struct Case {
    auth: Auth,
    fixed: Option<TenantId>,
    path: TenantInPath,
}

fn case(auth: &str, fixed: Option<&str>, path: TenantInPath) -> Case {
    #[derive(serde::Deserialize)]
    struct Doc {
        auth: At<Auth>,
    }
    let doc: Doc = toml::from_str(&format!("auth = {{ {auth} }}")).unwrap();
    Case { auth: doc.auth.value, fixed: fixed.map(|tenant| TenantId::parse(tenant).unwrap()), path }
}

fn compile(case: &Case, issues: &mut Issues) -> Option<Authorization> {
    let route = RouteRef { id: RouteId::new(0), name: "a.example/x".into() };
    let route = Route { route, auth: &case.auth, span: 1..2, fixed_tenant: case.fixed.as_ref(), path: case.path };
    let clock: Arc<dyn Clock> = Arc::new(Still);
    Authorization::compile(Input { routes: &[route] }, &clock, issues)
}

fn decide(case: &Case, caller: &Caller, path_tenant: Option<&str>) -> Result<Verdict<Authorized, Deny>, Fault> {
    let control = compile(case, &mut Issues::default()).unwrap();
    ask(&control, RouteId::new(0), caller, path_tenant)
}

fn ask(
    control: &Authorization,
    route: RouteId,
    caller: &Caller,
    path_tenant: Option<&str>,
) -> Result<Verdict<Authorized, Deny>, Fault> {
    let headers = HeaderMap::new();
    let facts = Facts {
        method: &Method::GET,
        host: "a.example",
        path: "/",
        query: "",
        headers: &headers,
        protocol: Protocol::Http1,
    };
    let check = pin!(control.check(Sees { facts, route, caller, path_tenant }));
    match check.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(verdict) => verdict,
        Poll::Pending => panic!("it never waits"),
    }
}

fn caller(tenant: &str, role: Option<Role>, scopes: &[&str]) -> Caller {
    Caller::Verified(Arc::new(Identity::for_test(tenant, role, scopes, Credential::Bearer)))
}
fn tenant_of(verdict: Result<Verdict<Authorized, Deny>, Fault>) -> Option<String> {
    match verdict {
        Ok(Verdict::Pass(proof)) => proof.tenant().map(ToString::to_string),
        other => panic!("{other:?}"),
    }
}
fn denied(verdict: Result<Verdict<Authorized, Deny>, Fault>) -> Deny {
    match verdict {
        Ok(Verdict::Deny(deny)) => deny,
        other => panic!("{other:?}"),
    }
}

const JWT: &str = "accept = [\"jwt:main\"]";

#[test]
fn a_request_runs_for_the_tenant_of_the_identity() {
    let plain = case(JWT, None, TenantInPath::Absent);
    assert_eq!(tenant_of(decide(&plain, &caller("acme", None, &[]), None)).as_deref(), Some("acme"));
}

#[test]
fn ten_01_another_tenants_path_or_host_is_not_found() {
    let in_path = case(JWT, None, TenantInPath::Present);
    assert_eq!(tenant_of(decide(&in_path, &caller("acme", None, &[]), Some("acme"))).as_deref(), Some("acme"));
    for other in ["globex", "ACME", "acme%20", "acm%65", "", "acme/"] {
        assert_eq!(denied(decide(&in_path, &caller("acme", None, &[]), Some(other))), Deny::NotFound, "{other}");
    }
    let on_host = case(JWT, Some("acme"), TenantInPath::Absent);
    assert!(tenant_of(decide(&on_host, &caller("acme", None, &[]), None)).is_some());
    assert_eq!(denied(decide(&on_host, &caller("globex", None, &[]), None)), Deny::NotFound);
    let both = case(JWT, Some("acme"), TenantInPath::Present);
    assert_eq!(denied(decide(&both, &caller("acme", None, &[]), Some("globex"))), Deny::NotFound);
    assert_eq!(denied(decide(&both, &caller("globex", None, &[]), Some("globex"))), Deny::NotFound);
}

#[test]
fn ten_03_not_found_says_nothing_that_an_unknown_route_does_not_say() {
    let rejection = Rejection::of(NAME, &Deny::NotFound);
    assert_eq!(
        (rejection.code.name, rejection.code.status, rejection.code.title),
        ("route.not_found", 404, "No such route")
    );
    assert!(rejection.headers.is_empty() && rejection.members.is_empty() && rejection.rule.is_none());
}

#[test]
fn tenant_comes_before_role_and_role_before_scope() {
    let all = case(&format!("{JWT}, role = \"admin\", scopes = [\"orders\"]"), Some("acme"), TenantInPath::Absent);
    assert_eq!(denied(decide(&all, &caller("globex", None, &[]), None)), Deny::NotFound);
    assert_eq!(denied(decide(&all, &caller("globex", Some(Role::Owner), &["orders"]), None)), Deny::NotFound);
    assert!(matches!(denied(decide(&all, &caller("acme", None, &[]), None)), Deny::Role { has: None, .. }));
    assert!(matches!(
        denied(decide(&all, &caller("acme", Some(Role::Developer), &["orders"]), None)),
        Deny::Role { .. }
    ));
    assert!(matches!(denied(decide(&all, &caller("acme", Some(Role::Admin), &[]), None)), Deny::Scope { .. }));
    assert!(tenant_of(decide(&all, &caller("acme", Some(Role::Owner), &["orders"]), None)).is_some());
}

#[test]
fn each_role_may_what_those_before_it_may() {
    let roles = [Role::Viewer, Role::Developer, Role::Admin, Role::Owner];
    for needed in roles {
        let route = case(&format!("{JWT}, role = \"{}\"", needed.as_str()), None, TenantInPath::Absent);
        for has in roles {
            let passed = matches!(decide(&route, &caller("acme", Some(has), &[]), None), Ok(Verdict::Pass(_)));
            assert_eq!(passed, has >= needed, "{has:?} on {needed:?}");
        }
        assert!(matches!(decide(&route, &caller("acme", None, &[]), None), Ok(Verdict::Deny(_))), "no role is no role");
    }
}

#[test]
fn every_scope_is_needed_and_compared_whole() {
    let route = case(&format!("{JWT}, scopes = [\"orders\", \"orders:write\"]"), None, TenantInPath::Absent);
    assert!(tenant_of(decide(&route, &caller("acme", None, &["orders:write", "x", "orders"]), None)).is_some());
    for scopes in [&["orders"][..], &["orders:write"], &["orders", "orders:writ"], &["*"], &["orders:*"], &[]] {
        let deny = denied(decide(&route, &caller("acme", None, scopes), None));
        let mut answer = HeaderMap::new();
        deny.headers(&mut answer);
        assert_eq!(
            answer["www-authenticate"],
            r#"Bearer realm="portcullis", error="insufficient_scope", scope="orders orders:write""#
        );
        assert_eq!((deny.code().name, deny.code().status), ("authorization.scope", 403));
    }
}

#[test]
fn an_anonymous_caller_runs_for_the_hosts_tenant_or_for_none() {
    let public = "public = \"nothing here is secret\"";
    assert_eq!(tenant_of(decide(&case(public, None, TenantInPath::Absent), &Caller::Anonymous, None)), None);
    let fixed = case(public, Some("acme"), TenantInPath::Absent);
    assert_eq!(tenant_of(decide(&fixed, &Caller::Anonymous, None)).as_deref(), Some("acme"));
    let in_path = case(public, Some("acme"), TenantInPath::Present);
    assert!(tenant_of(decide(&in_path, &Caller::Anonymous, Some("acme"))).is_some());
    assert_eq!(denied(decide(&in_path, &Caller::Anonymous, Some("globex"))), Deny::NotFound);
    assert_eq!(denied(decide(&fixed, &caller("globex", None, &[]), None)), Deny::NotFound);
}

#[test]
fn what_cannot_be_is_a_fault_and_never_a_pass() {
    let plain = case(JWT, None, TenantInPath::Absent);
    assert!(decide(&plain, &Caller::Anonymous, None).is_err());
    let in_path = case(JWT, None, TenantInPath::Present);
    assert!(decide(&in_path, &caller("acme", None, &[]), None).is_err());
    let control = compile(&plain, &mut Issues::default()).unwrap();
    assert!(ask(&control, RouteId::new(1), &caller("acme", None, &[]), None).is_err());
}

#[test]
fn a_public_route_with_a_tenant_in_its_path_needs_a_fixed_tenant() {
    let mut issues = Issues::default();
    let public = case("public = \"nothing here is secret\"", None, TenantInPath::Present);
    assert!(compile(&public, &mut issues).is_none());
    assert_eq!(issues.as_slice()[0].code, "auth.public_tenant_path");
}

fn answer_of(case: &Case, identity: Identity) -> Option<(&'static str, u16)> {
    match decide(case, &Caller::Verified(Arc::new(identity)), None).unwrap() {
        Verdict::Pass(_) => None,
        Verdict::Deny(deny) => Some((deny.code().name, deny.code().status)),
    }
}

fn user(role: Option<Role>) -> Identity {
    Identity::for_test("acme", role, &[], Credential::Bearer)
}

#[test]
fn a_sign_in_is_recent_to_the_second_and_one_that_is_not_known_is_not() {
    let case = case(r#"accept = ["jwt:main"], role = "admin", max_auth_age = "5m""#, None, TenantInPath::Absent);
    let of = |auth_time| answer_of(&case, user(Some(Role::Admin)).signed_in_at(auth_time));
    let old = Some(("authorization.auth_age", 401));
    assert_eq!((of(Some(NOW)), of(Some(NOW - 300)), of(Some(NOW + 20))), (None, None, None));
    assert_eq!((of(Some(NOW - 301)), of(Some(1)), of(None)), (old, old, old));
    // Signing in again would not help.
    let viewer = user(Some(Role::Viewer)).signed_in_at(None);
    assert_eq!(answer_of(&case, viewer), Some(("authorization.role", 403)));
    let mut headers = HeaderMap::new();
    Deny::AuthAge { max_age_s: 300, age_s: None }.headers(&mut headers);
    assert_eq!(
        headers[WWW_AUTHENTICATE],
        r#"Bearer realm="portcullis", error="insufficient_user_authentication", max_age="300""#
    );
}

#[test]
fn who_has_no_role_in_an_environment_is_kept_out_of_it() {
    let case = case(r#"accept = ["jwt:main"], environment = "live""#, Some("acme"), TenantInPath::Absent);
    let with = |roles: &[(&str, Option<Role>)]| user(Some(Role::Owner)).with_environments(roles);
    let denied = Some(("authorization.environment", 403));
    assert_eq!(answer_of(&case, with(&[("live", Some(Role::Viewer))])), None);
    assert_eq!(answer_of(&case, with(&[("live", None)])), None, "it has access, and no role there");
    assert_eq!((answer_of(&case, with(&[("test", Some(Role::Owner))])), answer_of(&case, with(&[]))), (denied, denied));
    assert_eq!(answer_of(&case, user(None)), None, "an issuer that does not tell environments");
    let stranger = Identity::for_test("globex", None, &[], Credential::Bearer).with_environments(&[]);
    assert_eq!(answer_of(&case, stranger), Some(("route.not_found", 404)), "the tenant comes first");
}
