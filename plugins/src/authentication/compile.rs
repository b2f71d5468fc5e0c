//! From what the operator wrote to a control, or everything that is wrong with it at once.

use std::{ops::Range, sync::Arc};

use portcullis_api::{At, Environment, Issues, Role, nearest};

use super::{
    Absent, Accept, Auth, Authentication, FailureSettings, Input, Issuer, IssuerRule, Keys, Needs, Route, RouteRule,
    agents,
    api_key_uses::failures,
    check_issuers,
    claims::{self, AudienceForm, Path, is_printable},
    credential::{CookieName, Known},
    exchange,
};
use crate::revocations::{Freshness, UNTIL_EXP_MAX};

const REASON_CHARS_MIN: usize = 10;

pub(super) fn compile(input: Input<'_>, needs: &Needs, issues: &mut Issues) -> Option<Authentication> {
    let before = issues.as_slice().len();
    let brand = input
        .api_keys
        .and_then(|keys| keys.brand.as_ref())
        .map_or_else(|| Environment::parse("pck").ok(), |brand| Some(brand.value.clone()))?;
    let failures = match input.api_keys {
        None => failures(&FailureSettings::default(), issues),
        Some(keys) => failures(&keys.failures, issues),
    };
    check_issuers::check(input.issuers, issues);
    exchange::check(&input, issues);
    for (name, settings) in input.listeners {
        settings.iter().for_each(|settings| agents::check(name, settings, issues));
    }
    for route in input.routes {
        check_route(&route.route.name, route.auth, &input, issues);
        check_until_exp(route, &input, issues);
    }
    input.max_stale.check(issues);
    check_environments(&input, issues);
    if issues.as_slice().len() != before {
        return None;
    }

    let written = input.issuers.iter().map(|(name, issuer)| issuer_rule(name, issuer, needs));
    // After those that are written: routes know each by its index.
    let exchanged = input.exchange.map(|settings| exchange::issuer_rule(settings, needs));
    let issuers = written.chain(exchanged).collect::<Option<Vec<IssuerRule>>>()?;
    let exchange = exchange::rule(input.exchange, input.issuers.len(), issues)?;
    let cookies = input.issuers.values().enumerate().filter_map(|(index, issuer)| {
        issuer.cookie.as_ref().map(|cookie| CookieName { name: cookie.value.clone(), issuer: index })
    });
    let known = Known { api_key_prefix: input.api_keys.map(|_| format!("{brand}_")), cookies: cookies.collect() };
    let slots = input.routes.iter().map(|route| route.route.id.index().saturating_add(1)).max().unwrap_or(0);
    let mut routes: Vec<Option<RouteRule>> = Vec::new();
    routes.resize_with(slots, || None);
    for route in input.routes {
        if let Some(slot) = routes.get_mut(route.route.id.index()) {
            *slot = Some(route_rule(route, &input));
        }
    }
    let settings_generation = needs.cache.settings_generation();
    let certificates = input.listeners.iter().map(|(_, settings)| settings.map(agents::Rules::compile)).collect();
    let max_stale = input.max_stale.clone();
    Some(Authentication {
        issuers,
        routes,
        certificates,
        known,
        failures: failures?,
        needs: needs.clone(),
        settings_generation,
        max_stale,
        exchange,
    })
}

