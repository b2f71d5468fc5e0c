//! Authentication has no mode: a gate that could be in shadow takes adjustable controls only.
//! error[E0271]: type mismatch resolving `<Authentication as Control>::Posture == Adjustable`

use portcullis_api::{Gate, Mode};
use portcullis_plugins::authentication::Authentication;

fn lenient(control: Authentication) -> Gate<Authentication> {
    Gate::adjustable(control, Mode::Shadow)
}

fn main() {}
