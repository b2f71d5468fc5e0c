//! What the cases in `must_not_compile` do, done right.

use pingora_http::RequestHeader;
use portcullis::outbound::{CredentialPolicy, Forwarding, strip};
use portcullis_api::{Facts, Gate, Mode};
use portcullis_plugins::{
    admitted::{Admitted, Proofs},
    authentication::Authentication,
    burst::Burst,
    ip_allowlist::AddressAllowed,
};

fn remember(all: Proofs) -> Admitted {
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
        waf: all.waf,
        in_scope: all.in_scope,
        login: all.login,
    })
}

fn forward(head: &mut RequestHeader, admitted: &Admitted, forwarding: &Forwarding<'_>, credentials: &CredentialPolicy<'_>) {
    let _sent = strip(head).inject(admitted, forwarding, credentials);
}

fn strict(control: Authentication) -> Gate<Authentication> {
    Gate::strict(control)
}

fn lenient(control: Burst) -> [Gate<Burst>; 2] {
    [Gate::adjustable(control, Mode::Shadow), Gate::off()]
}

fn check<'r>(facts: Facts<'r>) -> Option<&'r http::HeaderValue> {
    facts.headers.get("x-portcullis-tenant")
}

fn proven(allowed: AddressAllowed) -> AddressAllowed {
    allowed
}

fn main() {}
