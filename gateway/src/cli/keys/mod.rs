//! `portcullis keys`: API keys in the file or the store that the gateway reads, and the public keys of assertions.

mod file;
mod store;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, Subcommand};
use portcullis_api::{Cidrs, Clock, Environment, Millis, Role, Scope, Secret, SecretRef, TenantId};
use portcullis_plugins::authentication::{self, Filters, IssueRequest, Issued, KeyKind, Peppers, RotateRequest};

use super::{key_sets, say};
use crate::{assertions, boot, clock::SystemClock};
use file::KeyFile;
use store::{Kept, kept, known_routes};

/// What to do with keys.
#[derive(Subcommand)]
pub(super) enum Keys {
    /// Make a key. It is printed once, and only its keyed hash is stored.
    Issue(Box<Issue>),
    /// List keys, without secrets.
    List {
        /// The file of key records.
        #[arg(long, conflicts_with = "config", required_unless_present = "config")]
        file: Option<PathBuf>,
        /// The configuration file of the gateway.
        #[arg(long, short)]
        config: Option<PathBuf>,
        /// Only those of this tenant, of a store.
        #[arg(long, requires = "config")]
        tenant: Option<String>,
    },
    /// Show one key of a store, without secrets, as JSON.
    Show {
        /// The configuration file of the gateway.
        #[arg(long, short)]
        config: PathBuf,
        /// The key's id: the 12 characters after the environment.
        id: String,
    },
    /// Make the successor of a key of a store. The key itself goes on for a while.
    Rotate {
        /// The configuration file of the gateway.
        #[arg(long, short)]
        config: PathBuf,
        /// How long the old key goes on, at most 30d.
        #[arg(long, default_value = "24h")]
        overlap: String,
        /// How long the new key is valid, at most 365d; as long as the old one was when not given.
        #[arg(long)]
        expires: Option<String>,
        /// Who asks for it; the user of this shell when not given.
        #[arg(long)]
        by: Option<String>,
        /// The key's id.
        id: String,
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
    /// Revoke a key. The gateway hears of it within about a second.
    Revoke {
        #[command(flatten)]
        place: Place,
        /// The key's id: the 12 characters after the environment.
        id: String,
    },
}

/// Where the keys are.
#[derive(Args)]
pub(super) struct Place {
    /// The file of key records; made when it does not exist.
    #[arg(long, requires = "pepper", conflicts_with = "config", required_unless_present = "config")]
    file: Option<PathBuf>,
    /// The secret that keys the hashes, `file:PATH` or `env:NAME`.
    #[arg(long, requires = "file")]
    pepper: Option<String>,
    /// The configuration file of the gateway, which names the file or the store, and the pepper.
    #[arg(long, short)]
    config: Option<PathBuf>,
}

/// A key to be made.
#[derive(Args)]
pub(super) struct Issue {
    #[command(flatten)]
    place: Place,
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
    /// A name for people; of a store, one that no other active key of the tenant has.
    #[arg(long)]
    name: Option<String>,
    /// What it is for, `service` or `embed`; a service when not given. An embed key has filters and no role above viewer.
    #[arg(long)]
    kind: Option<String>,
    /// A term that what its holder sees must fulfil, as JSON, e.g. `{"f":"region","op":"in","v":["eu"]}`; may be given
    /// several times, and all must hold.
    #[arg(long = "filter", conflicts_with = "filters_file")]
    filters: Vec<String>,
    /// A file of such filters, `{"v":1,"all":[…]}`.
    #[arg(long)]
    filters_file: Option<PathBuf>,
    /// A network that it may be used from; may be given several times. From anywhere when not given.
    #[arg(long = "cidr")]
    cidrs: Vec<String>,
    /// A route that it may be used for, `host/route`; may be given several times. For all when not given.
    #[arg(long = "route")]
    routes: Vec<String>,
    /// Who asks for it; of a store, the user of this shell when not given.
    #[arg(long)]
    by: Option<String>,
    /// The first part of the key; the configuration's when that is given.
    #[arg(long, conflicts_with = "config")]
    brand: Option<String>,
}

impl Keys {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let now = SystemClock::start().unix();
        match self {
            Self::Issue(issue) => issue.run(),
            Self::List { file, config, tenant } => {
                let lines = match (file, config) {
                    (Some(file), None) => file::list(&file, now)?,
                    (None, Some(config)) => match (kept(&config)?.0, tenant) {
                        (Kept::File(file), None) => file::list(&file.path, now)?,
                        (Kept::File(_), Some(_)) => {
                            bail!("--tenant is for a store, and {} has a file", config.display())
                        }
                        (Kept::Store(store), tenant) => store.list(tenant.as_deref(), now)?,
                    },
                    _ => bail!("give --file or --config"),
                };
                lines.iter().try_for_each(|line| say(line))
            }
            Self::Show { config, id } => {
                let shown = of_store(&config)?.show(&id, now)?;
                say(&serde_json::to_string_pretty(&shown)?)
            }
            Self::Rotate { config, overlap, expires, by, id } => {
                let request = RotateRequest {
                    overlap_s: Some(seconds(&overlap)?),
                    lifetime_s: expires.as_deref().map(seconds).transpose()?,
                    created_by: by.or_else(user),
                };
                say(&of_store(&config)?.rotate(&id, request, now)?)
            }
            Self::Jwks { config } => {
                let (_, settled) = boot::read(&config)?;
                let spec = settled.assertion.ok_or_else(|| anyhow!("{} has no [assertion]", config.display()))?;
                say(&assertions::published(&spec))
            }
            Self::Status { config } => key_sets::status(&config),
            Self::Refresh { issuer, config } => key_sets::refresh(&config, &issuer),
            Self::Revoke { place, id } => {
                // Any will do for a file: keys begin with it, and no record has it.
                match place.kept("pck")?.0 {
                    Kept::File(file) => file.revoke(&id, now)?,
                    Kept::Store(store) => store.revoke(&id, now)?,
                }
                say(&format!("{id} is revoked"))
            }
        }
    }
}

