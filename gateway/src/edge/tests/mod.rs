//! The edge as a client meets it: a real `HttpProxy` behind a `Terminator` on a loopback socket, no Pingora server.

mod deadlines;
mod harness;
mod http2;
mod page;
mod phases;
mod sources;
mod tls;
mod unread;

pub(super) use harness::{Recorder, listener};
