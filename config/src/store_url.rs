//! The URL of a shared store: one Redis, the Sentinels that know its master, or nodes of a cluster.
//!
//! Invariant: no error repeats a part of the URL. A mistyped one may have its password anywhere.

mod error;
mod server;

use std::collections::HashSet;

use percent_encoding::percent_decode_str;
use portcullis_api::Secret;

pub use error::StoreUrlError;
pub use server::StoreServer;

const REDIS_PORT: u16 = 6_379;
const SENTINEL_PORT: u16 = 26_379;

/// More servers than one deployment lists. They are asked in turn.
const SERVERS_MAX: usize = 64;

/// Bytes of a host name (RFC 1035), and of a master's name.
const NAME_BYTES_MAX: usize = 253;

/// Schemes, as a message lists them.
pub(crate) const SCHEMES: &[&str] =
    &["redis", "rediss", "redis-sentinel", "rediss-sentinel", "redis-cluster", "rediss-cluster"];

/// Where the shared store is and how to log in.
#[derive(Debug, Clone)]
pub struct StoreUrl {
    text: Secret,
    mode: StoreMode,
    transport: Transport,
    login: Option<Login>,
    servers: Vec<StoreServer>,
}

/// What the servers of the URL are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreMode {
    /// The store itself.
    Single {
        /// The database that is selected.
        database: u32,
    },
    /// Sentinels, which know the store.
    Sentinel {
        /// Under which name they know it.
        master: String,
        /// The database that is selected.
        database: u32,
        /// How to log in to them.
        login: SentinelLogin,
    },
    /// Nodes of a cluster.
    Cluster,
}

/// How to log in to Sentinels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SentinelLogin {
    /// Not at all.
    None,
    /// With the user and the password of the store.
    Same,
}

/// What connections go over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Plain TCP.
    Plain,
    /// TLS, verified.
    Tls,
}

/// Who the gateway is to the store.
#[derive(Debug, Clone)]
pub struct Login {
    user: Option<String>,
    password: Secret,
}

impl Login {
    /// The user; the default one where there is none.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// Never empty.
    #[must_use]
    pub const fn password(&self) -> &Secret {
        &self.password
    }
}

impl StoreUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// What is wrong with it, without repeating any of it.
    pub fn parse(text: &str) -> Result<Self, StoreUrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(StoreUrlError::Scheme)?;
        if rest.contains('#') {
            return Err(StoreUrlError::Fragment);
        }
        let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, servers) = match authority.rsplit_once('@') {
            Some((login, servers)) => (Some(self::login(login)?), servers),
            None => (None, authority),
        };
        let (transport, kind) = match scheme.strip_prefix("rediss") {
            Some(kind) => (Transport::Tls, kind),
            None => (Transport::Plain, scheme.strip_prefix("redis").ok_or(StoreUrlError::Scheme)?),
        };
        let servers = self::servers(servers, if kind == "-sentinel" { SENTINEL_PORT } else { REDIS_PORT })?;
        let settings = Settings::parse(query)?;
        let mode = match kind {
            "" => single(path, &settings)?,
            "-sentinel" => sentinel(path, &settings, login.as_ref())?,
            "-cluster" => cluster(path, &settings)?,
            _ => return Err(StoreUrlError::Scheme),
        };
        if matches!(mode, StoreMode::Single { .. }) && servers.len() > 1 {
            return Err(StoreUrlError::Several(servers.len()));
        }
        Ok(Self { text: Secret::new(text.as_bytes().to_vec()), mode, transport, login, servers })
    }

    /// What the servers are.
    #[must_use]
    pub const fn mode(&self) -> &StoreMode {
        &self.mode
    }

    /// What connections go over, to Sentinels too.
    #[must_use]
    pub const fn transport(&self) -> Transport {
        self.transport
    }

    /// Who the gateway is to the store; nobody where there is none.
    #[must_use]
    pub const fn login(&self) -> Option<&Login> {
        self.login.as_ref()
    }

    /// At least one; exactly one where it is the store itself.
    #[must_use]
    pub fn servers(&self) -> &[StoreServer] {
        &self.servers
    }

    /// As it was written, to tell one from another.
    #[must_use]
    pub const fn text(&self) -> &Secret {
        &self.text
    }
}

/// Whether what may be meant as a URL has something in the place of a password.
pub(crate) fn has_password(url: &str) -> bool {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest).split(['/', '?', '#']).next();
    let user = authority.and_then(|authority| authority.rsplit_once('@')).map(|(user, _)| user);
    user.and_then(|user| user.split_once(':')).is_some_and(|(_, password)| !password.is_empty())
}

