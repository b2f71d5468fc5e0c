//! From a [`Document`] to a [`Settled`], or to everything that is wrong with it at once.
//!
//! Checks that belong to a control are in the control; here is what no control sees: sockets, names, certificates,
//! secrets, upstreams, and that no two routes match equally.

mod api_keys;
mod assertion;
mod certificates;
mod client_certificates;
mod cors;
mod exchange;
mod hosts;
mod issuers;
mod listeners;
mod references;
mod routes;
mod signature;
mod state;
mod upstreams;

pub use references::{admin, secret};

use std::{
    collections::BTreeSet,
    ffi::OsString,
    ops::Range,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

pub(crate) use state::default_brand;

use portcullis_api::{Issues, TenantId, UnixSeconds};

use crate::{
    document::{Document, HostTenant},
    settled::Settled,
};

/// What settling reads beside the document. Handed in, so that a test can say what time it is.
pub struct Surroundings<'s> {
    /// The folder that relative paths are relative to: the configuration file's.
    pub base: &'s Path,
    /// For the dates of certificates.
    pub now: UnixSeconds,
    /// For `env:` references.
    pub env: &'s dyn Fn(&str) -> Option<OsString>,
}

/// Settles a document: reads what it refers to, relative to `base`, and adds everything that is wrong to `issues`.
/// `None` exactly when it added some.
pub fn settle(document: &Document, base: &Path, issues: &mut Issues) -> Option<Settled> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    settle_in(document, &Surroundings { base, now, env: &|name| std::env::var_os(name) }, issues)
}

/// [`settle`] with its surroundings handed in.
pub fn settle_in(document: &Document, around: &Surroundings<'_>, issues: &mut Issues) -> Option<Settled> {
    let before = issues.as_slice().len();
    let mut room = Room { document, around, issues };
    let doc = document;
    if doc.version.value != 1 {
        let message = format!("version {} is not known", doc.version.value);
        room.issues.push_help("document.version", &doc.version.span, message, "write `version = 1`");
    }
    let listeners = room.listeners();
    let admin = room.admin();
    let log = room.log();
    let stores = room.stores();
    let revocations = room.revocations();
    let mut issuers = room.issuers();
    let api_keys = room.api_keys();
    let exchange = room.exchange(&mut issuers, api_keys.as_ref().and_then(Option::as_ref));
    let assertion = room.assertion();
    let upstreams = room.upstreams();
    room.signature_keys(&upstreams);
    let hosts = room.hosts();
    // Each room that answers `None` has said why; the count is the one truth about whether anything was wrong.
    let (admin, log, stores, api_keys, assertion) = (admin?, log?, stores?, api_keys?, assertion?);
    if room.issues.as_slice().len() > before {
        return None;
    }
    Some(Settled {
        listeners,
        certificates: hosts.certificates,
        router: hosts.router,
        cors: hosts.cors,
        upstreams,
        assertion,
        admin,
        log,
        stores,
        revocations,
        issuers,
        api_keys,
        exchange,
        tenants: tenants(doc),
    })
}

/// Every tenant the document names, once.
fn tenants(document: &Document) -> Vec<TenantId> {
    let fixed = document.hosts.values().filter_map(|host| match &host.tenant.value {
        HostTenant::Identity => None,
        HostTenant::Fixed(tenant) => Some(tenant),
    });
    fixed.chain(document.tenants.keys()).cloned().collect::<BTreeSet<_>>().into_iter().collect()
}

/// A document on its way to being settled.
struct Room<'r> {
    document: &'r Document,
    around: &'r Surroundings<'r>,
    issues: &'r mut Issues,
}

impl Room<'_> {
    /// Where a name was written.
    fn key(&self, path: &[&str]) -> Range<usize> {
        self.document.places.key(path)
    }

    /// A table that may not be empty: "nothing" is never what an operator means.
    fn needs_one(&mut self, empty: bool, code: &'static str, path: &[&str], example: &str) {
        if empty {
            let table = crate::places::dotted(path);
            let span = self.key(path);
            self.issues.push_help(code, &span, format!("`{table}` is empty"), format!("write at least one {example}"));
        }
    }

    /// A name that ends up in logs, metric labels and messages: 1 to 64 of a-z, A-Z, 0-9, `-` and `_`.
    fn name(&mut self, path: &[&str]) {
        let name = path.last().copied().unwrap_or_default();
        let ok =
            (1..=64).contains(&name.len()) && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_');
        if !ok {
            let span = self.key(path);
            let message = format!("name {name:?} is not possible");
            self.issues.push_help("document.name", &span, message, "write 1 to 64 of a-z, A-Z, 0-9, `-` and `_`");
        }
    }
}
