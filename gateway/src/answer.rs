//! What the client gets: problem documents of our own, and the upstream's answers with our headers.
//!
//! Invariant: every answer passes [`dress`], the gateway's own and the upstream's alike.

use std::mem;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{self, Entry},
    response::Parts,
};
use pingora_error::{ErrorType, OrErr as _, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use portcullis_api::{Protocol, Rejection};
use portcullis_config::SecurityHeaderValues;
use portcullis_plugins::{authentication::sets_cookie, cors, rate_limit, reserved};

use crate::{
    body,
    problem::{self, NO_DEVICES, NOSNIFF, Problem, SAME_ORIGIN},
    refusal::OwnAnswer,
    trip::{Trip, facts},
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
const PERMISSIONS_POLICY: HeaderName = HeaderName::from_static("permissions-policy");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// Room for what [`dress`] and the controls add to an answer.
const DRESS: usize = 24;

/// Answers a refused request.
///
/// # Errors
/// When the client is gone.
pub(crate) async fn refuse(session: &mut Session, trip: &mut Trip, rejection: &Rejection) -> Result<()> {
    let body = Problem::new(&rejection.code, &trip.request_id).with(&rejection.members).to_json();
    let status = StatusCode::from_u16(rejection.code.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut fields = HeaderMap::clone(&rejection.headers);
    fields.insert(header::CONTENT_TYPE, problem::CONTENT_TYPE);
    trip.answer.code = Some(rejection.code.name);
    write(session, trip, status, fields, Bytes::from(body)).await
}

/// Answers on a path of the gateway's own.
///
/// # Errors
/// When the client is gone.
pub(crate) async fn own(session: &mut Session, trip: &mut Trip, own: OwnAnswer) -> Result<()> {
    let OwnAnswer { status, code, mut fields, body } = own;
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    trip.answer.code = code;
    write(session, trip, status, fields, Bytes::from(body)).await
}

/// Answers a CORS preflight.
///
/// # Errors
/// When the client is gone.
pub(crate) async fn preflight(session: &mut Session, trip: &mut Trip, headers: HeaderMap) -> Result<()> {
    write(session, trip, StatusCode::NO_CONTENT, headers, Bytes::new()).await
}

/// Answers `OPTIONS *`.
///
/// # Errors
/// When the client is gone.
pub(crate) async fn server_options(session: &mut Session, trip: &mut Trip) -> Result<()> {
    write(session, trip, StatusCode::NO_CONTENT, HeaderMap::new(), Bytes::new()).await
}

/// Writes an answer of our own. A connection whose request was not read to its end is closed after it.
async fn write(
    session: &mut Session,
    trip: &mut Trip,
    status: StatusCode,
    mut fields: HeaderMap,
    body: Bytes,
) -> Result<()> {
    let begun = |written: &ResponseHeader| {
        !written.status.is_informational() || written.status == StatusCode::SWITCHING_PROTOCOLS
    };
    if session.response_written().is_some_and(begun) {
        return Ok(()); // too late for an answer: the upstream's has begun, or the connection is no HTTP any more
    }
    trip.answer.status = status.as_u16();
    fields.reserve(DRESS);
    fields.insert(header::CACHE_CONTROL, NO_STORE);
    if status != StatusCode::NO_CONTENT {
        fields.insert(header::CONTENT_LENGTH, body.len().into());
    }
    dress(session, trip, &mut fields)?;
    let (mut head, ()) = http::Response::new(()).into_parts();
    (head.status, head.headers) = (status, fields);
    let answer = ResponseHeader::from(head);
    let waits = session.req_header().headers.contains_key(header::EXPECT);
    let unread = !session.is_body_done();
    // What follows `CONNECT` may be meant for another server.
    let ambiguous = status == StatusCode::BAD_REQUEST || session.req_header().method == Method::CONNECT;
    if !session.is_http2() && (unread || ambiguous) {
        session.set_keepalive(None);
    }
    let bodiless = body.is_empty() || session.req_header().method == Method::HEAD;
    let length = body.len();
    session.as_downstream_mut().write_response_header(Box::new(answer)).await?;
    if bodiless {
        session.as_downstream_mut().finish_body().await?;
    } else {
        session.as_downstream_mut().write_response_body(body, true).await?;
        trip.answer.bytes = u64::try_from(length).unwrap_or(u64::MAX);
    }
    if unread && !waits {
        body::drain(session).await;
    }
    Ok(())
}

/// Takes an upstream's answer over: nothing of ours comes back from it, and our headers are on it.
///
/// # Errors
/// When a header cannot be written.
pub(crate) fn take_over(session: &Session, trip: &mut Trip, answer: &mut ResponseHeader) -> Result<()> {
    if let Some(admitted) = &mut trip.admitted {
        admitted.settle(&answer.headers, &mut trip.trail);
    }
    let trip = &*trip;
    change(answer, |fields| {
        fields.reserve(DRESS);
        let costs = cost_headers(trip);
        remove(fields, |name| reserved::is_response_reserved(name) || costs.contains(name));
        keep_cookies(fields, trip.snapshot.cookies());
        if let Some(admitted) = &trip.admitted {
            for (name, value) in rate_limit::fields(admitted.counted()).into_iter().flatten() {
                fields.insert(name, value);
            }
        }
        dress(session, trip, fields)
    })
}

/// Changes the fields of an answer. Their names lose the case in which the upstream wrote them: Pingora keeps it in a second
/// map, and to write each of our fields into both costs more than all else that is done to an answer.
fn change(answer: &mut ResponseHeader, change: impl FnOnce(&mut HeaderMap) -> Result<()>) -> Result<()> {
    let mut parts = Parts::from(mem::replace(answer, ResponseHeader::build_no_case(StatusCode::OK, Some(0))?));
    change(&mut parts.headers)?;
    *answer = parts.into();
    Ok(())
}

/// Takes the cookies that are ours alone off an answer.
fn keep_cookies(fields: &mut HeaderMap, ours: &[String]) {
    if ours.is_empty() {
        return;
    }
    if let Entry::Occupied(written) = fields.entry(header::SET_COOKIE) {
        let (_, values) = written.remove_entry_mult();
        let kept: Vec<HeaderValue> = values.filter(|value| !sets_cookie(value.as_bytes(), ours)).collect();
        for value in kept {
            fields.append(header::SET_COOKIE, value);
        }
    }
}

/// Whether a head is all of its answer, and all of the request was read.
pub(crate) fn is_whole(session: &mut Session, answer: &ResponseHeader) -> bool {
    // What follows an upgrade is no body, whatever its head says of one.
    if answer.status == StatusCode::SWITCHING_PROTOCOLS {
        return false;
    }
    let bodiless = session.req_header().method == Method::HEAD
        || matches!(answer.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || answer.headers.get(header::CONTENT_LENGTH).is_some_and(|length| length == "0");
    bodiless && session.is_body_done()
}

/// What an interim answer may carry is hints for the client (RFC 8297); everything else waits for the final one.
pub(crate) fn take_over_interim(answer: &mut ResponseHeader) -> Result<()> {
    change(answer, |fields| {
        remove(fields, |name| *name != header::LINK);
        Ok(())
    })
}

fn remove(fields: &mut HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) {
    let names: Vec<HeaderName> = fields.keys().filter(|name| unwanted(name)).cloned().collect();
    names.iter().for_each(|name| drop(fields.remove(name)));
}

/// Nothing of ours comes back from an upstream in a trailer either.
pub(crate) fn take_over_trailers(trip: &Trip, trailers: &mut HeaderMap) {
    let costs = cost_headers(trip);
    remove(trailers, |name| {
        reserved::is_response_reserved(name) || *name == header::SET_COOKIE || costs.contains(name)
    });
}

/// Where upstreams of its route say what a request cost.
fn cost_headers(trip: &Trip) -> &[HeaderName] {
    let limits = trip.snapshot.controls.rate_limit.control();
    limits.zip(trip.route).map_or(&[], |(limits, route)| limits.rules().cost_headers(route))
}

/// Puts the headers on that every answer carries: request id, security headers, CORS.
fn dress(session: &Session, trip: &Trip, fields: &mut HeaderMap) -> Result<()> {
    let id =
        HeaderValue::from_str(&trip.request_id).or_err(ErrorType::InternalError, "a request id that is no value")?;
    fields.insert(REQUEST_ID, id);
    let headers = trip.host().map_or(&trip.snapshot.default_headers, |host| &host.headers);
    security(fields, headers, trip.conn.as_ref().is_some_and(|conn| conn.tls().is_some()));
    // What the gateway serves itself is for no other origin, whatever the host says of its apps.
    if let (Some(host), Some(canonical), None) = (trip.host(), &trip.canonical, trip.own_path)
        && let Some(cors) = trip.snapshot.cors(host)
    {
        let protocol = if session.is_http2() { Protocol::Http2 } else { Protocol::Http1 };
        let asked = facts(canonical, session.req_header(), protocol);
        // Apart: a preflight's answer has some of them already.
        let mut of_cors = HeaderMap::new();
        cors::response_headers(Some(cors), &asked, &mut of_cors);
        if let Some(vary) = of_cors.remove(header::VARY) {
            fields.append(header::VARY, vary);
        }
        // Each stands once, in place of what was there.
        of_cors.iter().for_each(|(name, value)| drop(fields.insert(name.clone(), value.clone())));
    }
    Ok(())
}

fn security(fields: &mut HeaderMap, values: &SecurityHeaderValues, tls: bool) {
    if tls {
        fields.insert(header::STRICT_TRANSPORT_SECURITY, values.strict_transport_security.clone());
    }
    fields.entry(header::CONTENT_SECURITY_POLICY).or_insert_with(|| values.content_security_policy.clone());
    fields.insert(header::X_FRAME_OPTIONS, values.x_frame_options.clone());
    fields.insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    fields.insert(header::REFERRER_POLICY, values.referrer_policy.clone());
    fields.insert(OPENER_POLICY, SAME_ORIGIN);
    fields.insert(PERMISSIONS_POLICY, NO_DEVICES);
}
