//! A real PostgreSQL of the test's own, on a loopback port, run by a user who is not root.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{free_address, process::Process, wait_for};

/// A server with one database, `postgres`, and one user, `postgres`, without a password.
pub struct Postgres {
    address: SocketAddr,
    process: Process,
    directory: tempfile::TempDir,
    account: Option<Account>,
}

/// Whom it is run as: PostgreSQL refuses root.
#[derive(Clone, Copy)]
struct Account {
    user: u32,
    group: u32,
}

impl Postgres {
    /// Makes one and waits until it answers.
    pub fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let account = account();
        if let Some(Account { user, group }) = account {
            chown(directory.path(), Some(user), Some(group)).expect("root gives a directory away");
        }
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).expect("it is ours");
        let made = command(account, "initdb")
            .args(["--auth", "trust", "--username", "postgres", "--no-sync", "--locale", "C", "--encoding", "UTF8"])
            .arg("--pgdata")
            .arg(data(directory.path()))
            .output()
            .expect("initdb runs");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let address = free_address();
        let process = spawn(account, address, directory.path());
        let mut postgres = Self { address, process, directory, account };
        postgres.wait();
        postgres
    }

    /// Its URL, as `api_keys.store` takes it.
    pub fn url(&self) -> String {
        format!("postgresql://postgres@{}/postgres?sslmode=disable", self.address)
    }

    /// Runs statements over a connection of its own.
    ///
    /// # Errors
    /// When it does not answer, or with an error.
    pub fn run(&self, statements: &str) -> Result<Vec<String>, tokio_postgres::Error> {
        crate::runtime().block_on(async {
            let (client, connection) = tokio_postgres::connect(&self.url(), tokio_postgres::NoTls).await?;
            let connection = tokio::spawn(connection);
            let messages = client.simple_query(statements).await?;
            drop(client);
            drop(connection.await);
            Ok(messages
                .iter()
                .filter_map(|message| match message {
                    tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
                    _ => None,
                })
                .map(|row| (0..row.len()).filter_map(|at| row.get(at)).collect::<Vec<_>>().join("|"))
                .collect())
        })
    }

    /// Everything in it, as `pg_dump` has it.
    pub fn dump(&self) -> String {
        let dump = command(self.account, "pg_dump")
            .args(["--host", "127.0.0.1", "--port", &self.address.port().to_string(), "--username", "postgres"])
            .arg("postgres")
            .output()
            .expect("pg_dump runs");
        assert!(dump.status.success(), "pg_dump: {}", String::from_utf8_lossy(&dump.stderr));
        String::from_utf8(dump.stdout).expect("a dump is text")
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        self.process.signal("QUIT");
        wait_for("postgres to end", || self.process.ended());
    }

    /// Starts it again with what it had, on the same port.
    pub fn restart(&mut self) {
        self.process = spawn(self.account, self.address, self.directory.path());
        self.wait();
    }

    fn wait(&mut self) {
        wait_for("postgres to answer", || {
            if let Some(status) = self.process.ended() {
                panic!("postgres ended with {status}: {}", self.process.stderr.all().join("\n"));
            }
            self.run("SELECT 1").ok()
        });
    }
}

fn spawn(account: Option<Account>, address: SocketAddr, directory: &Path) -> Process {
    Process::start(
        command(account, "postgres")
            .arg("-D")
            .arg(data(directory))
            .args(["-h", "127.0.0.1", "-p", &address.port().to_string(), "-k", ""])
            // Nothing outlives the test, so nothing has to reach the disk.
            .args(["-c", "fsync=off"]),
        directory,
    )
}

fn data(directory: &Path) -> PathBuf {
    directory.join("data")
}

/// A program of the newest PostgreSQL that Debian installed, run as whoever may.
fn command(account: Option<Account>, program: &str) -> Command {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed: run `make setup`");
    let newest = versions
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .max()
        .expect("a version is installed");
    let program = format!("/usr/lib/postgresql/{newest}/bin/{program}");
    let mut command = match account {
        None => Command::new(program),
        Some(Account { user, group }) => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", &user.to_string(), "--regid", &group.to_string(), "--clear-groups", &program]);
            command
        }
    };
    command.current_dir("/").env("LC_ALL", "C");
    command
}

/// The account that the package made, where we are root.
fn account() -> Option<Account> {
    let own = fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own)).expect("Linux");
    if own != 0 {
        return None;
    }
    let accounts = fs::read_to_string("/etc/passwd").expect("there are accounts");
    let found = accounts.lines().find(|line| line.starts_with("postgres:")).expect("the package made an account");
    let mut fields = found.split(':').skip(2).map(|field| field.parse().expect("a number"));
    Some(Account { user: fields.next().expect("a user"), group: fields.next().expect("a group") })
}
