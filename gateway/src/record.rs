//! What is kept of a request: one access line, always; metrics; and the violations that block a client.
//!
//! Invariant: no credential, token, query value, path value or plain address is in the line. The path is logged as
//! the route's template.

use std::sync::Arc;

use pingora_proxy::Session;
use portcullis_api::{Mode, Outcome, Step};
use portcullis_plugins::{authentication::Caller, bans};
use serde::{Serialize, ser::SerializeSeq};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{gateway::Gateway, pseudonym::Known, trip::Trip};

/// More than most lines take, so that a line is one allocation.
const LINE_BYTES: usize = 2 << 10;

#[derive(Serialize)]
struct Line<'l> {
    v: u8,
    ts: String,
    event: &'static str,
    request_id: &'l str,
    generation: u64,
    tenant: Option<&'l str>,
    host: Option<&'l str>,
    route: Option<&'l str>,
    method: &'l str,
    path_template: Option<&'l str>,
    status: u16,
    code: Option<&'l str>,
    bytes_in: usize,
    bytes_out: usize,
    dur_ms: f64,
    protocol: &'static str,
    upstream: Option<UpstreamPart<'l>>,
    client: Option<ClientPart>,
    tls: Option<TlsPart<'l>>,
    principal: Option<Principal<'l>>,
    trail: TrailPart<'l>,
}

#[derive(Serialize)]
struct UpstreamPart<'l> {
    id: &'l str,
    server: Option<std::net::SocketAddr>,
    attempts: u32,
    dur_ms: Option<f64>,
}

#[derive(Serialize)]
struct ClientPart {
    ip_pseudonym: Arc<str>,
    source: &'static str,
}

#[derive(Serialize)]
struct TlsPart<'l> {
    version: &'l str,
    group: Option<&'l str>,
}

#[derive(Serialize)]
struct Principal<'l> {
    kind: &'static str,
    issuer: &'l str,
    id_pseudonym: Arc<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<&'l str>,
}

struct TrailPart<'l>(&'l [Step]);

#[derive(Serialize)]
struct StepPart<'l> {
    control: &'static str,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'l str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'l str>,
}

impl Serialize for TrailPart<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(self.0.len()))?;
        for step in self.0 {
            seq.serialize_element(&StepPart {
                control: step.control.as_str(),
                outcome: step.outcome.as_str(),
                mode: (step.mode == Mode::Shadow).then_some("shadow"),
                code: step.code.map(|code| code.name),
                rule: step.rule.as_deref(),
                detail: step.detail.as_deref(),
            })?;
        }
        seq.end()
    }
}

/// What Pingora knows of a request and its answer.
pub(crate) struct Exchange<'s> {
    pub(crate) method: &'s str,
    pub(crate) bytes_in: usize,
    pub(crate) bytes_out: usize,
    pub(crate) http2: bool,
}

impl<'s> Exchange<'s> {
    /// Of this session.
    pub(crate) fn of(session: &'s Session) -> Self {
        Self {
            method: session.req_header().method.as_str(),
            bytes_in: session.body_bytes_read(),
            bytes_out: session.body_bytes_sent(),
            http2: session.is_http2(),
        }
    }
}

/// Writes the record of a finished request.
///
/// Invariant: the access line comes last. Whoever reads it finds everything else recorded: the counts, the block, the
/// decision that `explain` tells. Only a block that a shared store begins may come a moment later.
pub(crate) fn finish(gateway: &Gateway, exchange: &Exchange<'_>, trip: &Trip, status: u16) {
    let seconds = trip.started.elapsed().as_secs_f64();
    count(gateway, trip, exchange.method, status, seconds);
    violations(gateway, trip);
    let line = line(gateway, exchange, trip, status, seconds);
    let mut bytes = Vec::with_capacity(LINE_BYTES);
    if let Err(error) = serde_json::to_writer(&mut bytes, &line) {
        tracing::error!(event = "access_log.line", %error, "an access line could not be written");
    }
    bytes.push(b'\n');
    if trip.trail.steps().iter().any(|step| step.code.is_some()) || trip.answer.code.is_some() {
        gateway.decisions.keep(&trip.request_id, &bytes);
    }
    gateway.access.line(bytes);
}

