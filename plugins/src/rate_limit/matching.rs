//! What limits of every kind are written with, be they of a rate or of requests under way: a name, what they count by,
//! and requests of which methods.

use std::{num::NonZeroU32, ops::Range};

use http::{HeaderName, Method};
use portcullis_api::{At, Issues, MethodName, TenantId, nearest};

use super::{
    KeyPart,
    keys::{Part, Parts},
};
use crate::reserved;

/// Headers that carry a credential.
pub(crate) const CREDENTIALS: &[&str] = &["authorization", "cookie", "proxy-authorization", "x-api-key"];

/// The table of the document that a limit stands in, by the codes of its issues.
pub(crate) struct Section {
    /// As in the document.
    pub(crate) table: &'static str,
    /// One limit of it, in a sentence.
    pub(crate) one: &'static str,
    pub(crate) name: &'static str,
    pub(crate) unknown: &'static str,
    pub(crate) duplicate: &'static str,
    pub(crate) key_empty: &'static str,
    pub(crate) key_duplicate: &'static str,
    pub(crate) key_header: &'static str,
    pub(crate) methods: &'static str,
    pub(crate) never_counts: &'static str,
    pub(crate) tenant_raises: &'static str,
}

/// `[limits]`.
pub(crate) const LIMITS: Section = Section {
    table: "limits",
    one: "a limit",
    name: "limits.name",
    unknown: "limits.unknown",
    duplicate: "limits.duplicate",
    key_empty: "limits.key_empty",
    key_duplicate: "limits.key_duplicate",
    key_header: "limits.key_header",
    methods: "limits.methods",
    never_counts: "limits.never_counts",
    tenant_raises: "limits.tenant_raises",
};

impl Section {
    /// A name goes into header fields, metric labels and keys of the store.
    pub(crate) fn check_name(&self, name: &str, span: &Range<usize>, issues: &mut Issues) {
        let ok = (1..=64).contains(&name.len())
            && name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_' || c == b'-');
        if !ok {
            let name: String = name.chars().take(64).flat_map(char::escape_default).collect();
            issues.push(self.name, span, format!("`{name}` is no name of a limit: write 1 to 64 of a-z, 0-9, _ and -"));
        }
    }

    pub(crate) fn parts(&self, name: &str, key: &At<Vec<At<KeyPart>>>, issues: &mut Issues) -> Parts {
        if key.value.is_empty() {
            issues.push_help(
                self.key_empty,
                &key.span,
                format!("`{name}` counts by nothing: everybody would share one bucket"),
                "write what is counted, e.g. `key = [\"client\"]`; to share one bucket per route write `[\"route\"]`",
            );
        }
        let mut parts = Vec::with_capacity(key.value.len());
        for At { value, span } in &key.value {
            let part = match value {
                KeyPart::Client => Part::Client,
                KeyPart::ApiKey => Part::ApiKey,
                KeyPart::Subject => Part::Subject,
                KeyPart::Tenant => Part::Tenant,
                KeyPart::Route => Part::Route,
                KeyPart::Caller => Part::Caller,
                KeyPart::Header(header) => match header_part(header) {
                    Ok(header) => header,
                    Err((wrong, help)) => {
                        let header: String = header.chars().take(64).flat_map(char::escape_default).collect();
                        let message = format!("`{name}` counts by `{header}`, {wrong}");
                        issues.push_help(self.key_header, span, message, help);
                        continue;
                    }
                },
            };
            if parts.contains(&part) {
                issues.push(self.key_duplicate, span, format!("`{name}` counts by one thing twice"));
            } else {
                parts.push(part);
            }
        }
        Parts::new(parts)
    }

    pub(crate) fn counts(&self, name: &str, methods: Option<&At<Vec<At<MethodName>>>>, issues: &mut Issues) -> Counts {
        let Some(At { value: written, span }) = methods else { return Counts::All };
        if written.is_empty() {
            let message = format!("`{name}` counts requests of no method");
            issues.push_help(self.methods, span, message, "leave `methods` out to count all, or list them");
        }
        for (n, At { value, span }) in written.iter().enumerate() {
            if written.iter().take(n).any(|earlier| earlier.value == *value) {
                let message = format!("`{name}`: method {} is written twice", value.method());
                issues.push_help(self.methods, span, message, "write each method once");
            }
        }
        Counts::Only(MethodName::with_head(written.iter().map(|method| method.value.clone())).into())
    }

