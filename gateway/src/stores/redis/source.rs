//! Finds the server that is to be asked now: the one of the URL, the master that Sentinels name, or the one master of a
//! cluster that has the deployment's slot. All keys of a deployment share one hash tag, so one server has them all.
//!
//! Sentinels are all asked, and the master that most of them mean is believed. Nodes of a cluster are asked in turn, one
//! with each attempt to connect: whoever led to a server that works is asked first the next time, whoever did not last.
//!
//! Invariant: no error names a server or carries what it said, but for an error's code: it stands in `/readyz`.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use ::redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, FromRedisValue, IntoConnectionInfo, RedisConnectionInfo, RedisError,
    TlsCertificates, Value, aio::MultiplexedConnection, from_redis_value,
};
use portcullis_config::{Login, SentinelLogin, StoreMode, StoreServer, StoreUrl, Transport};
use tokio::time::timeout;

use super::{CONNECT_TIMEOUT, said};

/// Requests that the driver queues; its own default of 50 is a bottleneck under load.
const BUFFER: usize = 2_048;

/// To connect to who knows the server, and as long again for the answer. Others know it too.
const GUIDE_TIMEOUT: Duration = Duration::from_millis(500);

/// Nodes of a cluster that are remembered beside those of the URL.
const NODES_MAX: usize = 64;

/// Between two questions whether the master is still the one that the Sentinels mean. A master that is cut off from
/// them, and not from us, knows nothing of the one that took its place.
const MEANT_EVERY: Duration = Duration::from_secs(5);

/// Where the server is to be found, and what was found.
pub(super) struct Source {
    url: StoreUrl,
    roots: Option<Vec<u8>>,
    /// Who knows the server, the next to be asked first.
    guides: VecDeque<StoreServer>,
    /// What the Sentinels meant last, and when they were last asked.
    meant: Option<(StoreServer, Instant)>,
}

impl Source {
    /// Connects to nobody yet.
    pub(super) fn of(url: StoreUrl, roots: Option<Vec<u8>>) -> Result<Self, RedisError> {
        if url.transport() == Transport::Tls && rustls::crypto::CryptoProvider::get_default().is_none() {
            // The driver asks for the process's default. Whoever was faster installed the same.
            drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        }
        let source = Self { guides: url.servers().iter().cloned().collect(), url, roots, meant: None };
        for server in &source.guides {
            source.client(server, None, 0)?;
        }
        Ok(source)
    }

    /// Connects to the server that is to be asked now. `keys` is what all keys begin with.
    pub(super) async fn connect(&mut self, keys: &str) -> Result<MultiplexedConnection, String> {
        let Some(guide) = self.guides.front().cloned() else { return Err("no server is named".to_owned()) };
        match self.url.mode().clone() {
            StoreMode::Single { database } => self.open(&guide, database).await,
            StoreMode::Sentinel { master, database, login } => {
                let server = self.ask_sentinels(&master, login).await?;
                let mut connection = self.open(&server, database).await.map_err(|why| format!("the master: {why}"))?;
                // What a Sentinel says may be old, and the server may know better.
                match role(&mut connection).await.map_err(|why| format!("the master: {why}"))?.as_str() {
                    "master" => {}
                    _ => return Err("the master that a Sentinel names is none".to_owned()),
                }
                self.meant = Some((server, Instant::now()));
                Ok(connection)
            }
            StoreMode::Cluster => {
                let (server, nodes) = self.ask_node(&guide, keys).await?;
                self.remember(guide, nodes);
                self.open(&server, 0).await.map_err(|why| format!("the master of our slot: {why}"))
            }
        }
    }

    /// What was found last does not work: another one is asked next.
    pub(super) fn doubt(&mut self) {
        if !self.guides.is_empty() {
            self.guides.rotate_left(1);
        }
    }

    /// Whether the Sentinels mean another master than they did; asks them now and then.
    pub(super) async fn means_another(&mut self) -> bool {
        let StoreMode::Sentinel { master, login, .. } = self.url.mode().clone() else { return false };
        let Some((meant, asked)) = &mut self.meant else { return false };
        if asked.elapsed() < MEANT_EVERY {
            return false;
        }
        *asked = Instant::now();
        let meant = meant.clone();
        self.ask_sentinels(&master, login).await.is_ok_and(|server| server != meant)
    }

    async fn open(&self, server: &StoreServer, database: u32) -> Result<MultiplexedConnection, String> {
        let client = self.client(server, self.url.login(), database).map_err(|error| said(&error))?;
        connection(&client, CONNECT_TIMEOUT).await
    }

