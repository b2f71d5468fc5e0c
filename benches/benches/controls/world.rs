//! What the controls are compiled from and asked about: one document, keys, and requests as the journey sees them.

use std::{
    fmt::Write,
    future::Future,
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    path::Path,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context as TaskContext, Poll, Waker},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, anyhow};
use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use portcullis_api::{
    ClientIp, Clock, Facts, Issues, Micros, Protocol, RouteId, Secret, Topology, UnixSeconds, Verdict,
};
use portcullis_benches::token::{self, Es256};
use portcullis_config::Document;
use portcullis_plugins::{
    authentication::{Algorithm, ApiKeyNeeds, CACHE_BYTES, KeySet, KeySetState, KeySets, Renewing, VerifiedCache},
    bans::BanTable,
    burst,
    controls::{Controls, Needs},
    in_flight, login,
    rate_limit::{
        self, Bucket, Clearing, Fleet, Instead, KEYS_MAX, KeyHasher, Peeking, Rate, SharedCounters, StoreFault, Table,
        Tables, Taking,
    },
    revocations::Revocations,
    waf,
};

/// Networks on the site's address list.
pub(crate) const NETWORKS: u32 = 10_000;
/// The host of every request.
pub(crate) const HOST: &str = "api.example.com";
/// The session cookie of the issuer.
pub(crate) const COOKIE: &str = "__Host-session";
/// The only route.
pub(crate) const ROUTE: RouteId = RouteId::new(0);

/// Limits that no run reaches under [`Ticking`]: what is measured is counting, not refusing. Where no store is shared
/// `consistency` changes nothing.
const DOCUMENT: &str = r#"
burst = { requests = 1000000, window = "1s" }
waf = { urls_max = 100000, phones_max = 100000, chars_max = 8192, body_max = "1MiB" }

[limits.by_client]
key = ["client"]
requests = 1000000
window = "1s"
consistency = "local"

[limits.by_route]
key = ["client", "route"]
requests = 1000000
window = "1s"
consistency = "local"

[limits.by_agent]
key = ["client", "header:user-agent"]
requests = 1000000
window = "1s"
consistency = "local"

[limits.by_caller]
key = ["tenant", "caller", "route"]
requests = 1000000
window = "1s"

[listeners.local]
address = "127.0.0.1:8080"
client_ip = "direct"
tls = "off"

[upstreams.app]
servers = ["127.0.0.1:9"]

[hosts."api.example.com"]
tenant = "identity"

[hosts."api.example.com".routes.orders]
path = "/v1/orders"
methods = ["GET", "POST"]
upstream = "app"
auth = { accept = ["jwt:load", "cookie:load"], scopes = ["orders:read"], role = "developer" }
limits = ["by_client", "by_route", "by_agent", "by_caller"]

[issuers.load]
audiences = ["load"]
algorithms = ["ES256"]
keys = { jwks_file = "unread" }
cookie = "__Host-session"
claims = { tenant = "tenant_id", roles = "roles", scopes = "scope" }
"#;

/// Controls, and what outlives them.
pub(crate) struct World {
    pub(crate) controls: Controls,
    pub(crate) bans: Arc<BanTable>,
    pub(crate) clock: Arc<Ticking>,
    pub(crate) token: String,
}

impl World {
    /// Compiles everything. `cache_bytes` is the memory for verified tokens.
    pub(crate) fn new(cache_bytes: u64) -> anyhow::Result<Self> {
        Self::counting(cache_bytes, rate_limit::Needs::in_memory)
    }

    /// With limits that are counted by shares beside a store that gateways share, which is never asked.
    pub(crate) fn by_shares() -> anyhow::Result<Self> {
        Self::counting(CACHE_BYTES, |clock, tables| {
            rate_limit::Needs::shared(clock, tables, Arc::new(Three), &Secret::new(vec![7; 32]))
        })
    }

    fn counting(
        cache_bytes: u64,
        limits: impl FnOnce(Arc<dyn Clock>, Arc<Tables>) -> rate_limit::Needs,
    ) -> anyhow::Result<Self> {
        let signed = token::es256()?;
        let document = document()?;
        let clock = Arc::new(Ticking::default());
        let bans = Arc::new(BanTable::new(&waf::Violations::default(), std::hash::RandomState::new()));
        let needs = Needs {
            clock: clock.clone(),
            bans: bans.clone(),
            login: login::Needs { locks: Arc::new(login::Locks::new(None)), shared: None, clock: clock.clone() },
            in_flight: in_flight::Needs::alone(),
            limits: limits(clock.clone(), Arc::new(Tables::new(KEYS_MAX))),
            burst: burst::Needs {
                clock: clock.clone(),
                table: Arc::new(Table::new(KEYS_MAX)),
                hasher: Arc::new(KeyHasher::process()),
            },
            key_sets: Arc::new(Keys::of(&signed)?),
            api_keys: ApiKeyNeeds::none(clock.clone()),
            cache: Arc::new(VerifiedCache::new(cache_bytes)),
            revocations: Arc::new(Revocations::new(0)),
        };
        let mut issues = Issues::default();
        let controls = Controls::compile(&portcullis_config::control_inputs(&document), &needs, &mut issues)
            .with_context(|| format!("the controls do not compile: {:?}", issues.as_slice()))?;
        Ok(Self { controls, bans, clock, token: signed.token })
    }

