//! Where Pingora calls us. Each filter hands on to the room whose work it is; no decision is made here.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use http::StatusCode;
use pingora_core::{modules::http::HttpModules, upstreams::peer::HttpPeer};
use pingora_error::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use portcullis_api::{Clock as _, Mode, Outcome, Rejection};
use portcullis_plugins::{admitted::Admitted, assertion::Minted, signature, waf};
use uuid::Uuid;

use crate::{
    access_log::AccessLog,
    answer,
    bans::Bans,
    body::{Body, Budget},
    clock::SystemClock,
    decisions::Decisions,
    edge,
    failure::{classify, is_late},
    head, journey,
    lockouts::Lockouts,
    metrics::Metrics,
    outbound::{self, Asserting, CredentialPolicy, Forwarding, NotInjected, Signing},
    pseudonym::Pseudonyms,
    record::{self, Exchange},
    refusal::{Own, Stop},
    revocations::Revoking,
    scope,
    snapshot::Snapshot,
    streams::{self, News},
    trip::{Trip, facts},
};

/// Everything that outlives a request.
pub(crate) struct Gateway {
    /// The configuration in force.
    pub(crate) snapshot: ArcSwap<Snapshot>,
    /// Who is blocked.
    pub(crate) bans: Arc<Bans>,
    /// Failed logins and locks.
    pub(crate) lockouts: Arc<Lockouts>,
    /// What was revoked.
    pub(crate) revocations: Arc<Revoking>,
    /// Tells those whose exchanges go on that something changed.
    pub(crate) news: Arc<News>,
    /// The clocks.
    pub(crate) clock: Arc<SystemClock>,
    /// What all held bodies may take.
    pub(crate) held: Budget,
    /// The metrics.
    pub(crate) metrics: Arc<Metrics>,
    /// The access log.
    pub(crate) access: AccessLog,
    /// The last refusals.
    pub(crate) decisions: Decisions,
    /// Addresses and subjects as they may be written.
    pub(crate) pseudonyms: Arc<Pseudonyms>,
}

/// Handed to Pingora: the shared gateway.
pub(crate) struct Proxy(pub(crate) Arc<Gateway>);

