//! A request's journey, in order. No setting changes the order: it is this code.
//!
//! Steps 1 and 2 (accept, TLS) are `edge`. Steps 3 to 15 are here. 16 is `upstreams`, 17 `outbound`, 18 `answer`,
//! 19 `record`. Every step needs what the one before it proved; the last needs them all.

use pingora_proxy::Session;
use portcullis_api::Protocol;
use portcullis_plugins::{
    admitted::{Admitted, Proofs},
    authentication, authorization, bans, burst,
    canonical::Upgrade,
    cors, csrf, in_flight, ip_allowlist, login, quota, rate_limit, waf,
};

use crate::{
    body::{self, Body},
    edge::ConnInfo,
    exchange,
    head::{self, Ahead, Coming},
    outbound,
    refusal::Stop,
    scope,
    trip::{Trip, facts},
};

/// Takes a request from its head to the proof that it may pass, or stops it.
#[expect(clippy::too_many_lines, reason = "the order of the controls is read in one piece")]
pub(crate) async fn travel(session: &mut Session, trip: &mut Trip, conn: &ConnInfo) -> Result<(), Stop> {
    let snapshot = trip.snapshot.clone();
    let controls = &snapshot.controls;
    let protocol = if session.is_http2() { Protocol::Http2 } else { Protocol::Http1 };

    // 3, 4: one host, one path, one framing; ambiguous is refused, never repaired.
    let canonical = &*trip.canonical.insert(head::canonicalise(session, conn, &snapshot)?);

    // 5: whom it comes from, once, from the declared topology; whether it is blocked; whether it comes too fast. Before
    // any look-up, so that guessing hosts and paths is counted too.
    let client = head::settle_client(session, conn)?;
    trip.client = Some(client);
    let not_banned = controls.bans.pass(bans::Sees { client }, &mut trip.trail).await?;
    let burst = controls.burst.clear(burst::Sees { client }, &mut trip.trail).await?;

    // 6: this connection may serve this host, the host has this route, the route this method.
    let host = head::served(snapshot.router.find(canonical.host()), canonical, conn)?;
    trip.host = Some(host.index);
    if exchange::is_asked(&snapshot, host, canonical) {
        return Err(exchange::answer(session, trip, conn, client).await);
    }
    let matched = host.route(canonical.path()).ok_or_else(head::no_route)?;
    let asked = facts(canonical, session.req_header(), protocol);
    let preflight = cors::preflight(snapshot.cors(host), &asked, &matched.route.path_methods);
    trip.route = Some(matched.route.id);
    let route = head::route(&matched, asked.method, &preflight)?;
    trip.route = Some(route.id);
    let upgrade = head::upgrade(canonical, route)?;
    trip.websocket = upgrade == Upgrade::WebSocket;

    // 7: whatever identity the client claims is gone before anything reads a header.
    outbound::strip(session.req_header_mut());
    let facts = facts(canonical, session.req_header(), protocol);
    let trail = &mut trip.trail;

    // 8: the address, by site and route.
    let address = controls.ip_allowlist.pass(ip_allowlist::Sees { client, route: route.id }, trail).await?;

    // 9: by client, before any expensive work.
    let rate_limit = controls.rate_limit.clear(rate_limit::Sees { facts, client, route: route.id }, trail).await?;

    // 10: a true preflight is answered here.
    head::answer_preflight(preflight)?;

    // 11: who calls.
    let shown = authentication::Sees { facts, client, route: route.id, certificate: conn.certificate() };
    let authenticated = controls.authentication.pass(shown, trail).await?;
    let caller = authenticated.caller();
    trip.caller = Some(caller.clone());

    // 13: a cookie only from our own pages; whose tenant; which right.
    let same_site = controls.csrf.pass(csrf::Sees { facts, route: route.id, caller }, trail).await?;
    let authorized = controls
        .authorization
        .pass(authorization::Sees { facts, route: route.id, caller, path_tenant: matched.tenant_segment }, trail)
        .await?;
    let tenant = authorized.tenant();
    trip.tenant = tenant.cloned();
    let tenant_address = controls.tenant_ip_allowlist.pass(ip_allowlist::TenantSees { client, tenant }, trail).await?;

    // 14: how many at once, then by key, subject, tenant. What stops the request from here on gives its slots back.
    let in_flight =
        controls.in_flight.clear(in_flight::Sees { facts, client, route: route.id, caller, tenant }, trail).await?;
    let quota = controls.quota.clear(quota::Sees { facts, client, route: route.id, caller, tenant }, trail).await?;
    head::note(rate_limit.proof(), in_flight.proof(), quota.proof(), trail);

    // 15: what it carries. First the query and what the head says of the body; then the body itself, where it can be
    // read ahead: the upstream has seen nothing by then.
    let body = body::announced(canonical.framing(), upgrade);
    let mut waf = controls.waf.clear(waf::Sees { facts, route: route.id, tenant, body }, trail).await?;
    let ahead = Ahead::of(&snapshot, route, facts.method);
    let coming = Coming { phase: trip.phase.as_mut(), share: &mut trip.held, kind: route.kind, ahead };
    trip.body = head::body(session, coming, body, waf.proof(), controls.waf.mode()).await?;
    head::still_let_in(controls, conn, route.id, caller, &trip.body, trail)?;
    let facts = self::facts(canonical, session.req_header(), protocol);
    if let (Body::Whole(bytes), Some(_)) = (&trip.body, waf.proof()) {
        let whole = waf::Sees { body: waf::Body::Whole(bytes), facts, route: route.id, tenant };
        waf = controls.waf.clear(whole, trail).await?;
    }

    // What it asks for, confined to the tenant where the route says so.
    let in_scope = controls.scope.pass(scope::asked(facts, route.id, tenant, &trip.body), trail).await?;

    // Last: whose login it is, where it is one. What is refused from here on the upstream never judges.
    let attempt = login::Sees { facts, client, route: route.id, body: trip.body.ahead() };
    let login = controls.login.clear(attempt, trail).await?;

    trip.admitted = Some(Admitted::new(Proofs {
        address,
        not_banned,
        burst,
        rate_limit,
        authenticated,
        same_site,
        authorized,
        tenant_address,
        in_flight,
        quota,
        waf,
        in_scope,
        login,
    }));
    Ok(())
}
