//! Only what `strip` returns can be injected into.
//! error[E0451]: field `head` of struct `Stripped` is private

use pingora_http::RequestHeader;
use portcullis::outbound::{CredentialPolicy, Forwarding, Stripped};
use portcullis_plugins::admitted::Admitted;

fn forward(head: &mut RequestHeader, admitted: &Admitted, forwarding: &Forwarding<'_>, credentials: &CredentialPolicy<'_>) {
    let _sent = Stripped { head }.inject(admitted, forwarding, credentials);
}

fn main() {}
