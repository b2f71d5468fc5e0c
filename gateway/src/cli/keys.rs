//! `portcullis keys`: API keys in the file that the gateway reads, and the public keys of assertions.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, bail};
use clap::{Args, Subcommand};
use portcullis_api::{Clock, Environment, Millis, Role, Scope, Secret, SecretRef, TenantId};
use portcullis_plugins::authentication::{self, IssueRequest, Issued};

use super::{key_sets, say};
use crate::{assertions, boot, clock::SystemClock};

/// What to do with keys.
#[derive(Subcommand)]
pub(super) enum Keys {
    /// Make a key. It is printed once, and only its keyed hash is stored.
    Issue(Issue),
    /// List the keys of a file, without secrets.
    List {
        /// The file of key records.
        #[arg(long)]
        file: PathBuf,
    },
    /// Print the key set that verifies assertions, for apps that cannot ask the admin listener.
    Jwks {
        /// The configuration file.
        #[arg(long, short)]
        config: PathBuf,
    },
    /// Show how the issuers' keys of a running gateway stand: age, names, next fetch, last error.
    Status {
        /// The configuration file of the running gateway.
        #[arg(long, short)]
        config: PathBuf,
    },
    /// Have an issuer's keys fetched or read now.
    Refresh {
        /// The issuer's name in the configuration.
        issuer: String,
        /// The configuration file of the running gateway.
        #[arg(long, short)]
        config: PathBuf,
    },
    /// Revoke a key. The gateway reads the file again within a second.
    Revoke {
        /// The file of key records.
        #[arg(long)]
        file: PathBuf,
        /// The secret that keys the hashes, `file:PATH` or `env:NAME`.
        #[arg(long)]
        pepper: String,
        /// The key's id: the 12 characters after the environment.
        id: String,
    },
}

/// A key to be made.
#[derive(Args)]
pub(super) struct Issue {
    /// The file of key records; made when it does not exist.
    #[arg(long)]
    file: PathBuf,
    /// The secret that keys the hashes, `file:PATH` or `env:NAME`.
    #[arg(long)]
    pepper: String,
    /// The tenant it acts for.
    #[arg(long)]
    tenant: String,
    /// The environment it works in.
    #[arg(long, default_value = "live")]
    env: String,
    /// A scope; may be given several times.
    #[arg(long = "scope")]
    scopes: Vec<String>,
    /// viewer, developer, admin or owner.
    #[arg(long)]
    role: Option<String>,
    /// How long it is valid, at most 365d.
    #[arg(long, default_value = "90d")]
    expires: String,
    /// A name for people.
    #[arg(long)]
    name: Option<String>,
    /// The first part of the key.
    #[arg(long, default_value = "pck")]
    brand: String,
}

impl Keys {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Issue(issue) => issue.run(),
            Self::List { file } => {
                let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
                for line in authentication::list_records(&text, SystemClock::start().unix())
                    .map_err(|error| anyhow!("{}: {error}", file.display()))?
                {
                    say(&line)?;
                }
                Ok(())
            }
            Self::Jwks { config } => {
                let (_, settled) = boot::read(&config)?;
                let spec = settled.assertion.ok_or_else(|| anyhow!("{} has no [assertion]", config.display()))?;
                say(&assertions::published(&spec))
            }
            Self::Status { config } => key_sets::status(&config),
            Self::Refresh { issuer, config } => key_sets::refresh(&config, &issuer),
            Self::Revoke { file, pepper, id } => {
                let pepper = secret(&pepper)?;
                let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
                let now = SystemClock::start().unix();
                let next = authentication::revoke_record(&text, &id, &pepper, now)
                    .map_err(|error| anyhow!("{}: {error}", file.display()))?;
                // Any will do: keys begin with it, and no record has it.
                let brand = Environment::parse("pck")?;
                replace(&file, &sealed(next, &pepper, &brand, &file)?)?;
                say(&format!("{id} is revoked"))
            }
        }
    }
}

