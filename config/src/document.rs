//! The document, exactly as an operator writes it: one schema, `version = 1`, unknown fields refused.
//!
//! Shape only. What the values mean together is decided in `settle`.

use std::{collections::BTreeMap, net::SocketAddr, num::NonZeroU32, path::PathBuf};

use portcullis_api::{At, Cidrs, Millis, SecretRef, Size, Switch, TenantId};
use portcullis_plugins::{
    assertion, authentication, burst, cors, in_flight, ip_allowlist, login, rate_limit,
    revocations::{Freshness, MaxStale},
    scope, signature, waf,
};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{places::Places, store_url::SCHEMES};

/// A whole configuration file.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// The version of this schema: 1.
    pub version: At<u32>,
    /// Where clients connect, by name.
    pub listeners: BTreeMap<String, Listener>,
    /// Where the operator connects: probes, metrics, bans, lockouts, decisions.
    pub admin: Option<Admin>,
    /// The access log and what it may hold.
    #[serde(default)]
    pub log: Log,
    /// Shared state.
    #[serde(default)]
    pub stores: Stores,
    /// Where revocations are kept.
    pub revocations: Option<At<Revocations>>,
    /// Who issues tokens, by name.
    #[serde(default)]
    pub issuers: BTreeMap<String, authentication::Issuer>,
    /// Where fetched key sets are kept, for a start while an issuer is away.
    pub key_sets: Option<authentication::KeySetCopies>,
    /// API keys.
    pub api_keys: Option<authentication::ApiKeys>,
    /// Tokens for API keys.
    pub exchange: Option<authentication::exchange::ExchangeSettings>,
    /// Signed assertions of who calls, for upstreams that ask for them.
    pub assertion: Option<assertion::Settings>,
    /// The apps behind the gateway, by name.
    pub upstreams: BTreeMap<String, Upstream>,
    /// Every control of the site, each named once.
    pub controls: Controls,
    /// Limits by name. `per_key` (10 a second per API key) and the classes exist without being written.
    #[serde(default)]
    pub limits: BTreeMap<String, rate_limit::Limit>,
    /// Limits of requests under way at once, by name.
    #[serde(default)]
    pub in_flight: BTreeMap<String, in_flight::Settings>,
    /// What is served, by host: an exact name or `*.` and a name for exactly one label more.
    pub hosts: BTreeMap<String, Host>,
    /// What is different for a tenant, by tenant id.
    #[serde(default)]
    pub tenants: BTreeMap<TenantId, Tenant>,
    /// Where each name was written. [`crate::parse`] fills it in; it is no field of the file.
    #[serde(skip)]
    #[schemars(skip)]
    pub places: Places,
}

/// A socket that clients connect to.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Address and port, e.g. `"0.0.0.0:8443"`.
    pub address: At<SocketAddr>,
    /// Whom to believe about the client's address: `"direct"`, `{ proxy_protocol = [CIDRs] }` or `{ forwarded = [CIDRs] }`.
    pub client_ip: At<ClientIpFrom>,
    /// TLS; `"off"` is possible on a loopback address only.
    #[serde(default = "tls_on")]
    pub tls: Switch<ListenerTls>,
    /// Certificates of clients; none are asked for when not written.
    pub client_certificates: Option<authentication::ClientCertificates>,
    /// Bounds on connections and on the head of a request.
    #[serde(default)]
    pub bounds: Bounds,
}

const fn tls_on() -> Switch<ListenerTls> {
    Switch::On(ListenerTls { minimum: TlsVersion::V1_3 })
}

/// Whom to believe about the client's address.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientIpFrom {
    /// The socket's peer.
    Direct,
    /// A PROXY protocol header, required from these networks; other peers are refused.
    ProxyProtocol(Cidrs),
    /// `X-Forwarded-For` as far as these networks wrote it.
    Forwarded(Cidrs),
}

/// TLS of a listener.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerTls {
    /// The oldest version: `"1.3"` (default) or `"1.2"`.
    #[serde(default)]
    pub minimum: TlsVersion,
}

