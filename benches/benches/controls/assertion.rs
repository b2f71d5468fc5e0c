//! What a signed assertion costs: one for each request to an upstream that asks for it.

use std::sync::Arc;

use anyhow::{Context, anyhow, ensure};
use http::Method;
use portcullis_api::{ClientIp, Clock as _, Millis, Rejection, Trail};
use portcullis_benches::Suite;
use portcullis_plugins::{
    admitted::{Admitted, Proofs},
    assertion::{Algorithm, Bound, Minted, Ring, Signer, SigningKey, Timing},
    authentication, authorization, bans, burst, csrf, in_flight, ip_allowlist, login, quota, rate_limit, scope, waf,
};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};

use crate::{
    with_token,
    world::{ROUTE, Request, World, client, ready},
};

/// What was promised of an ES256 assertion, claims and all.
const ASSERTION_NS: f64 = 40_000.0;

/// `assertion`: the claims of a user with a scope, signed by each algorithm.
pub(crate) fn assertion(suite: &mut Suite, world: &World) -> anyhow::Result<()> {
    let request = with_token(world)?;
    let admitted = ready(admitted(world, &request, client("198.51.100.9")?))
        .context("it waits")?
        .map_err(|why| anyhow!("{}", why.code.name))?;
    let timing = Timing { max_age: Millis::from_secs(300), lifetime: Millis::from_secs(30) };
    for (name, algorithm, pair) in [
        ("ES256", Algorithm::ES256, KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?),
        ("EdDSA", Algorithm::EdDSA, KeyPair::generate_for(&PKCS_ED25519)?),
    ] {
        let key = Arc::new(SigningKey::from_pkcs8(algorithm, &pair.serialize_der())?);
        let ring = Ring::next(None, &[key], timing, 0)?.context("a ring")?;
        let signer = Signer::new(Arc::new(ring), "https://gw.example.com".into(), "app", 30);
        let bound = Bound { method: &Method::GET, path: "/v1/orders/o-1001", query: "state=open&page=2" };
        let mint = || {
            let id = "01900000-0000-7000-8000-000000000000";
            signer.mint(&admitted, &bound, &Minted { now: world.clock.now(), unix: world.clock.unix(), id })
        };
        ensure!(mint()?.len() > 300, "assertion: {name}");
        suite.bench(&format!("assertion: {name}"), Some(ASSERTION_NS), mint)?;
    }
    Ok(())
}

/// Asks every control, as the journey does.
async fn admitted(world: &World, request: &Request, client: ClientIp) -> Result<Admitted, Rejection> {
    let (controls, trail, facts) = (&world.controls, &mut Trail::default(), request.facts());
    let not_banned = controls.bans.pass(bans::Sees { client }, trail).await?;
    let burst = controls.burst.clear(burst::Sees { client }, trail).await?;
    let address = controls.ip_allowlist.pass(ip_allowlist::Sees { client, route: ROUTE }, trail).await?;
    let rate_limit = controls.rate_limit.clear(rate_limit::Sees { facts, client, route: ROUTE }, trail).await?;
    let authenticated = controls
        .authentication
        .pass(authentication::Sees { facts, client, route: ROUTE, certificate: None }, trail)
        .await?;
    let caller = authenticated.caller();
    let same_site = controls.csrf.pass(csrf::Sees { facts, route: ROUTE, caller }, trail).await?;
    let sees = authorization::Sees { facts, route: ROUTE, caller, path_tenant: None };
    let authorized = controls.authorization.pass(sees, trail).await?;
    let tenant = authorized.tenant();
    let tenant_address = controls.tenant_ip_allowlist.pass(ip_allowlist::TenantSees { client, tenant }, trail).await?;
    let sees = in_flight::Sees { facts, client, route: ROUTE, caller, tenant };
    let in_flight = controls.in_flight.clear(sees, trail).await?;
    let quota = controls.quota.clear(quota::Sees { facts, client, route: ROUTE, caller, tenant }, trail).await?;
    let body = waf::Body::Absent;
    let waf = controls.waf.clear(waf::Sees { facts, route: ROUTE, tenant, body }, trail).await?;
    let sees = scope::Sees { facts, route: ROUTE, tenant, body: scope::Body::Absent };
    let in_scope = controls.scope.pass(sees, trail).await?;
    let login = controls.login.clear(login::Sees { facts, client, route: ROUTE, body: &[] }, trail).await?;
    Ok(Admitted::new(Proofs {
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
    }))
}
