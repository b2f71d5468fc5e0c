//! Gateways under measurement: the real binary, one worker thread each, plain HTTP/1.1 on loopback.

use std::{fmt::Write as _, fs, net::SocketAddr, path::Path, time::Duration};

use anyhow::Context;
use portcullis_benches::{
    account::{CpuTime, resident_kib},
    cpus::Cpus,
    redis_server::store_key,
    subject::{Subject, free_port, is_ready, metric},
};

use crate::{
    client::HOST,
    limit::{self, GATEWAYS, Limited},
};

/// The route without a limit.
pub(crate) const OPEN: &str = "open";

/// What gateways of a run need.
#[derive(Debug)]
pub(crate) struct World<'w> {
    pub(crate) cpus: &'w Cpus,
    pub(crate) gateway: &'w Path,
    pub(crate) folder: &'w Path,
    pub(crate) upstream: SocketAddr,
}

/// Where a gateway counts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Store {
    Memory {
        /// Room for buckets of each limit, the gateway's own default when none.
        keys_max: Option<u32>,
    },
    Redis {
        address: SocketAddr,
        /// How long a check may wait for it.
        deadline: Duration,
    },
}

/// Gateways with the same limits.
pub(crate) struct Fleet {
    gateways: Vec<Gateway>,
}

struct Gateway {
    public: SocketAddr,
    admin: SocketAddr,
    process: Subject,
}

impl Fleet {
    /// Starts one gateway for each store, and waits until all are ready.
    pub(crate) fn start(world: &World<'_>, name: &str, stores: &[Store], limits: &[Limited]) -> anyhow::Result<Self> {
        let mut gateways = Vec::new();
        for (number, store) in stores.iter().enumerate() {
            gateways.push(Gateway::start(world, &format!("{name}-{number}"), *store, limits)?);
        }
        Ok(Self { gateways })
    }

    /// Where clients connect.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.gateways.iter().map(|gateway| gateway.public).collect()
    }

    /// What they used so far.
    pub(crate) fn cpu(&self) -> anyhow::Result<Vec<CpuTime>> {
        self.gateways.iter().map(|gateway| CpuTime::read(gateway.process.pid())).collect()
    }

    /// What they used since then, in microseconds.
    pub(crate) fn cpu_us_since(&self, earlier: &[CpuTime]) -> anyhow::Result<f64> {
        let now = self.cpu()?;
        Ok(now.iter().zip(earlier).map(|(now, earlier)| now.since(earlier).as_secs_f64() * 1e6).sum())
    }

    /// What the first of them used since then, in microseconds.
    pub(crate) fn cpu_us_of_first_since(&self, earlier: &[CpuTime]) -> anyhow::Result<f64> {
        let now = self.cpu()?;
        Ok(now.iter().zip(earlier).take(1).map(|(now, earlier)| now.since(earlier).as_secs_f64() * 1e6).sum())
    }

    /// Resident memory of one of them.
    pub(crate) fn resident_kib(&self, gateway: u32) -> anyhow::Result<u64> {
        resident_kib(self.one(gateway)?.process.pid())
    }

    /// How often a bucket of one of them had no place of its own.
    pub(crate) fn crowded(&self, gateway: u32) -> anyhow::Result<f64> {
        metric(self.one(gateway)?.admin, "portcullis_ratelimit_crowded")
    }

    fn one(&self, gateway: u32) -> anyhow::Result<&Gateway> {
        self.gateways.get(usize::try_from(gateway)?).context("no such gateway")
    }

    /// Checks so far that the store did not decide.
    pub(crate) fn undecided(&self) -> anyhow::Result<f64> {
        let each = self.gateways.iter().map(|gateway| metric(gateway.admin, "portcullis_ratelimit_degraded_total"));
        each.sum()
    }

    /// The last of what they wrote to standard error, for messages.
    pub(crate) fn last_words(&self) -> String {
        self.gateways.iter().map(|gateway| gateway.process.last_words()).collect::<Vec<_>>().join("\n")
    }
}

impl Gateway {
    fn start(world: &World<'_>, name: &str, store: Store, limits: &[Limited]) -> anyhow::Result<Self> {
        let (public, admin) = (free_port()?, free_port()?);
        let config = world.folder.join(format!("{name}.toml"));
        fs::write(&config, document(world, public, admin, store, limits)?)?;
        let mut command = world.cpus.proxy_command(world.gateway);
        command.arg("run").arg("--config").arg(&config).args(["--threads", "1"]);
        Ok(Self { public, admin, process: Subject::start(name, command, world.folder, || is_ready(admin))? })
    }
}

fn document(
    world: &World<'_>,
    public: SocketAddr,
    admin: SocketAddr,
    store: Store,
    limits: &[Limited],
) -> anyhow::Result<String> {
    let mut text = format!(
        "version = 1\n\n\
         [listeners.public]\naddress = \"{public}\"\ntls = \"off\"\nclient_ip = \"direct\"\n\n\
         [admin]\naddress = \"{admin}\"\n\n\
         [log]\naccess = {{ file = \"/dev/null\" }}\n\n\
         [upstreams.app]\nservers = [\"{}\"]\n\n\
         [controls]\nip_allowlist = {{ allow = [\"127.0.0.0/8\"] }}\nburst = \"off\"\nwaf = \"off\"\n\n",
        world.upstream
    );
    match store {
        Store::Memory { keys_max } => {
            text.push_str("[stores]\ncounters = \"memory\"\n");
            keys_max.map_or(Ok(()), |keys_max| writeln!(text, "keys_max = {keys_max}"))?;
        }
        Store::Redis { address, deadline } => write!(
            text,
            "[stores]\ncounters = \"redis://{address}/\"\ninstances = {GATEWAYS}\ndeadline = \"{}ms\"\n\
             key = \"file:{}\"\n",
            deadline.as_millis(),
            store_key(world.folder)?.display()
        )?,
    }
    write!(text, "\n[hosts.\"{HOST}\"]\ntenant = \"identity\"\n")?;
    limit::route(&mut text, OPEN, "")?;
    for limited in limits {
        limited.write(&mut text)?;
    }
    Ok(text)
}
