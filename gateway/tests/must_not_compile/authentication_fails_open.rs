//! Authentication cannot be off, and there is no gate that lets its faults pass.
//! error[E0271]: type mismatch resolving `<Authentication as Control>::Posture == Adjustable`

use portcullis_api::Gate;
use portcullis_plugins::authentication::Authentication;

fn main() {
    let _open: Gate<Authentication> = Gate::off();
}
