//! A real redis-server of the test's own: stopped, continued, killed and started again.

use std::{net::SocketAddr, process::Command};

use crate::{free_address, process::Process, wait_for};

/// A redis-server on a free port, without persistence.
pub struct Redis {
    address: SocketAddr,
    process: Process,
    directory: tempfile::TempDir,
}

impl Redis {
    /// Starts one and waits until it answers.
    pub fn start() -> Self {
        let address = free_address();
        let directory = tempfile::tempdir().expect("a temporary directory");
        let process = spawn(address, directory.path());
        let mut redis = Self { address, directory, process };
        redis.wait();
        redis
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
        self.process = spawn(self.address, self.directory.path());
        self.wait();
    }

    /// Every key in it.
    pub fn keys(&self) -> Vec<String> {
        let mut connection = self.connection().expect("redis answers");
        redis::cmd("KEYS").arg("*").query(&mut connection).expect("redis lists its keys")
    }

    fn connection(&self) -> Option<redis::Connection> {
        redis::Client::open(self.url()).expect("a URL").get_connection().ok()
    }

    fn wait(&mut self) {
        wait_for("redis to answer", || {
            if self.process.ended().is_some() {
                // A process that another test is starting still holds the socket that found the port.
                self.process = spawn(self.address, self.directory.path());
            }
            redis::cmd("PING").query::<String>(&mut self.connection()?).ok()
        });
    }
}

fn spawn(address: SocketAddr, directory: &std::path::Path) -> Process {
    Process::start(
        Command::new("redis-server")
            .args(["--port", &address.port().to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(directory),
        directory,
    )
}
