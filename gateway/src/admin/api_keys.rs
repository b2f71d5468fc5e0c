//! `/admin/v1/api-keys`: the keys of a store. GET lists (`?tenant=NAME` for one tenant's), POST issues; `/api-keys/ID` shows
//! one (with `?tenant=NAME` only that tenant's); POST to `/api-keys/ID/rotate` and `/api-keys/ID/revoke`. A secret is in the
//! answer that made it and nowhere else.

use http::{Method, Response, StatusCode};
use pingora_core::protocols::http::ServerSession;
use portcullis_api::{Cidrs, Clock as _, Environment, Millis, Role, Scope, TenantId};
use portcullis_plugins::authentication::{Filters, IssueRequest, KeyKind, RotateRequest, Row};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{json as page, revocations::body};
use crate::{
    boot::Runtime,
    key_store::{Changed, KeyStoring, Of, StoreError, issue, revoke, rotate},
};

/// Those that are listed at once.
const LISTED_MAX: usize = 1000;

/// A key to be made.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    tenant: TenantId,
    name: String,
    env: Option<Environment>,
    role: Option<Role>,
    #[serde(default)]
    scopes: Vec<Scope>,
    cidrs: Option<Cidrs>,
    routes: Option<Vec<String>>,
    expires: Option<Millis>,
    created_by: String,
    kind: Option<KeyKind>,
    filters: Option<Filters>,
}

/// A successor to be made.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotation {
    overlap: Option<Millis>,
    expires: Option<Millis>,
    created_by: String,
}

/// An end to be made.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ending {
    by: String,
}

/// What is answered.
type Told = (StatusCode, Value);
/// What is answered instead.
type Wrong = (StatusCode, String);

pub(super) async fn answer(
    runtime: &Runtime,
    session: &mut ServerSession,
    method: &Method,
    rest: Option<&str>,
    query: &str,
) -> Response<Vec<u8>> {
    let Some(store) = &runtime.api_keys.store else {
        let why = "the API keys are in a file, or there are none: this is for a store";
        return page(StatusCode::NOT_FOUND, &json!({ "error": why }));
    };
    let done = match (method, rest, rest.and_then(|rest| rest.split_once('/'))) {
        (&Method::GET, None, _) => list(runtime, store, query).await,
        (&Method::POST, None, _) => issued(runtime, store, session).await,
        (&Method::GET, Some(id), None) => one(runtime, store, id, query).await,
        (&Method::POST, _, Some((id, "rotate"))) => rotated(runtime, store, session, id).await,
        (&Method::POST, _, Some((id, "revoke"))) => revoked(runtime, store, session, id).await,
        _ => Err((StatusCode::METHOD_NOT_ALLOWED, "GET lists and shows; POST issues, rotates and revokes".to_owned())),
    };
    match done {
        Ok((status, answer)) => page(status, &answer),
        Err((status, why)) => page(status, &json!({ "error": why })),
    }
}

async fn list(runtime: &Runtime, store: &KeyStoring, query: &str) -> Result<Told, Wrong> {
    let rows = match tenant(query)? {
        Some(tenant) => store.rows(Of::Tenant(tenant)).await,
        None => store.all().await,
    };
    let (rows, now, ledger) = (rows.map_err(wrong)?, runtime.gateway.clock.unix(), store.ledger());
    let keys: Vec<Value> = rows.iter().take(LISTED_MAX).map(|row| ledger.show(row, now)).collect();
    let left_out = rows.len().saturating_sub(keys.len());
    Ok((StatusCode::OK, json!({ "keys": keys, "left_out": left_out })))
}

async fn one(runtime: &Runtime, store: &KeyStoring, id: &str, query: &str) -> Result<Told, Wrong> {
    let tenant = tenant(query)?;
    let rows = store.rows(Of::Key(id.to_owned())).await.map_err(wrong)?;
    // Another tenant's key is no key.
    let row: Option<&Row> = rows.first().filter(|row| tenant.is_none_or(|tenant| tenant == row.tenant));
    let row = row.ok_or_else(|| (StatusCode::NOT_FOUND, "no such key".to_owned()))?;
    Ok((StatusCode::OK, store.ledger().show(row, runtime.gateway.clock.unix())))
}

