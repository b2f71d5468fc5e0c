//! Exchanges that go on: WebSockets, events, gRPC calls, long transfers. Whoever came in with one is asked about again when
//! something was revoked, when their credential ends, when the configuration or the API keys change, and when what is known
//! of revocations has grown too old: an exchange goes on for as long as a new request would be let in.
//!
//! A short exchange costs a look at the clock: one is followed from its head on when it can be told from the head that it
//! lasts, and else at the first bytes that pass after [`LONG`]. Until then it is no more than a request that was let in.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use http::{StatusCode, header};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use portcullis_api::{Mode, Outcome, Rejection};
use portcullis_config::document::RouteKind;
use portcullis_plugins::{
    authentication::{Caller, Identity},
    revocations::Age,
};
use tokio::{sync::watch, time::sleep};

use crate::{
    edge::{self, ConnInfo},
    gateway::Gateway,
    record::{self, Exchange},
    trip::Trip,
};

/// An exchange is followed after so long.
const LONG: Duration = Duration::from_secs(1);
/// Between two looks at the latest: the wall clock may have been set.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// A moment longer than until something is too old.
const A_MOMENT: Duration = Duration::from_millis(20);

/// RFC 6455, 7.4.1: policy violation.
const NO_LONGER_LET_IN: u16 = 1008;
/// The registry of RFC 6455, 11.7: try again later.
const TRY_AGAIN_LATER: u16 = 1013;

/// That something changed which may end exchanges.
#[derive(Debug)]
pub(crate) struct News(watch::Sender<u64>);