fn issuer_rule(name: &str, issuer: &Issuer, needs: &Needs) -> Option<IssuerRule> {
    let path = |at: &At<String>| Path::parse(&at.value);
    // `None` is "not written"; a path that was written and cannot be parsed was refused before.
    let optional = |at: &Option<At<String>>| match at {
        None => Some(None),
        Some(at) => path(at).map(Some),
    };
    let roles = [Role::Viewer, Role::Developer, Role::Admin, Role::Owner];
    let audience_form = match issuer.keys.value {
        Keys::Secret(_) => AudienceForm::One,
        Keys::JwksUrl(_) | Keys::Discovery(_) | Keys::JwksFile(_) => AudienceForm::Several,
    };
    let role_names = match &issuer.roles {
        None => roles.iter().map(|role| (role.as_str().to_owned(), *role)).collect(),
        Some(map) => map.iter().map(|(theirs, role)| (theirs.clone(), *role)).collect(),
    };
    Some(IssuerRule {
        name: Arc::from(name),
        iss: issuer.issuer.value.clone(),
        algorithms: issuer.algorithms.value.iter().map(|algorithm| algorithm.value).collect(),
        typ: issuer.typ.as_ref().map(|typ| typ.value.clone()),
        claims: claims::Rules {
            audiences: issuer.audiences.value.iter().map(|audience| audience.value.clone()).collect(),
            audience_form,
            tenant: path(&issuer.claims.tenant)?,
            roles: optional(&issuer.claims.roles)?,
            scopes: optional(&issuer.claims.scopes)?,
            environments: optional(&issuer.claims.environments)?,
            role_names,
            jti: issuer.jti,
            max_lifetime_s: issuer.max_lifetime.value.as_secs_ceil(),
            clock_skew_s: issuer.clock_skew.value.as_secs_ceil(),
        },
        keys: needs.key_sets.of(name),
    })
}

fn route_rule(route: &Route<'_>, input: &Input<'_>) -> RouteRule {
    let Route { route: place, auth: At { value: auth, span: _ }, revocation } = route;
    let accepts = |kind: Accept| auth.accept.iter().flat_map(|list| &list.value).any(|entry| entry.value == kind);
    let names = || input.issuers.keys();
    // A public route knows every credential: one that is present is verified, whoever issued it.
    let public = auth.public.is_some();
    RouteRule {
        name: place.name.clone(),
        absent: if public { Absent::Anonymous } else { Absent::Refused },
        bearer: names()
            .map(|name| public || accepts(Accept::Jwt(name.clone())))
            .chain(input.exchange.map(|_| public || accepts(Accept::Exchange)))
            .collect(),
        cookie: names().map(|name| public || accepts(Accept::Cookie(name.clone()))).collect(),
        api_key: public || accepts(Accept::ApiKey),
        certificate: public || accepts(Accept::Certificate),
        environment: auth.environment.as_ref().map(|environment| environment.value.clone()),
        forward: auth.credentials,
        freshness: revocation.value,
    }
}

/// Without a bound on how old what is known may be, the credential's own life is the bound: it must be a short one.
fn check_until_exp(route: &Route<'_>, input: &Input<'_>, issues: &mut Issues) {
    let Route { route, auth, revocation } = route;
    match revocation.value {
        Freshness::Strict | Freshness::Standard => return,
        Freshness::UntilExp => {}
    }
    let accepts = |wanted: &Accept| match &auth.value.accept {
        Some(list) => list.value.iter().any(|entry| entry.value == *wanted),
        // A public route takes every credential.
        None => true,
    };
    let mut refuse = |what: String, help: &str| {
        let message = format!("route `{}` has revocation = \"until_exp\" and accepts {what}", route.name);
        issues.push_help("auth.until_exp", &revocation.span, message, help.to_owned());
    };
    for (name, issuer) in input.issuers {
        let accepted = accepts(&Accept::Jwt(name.clone())) || accepts(&Accept::Cookie(name.clone()));
        let (lifetime, most) = (issuer.max_lifetime.value, UNTIL_EXP_MAX);
        if accepted && lifetime > most {
            let what = format!("tokens of issuer `{name}`, which may live {lifetime}: it is for {most} at most");
            refuse(what, "write max_lifetime = \"5m\" for the issuer, or revocation = \"standard\"");
        }
    }
    if let Some(lifetime) = input.exchange.map(|exchange| exchange.lifetime.value)
        && accepts(&Accept::Exchange)
        && lifetime > UNTIL_EXP_MAX
    {
        let what = format!("tokens of the exchange, which live {lifetime}: it is for {UNTIL_EXP_MAX} at most");
        refuse(what, "write lifetime = \"5m\" in [exchange], or revocation = \"standard\"");
    }
    if accepts(&Accept::ApiKey) && input.api_keys.is_some() {
        refuse("API keys, which live for months".to_owned(), "write revocation = \"standard\"");
    }
    if accepts(&Accept::Certificate) && input.listeners.iter().any(|(_, settings)| settings.is_some()) {
        refuse("client certificates, which live for days".to_owned(), "write revocation = \"standard\"");
    }
}