fn line<'l>(gateway: &Gateway, exchange: &Exchange<'l>, trip: &'l Trip, status: u16, seconds: f64) -> Line<'l> {
    let Exchange { method, bytes_in, bytes_out, http2 } = *exchange;
    let millis = |seconds: f64| (seconds * 1_000_000.0).round() / 1000.0;
    let known = trip.conn.as_ref().and_then(|conn| conn.cached(Known::default));
    let pseudonyms = &gateway.pseudonyms;
    Line {
        v: 1,
        ts: now(),
        event: "access",
        request_id: &trip.request_id,
        generation: trip.snapshot.generation,
        tenant: trip.tenant.as_ref().map(portcullis_api::TenantId::as_str),
        host: trip.host().map(|host| &*host.name),
        route: trip.route().map(|route| &*route.name),
        method,
        path_template: trip.route().map(|route| route.template.as_str()).or(trip.own_path),
        status,
        code: trip.answer.code,
        bytes_in,
        bytes_out,
        dur_ms: millis(seconds),
        protocol: if http2 { "h2" } else { "http/1.1" },
        upstream: trip.route().filter(|_| trip.attempts.count > 0).map(|route| UpstreamPart {
            id: trip.snapshot.upstream_name(route.upstream),
            server: trip.attempts.server,
            attempts: trip.attempts.count,
            dur_ms: trip.attempts.head_ms.map(|ms| (ms * 1000.0).round() / 1000.0),
        }),
        client: trip.client.map(|client| ClientPart {
            ip_pseudonym: known
                .map_or_else(|| pseudonyms.ip(client.ip()).into(), |k| pseudonyms.client(client.ip(), k)),
            source: client.source().as_str(),
        }),
        tls: trip
            .conn
            .as_ref()
            .and_then(|conn| conn.tls())
            .map(|tls| TlsPart { version: tls.version, group: tls.group }),
        principal: match &trip.caller {
            Some(Caller::Verified(identity)) => Some(Principal {
                kind: identity.kind().as_str(),
                issuer: identity.issuer(),
                id_pseudonym: known.map_or_else(
                    || pseudonyms.subject(identity.issuer(), identity.subject()).into(),
                    |known| pseudonyms.caller(identity, known),
                ),
                key_id: identity.key_id(),
            }),
            Some(Caller::Anonymous) | None => None,
        },
        trail: TrailPart(trip.trail.steps()),
    }
}

fn now() -> String {
    let now = OffsetDateTime::now_utc();
    now.replace_millisecond(now.millisecond()).unwrap_or(now).format(&Rfc3339).unwrap_or_default()
}

fn count(gateway: &Gateway, trip: &Trip, method: &str, status: u16, seconds: f64) {
    let metrics = &gateway.metrics;
    metrics.duration.observe(seconds);
    let tenant = match &trip.tenant {
        None => "",
        Some(tenant) if trip.snapshot.names_tenant(tenant) => tenant.as_str(),
        Some(_) => {
            metrics.label_overflow.inc();
            "other"
        }
    };
    let host = trip.host().map_or("", |host| &*host.name);
    let route = trip.route().map_or("", |route| &*route.name);
    let method = match method {
        "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS" => method,
        _ => "_OTHER",
    };
    let mut digits = [0u8; 3];
    metrics.requests.with_label_values(&[tenant, host, route, method, status_text(status, &mut digits)]).inc();
    metrics.decisions.count(trip.trail.steps());
    for step in trip.trail.steps() {
        if step.outcome == Outcome::Degraded
            && let Some(rule) = &step.rule
        {
            metrics.degraded.with_label_values(&[rule.as_str()]).inc();
        }
    }
}

/// Three digits without an allocation.
pub(crate) fn status_text(status: u16, digits: &mut [u8; 3]) -> &str {
    let digit = |n: u16| b'0'.saturating_add(u8::try_from(n.checked_rem(10).unwrap_or(0)).unwrap_or(0));
    *digits = [digit(status.checked_div(100).unwrap_or(0)), digit(status.checked_div(10).unwrap_or(0)), digit(status)];
    std::str::from_utf8(digits).unwrap_or("000")
}

/// A refusal that is a violation counts against the client; enough of them block it.
fn violations(gateway: &Gateway, trip: &Trip) {
    let Some(client) = trip.client else { return };
    for step in trip.trail.steps() {
        let (Outcome::Deny, Mode::Enforce, Some(code)) = (step.outcome, step.mode, step.code) else { continue };
        if !bans::is_violation(&code) {
            continue;
        }
        gateway.bans.record(client.counted(), code.name);
    }
}
