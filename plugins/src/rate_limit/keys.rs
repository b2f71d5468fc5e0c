//! What a limit counts by, as one keyed hash of 128 bits.
//!
//! Invariant: nobody outside can choose two requests that meet in one bucket, or a set of the table to crowd. In a
//! shared store no address, key id or subject stands; only the HMAC of it.

use std::{
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
    net::IpAddr,
};

use aws_lc_rs::hmac;
use http::{HeaderMap, HeaderName};
use parking_lot::Mutex;
use portcullis_api::{Secret, TenantId};

use crate::authentication::Caller;

/// The key under which buckets are hashed. It outlives every snapshot: a new one starts every bucket full.
#[derive(Debug)]
pub struct KeyHasher {
    process: Process,
    deployment: Option<Box<Deployment>>,
}

/// SipHash twice, under keys that this process draws.
#[derive(Debug, Default)]
struct Process(RandomState, RandomState);

impl Process {
    fn hash(&self, bytes: &[u8]) -> u128 {
        let hash = |state: &RandomState| {
            let mut hasher = state.build_hasher();
            hasher.write(bytes);
            u128::from(hasher.finish())
        };
        (hash(&self.0) << 64) | hash(&self.1)
    }
}

/// HMAC-SHA256 under the deployment's key, which is the same in every instance.
struct Deployment {
    key: hmac::Key,
    /// By the process's hash of the same bytes, what they gave last: an HMAC costs ten times the look-up. Nobody outside
    /// knows the process's keys, so nobody can choose two keys that are taken for one.
    known: Box<[Mutex<(u128, u128)>]>,
}

/// How many [`Deployment`] remembers, 400 kB, and the bits of a hash that say where.
const KNOWN: usize = 0x2000;
const PLACE: u128 = 0x1fff;

impl fmt::Debug for Deployment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deployment").finish_non_exhaustive()
    }
}

impl Deployment {
    /// `local` is the process's hash of `bytes`.
    fn hash(&self, local: u128, bytes: &[u8]) -> u128 {
        let place = usize::try_from(local & PLACE).ok().and_then(|at| self.known.get(at));
        // One that is being written is not waited for.
        let mut known = place.and_then(|place| place.try_lock());
        if let Some(known) = known.as_deref().filter(|known| known.0 == local) {
            return known.1;
        }
        // The first 128 of 256 bits.
        let hash = hmac::sign(&self.key, bytes).as_ref().first_chunk().copied().map_or(0, u128::from_be_bytes);
        if let Some(known) = known.as_deref_mut() {
            *known = (local, hash);
        }
        hash
    }
}

impl KeyHasher {
    /// For buckets in memory: nobody else knows the hash.
    #[must_use]
    pub fn process() -> Self {
        Self { process: Process::default(), deployment: None }
    }

    /// For buckets in a shared store: the same hash in every instance that has the key.
    #[must_use]
    pub fn deployment(key: &Secret) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key.expose());
        let known = std::iter::repeat_with(Mutex::default).take(KNOWN).collect();
        Self { process: Process::default(), deployment: Some(Box::new(Deployment { key, known })) }
    }

    /// What tells two deployment keys apart and neither of them.
    #[must_use]
    pub fn fingerprint(&self) -> u128 {
        let mut hashing = self.begin();
        hashing.field(b"fingerprint");
        hashing.finish()
    }

    pub(crate) fn begin(&self) -> Hashing<'_> {
        Hashing { hasher: self, bytes: Vec::with_capacity(BYTES) }
    }

    fn hash(&self, bytes: &[u8]) -> u128 {
        let local = self.process.hash(bytes);
        self.deployment.as_ref().map_or(local, |deployment| deployment.hash(local, bytes))
    }
}

/// A hash under way. The bytes are gathered and hashed at once: a hasher that is fed in pieces costs several times as much.
pub(crate) struct Hashing<'h> {
    hasher: &'h KeyHasher,
    bytes: Vec<u8>,
}

/// What most keys fit in.
const BYTES: usize = 192;

impl Hashing<'_> {
    /// Adds a field. Its length goes first, so that no two lists of fields read the same.
    pub(crate) fn field(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn finish(self) -> u128 {
        self.hasher.hash(&self.bytes)
    }
}

/// Writes into a key which numbers its bucket has, as one byte: in a table in memory a flood of buckets with other numbers
/// is none of its business. See `table`.
pub(crate) fn with_class(key: u128, revision: &[u8]) -> u128 {
    let class = revision.iter().fold(0_u8, |class, byte| class.rotate_left(3) ^ byte);
    (key & !(0xff << 64)) | (u128::from(class) << 64)
}

