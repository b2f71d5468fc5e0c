//! `portcullis doctor`: questions to what is around the gateway, from where it is run.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, anyhow, bail};
use clap::Subcommand;
use portcullis_api::Clock;
use portcullis_config::{Server, Settled, UpstreamSpec};
use tokio::net::TcpStream;

use super::say;
use crate::{
    assertions::Assertions,
    boot,
    clock::SystemClock,
    doctor::{Answer, Examination, Findings, Papers, Question, Verdict},
};

/// What to examine.
#[derive(Subcommand)]
pub(super) enum Doctor {
    /// Ask an upstream's servers around the gateway, and say whether they refuse what the gateway did not send. Exits with 0
    /// when they refuse all of it, 1 when they let something in, and 2 when that could not be told.
    Upstream {
        /// The upstream's name in the configuration.
        name: String,
        /// The configuration file.
        #[arg(long, short)]
        config: PathBuf,
        /// The path, and perhaps query, that is asked with GET: one that changes nothing, and answers a good request.
        #[arg(long, default_value = "/")]
        path: String,
    },
}

/// How many questions had which answer.
#[derive(Default)]
struct Counts {
    refused: u32,
    let_in: u32,
    unknown: u32,
}

impl Doctor {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Self::Upstream { name, config, path } = self;
        if !path.starts_with('/') || !path.bytes().all(|c| c.is_ascii_graphic() && c != b'#') {
            bail!("{path:?} is no path: write one as in \"/healthz\"");
        }
        let (_, settled) = boot::read(&config)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(examine(&settled, &name, &path)).map(|counts| counts.exit())
    }
}

async fn examine(settled: &Settled, name: &str, path: &str) -> anyhow::Result<Counts> {
    let index = settled.upstreams.iter().position(|upstream| &*upstream.name == name);
    let spec = index.and_then(|index| settled.upstreams.get(index)).ok_or_else(|| {
        let names: Vec<&str> = settled.upstreams.iter().map(|upstream| &*upstream.name).collect();
        anyhow!("there is no upstream `{}`: there are {}", name.escape_default(), names.join(", "))
    })?;
    let (_, rings) = Assertions::start(settled.assertion.as_ref(), SystemClock::start().now())?;
    let papers = rings.as_deref().and_then(|rings| Papers::new(rings, spec, path));
    let host = host(settled, index, spec);
    let examination = Examination::new(spec, Question { host, target: path }, papers)
        .map_err(|error| anyhow!("{error}"))
        .context("no connection could be made ready")?;
    say(&format!("GET {path} of {host}, as nobody, to the servers of upstream `{name}`"))?;
    let mut counts = Counts::default();
    for server in &spec.servers {
        match addresses(server, spec).await {
            Ok(addresses) => {
                for address in addresses {
                    let shown = shown(server, address);
                    let findings = examination.of(address).await?;
                    report(&shown, &findings, &mut counts)?;
                }
            }
            Err(why) => {
                counts.unknown = counts.unknown.saturating_add(1);
                say(&format!("{server}: UNKNOWN: it cannot be reached from here: {why}"))?;
            }
        }
    }
    let Counts { refused, let_in, unknown } = counts;
    say(&format!("refused: {refused}, let in: {let_in}, unknown: {unknown}"))?;
    Ok(counts)
}

/// The host that the gateway would name: the first that has a route to this upstream.
fn host<'s>(settled: &'s Settled, index: Option<usize>, spec: &'s UpstreamSpec) -> &'s str {
    let mut routes = settled.router.routes().filter(|route| Some(route.upstream) == index);
    let exact = routes.find(|route| !route.host.starts_with('*')).map(|route| &*route.host);
    exact.unwrap_or_else(|| spec.tls.as_ref().map_or("localhost", |tls| tls.sni.as_str()))
}

/// The addresses of a server that take a connection.
async fn addresses(server: &Server, spec: &UpstreamSpec) -> anyhow::Result<Vec<SocketAddr>> {
    let limit: Duration = spec.connect_timeout.duration();
    let mut reached = Vec::new();
    let mut why = anyhow!("it has no address");
    for address in tokio::net::lookup_host(server.to_string()).await? {
        match tokio::time::timeout(limit, TcpStream::connect(address)).await {
            Ok(Ok(_connection)) => reached.push(address),
            Ok(Err(error)) => why = error.into(),
            Err(_) => why = anyhow!("no connection in {}", spec.connect_timeout),
        }
    }
    if reached.is_empty() { Err(why) } else { Ok(reached) }
}

fn shown(server: &Server, address: SocketAddr) -> String {
    match server {
        Server::Address(address) => address.to_string(),
        Server::Name { .. } => format!("{server} ({})", address.ip()),
    }
}

fn report(server: &str, findings: &Findings, counts: &mut Counts) -> anyhow::Result<()> {
    let Findings { stranger, good, verdicts } = findings;
    say(&match stranger {
        Answer::Status(_) => format!("{server}: it can be reached around the gateway ({stranger})"),
        Answer::Nothing(_) => format!("{server}: it tells nothing to whoever is not the gateway ({stranger})"),
    })?;
    say(&format!("{server}: a request as the gateway sends them: {good}"))?;
    for (check, verdict, answer) in verdicts {
        let (count, line) = match verdict {
            Verdict::Refused => (&mut counts.refused, format!("refused: {check} ({answer})")),
            Verdict::LetIn => (&mut counts.let_in, format!("LET IN: {check} ({answer})")),
            Verdict::Unknown(why) => (&mut counts.unknown, format!("UNKNOWN: {check} ({answer}): {why}")),
        };
        *count = count.saturating_add(1);
        say(&format!("{server}: {line}"))?;
    }
    Ok(())
}

impl Counts {
    /// One that was let in is worse than any that could not be told.
    fn exit(&self) -> ExitCode {
        match (self.let_in, self.unknown, self.refused) {
            (1.., _, _) => ExitCode::from(1),
            (0, 0, 1..) => ExitCode::SUCCESS,
            (0, 1.., _) | (0, 0, 0) => ExitCode::from(2),
        }
    }
}
