//! What is in order about issuers and yet worth a look, for `portcullis check`.

use std::collections::BTreeMap;

use portcullis_api::Millis;

use super::{
    Issuer, Keys, Presence,
    key_server::{authority_of, host_of},
};

/// A token that lives longer is one that is stolen for longer.
const LIFETIME_LONG: Millis = Millis::from_secs(86_400);

/// One line for each thing that is worth a look.
#[must_use]
pub fn notes(issuers: &BTreeMap<String, Issuer>) -> Vec<String> {
    issuers.iter().flat_map(|(name, issuer)| of_issuer(name, issuer)).collect()
}

fn of_issuer(name: &str, issuer: &Issuer) -> Vec<String> {
    let mut notes = Vec::new();
    if issuer.typ.is_none() {
        notes.push(format!(
            "issuer `{name}` has no `typ`: whatever it signs for one of these audiences is an access token here, also an ID token"
        ));
    }
    if issuer.max_lifetime.value > LIFETIME_LONG {
        notes.push(format!("tokens of issuer `{name}` may live {}, longer than a day", issuer.max_lifetime.value));
    }
    if issuer.jti == Presence::Optional {
        notes.push(format!(
            "tokens of issuer `{name}` need no `jti`: one without it is revoked by itself only, not by a name"
        ));
    }
    let source = match &issuer.keys.value {
        Keys::JwksUrl(url) | Keys::Discovery(url) => Some(url),
        Keys::JwksFile(_) | Keys::Secret(_) => None,
    };
    if let (Some(keys), Some(own)) = (source.and_then(|url| host(url)), host(&issuer.issuer.value))
        && !is_related(&keys, &own)
    {
        notes.push(format!(
            "issuer `{name}` is at {own} and has its keys at {keys}: whoever has that host can sign for it"
        ));
    }
    notes
}

fn host(url: &str) -> Option<String> {
    let host = host_of(authority_of(url)?);
    (!host.is_empty()).then(|| host.to_ascii_lowercase())
}

/// Whether one is the other or a name below it.
fn is_related(one: &str, other: &str) -> bool {
    let below = |name: &str, of: &str| name.strip_suffix(of).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    below(one, other) || below(other, one)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(lines: &str) -> Vec<String> {
        let text = format!(
            "[main]\nissuer = \"https://id.example.com/t\"\naudiences = [\"a\"]\nalgorithms = [\"ES256\"]\nclaims = {{ tenant = \"t\" }}\n{lines}"
        );
        notes(&toml::from_str(&text).unwrap())
    }

    const KEYS: &str = "keys = { jwks_file = \"a\" }\n";

    #[test]
    fn an_issuer_without_a_type_is_noted() {
        assert_eq!(said(&format!("{KEYS}typ = \"at+jwt\"")), Vec::<String>::new());
        let notes = said(KEYS);
        assert!(notes.len() == 1 && notes[0].starts_with("issuer `main` has no `typ`"), "{notes:?}");
    }

    #[test]
    fn tokens_that_live_long_or_have_no_name_are_noted() {
        assert!(said(&format!("{KEYS}typ = \"JWT\"\nmax_lifetime = \"24h\"")).is_empty());
        let notes = said(&format!("{KEYS}typ = \"JWT\"\nmax_lifetime = \"25h\"\njti = \"optional\""));
        assert!(notes.len() == 2 && notes[0].contains("25h") && notes[1].contains("`jti`"), "{notes:?}");
    }

    #[test]
    fn keys_at_another_host_are_noted() {
        let of = |url: &str| said(&format!("keys = {{ jwks_url = \"{url}\" }}\ntyp = \"JWT\"")).len();
        for near in [
            "https://id.example.com/keys",
            "https://keys.id.example.com/a",
            "https://example.com:444/a",
            "https://ID.example.com",
        ] {
            assert_eq!(of(near), 0, "{near}");
        }
        for far in ["https://id.example.org/keys", "https://xid.example.com/keys", "https://evil.test/id.example.com"] {
            assert_eq!(of(far), 1, "{far}");
        }
    }
}