/// One part of a key, as compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    Client,
    ApiKey,
    Subject,
    Tenant,
    Route,
    Caller,
    Header(HeaderName),
}

impl fmt::Display for Part {
    /// As in a limit's `key`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client => f.write_str("client"),
            Self::ApiKey => f.write_str("api_key"),
            Self::Subject => f.write_str("subject"),
            Self::Tenant => f.write_str("tenant"),
            Self::Route => f.write_str("route"),
            Self::Caller => f.write_str("caller"),
            Self::Header(name) => write!(f, "header:{name}"),
        }
    }
}

/// What a limit counts by, together.
#[derive(Debug)]
pub(crate) struct Parts(Box<[Part]>);

impl Parts {
    pub(super) fn new(parts: Vec<Part>) -> Self {
        Self(parts.into())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Part> {
        self.0.iter()
    }

    /// Whether one of them is known only after authentication.
    pub(super) fn need_identity(&self) -> bool {
        self.0.iter().any(|part| match part {
            Part::ApiKey | Part::Subject | Part::Tenant | Part::Caller => true,
            Part::Client | Part::Route | Part::Header(_) => false,
        })
    }

    /// The hash of a request's values, after what `begin` has hashed. All requests that lack one share one hash.
    pub(crate) fn hash<'h>(&self, origin: &Origin<'_>, begin: impl Fn() -> Hashing<'h>) -> u128 {
        let begin = |kind: &[u8]| {
            let mut hashing = begin();
            hashing.field(kind);
            hashing
        };
        let mut hashing = begin(b"known");
        match self.0.iter().try_for_each(|part| origin.add(part, &mut hashing)) {
            Some(()) => hashing.finish(),
            None => begin(b"unknown").finish(),
        }
    }
}

/// What is known of a request's origin when a limit is asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin<'r> {
    /// The client as it is counted.
    pub(crate) client: IpAddr,
    /// `host/route`: stays the same across reloads, unlike an index.
    pub(crate) route: &'r str,
    pub(crate) headers: &'r HeaderMap,
    pub(crate) who: Who<'r>,
}

/// Who calls, as far as it is known. Before authentication nothing is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Who<'r> {
    pub(crate) key_id: Option<&'r str>,
    /// Issuer and subject.
    pub(crate) subject: Option<(&'r str, &'r str)>,
    pub(crate) tenant: Option<&'r TenantId>,
}

impl<'r> Who<'r> {
    /// `tenant` is the one the request runs for, which may be the host's fixed one.
    pub(crate) fn of(caller: &'r Caller, tenant: Option<&'r TenantId>) -> Self {
        match caller {
            Caller::Verified(identity) => Self {
                key_id: identity.key_id(),
                subject: Some((identity.issuer(), identity.subject())),
                tenant: tenant.or(Some(identity.tenant())),
            },
            Caller::Anonymous => Self { key_id: None, subject: None, tenant },
        }
    }
}

impl Origin<'_> {
    /// Adds a part's value, or says that the request lacks it.
    pub(super) fn add(&self, part: &Part, hashing: &mut Hashing<'_>) -> Option<()> {
        match part {
            Part::Client => Self::add_address(self.client, hashing),
            Part::ApiKey => hashing.field(self.who.key_id?.as_bytes()),
            Part::Subject => add_subject(self.who.subject?, hashing),
            Part::Tenant => hashing.field(self.who.tenant?.as_str().as_bytes()),
            Part::Route => hashing.field(self.route.as_bytes()),
            Part::Caller => self.add_caller(hashing),
            Part::Header(name) => self.add_header(name, hashing)?,
        }
        Some(())
    }

    pub(crate) fn add_address(address: IpAddr, hashing: &mut Hashing<'_>) {
        match address {
            IpAddr::V4(ip) => hashing.field(&ip.octets()),
            IpAddr::V6(ip) => hashing.field(&ip.octets()),
        }
    }

    /// The kind goes first: a subject that looks like a key id is another caller.
    fn add_caller(&self, hashing: &mut Hashing<'_>) {
        match (self.who.key_id, self.who.subject) {
            (Some(key_id), _) => {
                hashing.field(b"api_key");
                hashing.field(key_id.as_bytes());
            }
            (None, Some(subject)) => {
                hashing.field(b"subject");
                add_subject(subject, hashing);
            }
            (None, None) => {
                hashing.field(b"client");
                Self::add_address(self.client, hashing);
            }
        }
    }

    /// All values of a repeated header count, so that adding one more makes no new client of an old one unseen.
    fn add_header(&self, name: &HeaderName, hashing: &mut Hashing<'_>) -> Option<()> {
        let values = self.headers.get_all(name);
        values.iter().next()?;
        hashing.field(&values.iter().count().to_be_bytes());
        values.iter().for_each(|value| hashing.field(value.as_bytes()));
        Some(())
    }
}

