//! The defaults, read from the same types that read a document, so that the reference cannot tell another story.
//!
//! Patterns are exhaustive: a new field does not compile until it is said here whether it has a default.

use std::{collections::BTreeMap, fmt::Debug};

use portcullis_plugins::{
    assertion, authentication, burst, cors, in_flight, login, rate_limit, revocations::MaxStale, waf,
};

use crate::document::{
    Bounds, Health, Listener, ListenerTls, Log, Route, SecurityHeaders, Stores, TlsVersion, Upstream,
};

/// (path of the table, field) → the value as written in TOML.
pub(super) type Defaults = BTreeMap<(String, &'static str), String>;

/// Reads a table with nothing but what it needs, and takes the fields: `plain` values, values `at` a place, and those
/// without a default, which are `needed` or may be absent.
macro_rules! take {
    ($out:ident, $path:literal, $type:path, $toml:literal,
     plain: [$($plain:ident),*], at: [$($at:ident),*], none: [$($none:ident),*]) => {
        if let Ok($type { $($plain,)* $($at,)* $($none: _,)* }) = toml::from_str::<$type>($toml) {
            $($out.insert(($path.to_owned(), stringify!($plain)), written(&$plain));)*
            $($out.insert(($path.to_owned(), stringify!($at)), written(&$at.value));)*
        }
    };
}

pub(super) fn defaults() -> Defaults {
    let mut out = Defaults::new();
    edge(&mut out);
    controls(&mut out);
    apps(&mut out);
    out
}

fn edge(out: &mut Defaults) {
    if let Ok(Listener { address: _, client_ip: _, tls: _, client_certificates: _, bounds: _ }) =
        toml::from_str::<Listener>("address = \"0.0.0.0:1\"\nclient_ip = \"direct\"")
        && let Ok(ListenerTls { minimum }) = toml::from_str::<ListenerTls>("")
    {
        let version = match minimum {
            TlsVersion::V1_2 => "\"1.2\"",
            TlsVersion::V1_3 => "\"1.3\"",
        };
        out.insert(("listeners.NAME".to_owned(), "tls"), format!("{{ minimum = {version} }}"));
        out.insert(("listeners.NAME.tls".to_owned(), "minimum"), version.to_owned());
    }
    take!(out, "listeners.NAME.bounds", Bounds, "",
        plain: [connections_max, connections_per_network_max, handshakes_max, handshake_timeout, head_timeout,
            idle_timeout, body_timeout, head_bytes_max, header_fields_max, target_bytes_max],
        at: [], none: []);
    take!(out, "listeners.NAME.client_certificates", authentication::ClientCertificates, "ca = \"ca.pem\"",
        plain: [mode], at: [connection_age_max], none: [ca, crl, uri, role, scopes, agents]);
    take!(out, "exchange", authentication::exchange::ExchangeSettings,
        "issuer = \"https://gw\"\nkey = \"file:k\"\nhosts = []",
        plain: [], at: [lifetime], none: [issuer, key, older_keys, hosts, rate]);
    take!(out, "exchange.rate", authentication::exchange::ExchangeRate, "",
        plain: [], at: [requests, window], none: []);
    take!(out, "log", Log, "", plain: [access], at: [], none: [pseudonym_key]);
    take!(out, "stores", Stores, "", plain: [deadline, instances], at: [counters, keys_max, prefix], none: [key]);
}

fn controls(out: &mut Defaults) {
    take!(out, "controls.burst", burst::Settings, "requests = 1\nwindow = \"1s\"",
        plain: [mode], at: [], none: [requests, window]);
    take!(out, "controls.waf", waf::Settings, "",
        plain: [mode], at: [urls_max, phones_max, chars_max, body_max], none: [phone_regions, violations]);
    take!(out, "controls.waf.violations", waf::Violations, "", plain: [window, block], at: [max], none: []);
    take!(out, "controls.login", login::Settings, "",
        plain: [mode], at: [known_for], none: [preset, accounts, networks]);
    out.insert(("controls.login".to_owned(), "preset"), "\"rising\"".to_owned());
    take!(out, "limits.NAME", rate_limit::Limit, "key = [\"client\"]\nrequests = 1\nwindow = \"1s\"",
        plain: [mode, consistency, on_store_failure], at: [], none: [key, methods, requests, window, burst, cost, cost_from]);
    take!(out, "in_flight.NAME", in_flight::Settings, "key = [\"client\"]\nrequests = 1",
        plain: [mode], at: [], none: [key, methods, requests]);
    take!(out, "issuers.NAME", authentication::Issuer,
        "issuer = \"i\"\naudiences = []\nalgorithms = []\nkeys = { jwks_url = \"\" }\nclaims = { tenant = \"t\" }",
        plain: [jti], at: [max_lifetime, clock_skew],
        none: [issuer, audiences, algorithms, keys, max_stale, private_networks, claims, typ, roles, cookie]);
}

fn apps(out: &mut Defaults) {
    take!(out, "upstreams.NAME", Upstream, "servers = []",
        plain: [protocol, connect_timeout, response_timeout, write_timeout, idle_timeout], at: [retries_max],
        none: [servers, tls, health, assertion, signature]);
    take!(out, "assertion", assertion::Settings, "issuer = \"i\"",
        plain: [], at: [lifetime, max_age], none: [issuer, es256, eddsa]);
    take!(out, "upstreams.NAME.health", Health, "", plain: [interval, timeout], at: [], none: [path]);
    take!(out, "hosts.NAME.cors", cors::Settings, "origins = []",
        plain: [credentials, max_age], at: [], none: [origins, headers, expose]);
    take!(out, "hosts.NAME.security_headers", SecurityHeaders, "",
        plain: [hsts_max_age, frame_options], at: [content_security_policy, referrer_policy], none: []);
    take!(out, "hosts.NAME.routes.NAME", Route,
        "path = \"/\"\nmethods = []\nauth = { public = \"\" }\nupstream = \"u\"",
        plain: [kind], at: [revocation],
        none: [path, methods, auth, limits, in_flight, class, ip_allowlist, waf, scope, login, upstream]);
    take!(out, "hosts.NAME.routes.NAME.auth", authentication::Auth, "",
        plain: [credentials], at: [], none: [accept, public, scopes, role, environment, max_auth_age]);
    take!(out, "revocations.max_stale", MaxStale, "", plain: [], at: [strict, standard], none: []);
    take!(out, "api_keys.failures", authentication::FailureSettings, "", plain: [], at: [attempts, window], none: []);
    if let Some(brand) = crate::settle::default_brand() {
        out.insert(("api_keys".to_owned(), "brand"), written(&brand.as_str()));
    }
}

/// A value as written in TOML: numbers as they are, texts in quotes, variants in `snake_case` and quotes.
fn written(value: &impl Debug) -> String {
    let text = format!("{value:?}");
    if text.starts_with('"') || text.bytes().all(|c| c.is_ascii_digit()) {
        return text;
    }
    let mut snake = String::from('"');
    for c in text.chars() {
        if c.is_ascii_uppercase() && snake.len() > 1 {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake.push('"');
    // A size such as `1MiB` is a value with a unit, not a variant.
    if text.starts_with(|c: char| c.is_ascii_digit()) { format!("\"{text}\"") } else { snake }
}
