//! A proxy under measurement: bare Pingora, or the gateway with one of its configurations.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use portcullis_benches::{
    cpus::Cpus,
    redis_server::Server,
    subject::{self, Programs, free_port, is_ready, listens},
};

use crate::{
    documents::{self, Addresses},
    flags::{Flags, Kind},
    pki::Pki,
};

/// The programs of the subjects, as far as there are such subjects.
#[derive(Debug)]
pub(crate) struct Binaries {
    programs: Programs,
}

impl Binaries {
    /// Builds what will be measured, unless it is to be taken as it is.
    pub(crate) fn find(flags: &Flags) -> anyhow::Result<Self> {
        let programs = Programs::beside_this()?;
        if !flags.no_build {
            let mut list = vec![("portcullis-benches", "bare")];
            if flags.subjects.iter().any(|&kind| kind != Kind::Bare) {
                list.push(("portcullis", "portcullis"));
            }
            programs.build(&list)?;
        }
        let binaries = Self { programs };
        for &kind in &flags.subjects {
            binaries.of(kind)?;
        }
        Ok(binaries)
    }

    fn of(&self, kind: Kind) -> anyhow::Result<PathBuf> {
        self.programs.path(match kind {
            Kind::Bare => "bare",
            Kind::Off | Kind::On | Kind::Limits | Kind::Leased => "portcullis",
        })
    }
}

/// A running proxy.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) kind: Kind,
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    process: subject::Subject,
    /// Ends with it.
    _redis: Option<Server>,
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
        let redis = if kind == Kind::Leased { Some(Server::start(folder)?) } else { None };
        let address = redis.as_ref().map(|redis| redis.address);
        let at = Addresses { public: free_port()?, admin: free_port()?, upstream, redis: address };
        let mut command = cpus.proxy_command(&binaries.of(kind)?);
        match kind {
            Kind::Bare => {
                command.args(["--listen", &at.public.to_string(), "--upstream", &upstream.to_string()]);
                command.arg("--chain").arg(&pki.chain).arg("--key").arg(&pki.key);
            }
            Kind::Off | Kind::On | Kind::Limits | Kind::Leased => {
                let config = folder.join(format!("{kind}.toml"));
                fs::write(&config, documents::document(kind, at, pki, &flags.access_log)?)?;
                command.arg("run").arg("--config").arg(&config);
            }
        }
        command.args(["--threads", &flags.threads.to_string()]);
        let process = subject::Subject::start(&kind.to_string(), command, folder, || match kind {
            Kind::Bare => listens(at.public),
            Kind::Off | Kind::On | Kind::Limits | Kind::Leased => is_ready(at.admin),
        })?;
        Ok(Self { kind, address: at.public, process, _redis: redis })
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The last of what it wrote to standard error, for messages.
    pub(crate) fn last_words(&self) -> String {
        self.process.last_words()
    }
}