impl Default for News {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl News {
    /// Tells all who follow.
    pub(crate) fn tell(&self) {
        self.0.send_modify(|news| *news = news.wrapping_add(1));
    }
}

/// An exchange that is followed.
pub(crate) struct Followed {
    gateway: Arc<Gateway>,
    ended: Arc<OnceLock<Box<(Rejection, Outcome)>>>,
    method: Box<str>,
    http2: bool,
}

/// Looks at an exchange whose answer begins, and follows it where it goes on.
///
/// # Errors
/// Whoever waited for the answer is not let in any more: it is theirs no longer.
pub(crate) fn begin(
    gateway: &Arc<Gateway>,
    session: &Session,
    head: &ResponseHeader,
    trip: &mut Trip,
) -> Result<(), Box<Rejection>> {
    let lasted = trip.started.elapsed() >= LONG;
    if !lasted && !goes_on(head, trip) {
        return Ok(());
    }
    let Some((identity, route)) = whose(trip) else { return Ok(()) };
    if lasted {
        still_let_in(gateway, &identity, &route, trip)?;
    }
    if head.status == StatusCode::SWITCHING_PROTOCOLS
        && let Some(conn) = &trip.conn
    {
        conn.switched();
    }
    follow(gateway, session, trip, (identity, route));
    Ok(())
}

/// Looks at an exchange that goes on though its head did not say so, before a piece of it passes, and follows it.
///
/// # Errors
/// Whoever sends the piece, or waits for it, is not let in any more.
pub(crate) fn passed(gateway: &Arc<Gateway>, session: &Session, trip: &mut Trip) -> Result<(), Box<Rejection>> {
    if trip.followed.is_some() || trip.started.elapsed() < LONG {
        return Ok(());
    }
    let Some((identity, route)) = whose(trip) else { return Ok(()) };
    still_let_in(gateway, &identity, &route, trip)?;
    follow(gateway, session, trip, (identity, route));
    Ok(())
}

/// Asks again, and writes a refusal into the trail.
fn still_let_in(gateway: &Gateway, identity: &Identity, route: &str, trip: &mut Trip) -> Result<(), Box<Rejection>> {
    again(gateway, trip.conn.as_deref(), identity, route).map_err(|refused| {
        let (rejection, outcome) = *refused;
        trip.trail.refused(&rejection, outcome, Mode::Enforce);
        Box::new(rejection)
    })
}

/// Who came in with it; nobody whose credential could end.
fn whose(trip: &Trip) -> Option<(Arc<Identity>, Arc<str>)> {
    let control = trip.snapshot.controls.authentication.control()?;
    match (&trip.caller, trip.route) {
        (Some(Caller::Verified(identity)), Some(route)) => Some((Arc::clone(identity), control.route_name(route)?)),
        (Some(Caller::Anonymous) | None, _) | (Some(Caller::Verified(_)), None) => None,
    }
}

fn goes_on(head: &ResponseHeader, trip: &Trip) -> bool {
    let kind = head.headers.get(header::CONTENT_TYPE).map_or(&[][..], |kind| kind.as_bytes());
    let is = |name: &[u8]| kind.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
    let route = trip.route().map(|route| route.kind);
    head.status == StatusCode::SWITCHING_PROTOCOLS
        || route == Some(RouteKind::Stream)
        || is(b"text/event-stream")
        || is(b"application/grpc")
}

fn follow(gateway: &Arc<Gateway>, session: &Session, trip: &mut Trip, whose: (Arc<Identity>, Arc<str>)) {
    let ended = Arc::new(OnceLock::new());
    let over = (trip.conn.clone(), trip.websocket);
    if !edge::end_when(until_ended(Arc::clone(gateway), whose, over, Arc::clone(&ended))) {
        tracing::error!(event = "gateway.bug", "an exchange outside the edge cannot be ended");
    }
    trip.followed = Some(Followed {
        gateway: Arc::clone(gateway),
        ended,
        method: session.req_header().method.as_str().into(),
        http2: session.is_http2(),
    });
}

fn again(
    gateway: &Gateway,
    conn: Option<&ConnInfo>,
    identity: &Identity,
    route: &str,
) -> Result<(), Box<(Rejection, Outcome)>> {
    let certificate = conn.and_then(ConnInfo::certificate);
    // By what is in force now, not by what the request came in under.
    let snapshot = gateway.snapshot.load();
    snapshot
        .controls
        .authentication
        .again(|control| control.still(identity, certificate.as_ref(), control.freshness_of(route)))
}

/// Done when they would not be let in any more.
async fn until_ended(
    gateway: Arc<Gateway>,
    (identity, route): (Arc<Identity>, Arc<str>),
    (conn, is_websocket): (Option<Arc<ConnInfo>>, bool),
    ended: Arc<OnceLock<Box<(Rejection, Outcome)>>>,
) {
    let mut news = gateway.news.0.subscribe();
    loop {
        // What is told from here on is looked at next.
        news.mark_unchanged();
        if let Err(refused) = again(&gateway, conn.as_deref(), &identity, &route) {
            if let Some(conn) = conn.as_ref().filter(|_| is_websocket) {
                conn.say_goodbye(match refused.1 {
                    Outcome::Fault => TRY_AGAIN_LATER,
                    Outcome::Deny | Outcome::Pass | Outcome::Off | Outcome::Degraded => NO_LONGER_LET_IN,
                });
            }
            // Nobody else sets it.
            let _ = ended.set(refused);
            return;
        }
        tokio::select! {
            // Its sender lives as long as the gateway.
            _told = news.changed() => {}
            () = sleep(next_look(&gateway, conn.as_deref(), &identity, &route)) => {}
        }
    }
}

/// When they may be let in no more though nobody tells: by the clock.
fn next_look(gateway: &Gateway, conn: Option<&ConnInfo>, identity: &Identity, route: &str) -> Duration {
    let snapshot = gateway.snapshot.load();
    let Some(control) = snapshot.controls.authentication.control() else { return A_MOMENT };
    let certificate = conn.and_then(ConnInfo::certificate);
    let expiry = control.ends(identity, certificate.as_ref()).map(|expires| gateway.clock.until(expires));
    let max = control.max_stale().of(control.freshness_of(route));
    let stale = match (gateway.revocations.age(), max) {
        // Also where this gateway decides alone, which is then looked at as seldom as it has to.
        (Age::Known(age), Some(max)) => Some(Duration::from_micros(max.as_micros().saturating_sub(age))),
        (Age::Unknown, Some(_)) | (_, None) => None,
    };
    [expiry, stale].into_iter().flatten().fold(LOOK_INTERVAL, Duration::min).saturating_add(A_MOMENT)
}

impl Followed {
    /// Writes down an exchange that was ended: Pingora hears nothing of it any more.
    pub(crate) fn finish(self, trip: &mut Trip) {
        let Self { gateway, ended, method, http2 } = self;
        gateway.metrics.in_flight.dec();
        trip.over();
        drop(trip.phase.take());
        if let Some(refused) = ended.get() {
            let (rejection, outcome) = &**refused;
            trip.trail.refused(rejection, *outcome, Mode::Enforce);
            trip.answer.code = Some(rejection.code.name);
            gateway.metrics.streams_ended.with_label_values(&[rejection.code.name]).inc();
        }
        let status = match trip.answer.status {
            0 => 499,
            status => status,
        };
        let [bytes_in, bytes_out] = trip.carried;
        record::finish(&gateway, &Exchange { method: &method, bytes_in, bytes_out, http2 }, trip, status);
    }
}
