//! The steps of the journey that read Pingora's session: from the raw head to settled facts, and on to the body.

use http::Method;
use pingora_proxy::Session;
use portcullis_api::{ClientIp, Mode, Protocol, Rejection, RouteId, Trail};
use portcullis_config::{HostEntry, Matched, RouteEntry, RouteKind};
use portcullis_plugins::{
    authentication::{Authentication, Caller},
    canonical::{self, Canonical, Ended, Head, Target, Upgrade},
    controls::Controls,
    cors::{self, Preflight},
    in_flight::UnderWay,
    login, quota,
    rate_limit::{self, Counted},
    scope,
    waf::{self, Inspected},
};

use crate::{
    body::{self, Body, ReadError, Share},
    edge::{ConnInfo, RequestPhase},
    refusal::{Own, Stop},
    snapshot::Snapshot,
};

/// The one reading of a head. `OPTIONS *` is a question to the gateway itself.
pub(crate) fn canonicalise(session: &mut Session, conn: &ConnInfo, snapshot: &Snapshot) -> Result<Canonical, Stop> {
    let ended = if session.is_body_empty() { Ended::WithHead } else { Ended::Open };
    let session = &*session;
    let raw = session.as_http1().map(|h1| h1.get_headers_raw_bytes());
    let head = session.req_header();
    let h2 = session.is_http2();
    let head = Head {
        protocol: if h2 { Protocol::Http2 } else { Protocol::Http1 },
        method: &head.method,
        raw_target: head.raw_path(),
        authority: if h2 { head.uri.authority().map(http::uri::Authority::as_str) } else { None },
        scheme: if h2 { head.uri.scheme_str() } else { None },
        headers: &head.headers,
        raw_h1: raw.as_deref(),
        ended,
        bounds: snapshot.head_bounds(conn.listener().index()),
    };
    let canonical = canonical::canonicalise(&head).map_err(|a| Rejection::of(canonical::STEP, &a))?;
    match canonical.target() {
        Target::Server => Err(Stop::ServerOptions),
        Target::AsReceived | Target::Rewritten => Ok(canonical),
    }
}

/// The host, if this connection may serve it: on a listener of the host's, and over TLS only the one that its SNI named.
pub(crate) fn served<'s>(
    host: Option<&'s HostEntry>,
    canonical: &Canonical,
    conn: &ConnInfo,
) -> Result<&'s HostEntry, Stop> {
    if let Some(tls) = conn.tls()
        && tls.sni != canonical.host()
    {
        return Err(Own::Misdirected("the SNI of the connection names another host").into());
    }
    let host = host.ok_or(Own::Misdirected("no host of this name"))?;
    if !host.is_on(conn.listener().index()) {
        return Err(Own::Misdirected("the host is not served on this listener").into());
    }
    Ok(host)
}

/// The one answer for an unknown route and for another tenant's resource.
pub(crate) fn no_route() -> Stop {
    Own::NoRoute.into()
}

/// The route of the path that takes the method. A true preflight asks about another method, so any route of the path
/// will do for it.
pub(crate) fn route<'h>(matched: &Matched<'h>, method: &Method, preflight: &Preflight) -> Result<&'h RouteEntry, Stop> {
    match (matched.admitting(method), preflight) {
        (Some(route), _) => Ok(route),
        (None, Preflight::Answer(_) | Preflight::Refused) => Ok(matched.route),
        (None, Preflight::No) => Err(Own::Method { allow: matched.route.allow_header.clone() }.into()),
    }
}

/// A true preflight goes no further than this.
pub(crate) fn answer_preflight(preflight: Preflight) -> Result<(), Stop> {
    match preflight {
        Preflight::No => Ok(()),
        Preflight::Answer(headers) => Err(Stop::Preflight(headers)),
        Preflight::Refused => Err(cors::refused().into()),
    }
}

/// A WebSocket handshake needs a route that takes them.
pub(crate) fn upgrade(canonical: &Canonical, route: &RouteEntry) -> Result<Upgrade, Stop> {
    match (canonical.upgrade(), route.kind) {
        (Upgrade::None, _) => Ok(Upgrade::None),
        (Upgrade::WebSocket, RouteKind::Websocket) => Ok(Upgrade::WebSocket),
        (Upgrade::WebSocket, RouteKind::Http | RouteKind::Stream) => Err(Own::Upgrade.into()),
    }
}

/// The client's address.
pub(crate) fn settle_client(session: &Session, conn: &ConnInfo) -> Result<ClientIp, Stop> {
    conn.listener()
        .topology()
        .settle(conn.peer(), conn.proxied(), &session.req_header().headers)
        .map_err(|error| Own::ClientAddress(error).into())
}

/// What limits let pass in another way than by counting: shadow hits, and rules whose store is away.
pub(crate) fn note(
    rate_limit: Option<&Counted>,
    under_way: Option<&UnderWay>,
    quota: Option<&Counted>,
    trail: &mut Trail,
) {
    if let Some(under_way) = under_way {
        under_way.record(trail);
    }
    for (control, counted) in [(rate_limit::NAME, rate_limit), (quota::NAME, quota)] {
        if let Some(counted) = counted {
            counted.record(control, trail);
        }
    }
}

