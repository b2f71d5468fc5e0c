//! `/admin/v1/revocations`: what is revoked (GET, or `/admin/v1/revocations/MARK` for one), and revoking (POST) with
//! `{"kind": …, "value": …, "issuer": …, "tenant": …, "reason": …}`.

use http::{Method, Response, StatusCode};
use pingora_core::protocols::http::ServerSession;
use portcullis_api::TenantId;
use portcullis_plugins::{
    authentication::{AGENT_ISSUER, Authentication},
    revocations::{Freshness, Kind, Mark, Reason, Record, Target},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::json as page;
use crate::{
    boot::Runtime,
    gateway::Gateway,
    revocations::{NotRevoked, Receipt, Revoked},
};

/// More than any revocation or API key takes.
const BODY_BYTES_MAX: usize = 8 << 10;
/// Those that are listed at once, the newest first.
const LISTED_MAX: usize = 1000;

/// What is asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    kind: String,
    value: String,
    issuer: Option<String>,
    tenant: Option<TenantId>,
    reason: Reason,
}

/// What is answered instead.
type Wrong = (StatusCode, String);

pub(super) async fn answer(
    runtime: &Runtime,
    session: &mut ServerSession,
    method: &Method,
    query: &str,
) -> Response<Vec<u8>> {
    match *method {
        Method::GET => list(runtime),
        Method::POST => match told(runtime, session, query).await {
            Ok(response) => response,
            Err((status, why)) => page(status, &json!({ "error": why })),
        },
        _ => wrong_method(),
    }
}

/// One, by its mark.
pub(super) fn one(runtime: &Runtime, method: &Method, mark: &str) -> Response<Vec<u8>> {
    if *method != Method::GET {
        return wrong_method();
    }
    let found = mark.parse::<Mark>().map(|mark| runtime.gateway.revocations.set.find(&mark));
    match found {
        Ok(Some(record)) => page(StatusCode::OK, &shown(&record)),
        Ok(None) => page(StatusCode::NOT_FOUND, &json!({ "error": "nothing of this mark is revoked" })),
        Err(why) => page(StatusCode::BAD_REQUEST, &json!({ "error": format!("that is no mark: {why}") })),
    }
}

fn wrong_method() -> Response<Vec<u8>> {
    let why = "GET lists, POST revokes; what is revoked stays so until it has expired";
    page(StatusCode::METHOD_NOT_ALLOWED, &json!({ "error": why }))
}

/// Tells which routes refuse because what is known is too old.
pub(super) fn stale(gateway: &Gateway) {
    let age = gateway.revocations.age();
    let snapshot = gateway.snapshot.load();
    let Some(control) = snapshot.controls.authentication.control() else { return };
    for freshness in Freshness::ALL {
        let stale = age.exceeds(control.max_stale().of(freshness));
        gateway.metrics.revocation_stale.with_label_values(&[freshness.as_str()]).set(i64::from(stale));
    }
}

fn list(runtime: &Runtime) -> Response<Vec<u8>> {
    let all = runtime.gateway.revocations.set.list();
    let listed: Vec<Value> = all.iter().take(LISTED_MAX).map(|record| shown(record)).collect();
    let left_out = all.len().saturating_sub(listed.len());
    page(StatusCode::OK, &json!({ "revocations": listed, "left_out": left_out }))
}

fn shown(record: &Record) -> Value {
    let Record { kind, mark, issuer, tenant, name, at, reason } = record;
    json!({
        "kind": kind.as_str(),
        "mark": mark.to_string(),
        "issuer": issuer,
        "tenant": tenant.as_ref().map(TenantId::as_str),
        "name": name,
        "at": at,
        "expires": record.expires(),
        "reason": reason.as_str(),
    })
}

