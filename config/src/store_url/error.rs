//! What can be wrong with the URL of a store, and what to write instead.

use super::SERVERS_MAX;

/// Why a text is no URL of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoreUrlError {
    /// Another scheme, or none.
    #[error("it has no scheme of a Redis")]
    Scheme,
    /// A `#`.
    #[error("it has a `#`")]
    Fragment,
    /// No server.
    #[error("it names no server")]
    NoServer,
    /// More than [`SERVERS_MAX`].
    #[error("it names {0} servers, more than {SERVERS_MAX}")]
    TooMany(usize),
    /// Several where one is the store.
    #[error("it names {0} servers, and one Redis is one server")]
    Several(usize),
    /// A host that is no name and no address.
    #[error("server {server} has no host name and no address")]
    Host {
        /// Its place, from 1.
        server: usize,
    },
    /// Colons that may be of the address or before the port.
    #[error("server {server} is an IPv6 address without brackets")]
    NoBrackets {
        /// Its place, from 1.
        server: usize,
    },
    /// A port that is none.
    #[error("the port of server {server} is no number from 1 to 65535")]
    Port {
        /// Its place, from 1.
        server: usize,
    },
    /// An address to listen on.
    #[error("server {server} is the address of every interface")]
    EveryAddress {
        /// Its place, from 1.
        server: usize,
    },
    /// One that stands before.
    #[error("server {server} is named twice")]
    Twice {
        /// Its place, from 1.
        server: usize,
    },
    /// `user@`, `user:@` or `@`.
    #[error("it has an `@` and no password before it")]
    NoPassword,
    /// A `%` without two hexadecimal digits, or what they encode is no text.
    #[error("its user or password is not percent-encoded")]
    Encoding,
    /// A path of one Redis that is no number.
    #[error("its path is no number of a database")]
    Path,
    /// A path of a cluster.
    #[error("it has a path, and a cluster has one database")]
    ClusterPath,
    /// No path of Sentinels, or one that is no name.
    #[error("it does not say which master the Sentinels are asked for")]
    NoMaster,
    /// Something after a `?` that is unknown here.
    #[error("it has a setting after `?` that is not possible here")]
    Setting,
    /// One setting twice.
    #[error("it has a setting after `?` twice")]
    SettingTwice,
    /// A database that is none.
    #[error("its `db` is no number of a database")]
    Database,
    /// `sentinel_auth` of something else.
    #[error("its `sentinel_auth` is not `same`")]
    SentinelAuth,
    /// `sentinel_auth=same` of nothing.
    #[error("it has `sentinel_auth=same` and no password")]
    SentinelAuthOfNothing,
}

impl StoreUrlError {
    /// What to write.
    #[must_use]
    pub const fn help(self) -> &'static str {
        match self {
            Self::Scheme => {
                "start it with redis://, rediss://, redis-sentinel://, rediss-sentinel://, redis-cluster:// or rediss-cluster://"
            }
            Self::Fragment => "TLS is always verified; write a `#` of a password as %23",
            Self::NoServer | Self::Host { .. } => {
                "write host:port; in a user or password write `/`, `?`, `#` and `@` as %2F, %3F, %23 and %40"
            }
            Self::TooMany(_) => "a few that are seldom away together are enough",
            Self::Several(_) => {
                "write redis-sentinel://host,host/master-name or redis-cluster://host,host if that is what they are"
            }
            Self::NoBrackets { .. } => "write [address] or [address]:port",
            Self::Port { .. } => {
                "write host:port, or host alone for the usual port; in a user or password write `/`, `?`, `#` and `@` as %2F, %3F, %23 and %40"
            }
            Self::EveryAddress { .. } => "write the address that the server is reached at",
            Self::Twice { .. } => "write each server once",
            Self::NoPassword => "write user:password@ or :password@, or leave the `@` out",
            Self::Encoding => "write a `%` as %25, and the text in UTF-8",
            Self::Path => "write redis://host:port/N, or nothing after the port for database 0",
            Self::ClusterPath => "write nothing after the last server",
            Self::NoMaster => {
                "write redis-sentinel://host:port,host:port/master-name; the name is of letters, digits, `.`, `-` and `_`"
            }
            Self::Setting => {
                "`?db=N` and `?sentinel_auth=same` are possible, of Sentinels only; write a `?` of a password as %3F"
            }
            Self::SettingTwice => "write it once",
            Self::Database => "write ?db=N",
            Self::SentinelAuth => "write ?sentinel_auth=same, or leave it out for Sentinels without a password",
            Self::SentinelAuthOfNothing => "write user:password@ before the first server, or leave sentinel_auth out",
        }
    }
}