/// A TLS version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246), ECDHE and AEAD suites only.
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3 (RFC 8446).
    #[default]
    #[serde(rename = "1.3")]
    V1_3,
}

/// Bounds of a listener. Each has a default; none can be switched off.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Bounds {
    /// Open connections in all.
    pub connections_max: NonZeroU32,
    /// Open connections of one client network (a /24 for IPv4, a /56 for IPv6).
    pub connections_per_network_max: NonZeroU32,
    /// TLS handshakes at the same time.
    pub handshakes_max: NonZeroU32,
    /// For the PROXY header and the TLS handshake together.
    pub handshake_timeout: Millis,
    /// From the first byte of a request's head to its last.
    pub head_timeout: Millis,
    /// Between two requests on a connection.
    pub idle_timeout: Millis,
    /// Between two pieces of a request body; the whole body has ten times as long.
    pub body_timeout: Millis,
    /// Bytes of a request's head, at most 64 KiB.
    pub head_bytes_max: Size,
    /// Header fields of a request, at most 200.
    pub header_fields_max: NonZeroU32,
    /// Bytes of the request target, at most those of the head.
    pub target_bytes_max: Size,
}

impl Default for Bounds {
    fn default() -> Self {
        let n = |n: u32| NonZeroU32::MIN.saturating_add(n.saturating_sub(1));
        Self {
            connections_max: n(20_000),
            connections_per_network_max: n(2_000),
            handshakes_max: n(256),
            handshake_timeout: Millis::from_secs(5),
            head_timeout: Millis::from_secs(5),
            idle_timeout: Millis::from_secs(60),
            body_timeout: Millis::from_secs(10),
            head_bytes_max: Size::new(32 << 10),
            header_fields_max: n(100),
            target_bytes_max: Size::new(8 << 10),
        }
    }
}

/// The operator's listener: `/livez`, `/readyz`, `/metrics`, and with a token `/admin/v1/…`. Loopback only.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// Loopback address and port, e.g. `"127.0.0.1:9901"`.
    pub address: At<SocketAddr>,
    /// The bearer token of `/admin/v1/…`, at least 32 bytes. Without it only probes and metrics are served.
    pub token: Option<At<SecretRef>>,
}

/// Logs.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Where the access log goes: `"stdout"` (default) or `{ file = "PATH" }`.
    #[serde(default)]
    pub access: AccessLog,
    /// The secret that turns addresses and subjects into pseudonyms, at least 32 bytes. Without it each start draws
    /// one, and pseudonyms do not match across restarts.
    pub pseudonym_key: Option<At<SecretRef>>,
}

/// Where the access log goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AccessLog {
    /// Standard output, one JSON object a line.
    #[default]
    Stdout,
    /// A file, appended to.
    File(PathBuf),
}

/// Shared state.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Stores {
    /// Where limits, violations, blocks, failed logins and locks are kept: `"memory"`, or a URL: `redis://host:port/database` for one Redis,
    /// `redis-sentinel://host:port,host:port/master-name` for the master that Sentinels name,
    /// `redis-cluster://host:port,host:port` for a cluster; `rediss://`, `rediss-sentinel://` and `rediss-cluster://` for
    /// the same over TLS. A user and a password stand before the first host, as `user:password@`; a URL with a password
    /// is written as a `file:` or `env:` reference. Sentinels take `?db=N` and, where they want the same user and
    /// password, `?sentinel_auth=same`.
    pub counters: At<CountersAt>,
    /// How long a check may wait for the store.
    pub deadline: Millis,
    /// How many gateways share the store, at least: what shares are divided by until the store has said for a while how
    /// many there are.
    pub instances: NonZeroU32,
    /// How many buckets of each limit this gateway has room for: all of them with counters in memory, its shares with
    /// Redis. 1,024 to 16,777,216, rounded up to a power of two; 21 bytes each, taken at the start.
    pub keys_max: At<u32>,
    /// First part of every key in the store: 1 to 32 of a-z, 0-9, `-` and `_`.
    pub prefix: At<String>,
    /// The secret that hides addresses, keys and subjects in the store, at least 32 bytes and the same for every gateway
    /// that shares it. Needed with Redis.
    pub key: Option<At<SecretRef>>,
}

