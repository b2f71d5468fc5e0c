//! A proxy under measurement: a child process that is ready, and that ends with this value.

use std::{
    env,
    fs::{self, File},
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};

use crate::{
    cpus::Cpus,
    documents::{self, Addresses},
    flags::{Flags, Kind},
    pki::Pki,
};

/// How long a proxy may take to be ready.
const READY_MAX: Duration = Duration::from_secs(20);

/// The two programs.
#[derive(Debug)]
pub(crate) struct Binaries {
    bare: PathBuf,
    gateway: PathBuf,
}

impl Binaries {
    /// Builds what will be measured, in the profile of this program, and finds it beside this program.
    pub(crate) fn find(flags: &Flags) -> anyhow::Result<Self> {
        let folder = env::current_exe()?.parent().context("this program has no folder")?.to_owned();
        let release = folder.ends_with("release");
        if !release {
            writeln!(std::io::stderr(), "note: this is a debug build, the numbers mean nothing; use --release")?;
        }
        let binaries = Self { bare: folder.join("bare"), gateway: folder.join("portcullis") };
        if !flags.no_build {
            let mut build = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            build.args(["build", "--locked", "-p", "portcullis-benches", "--bin", "bare"]);
            if flags.subjects.iter().any(|&kind| kind != Kind::Bare) {
                build.args(["-p", "portcullis", "--bin", "portcullis"]);
            }
            if release {
                build.arg("--release");
            }
            ensure!(build.status().context("cargo")?.success(), "the proxies do not build");
        }
        for &kind in &flags.subjects {
            let path = binaries.of(kind);
            ensure!(path.exists(), "{} is not there; build it, or leave --no-build out", path.display());
        }
        Ok(binaries)
    }

    fn of(&self, kind: Kind) -> &Path {
        match kind {
            Kind::Bare => &self.bare,
            Kind::Off | Kind::On => &self.gateway,
        }
    }
}

/// A running proxy.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) kind: Kind,
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    child: Child,
    errors: PathBuf,
}

impl Subject {
    /// Starts a proxy and waits until it is ready.
    pub(crate) fn start(
        kind: Kind,
        flags: &Flags,
        cpus: &Cpus,
        binaries: &Binaries,
        pki: &Pki,
        folder: &Path,
        upstream: SocketAddr,
    ) -> anyhow::Result<Self> {
        let at = Addresses { public: free_port()?, admin: free_port()?, upstream };
        let mut command = cpus.proxy_command(binaries.of(kind));
        match kind {
            Kind::Bare => {
                command.args(["--listen", &at.public.to_string(), "--upstream", &upstream.to_string()]);
                command.arg("--chain").arg(&pki.chain).arg("--key").arg(&pki.key);
            }
            Kind::Off | Kind::On => {
                let config = folder.join(format!("{kind}.toml"));
                fs::write(&config, documents::document(kind, at, pki, &flags.access_log)?)?;
                command.arg("run").arg("--config").arg(&config);
            }
        }
        let errors = folder.join(format!("{kind}.stderr"));
        let child = command
            .args(["--threads", &flags.threads.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(File::create(&errors)?)
            .spawn()
            .with_context(|| format!("cannot start {}", binaries.of(kind).display()))?;
        let mut subject = Self { kind, address: at.public, child, errors };
        subject.wait_until_ready(at.admin)?;
        Ok(subject)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The last of what it wrote to standard error, for messages.
    pub(crate) fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.errors).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    fn wait_until_ready(&mut self, admin: SocketAddr) -> anyhow::Result<()> {
        let deadline = Instant::now().checked_add(READY_MAX).context("clock")?;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("the proxy `{}` ended with {status}:\n{}", self.kind, self.last_words());
            }
            let ready = match self.kind {
                Kind::Bare => TcpStream::connect_timeout(&self.address, Duration::from_secs(1)).is_ok(),
                Kind::Off | Kind::On => is_ready(admin),
            };
            if ready {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "the proxy `{}` is not ready after {} s:\n{}",
                self.kind,
                READY_MAX.as_secs(),
                self.last_words()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Whether `GET /readyz` answers 200.
fn is_ready(admin: SocketAddr) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&admin, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        write!(stream, "GET /readyz HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n")?;
        let mut start = [0; 12];
        stream.read_exact(&mut start)?;
        Ok(String::from_utf8_lossy(&start).into_owned())
    };
    ask().is_ok_and(|start| start == "HTTP/1.1 200")
}

/// A port that was free a moment ago. The proxies bind it themselves, so there is no holding on to it.
fn free_port() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
