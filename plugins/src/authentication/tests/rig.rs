//! A control with two issuers, an API key and a few routes, and everything it needs held still.

use std::{
    collections::{BTreeMap, HashMap},
    pin::pin,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    task::{Context, Poll, Waker},
};

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, Method};
use portcullis_api::{Micros, Protocol, Refusal, Secret};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::*;

pub(in crate::authentication) const NOW: u64 = 1_800_000_000;
pub(in crate::authentication) const SECRET: &[u8] = b"k3f9Zq0vT7mWc2Xb8LpR5sYd1HnJ6gUe";
pub(in crate::authentication) const ISS: &str = "https://id.example.com";

pub(in crate::authentication) const DOC: &str = r#"
[issuers.main]
issuer = "https://id.example.com"
audiences = ["orders"]
algorithms = ["ES256", "EdDSA"]
keys = { jwks_file = "main.json" }
claims = { tenant = "tenant_id", roles = "roles", scopes = "scope" }

[issuers.local]
issuer = "https://local.example.com"
audiences = ["orders"]
algorithms = ["HS256"]
keys = { secret = "file:secret" }
claims = { tenant = "tenant_id" }
typ = "session+jwt"
cookie = "__Host-sid"

[api_keys]
file = "keys.json"
pepper = "file:pepper"

[routes.a_main]
accept = ["jwt:main"]
[routes.b_both]
accept = ["jwt:main", "jwt:local", "cookie:local", "api_key"]
[routes.c_public]
public = "nothing here is secret"
[routes.d_live]
accept = ["api_key"]
environment = "live"
"#;
pub(in crate::authentication) const MAIN: u32 = 0;
pub(in crate::authentication) const BOTH: u32 = 1;
pub(in crate::authentication) const PUBLIC: u32 = 2;
pub(in crate::authentication) const LIVE: u32 = 3;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::authentication) struct Doc {
    #[serde(default)]
    pub(in crate::authentication) issuers: BTreeMap<String, Issuer>,
    pub(in crate::authentication) api_keys: Option<ApiKeys>,
    pub(in crate::authentication) exchange: Option<exchange::ExchangeSettings>,
    #[serde(default)]
    pub(in crate::authentication) routes: BTreeMap<String, At<Auth>>,
    #[serde(default)]
    pub(in crate::authentication) revocation: BTreeMap<String, At<Freshness>>,
    pub(in crate::authentication) max_stale: Option<MaxStale>,
}

pub(in crate::authentication) struct StillClock(pub(in crate::authentication) AtomicU64);
impl Clock for StillClock {
    fn now(&self) -> Micros {
        self.0.load(Ordering::Relaxed).saturating_sub(NOW).saturating_mul(1_000_000)
    }
    fn unix(&self) -> UnixSeconds {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Default)]
pub(in crate::authentication) struct Cells {
    cells: HashMap<String, Arc<ArcSwap<KeySetState>>>,
    pub(in crate::authentication) hints: AtomicUsize,
    /// What the next renewal brings; without one, nothing new.
    pub(in crate::authentication) next: parking_lot::Mutex<Option<Result<KeySet, String>>>,
}
impl KeySets for Cells {
    fn of(&self, issuer_name: &str) -> Arc<ArcSwap<KeySetState>> {
        Arc::clone(&self.cells[issuer_name])
    }
    fn unknown_kid<'a>(&'a self, issuer: &'a str, _: &'a str) -> Renewing<'a> {
        self.hints.fetch_add(1, Ordering::Relaxed);
        let next = self.next.lock().take();
        Box::pin(std::future::ready(match next {
            None => Ok(()),
            Some(Err(why)) => Err(CannotTell { why }),
            Some(Ok(set)) => {
                self.of(issuer).store(Arc::new(KeySetState::Ready(set)));
                Ok(())
            }
        }))
    }
}

pub(in crate::authentication) struct Rig {
    pub(in crate::authentication) control: Authentication,
    pub(in crate::authentication) clock: Arc<StillClock>,
    pub(in crate::authentication) cells: Arc<Cells>,
    pub(in crate::authentication) cache: Arc<VerifiedCache>,
    pub(in crate::authentication) needs: Needs,
    pub(in crate::authentication) ec: EcdsaKeyPair,
    pub(in crate::authentication) ed: Ed25519KeyPair,
    /// An API key of acme, live.
    pub(in crate::authentication) api_key: String,
}