    /// Names a limit that does not exist. `elsewhere` are those of the other table, for whoever mixed up the two.
    pub(crate) fn unknown<'k>(
        &self,
        (name, span): (&str, &Range<usize>),
        whose: &str,
        known: impl Iterator<Item = &'k str> + Clone,
        (table, elsewhere): (&str, &[&str]),
        issues: &mut Issues,
    ) {
        let shown: String = name.chars().take(64).flat_map(char::escape_default).collect();
        let message = format!("{whose} names {} `{shown}` that does not exist", self.one);
        let help = match nearest(name, known.clone()) {
            _ if elsewhere.contains(&name) => format!("it is one of `{table}`: name it there"),
            Some(near) => format!("did you mean `{near}`?"),
            None if known.clone().next().is_none() => format!("write `[{}.{shown}]`", self.table),
            None => format!("known are {}", known.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")),
        };
        issues.push_help(self.unknown, span, message, help);
    }

    /// A tenant's own number; one above what the tenant has is an issue, and changes nothing.
    pub(crate) fn lowered(
        &self,
        own: Option<&At<NonZeroU32>>,
        ceiling: NonZeroU32,
        what: &str,
        (tenant, limit): (&TenantId, &str),
        issues: &mut Issues,
    ) -> Option<NonZeroU32> {
        let own = own?;
        if own.value <= ceiling {
            return Some(own.value);
        }
        issues.push_help(
            self.tenant_raises,
            &own.span,
            format!("tenant `{tenant}` sets {what} of `{limit}` to {}, above the {ceiling} it has", own.value),
            "a tenant may only lower its numbers; to raise them, raise them in its grant",
        );
        None
    }

    /// A limit that counts none of a route's methods would be read as if the route were under it.
    pub(crate) fn some_method_is_counted(
        &self,
        (route, admitted): (&str, &[Method]),
        (name, span): (&str, &Range<usize>),
        counts: &Counts,
        issues: &mut Issues,
    ) {
        if admitted.is_empty() || admitted.iter().any(|method| counts.has(method)) {
            return;
        }
        let all = admitted.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
        let message = format!("route `{route}` is under `{name}`, which counts none of its methods: {all}");
        issues.push_help(self.never_counts, span, message, "take one from the other, or add a method to one of them");
    }
}

/// The methods that a route admits; none where one of them is none, or where there is none: that is the route's own
/// mistake, and said there.
pub(crate) fn admitted(written: &[At<String>]) -> Vec<Method> {
    let methods: Result<Vec<_>, _> = written.iter().map(|method| MethodName::parse(&method.value)).collect();
    methods.map_or_else(|_| Vec::new(), MethodName::with_head)
}

/// Requests of which methods a limit counts.
#[derive(Debug)]
pub(crate) enum Counts {
    All,
    /// At least one; `HEAD` is among them where `GET` is.
    Only(Box<[Method]>),
}

impl Counts {
    pub(crate) fn has(&self, method: &Method) -> bool {
        match self {
            Self::All => true,
            Self::Only(methods) => methods.contains(method),
        }
    }
}

/// A header that a client's request can have when it is counted, or what is wrong with it and what to write.
fn header_part(name: &str) -> Result<Part, (&'static str, &'static str)> {
    let header = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| ("which is no name of a header", "write letters, digits and hyphens, e.g. \"header:x-plan\""))?;
    if reserved::is_reserved(&header) {
        return Err((
            "a header that the gateway strips: all clients would share one bucket, and each could use it up for all",
            "count by \"client\", \"tenant\", \"subject\" or \"api_key\", which the gateway verifies itself",
        ));
    }
    if CREDENTIALS.contains(&header.as_str()) {
        return Err((
            "a credential, which is not verified yet when it is counted: each guess would have a bucket of its own",
            "count by \"caller\", \"subject\" or \"api_key\"",
        ));
    }
    Ok(Part::Header(header))
}
