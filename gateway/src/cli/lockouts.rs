//! `portcullis lockouts`: the locks that failed logins began, asked of a running gateway over its admin listener.

use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, Subcommand};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use serde_json::Value;

use super::{operator::ask, say};

/// What to do with locks.
#[derive(Subcommand)]
pub(super) enum Lockouts {
    /// List what is locked, after how many failures, and for how long.
    List {
        /// The configuration file of the running gateway.
        #[arg(long, short)]
        config: PathBuf,
    },
    /// Lift a lock, or all of an account.
    Lift(Lift),
}

/// What is lifted.
#[derive(Args)]
pub(super) struct Lift {
    /// The lock as it is listed, or the address of a network.
    #[arg(required_unless_present = "account", conflicts_with = "account")]
    lock: Option<String>,
    /// An account, as people write it: its own lock and those of it from a network.
    #[arg(long, requires = "realm")]
    account: Option<String>,
    /// Where that is an account: the tenant of the host of the login, or the host where it has none.
    #[arg(long = "in", id = "realm", requires = "account")]
    realm: Option<String>,
    /// The configuration file of the running gateway.
    #[arg(long, short)]
    config: PathBuf,
}

impl Lockouts {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::List { config } => {
                let answer = ask(&config, Method::GET, "lockouts")?;
                let locks = answer.get("lockouts").and_then(Value::as_array).cloned().unwrap_or_default();
                if locks.is_empty() {
                    return say("nothing is locked");
                }
                for lock in locks {
                    let text = |name: &str| lock.get(name).map(Value::to_string).unwrap_or_default();
                    say(&format!(
                        "{} {} {} failures, {}s left",
                        text("lock").trim_matches('"'),
                        text("scope").trim_matches('"'),
                        text("failures"),
                        text("remaining_s")
                    ))?;
                }
                Ok(())
            }
            Self::Lift(lift) => lift.run(),
        }
    }
}

impl Lift {
    fn run(self) -> anyhow::Result<()> {
        let Self { lock, account, realm, config } = self;
        let (path, what) = match (lock, account, realm) {
            (Some(lock), None, None) => {
                if !lock.bytes().all(|c| c.is_ascii_hexdigit() || matches!(c, b'.' | b':')) {
                    bail!("`{}` is no address and no listed lock", lock.escape_default());
                }
                (format!("lockouts/{lock}"), lock)
            }
            (None, Some(account), Some(realm)) => {
                let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
                (format!("lockouts?in={}&account={}", encoded(&realm), encoded(&account)), account)
            }
            _ => bail!("give a lock, or --account and --in"),
        };
        ask(&config, Method::DELETE, &path)?;
        say(&format!("{} is no longer locked", what.escape_debug()))
    }
}