    /// With the memory for verified tokens that the gateway has.
    pub(crate) fn usual() -> anyhow::Result<Self> {
        Self::new(CACHE_BYTES)
    }
}

fn document() -> anyhow::Result<Document> {
    let mut text = "version = 1\n[controls]\nip_allowlist = { allow = [\"198.51.100.0/24\"".to_owned();
    // Networks that do not touch: a /24 in 10.0.0.0/8 and a /48 in 2001:db8::/32 in turn.
    for n in 0..NETWORKS {
        let [_, _, high, low] = n.to_be_bytes();
        if n.is_multiple_of(2) {
            write!(text, ", \"10.{high}.{low}.0/24\"")?;
        } else {
            write!(text, ", \"2001:db8:{:x}::/48\"", u16::from_be_bytes([high, low]))?;
        }
    }
    text.push_str("] }");
    text.push_str(DOCUMENT);
    writeln!(text, "issuer = \"{}\"", token::ISSUER)?;
    portcullis_config::parse(&text, Path::new("bench.toml")).map_err(|report| anyhow!("{}", report.plain()))
}

/// Moves on by 100 µs whenever it is read, so that no bucket ever runs dry.
#[derive(Default)]
pub(crate) struct Ticking(AtomicU64);

impl Clock for Ticking {
    fn now(&self) -> Micros {
        self.0.fetch_add(100, Ordering::Relaxed)
    }

    fn unix(&self) -> UnixSeconds {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }
}

/// A store of three gateways that answers nothing.
struct Three;

impl Fleet for Three {
    fn instances(&self) -> NonZeroU32 {
        NonZeroU32::MIN.saturating_add(2)
    }
}

impl SharedCounters for Three {
    fn take<'a>(&'a self, _buckets: &'a [Bucket<'a>]) -> Taking<'a> {
        Box::pin(std::future::ready(Err(StoreFault::Away)))
    }

    fn peek<'a>(&'a self, _bucket: &'a Bucket<'a>) -> Peeking<'a> {
        Box::pin(std::future::ready(Err(StoreFault::Away)))
    }

    fn clear<'a>(&'a self, _bucket: &'a Bucket<'a>) -> Clearing<'a> {
        Box::pin(std::future::ready(Err(StoreFault::Away)))
    }

    fn charge(&self, _bucket: &Bucket<'_>, _tokens: NonZeroU32, instead: Instead) {
        instead();
    }

    fn owe(&self, _bucket: &Bucket<'_>, _share: Rate, _tokens: u32) {}
}

/// The issuer's keys, always there.
struct Keys(Arc<ArcSwap<KeySetState>>);

impl Keys {
    fn of(signed: &Es256) -> anyhow::Result<Self> {
        let keys = KeySet::from_jwks(signed.jwks.as_bytes(), &[Algorithm::ES256])?;
        Ok(Self(Arc::new(ArcSwap::from_pointee(KeySetState::Ready(keys)))))
    }
}

impl KeySets for Keys {
    fn of(&self, _issuer: &str) -> Arc<ArcSwap<KeySetState>> {
        Arc::clone(&self.0)
    }

    fn unknown_kid<'a>(&'a self, _issuer: &'a str, _kid: &'a str) -> Renewing<'a> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// A request as controls see it.
pub(crate) struct Request {
    method: Method,
    query: &'static str,
    headers: HeaderMap,
}

impl Request {
    /// With these fields.
    pub(crate) fn new(method: Method, query: &'static str, fields: &[(&'static str, &str)]) -> anyhow::Result<Self> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value)?);
        }
        Ok(Self { method, query, headers })
    }

    /// What of it a control sees.
    pub(crate) fn facts(&self) -> Facts<'_> {
        Facts {
            method: &self.method,
            host: HOST,
            path: "/v1/orders",
            query: self.query,
            headers: &self.headers,
            protocol: Protocol::Http1,
        }
    }
}

/// A client at this address.
pub(crate) fn client(ip: &str) -> anyhow::Result<ClientIp> {
    let peer = SocketAddr::new(ip.parse::<IpAddr>()?, 4711);
    Ok(Topology::Direct.settle(peer, None, &HeaderMap::new())?)
}

/// Polls once. A control whose state is in memory never waits.
pub(crate) fn ready<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut TaskContext::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// The proof, where a control said yes.
pub(crate) fn passed<P, D, F, E>(answer: F) -> Option<P>
where
    F: Future<Output = Result<Verdict<P, D>, E>>,
{
    match ready(answer)? {
        Ok(Verdict::Pass(proof)) => Some(proof),
        Ok(Verdict::Deny(_)) | Err(_) => None,
    }
}