    /// The master that most Sentinels mean. One that is cut off from the others may mean an old one, which says of itself
    /// that it is the master still.
    async fn ask_sentinels(&self, master: &str, login: SentinelLogin) -> Result<StoreServer, String> {
        let mut votes: Vec<(StoreServer, usize)> = Vec::new();
        let mut failed = Err("no server is named".to_owned());
        for guide in &self.guides {
            match self.ask_sentinel(guide, master, login).await {
                Ok(server) => match votes.iter_mut().find(|(known, _)| *known == server) {
                    Some((_, count)) => *count = count.saturating_add(1),
                    None => votes.push((server, 1)),
                },
                Err(why) => failed = Err(why),
            }
            // The others cannot change it any more.
            if let Some((server, _)) = votes.iter().find(|(_, count)| count.saturating_mul(2) > self.guides.len()) {
                return Ok(server.clone());
            }
        }
        // Of as many votes the first: whoever led to a server that works is asked first.
        votes.reverse();
        votes.into_iter().max_by_key(|(_, count)| *count).map_or(failed, |(server, _)| Ok(server))
    }

    async fn ask_sentinel(
        &self,
        guide: &StoreServer,
        master: &str,
        login: SentinelLogin,
    ) -> Result<StoreServer, String> {
        let login = match login {
            SentinelLogin::None => None,
            SentinelLogin::Same => self.url.login(),
        };
        let client = self.client(guide, login, 0).map_err(|error| said(&error))?;
        let mut question = ::redis::cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
        let asked = async {
            let mut connection = connection(&client, GUIDE_TIMEOUT).await?;
            answer(question.query_async::<Option<(String, u16)>>(&mut connection)).await
        };
        match asked.await {
            Ok(Some((host, port))) => {
                StoreServer::new(&host, port).map_err(|_| "a Sentinel names a server that is none".to_owned())
            }
            Ok(None) => Err("a Sentinel knows no master of this name".to_owned()),
            Err(why) if why == "ERR" => Err("what should be a Sentinel is none".to_owned()),
            Err(why) => Err(format!("a Sentinel: {why}")),
        }
    }

    /// The master of our slot, and every node of the cluster.
    async fn ask_node(&self, guide: &StoreServer, keys: &str) -> Result<(StoreServer, Vec<StoreServer>), String> {
        let client = self.client(guide, self.url.login(), 0).map_err(|error| said(&error))?;
        let mut question = ::redis::pipe();
        question.cmd("CLUSTER").arg("KEYSLOT").arg(keys).cmd("CLUSTER").arg("SLOTS");
        let asked = async {
            let mut connection = connection(&client, GUIDE_TIMEOUT).await?;
            answer(question.query_async::<(u16, Vec<Vec<Value>>)>(&mut connection)).await
        };
        let (slot, ranges) = match asked.await {
            Ok(answer) => answer,
            Err(why) if why == "ERR" => return Err("what should be a node of a cluster is none".to_owned()),
            Err(why) => return Err(format!("a node: {why}")),
        };
        let (mut master, mut nodes) = (None, Vec::new());
        for range in ranges {
            let Some((first, last, servers)) = serves(range, guide) else {
                return Err("a node: an answer it does not have".to_owned());
            };
            if (first..=last).contains(&slot) {
                master = servers.first().cloned();
            }
            nodes.extend(servers);
        }
        match master {
            Some(master) => Ok((master, nodes)),
            None => Err("nobody in the cluster has our slot".to_owned()),
        }
    }

    /// The nodes of the answer come before those of the URL: they are there now.
    fn remember(&mut self, guide: StoreServer, nodes: Vec<StoreServer>) {
        let mut guides = VecDeque::from([guide]);
        for node in nodes {
            if guides.len() > NODES_MAX {
                break;
            }
            if !guides.contains(&node) {
                guides.push_back(node);
            }
        }
        for server in self.url.servers() {
            if !guides.contains(server) {
                guides.push_back(server.clone());
            }
        }
        self.guides = guides;
    }

    fn client(&self, server: &StoreServer, login: Option<&Login>, database: u32) -> Result<Client, RedisError> {
        let (host, port) = (server.host().to_owned(), server.port());
        let address = match self.url.transport() {
            Transport::Plain => ConnectionAddr::Tcp(host, port),
            Transport::Tls => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
        };
        let mut settings = RedisConnectionInfo::default().set_db(database.into());
        if let Some(login) = login {
            if let Some(user) = login.user() {
                settings = settings.set_username(user);
            }
            // It was read as UTF-8.
            settings = settings.set_password(String::from_utf8_lossy(login.password().expose()));
        }
        let info = address.into_connection_info()?.set_redis_settings(settings);
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let info = info.set_tcp_settings(tcp);
        match (self.url.transport(), &self.roots) {
            (Transport::Tls, Some(roots)) => {
                let root_cert = Some(roots.clone());
                Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert })
            }
            (Transport::Tls, None) | (Transport::Plain, _) => Client::open(info),
        }
    }
}