impl Default for Stores {
    fn default() -> Self {
        Self {
            counters: At::nowhere(CountersAt::Memory),
            deadline: Millis::new(25),
            instances: NonZeroU32::MIN,
            keys_max: At::nowhere(rate_limit::KEYS_MAX),
            prefix: At::nowhere("portcullis".to_owned()),
            key: None,
        }
    }
}

/// Where revocations are kept, `[revocations]`. Without it, and with counters in memory, nothing can be
/// revoked with `portcullis revoke`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Revocations {
    /// The file they are written to before they are answered for, and read from at the start. It is this gateway's alone, and
    /// is made where there is none; its folder must be there. Beside it stands a second one, `.synced`, which says how much
    /// of what other gateways revoked is in it.
    pub journal: Option<At<PathBuf>>,
    /// Where several gateways share revocations: how old what is known of them may be before routes answer 503.
    pub max_stale: Option<At<MaxStale>>,
}

/// Where limits count.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String")]
pub enum CountersAt {
    /// In this process.
    Memory,
    /// In the store of this URL.
    Redis(String),
    /// In the store whose URL is kept elsewhere.
    RedisAt(SecretRef),
}

impl<'de> Deserialize<'de> for CountersAt {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::{de::Error, de::IntoDeserializer};
        let text = String::deserialize(deserializer)?;
        match text.split_once(':') {
            None if text == "memory" => Ok(Self::Memory),
            Some((scheme, rest)) if SCHEMES.contains(&scheme) && rest.starts_with("//") => Ok(Self::Redis(text)),
            Some(("file" | "env", _)) => SecretRef::deserialize(text.into_deserializer()).map(Self::RedisAt),
            // The text is not echoed: a mistyped URL may carry a password.
            None if portcullis_api::nearest(&text, ["memory"]).is_some() => {
                Err(D::Error::custom("no store of this kind: did you mean \"memory\"?"))
            }
            Some((scheme, _)) if let Some(near) = meant(scheme) => {
                Err(D::Error::custom(format!("no store of this kind: did you mean {near}://?")))
            }
            Some(_) | None => Err(D::Error::custom(
                "no store of this kind: write \"memory\", a URL (redis://, redis-sentinel:// or redis-cluster://, with \
                 TLS rediss://, rediss-sentinel:// or rediss-cluster://), or a `file:` or `env:` reference to one",
            )),
        }
    }
}

/// The scheme that is meant by one that is none, e.g. by another project's spelling.
fn meant(scheme: &str) -> Option<&'static str> {
    let plain = scheme.to_ascii_lowercase().replace(['+', '_'], "-");
    let plain = if plain == "sentinel" { "redis-sentinel".to_owned() } else { plain };
    portcullis_api::nearest(&plain, SCHEMES.iter().copied())
}

/// An app behind the gateway.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// `host:port` of each server; requests go to the healthy ones in turn.
    pub servers: At<Vec<At<String>>>,
    /// TLS to the servers; plain when not written.
    pub tls: Option<UpstreamTls>,
    /// What the servers speak: `"http1"` (default), `"h2"` (over TLS by ALPN, else with prior knowledge).
    #[serde(default)]
    pub protocol: UpstreamProtocol,
    /// How to find out whether a server is well; servers are taken for well when not written.
    pub health: Option<Health>,
    /// To connect, with TLS.
    #[serde(default = "connect_timeout")]
    pub connect_timeout: Millis,
    /// To the first byte of the answer and between two pieces of it.
    #[serde(default = "response_timeout")]
    pub response_timeout: Millis,
    /// To write a piece of the request.
    #[serde(default = "write_timeout")]
    pub write_timeout: Millis,
    /// How long an unused connection is kept.
    #[serde(default = "upstream_idle_timeout")]
    pub idle_timeout: Millis,
    /// With what the assertion of who calls is signed that each request carries: `"ES256"` or `"EdDSA"`, with keys of
    /// `[assertion]`. Without it requests carry none.
    pub assertion: Option<At<assertion::Algorithm>>,
    /// The signature that each request carries (RFC 9421). Without it requests carry none.
    pub signature: Option<signature::Settings>,
    /// Further attempts when nothing was sent yet, or the request is safe to repeat. 0 to 5.
    #[serde(default = "retries_max")]
    pub retries_max: At<u32>,
}

