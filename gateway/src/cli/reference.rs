//! `portcullis reference`: the pages that are made from the types.

use clap::{Args, ValueEnum};
use portcullis_api::{Code, Refusal, UNAVAILABLE};
use portcullis_plugins::{
    authentication, authorization, bans, burst, canonical, cors, csrf, in_flight, ip_allowlist, login, quota,
    rate_limit, scope, waf,
};

use super::say;
use crate::{edge, metrics::FAMILIES, refusal::Own};

/// Which page.
#[derive(Args)]
pub(super) struct Reference {
    page: Page,
}

#[derive(Clone, Copy, ValueEnum)]
enum Page {
    /// Every setting.
    Settings,
    /// Every code.
    Codes,
    /// Every metric.
    Metrics,
}

impl Reference {
    pub(super) fn run(self) -> anyhow::Result<()> {
        say(page(self.page).trim_end())
    }
}

fn page(page: Page) -> String {
    match page {
        Page::Settings => portcullis_config::reference::settings(),
        Page::Codes => portcullis_config::reference::codes(&codes()),
        Page::Metrics => portcullis_config::reference::metrics(FAMILIES),
    }
}

/// Every code, by whoever answers with it.
fn codes() -> Vec<(&'static str, &'static [Code])> {
    vec![
        ("request, route, upstream, gateway", Own::CODES),
        ("gateway", &[UNAVAILABLE]),
        ("request", canonical::Ambiguity::CODES),
        ("request, before any control", edge::CODES),
        ("ip_allowlist", ip_allowlist::Deny::CODES),
        ("bans", bans::Deny::CODES),
        ("burst", burst::Deny::CODES),
        ("rate_limit", rate_limit::Deny::CODES),
        ("cors", &[cors::REFUSED]),
        ("authentication", authentication::Deny::CODES),
        ("exchange", authentication::exchange::Deny::CODES),
        ("csrf", csrf::Deny::CODES),
        ("authorization", authorization::Deny::CODES),
        ("in_flight", in_flight::Deny::CODES),
        ("quota", quota::Deny::CODES),
        ("waf", waf::Deny::CODES),
        ("scope", scope::Deny::CODES),
        ("login", login::Deny::CODES),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh(name: &str, text: &str) {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference").join(name);
        // As it is printed.
        let text = format!("{}\n", text.trim_end());
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == text, "{} is stale: run `make reference`", path.display());
    }

    #[test]
    fn the_committed_reference_is_what_the_types_say() {
        fresh("settings.md", &page(Page::Settings));
        fresh("codes.md", &page(Page::Codes));
        fresh("metrics.md", &page(Page::Metrics));
    }

    #[test]
    fn every_code_is_unique_and_named_after_its_part() {
        let mut seen = std::collections::BTreeSet::new();
        for (part, codes) in codes() {
            for code in codes {
                assert!((400..=599).contains(&code.status), "{}", code.name);
                if code.name == "route.not_found" {
                    continue; // another tenant's resource answers like an unknown route, on purpose
                }
                let (prefix, _) = code.name.split_once('.').unwrap();
                assert!(part.contains(prefix), "{} under {part}", code.name);
                assert!(seen.insert(code.name), "{} twice", code.name);
            }
        }
    }
}
