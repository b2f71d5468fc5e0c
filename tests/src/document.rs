//! The configuration that a test starts from, and how it says what is different.

use std::{
    fs,
    io::Write as _,
    net::SocketAddr,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::LazyLock,
};

use toml::{Table, Value};

use crate::{
    Gateway, Upstream, ca,
    default_document::default_document,
    free_address,
    tokens::{self, LOCAL_SECRET},
};

/// The token of the admin listener.
pub const ADMIN_TOKEN: &str = "planted-admin-token-0123456789abcdef0123456789";
const PEPPER: &str = "planted-pepper-0123456789abcdef0123456789abcdef";
const STORE_KEY: &str = "planted-store-key-0123456789abcdef0123456789";
const PSEUDONYM_KEY: &str = "planted-pseudonym-key-0123456789abcdef01234567";

/// Every name that the default certificate carries.
pub const NAMES: &[&str] = &[
    "api.example.test",
    "fixed.example.test",
    "cors.example.test",
    "*.wild.example.test",
    "plain.example.test",
    "agents.example.test",
];

/// API keys by the names that tests know them by.
type NamedKeys = Vec<(String, String)>;

/// A configuration in the making, with its directory of certificates, secrets and key files.
pub struct Setup {
    directory: tempfile::TempDir,
    document: Table,
    listener: SocketAddr,
    admin: SocketAddr,
    keys: NamedKeys,
    environment: Vec<(String, String)>,
}

impl Setup {
    /// The default: one TLS listener, two tenants, three credentials, one upstream, every control on and generous.
    pub fn new(upstream: &Upstream) -> Self {
        Self::with_upstream(upstream.address())
    }

