//! One request on its way: everything the filters hand each other.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use pingora_http::RequestHeader;
use portcullis_api::{ClientIp, Facts, Protocol, Rejection, RouteId, TenantId, Trail};
use portcullis_config::{HostEntry, RouteEntry};
use portcullis_plugins::{admitted::Admitted, authentication::Caller, canonical::Canonical};
use uuid::Uuid;

use crate::{
    body::{Body, Share},
    edge::{ConnInfo, RequestPhase},
    snapshot::Snapshot,
    streams::Followed,
};

/// The context of one request.
pub(crate) struct Trip {
    /// When its head had been read.
    pub(crate) started: Instant,
    /// Ours, UUIDv7.
    pub(crate) request_id: Box<str>,
    /// The configuration it is judged by, from first byte to access line.
    pub(crate) snapshot: Arc<Snapshot>,
    /// The connection it came over.
    pub(crate) conn: Option<Arc<ConnInfo>>,
    /// That the connection is busy with it; ends with it.
    pub(crate) phase: Option<RequestPhase>,
    /// What it asks for, once that is unambiguous.
    pub(crate) canonical: Option<Canonical>,
    /// The index of its host, once known.
    pub(crate) host: Option<usize>,
    /// Its route, once known.
    pub(crate) route: Option<RouteId>,
    /// The path of the gateway's own that it asks for.
    pub(crate) own_path: Option<&'static str>,
    /// Whom it comes from, once settled.
    pub(crate) client: Option<ClientIp>,
    /// Who calls, once verified; also where a later control refuses.
    pub(crate) caller: Option<Caller>,
    /// The tenant it runs for, once bound.
    pub(crate) tenant: Option<TenantId>,
    /// What each control said.
    pub(crate) trail: Trail,
    /// The proof that it may pass.
    pub(crate) admitted: Option<Admitted>,
    /// Whether it is an admitted WebSocket handshake.
    pub(crate) websocket: bool,
    /// What it takes of the memory for held bodies.
    pub(crate) held: Share,
    /// Its body.
    pub(crate) body: Body,
    /// Why it was refused, where the refusal came after its head was forwarded.
    pub(crate) refused_late: Option<Rejection>,
    /// What was answered, for the record.
    pub(crate) answer: Answer,
    /// The attempts so far and the server of the last one.
    pub(crate) attempts: Attempts,
    /// Bytes of body that came from the client and from the upstream.
    pub(crate) carried: [usize; 2],
    /// Once it is followed because it goes on.
    pub(crate) followed: Option<Followed>,
}

/// One that is dropped before its end was ended from outside: see `streams`.
impl Drop for Trip {
    fn drop(&mut self) {
        if let Some(followed) = self.followed.take() {
            followed.finish(self);
        }
    }
}

/// What was answered.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// The status; 0 until one was written.
    pub(crate) status: u16,
    /// The stable code, where the gateway itself answered.
    pub(crate) code: Option<&'static str>,
    /// Bytes of body to the client.
    pub(crate) bytes: u64,
}

/// Attempts to reach an upstream.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    /// How many were started.
    pub(crate) count: u32,
    /// The server of the last one.
    pub(crate) server: Option<std::net::SocketAddr>,
    /// When the last one started.
    pub(crate) started: Option<Instant>,
    /// How long the last one took to the head of its answer, in milliseconds.
    pub(crate) head_ms: Option<f64>,
}

impl Trip {
    /// A request that has just arrived.
    #[must_use]
    pub(crate) fn new(snapshot: Arc<Snapshot>, held: Share) -> Self {
        Self {
            started: Instant::now(),
            request_id: Box::from(&*Uuid::now_v7().hyphenated().encode_lower(&mut Uuid::encode_buffer())),
            snapshot,
            conn: None,
            phase: None,
            canonical: None,
            host: None,
            route: None,
            own_path: None,
            client: None,
            caller: None,
            tenant: None,
            trail: Trail::default(),
            admitted: None,
            websocket: false,
            held,
            body: Body::default(),
            refused_late: None,
            answer: Answer::default(),
            attempts: Attempts::default(),
            carried: [0; 2],
            followed: None,
        }
    }

    /// It is over for limits of requests under way: its answer is whole.
    pub(crate) fn over(&mut self) {
        if let Some(admitted) = &mut self.admitted {
            admitted.over();
        }
    }

    /// A piece of a body passes: from the client (0) or from the upstream (1).
    pub(crate) fn carry(&mut self, from: usize, piece: &Option<Bytes>) {
        if let (Some(carried), Some(piece)) = (self.carried.get_mut(from), piece) {
            *carried = carried.saturating_add(piece.len());
        }
    }

    /// Its route as configured, once known.
    #[must_use]
    pub(crate) fn route(&self) -> Option<&RouteEntry> {
        self.snapshot.router.route(self.route?)
    }

    /// Its host as configured, once known.
    #[must_use]
    pub(crate) fn host(&self) -> Option<&HostEntry> {
        self.snapshot.host(self.host?)
    }
}

/// What a control may see of the request.
#[must_use]
pub(crate) fn facts<'r>(canonical: &'r Canonical, head: &'r RequestHeader, protocol: Protocol) -> Facts<'r> {
    Facts {
        method: &head.method,
        host: canonical.host(),
        path: canonical.path(),
        query: canonical.query(),
        headers: &head.headers,
        protocol,
    }
}