/// To write a piece of an answer, and to read what is left of a request after one.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(30);

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Trip;

    fn new_ctx(&self) -> Trip {
        self.0.metrics.in_flight.inc();
        Trip::new(self.0.snapshot.load_full(), self.0.held.share())
    }

    fn init_downstream_modules(&self, _modules: &mut HttpModules) {
        // Pingora's default is a compression module that we never switch on.
    }

    async fn early_request_filter(&self, session: &mut Session, trip: &mut Trip) -> Result<()> {
        let conn = edge::conn_info(session).cloned();
        if let Some(conn) = &conn {
            trip.phase = Some(conn.request_started());
            session.set_read_timeout(Some(conn.listener().bounds().body_timeout.duration()));
            // Only where Pingora left it on: it switches keep-alive off where framing was in doubt.
            if conn.is_old() {
                session.set_keepalive(None);
            } else if session.get_keepalive().is_some() {
                session.set_keepalive(Some(conn.listener().bounds().idle_timeout.as_secs_ceil()));
            }
        }
        session.set_write_timeout(Some(CLIENT_TIMEOUT));
        session.set_total_drain_timeout(Some(CLIENT_TIMEOUT));
        trip.conn = conn;
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, trip: &mut Trip) -> Result<bool> {
        let Some(conn) = trip.conn.clone() else {
            let bug = Own::Bug("a request without its connection".into()).rejection();
            answer::refuse(session, trip, &bug).await.map_err(Error::into_down)?;
            return Ok(true);
        };
        let stop = journey::travel(session, trip, &conn).await;
        self.0.metrics.overhead.observe(trip.started.elapsed().as_secs_f64());
        let answered = match stop {
            Ok(()) => return Ok(false),
            Err(Stop::Refused(rejection)) => {
                if !trip.trail.steps().iter().any(|step| step.code == Some(rejection.code)) {
                    trip.trail.refused(&rejection, Outcome::Deny, Mode::Enforce);
                }
                answer::refuse(session, trip, &rejection).await
            }
            Err(Stop::Answered(own)) => answer::own(session, trip, *own).await,
            Err(Stop::Preflight(headers)) => answer::preflight(session, trip, headers).await,
            Err(Stop::ServerOptions) => answer::server_options(session, trip).await,
        };
        // Without a source an answer that nobody took would count as a fault of ours.
        answered.map_err(Error::into_down)?;
        Ok(true)
    }

    async fn upstream_peer(&self, _session: &mut Session, trip: &mut Trip) -> Result<Box<HttpPeer>> {
        // Pingora replays the body from its start for a new attempt.
        match &mut trip.body {
            Body::Held(held) => held.restart(),
            Body::Streaming { seen } => *seen = 0,
            Body::Absent | Body::Whole(_) => {}
        }
        let snapshot = trip.snapshot.clone();
        let route = trip.route.and_then(|id| snapshot.router.route(id)).ok_or_else(|| bug("no route"))?;
        let upstream = snapshot.upstreams.get(route.upstream).ok_or_else(|| bug("no upstream"))?;
        let retry = trip.attempts.count > 0;
        if retry {
            self.0.metrics.upstream_retries.with_label_values(&[&*upstream.name]).inc();
        }
        match upstream.next(route.kind, trip.websocket, trip.attempts.server.filter(|_| retry)) {
            Ok((address, peer)) => {
                trip.attempts.count = trip.attempts.count.saturating_add(1);
                trip.attempts.server = Some(address);
                trip.attempts.started = Some(std::time::Instant::now());
                Ok(peer)
            }
            Err(own) => {
                trip.refused_late = Some(own.rejection());
                Err(Error::explain(ErrorType::HTTPStatus(503), "no server is well"))
            }
        }
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        head: &mut RequestHeader,
        trip: &mut Trip,
    ) -> Result<()> {
        let (Some(admitted), Some(canonical), Some(client), Some(conn), Some(route)) =
            (&trip.admitted, &trip.canonical, &trip.client, &trip.conn, trip.route())
        else {
            return Err(bug("a request that was not admitted"));
        };
        let (target, query) = scope::target(canonical, admitted);
        let upstream = trip.snapshot.upstreams.get(route.upstream).ok_or_else(|| bug("no upstream"))?;
        let mut id = Uuid::encode_buffer();
        let id = &*Uuid::now_v7().hyphenated().encode_lower(&mut id);
        let (path, unix) = (canonical.path(), self.0.clock.unix());
        // Anew for each attempt: two servers that both remember what they have seen may each be sent one.
        let assertion = upstream.signer.as_ref().map(|signer| Asserting {
            signer,
            path,
            query,
            minted: Minted { now: self.0.clock.now(), unix, id },
        });
        let signature = upstream.signature.as_deref().map(|signer| Signing {
            signer,
            path,
            query,
            body: scope::whole_body(&trip.body, admitted),
            stamp: signature::Stamp { unix, nonce: id },
        });
        let forwarding = Forwarding {
            client: client.ip(),
            scheme: if conn.tls().is_some() { "https" } else { "http" },
            host: canonical.host(),
            port: conn.local().port(),
            request_id: &trip.request_id,
            target,
            assertion,
            signature,
            via: if session.is_http2() { "2 portcullis" } else { "1.1 portcullis" },
        };
        let credentials = CredentialPolicy { forward: route.auth.value.credentials, cookies: trip.snapshot.cookies() };
        match outbound::strip(head).inject(admitted, &forwarding, &credentials) {
            Ok(()) => Ok(()),
            Err(NotInjected::Failed(error)) => Err(error),
            Err(NotInjected::TooLarge(bytes)) => {
                trip.refused_late = Some(Own::IdentityTooLarge(bytes).rejection());
                Err(Error::explain(ErrorType::HTTPStatus(431), "the identity is too large"))
            }
        }
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        trip: &mut Trip,
    ) -> Result<()> {
        if let Err(rejection) = streams::passed(&self.0, session, trip) {
            *body = None;
            return Err(no_longer(trip, *rejection));
        }
        trip.carry(0, body);
        if session.was_upgraded() {
            return Ok(());
        }
        if end && let Some(phase) = &mut trip.phase {
            phase.body_done();
        }
        if let Err(stop) = self.judge_held(session, body, end, trip).await {
            trip.refused_late = Some(*stop);
            // `into_down`: an h2 upstream swallows any error that is not the client's, and the client would wait.
            return Err(Error::explain(ErrorType::HTTPStatus(403), "refused by content").into_down());
        }
        scope::replace_body(trip.admitted.as_ref(), body, end);
        // Pingora issue 935: an empty last piece would end a chunked body twice.
        if end && body.as_ref().is_some_and(Bytes::is_empty) {
            *body = None;
        }
        Ok(())
    }

    async fn response_filter(&self, session: &mut Session, head: &mut ResponseHeader, trip: &mut Trip) -> Result<()> {
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            // What follows is no request body: it may be silent for as long as it likes.
            session.set_read_timeout(None);
        } else if head.status.is_informational() {
            return answer::take_over_interim(head);
        }
        if let Err(rejection) = streams::begin(&self.0, session, head, trip) {
            return Err(no_longer(trip, *rejection));
        }
        trip.answer.status = head.status.as_u16();
        trip.attempts.head_ms = trip.attempts.started.map(|at| at.elapsed().as_secs_f64() * 1000.0);
        if let Some(route) = trip.route() {
            let mut digits = [0; 3];
            let status = record::status_text(trip.answer.status, &mut digits);
            self.0
                .metrics
                .upstream_requests
                .with_label_values(&[trip.snapshot.upstream_name(route.upstream), status])
                .inc();
        }
        if let Some(attempt) = trip.admitted.as_mut().and_then(Admitted::attempt) {
            // Before the client has the answer: with its next request it may try again.
            self.0.lockouts.answered(attempt, head.status);
        }
        if answer::is_whole(session, head) {
            trip.over();
        }
        answer::take_over(session, trip, head)
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        trip: &mut Trip,
    ) -> Result<Option<Duration>> {
        if let Err(rejection) = streams::passed(&self.0, session, trip) {
            *body = None;
            return Err(no_longer(trip, *rejection));
        }
        trip.carry(1, body);
        // Before the client has the last piece: with its next request it may ask for the slot of this one.
        if end && session.is_body_done() {
            trip.over();
        }
        Ok(None)
    }

    fn upstream_response_trailer_filter(
        &self,
        session: &mut Session,
        trailers: &mut http::HeaderMap,
        trip: &mut Trip,
    ) -> Result<()> {
        if session.is_body_done() {
            trip.over();
        }
        answer::take_over_trailers(trip, trailers);
        Ok(())
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        trip: &mut Trip,
        mut error: Box<Error>,
    ) -> Box<Error> {
        // Nothing was sent yet: any method may try again, on another server.
        error.set_retry(self.may_retry(trip));
        error
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        trip: &mut Trip,
        reused: bool,
    ) -> Box<Error> {
        if session.req_header().method.is_idempotent()
            && !session.as_ref().retry_buffer_truncated()
            && self.may_retry(trip)
        {
            error.retry.decide_reuse(reused);
        } else {
            error.set_retry(false);
        }
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, trip: &mut Trip) -> FailToProxy {
        let rejection = match trip.refused_late.take() {
            Some(rejection) => Some(rejection),
            None => classify(error, is_late(trip)).map(|own| own.rejection()),
        };
        trip.over();
        if let Some(rejection) = rejection {
            if !trip.trail.steps().iter().any(|step| step.code == Some(rejection.code)) {
                trip.trail.refused(&rejection, Outcome::Deny, Mode::Enforce);
            }
            if rejection.code.status >= 500 {
                tracing::warn!(
                    event = "request.failed",
                    request_id = &*trip.request_id,
                    code = rejection.code.name,
                    why = rejection.detail,
                    source = error.esource().as_str(),
                    "a request failed"
                );
            }
            if let Err(gone) = answer::refuse(session, trip, &rejection).await {
                tracing::debug!(event = "request.gone", request_id = &*trip.request_id, error = %gone, "the client was gone before the answer");
            }
        } else {
            trip.answer.status = 499;
        }
        FailToProxy { error_code: trip.answer.status, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, trip: &mut Trip) {
        // It has come to its end by itself.
        drop(trip.followed.take());
        self.0.metrics.in_flight.dec();
        trip.over();
        let late = is_late(trip);
        // The connection is idle again, or has one stream less.
        drop(trip.phase.take());
        let gone = error.is_some_and(|error| classify(error, late).is_none()) && session.response_written().is_none();
        if let Some(attempt) = trip.admitted.as_mut().and_then(Admitted::attempt)
            && gone
            && trip.attempts.started.is_some()
        {
            self.0.lockouts.abandoned(attempt);
        }
        let status = match (gone, trip.answer.status) {
            (true, _) | (false, 0) => 499,
            (false, status) => status,
        };
        record::finish(&self.0, &Exchange::of(session), trip, status);
    }

    fn suppress_error_log(&self, _session: &Session, _trip: &Trip, _error: &Error) -> bool {
        true // the access line and `request.failed` say it
    }

    fn suppress_proxy_warn_log(&self, _: &Session, _: &Trip, _: &Error, _: ProxyWarnLogContext) -> bool {
        true // counted as portcullis_upstream_retries_total
    }
}

