//! `portcullis agents`: the authority of agents, and certificates from it.

use std::{
    fs::{self, OpenOptions},
    io::{Read as _, Write as _, stdin},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use clap::Subcommand;
use portcullis_api::TenantId;
use portcullis_plugins::authentication::{AgentName, UriPattern};
use time::OffsetDateTime;

use super::say;
use crate::{
    agents::{Authority, LIFETIME, Made, make},
    boot,
};

/// More than any file that is read here has.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// What to do with agents.
#[derive(Subcommand)]
pub(super) enum Agents {
    /// Make an authority: a root, to be kept away from every machine, and an issuing key.
    Init {
        /// The folder of the root and its key, e.g. on a medium that is then put away. It is made.
        #[arg(long)]
        root: PathBuf,
        /// The folder of the issuing certificate, its key, and the root's certificate for `ca`. It is made.
        #[arg(long)]
        issuing: PathBuf,
        /// Whose authority it is, as in the subjects of its certificates.
        #[arg(long, default_value = "portcullis")]
        name: String,
    },
    /// Sign an agent's key for 24 hours: prints its certificate and the issuing one.
    Sign {
        /// The folder of the issuing certificate and key.
        #[arg(long)]
        issuing: PathBuf,
        /// The tenant it acts for.
        #[arg(long)]
        tenant: String,
        /// Its name.
        #[arg(long)]
        agent: String,
        /// The file of its signing request (PKCS #10, PEM), `-` for standard input. Only its key is taken.
        #[arg(long)]
        request: PathBuf,
        /// The configuration file: the name is written as its listener reads it.
        #[arg(long, short)]
        config: PathBuf,
        /// The listener; the one that has `uri` when not given.
        #[arg(long)]
        listener: Option<String>,
    },
}

impl Agents {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Init { root, issuing, name } => init(&root, &issuing, &name),
            Self::Sign { issuing, tenant, agent, request, config, listener } => {
                let pattern = pattern(&config, listener.as_deref())?;
                let (tenant, agent) = (TenantId::parse(&tenant)?, AgentName::parse(&agent)?);
                let read = |name: &str| read(&issuing.join(name));
                let authority = Authority::read(&read("issuing.pem")?, &read("issuing.key")?)?;
                let request = read_request(&request)?;
                let chain = authority.sign(&request, (&pattern, &tenant, &agent), OffsetDateTime::now_utc())?;
                say(chain.trim_end())
            }
        }
    }
}

fn init(root: &Path, issuing: &Path, name: &str) -> anyhow::Result<()> {
    if name.is_empty() || name.len() > 40 || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        bail!("a name is 1 to 40 visible ASCII characters");
    }
    // Both or none: a folder that is there has something in it that would be mixed up with this.
    if let Some(taken) = [root, issuing].into_iter().find(|folder| folder.exists()) {
        bail!("{} cannot be made: it is there already", taken.display());
    }
    for folder in [root, issuing] {
        let made = fs::DirBuilder::new().mode(0o700).create(folder);
        made.with_context(|| format!("{} cannot be made", folder.display()))?;
    }
    let Made { root: root_pem, root_key, issuing: issuing_pem, issuing_key } = make(name, OffsetDateTime::now_utc())?;
    write(&root.join("root.key"), &root_key, 0o600)?;
    write(&root.join("root.pem"), &root_pem, 0o644)?;
    write(&issuing.join("issuing.key"), &issuing_key, 0o600)?;
    write(&issuing.join("issuing.pem"), &issuing_pem, 0o644)?;
    write(&issuing.join("root.pem"), &root_pem, 0o644)?;
    say(&format!("put {} away: only a new issuing certificate needs it", root.display()))?;
    say(&format!("write ca = \"{}\" in [listeners.NAME.client_certificates]", issuing.join("root.pem").display()))?;
    say(&format!(
        "sign for {} h with: portcullis agents sign --issuing {} …",
        LIFETIME.whole_hours(),
        issuing.display()
    ))
}

fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(mode).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.with_context(|| format!("{} could not be written", path.display()))
}

fn read(path: &Path) -> anyhow::Result<String> {
    let file = fs::File::open(path).with_context(|| path.display().to_string())?;
    text(file).with_context(|| path.display().to_string())
}

fn read_request(path: &Path) -> anyhow::Result<String> {
    if path == Path::new("-") { text(stdin().lock()).context("standard input") } else { read(path) }
}

fn text(from: impl std::io::Read) -> anyhow::Result<String> {
    let mut text = String::new();
    from.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// How a listener reads names. Two that read them in different ways must be told apart.
fn pattern(config: &Path, listener: Option<&str>) -> anyhow::Result<UriPattern> {
    let (document, _settled) = boot::read(config)?;
    let mut patterns = document.listeners.iter().filter_map(|(name, settings)| {
        let uri = settings.client_certificates.as_ref()?.uri.as_ref()?;
        listener.is_none_or(|listener| listener == name).then(|| uri.value.clone())
    });
    let first = patterns.next().context("no such listener has `uri` in its [client_certificates]")?;
    if patterns.any(|other| other != first) {
        bail!("listeners have different `uri`: name one with --listener");
    }
    Ok(first)
}
