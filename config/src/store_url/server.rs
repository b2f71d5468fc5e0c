//! One server of the URL of a store, or one that the store itself names.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    num::NonZeroU16,
};

use super::{NAME_BYTES_MAX, StoreUrlError, number};

/// A server's name or address, and its port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StoreServer {
    host: String,
    port: NonZeroU16,
}

impl StoreServer {
    /// From parts, e.g. of what a Sentinel says. An IPv6 address has no brackets.
    ///
    /// # Errors
    /// The host is no name or address that can be connected to, or the port is 0.
    pub fn new(host: &str, port: u16) -> Result<Self, StoreUrlError> {
        Self::numbered(host, port, 1)
    }

    fn numbered(host: &str, port: u16, server: usize) -> Result<Self, StoreUrlError> {
        if host.parse() == Ok(Ipv4Addr::UNSPECIFIED) || host.parse() == Ok(Ipv6Addr::UNSPECIFIED) {
            return Err(StoreUrlError::EveryAddress { server });
        }
        let is_name = (1..=NAME_BYTES_MAX).contains(&host.len())
            && host.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._".contains(&c));
        if !is_name && host.parse::<Ipv6Addr>().is_err() {
            return Err(StoreUrlError::Host { server });
        }
        let port = NonZeroU16::new(port).ok_or(StoreUrlError::Port { server })?;
        Ok(Self { host: host.to_owned(), port })
    }

    /// `host`, `host:port`, `[IPv6]` or `[IPv6]:port`. `server` is its place in the URL.
    pub(super) fn parse(text: &str, default_port: u16, server: usize) -> Result<Self, StoreUrlError> {
        let (host, rest) = match text.strip_prefix('[') {
            Some(bracketed) => {
                let (host, rest) = bracketed.split_once(']').ok_or(StoreUrlError::Host { server })?;
                host.parse::<Ipv6Addr>().map_err(|_| StoreUrlError::Host { server })?;
                (host, rest)
            }
            None if text.matches(':').count() > 1 => return Err(StoreUrlError::NoBrackets { server }),
            None => text.split_at(text.find(':').unwrap_or(text.len())),
        };
        let port = match rest.strip_prefix(':') {
            Some(digits) => number(digits).ok_or(StoreUrlError::Port { server })?,
            None if rest.is_empty() => default_port,
            None => return Err(StoreUrlError::Host { server }),
        };
        Self::numbered(host, port, server)
    }

    /// A name, or an address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// More than zero.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port.get()
    }
}

impl fmt::Display for StoreServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}