fn login(text: &str) -> Result<Login, StoreUrlError> {
    let (user, password) = text.split_once(':').ok_or(StoreUrlError::NoPassword)?;
    if password.is_empty() {
        return Err(StoreUrlError::NoPassword);
    }
    let user = if user.is_empty() { None } else { Some(decoded(user)?) };
    Ok(Login { user, password: Secret::new(decoded(password)?.into_bytes()) })
}

fn decoded(text: &str) -> Result<String, StoreUrlError> {
    let encodes = |after: &str| {
        let mut digits = after.bytes();
        (0..2).all(|_| digits.next().is_some_and(|digit| digit.is_ascii_hexdigit()))
    };
    if !text.split('%').skip(1).all(encodes) {
        return Err(StoreUrlError::Encoding);
    }
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| StoreUrlError::Encoding)?;
    Ok(decoded.into_owned())
}

fn servers(text: &str, default_port: u16) -> Result<Vec<StoreServer>, StoreUrlError> {
    if text.is_empty() {
        return Err(StoreUrlError::NoServer);
    }
    let count = text.split(',').count();
    if count > SERVERS_MAX {
        return Err(StoreUrlError::TooMany(count));
    }
    let mut seen = HashSet::new();
    let mut servers = Vec::with_capacity(count);
    for (server, text) in (1..).zip(text.split(',')) {
        let parsed = StoreServer::parse(text, default_port, server)?;
        if !seen.insert(parsed.clone()) {
            return Err(StoreUrlError::Twice { server });
        }
        servers.push(parsed);
    }
    Ok(servers)
}

/// What stands after the `?`.
#[derive(Default)]
struct Settings<'t> {
    db: Option<&'t str>,
    sentinel_auth: Option<&'t str>,
}

impl<'t> Settings<'t> {
    fn parse(query: Option<&'t str>) -> Result<Self, StoreUrlError> {
        let mut settings = Self::default();
        for setting in query.into_iter().flat_map(|query| query.split('&')) {
            let (name, value) = setting.split_once('=').ok_or(StoreUrlError::Setting)?;
            let place = match name {
                "db" => &mut settings.db,
                "sentinel_auth" => &mut settings.sentinel_auth,
                _ => return Err(StoreUrlError::Setting),
            };
            if place.replace(value).is_some() {
                return Err(StoreUrlError::SettingTwice);
            }
        }
        Ok(settings)
    }

    fn none(&self) -> Result<(), StoreUrlError> {
        let Self { db, sentinel_auth } = self;
        if db.is_some() || sentinel_auth.is_some() { Err(StoreUrlError::Setting) } else { Ok(()) }
    }
}

fn single(path: &str, settings: &Settings<'_>) -> Result<StoreMode, StoreUrlError> {
    settings.none()?;
    let database = if path.is_empty() { 0 } else { number(path).ok_or(StoreUrlError::Path)? };
    Ok(StoreMode::Single { database })
}

fn sentinel(path: &str, settings: &Settings<'_>, login: Option<&Login>) -> Result<StoreMode, StoreUrlError> {
    // What Sentinel itself takes for a name.
    let is_name = (1..=NAME_BYTES_MAX).contains(&path.len())
        && path.bytes().all(|c| c.is_ascii_alphanumeric() || b".-_".contains(&c));
    if !is_name {
        return Err(StoreUrlError::NoMaster);
    }
    let database = match settings.db {
        Some(db) => number(db).ok_or(StoreUrlError::Database)?,
        None => 0,
    };
    let login = match (settings.sentinel_auth, login) {
        (None, _) => SentinelLogin::None,
        (Some("same"), Some(_)) => SentinelLogin::Same,
        (Some("same"), None) => return Err(StoreUrlError::SentinelAuthOfNothing),
        (Some(_), _) => return Err(StoreUrlError::SentinelAuth),
    };
    Ok(StoreMode::Sentinel { master: path.to_owned(), database, login })
}

fn cluster(path: &str, settings: &Settings<'_>) -> Result<StoreMode, StoreUrlError> {
    settings.none()?;
    if path.is_empty() { Ok(StoreMode::Cluster) } else { Err(StoreUrlError::ClusterPath) }
}

/// Digits and nothing else: `parse` by itself takes a `+`.
fn number<N: std::str::FromStr>(digits: &str) -> Option<N> {
    digits.bytes().all(|c| c.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests;
