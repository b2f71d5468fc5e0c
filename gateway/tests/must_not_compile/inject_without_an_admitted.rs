//! Only an `Admitted` can be injected: who called and that they may is not a thing to claim.
//! error[E0308]: mismatched types
//! expected `&Admitted`, found `&Caller`

use pingora_http::RequestHeader;
use portcullis::outbound::{CredentialPolicy, Forwarding, strip};
use portcullis_plugins::authentication::Caller;

fn forward(head: &mut RequestHeader, caller: &Caller, forwarding: &Forwarding<'_>, credentials: &CredentialPolicy<'_>) {
    let _sent = strip(head).inject(caller, forwarding, credentials);
}

fn main() {}
