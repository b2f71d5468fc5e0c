//! Host names as written in `[hosts]`: exact, or `*.` and a name for exactly one label more. Canonical or refused.

use std::{
    collections::HashMap,
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use portcullis_api::HostName;

/// What a host of the document matches.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// This name.
    Exact(HostName),
    /// Any one label before this name.
    Wildcard(HostName),
}

/// Why a host's name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// It is a name, written in another way than requests are compared by.
    #[error("host `{written}` is not canonical: {why}")]
    NotCanonical {
        /// As written.
        written: String,
        /// What is not canonical about it.
        why: &'static str,
        /// The canonical form.
        canonical: String,
    },
    /// A `*` elsewhere than in `*.name`.
    #[error("host `{0}` has a wildcard that is not possible")]
    Wildcard(String),
    /// No host name at all.
    #[error("`{0}` is no host name")]
    NoHost(String),
}

impl HostError {
    /// What to do about it.
    #[must_use]
    pub fn help(&self) -> String {
        match self {
            Self::NotCanonical { canonical, .. } => format!("write `{canonical}`"),
            Self::Wildcard(_) => "write a name, or `*.` and a name for exactly one label more".to_owned(),
            Self::NoHost(_) => "write a DNS name in lower case, as in \"api.example.com\", or an IP address".to_owned(),
        }
    }
}

impl HostPattern {
    /// Parses a host as written.
    ///
    /// # Errors
    /// [`HostError`] unless it is canonical: lower-case A-labels, no port, no trailing dot.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        match text.strip_prefix("*.") {
            Some(name) if name.contains('*') => Err(HostError::Wildcard(text.to_owned())),
            Some(name) => match canonical(name) {
                // An address has no labels that a wildcard could stand for.
                Some((found, _)) if is_address(&found) => Err(HostError::Wildcard(text.to_owned())),
                Some((found, None)) => exact(&found, text).map(Self::Wildcard),
                Some((found, Some(why))) => {
                    Err(HostError::NotCanonical { written: text.to_owned(), why, canonical: format!("*.{found}") })
                }
                None => Err(HostError::NoHost(text.to_owned())),
            },
            None if text.contains('*') => Err(HostError::Wildcard(text.to_owned())),
            None => match canonical(text) {
                Some((found, None)) => exact(&found, text).map(Self::Exact),
                Some((found, Some(why))) => {
                    Err(HostError::NotCanonical { written: text.to_owned(), why, canonical: found })
                }
                None => Err(HostError::NoHost(text.to_owned())),
            },
        }
    }

    /// The name, without `*.`.
    #[must_use]
    pub fn name(&self) -> &HostName {
        match self {
            Self::Exact(name) | Self::Wildcard(name) => name,
        }
    }

    /// Whether a certificate for `dns_name` (RFC 6125: exact, or `*` for the first label) is one for this host.
    #[must_use]
    pub fn covered_by(&self, dns_name: &str) -> bool {
        let dns_name = dns_name.to_ascii_lowercase();
        match (self, dns_name.strip_prefix("*.")) {
            (Self::Exact(host), None) => host.as_str() == dns_name,
            // An address has no labels that a `*` could stand for.
            (Self::Exact(host), Some(_)) if is_address(host.as_str()) => false,
            (Self::Exact(host), Some(suffix)) => host.as_str().split_once('.').is_some_and(|(_, rest)| rest == suffix),
            (Self::Wildcard(host), Some(suffix)) => host.as_str() == suffix,
            (Self::Wildcard(_), None) => false,
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => write!(f, "{name}"),
            Self::Wildcard(name) => write!(f, "*.{name}"),
        }
    }
}

/// One value per host, found by a canonical host name: the exact name, else the wildcard one label up. No look-up
/// allocates.
#[derive(Debug, Clone)]
pub struct HostTable<T> {
    exact: HashMap<Box<str>, T>,
    wildcard: HashMap<Box<str>, T>,
}

impl<T> Default for HostTable<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), wildcard: HashMap::new() }
    }
}

impl<T> HostTable<T> {
    /// The value for a canonical host name (a request's host, or an SNI in lower case).
    #[must_use]
    pub fn find(&self, host: &str) -> Option<&T> {
        self.exact.get(host).or_else(|| {
            let (label, rest) = host.split_once('.')?;
            if label.is_empty() { None } else { self.wildcard.get(rest) }
        })
    }
}

impl<T> FromIterator<(HostPattern, T)> for HostTable<T> {
    fn from_iter<I: IntoIterator<Item = (HostPattern, T)>>(pairs: I) -> Self {
        let mut table = Self::default();
        for (pattern, value) in pairs {
            match pattern {
                HostPattern::Exact(name) => table.exact.insert(name.as_str().into(), value),
                HostPattern::Wildcard(name) => table.wildcard.insert(name.as_str().into(), value),
            };
        }
        table
    }
}

fn exact(found: &str, written: &str) -> Result<HostName, HostError> {
    HostName::canonical(found).map_err(|_| HostError::NoHost(written.to_owned()))
}

