//! A master, its replica and three Sentinels that watch over them.

use std::{collections::HashMap, fs, net::SocketAddr, process::Command};

use super::{Redis, ask};
use crate::{free_address, process::Process, wait_for};

/// The least that a machine which is busy with other tests does not take for an outage.
const DOWN_AFTER_MS: u32 = 1_500;

/// What the Sentinels call the master.
const NAME: &str = "main";

/// A deployment of Redis that fails over by itself.
pub struct Sentinels {
    /// The one that is the master at first.
    pub master: Redis,
    /// The one that takes its place.
    pub replica: Redis,
    sentinels: Vec<Sentinel>,
}

struct Sentinel {
    address: SocketAddr,
    process: Process,
    directory: tempfile::TempDir,
}

impl Sentinels {
    /// Starts all and waits until a failover would be possible.
    pub fn start() -> Self {
        let master = Redis::start();
        let replica = Redis::with(&["--replicaof", "127.0.0.1", &master.address().port().to_string()]);
        wait_for("the replica to have its master", || {
            (replica.info("master_link_status")? == "up" && master.info("slave0")?.contains("state=online"))
                .then_some(())
        });
        let sentinels = (0..3).map(|_| Sentinel::of(master.address())).collect();
        let all = Self { master, replica, sentinels };
        for sentinel in &all.sentinels {
            wait_for("a Sentinel to know the others and the replica", || {
                let quorum: String = ask(sentinel.address, &["SENTINEL", "CKQUORUM", NAME]).ok()?;
                let replicas: Vec<HashMap<String, String>> =
                    ask(sentinel.address, &["SENTINEL", "REPLICAS", NAME]).ok()?;
                let well = replicas.iter().filter(|replica| replica["master-link-status"] == "ok").count();
                (quorum.starts_with("OK 3 ") && well == 1).then_some(())
            });
        }
        all
    }

    /// Their URL.
    pub fn url(&self) -> String {
        let addresses: Vec<String> = self.sentinels.iter().map(|sentinel| sentinel.address.to_string()).collect();
        format!("redis-sentinel://{}/{NAME}", addresses.join(","))
    }

    /// Waits until the replica has what the master has.
    pub fn wait_replicated(&self) {
        wait_for("the replica to have it all", || {
            (self.master.info("master_repl_offset")? == self.replica.info("master_repl_offset")?).then_some(())
        });
    }
}

impl Sentinel {
    fn of(master: SocketAddr) -> Self {
        let (address, directory) = (free_address(), tempfile::tempdir().expect("a temporary directory"));
        let text = format!(
            "port {}\nbind 127.0.0.1\ndir {}\nsentinel monitor {NAME} 127.0.0.1 {} 2\n\
             sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}\nsentinel failover-timeout {NAME} 3000\n",
            address.port(),
            directory.path().display(),
            master.port(),
        );
        fs::write(directory.path().join("sentinel.conf"), text).expect("a file can be written");
        let process = spawn(&directory);
        let mut sentinel = Self { address, process, directory };
        wait_for("a Sentinel to answer", || {
            if sentinel.process.ended().is_some() {
                // As of a redis-server: the port may still be held.
                sentinel.process = spawn(&sentinel.directory);
            }
            // A server that came back is told what it is after four times PUBLISH and twice INFO, else 28 s. A master that
            // was just made is down for them unless it answers a first PING within DOWN_AFTER, which is not sent for a
            // second. A Sentinel that was not scheduled for 2 s would do nothing for 30.
            let faster = ["INFO-PERIOD", "500", "PUBLISH-PERIOD", "500", "PING-PERIOD", "250", "TILT-TRIGGER", "60000"];
            ask::<String>(address, &[&["SENTINEL", "DEBUG"], &faster[..]].concat()).ok()
        });
        sentinel
    }
}

fn spawn(directory: &tempfile::TempDir) -> Process {
    let file = directory.path().join("sentinel.conf");
    Process::start(Command::new("redis-server").arg(file).arg("--sentinel"), directory.path())
}