/// Revokes, and with `wait=all` waits for the other gateways: 202 names those that have not said that it holds there.
async fn told(runtime: &Runtime, session: &mut ServerSession, query: &str) -> Result<Response<Vec<u8>>, Wrong> {
    let waits = match query {
        "" => false,
        "wait=all" => true,
        _ => return Err((StatusCode::BAD_REQUEST, "all that can be asked for is `?wait=all`".to_owned())),
    };
    let revoked = revoke(runtime, session).await?;
    let mut answer = shown(&revoked.record);
    // It may be a key of a file or store that this gateway does not read yet; or a misspelling.
    if let (Kind::ApiKey, Some(id)) = (revoked.record.kind, &revoked.record.name)
        && !runtime.api_keys.table().knows(id)
        && let Some(members) = answer.as_object_mut()
    {
        members.insert("note".to_owned(), json!("this gateway knows no API key of this id: mind its spelling"));
    }
    if !waits {
        return Ok(page(StatusCode::OK, &answer));
    }
    let receipt = runtime.gateway.revocations.receipt(&revoked).await;
    let status = if receipt.is_whole() { StatusCode::OK } else { StatusCode::ACCEPTED };
    let Receipt { holds, lagging, told } = receipt;
    if let Some(members) = answer.as_object_mut() {
        let receipt = json!({ "holds": holds, "lagging": lagging, "all_known": told });
        members.insert("receipt".to_owned(), receipt);
    }
    Ok(page(status, &answer))
}

async fn revoke(runtime: &Runtime, session: &mut ServerSession) -> Result<Revoked, Wrong> {
    let wrong = |why: String| (StatusCode::BAD_REQUEST, why);
    let body = body(session).await?;
    let asked: Asked = serde_json::from_slice(&body).map_err(|why| wrong(format!("that is no revocation: {why}")))?;
    let target = target(runtime, &asked)?;
    runtime.gateway.revocations.revoke(&target, asked.reason).await.map_err(|why| {
        let status = match &why {
            NotRevoked::HereOnly(_) => return (StatusCode::SERVICE_UNAVAILABLE, why.to_string()),
            NotRevoked::Full(_) => StatusCode::INSUFFICIENT_STORAGE,
            NotRevoked::Nowhere | NotRevoked::Unwritten(_) | NotRevoked::Interrupted => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, format!("nothing was revoked: {why}"))
    })
}

/// The body of a document for the operator.
pub(super) async fn body(session: &mut ServerSession) -> Result<Vec<u8>, Wrong> {
    let mut body = Vec::new();
    loop {
        match session.read_request_body().await {
            Ok(Some(piece)) => body.extend_from_slice(&piece),
            Ok(None) => return Ok(body),
            Err(_) => return Err((StatusCode::BAD_REQUEST, "the request broke off".to_owned())),
        }
        if body.len() > BODY_BYTES_MAX {
            return Err((StatusCode::PAYLOAD_TOO_LARGE, format!("a document has at most {BODY_BYTES_MAX} bytes")));
        }
    }
}

/// An issuer is named as in the configuration and kept by its `iss`: one that nobody has is a misspelling, and would
/// revoke nothing.
fn target(runtime: &Runtime, asked: &Asked) -> Result<Target, Wrong> {
    let Asked { kind, value, issuer, tenant, reason: _ } = asked;
    let wrong = |why: String| (StatusCode::BAD_REQUEST, why);
    let Some(kind) = Kind::parse(kind) else {
        let known = Kind::ALL.map(Kind::as_str).join(", ");
        return Err(wrong(format!("`{}` is nothing that can be revoked: write one of {known}", kind.escape_default())));
    };
    let snapshot = runtime.gateway.snapshot.load_full();
    let authentication = snapshot.controls.authentication.control();
    let iss = |name: &str| {
        // Agents have no issuer of their own; for a subject of theirs this name stands where a token has its `iss`.
        if name == AGENT_ISSUER && kind == Kind::Sub {
            return Ok(AGENT_ISSUER.to_owned());
        }
        let found = authentication.and_then(|control| control.iss(name)).map(str::to_owned);
        found.ok_or_else(|| {
            let names: Vec<&str> = authentication.into_iter().flat_map(Authentication::issuer_names).collect();
            wrong(format!("no issuer is called `{}`: known are {}", name.escape_default(), names.join(", ")))
        })
    };
    let value = if kind == Kind::Issuer { iss(value)? } else { value.clone() };
    let issuer = issuer.as_deref().map(iss).transpose()?;
    Target::parse(kind, issuer.as_deref(), tenant.as_ref(), &value).map_err(|why| wrong(why.to_string()))
}