async fn issued(runtime: &Runtime, store: &KeyStoring, session: &mut ServerSession) -> Result<Told, Wrong> {
    let Asked { tenant, name, env, role, scopes, cidrs, routes, expires, created_by, kind, filters } =
        asked(session).await?;
    known_routes(runtime, routes.as_deref().unwrap_or_default())?;
    let ledger = store.ledger();
    let environment = match env {
        Some(env) => env,
        None => Environment::parse("live").map_err(|why| (StatusCode::BAD_REQUEST, why.to_string()))?,
    };
    let request = IssueRequest {
        brand: ledger.brand.clone(),
        environment,
        tenant: tenant.clone(),
        role,
        scopes,
        name: Some(name),
        lifetime_s: expires.map(Millis::as_secs_ceil),
        cidrs,
        routes,
        created_by: Some(created_by.clone()),
        kind,
        filters,
    };
    let now = runtime.gateway.clock.unix();
    let change = store.change(Of::Tenant(tenant.to_string()), issue(ledger, request, now));
    let Changed { made, in_force } = change.await.map_err(wrong)?;
    tracing::info!(
        event = "api_keys.issued",
        id = &*made.id,
        tenant = tenant.as_str(),
        by = created_by,
        "an API key was issued"
    );
    Ok(told(json!({ "id": made.id, "key": made.key.as_str() }), in_force))
}

async fn rotated(runtime: &Runtime, store: &KeyStoring, session: &mut ServerSession, id: &str) -> Result<Told, Wrong> {
    let Rotation { overlap, expires, created_by } = asked(session).await?;
    let request = RotateRequest {
        overlap_s: overlap.map(Millis::as_secs_ceil),
        lifetime_s: expires.map(Millis::as_secs_ceil),
        created_by: Some(created_by.clone()),
    };
    let change = rotate(store.ledger(), request, runtime.gateway.clock.unix());
    let Changed { made, in_force } = store.change(Of::Key(id.to_owned()), change).await.map_err(wrong)?;
    tracing::info!(event = "api_keys.rotated", id, successor = &*made.id, by = created_by, "an API key was rotated");
    Ok(told(json!({ "id": made.id, "key": made.key.as_str() }), in_force))
}

async fn revoked(runtime: &Runtime, store: &KeyStoring, session: &mut ServerSession, id: &str) -> Result<Told, Wrong> {
    let Ending { by } = asked(session).await?;
    let change = revoke(store.ledger(), runtime.gateway.clock.unix());
    let Changed { made: first, in_force } = store.change(Of::Key(id.to_owned()), change).await.map_err(wrong)?;
    tracing::info!(event = "api_keys.revoked", id, by, first, "an API key was revoked");
    Ok(told(json!({ "id": id, "revoked": true }), in_force))
}

/// What was done. It stands in the store even where this gateway could not read it from there: then whoever asked must know
/// that it is not in force, and has what was made all the same.
fn told(mut answer: Value, in_force: Result<(), StoreError>) -> Told {
    let Err(why) = in_force else { return (StatusCode::OK, answer) };
    if let Some(members) = answer.as_object_mut() {
        let why = format!("it is written, and not in force on this gateway before the store can be read: {why}");
        members.insert("error".to_owned(), json!(why));
    }
    (StatusCode::SERVICE_UNAVAILABLE, answer)
}

async fn asked<T: DeserializeOwned>(session: &mut ServerSession) -> Result<T, Wrong> {
    let body = body(session).await?;
    serde_json::from_slice(&body)
        .map_err(|why| (StatusCode::BAD_REQUEST, format!("that is not what is asked for: {why}")))
}

/// The tenant of a query, which holds nothing else.
fn tenant(query: &str) -> Result<Option<String>, Wrong> {
    if query.is_empty() {
        return Ok(None);
    }
    // A tenant's grammar has nothing that is percent-encoded.
    let tenant = query.strip_prefix("tenant=").and_then(|tenant| TenantId::parse(tenant).ok());
    let why = "the only thing to ask by is ?tenant=NAME";
    tenant.map(|tenant| Some(tenant.to_string())).ok_or_else(|| (StatusCode::BAD_REQUEST, why.to_owned()))
}

/// A key for a route that is not there would open nothing.
fn known_routes(runtime: &Runtime, routes: &[String]) -> Result<(), Wrong> {
    let snapshot = runtime.gateway.snapshot.load_full();
    let unknown = |route: &&String| !snapshot.router.routes().any(|known| *known.name == ***route);
    match routes.iter().find(unknown) {
        Some(route) => Err((StatusCode::BAD_REQUEST, format!("there is no route `{}`", route.escape_default()))),
        None => Ok(()),
    }
}

fn wrong(error: StoreError) -> Wrong {
    let status = match &error {
        StoreError::Away(_) | StoreError::NoRandomness => StatusCode::SERVICE_UNAVAILABLE,
        StoreError::Full => StatusCode::INSUFFICIENT_STORAGE,
        StoreError::Unknown(_) => StatusCode::NOT_FOUND,
        StoreError::Refused(_) => StatusCode::CONFLICT,
    };
    (status, error.to_string())
}