/// What a body on its way in needs of its request.
pub(crate) struct Coming<'t> {
    /// The clock of the connection.
    pub(crate) phase: Option<&'t mut RequestPhase>,
    /// What it takes of the memory for held bodies.
    pub(crate) share: &'t mut Share,
    /// The kind of its route.
    pub(crate) kind: RouteKind,
    /// Whether more than the inspection wants to see it.
    pub(crate) ahead: Ahead,
}

/// Who wants to see a body before the upstream does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ahead {
    /// The inspection, where it has something to inspect.
    Inspection,
    /// A route that is confined: what it asks for is in it.
    Scope,
    /// A login, whose account is in it.
    Login,
}

impl Ahead {
    /// What a request of this method on this route needs.
    pub(crate) fn of(snapshot: &Snapshot, route: &RouteEntry, method: &Method) -> Self {
        if snapshot.controls.scope.control().is_some_and(|scope| scope.reads_body(route.id)) {
            return Self::Scope;
        }
        let login = snapshot.controls.login.control();
        if login.is_some_and(|login| login.reads_body(route.id, method)) { Self::Login } else { Self::Inspection }
    }

    /// What is said where the body is larger than can be read ahead; nothing where that does not matter.
    fn too_large(self) -> Option<Rejection> {
        match self {
            Self::Inspection => None,
            Self::Scope => Some(Rejection::of(scope::NAME, &scope::Deny::BodyTooLarge)),
            Self::Login => Some(Rejection::of(login::NAME, &login::Deny::BodyTooLarge)),
        }
    }
}

/// Takes the body as far as it must be judged: read ahead, held back, or streamed where only its size counts.
pub(crate) async fn body(
    session: &mut Session,
    coming: Coming<'_>,
    announced: waf::Body<'_>,
    inspected: Option<&Inspected>,
    mode: Option<Mode>,
) -> Result<Body, Stop> {
    let waf::Body::Later { declared } = announced else { return Ok(Body::Absent) };
    let head = session.req_header();
    if head.headers.contains_key(http::header::EXPECT) && head.version != http::Version::HTTP_10 {
        // Every control has said yes to the head: the client may send.
        session.write_continue_response().await.map_err(|_| Own::Body)?;
    }
    let Coming { phase, share, kind, ahead } = coming;
    // The body filter says when a body that comes later has ended. One of a stream may take as long as it likes.
    let mut phase = phase.filter(|_| kind != RouteKind::Stream);
    if let Some(phase) = &mut phase {
        phase.body_wanted();
    }
    let (body_max, mode) = match (inspected.filter(|inspected| inspected.pending), mode, ahead) {
        (Some(inspected), Some(mode), Ahead::Inspection | Ahead::Scope | Ahead::Login) => {
            (inspected.limits.body_max, mode)
        }
        // What is larger is too large for these in any mode: what was read of it could not be sent on.
        (None, _, Ahead::Scope | Ahead::Login) | (_, None, Ahead::Scope | Ahead::Login) => (u64::MAX, Mode::Enforce),
        (None, _, Ahead::Inspection) | (_, None, Ahead::Inspection) => return Ok(Body::Streaming { seen: 0 }),
    };
    let mut read = body::read_ahead(session, declared, body_max, mode, share).await;
    if let (Ok(Body::Held(_) | Body::Streaming { .. }), Some(rejection)) = (&read, ahead.too_large()) {
        return Err(rejection.into());
    }
    if matches!(read, Err(ReadError::Broken)) && phase.as_ref().is_some_and(|phase| phase.is_late()) {
        read = Err(ReadError::TimedOut);
    }
    if !matches!(read, Ok(Body::Held(_)))
        && let Some(phase) = phase
    {
        phase.body_done();
    }
    read.map_err(|error| match error {
        ReadError::TooLarge { bytes } => too_large(bytes, body_max).into(),
        ReadError::TimedOut => Own::BodyTimeout.into(),
        ReadError::Broken => Own::Body.into(),
        ReadError::NoRoom => Own::Busy.into(),
    })
}

/// The body is larger than the route takes.
pub(crate) fn too_large(bytes: u64, max: u64) -> Rejection {
    Rejection::of(waf::NAME, &waf::Deny::BodyTooLarge { bytes, max })
}

/// A body that was waited for took as long as the client liked: whoever sent it is asked about once more.
pub(crate) fn still_let_in(
    controls: &Controls,
    conn: &ConnInfo,
    route: RouteId,
    caller: &Caller,
    body: &Body,
    trail: &mut Trail,
) -> Result<(), Stop> {
    let (Caller::Verified(identity), Body::Whole(_)) = (caller, body) else { return Ok(()) };
    let certificate = conn.certificate();
    let again = |control: &Authentication| control.still(identity, certificate.as_ref(), control.freshness(route));
    controls.authentication.again(again).map_err(|refused| {
        let (rejection, outcome) = *refused;
        trail.refused(&rejection, outcome, Mode::Enforce);
        rejection.into()
    })
}
