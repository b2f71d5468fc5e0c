//! What the gateway is for, on the real binary, with a real upstream and a real redis-server.

mod addresses;
mod agent_authority;
mod assertions;
mod bans;
mod bodies;
mod costs;
mod doctor;
mod edge;
mod exchange;
mod exchange_filters;
mod identity;
mod in_flight;
mod keysets;
mod keystore;
mod keystore_postgres;
mod limit_methods;
mod limits;
mod lockouts;
mod mtls;
mod mtls_ends;
mod operation;
mod refusals;
mod responses;
mod revocations;
mod revocations_shared;
mod revocations_stale;
mod revoked_streams;
mod scope;
mod signatures;
mod store;
mod store_modes;
mod streams;
mod suggest;
mod upstream_certificates;
mod upstreams;

use std::sync::LazyLock;

use portcullis_tests::{Gateway, Setup, Upstream};

/// One gateway with the default configuration and its upstream, for every test that needs no other.
pub(crate) struct World {
    pub(crate) upstream: Upstream,
    pub(crate) gateway: Gateway,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let upstream = Upstream::start();
    let gateway = Setup::new(&upstream).start();
    World { upstream, gateway }
});

pub(crate) fn world() -> &'static World {
    &WORLD
}
