//! The vocabulary of the gateway: what a control is, what it may answer, and the values that prove it did.
//!
//! Direction: this crate knows nothing of ours. It has no clock, no file and no socket of its own.

mod client_ip;
mod clock;
mod control;
mod facts;
mod gate;
mod method;
mod names;
mod secret;
mod settings;
mod trail;
mod units;

pub use client_ip::{ClientIp, ClientIpError, IpSource, Topology, counted};
pub use clock::{Clock, Micros, UnixSeconds};
pub use control::{Code, Control, ControlName, Fault, Refusal, Verdict};
pub use facts::{Facts, Protocol};
pub use gate::{Adjustable, Cleared, Gate, Mode, Posture, Rejection, Strict, UNAVAILABLE};
pub use method::MethodName;
pub use names::{Environment, HostName, NameError, Role, RouteId, RouteRef, Scope, TenantId};
pub use secret::{Secret, SecretRef};
pub use settings::{At, Issue, Issues, Layers, Scoped, Switch, nearest};
pub use trail::{Outcome, Step, Trail};
pub use units::{Cidrs, Millis, Size, hex};
