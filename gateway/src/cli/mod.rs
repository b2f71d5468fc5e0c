//! The command line: `run`, `check`, `keys`, `agents`, `bans`, `lockouts`, `revoke`, `revocations`, `limits`, `explain`, `doctor`, `reference`, `demo`.

mod agents;
mod doctor;
mod key_sets;
pub(crate) mod keys;
mod limits;
mod lockouts;
mod operator;
mod reference;
mod revocations;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Parser, Subcommand};

use crate::{boot, demo, revocations as revoking, run};

/// A reverse-proxy security gateway that cannot fail open in silence and can explain every decision.
#[derive(Parser)]
#[command(name = "portcullis", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway.
    Run {
        /// The configuration file.
        #[arg(long, short)]
        config: PathBuf,
        /// Worker threads of each listener; the number of cores when not given.
        #[arg(long)]
        threads: Option<usize>,
        /// Seconds that open requests may go on after SIGTERM.
        #[arg(long, default_value_t = 5)]
        grace: u64,
    },
    /// Check a configuration and say everything that is wrong with it.
    Check {
        /// The configuration file.
        #[arg(long, short)]
        config: PathBuf,
    },
    /// Issue, list and revoke API keys; print the key set of assertions; show and fetch the keys of issuers.
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Make the authority of agents, and sign their certificates.
    #[command(subcommand)]
    Agents(agents::Agents),
    /// List and lift the blocks of clients.
    #[command(subcommand)]
    Bans(operator::Bans),
    /// List and lift the locks that failed logins began.
    #[command(subcommand)]
    Lockouts(lockouts::Lockouts),
    /// Revoke a token, a session, a subject, a tenant, an API key, a signing key, an issuer or a client certificate.
    Revoke(revocations::Revoke),
    /// List what is revoked.
    #[command(subcommand)]
    Revocations(revocations::Revocations),
    /// Suggest limits from access logs; show and fill their buckets.
    #[command(subcommand)]
    Limits(limits::Limits),
    /// Say why a request was refused, from its request id.
    Explain(operator::Explain),
    /// Ask what is around the gateway whether it relies on the gateway.
    #[command(subcommand)]
    Doctor(doctor::Doctor),
    /// Print the generated reference.
    Reference(reference::Reference),
    /// Run a gateway with embedded defaults and show it working.
    Demo(demo::Demo),
}

/// Parses the arguments and runs the command.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // Pingora would otherwise install another provider, without post-quantum key exchange. An error means that one is
    // installed already, and nothing before this line installs one.
    let _first = rustls::crypto::aws_lc_rs::default_provider().install_default();
    if let Err(error) = tracing_setup() {
        return fail(&error);
    }
    let result = match cli.command {
        Command::Run { config, threads, grace } => {
            let threads =
                threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
            run::run(&config, run::Options { threads, grace_s: grace })
        }
        Command::Check { config } => check(&config),
        Command::Keys(keys) => keys.run(),
        Command::Agents(agents) => agents.run(),
        Command::Bans(bans) => bans.run(),
        Command::Lockouts(lockouts) => lockouts.run(),
        Command::Revoke(revoke) => revoke.run(),
        Command::Revocations(revocations) => revocations.run(),
        Command::Limits(limits) => limits.run(),
        Command::Explain(explain) => explain.run(),
        Command::Doctor(doctor) => {
            return doctor.run().unwrap_or_else(|error| {
                fail(&error);
                ExitCode::from(2)
            });
        }
        Command::Reference(reference) => reference.run(),
        Command::Demo(demo) => demo.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    let mut stderr = io::stderr().lock();
    // A closed standard error leaves nobody to tell.
    let _told = match error.downcast_ref::<portcullis_config::Report>() {
        Some(report) => writeln!(stderr, "{}", report.excerpts(terminal_width())),
        None => writeln!(stderr, "error: {error:#}"),
    };
    ExitCode::FAILURE
}

/// Wide enough for most messages, and what terminals show.
const fn terminal_width() -> usize {
    100
}

fn check(config: &std::path::Path) -> anyhow::Result<()> {
    let (document, settled) = boot::read(config)?;
    boot::read_keys(&settled)?;
    if let Some(journal) = &settled.revocations {
        revoking::check(journal)?;
    }
    let shared_by = match settled.stores.counters {
        portcullis_config::Counters::Memory => None,
        portcullis_config::Counters::Redis(_) => Some(settled.stores.instances),
    };
    for note in portcullis_plugins::controls::notes(&portcullis_config::control_inputs(&document), shared_by) {
        say(&format!("{}: note: {note}", config.display()))?;
    }
    for upstream in settled.upstreams.iter().filter(|upstream| !is_proved_to(upstream) && is_elsewhere(upstream)) {
        say(&format!(
            "{}: note: upstream `{}` is on other machines and gets no `assertion`, no `signature` and no `client_certificate`: it has to trust whoever can reach it",
            config.display(),
            upstream.name
        ))?;
    }
    if shared_by.is_some_and(|gateways| gateways.get() == 1) {
        say(&format!(
            "{}: note: `stores.instances` is 1: a gateway that has not heard yet how many there are, as after a start while the \
             store is away, enforces every limit whole",
            config.display()
        ))?;
    }
    // Tenants are made by identities, so a name that nobody has is no mistake that could be found: it is shown.
    let tenants: Vec<&str> = settled.tenants.iter().map(portcullis_api::TenantId::as_str).collect();
    say(&format!(
        "{}: in order; listeners: {}, hosts: {}, routes: {}, upstreams: {}, tenants named: {}",
        config.display(),
        settled.listeners.len(),
        settled.router.hosts().len(),
        settled.router.routes().count(),
        settled.upstreams.len(),
        if tenants.is_empty() { "none".to_owned() } else { tenants.join(" ") }
    ))
}

/// Whether an upstream is given anything to tell the gateway's requests from others'.
fn is_proved_to(upstream: &portcullis_config::UpstreamSpec) -> bool {
    upstream.assertion.is_some()
        || upstream.signature.is_some()
        || upstream.tls.as_ref().is_some_and(|tls| tls.client_certificate.is_some())
}

/// Whether a server is not on this machine, as far as the configuration tells.
fn is_elsewhere(upstream: &portcullis_config::UpstreamSpec) -> bool {
    upstream.servers.iter().any(|server| match server {
        portcullis_config::Server::Address(address) => !address.ip().is_loopback(),
        portcullis_config::Server::Name { host, .. } => host != "localhost",
    })
}

/// Writes a line to standard output.
pub(crate) fn say(line: &str) -> anyhow::Result<()> {
    writeln!(io::stdout().lock(), "{line}").map_err(Into::into)
}

/// The system log: JSON lines on standard error. `PORTCULLIS_LOG` chooses what, e.g. `info` or `debug`.
fn tracing_setup() -> anyhow::Result<()> {
    use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};
    let filter = EnvFilter::try_from_env("PORTCULLIS_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,pingora_core=warn,pingora_proxy=error,pingora_load_balancing=warn"));
    tracing_subscriber::registry()
        .with(filter)
        .with(fmt::layer().json().flatten_event(true).with_target(false).with_writer(io::stderr))
        .try_init()
        .map_err(Into::into)
}
