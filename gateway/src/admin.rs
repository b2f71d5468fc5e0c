//! The operator's listener: probes, metrics, the key set of assertions, and with a token bans, lockouts, revocations, API keys,
//! limits and decisions. Loopback only.

mod api_keys;
mod issuers;
mod limits;
mod lockouts;
mod revocations;

use std::sync::Arc;

use async_trait::async_trait;
use http::{Method, Response, StatusCode, header};
use pingora_core::{apps::http_app::ServeHttp, protocols::http::ServerSession};
use portcullis_api::{Micros, Secret};
use portcullis_plugins::{
    bans::{Ban, Client},
    login::Scope,
};
use serde_json::json;

use crate::{
    boot::Runtime,
    stores::redis::{Health, RedisCounters},
};

/// Answers the operator.
pub(crate) struct Admin {
    /// What it reports on.
    pub(crate) runtime: Arc<Runtime>,
    /// The bearer token of `/admin/v1`.
    pub(crate) token: Option<Secret>,
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let head = session.req_header();
        let (method, uri) = (head.method.clone(), head.uri.clone());
        #[expect(clippy::disallowed_methods, reason = "these pages are the gateway's own: nothing is forwarded by it")]
        let (path, query) = (uri.path(), uri.query().unwrap_or_default());
        match (&method, path) {
            (&Method::GET, "/livez") => text(StatusCode::OK, "text/plain", b"ok\n".to_vec()),
            (&Method::GET, "/readyz") => self.ready(),
            (&Method::GET, "/metrics") => self.metrics(),
            (&Method::GET, "/.well-known/portcullis/jwks.json") => self.key_set(),
            (method, _) => match path.strip_prefix("/admin/v1/") {
                Some(rest) if self.authorized(session) => match rest.split_once('/') {
                    Some(("api-keys", rest)) => {
                        api_keys::answer(&self.runtime, session, method, Some(rest), query).await
                    }
                    None if rest == "api-keys" => api_keys::answer(&self.runtime, session, method, None, query).await,
                    Some(("limits", limit)) => limits::answer(&self.runtime, method, limit, query).await,
                    Some(("issuers", rest)) => issuers::one(&self.runtime, method, rest).await,
                    None if rest == "issuers" => issuers::answer(&self.runtime, method),
                    Some(("revocations", mark)) => revocations::one(&self.runtime, method, mark),
                    None if rest == "revocations" => revocations::answer(&self.runtime, session, method, query).await,
                    Some(("lockouts", lock)) => lockouts::lift(&self.runtime, method, lock, query).await,
                    None if rest == "lockouts" => lockouts::answer(&self.runtime, method, query).await,
                    Some(_) | None => self.admin(method, rest).await,
                },
                Some(_) => text(StatusCode::UNAUTHORIZED, "text/plain", b"the admin token is needed\n".to_vec()),
                None => text(StatusCode::NOT_FOUND, "text/plain", b"no such page\n".to_vec()),
            },
        }
    }
}

