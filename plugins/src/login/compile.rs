//! From written settings to what a request is judged by.

use std::sync::Arc;

use http::{HeaderName, Method};
use portcullis_api::{At, Issues, MethodName, Millis, RouteRef, TenantId};

use super::{AccountAt, Input, LoginRoute, NAME, Numbers, Preset, Settings, account::Place, ladder::Ladder};
use crate::rate_limit::admitted;

/// The longest that a network is known.
const KNOWN_FOR_MAX: Millis = Millis::from_secs(365 * 86_400);

/// One route, ready to be asked.
#[derive(Debug)]
pub(super) struct Rule {
    /// Whose accounts these are: two routes of one tenant, or of one host, share them.
    pub(super) realm: Arc<str>,
    pub(super) places: Box<[Place]>,
    pub(super) methods: Box<[Method]>,
    pub(super) failures: Arc<[u16]>,
}

/// What one route says of logins.
#[derive(Debug, Clone)]
pub struct RouteLogin<'d> {
    /// The route.
    pub route: &'d RouteRef,
    /// Its `login`.
    pub login: Option<&'d LoginRoute>,
    /// The methods it admits.
    pub methods: &'d [At<String>],
    /// The tenant of its host, where that is fixed.
    pub tenant: Option<&'d TenantId>,
}

pub(super) fn numbers(settings: &Settings, issues: &mut Issues) -> Option<Numbers> {
    let Settings { mode: _, preset, accounts, networks, known_for } = settings;
    let [of_account, of_network] = match preset {
        Preset::Rising => [86_400, 3_600].map(|window_s| Ladder::of(window_s, &[(5, 60), (10, 300), (20, 3_600)])),
        Preset::FiveIn15m => [900; 2].map(|window_s| Ladder::of(window_s, &[(5, 900)])),
    };
    let own =
        |whose: &str, written: &Option<super::settings::Ladder>, preset: Ladder, issues: &mut Issues| match written {
            None => Some(preset),
            Some(written) => Ladder::compile(whose, written, issues),
        };
    let accounts = own("accounts", accounts, of_account, issues);
    let networks = own("networks", networks, of_network, issues);
    if known_for.value > KNOWN_FOR_MAX {
        let message = format!("`known_for` is {}, longer than {KNOWN_FOR_MAX}", known_for.value);
        issues.push_help("login.too_long", &known_for.span, message, "people move, and networks change hands");
        return None;
    }
    Some(Numbers { accounts: accounts?, networks: networks?, known_for: known_for.value.as_micros() })
}

/// The rules by route; `Some(None)` for one that is no login.
pub(super) fn rules(input: &Input<'_>, issues: &mut Issues) -> Option<Box<[Option<Option<Rule>>]>> {
    let sound = issues.as_slice().len();
    let count = input.routes.iter().map(|route| route.route.id.index().saturating_add(1)).max().unwrap_or(0);
    let mut rules: Vec<Option<Option<Rule>>> = std::iter::repeat_with(|| None).take(count).collect();
    for route in input.routes {
        let rule = route.login.map(|login| rule(route, login, issues));
        if let Some(place) = rules.get_mut(route.route.id.index()) {
            *place = Some(rule);
        }
    }
    (issues.as_slice().len() == sound).then(|| rules.into())
}

fn rule(route: &RouteLogin<'_>, login: &LoginRoute, issues: &mut Issues) -> Rule {
    let LoginRoute { account, methods, failures } = login;
    let name = &*route.route.name;
    let realm = match (route.tenant, name.split_once('/')) {
        (Some(tenant), _) => format!("tenant:{tenant}"),
        // The host as configured: whoever can choose a label of a wildcard would choose a realm.
        (None, Some((host, _))) => format!("host:{host}"),
        (None, None) => format!("host:{name}"),
    };
    Rule {
        realm: realm.into(),
        places: places(name, account, issues),
        methods: self::methods(route, methods.as_ref(), issues),
        failures: statuses(name, failures.as_ref(), issues),
    }
}

fn places(route: &str, account: &At<Vec<At<AccountAt>>>, issues: &mut Issues) -> Box<[Place]> {
    if account.value.is_empty() {
        let message = format!("login of `{route}` does not say where the account is");
        issues.push_help("login.account_empty", &account.span, message, "write it, as in [\"json:username\"]");
    }
    let mut places = Vec::new();
    for At { value, span } in &account.value {
        let place = match value {
            AccountAt::Json(path) => Place::Json(path.clone().into()),
            AccountAt::Form(field) => Place::Form(field.clone()),
            AccountAt::Header(header) => match HeaderName::from_bytes(header.as_bytes()) {
                Ok(header) => Place::Header(header),
                Err(_) => {
                    let message = format!("login of `{route}`: that is no name of a header");
                    issues.push_help("login.account_header", span, message, "write letters, digits and hyphens");
                    continue;
                }
            },
        };
        if places.contains(&place) {
            issues.push("login.account_twice", span, format!("login of `{route}` names one place twice"));
        }
        places.push(place);
    }
    places.into()
}

fn methods(route: &RouteLogin<'_>, written: Option<&At<Vec<At<MethodName>>>>, issues: &mut Issues) -> Box<[Method]> {
    let name = &*route.route.name;
    let admitted = admitted(route.methods);
    let Some(At { value: written, span }) = written else {
        if !admitted.contains(&Method::POST) {
            let message = format!("route `{name}` has `login` and does not admit POST: nothing would be counted");
            let span = route.login.map_or(0..0, |login| login.account.span.clone());
            issues.push_help("login.methods", &span, message, "write `methods` of the requests that are logins");
        }
        return Box::new([Method::POST]);
    };
    let methods = MethodName::with_head(written.iter().map(|method| method.value.clone()));
    if written.is_empty() {
        issues.push_help("login.methods", span, format!("login of `{name}` counts requests of no method"), "list them");
    }
    for At { value, span } in written.iter().filter(|method| !admitted.contains(method.value.method())) {
        let message = format!("route `{name}` does not admit {}, which its `login` counts", value.method());
        issues.push_help("login.methods", span, message, "name methods that the route admits");
    }
    methods.into()
}

fn statuses(route: &str, written: Option<&At<Vec<At<u16>>>>, issues: &mut Issues) -> Arc<[u16]> {
    let Some(At { value: written, span }) = written else { return Arc::new([401, 403]) };
    if written.is_empty() {
        let message = format!("login of `{route}` has no status that says that it failed");
        issues.push_help("login.failures", span, message, "leave `failures` out for 401 and 403, or list them");
    }
    for At { value, span } in written.iter().filter(|status| !(400..=499).contains(&status.value)) {
        let message = format!("{NAME} of `{route}`: {value} does not say that a login failed");
        issues.push_help("login.failures", span, message, "write statuses from 400 to 499");
    }
    written.iter().map(|status| status.value).collect()
}