impl Issue {
    fn run(self) -> anyhow::Result<()> {
        let pepper = secret(&self.pepper)?;
        let role = match &self.role {
            None => None,
            Some(name) => Some(
                Role::named(name).ok_or_else(|| anyhow!("`{name}` is no role: viewer, developer, admin or owner"))?,
            ),
        };
        let expires = Millis::parse(&self.expires).map_err(|why| anyhow!(why))?;
        let request = IssueRequest {
            brand: Environment::parse(&self.brand)?,
            environment: Environment::parse(&self.env)?,
            tenant: TenantId::parse(&self.tenant)?,
            role,
            scopes: self.scopes.iter().map(|scope| Scope::parse(scope)).collect::<Result<_, _>>()?,
            name: self.name,
            lifetime_s: Some(expires.as_secs_ceil()),
        };
        let issued = issue(request, &pepper)?;
        let text = match fs::read_to_string(&self.file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(|| self.file.display().to_string()),
        };
        let next = authentication::add_record(&text, &issued.record)
            .map_err(|error| anyhow!("{}: {error}", self.file.display()))?;
        replace(&self.file, &sealed(next, &pepper, &Environment::parse(&self.brand)?, &self.file)?)?;
        say(&issued.key)
    }
}

/// The text, if the gateway would read all of it under this pepper: with one record of another pepper among them it would
/// refuse the file, and go on with the keys it has, revoked ones among them.
fn sealed(next: String, pepper: &Secret, brand: &Environment, file: &Path) -> anyhow::Result<String> {
    match authentication::ApiKeyTable::parse(next.as_bytes(), pepper, brand) {
        Ok(_) => Ok(next),
        Err(why) => bail!("{} stays as it is, because the gateway would refuse it: {why}", file.display()),
    }
}

/// A key of the system's randomness, from now on.
pub(crate) fn issue(request: IssueRequest, pepper: &Secret) -> anyhow::Result<Issued> {
    let mut filled = Ok(());
    let mut entropy = |bytes: &mut [u8]| {
        if let Err(error) = random(bytes) {
            filled = Err(error);
        }
    };
    let issued = authentication::issue(request, pepper, &mut entropy, SystemClock::start().unix());
    filled.and(issued.map_err(Into::into))
}

/// Fills with the system's randomness.
pub(crate) fn random(bytes: &mut [u8]) -> anyhow::Result<()> {
    aws_lc_rs::rand::fill(bytes).map_err(|_| anyhow!("no randomness from the system"))
}

/// Writes beside the file and renames, so that a reader sees the old text or the new one. Owner, group and mode stay:
/// a gateway that could not read the file any more would go on with the keys it has, revoked ones among them.
fn replace(file: &Path, text: &str) -> anyhow::Result<()> {
    let beside = file.with_extension("next");
    write_beside(file, &beside, text)?;
    fs::rename(&beside, file).with_context(|| file.display().to_string())
}

fn write_beside(file: &Path, beside: &Path, text: &str) -> anyhow::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
    let before = match fs::metadata(file) {
        Ok(before) => Some(before),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| file.display().to_string()),
    };
    let mut next = match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(beside) {
        Ok(next) => next,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            bail!(
                "{} is there: another command is writing the keys, or one was broken off; then remove it",
                beside.display()
            )
        }
        Err(error) => return Err(error).with_context(|| format!("{}: does its folder exist?", beside.display())),
    };
    if let Some(before) = before {
        fchown(&next, Some(before.uid()), Some(before.gid())).with_context(|| {
            format!("{}: its owner cannot be kept; run this as that owner or as root", file.display())
        })?;
        next.set_permissions(fs::Permissions::from_mode(before.mode() & 0o7777))?;
    }
    next.write_all(text.as_bytes())?;
    next.sync_all()?;
    Ok(())
}

pub(super) fn secret(reference: &str) -> anyhow::Result<Secret> {
    let reference: SecretRef = serde_json::from_value(serde_json::Value::String(reference.to_owned()))?;
    portcullis_config::secret(&reference, Path::new(".")).map_err(|why| anyhow!(why))
}