pub(in crate::authentication) fn compile(text: &str, needs: &Needs, issues: &mut Issues) -> Option<Authentication> {
    let doc: Doc = toml::from_str(text).unwrap();
    let (revocation, max_stale) = (At::nowhere(Freshness::Standard), MaxStale::default());
    let routes: Vec<Route<'_>> = doc
        .routes
        .iter()
        .zip(0..)
        .map(|((name, auth), index)| {
            let route = RouteRef { id: RouteId::new(index), name: format!("a.example/{name}").into() };
            Route { route, auth, revocation: doc.revocation.get(name).unwrap_or(&revocation) }
        })
        .collect();
    let max_stale = doc.max_stale.as_ref().unwrap_or(&max_stale);
    let input = Input {
        issuers: &doc.issuers,
        api_keys: doc.api_keys.as_ref(),
        exchange: doc.exchange.as_ref(),
        listeners: &[],
        routes: &routes,
        max_stale,
    };
    Authentication::compile(input, needs, issues)
}

/// Needs for compiling documents whose issuers have these names.
pub(in crate::authentication) fn needs(names: &[&str], clock: Arc<StillClock>) -> (Needs, Arc<Cells>) {
    let missing = || Arc::new(ArcSwap::from_pointee(KeySetState::Missing { why: "not loaded".into() }));
    let cells = Arc::new(Cells {
        cells: names.iter().map(|name| ((*name).to_owned(), missing())).collect(),
        ..Cells::default()
    });
    let needs = Needs {
        key_sets: Arc::<Cells>::clone(&cells),
        api_keys: ApiKeyNeeds::none(clock.clone()),
        clock,
        cache: Arc::new(VerifiedCache::new(CACHE_BYTES)),
        revocations: Arc::new(Revocations::new(64)),
    };
    (needs, cells)
}

impl Rig {
    pub(in crate::authentication) fn new() -> Self {
        let clock = Arc::new(StillClock(AtomicU64::new(NOW)));
        let (needs, cells) = needs(&["main", "local"], Arc::clone(&clock));
        let brand = Environment::parse("pck").unwrap();
        let pepper = Peppers::new(&Secret::new(SECRET.to_vec()), &[]).unwrap();
        let request = IssueRequest {
            brand: brand.clone(),
            environment: Environment::parse("live").unwrap(),
            tenant: portcullis_api::TenantId::parse("acme").unwrap(),
            role: None,
            scopes: Vec::new(),
            name: None,
            lifetime_s: None,
            cidrs: None,
            routes: None,
            created_by: None,
            kind: None,
            filters: None,
        };
        let mut fill = |bytes: &mut [u8]| aws_lc_rs::rand::fill(bytes).unwrap();
        let issued = issue(request, &pepper, &mut fill, NOW).unwrap();
        let file = add_record("", &issued.record).unwrap();
        needs.api_keys.table.store(Arc::new(ApiKeyTable::parse(file.as_bytes(), &pepper, &brand).unwrap()));
        let mut issues = Issues::default();
        let control = compile(DOC, &needs, &mut issues);
        let control = control.unwrap_or_else(|| panic!("{issues:?}"));
        let rig = Self {
            control,
            clock,
            cells,
            cache: Arc::clone(&needs.cache),
            needs,
            ec: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
            ed: Ed25519KeyPair::generate().unwrap(),
            api_key: issued.key.as_str().to_owned(),
        };
        rig.set_keys(&[rig.ec_jwk("ec"), rig.ed_jwk("ed")]);
        rig.set("local", KeySetState::Ready(KeySet::from_secret(&Secret::new(SECRET.to_vec())).unwrap()));
        rig
    }

    pub(in crate::authentication) fn ec_jwk(&self, kid: &str) -> Value {
        let point = self.ec.public_key().as_ref();
        let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
        json!({ "kty": "EC", "crv": "P-256", "kid": kid, "x": x, "y": y })
    }
    pub(in crate::authentication) fn ed_jwk(&self, kid: &str) -> Value {
        json!({ "kty": "OKP", "crv": "Ed25519", "kid": kid, "x": URL_SAFE_NO_PAD.encode(self.ed.public_key().as_ref()) })
    }
    pub(in crate::authentication) fn set(&self, issuer: &str, state: KeySetState) {
        self.cells.of(issuer).store(Arc::new(state));
    }
    pub(in crate::authentication) fn set_keys(&self, keys: &[Value]) {
        self.set("main", KeySetState::Ready(Self::key_set(keys)));
    }
    pub(in crate::authentication) fn key_set(keys: &[Value]) -> KeySet {
        let text = json!({ "keys": keys }).to_string();
        KeySet::from_jwks(text.as_bytes(), &[Algorithm::ES256, Algorithm::EdDSA]).unwrap()
    }
    pub(in crate::authentication) fn at(&self, seconds: u64) {
        self.clock.0.store(seconds, Ordering::Relaxed);
    }

