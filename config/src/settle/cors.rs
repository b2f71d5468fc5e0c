//! What a host allows browsers of other origins. An origin that no browser sends would be a rule that never applies.

use std::ops::Range;

use portcullis_api::At;
use portcullis_plugins::cors::Settings;

use super::Room;
use crate::pattern::{HostError, HostPattern, is_address};

impl Room<'_> {
    pub(super) fn cors(&mut self, host: &str, cors: &Settings) {
        if cors.origins.is_empty() {
            let span = self.key(&["hosts", host, "cors", "origins"]);
            let help = "write the origins, or leave the whole table out: then none may";
            self.issues.push_help("cors.no_origins", &span, "no origin is listed", help);
        }
        let mut seen: Vec<&str> = Vec::new();
        for At { value, span } in &cors.origins {
            let origin = value.as_str();
            if seen.contains(&origin) {
                self.issues.push_help(
                    "cors.origin",
                    span,
                    format!("origin `{origin}` is written twice"),
                    "write it once",
                );
            } else if let Err(help) = browser_sends(origin) {
                self.issues.push_help(
                    "cors.origin",
                    span,
                    format!("no page to be trusted has origin `{origin}`"),
                    help,
                );
            }
            seen.push(origin);
        }
        for At { value, span } in cors.headers.iter().chain(&cors.expose) {
            self.header_name(value, span);
        }
    }

    fn header_name(&mut self, name: &str, span: &Range<usize>) {
        let help = match http::HeaderName::from_bytes(name.as_bytes()) {
            _ if name == "*" => "list the names; `*` is not possible".to_owned(),
            Ok(parsed) if parsed.as_str() == name => return,
            Ok(parsed) => format!("write `{parsed}`"),
            Err(_) => "write one name, as in \"content-type\"".to_owned(),
        };
        self.issues.push_help("cors.header", span, format!("{name:?} is no header name in lower case"), help);
    }
}

/// Whether a browser serialises an origin like this, and over a connection that nobody can write into.
fn browser_sends(origin: &str) -> Result<(), String> {
    let (scheme, rest) = origin.split_once("://").unwrap_or(("", origin));
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !rest.ends_with(']') => (host, Some(port)),
        Some(_) | None => (rest, None),
    };
    match HostPattern::parse(host) {
        Ok(HostPattern::Exact(_)) => {}
        Ok(HostPattern::Wildcard(_)) => return Err("write each origin; patterns are not possible".to_owned()),
        Err(error @ (HostError::NotCanonical { .. } | HostError::Wildcard(_) | HostError::NoHost(_))) => {
            return Err(error.help());
        }
    }
    let default = if scheme == "https" { "443" } else { "80" };
    match port {
        Some(port) if port == default => return Err(format!("write `{scheme}://{host}`: a default port is left out")),
        Some(port) if !port.parse::<u16>().is_ok_and(|parsed| parsed > 0 && parsed.to_string() == port) => {
            return Err("a port is 1 to 65535".to_owned());
        }
        Some(_) | None => {}
    }
    // Anybody on the network can be a page of a plain origin; only this machine's own is spared, for development.
    let own = host == "localhost" || host == "[::1]" || (is_address(host) && host.starts_with("127."));
    if scheme == "https" || own { Ok(()) } else { Err(format!("write `https://{rest}`")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_browser_sends_is_an_origin() {
        for good in [
            "https://app.example.com",
            "https://app.example.com:8443",
            "http://localhost:3000",
            "http://127.0.0.1:3000",
            "https://[::1]:3000",
            "http://[::1]",
        ] {
            assert_eq!(browser_sends(good), Ok(()), "{good}");
        }
        for bad in [
            "http://app.example.com",
            "https://app.example.com:443",
            "http://localhost:80",
            "https://app.example.com:",
            "https://app.example.com:0",
            "https://app.example.com:08",
            "https://app.example.com.",
            "https://a..b",
            "http://127.example.com",
        ] {
            assert!(browser_sends(bad).is_err(), "{bad}");
        }
    }
}
