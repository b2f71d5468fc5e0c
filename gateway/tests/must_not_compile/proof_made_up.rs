//! A proof is made by its own control only.
//! error[E0423]: cannot initialize a tuple struct which contains private fields
//! constructor is not visible here due to private fields

use portcullis_plugins::ip_allowlist::AddressAllowed;

fn main() {
    let _allowed = AddressAllowed(());
}