fn add_subject((issuer, subject): (&str, &str), hashing: &mut Hashing<'_>) {
    hashing.field(issuer.as_bytes());
    hashing.field(subject.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(hasher: &KeyHasher, fields: &[&str]) -> u128 {
        let mut hashing = hasher.begin();
        fields.iter().for_each(|field| hashing.field(field.as_bytes()));
        hashing.finish()
    }

    #[test]
    fn fields_do_not_run_into_each_other() {
        for hasher in [KeyHasher::process(), KeyHasher::deployment(&Secret::new(vec![7; 32]))] {
            assert_eq!(hash(&hasher, &["ab", "c"]), hash(&hasher, &["ab", "c"]));
            for other in [&["a", "bc"][..], &["abc"], &["ab", "c", ""], &["", "ab", "c"]] {
                assert_ne!(hash(&hasher, &["ab", "c"]), hash(&hasher, other), "{other:?}");
            }
        }
    }

    #[test]
    fn two_processes_hash_apart_and_two_instances_of_a_deployment_alike() {
        assert_ne!(hash(&KeyHasher::process(), &["x"]), hash(&KeyHasher::process(), &["x"]));
        let deployment = |byte| KeyHasher::deployment(&Secret::new(vec![byte; 32]));
        assert_eq!(hash(&deployment(1), &["x"]), hash(&deployment(1), &["x"]));
        assert_ne!(hash(&deployment(1), &["x"]), hash(&deployment(2), &["x"]));
    }

    #[test]
    fn a_hash_of_a_deployment_is_the_hmac_remembered_or_not() {
        let key = [7; 32];
        let hasher = KeyHasher::deployment(&Secret::new(key.to_vec()));
        let hmac = |text: &str| {
            let field = [&u64::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat();
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), &field);
            u128::from_be_bytes(*tag.as_ref().first_chunk().unwrap())
        };
        // More than are remembered, twice.
        for text in (0..3 * KNOWN).chain(0..3 * KNOWN).map(|n| n.to_string()) {
            assert_eq!(hash(&hasher, &[&text]), hmac(&text), "{text}");
        }
        assert_eq!(hash(&hasher, &["1"]), hmac("1"));
        assert_eq!(hash(&hasher, &["1"]), hmac("1"));
    }

    #[test]
    fn a_caller_is_the_key_else_the_subject_else_the_client() {
        let hasher = KeyHasher::process();
        let headers = HeaderMap::new();
        let caller = |key_id, subject, client: &str| {
            let who = Who { key_id, subject, tenant: None };
            let origin = Origin { client: client.parse().unwrap(), route: "h/r", headers: &headers, who };
            let mut hashing = hasher.begin();
            origin.add(&Part::Caller, &mut hashing).unwrap();
            hashing.finish()
        };
        let (a, b) = ("192.0.2.1", "192.0.2.2");
        assert_eq!(caller(Some("k"), Some(("i", "s")), a), caller(Some("k"), None, b));
        assert_eq!(caller(None, Some(("i", "s")), a), caller(None, Some(("i", "s")), b));
        assert_ne!(caller(None, Some(("i", "s")), a), caller(None, Some(("j", "s")), a));
        assert_ne!(caller(None, None, a), caller(None, None, b));
        assert_ne!(caller(Some("s"), None, a), caller(None, Some(("", "s")), a));
    }

    #[test]
    fn a_header_that_is_missing_is_no_value_and_a_repeated_one_is_another() {
        let hasher = KeyHasher::process();
        let value = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("x-plan", value.parse().unwrap());
            }
            let origin =
                Origin { client: "::1".parse().unwrap(), route: "h/r", headers: &headers, who: Who::default() };
            let mut hashing = hasher.begin();
            origin.add(&Part::Header(HeaderName::from_static("x-plan")), &mut hashing).map(|()| hashing.finish())
        };
        assert_eq!(value(&[]), None);
        assert_eq!(value(&["gold"]), value(&["gold"]));
        assert_ne!(value(&["gold"]), value(&["gold", "gold"]));
        assert_ne!(value(&["gold"]), value(&[""]));
    }
}
