//! The control as it is compiled from a document, with keys, a clock that stands still, and one way to ask it.

use std::{collections::BTreeMap, pin::pin, sync::Arc, task::Waker};

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use portcullis_api::{
    At, Clock, Control, Facts, Fault, Issues, Micros, Protocol, RouteId, RouteRef, Secret, UnixSeconds, Verdict,
};
use portcullis_plugins::authentication::{
    Algorithm, ApiKeyNeeds, ApiKeys, Auth, Authenticated, Authentication, Deny, Input, Issuer, KeySet, KeySetState,
    KeySets, Needs, Renewing, Route, Sees, VerifiedCache,
};
use portcullis_plugins::revocations::{Freshness, MaxStale, Revocations};

/// When it is.
pub(crate) const NOW: u64 = 1_800_000_000;
/// The secret of issuer `local`.
pub(crate) const SECRET: &[u8] = b"k3f9Zq0vT7mWc2Xb8LpR5sYd1HnJ6gUe";
/// `iss` of issuer `local`.
pub(crate) const LOCAL: &str = "https://local.example.com";

const ISSUERS: &str = r#"
[main]
issuer = "https://id.example.com"
audiences = ["orders"]
algorithms = ["ES256", "EdDSA"]
keys = { jwks_file = "main.json" }
claims = { tenant = "tenant_id" }

[local]
issuer = "https://local.example.com"
audiences = ["orders"]
algorithms = ["HS256"]
keys = { secret = "file:secret" }
claims = { tenant = "org.id", roles = "roles", scopes = "scope" }
cookie = "__Host-sid"
"#;
const API_KEYS: &str = "file = \"keys.json\"\npepper = \"file:pepper\"";
const ROUTE: &str = r#"accept = ["jwt:main", "jwt:local", "cookie:local", "api_key"]"#;
/// RFC 7515 appendix A.3 and RFC 8037 appendix A.2.
pub(crate) const KEY_SET: &str = r#"{"keys":[
{"kty":"EC","crv":"P-256","kid":"ec","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"},
{"kty":"OKP","crv":"Ed25519","kid":"ed","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
/// Algorithms of public keys.
pub(crate) const PUBLIC: &[Algorithm] = &[Algorithm::ES256, Algorithm::EdDSA, Algorithm::RS256, Algorithm::PS256];

struct Still;
impl Clock for Still {
    fn now(&self) -> Micros {
        0
    }
    fn unix(&self) -> UnixSeconds {
        NOW
    }
}

struct Cells;
impl KeySets for Cells {
    fn of(&self, issuer_name: &str) -> Arc<ArcSwap<KeySetState>> {
        let set = match issuer_name {
            "local" => KeySet::from_secret(&Secret::new(SECRET.to_vec())),
            _ => KeySet::from_jwks(KEY_SET.as_bytes(), &[Algorithm::ES256, Algorithm::EdDSA]),
        };
        Arc::new(ArcSwap::from_pointee(KeySetState::Ready(set.expect("the keys are good"))))
    }
    fn unknown_kid<'a>(&'a self, _issuer: &'a str, _kid: &'a str) -> Renewing<'a> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// The control.
pub(crate) struct Rig(Authentication);

impl Rig {
    pub(crate) fn new() -> Self {
        let issuers: BTreeMap<String, Issuer> = toml::from_str(ISSUERS).expect("the issuers are TOML");
        let api_keys: ApiKeys = toml::from_str(API_KEYS).expect("the API keys are TOML");
        let auth: Auth = toml::from_str(ROUTE).expect("the route is TOML");
        let auth = At::nowhere(auth);
        let route = RouteRef { id: RouteId::new(0), name: "a.example/all".into() };
        let needs = Needs {
            key_sets: Arc::new(Cells),
            api_keys: ApiKeyNeeds::none(Arc::new(Still)),
            clock: Arc::new(Still),
            cache: Arc::new(VerifiedCache::new(1 << 20)),
            revocations: Arc::new(Revocations::new(0)),
        };
        let route = Route { route, auth: &auth, revocation: &At::nowhere(Freshness::Standard) };
        let (api_keys, max_stale) = (Some(&api_keys), &MaxStale::default());
        let input = Input { issuers: &issuers, api_keys, exchange: None, listeners: &[], routes: &[route], max_stale };
        let mut issues = Issues::default();
        let control = Authentication::compile(input, &needs, &mut issues);
        Self(control.unwrap_or_else(|| panic!("{issues:?}")))
    }

    /// Asks it about a request with these fields; a value that is none in HTTP is left out.
    pub(crate) fn ask(
        &self,
        fields: &[(&'static str, &[u8])],
        query: &str,
    ) -> Result<Verdict<Authenticated, Deny>, Fault> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            if let Ok(value) = HeaderValue::from_bytes(value) {
                headers.append(HeaderName::from_static(name), value);
            }
        }
        let facts = Facts {
            method: &Method::GET,
            host: "a.example",
            path: "/",
            query,
            headers: &headers,
            protocol: Protocol::Http1,
        };
        let client = portcullis_api::Topology::Direct.settle(([127, 0, 0, 1], 1).into(), None, &headers);
        let client = client.expect("a socket's address is one");
        let check = pin!(self.0.check(Sees { facts, client, route: RouteId::new(0), certificate: None }));
        match check.poll(&mut std::task::Context::from_waker(Waker::noop())) {
            std::task::Poll::Ready(verdict) => verdict,
            std::task::Poll::Pending => panic!("it waits"),
        }
    }
}
