//! A real redis-server of the test's own: stopped, continued, killed and started again. Also several: with Sentinels, or
//! as a cluster.

pub mod cluster;
pub mod sentinels;

use std::{net::SocketAddr, path::Path, process::Command, time::Duration};

use redis::{FromRedisValue, RedisResult};

use crate::{free_address, process::Process, wait_for};

/// A redis-server on a free port, without persistence.
pub struct Redis {
    address: SocketAddr,
    process: Process,
    directory: tempfile::TempDir,
    settings: Vec<String>,
}

impl Redis {
    /// Starts one and waits until it answers.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Starts one with these arguments too.
    pub fn with(settings: &[&str]) -> Self {
        let address = free_address();
        let directory = tempfile::tempdir().expect("a temporary directory");
        let settings: Vec<String> = settings.iter().map(|&word| word.to_owned()).collect();
        let process = spawn(address, directory.path(), &settings);
        let mut redis = Self { address, process, directory, settings };
        redis.wait();
        redis
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis://{}/", self.address)
    }

    /// Holds it: connections stay open, nothing is answered.
    pub fn hold(&self) {
        self.process.signal("STOP");
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        self.process.signal("CONT");
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again, empty, on the same port.
    pub fn restart(&mut self) {
        self.kill();
        self.process = spawn(self.address, self.directory.path(), &self.settings);
        self.wait();
    }

    /// Runs a command over a connection of its own.
    ///
    /// # Panics
    /// When it does not answer, or with an error.
    pub fn run<T: FromRedisValue>(&self, words: &[&str]) -> T {
        self.try_run(words).unwrap_or_else(|error| panic!("{error} to {words:?}"))
    }

    /// As [`Self::run`], with the error.
    pub fn try_run<T: FromRedisValue>(&self, words: &[&str]) -> RedisResult<T> {
        ask(self.address, words)
    }

    /// One line of `INFO`, e.g. `role`.
    pub fn info(&self, name: &str) -> Option<String> {
        let text: String = self.try_run(&["INFO", "all"]).ok()?;
        text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned()))
    }

    /// Scripts that it was asked to run since it was started, by itself and not by its master.
    pub fn scripts_run(&self) -> u64 {
        ["cmdstat_evalsha", "cmdstat_eval"]
            .iter()
            .filter_map(|name| {
                let stat = self.info(name)?;
                stat.strip_prefix("calls=")?.split(',').next()?.parse::<u64>().ok()
            })
            .sum()
    }

    /// Every key in it.
    pub fn keys(&self) -> Vec<String> {
        self.run(&["KEYS", "*"])
    }

    fn wait(&mut self) {
        wait_for("redis to answer", || {
            if self.process.ended().is_some() {
                // A process that another test is starting still holds the socket that found the port.
                self.process = spawn(self.address, self.directory.path(), &self.settings);
            }
            self.try_run::<String>(&["PING"]).ok()
        });
    }
}

/// Asks a server, a Sentinel or a node over a connection of its own. One that hangs is an error.
fn ask<T: FromRedisValue>(address: SocketAddr, words: &[&str]) -> RedisResult<T> {
    const PROMPT: Duration = Duration::from_secs(5);
    let client = redis::Client::open(format!("redis://{address}/"))?;
    let mut connection = client.get_connection_with_timeout(PROMPT)?;
    connection.set_read_timeout(Some(PROMPT))?;
    let (verb, arguments) = words.split_first().expect("a command");
    redis::cmd(verb).arg(arguments).query(&mut connection)
}

fn spawn(address: SocketAddr, directory: &Path, settings: &[String]) -> Process {
    Process::start(
        Command::new("redis-server")
            .args(["--port", &address.port().to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            // A replica need not wait for others that might come.
            .args(["--repl-diskless-sync-delay", "0"])
            .arg("--dir")
            .arg(directory)
            .args(settings),
        directory,
    )
}