impl Proxy {
    fn may_retry(&self, trip: &Trip) -> bool {
        let max = trip
            .route()
            .and_then(|route| trip.snapshot.upstreams.get(route.upstream))
            .map_or(0, |upstream| upstream.retries_max);
        trip.attempts.count <= max
    }

    /// Holds a body back until its end, then judges it and gives it away whole.
    async fn judge_held(
        &self,
        session: &Session,
        body: &mut Option<Bytes>,
        end: bool,
        trip: &mut Trip,
    ) -> Result<(), Box<Rejection>> {
        let snapshot = trip.snapshot.clone();
        let unjudged = |what: &str| Err(Box::new(Own::Bug(what.into()).rejection()));
        let (Some(route), Some(canonical)) = (trip.route, &trip.canonical) else {
            return unjudged("a body without its route");
        };
        let tenant = trip.admitted.as_ref().and_then(Admitted::tenant);
        let gate = &snapshot.controls.waf;
        let Some(limits) = gate.control().map(|waf| waf.limits(route, tenant)) else {
            return match trip.body {
                Body::Held(_) => unjudged("a body is held and nothing judges it"),
                Body::Absent | Body::Whole(_) | Body::Streaming { .. } => Ok(()),
            };
        };
        let shadow = gate.mode() == Some(Mode::Shadow);
        let held = match &mut trip.body {
            Body::Held(held) => held,
            Body::Streaming { seen } => {
                let before = *seen;
                *seen = before
                    .saturating_add(body.as_ref().map_or(0, |piece| u64::try_from(piece.len()).unwrap_or(u64::MAX)));
                let (before, after) = (before, *seen);
                return if after <= limits.body_max || before > limits.body_max {
                    Ok(()) // within, or past it in shadow and noted already
                } else {
                    over(trip, after, limits.body_max, shadow)
                };
            }
            Body::Absent | Body::Whole(_) => return Ok(()),
        };
        let piece = body.take().unwrap_or_default();
        let Some(length) = held.take(&piece, &mut trip.held) else { return Err(Box::new(Own::Busy.rejection())) };
        if length > limits.body_max {
            let so_far = held.finish();
            over(trip, length, limits.body_max, shadow)?;
            *body = Some(so_far);
            trip.body = Body::Streaming { seen: length };
            return Ok(());
        }
        if !end {
            // `None` would be taken for the end of the body.
            *body = Some(Bytes::new());
            return Ok(());
        }
        let whole = held.finish();
        let protocol =
            if session.is_http2() { portcullis_api::Protocol::Http2 } else { portcullis_api::Protocol::Http1 };
        let facts = facts(canonical, session.req_header(), protocol);
        let sees = waf::Sees { facts, route, tenant, body: waf::Body::Whole(&whole) };
        gate.clear(sees, &mut trip.trail).await?;
        *body = Some(whole);
        Ok(())
    }
}

/// A body that is larger than the route takes: refused, or noted in shadow.
fn over(trip: &mut Trip, bytes: u64, max: u64, shadow: bool) -> Result<(), Box<Rejection>> {
    let rejection = head::too_large(bytes, max);
    if !shadow {
        return Err(rejection.into());
    }
    trip.trail.refused(&rejection, Outcome::Deny, Mode::Shadow);
    Ok(())
}

/// Whoever the exchange is of would not be let in any more.
fn no_longer(trip: &mut Trip, rejection: Rejection) -> Box<Error> {
    trip.refused_late = Some(rejection);
    Error::explain(ErrorType::HTTPStatus(401), "no longer let in").into_down()
}

fn bug(what: &'static str) -> Box<Error> {
    Error::explain(ErrorType::InternalError, what)
}