/// Whether a canonical host is an IP address.
pub(crate) fn is_address(name: &str) -> bool {
    name.starts_with('[') || name.parse::<Ipv4Addr>().is_ok()
}

/// The canonical form, and why the text is not already in it. `None` for what is no host at all.
fn canonical(text: &str) -> Option<(String, Option<&'static str>)> {
    let mut why = None;
    let mut name = text;
    if let Some((host, port)) = text.rsplit_once(':')
        && !port.is_empty()
        && port.bytes().all(|c| c.is_ascii_digit())
        && (!host.contains(':') || host.ends_with(']'))
    {
        (name, why) = (host, Some("a host has no port"));
    }
    if let Some(inside) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let found = format!("[{}]", inside.parse::<Ipv6Addr>().ok()?);
        let other = (found != name).then_some("an address has one spelling");
        return Some((found, why.or(other)));
    }
    if let Some(stripped) = name.strip_suffix('.') {
        (name, why) = (stripped, why.or(Some("a trailing dot is removed before hosts are compared")));
    }
    let found = idna::domain_to_ascii_strict(name).ok()?;
    let last = found.rsplit('.').next().unwrap_or_default();
    let numeric = last.bytes().all(|c| c.is_ascii_digit());
    if found.is_empty() || (numeric && found.parse::<Ipv4Addr>().is_err()) {
        return None;
    }
    if !name.is_ascii() {
        why = why.or(Some("requests carry its A-label form"));
    } else if found != name {
        why = why.or(Some("hosts are compared in lower case"));
    }
    Some((found, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suggested(text: &str) -> Option<String> {
        match HostPattern::parse(text) {
            Err(HostError::NotCanonical { canonical, .. }) => Some(canonical),
            Ok(_) | Err(HostError::Wildcard(_) | HostError::NoHost(_)) => None,
        }
    }

    #[test]
    fn a_canonical_name_is_taken_as_it_is() {
        for good in ["api.example.com", "localhost", "*.example.com", "xn--bcher-kva.example", "127.0.0.1", "[::1]"] {
            assert_eq!(HostPattern::parse(good).map(|p| p.to_string()), Ok(good.to_owned()));
        }
    }

    #[test]
    fn another_spelling_is_refused_with_the_canonical_one() {
        for (written, canonical) in [
            ("API.example.com", "api.example.com"),
            ("api.example.com.", "api.example.com"),
            ("api.example.com:8443", "api.example.com"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("*.Example.com", "*.example.com"),
            ("[0:0::1]", "[::1]"),
            ("[::1]:80", "[::1]"),
        ] {
            assert_eq!(suggested(written).as_deref(), Some(canonical), "{written}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for bad in ["", ".", "a..b", "a_b.example", "-a.example", "a b", "a/b", "xn--a", "1.2.3", "::1", "a,b", "u@a"] {
            assert!(
                matches!(HostPattern::parse(bad), Err(HostError::NoHost(_))),
                "{bad}: {:?}",
                HostPattern::parse(bad)
            );
        }
        for bad in ["*", "a.*.example", "*a.example", "*.*.example", "*.127.0.0.1"] {
            assert!(matches!(HostPattern::parse(bad), Err(HostError::Wildcard(_))), "{bad}");
        }
        assert!(HostPattern::parse(&["a"; 64].join("")).is_err(), "a label has 63 characters");
        assert!(HostPattern::parse(&["a"; 130].join(".")).is_err(), "a name has 253 characters");
    }

    #[test]
    fn an_exact_host_wins_and_a_wildcard_is_for_one_label() {
        let table: HostTable<u8> = [("a.example.com", 1), ("*.example.com", 2), ("b.x.example.com", 3)]
            .map(|(host, n)| (HostPattern::parse(host).unwrap(), n))
            .into_iter()
            .collect();
        for (host, found) in [
            ("a.example.com", Some(&1)),
            ("b.example.com", Some(&2)),
            ("b.x.example.com", Some(&3)),
            ("x.example.com", Some(&2)),
            ("a.x.example.com", None),
            ("example.com", None),
            (".example.com", None),
            ("*.example.com", Some(&2)),
            ("A.example.com", Some(&2)),
            ("", None),
        ] {
            assert_eq!(table.find(host), found, "{host}");
        }
    }

    #[test]
    fn a_certificate_covers_by_whole_labels() {
        let exact = HostPattern::parse("api.example.com").unwrap();
        let wild = HostPattern::parse("*.example.com").unwrap();
        assert!(exact.covered_by("API.example.com") && exact.covered_by("*.example.com"));
        assert!(
            !exact.covered_by("example.com") && !exact.covered_by("*.com") && !exact.covered_by("*.api.example.com")
        );
        assert!(wild.covered_by("*.example.com"));
        let address = HostPattern::parse("127.0.0.1").unwrap();
        assert!(address.covered_by("127.0.0.1") && !address.covered_by("*.0.0.1"));
        assert!(!wild.covered_by("api.example.com") && !wild.covered_by("*.com"));
    }
}