    /// Signs with the key that `header.alg` names.
    pub(in crate::authentication) fn sign(&self, header: &Value, payload: &Value) -> String {
        self.sign_text(&header.to_string(), &payload.to_string())
    }
    pub(in crate::authentication) fn sign_text(&self, header: &str, payload: &str) -> String {
        let input = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let alg = ["HS256", "Ed"].into_iter().find(|alg| header.contains(alg)).unwrap_or("ES256");
        let signature = self.sign_input(alg, &input);
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
    pub(in crate::authentication) fn sign_input(&self, alg: &str, input: &str) -> Vec<u8> {
        if alg == "HS256" {
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), input.as_bytes()).as_ref().to_vec()
        } else if alg.starts_with("Ed") {
            self.ed.sign(input.as_bytes()).as_ref().to_vec()
        } else {
            self.ec.sign(&SystemRandom::new(), input.as_bytes()).unwrap().as_ref().to_vec()
        }
    }
    /// A good ES256 token of `main`.
    pub(in crate::authentication) fn good(&self) -> String {
        self.sign(&json!({ "alg": "ES256", "typ": "JWT", "kid": "ec" }), &payload())
    }
    /// A good session token of `local`.
    pub(in crate::authentication) fn session(&self) -> String {
        let mut payload = payload();
        payload["iss"] = json!("https://local.example.com");
        self.sign(&json!({ "alg": "HS256", "typ": "session+jwt" }), &payload)
    }

    pub(in crate::authentication) fn ask(&self, route: u32, fields: &[(&'static str, &str)]) -> Answer {
        ask(&self.control, route, fields)
    }
    pub(in crate::authentication) fn bearer(&self, route: u32, token: &str) -> Answer {
        self.ask(route, &[("authorization", &format!("Bearer {token}"))])
    }
}

pub(in crate::authentication) fn payload() -> Value {
    json!({ "iss": ISS, "aud": "orders", "sub": "u-1", "tenant_id": "acme", "iat": NOW - 10, "exp": NOW + 100,
            "roles": ["admin"], "scope": "orders orders:write", "jti": "j-1" })
}

/// What came of a check, flat enough to compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::authentication) enum Answer {
    Verified { tenant: String, issuer: String, subject: String, credential: Credential },
    Anonymous,
    Denied { code: &'static str, status: u16, detail: Option<String>, issuer: Option<String>, challenge: String },
    Fault(String),
}

impl Answer {
    /// The reason, if the credential was refused as invalid.
    pub(in crate::authentication) fn why(&self) -> Option<&str> {
        match self {
            Self::Denied { code: "authentication.invalid", status: 401, detail, .. } => detail.as_deref(),
            Self::Verified { .. } | Self::Anonymous | Self::Denied { .. } | Self::Fault(_) => None,
        }
    }
    pub(in crate::authentication) fn is_verified(&self) -> bool {
        matches!(self, Self::Verified { .. })
    }
}

fn verdict(
    control: &Authentication,
    route: u32,
    fields: &[(&'static str, &str)],
) -> Result<Verdict<Authenticated, Deny>, Fault> {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    let facts = Facts {
        method: &Method::GET,
        host: "a.example",
        path: "/",
        query: "",
        headers: &headers,
        protocol: Protocol::Http1,
    };
    let client = portcullis_api::Topology::Direct.settle(([127, 0, 0, 1], 1).into(), None, &headers).unwrap();
    let check = pin!(control.check(Sees { facts, client, route: RouteId::new(route), certificate: None }));
    let Poll::Ready(verdict) = check.poll(&mut Context::from_waker(Waker::noop())) else { panic!("it never waits") };
    verdict
}

pub(in crate::authentication) fn ask(control: &Authentication, route: u32, fields: &[(&'static str, &str)]) -> Answer {
    match verdict(control, route, fields) {
        Err(fault) => Answer::Fault(fault.what.into_owned()),
        Ok(Verdict::Pass(proof)) => match proof.caller() {
            Caller::Anonymous => Answer::Anonymous,
            Caller::Verified(identity) => Answer::Verified {
                tenant: identity.tenant().to_string(),
                issuer: identity.issuer().to_owned(),
                subject: identity.subject().to_owned(),
                credential: identity.credential(),
            },
        },
        Ok(Verdict::Deny(deny)) => {
            let mut answer = HeaderMap::new();
            deny.headers(&mut answer);
            assert!(deny.members().is_empty());
            let code = deny.code();
            assert!(Deny::CODES.contains(&code));
            Answer::Denied {
                code: code.name,
                status: code.status,
                detail: deny.detail().map(|text| text.into_owned()),
                issuer: deny.rule().map(|text| text.into_owned()),
                challenge: answer["www-authenticate"].to_str().unwrap().to_owned(),
            }
        }
    }
}

/// Who comes in with these fields.
pub(in crate::authentication) fn identity(
    control: &Authentication,
    route: u32,
    fields: &[(&'static str, &str)],
) -> Arc<Identity> {
    match verdict(control, route, fields) {
        Ok(Verdict::Pass(proof)) => match proof.caller() {
            Caller::Verified(identity) => Arc::clone(identity),
            Caller::Anonymous => panic!("it is anonymous"),
        },
        other => panic!("{other:?}"),
    }
}