impl Place {
    fn kept(&self, brand: &str) -> anyhow::Result<(Kept, Option<portcullis_config::Settled>)> {
        match (&self.file, &self.pepper, &self.config) {
            (Some(path), Some(pepper), None) => {
                let peppers = Peppers::new(&secret(pepper)?, &[])?;
                let brand = Environment::parse(brand)?;
                Ok((Kept::File(KeyFile { path: path.clone(), peppers, brand }), None))
            }
            (None, None, Some(config)) => kept(config).map(|(kept, settled)| (kept, Some(settled))),
            _ => bail!("give --file and --pepper, or --config"),
        }
    }
}

impl Issue {
    fn run(self) -> anyhow::Result<()> {
        let role = match &self.role {
            None => None,
            Some(name) => Some(
                Role::named(name).ok_or_else(|| anyhow!("`{name}` is no role: viewer, developer, admin or owner"))?,
            ),
        };
        let (kept, settled) = self.place.kept(self.brand.as_deref().unwrap_or("pck"))?;
        let (brand, by) = match (&kept, settled.as_ref().and_then(|settled| settled.api_keys.as_ref())) {
            (Kept::File(file), _) => (file.brand.clone(), self.by),
            (Kept::Store(_), Some(spec)) => (spec.brand.clone(), self.by.or_else(user)),
            (Kept::Store(_), None) => bail!("a store is named by a configuration"),
        };
        if let Some(settled) = &settled {
            known_routes(&self.routes, settled)?;
        }
        let kind = match &self.kind {
            None => None,
            Some(name) => Some(KeyKind::named(name).ok_or_else(|| anyhow!("`{name}` is no kind: service or embed"))?),
        };
        let filters = filters(&self.filters, self.filters_file.as_deref())?;
        let cidrs = serde_json::from_value::<Cidrs>(serde_json::json!(self.cidrs))?;
        let request = IssueRequest {
            brand,
            environment: Environment::parse(&self.env)?,
            tenant: TenantId::parse(&self.tenant)?,
            role,
            scopes: self.scopes.iter().map(|scope| Scope::parse(scope)).collect::<Result<_, _>>()?,
            name: self.name,
            lifetime_s: Some(seconds(&self.expires)?),
            cidrs: (!self.cidrs.is_empty()).then_some(cidrs),
            routes: (!self.routes.is_empty()).then_some(self.routes),
            created_by: by,
            kind,
            filters,
        };
        match kept {
            Kept::File(file) => say(&file.issue(request)?),
            Kept::Store(store) => say(&store.issue(request, SystemClock::start().unix())?),
        }
    }
}

/// The terms of the command line or of a file.
fn filters(terms: &[String], file: Option<&Path>) -> anyhow::Result<Option<Filters>> {
    if let Some(file) = file {
        let text = std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
        return Ok(Some(Filters::parse(&text).with_context(|| file.display().to_string())?));
    }
    let mut all: Option<Filters> = None;
    for text in terms {
        let term = Filters::term(text.as_bytes()).with_context(|| text.escape_default().to_string())?;
        all = Some(match all {
            None => term,
            Some(all) => all.and(&term)?,
        });
    }
    Ok(all)
}

fn of_store(config: &Path) -> anyhow::Result<store::KeyStore> {
    match kept(config)?.0 {
        Kept::Store(store) => Ok(*store),
        Kept::File(_) => bail!("{} keeps its API keys in a file: this is for a store", config.display()),
    }
}

/// Who runs this, as far as the shell says; only for the record.
fn user() -> Option<String> {
    ["LOGNAME", "USER"].iter().find_map(|name| std::env::var(name).ok()).filter(|name| !name.is_empty())
}

fn seconds(text: &str) -> anyhow::Result<u64> {
    Millis::parse(text).map(Millis::as_secs_ceil).map_err(|why| anyhow!(why))
}

/// A key of the system's randomness, from now on.
pub(crate) fn issue(request: IssueRequest, peppers: &Peppers) -> anyhow::Result<Issued> {
    let mut filled = Ok(());
    let mut entropy = |bytes: &mut [u8]| {
        if let Err(error) = random(bytes) {
            filled = Err(error);
        }
    };
    let issued = authentication::issue(request, peppers, &mut entropy, SystemClock::start().unix());
    filled.and(issued.map_err(Into::into))
}

/// Fills with the system's randomness.
pub(crate) fn random(bytes: &mut [u8]) -> anyhow::Result<()> {
    aws_lc_rs::rand::fill(bytes).map_err(|_| anyhow!("no randomness from the system"))
}

/// Reads a secret that is named on the command line.
pub(super) fn secret(reference: &str) -> anyhow::Result<Secret> {
    let reference: SecretRef = serde_json::from_value(serde_json::Value::String(reference.to_owned()))?;
    portcullis_config::secret(&reference, Path::new(".")).map_err(|why| anyhow!(why))
}
