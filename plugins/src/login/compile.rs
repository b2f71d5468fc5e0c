//! From written settings to what a request is judged by.

use std::sync::Arc;

use http::{HeaderName, Method};
use portcullis_api::{At, Issues, MethodName, Millis, RouteRef, TenantId};

use super::{AccountAt, Input, LoginRoute, NAME, Numbers, Preset, Settings, Statuses, account::Place, ladder::Ladder};
use crate::{
    rate_limit::{CREDENTIALS, admitted},
    reserved,
};

/// The longest that a network is known.
const KNOWN_FOR_MAX: Millis = Millis::from_secs(365 * 86_400);

/// One route, ready to be asked.
#[derive(Debug)]
pub(super) struct Rule {
    /// Whose accounts these are: two routes of one tenant, or of one host, share them.
    pub(super) realm: Arc<str>,
    pub(super) places: Box<[Place]>,
    pub(super) methods: Box<[Method]>,
    pub(super) statuses: Arc<Statuses>,
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
    let LoginRoute { account, methods, failures, successes } = login;
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
        statuses: Arc::new(Statuses {
            failures: statuses(name, failures.as_ref(), &FAILURES, issues).unwrap_or_else(|| Box::new([401, 403])),
            successes: statuses(name, successes.as_ref(), &SUCCESSES, issues),
        }),
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
            AccountAt::Header(name) => match header(name) {
                Ok(header) => Place::Header(header),
                Err((what, instead)) => {
                    let message = format!("login of `{route}`: that is {what}");
                    issues.push_help("login.account_header", span, message, instead);
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

/// A header that a client's request still has here, or what is wrong with it and what to write.
fn header(name: &str) -> Result<HeaderName, (&'static str, &'static str)> {
    let header = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| ("no name of a header", "write letters, digits and hyphens"))?;
    if reserved::is_reserved(&header) {
        return Err(("a header that the gateway strips: no login would name an account", "name one of the app's own"));
    }
    if CREDENTIALS.contains(&header.as_str()) {
        return Err((
            "a credential: each guess would be an account of its own",
            "name a header with the account alone",
        ));
    }
    Ok(header)
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

/// A list of statuses, as it is told of.
struct List {
    code: &'static str,
    says: &'static str,
    left_out: &'static str,
    from_to: (u16, u16),
}

const FAILURES: List = List {
    code: "login.failures",
    says: "failed",
    left_out: "leave `failures` out for 401 and 403, or list them",
    from_to: (400, 499),
};

const SUCCESSES: List = List {
    code: "login.successes",
    says: "succeeded",
    left_out: "leave `successes` out for all 2xx, or list them",
    from_to: (200, 399),
};

/// None where none are written.
fn statuses(route: &str, written: Option<&At<Vec<At<u16>>>>, list: &List, issues: &mut Issues) -> Option<Box<[u16]>> {
    let List { code, says, left_out, from_to: (from, to) } = *list;
    let At { value: written, span } = written?;
    if written.is_empty() {
        issues.push_help(code, span, format!("login of `{route}` has no status that says that it {says}"), left_out);
    }
    for At { value, span } in written.iter().filter(|status| !(from..=to).contains(&status.value)) {
        let message = format!("{NAME} of `{route}`: {value} does not say that a login {says}");
        issues.push_help(code, span, message, format!("write statuses from {from} to {to}"));
    }
    Some(written.iter().map(|status| status.value).collect())
}
