//! An `Admitted` takes one proof of each kind: here the content inspection was forgotten.
//! error[E0063]: missing field `waf` in initializer of `Proofs`

use portcullis_plugins::admitted::{Admitted, Proofs};

fn forget(all: Proofs) -> Admitted {
    Admitted::new(Proofs {
        address: all.address,
        not_banned: all.not_banned,
        burst: all.burst,
        rate_limit: all.rate_limit,
        authenticated: all.authenticated,
        same_site: all.same_site,
        authorized: all.authorized,
        tenant_address: all.tenant_address,
        in_flight: all.in_flight,
        quota: all.quota,
        in_scope: all.in_scope,
        login: all.login,
    })
}

fn main() {}