/// What kind of store a URL leads to, in a word.
pub(super) const fn mode(url: &StoreUrl) -> &'static str {
    match url.mode() {
        StoreMode::Single { .. } => "single",
        StoreMode::Sentinel { .. } => "sentinel",
        StoreMode::Cluster => "cluster",
    }
}

async fn connection(client: &Client, within: Duration) -> Result<MultiplexedConnection, String> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(within))
        // Ours is around the wait of each call: the driver's would hide misses from the breaker.
        .set_response_timeout(None)
        .set_pipeline_buffer_size(BUFFER);
    client.get_multiplexed_async_connection_with_config(&config).await.map_err(|error| said(&error))
}

async fn answer<T>(asked: impl Future<Output = Result<T, RedisError>>) -> Result<T, String> {
    match timeout(GUIDE_TIMEOUT, asked).await {
        Ok(answer) => answer.map_err(|error| said(&error)),
        Err(_) => Err("timed out".to_owned()),
    }
}

/// What a server says that it is, by its own account.
async fn role(connection: &mut MultiplexedConnection) -> Result<String, String> {
    let words: Vec<Value> = answer(::redis::cmd("ROLE").query_async(connection)).await?;
    read(words.into_iter().next()).ok_or_else(|| "an answer it does not have".to_owned())
}

/// One range of `CLUSTER SLOTS`: its first and last slot, and who serves it, the master first. A node without an address
/// of its own is the one that was asked.
fn serves(range: Vec<Value>, asked: &StoreServer) -> Option<(u16, u16, Vec<StoreServer>)> {
    let mut parts = range.into_iter();
    let (first, last) = (read(parts.next())?, read(parts.next())?);
    let server = |node: Value| {
        let mut parts = read::<Vec<Value>>(Some(node))?.into_iter();
        let host: Option<String> = read(parts.next())?;
        let host = host.filter(|host| !host.is_empty());
        StoreServer::new(host.as_deref().unwrap_or(asked.host()), read(parts.next())?).ok()
    };
    Some((first, last, parts.map(server).collect::<Option<_>>()?))
}

fn read<T: FromRedisValue>(value: Option<Value>) -> Option<T> {
    value.and_then(|value| from_redis_value(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(url: &str) -> Source {
        Source::of(StoreUrl::parse(url).unwrap(), None).unwrap()
    }

    fn servers(names: &[&str]) -> Vec<StoreServer> {
        names.iter().map(|name| StoreServer::new(name, 1).unwrap()).collect()
    }

    #[test]
    fn nodes_of_an_answer_are_asked_before_those_of_the_url_which_are_never_forgotten() {
        let mut source = source("redis-cluster://a:1,b:1");
        let [a, b, c, d] = <[StoreServer; 4]>::try_from(servers(&["a", "b", "c", "d"])).unwrap();
        source.remember(b.clone(), vec![c.clone(), b.clone(), d.clone(), c.clone()]);
        assert_eq!(source.guides, [b, c, d, a]);
    }

    #[test]
    fn no_more_nodes_are_remembered_than_the_bound() {
        let names: Vec<String> = (0..=NODES_MAX).map(|n| format!("n{n}")).collect();
        let nodes = servers(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let mut source = source("redis-cluster://a:1");
        let [a] = <[StoreServer; 1]>::try_from(servers(&["a"])).unwrap();
        source.remember(a.clone(), nodes[..NODES_MAX].to_vec());
        assert_eq!(source.guides.len(), NODES_MAX + 1);
        source.remember(a.clone(), nodes);
        assert_eq!((source.guides.len(), source.guides.front()), (NODES_MAX + 1, Some(&a)));
    }

    #[test]
    fn whoever_is_doubted_is_asked_last() {
        let mut source = source("redis-sentinel://a:1,b:1,c:1/m");
        source.doubt();
        assert_eq!(source.guides, servers(&["b", "c", "a"]));
    }

    #[test]
    fn a_node_without_an_address_is_the_one_that_was_asked() {
        let [asked] = <[StoreServer; 1]>::try_from(servers(&["asked"])).unwrap();
        let node = |host: Value, port: i64| Value::Array(vec![host, Value::Int(port)]);
        let named = Value::BulkString(b"named".to_vec());
        let range = |nodes: &[Value]| [&[Value::Int(5), Value::Int(9)], nodes].concat();
        let nodes = [node(Value::Nil, 1), node(Value::BulkString(Vec::new()), 1), node(named, 1)];
        let (first, last, found) = serves(range(&nodes), &asked).unwrap();
        assert_eq!((first, last, found), (5, 9, servers(&["asked", "asked", "named"])));
        for bad in [node(Value::Nil, 0), node(Value::Int(1), 65_536), Value::Nil] {
            assert_eq!(serves(range(&[bad]), &asked), None);
        }
    }
}