fn check_route(route: &str, auth: &At<Auth>, input: &Input<'_>, issues: &mut Issues) {
    match (&auth.value.accept, &auth.value.public) {
        (Some(accept), Some(_)) => {
            issues.push("auth.both", &auth.span, format!("route `{route}` says both `accept` and `public`"));
            check_accept(route, accept, input, issues);
        }
        (None, None) => issues.push_help(
            "auth.neither",
            &auth.span,
            format!("route `{route}` does not say how it is authenticated"),
            "write accept = [\"jwt:ISSUER\"], or public = \"why this route needs no credential\"",
        ),
        (Some(accept), None) => check_accept(route, accept, input, issues),
        (None, Some(reason)) => check_public(route, &auth.value, reason, issues),
    }
    check_rights(route, &auth.value, input, issues);
    for (index, scope) in auth.value.scopes.iter().enumerate() {
        if auth.value.scopes.iter().take(index).any(|earlier| earlier.value == scope.value) {
            issues.push("auth.scope_twice", &scope.span, format!("scope `{}` is listed twice", scope.value));
        }
    }
}

/// What a route asks of its callers must be something that they can have.
fn check_rights(route: &str, auth: &Auth, input: &Input<'_>, issues: &mut Issues) {
    let accepted = || auth.accept.iter().flat_map(|list| &list.value).map(|entry| &entry.value);
    let has_environments = |entry: &Accept| match entry {
        Accept::ApiKey | Accept::Exchange => true,
        Accept::Certificate => false,
        Accept::Jwt(name) | Accept::Cookie(name) => {
            input.issuers.get(name).is_some_and(|issuer| issuer.claims.environments.is_some())
        }
    };
    if let Some(environment) = &auth.environment
        && accepted().any(|entry| *entry == Accept::Certificate)
    {
        let message =
            format!("route `{route}` names an environment and accepts `certificate`: no certificate is of one");
        issues.push("auth.environment", &environment.span, message);
    } else if let Some(environment) = &auth.environment
        && !accepted().any(has_environments)
    {
        let message = format!(
            "route `{route}` names an environment and accepts neither `api_key` nor `exchange` nor an issuer with `claims.environments`"
        );
        issues.push("auth.environment", &environment.span, message);
    }
    if let Some(age) = &auth.max_auth_age
        && let Some(silent) = accepted().find_map(no_sign_in)
    {
        let message =
            format!("route `{route}` has max_auth_age and accepts `{silent}`: none says when somebody signed in");
        issues.push("auth.max_auth_age", &age.span, message);
    }
}

/// A kind of credential that nobody signs in for.
fn no_sign_in(entry: &Accept) -> Option<&'static str> {
    match entry {
        Accept::ApiKey => Some("api_key"),
        Accept::Exchange => Some("exchange"),
        Accept::Certificate => Some("certificate"),
        Accept::Jwt(_) | Accept::Cookie(_) => None,
    }
}

/// Roles by environment that no route asks for would be read and ignored.
fn check_environments(input: &Input<'_>, issues: &mut Issues) {
    for (name, issuer) in input.issuers {
        let Some(claim) = &issuer.claims.environments else { continue };
        let of_this = |entry: &At<Accept>| match &entry.value {
            Accept::ApiKey | Accept::Exchange | Accept::Certificate => false,
            Accept::Jwt(issuer) | Accept::Cookie(issuer) => issuer == name,
        };
        let asks =
            |auth: &Auth| auth.environment.is_some() && auth.accept.iter().flat_map(|list| &list.value).any(of_this);
        if !input.routes.iter().any(|route| asks(&route.auth.value)) {
            let message = format!("issuer `{name}` tells roles by environment, and no route that accepts it names one");
            issues.push("issuers.environments_unused", &claim.span, message);
        }
    }
}