const fn connect_timeout() -> Millis {
    Millis::from_secs(3)
}
const fn response_timeout() -> Millis {
    Millis::from_secs(30)
}
const fn write_timeout() -> Millis {
    Millis::from_secs(10)
}
const fn upstream_idle_timeout() -> Millis {
    Millis::from_secs(60)
}
const fn retries_max() -> At<u32> {
    At::nowhere(1)
}

/// TLS to the servers of an upstream. `sni` and `ca` are needed: nothing is verified by default.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpstreamTls {
    /// The name in the servers' certificate.
    pub sni: At<String>,
    /// Who signs it: `"system"` (the roots of the system) or `{ file = "ca.pem" }`.
    pub ca: At<UpstreamCa>,
    /// The gateway's own certificate, shown to servers that ask for one; none is shown without.
    pub client_certificate: Option<Certificate>,
}

/// Whose signature on an upstream's certificate is believed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamCa {
    /// The roots of the system.
    System,
    /// The certificates of this PEM file.
    File(PathBuf),
}

/// What the servers of an upstream speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2.
    H2,
}

/// How to find out whether a server is well.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// A path that must answer 200; a TCP connection is enough when not written.
    pub path: Option<At<String>>,
    /// Between two checks.
    #[serde(default = "health_interval")]
    pub interval: Millis,
    /// For one check.
    #[serde(default = "health_timeout")]
    pub timeout: Millis,
}

const fn health_interval() -> Millis {
    Millis::from_secs(5)
}
const fn health_timeout() -> Millis {
    Millis::from_secs(2)
}

/// The site's controls. Each is named; one that may be switched off is switched off by the word `"off"`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Controls {
    /// Which addresses may come in at all. It cannot be off.
    pub ip_allowlist: ip_allowlist::Settings,
    /// Requests of one client in a short window, or `"off"`.
    pub burst: Switch<burst::Settings>,
    /// What a request may carry, or `"off"`.
    pub waf: Switch<waf::Settings>,
    /// When failed logins lock, of routes that say `login`.
    #[serde(default)]
    pub login: login::Settings,
}

/// One host.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// The certificate; needed where a listener speaks TLS.
    pub certificate: Option<Certificate>,
    /// The listeners it is served on, by name; all of them when not written.
    pub listeners: Option<At<Vec<At<String>>>>,
    /// Whose host this is: `"identity"` (whoever is verified) or a tenant id.
    pub tenant: At<HostTenant>,
    /// Cross-origin rules.
    pub cors: Option<cors::Settings>,
    /// Security headers of every answer.
    #[serde(default)]
    pub security_headers: SecurityHeaders,
    /// Its routes, by name.
    pub routes: BTreeMap<String, Route>,
}

/// A certificate chain and its key.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The PEM chain, leaf first.
    pub chain: At<SecretRef>,
    /// The PEM key.
    pub key: At<SecretRef>,
}

/// Whose host this is.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String")]
pub enum HostTenant {
    /// The tenant of the verified identity.
    Identity,
    /// Always this tenant; an identity of another one gets 404.
    Fixed(TenantId),
}

impl<'de> Deserialize<'de> for HostTenant {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "identity" {
            Ok(Self::Identity)
        } else {
            TenantId::parse(&text).map(Self::Fixed).map_err(serde::de::Error::custom)
        }
    }
}