    /// The default, with the upstream at this address.
    pub fn with_upstream(upstream: SocketAddr) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (listener, admin) = (free_address(), free_address());
        let text = default_document(listener, admin, upstream);
        let document = toml::from_str(&text).unwrap_or_else(|e| panic!("{e} in {text}"));
        let setup = Self { directory, document, listener, admin, keys: Vec::new(), environment: Vec::new() };
        let leaf = ca::ca().leaf(NAMES);
        setup
            .file("tls/chain.pem", &leaf.chain_pem)
            .file("tls/key.pem", &leaf.key_pem)
            .file("tls/ca.pem", ca::ca().pem())
            .file("jwks/main.json", tokens::key_set(&[tokens::main_key()]))
            .file("secrets/local", LOCAL_SECRET)
            .file("secrets/pepper", PEPPER)
            .file("secrets/admin", ADMIN_TOKEN)
            .file("secrets/pseudonym", PSEUDONYM_KEY)
            .file("secrets/store", STORE_KEY)
            .default_keys()
    }

    /// One key for each tenant, issued once for the whole run.
    fn default_keys(mut self) -> Self {
        static ISSUED: LazyLock<(Vec<u8>, NamedKeys)> = LazyLock::new(|| {
            let directory = tempfile::tempdir().expect("a temporary directory");
            write_private(&directory.path().join("secrets/pepper"), PEPPER.as_bytes());
            let keys = ["acme", "globex"].map(|tenant| {
                let arguments = ["--tenant", tenant, "--env", "live", "--role", "developer", "--scope", "orders"];
                (tenant.to_owned(), issue(directory.path(), &arguments))
            });
            (fs::read(directory.path().join("keys.json")).expect("the key file is there"), keys.into())
        });
        let (file, keys) = &*ISSUED;
        self.keys.clone_from(keys);
        self.file("keys.json", file)
    }

    /// Merges this TOML in: tables are merged, everything else is replaced.
    #[must_use]
    pub fn with(mut self, toml: &str) -> Self {
        merge(&mut self.document, parse(toml));
        self
    }

    /// Sets one key, e.g. `hosts."api.example.test".routes.orders.auth`, to this TOML value, whatever was there.
    #[must_use]
    pub fn set(self, path: &str, value: &str) -> Self {
        let removed = self.remove(path);
        removed.with(&format!("{path} = {value}"))
    }

    /// Removes one key; that it is there is part of the test.
    #[must_use]
    pub fn remove(mut self, path: &str) -> Self {
        // TOML itself knows how a dotted path with quoted parts is read.
        let mut at = &parse(&format!("{path} = 0"));
        let mut table = &mut self.document;
        loop {
            let (key, inner) = at.iter().next().expect("a path has a part");
            match inner {
                Value::Table(deeper) => {
                    at = deeper;
                    match table.entry(key).or_insert_with(|| Value::Table(Table::new())) {
                        Value::Table(found) => table = found,
                        _ => return self,
                    }
                }
                _ => {
                    table.remove(key);
                    return self;
                }
            }
        }
    }

    /// Writes a file of the configuration's directory, readable by the owner only.
    #[must_use]
    pub fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        write_private(&self.path(name), content.as_ref());
        self
    }

    /// Issues one more API key, beside a gateway that runs.
    pub fn issued(&self, arguments: &[&str]) -> String {
        issue(self.directory.path(), arguments)
    }

    /// Issues an API key with the command line and keeps it under this name.
    #[must_use]
    pub fn key(mut self, name: &str, arguments: &[&str]) -> Self {
        self.keys.push((name.to_owned(), String::new()));
        let key = issue(self.directory.path(), arguments);
        self.keys.last_mut().expect("just pushed").1 = key;
        self
    }

    /// With this environment variable.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A path in the configuration's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The text as it will be written.
    pub fn text(&self) -> String {
        toml::to_string(&self.document).expect("a document is TOML")
    }

    /// Starts the gateway with it and waits until it is ready.
    pub fn start(self) -> Gateway {
        let gateway = self.launch();
        gateway.wait_ready();
        gateway
    }

    /// Starts the gateway with it and waits until it listens, ready or not.
    pub fn launch(self) -> Gateway {
        self.write();
        Gateway::launch(self)
    }

    /// Runs the binary with other arguments about it; `--config` is added.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        self.write();
        self.command().args(arguments).arg("--config").arg(self.config()).output().expect("the binary runs")
    }

    /// Asks `portcullis check` about it.
    pub fn check(&self) -> Output {
        self.write();
        portcullis(self.directory.path())
            .args(["check", "--config"])
            .arg(self.config())
            .output()
            .expect("the binary runs")
    }

    pub(crate) fn write(&self) {
        write_private(&self.config(), self.text().as_bytes());
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.path("portcullis.toml")
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn listener(&self) -> SocketAddr {
        self.listener
    }

    /// Where the admin listener is.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// An API key that it issued.
    pub fn api_key(&self, name: &str) -> &str {
        let found = self.keys.iter().find(|(known, _)| known == name);
        found.map_or_else(|| panic!("no key `{name}` was issued"), |(_, key)| key)
    }

    /// The binary in its directory.
    pub fn command(&self) -> Command {
        let mut command = portcullis(self.directory.path());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// The binary, run in this directory, with an environment that is the same everywhere.
pub(crate) fn portcullis(directory: &Path) -> Command {
    let mut command = Command::new(crate::gateway::binary());
    command.current_dir(directory).env_remove("RUST_LOG").env("NO_COLOR", "1");
    command
}

/// Issues an API key into the key file of this directory.
pub(crate) fn issue(directory: &Path, arguments: &[&str]) -> String {
    let output = portcullis(directory)
        .args(["keys", "issue", "--file", "keys.json", "--pepper", "file:secrets/pepper"])
        .args(arguments)
        .output()
        .expect("the binary runs");
    assert!(output.status.success(), "keys issue {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("a key is ASCII").trim().to_owned()
}

/// Writes a file that only its owner may read, as the gateway demands of secrets.
pub fn write_private(path: &Path, content: &[u8]) {
    fs::create_dir_all(path.parent().expect("a file has a directory")).expect("a directory is made");
    // Written beside and moved into place: the gateway may read it at any moment.
    let beside = path.with_extension("new");
    fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)
        .and_then(|mut file| file.write_all(content))
        .and_then(|()| fs::set_permissions(&beside, fs::Permissions::from_mode(0o600)))
        .and_then(|()| fs::rename(&beside, path))
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

fn parse(toml: &str) -> Table {
    toml::from_str(toml).unwrap_or_else(|e| panic!("{e} in {toml}"))
}

fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(into)), Value::Table(from)) => merge(into, from),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}
