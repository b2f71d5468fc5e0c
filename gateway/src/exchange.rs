//! `POST /.portcullis/v1/token`: an API key buys a token. Answered by the gateway itself, on no route.
//!
//! What the journey asks of every request was asked before: one meaning, the client's address, blocks, `burst`, the host.
//! Here follow the site's address list, the body within its bound, the exchange, and the address list of the key's tenant.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use pingora_proxy::Session;
use portcullis_api::{ClientIp, Mode, Outcome, Protocol, Rejection, Verdict};
use portcullis_config::{HostEntry, Settled};
use portcullis_plugins::{
    authentication::exchange::{Answered, Asking, Deny, FORM_BYTES_MAX, Granted, NAME},
    canonical::{Canonical, Upgrade},
    ip_allowlist, waf,
};
use uuid::Uuid;

use crate::{
    body::{self, Body, ReadError},
    edge::ConnInfo,
    refusal::{Own, OwnAnswer, Stop},
    snapshot::Snapshot,
    trip::{Trip, facts},
};

const PATH: &str = "/.portcullis/v1/token";

/// The hosts that serve it.
pub(crate) fn hosts(settled: &Settled) -> BTreeSet<usize> {
    let serves = |host: &&HostEntry| settled.exchange.iter().any(|name| **name == *host.name);
    settled.router.hosts().iter().filter(serves).map(|host| host.index).collect()
}

/// Whether a request is for it.
pub(crate) fn is_asked(snapshot: &Snapshot, host: &HostEntry, canonical: &Canonical) -> bool {
    canonical.path() == PATH && snapshot.exchange.contains(&host.index)
}

/// Answers, or refuses.
pub(crate) async fn answer(session: &mut Session, trip: &mut Trip, conn: &ConnInfo, client: ClientIp) -> Stop {
    trip.own_path = Some(PATH);
    match exchanged(session, trip, conn, client).await {
        Ok(own) => Stop::Answered(Box::new(own)),
        Err(stop) => stop,
    }
}

async fn exchanged(
    session: &mut Session,
    trip: &mut Trip,
    conn: &ConnInfo,
    client: ClientIp,
) -> Result<OwnAnswer, Stop> {
    let snapshot = trip.snapshot.clone();
    let controls = &snapshot.controls;
    controls.ip_allowlist.again(|list| Ok(list.site(client))).map_err(|refused| told(trip, *refused))?;
    trip.trail.record(ip_allowlist::NAME, Outcome::Pass, Mode::Enforce);
    if session.req_header().method != Method::POST {
        return Err(Own::Method { allow: HeaderValue::from_static("POST") }.into());
    }
    let form = match form(session, trip).await? {
        Some(form) => form,
        None => return refused(trip, &Deny::Request("the body is larger than 8 KiB")),
    };
    let protocol = if session.is_http2() { Protocol::Http2 } else { Protocol::Http1 };
    let Some(canonical) = &trip.canonical else { return Err(Own::Bug("a form without its request".into()).into()) };
    let mut id = Uuid::encode_buffer();
    let asking = Asking {
        facts: facts(canonical, session.req_header(), protocol),
        client,
        certificate: conn.certificate(),
        form: &form,
        id: Uuid::now_v7().hyphenated().encode_lower(&mut id),
    };
    let mut answered = None;
    let asked = controls.authentication.again(|control| {
        answered = Some(control.exchange(&asking)?);
        Ok(Verdict::Pass(()))
    });
    asked.map_err(|refused| told(trip, *refused))?;
    let Some(answered) = answered else { return Err(Own::Bug("an exchange without an answer".into()).into()) };
    let tenant = answered.tenant().cloned();
    let Answered { caller, outcome } = answered;
    trip.caller = caller;
    trip.tenant = tenant;
    let sees = ip_allowlist::TenantSees { client, tenant: trip.tenant.as_ref() };
    controls.tenant_ip_allowlist.pass(sees, &mut trip.trail).await?;
    match outcome {
        Ok(granted) => granted_answer(trip, &granted),
        Err(deny) => refused(trip, &deny),
    }
}

/// A refusal of a control that is asked here as everywhere.
fn told(trip: &mut Trip, (rejection, outcome): (Rejection, Outcome)) -> Stop {
    trip.trail.refused(&rejection, outcome, Mode::Enforce);
    rejection.into()
}

fn granted_answer(trip: &mut Trip, granted: &Granted) -> Result<OwnAnswer, Stop> {
    let body = granted.to_json().map_err(|_| Own::Bug("a token that cannot be written".into()))?;
    trip.trail.record(NAME, Outcome::Pass, Mode::Enforce);
    Ok(OwnAnswer { status: 200, code: None, fields: no_cache(), body })
}

/// In the words of RFC 6749 where it has some, else as the gateway refuses everywhere.
fn refused(trip: &mut Trip, deny: &Deny) -> Result<OwnAnswer, Stop> {
    let rejection = Rejection::of(NAME, deny);
    trip.trail.refused(&rejection, Outcome::Deny, Mode::Enforce);
    let Some(error) = deny.error() else { return Err(rejection.into()) };
    let body = serde_json::json!({ "error": error, "error_description": rejection.code.title });
    let mut fields = no_cache();
    fields.extend(*rejection.headers);
    let Ok(body) = serde_json::to_vec(&body) else { return Err(Own::Bug("an error that is no JSON".into()).into()) };
    Ok(OwnAnswer { status: rejection.code.status, code: Some(rejection.code.name), fields, body })
}

/// Beside `Cache-Control: no-store`, which every answer of ours has (RFC 6749 5.1).
fn no_cache() -> HeaderMap {
    HeaderMap::from_iter([(header::PRAGMA, HeaderValue::from_static("no-cache"))])
}

/// The whole body; `None` where it is too large.
async fn form(session: &mut Session, trip: &mut Trip) -> Result<Option<Bytes>, Stop> {
    let framing = trip.canonical.as_ref().map(Canonical::framing);
    let framing = framing.ok_or_else(|| Own::Bug("a body without its request".into()))?;
    let waf::Body::Later { declared } = body::announced(framing, Upgrade::None) else { return Ok(Some(Bytes::new())) };
    let head = session.req_header();
    if head.headers.contains_key(header::EXPECT) && head.version != http::Version::HTTP_10 {
        session.write_continue_response().await.map_err(|_| Own::Body)?;
    }
    if let Some(phase) = &mut trip.phase {
        phase.body_wanted();
    }
    let read = body::read_ahead(session, declared, FORM_BYTES_MAX, Mode::Enforce, &mut trip.held).await;
    let late = trip.phase.as_ref().is_some_and(|phase| phase.is_late());
    if let Some(phase) = &mut trip.phase {
        phase.body_done();
    }
    match read {
        Ok(Body::Whole(bytes)) => Ok(Some(bytes)),
        Ok(Body::Absent) => Ok(Some(Bytes::new())),
        // Both are larger than the bound.
        Ok(Body::Held(_) | Body::Streaming { .. }) | Err(ReadError::TooLarge { .. }) => Ok(None),
        Err(ReadError::TimedOut) => Err(Own::BodyTimeout.into()),
        Err(ReadError::Broken) if late => Err(Own::BodyTimeout.into()),
        Err(ReadError::Broken) => Err(Own::Body.into()),
        Err(ReadError::NoRoom) => Err(Own::Busy.into()),
    }
}
