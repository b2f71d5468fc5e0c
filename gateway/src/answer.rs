//! What the client gets: problem documents of our own, and the upstream's answers with our headers.
//!
//! Invariant: every answer passes [`dress`], the gateway's own and the upstream's alike.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use pingora_error::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use portcullis_api::{Protocol, Rejection};
use portcullis_config::SecurityHeaderValues;
use portcullis_plugins::{authentication::sets_cookie, cors, rate_limit, reserved};

use crate::{
    body,
    problem::{self, NO_DEVICES, NOSNIFF, Problem, SAME_ORIGIN},
    trip::{Trip, facts},
};

/// Answers a refused request.
///
/// # Errors
/// When the client is gone.
pub(crate) async fn refuse(session: &mut Session, trip: &mut Trip, rejection: &Rejection) -> Result<()> {
    let body = Problem::new(&rejection.code, &trip.request_id).with(&rejection.members).to_json();
    let mut answer = ResponseHeader::build(rejection.code.status, Some(24))?;
    for (name, value) in rejection.headers.iter() {
        answer.append_header(name.clone(), value.clone())?;
    }
    answer.insert_header(header::CONTENT_TYPE, problem::CONTENT_TYPE)?;
    trip.answer.code = Some(rejection.code.name);
    write(session, trip, answer, Bytes::from(body)).await
}

/// Answers a CORS preflight.
///
/// # Errors
/// When the client is gone.
pub(crate) async fn preflight(session: &mut Session, trip: &mut Trip, headers: HeaderMap) -> Result<()> {
    let mut answer = ResponseHeader::build(204, Some(16))?;
    for (name, value) in &headers {
        answer.append_header(name.clone(), value.clone())?;
    }
    write(session, trip, answer, Bytes::new()).await
}

/// Answers `OPTIONS *`.
///
/// # Errors
/// When the client is gone.
pub(crate) async fn server_options(session: &mut Session, trip: &mut Trip) -> Result<()> {
    write(session, trip, ResponseHeader::build(204, Some(16))?, Bytes::new()).await
}

/// Writes an answer of our own. A connection whose request was not read to its end is closed after it.
async fn write(session: &mut Session, trip: &mut Trip, mut answer: ResponseHeader, body: Bytes) -> Result<()> {
    let status = answer.status;
    trip.answer.status = status.as_u16();
    let begun = |written: &ResponseHeader| {
        !written.status.is_informational() || written.status == StatusCode::SWITCHING_PROTOCOLS
    };
    if session.response_written().is_some_and(begun) {
        return Ok(()); // too late for an answer: the upstream's has begun, or the connection is no HTTP any more
    }
    answer.insert_header(header::CACHE_CONTROL, "no-store")?;
    if status != StatusCode::NO_CONTENT {
        answer.set_content_length(body.len())?;
    }
    dress(session, trip, &mut answer)?;
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
    let costs = cost_headers(trip);
    remove(answer, |name| reserved::is_response_reserved(name) || costs.contains(name));
    let cookies = trip.snapshot.cookies();
    if !cookies.is_empty() && answer.headers.contains_key(header::SET_COOKIE) {
        let kept: Vec<HeaderValue> = answer
            .headers
            .get_all(header::SET_COOKIE)
            .iter()
            .filter(|value| !sets_cookie(value.as_bytes(), cookies))
            .cloned()
            .collect();
        answer.remove_header(&header::SET_COOKIE);
        for value in kept {
            answer.append_header(header::SET_COOKIE, value)?;
        }
    }
    if let Some(admitted) = &trip.admitted {
        for (name, value) in rate_limit::fields(admitted.counted()).into_iter().flatten() {
            answer.insert_header(name, value)?;
        }
    }
    dress(session, trip, answer)
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
pub(crate) fn take_over_interim(answer: &mut ResponseHeader) {
    remove(answer, |name| *name != header::LINK);
}

fn remove(answer: &mut ResponseHeader, unwanted: impl Fn(&HeaderName) -> bool) {
    let names: Vec<HeaderName> = answer.headers.keys().filter(|name| unwanted(name)).cloned().collect();
    for name in names {
        answer.remove_header(&name);
    }
}

/// Nothing of ours comes back from an upstream in a trailer either.
pub(crate) fn take_over_trailers(trip: &Trip, trailers: &mut HeaderMap) {
    let costs = cost_headers(trip);
    let foreign: Vec<HeaderName> = trailers
        .keys()
        .filter(|name| reserved::is_response_reserved(*name) || **name == header::SET_COOKIE || costs.contains(*name))
        .cloned()
        .collect();
    for name in foreign {
        trailers.remove(&name);
    }
}

/// Where upstreams of its route say what a request cost.
fn cost_headers(trip: &Trip) -> &[HeaderName] {
    let limits = trip.snapshot.controls.rate_limit.control();
    limits.zip(trip.route).map_or(&[], |(limits, route)| limits.rules().cost_headers(route))
}

/// Puts the headers on that every answer carries: request id, security headers, CORS.
fn dress(session: &Session, trip: &Trip, answer: &mut ResponseHeader) -> Result<()> {
    answer.insert_header("X-Request-Id", &*trip.request_id)?;
    let headers = trip.host().map_or(&trip.snapshot.default_headers, |host| &host.headers);
    security(answer, headers, trip.conn.as_ref().is_some_and(|conn| conn.tls().is_some()))?;
    if let (Some(host), Some(canonical)) = (trip.host(), &trip.canonical) {
        let protocol = if session.is_http2() { Protocol::Http2 } else { Protocol::Http1 };
        let mut fields = HeaderMap::new();
        let asked = facts(canonical, session.req_header(), protocol);
        cors::response_headers(trip.snapshot.cors(host), &asked, &mut fields);
        for (name, value) in &fields {
            if name == header::VARY {
                answer.append_header("vary", value.clone())?;
            } else {
                answer.insert_header(name.clone(), value.clone())?;
            }
        }
    }
    Ok(())
}

fn security(answer: &mut ResponseHeader, values: &SecurityHeaderValues, tls: bool) -> Result<()> {
    // Names as text: Pingora copies a `HeaderName` that it has no title-case for.
    if tls {
        answer.insert_header("strict-transport-security", values.strict_transport_security.clone())?;
    }
    if !answer.headers.contains_key(header::CONTENT_SECURITY_POLICY) {
        answer.insert_header("content-security-policy", values.content_security_policy.clone())?;
    }
    answer.insert_header("x-frame-options", values.x_frame_options.clone())?;
    answer.insert_header("x-content-type-options", NOSNIFF)?;
    answer.insert_header("referrer-policy", values.referrer_policy.clone())?;
    answer.insert_header("Cross-Origin-Opener-Policy", SAME_ORIGIN)?;
    answer.insert_header("Permissions-Policy", NO_DEVICES)?;
    Ok(())
}
