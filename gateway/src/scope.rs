//! What goes upstream instead of what came, where a route is confined to its tenant: the target, and the form.

use bytes::Bytes;
use portcullis_api::{Facts, RouteId, TenantId};
use portcullis_plugins::{
    admitted::Admitted,
    canonical::{Canonical, Target},
    scope,
};

use crate::body::Body;

/// What `scope` is asked of a request with this body.
pub(crate) fn asked<'r>(
    facts: Facts<'r>,
    route: RouteId,
    tenant: Option<&'r TenantId>,
    body: &'r Body,
) -> scope::Sees<'r> {
    let body = match body {
        Body::Absent => scope::Body::Absent,
        Body::Whole(bytes) => scope::Body::Whole(bytes),
        Body::Held(_) | Body::Streaming { .. } => scope::Body::Unread,
    };
    scope::Sees { facts, route, tenant, body }
}

/// The target to be written, where it is not the one that came, and the query that goes upstream.
pub(crate) fn target<'t>(canonical: &'t Canonical, admitted: &'t Admitted) -> (Option<&'t str>, &'t str) {
    let scoped = admitted.in_scope();
    if let (Some(target), Some(query)) = (scoped.target(), scoped.query()) {
        return (Some(target), query);
    }
    let target = match canonical.target() {
        Target::AsReceived | Target::Server => None,
        Target::Rewritten => Some(canonical.origin_form()),
    };
    (target, canonical.query())
}

/// The body as it goes upstream, where it was read whole before its head goes.
pub(crate) fn whole_body<'b>(body: &'b Body, admitted: &'b Admitted) -> Option<&'b [u8]> {
    match (admitted.in_scope().form(), body) {
        (Some(form), _) => Some(form),
        (None, Body::Whole(bytes)) => Some(bytes),
        (None, Body::Absent | Body::Held(_) | Body::Streaming { .. }) => None,
    }
}

/// Sends the form that was written anew in the place of the body that was read, at its end, for each attempt.
pub(crate) fn replace_body(admitted: Option<&Admitted>, body: &mut Option<Bytes>, end: bool) {
    let Some(form) = admitted.and_then(|admitted| admitted.in_scope().form()) else { return };
    // `None` would be taken for the end of the body.
    *body = Some(if end { form.clone() } else { Bytes::new() });
}
