//! The redis-server of a run: its own port and folder, no persistence, and its account of what it did.

use std::{
    fs,
    io::Write,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    account::CpuTime,
    number::float,
    subject::{Subject, free_port},
};
use anyhow::{Context, ensure};

/// How long it may take to answer one question.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Hides keys in the store; it guards nothing.
const STORE_KEY: &str = "limits-store-key-0123456789abcdef0123456789";

/// A running redis-server.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    folder: PathBuf,
    process: Option<Subject>,
}

/// What it did since it started.
#[derive(Debug, Clone)]
pub struct Account {
    at: Instant,
    cpu: CpuTime,
    scripts: u64,
    commands: u64,
}

/// What it did in a while.
#[derive(Debug, Clone, Copy, Default)]
pub struct Work {
    /// How long that was.
    pub seconds: f64,
    /// Runs of scripts.
    pub scripts: f64,
    /// Those in the scripts too.
    pub commands: f64,
    /// CPU in microseconds.
    pub cpu_us: f64,
}

impl Server {
    /// Starts one and waits until it answers.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(folder: &Path) -> anyhow::Result<Self> {
        let mut server = Self { address: free_port()?, folder: folder.to_owned(), process: None };
        server.restart()?;
        Ok(server)
    }

    /// Kills it and starts it on the same port, empty.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.kill();
        let mut command = Command::new("redis-server");
        let port = self.address.port().to_string();
        command.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"]);
        command.arg(&self.folder);
        let address = self.address;
        self.process = Some(Subject::start("redis", command, &self.folder, || ping(address).is_ok())?);
        Ok(())
    }

    /// As `kill -9` does.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Sends a signal by name, e.g. `STOP`.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, name: &str) -> anyhow::Result<()> {
        let pid = self.process.as_ref().context("redis-server does not run")?.pid();
        // A builtin of every shell; the binary of this name is not everywhere.
        let status = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status()?;
        ensure!(status.success(), "kill -{name} failed");
        Ok(())
    }

    /// Asks it something.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn command<T: redis::FromRedisValue>(&self, words: &[&str]) -> anyhow::Result<T> {
        let mut command = redis::Cmd::new();
        words.iter().for_each(|word| {
            command.arg(word);
        });
        Ok(command.query(&mut connection(self.address)?)?)
    }

    /// Reads its account.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn account(&self) -> anyhow::Result<Account> {
        let info: String = self.command(&["INFO", "commandstats"])?;
        let calls: Vec<(&str, u64)> = info.lines().filter_map(calls).collect();
        let sum = |of: &dyn Fn(&str) -> bool| {
            calls.iter().filter(|(name, _)| of(name)).fold(0_u64, |sum, (_, calls)| sum.saturating_add(*calls))
        };
        Ok(Account {
            at: Instant::now(),
            cpu: CpuTime::read(self.process.as_ref().context("redis-server does not run")?.pid())?,
            scripts: sum(&|name| ["eval", "evalsha", "fcall"].contains(&name)),
            commands: sum(&|name| !["info", "ping"].contains(&name)),
        })
    }
}

impl Account {
    /// What was done since `earlier`, less what `idle` says is done without a request.
    #[must_use]
    pub fn since(&self, earlier: &Self, idle: Work) -> Work {
        let seconds = self.at.saturating_duration_since(earlier.at).as_secs_f64();
        let part = if idle.seconds > 0.0 { seconds / idle.seconds } else { 0.0 };
        let less = |now: f64, idle: f64| (now - idle * part).max(0.0);
        Work {
            seconds,
            scripts: less(float(self.scripts.saturating_sub(earlier.scripts)), idle.scripts),
            commands: less(float(self.commands.saturating_sub(earlier.commands)), idle.commands),
            cpu_us: less(self.cpu.since(&earlier.cpu).as_secs_f64() * 1e6, idle.cpu_us),
        }
    }
}

/// Writes the key that gateways need to count in it; they refuse a secret that others may read.
///
/// # Errors
/// When it cannot be written.
pub fn store_key(folder: &Path) -> anyhow::Result<PathBuf> {
    let path = folder.join("store.key");
    fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&path)?
        .write_all(STORE_KEY.as_bytes())?;
    Ok(path)
}

fn connection(address: SocketAddr) -> anyhow::Result<redis::Connection> {
    let client = redis::Client::open(format!("redis://{address}/"))?;
    let connection = client.get_connection_with_timeout(ANSWER_MAX)?;
    connection.set_read_timeout(Some(ANSWER_MAX))?;
    Ok(connection)
}

fn ping(address: SocketAddr) -> anyhow::Result<()> {
    Ok(redis::cmd("PING").query(&mut connection(address)?)?)
}

/// Name and calls of a line of `INFO commandstats`: `cmdstat_evalsha:calls=12,usec=...`.
fn calls(line: &str) -> Option<(&str, u64)> {
    let (name, rest) = line.trim().strip_prefix("cmdstat_")?.split_once(":calls=")?;
    Some((name, rest.split(',').next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_as_redis_writes_them() {
        assert_eq!(calls("cmdstat_evalsha:calls=12,usec=345,usec_per_call=2.0\r"), Some(("evalsha", 12)));
        assert_eq!(calls("cmdstat_client|setname:calls=3,usec=4"), Some(("client|setname", 3)));
        assert_eq!(calls("# Commandstats"), None);
    }

    #[test]
    fn what_is_done_without_requests_is_taken_off_by_its_rate() {
        let start = Instant::now();
        let earlier = Account { at: start, cpu: CpuTime::default(), scripts: 10, commands: 100 };
        let later = Account { at: start + Duration::from_secs(4), scripts: 30, commands: 180, ..earlier.clone() };
        let idle = Work { seconds: 2.0, scripts: 6.0, commands: 100.0, cpu_us: 1.0 };
        let work = later.since(&earlier, idle);
        assert!((work.scripts - 8.0).abs() < 1e-9, "{work:?}");
        assert!(work.commands.abs() < 1e-9 && work.cpu_us.abs() < 1e-9, "{work:?}");
    }
}
