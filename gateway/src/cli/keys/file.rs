//! API keys in a file: text in, text out, and the gateway never sees half of it.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, bail};
use portcullis_api::{Environment, UnixSeconds};
use portcullis_plugins::authentication::{self, ApiKeyTable, IssueRequest, Peppers};

/// A file of key records.
pub(super) struct KeyFile {
    pub(super) path: PathBuf,
    pub(super) peppers: Peppers,
    pub(super) brand: Environment,
}

impl KeyFile {
    /// Issues a key and answers with it.
    pub(super) fn issue(&self, request: IssueRequest) -> anyhow::Result<String> {
        let issued = super::issue(request, &self.peppers)?;
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(|| self.path.display().to_string()),
        };
        let next = authentication::add_record(&text, &issued.record).map_err(|error| self.wrong(&error))?;
        replace(&self.path, &self.sealed(next)?)?;
        Ok(issued.key.to_string())
    }

    pub(super) fn revoke(&self, id: &str, now: UnixSeconds) -> anyhow::Result<()> {
        let text = fs::read_to_string(&self.path).with_context(|| self.path.display().to_string())?;
        let next = authentication::revoke_record(&text, id, &self.peppers, now).map_err(|error| self.wrong(&error))?;
        replace(&self.path, &self.sealed(next)?)
    }

    fn wrong(&self, error: &authentication::ApiKeyFileError) -> anyhow::Error {
        anyhow!("{}: {error}", self.path.display())
    }

    /// The text, if the gateway would read all of it under this pepper: with one record of another pepper among them it
    /// would refuse the file, and go on with the keys it has, revoked ones among them.
    fn sealed(&self, next: String) -> anyhow::Result<String> {
        match ApiKeyTable::parse(next.as_bytes(), &self.peppers, &self.brand) {
            Ok(_) => Ok(next),
            Err(why) => {
                bail!("{} stays as it is, because the gateway would refuse it: {why}", self.path.display())
            }
        }
    }
}

/// The keys of a file, one a line.
pub(super) fn list(path: &Path, now: UnixSeconds) -> anyhow::Result<Vec<String>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    authentication::list_records(&text, now).map_err(|error| anyhow!("{}: {error}", path.display()))
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