fn check_public(route: &str, auth: &Auth, reason: &At<String>, issues: &mut Issues) {
    if reason.value.trim().chars().count() < REASON_CHARS_MIN || !is_printable(&reason.value) {
        issues.push(
            "auth.public_reason",
            &reason.span,
            format!("route `{route}` is public without a reason of at least {REASON_CHARS_MIN} characters"),
        );
    }
    let rights = auth.scopes.first().map(|scope| &scope.span).or(auth.role.as_ref().map(|role| &role.span));
    let rights = rights.or(auth.max_auth_age.as_ref().map(|age| &age.span));
    if let Some(span) = rights {
        issues.push_help(
            "auth.public_with_rights",
            span,
            format!("route `{route}` is public and asks for a role, scopes or a recent sign-in"),
            "an anonymous caller has none; write `accept` instead of `public`",
        );
    }
}

fn check_accept(route: &str, accept: &At<Vec<At<Accept>>>, input: &Input<'_>, issues: &mut Issues) {
    if accept.value.is_empty() {
        issues.push(
            "auth.accept_empty",
            &accept.span,
            format!("route `{route}` accepts no credential, so nobody could use it"),
        );
    }
    for (index, entry) in accept.value.iter().enumerate() {
        if accept.value.iter().take(index).any(|earlier| earlier.value == entry.value) {
            issues.push(
                "auth.accept_twice",
                &entry.span,
                format!("route `{route}` lists one kind of credential twice"),
            );
        }
        match &entry.value {
            Accept::ApiKey => {
                if input.api_keys.is_none() {
                    issues.push_help(
                        "auth.no_api_keys",
                        &entry.span,
                        format!("route `{route}` accepts API keys, and there is no [api_keys]"),
                        "write [api_keys] with a file or a store, and a pepper",
                    );
                }
            }
            Accept::Exchange => {
                if input.exchange.is_none() {
                    issues.push_help(
                        "auth.no_exchange",
                        &entry.span,
                        format!("route `{route}` accepts tokens of the exchange, and there is no [exchange]"),
                        "write [exchange] with an issuer, a key and the hosts that serve it",
                    );
                }
            }
            // Which listeners its host is served on, and whom those name, is known where hosts are.
            Accept::Certificate => {}
            Accept::Jwt(name) => {
                known_issuer(route, name, &entry.span, input, issues);
            }
            Accept::Cookie(name) => {
                if known_issuer(route, name, &entry.span, input, issues).is_some_and(|issuer| issuer.cookie.is_none()) {
                    issues.push_help(
                        "auth.no_cookie",
                        &entry.span,
                        format!("route `{route}` accepts the cookie of issuer `{name}`, which has none"),
                        format!("write cookie = \"__Host-…\" in [issuers.{name}]"),
                    );
                }
            }
        }
    }
}

fn known_issuer<'d>(
    route: &str,
    name: &str,
    span: &Range<usize>,
    input: &Input<'d>,
    issues: &mut Issues,
) -> Option<&'d Issuer> {
    let found = input.issuers.get(name);
    if found.is_none() {
        let message = format!("route `{route}` accepts tokens of issuer `{}`, which does not exist", shown(name));
        match nearest(name, input.issuers.keys().map(String::as_str)) {
            Some(near) => issues.push_help("auth.unknown_issuer", span, message, format!("did you mean `{near}`?")),
            None => issues.push("auth.unknown_issuer", span, message),
        }
    }
    found
}

pub(super) fn shown(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_default).collect()
}

#[cfg(test)]
#[path = "compile_tests.rs"]
mod tests;
