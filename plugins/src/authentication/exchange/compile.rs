//! From what the operator wrote about the exchange to its rule, and to one more issuer.

use std::{collections::BTreeMap, sync::Arc};

use portcullis_api::{At, Issues, Role};

use super::{EXCHANGE_ISSUER, ExchangeRate, ExchangeSettings, LIFETIME_MAX, Rule, mint::TYP};
use crate::{
    authentication::{
        Accept, Algorithm, Input, Issuer, IssuerRule, Needs, Presence,
        check_issuers::ISS_BYTES_MAX,
        claims::{self, AudienceForm, Path, is_printable},
    },
    rate_limit::{Numbers, WINDOW_MAX},
};

/// Several gateways make and verify them: their clocks may differ by this much.
const CLOCK_SKEW_S: u64 = 30;

/// Adds what is wrong with it.
pub(in crate::authentication) fn check(input: &Input<'_>, issues: &mut Issues) {
    let Some(settings) = input.exchange else { return };
    let ExchangeSettings { issuer, key: _, older_keys: _, hosts, lifetime, rate } = settings;
    if !is_issuer(&issuer.value) {
        let message = format!("{:?} is no issuer", issuer.value);
        let help = "write the https URL of this gateway, as in \"https://gw.example.com\", without query and fragment";
        issues.push_help("exchange.issuer", &issuer.span, message, help);
    }
    if let Some(name) = twin(input.issuers, &issuer.value) {
        let message = format!("issuer `{name}` has the same `issuer`: nobody could say whose tokens they are");
        issues.push("exchange.issuer_twice", &issuer.span, message);
    }
    if !lifetime.value.as_millis().is_multiple_of(1000) || lifetime.value > LIFETIME_MAX {
        let message = format!("lifetime is {}, not whole seconds up to {LIFETIME_MAX}", lifetime.value);
        issues.push_help("exchange.lifetime", &lifetime.span, message, "write one as in \"5m\"");
    }
    numbers(rate, issues);
    if input.api_keys.is_none() {
        let message = "there is an [exchange], and no API key to be exchanged";
        issues.push_help("exchange.no_api_keys", &hosts.span, message, "write [api_keys]");
    }
    let accepted = input.routes.iter().any(|route| {
        route.auth.value.accept.iter().flat_map(|list| &list.value).any(|entry| entry.value == Accept::Exchange)
    });
    if !accepted {
        let message = "there is an [exchange], and no route accepts its tokens";
        issues.push_help("exchange.unused", &hosts.span, message, "write accept = [\"exchange\"] for a route");
    }
}

fn twin<'d>(issuers: &'d BTreeMap<String, Issuer>, iss: &str) -> Option<&'d str> {
    issuers.iter().find(|(_, issuer)| issuer.issuer.value == iss).map(|(name, _)| name.as_str())
}

fn is_issuer(text: &str) -> bool {
    let rest = text.strip_prefix("https://").unwrap_or_default();
    !rest.is_empty() && text.len() <= ISS_BYTES_MAX && is_printable(text) && !text.contains(['?', '#', ' '])
}

fn numbers(rate: &ExchangeRate, issues: &mut Issues) -> Option<Numbers> {
    let ExchangeRate { requests, window } = rate;
    if window.value > WINDOW_MAX {
        let message = format!("the window is {}, longer than {WINDOW_MAX}", window.value);
        issues.push("exchange.rate", &window.span, message);
        return None;
    }
    match Numbers::new("exchange.rate", requests.value, window.value, None) {
        Ok(numbers) => Some(numbers),
        Err(wrong) => {
            issues.push("exchange.rate", &requests.span, wrong.to_string());
            None
        }
    }
}

/// The exchange; `issuer` is where [`issuer_rule`] stands among the issuers. The outer `None` is "something was wrong".
pub(in crate::authentication) fn rule(
    settings: Option<&ExchangeSettings>,
    issuer: usize,
    issues: &mut Issues,
) -> Option<Option<Rule>> {
    let Some(ExchangeSettings { lifetime, rate, .. }) = settings else { return Some(None) };
    let lifetime_s = lifetime.value.as_secs_ceil();
    numbers(rate, issues).map(|rate| Some(Rule { issuer, lifetime_s, rate }))
}

/// The exchange as an issuer: the strict front end verifies its tokens, with nothing left open.
pub(in crate::authentication) fn issuer_rule(settings: &ExchangeSettings, needs: &Needs) -> Option<IssuerRule> {
    let ExchangeSettings { issuer: At { value: iss, .. }, lifetime: _, .. } = settings;
    let roles = [Role::Viewer, Role::Developer, Role::Admin, Role::Owner];
    Some(IssuerRule {
        name: Arc::from(EXCHANGE_ISSUER),
        iss: iss.clone(),
        algorithms: vec![Algorithm::HS256],
        typ: Some(TYP.to_owned()),
        claims: claims::Rules {
            audiences: vec![iss.clone()],
            audience_form: AudienceForm::One,
            tenant: Path::parse("tid")?,
            roles: Some(Path::parse("role")?),
            scopes: Some(Path::parse("scp")?),
            environments: None,
            role_names: roles.iter().map(|role| (role.as_str().to_owned(), *role)).collect(),
            jti: Presence::Required,
            // Not the lifetime of now: a token that was made before it was shortened is good until it ends.
            max_lifetime_s: LIFETIME_MAX.as_secs_ceil(),
            clock_skew_s: CLOCK_SKEW_S,
        },
        keys: needs.key_sets.of(EXCHANGE_ISSUER),
    })
}