/// Security headers. The defaults suit an API; a site with pages writes its own policy.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SecurityHeaders {
    /// `Strict-Transport-Security: max-age`, sent over TLS only.
    pub hsts_max_age: Millis,
    /// `Content-Security-Policy` where the upstream sends none.
    pub content_security_policy: At<String>,
    /// `X-Frame-Options`: `"deny"` or `"sameorigin"`.
    pub frame_options: FrameOptions,
    /// `Referrer-Policy`.
    pub referrer_policy: At<String>,
}

impl Default for SecurityHeaders {
    fn default() -> Self {
        Self {
            hsts_max_age: Millis::from_secs(31_536_000),
            content_security_policy: At::nowhere("default-src 'none'; frame-ancestors 'none'".to_owned()),
            frame_options: FrameOptions::Deny,
            referrer_policy: At::nowhere("no-referrer".to_owned()),
        }
    }
}

/// `X-Frame-Options` (RFC 7034).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FrameOptions {
    /// No page may frame it.
    Deny,
    /// Pages of the same origin may.
    Sameorigin,
}

/// One route of a host.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Canonical path. It matches itself and everything below it by whole segments; the longest match wins, and a
    /// literal segment before `{tenant}`. Routes may share a path when they share no method. One segment may be `{tenant}`: it must equal the verified tenant, else the answer is 404.
    pub path: At<String>,
    /// Methods in upper case; `GET` admits `HEAD`. All others get 405; `TRACE` and `CONNECT` are never admitted.
    pub methods: At<Vec<At<String>>>,
    /// How requests are authenticated: `{ accept = […] }` or `{ public = "a written reason" }`.
    pub auth: At<authentication::Auth>,
    /// Where several gateways share revocations: how fresh what is known of them must be, `"strict"`, `"standard"` or
    /// `"until_exp"`. A request with a credential gets 503 while it is not; what is known as revoked stays 401. `"until_exp"` is
    /// for routes that accept nothing but tokens of issuers with a `max_lifetime` of at most 300 s.
    #[serde(default = "standard")]
    pub revocation: At<Freshness>,
    /// Limits of `[limits]` by name.
    #[serde(default)]
    pub limits: Vec<At<String>>,
    /// Limits of `[in_flight]` by name.
    #[serde(default)]
    pub in_flight: Vec<At<String>>,
    /// A class with a built-in limit.
    pub class: Option<rate_limit::Class>,
    /// One more address list in the intersection.
    pub ip_allowlist: Option<ip_allowlist::Settings>,
    /// Own numbers for content.
    pub waf: Option<waf::Override>,
    /// How what requests ask for is confined to the tenant.
    pub scope: Option<At<scope::ScopeRoute>>,
    /// That people log in here: failures are counted, and lock.
    pub login: Option<login::LoginRoute>,
    /// `"websocket"` admits WebSocket handshakes, `"stream"` admits answers without an end (SSE, gRPC); both lift the
    /// time limit between two pieces of the answer.
    #[serde(default)]
    pub kind: RouteKind,
    /// Where requests go.
    pub upstream: At<String>,
}

const fn standard() -> At<Freshness> {
    At::nowhere(Freshness::Standard)
}

/// What kind of exchange a route carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RouteKind {
    /// A request and its answer.
    #[default]
    Http,
    /// WebSocket handshakes (RFC 6455) are admitted beside ordinary requests.
    Websocket,
    /// Answers that go on: server-sent events, gRPC streams.
    Stream,
}

/// What is different for a tenant.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tenant {
    /// The operator's word: may raise or lower the site's numbers for this tenant.
    #[serde(default)]
    pub grant: TenantLayer,
    /// The tenant's own word: may only tighten what the site and the grant leave.
    #[serde(default)]
    pub own: TenantLayer,
}

/// One layer of a tenant's settings.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantLayer {
    /// One more address list in the intersection.
    pub ip_allowlist: Option<ip_allowlist::Tenant>,
    /// Numbers of limits by name.
    #[serde(default)]
    pub limits: BTreeMap<String, rate_limit::TenantLimit>,
    /// Numbers of limits of requests under way, by name.
    #[serde(default)]
    pub in_flight: BTreeMap<String, in_flight::Tenant>,
    /// Numbers for content.
    pub waf: Option<waf::Override>,
}