impl Admin {
    fn authorized(&self, session: &ServerSession) -> bool {
        let Some(token) = &self.token else { return false };
        let mut values = session.req_header().headers.get_all(header::AUTHORIZATION).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => value.as_bytes().strip_prefix(b"Bearer ").is_some_and(|given| token.equals(given)),
            (Some(_) | None, _) => false,
        }
    }

    fn ready(&self) -> Response<Vec<u8>> {
        let gateway = &self.runtime.gateway;
        let snapshot = gateway.snapshot.load();
        let upstreams: serde_json::Map<String, serde_json::Value> =
            snapshot.upstreams.iter().map(|upstream| (upstream.name.to_string(), json!(upstream.is_up()))).collect();
        let store = match &self.runtime.redis {
            None => "memory".to_owned(),
            Some(redis) => store_health(redis),
        };
        // A gateway that has not read its API keys yet knows nobody's: another one serves better.
        let (status, keys) = match self.runtime.api_keys.store.as_ref().map(|store| store.health()) {
            None => (StatusCode::OK, None),
            Some(Ok(health)) => (StatusCode::OK, Some(health)),
            Some(Err(why)) => (StatusCode::SERVICE_UNAVAILABLE, Some(why)),
        };
        let mut page = json!({
            "ready": status == StatusCode::OK,
            "generation": snapshot.generation,
            "counters": store,
            "upstreams": upstreams,
        });
        if let (Some(keys), Some(fields)) = (keys, page.as_object_mut()) {
            fields.insert("api_keys".to_owned(), json!(keys));
        }
        // A store that is away or an upstream that is down is shown, and does not take the gateway out of rotation:
        // each rule has its posture, and each upstream its 503.
        json(status, &page)
    }

    fn key_set(&self) -> Response<Vec<u8>> {
        let snapshot = self.runtime.gateway.snapshot.load();
        let Some(rings) = &snapshot.assertions else {
            return text(StatusCode::NOT_FOUND, "text/plain", b"no assertions are signed\n".to_vec());
        };
        let mut response = text(StatusCode::OK, "application/jwk-set+json", rings.key_set.clone().into_bytes());
        if let Ok(age) = header::HeaderValue::try_from(format!("max-age={}", rings.max_age_s)) {
            response.headers_mut().insert(header::CACHE_CONTROL, age);
        }
        response
    }

    fn metrics(&self) -> Response<Vec<u8>> {
        let gateway = &self.runtime.gateway;
        let blocked = gateway.bans.list().0.len();
        gateway.metrics.blocks_active.set(i64::try_from(blocked).unwrap_or(i64::MAX));
        let (locked, _) = gateway.lockouts.list();
        for scope in Scope::ALL {
            let locks = locked.iter().filter(|lock| lock.scope == scope).count();
            let gauge = gateway.metrics.lockouts_active.with_label_values(&[scope.as_str()]);
            gauge.set(i64::try_from(locks).unwrap_or(i64::MAX));
        }
        let [crowded, lost, locks_lost] = self.runtime.crowded();
        gateway.metrics.lockouts_lost.set(i64::try_from(locks_lost).unwrap_or(i64::MAX));
        gateway.metrics.crowded.set(i64::try_from(crowded).unwrap_or(i64::MAX));
        gateway.metrics.blocks_lost.set(i64::try_from(lost).unwrap_or(i64::MAX));
        let revoked = gateway.revocations.set.len();
        gateway.metrics.revocations.set(i64::try_from(revoked).unwrap_or(i64::MAX));
        gateway.metrics.revocation_lag.set(i64::try_from(gateway.revocations.lag_s()).unwrap_or(i64::MAX));
        revocations::stale(gateway);
        if let Some(redis) = &self.runtime.redis {
            gateway.metrics.store_up.set(i64::from(redis.health() == Health::Healthy));
        }
        text(StatusCode::OK, "text/plain; version=0.0.4", gateway.metrics.render())
    }

    async fn admin(&self, method: &Method, path: &str) -> Response<Vec<u8>> {
        let gateway = &self.runtime.gateway;
        match (method, path.split_once('/')) {
            (&Method::GET, None) if path == "bans" => {
                let (bans, now) = gateway.bans.list();
                let bans: Vec<_> = bans.iter().map(|ban| listed(ban, now)).collect();
                json(StatusCode::OK, &json!({ "bans": bans }))
            }
            (&Method::DELETE, Some(("bans", client))) => self.lift(client).await,
            (&Method::GET, Some(("decisions", request_id))) => match gateway.decisions.find(request_id) {
                Some(line) => text(StatusCode::OK, "application/json", line.to_vec()),
                None => json(
                    StatusCode::NOT_FOUND,
                    &json!({ "error": "no refusal of this request id is kept; passed requests are in the access log" }),
                ),
            },
            _ => json(StatusCode::NOT_FOUND, &json!({ "error": "no such page" })),
        }
    }

    async fn lift(&self, client: &str) -> Response<Vec<u8>> {
        let client = match (client.parse(), client.parse()) {
            (Ok(address), _) => Client::Address(address),
            (Err(_), Ok(hash)) => Client::Hash(hash),
            (Err(_), Err(_)) => {
                return json(StatusCode::BAD_REQUEST, &json!({ "error": "that is no address and no listed hash" }));
            }
        };
        match self.runtime.gateway.bans.lift(client).await {
            Ok(true) => json(StatusCode::OK, &json!({ "lifted": true })),
            Ok(false) => json(StatusCode::NOT_FOUND, &json!({ "error": "this client is not blocked" })),
            Err(here_only) => json(StatusCode::SERVICE_UNAVAILABLE, &json!({ "error": here_only.to_string() })),
        }
    }
}

/// `known_by` says what `client` is: its address, or the hash that is all another gateway tells.
fn listed(ban: &Ban, now: Micros) -> serde_json::Value {
    let known_by = match ban.client {
        Client::Address(_) => "address",
        Client::Hash(_) => "hash",
    };
    let (client, remaining_s) = (ban.client.to_string(), ban.remaining_s(now));
    json!({ "client": client, "known_by": known_by, "reason": ban.code, "remaining_s": remaining_s })
}

fn store_health(redis: &RedisCounters) -> String {
    let stands = match redis.health() {
        Health::Healthy if redis.has_other_key() => {
            "healthy, and a gateway with another stores.key counts apart".to_owned()
        }
        Health::Healthy => "healthy".to_owned(),
        Health::Degraded { since, why } => {
            let seconds = since.elapsed().map_or(0, |elapsed| elapsed.as_secs());
            format!("degraded for {seconds}s: {why}")
        }
    };
    match redis.mode() {
        "single" => stands,
        mode => format!("{mode}: {stands}"),
    }
}

fn json(status: StatusCode, value: &serde_json::Value) -> Response<Vec<u8>> {
    let mut bytes = value.to_string().into_bytes();
    bytes.push(b'\n');
    text(status, "application/json", bytes)
}

fn text(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response<Vec<u8>> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let length = response.body().len();
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}
