//! From what the operator wrote to a control, or everything that is wrong with it at once.

use std::{ops::Range, sync::Arc};

use portcullis_api::{At, Environment, Issues, Role, nearest};

use super::{
    Absent, Accept, Auth, Authentication, FailureSettings, Input, Issuer, IssuerRule, Keys, Needs, RouteRule,
    api_key_uses::failures,
    check_issuers,
    claims::{self, AudienceForm, Path, is_printable},
    credential::{CookieName, Known},
};

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
    for (route, auth) in input.routes {
        check_route(&route.name, auth, &input, issues);
    }
    if issues.as_slice().len() != before {
        return None;
    }

    let issuers = input
        .issuers
        .iter()
        .map(|(name, issuer)| issuer_rule(name, issuer, needs))
        .collect::<Option<Vec<IssuerRule>>>()?;
    let cookies = input.issuers.values().enumerate().filter_map(|(index, issuer)| {
        issuer.cookie.as_ref().map(|cookie| CookieName { name: cookie.value.clone(), issuer: index })
    });
    let known = Known { api_key_prefix: input.api_keys.map(|_| format!("{brand}_")), cookies: cookies.collect() };
    let slots = input.routes.iter().map(|(route, _)| route.id.index().saturating_add(1)).max().unwrap_or(0);
    let mut routes: Vec<Option<RouteRule>> = Vec::new();
    routes.resize_with(slots, || None);
    for (route, auth) in input.routes {
        if let Some(slot) = routes.get_mut(route.id.index()) {
            *slot = Some(route_rule(&route.name, &auth.value, &input));
        }
    }
    let settings_generation = needs.cache.settings_generation();
    Some(Authentication { issuers, routes, known, failures: failures?, needs: needs.clone(), settings_generation })
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
        Keys::JwksUrl(_) | Keys::JwksFile(_) => AudienceForm::Several,
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
            role_names,
            jti: issuer.jti,
            max_lifetime_s: issuer.max_lifetime.value.as_secs_ceil(),
            clock_skew_s: issuer.clock_skew.value.as_secs_ceil(),
        },
        keys: needs.key_sets.of(name),
    })
}

fn route_rule(name: &Arc<str>, auth: &Auth, input: &Input<'_>) -> RouteRule {
    let accepts = |kind: Accept| auth.accept.iter().flat_map(|list| &list.value).any(|entry| entry.value == kind);
    let names = || input.issuers.keys();
    // A public route knows every credential: one that is present is verified, whoever issued it.
    let public = auth.public.is_some();
    RouteRule {
        name: name.clone(),
        absent: if public { Absent::Anonymous } else { Absent::Refused },
        bearer: names().map(|name| public || accepts(Accept::Jwt(name.clone()))).collect(),
        cookie: names().map(|name| public || accepts(Accept::Cookie(name.clone()))).collect(),
        api_key: public || accepts(Accept::ApiKey),
        environment: auth.environment.as_ref().map(|environment| environment.value.clone()),
        forward: auth.credentials,
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
    let takes_keys = auth.value.accept.iter().flat_map(|list| &list.value).any(|entry| entry.value == Accept::ApiKey);
    if let Some(environment) = &auth.value.environment
        && !takes_keys
    {
        issues.push(
            "auth.environment",
            &environment.span,
            format!("route `{route}` names an environment of API keys but does not accept `api_key`"),
        );
    }
    for (index, scope) in auth.value.scopes.iter().enumerate() {
        if auth.value.scopes.iter().take(index).any(|earlier| earlier.value == scope.value) {
            issues.push("auth.scope_twice", &scope.span, format!("scope `{}` is listed twice", scope.value));
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
    if let Some(span) = rights {
        issues.push_help(
            "auth.public_with_rights",
            span,
            format!("route `{route}` is public and asks for a role or scopes"),
            "an anonymous caller has neither; write `accept` instead of `public`",
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
