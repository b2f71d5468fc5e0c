//! Against a real redis-server, which each test starts on a port of its own.

mod away;
mod bans;
mod batching;
mod counting;
mod leasing;
mod logins;
mod modes;
mod sentinel;
mod server;
mod settling;
mod tls;
mod whole;

pub(in crate::stores::redis) use server::bucket;
