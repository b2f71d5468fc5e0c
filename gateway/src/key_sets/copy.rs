//! The last good key set of an issuer on disk, for a start while the issuer is away.
//!
//! Invariant: what is read is judged like what is fetched, and is as old as it was when it was fetched. A copy of another
//! source, of the future, or one that others could have written says nothing.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    time::Duration,
};

use portcullis_api::UnixSeconds;
use portcullis_config::{IssuerSpec, KeySource};
use serde::{Deserialize, Serialize};

/// More than a key set takes, when each of its bytes is escaped.
const BYTES_MAX: u64 = 2 << 20;
/// How far a copy may seem to come from the future: clocks are set.
const AHEAD_MAX_S: u64 = 60;
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Copy {
    version: u32,
    /// The `iss` and the URL that it is of.
    issuer: String,
    source: String,
    /// In seconds since 1970.
    fetched: UnixSeconds,
    /// As it came.
    key_set: String,
}

/// A copy that may be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) bytes: Vec<u8>,
    pub(super) age: Duration,
}

/// The URL that keys come from.
fn source(spec: &IssuerSpec) -> Option<&str> {
    match &spec.keys {
        KeySource::JwksUrl(url) | KeySource::Discovery(url) => Some(url),
        KeySource::JwksFile(_) | KeySource::Secret(_) | KeySource::Own { .. } => None,
    }
}

/// Writes the copy anew: a reader sees the old one or the new one.
///
/// # Errors
/// When the disk does not take it.
pub(super) fn write(spec: &IssuerSpec, bytes: &[u8], now: UnixSeconds) -> io::Result<()> {
    let (Some(path), Some(source)) = (&spec.copy, source(spec)) else { return Ok(()) };
    let key_set = String::from_utf8(bytes.to_vec()).map_err(io::Error::other)?;
    let (issuer, source) = (spec.issuer.clone(), source.to_owned());
    let text = serde_json::to_vec(&Copy { version: VERSION, issuer, source, fetched: now, key_set })?;
    let beside = path.with_extension("next");
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&beside)?;
    // One that was left by a crash could have another mode.
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// Reads the copy; `None` where there is none.
///
/// # Errors
/// Why it is not used, for the operator.
pub(super) fn read(spec: &IssuerSpec, now: UnixSeconds) -> Result<Option<Kept>, String> {
    let (Some(path), Some(source)) = (&spec.copy, source(spec)) else { return Ok(None) };
    let text = match bytes(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let copy: Copy = serde_json::from_slice(&text).map_err(|error| format!("it is not as it was written: {error}"))?;
    if copy.version != VERSION {
        return Err(format!("it is of version {}", copy.version));
    }
    if copy.issuer != spec.issuer || copy.source != source {
        return Err("it is of another issuer or another source".to_owned());
    }
    let ahead = copy.fetched.saturating_sub(now);
    if ahead > AHEAD_MAX_S {
        return Err(format!("it is of the future, by {ahead} s"));
    }
    let age = Duration::from_secs(now.saturating_sub(copy.fetched));
    if age > spec.max_stale.duration() {
        return Err(format!("it is {} s old, more than max_stale {}", age.as_secs(), spec.max_stale));
    }
    Ok(Some(Kept { bytes: copy.key_set.into_bytes(), age }))
}

fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    let mode = metadata.permissions().mode() & 0o7777;
    if !metadata.is_file() || mode & 0o077 != 0 {
        return Err(io::Error::other(format!("it is no file of its owner alone (mode {mode:o})")));
    }
    let mut bytes = Vec::new();
    file.take(BYTES_MAX.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > BYTES_MAX) {
        return Err(io::Error::other(format!("it has more than {BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use portcullis_api::{Cidrs, Millis};

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn spec(folder: &Path) -> IssuerSpec {
        IssuerSpec {
            issuer: "https://id.example.com".into(),
            keys: KeySource::JwksUrl("https://id.example.com/keys".into()),
            algorithms: Vec::new(),
            private_networks: Cidrs::default(),
            max_stale: Millis::from_secs(3600),
            copy: Some(folder.join("main.json")),
        }
    }

    #[test]
    fn what_was_written_is_read_with_its_age_until_it_is_stale() {
        let folder = tempfile::tempdir().unwrap();
        let spec = spec(folder.path());
        assert_eq!(read(&spec, NOW), Ok(None));
        write(&spec, b"{\"keys\":[]}", NOW).unwrap();
        let kept = |age| Ok(Some(Kept { bytes: b"{\"keys\":[]}".to_vec(), age: Duration::from_secs(age) }));
        assert_eq!(read(&spec, NOW), kept(0));
        assert_eq!(read(&spec, NOW + 3600), kept(3600));
        assert!(read(&spec, NOW + 3601).unwrap_err().contains("max_stale"));
        assert_eq!(read(&spec, NOW - 60), kept(0));
        assert!(read(&spec, NOW - 61).unwrap_err().contains("future"));
        let mode = fs::metadata(spec.copy.as_ref().unwrap()).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        write(&spec, b"{\"keys\":[1]}", NOW + 5).unwrap();
        assert_eq!(read(&spec, NOW + 5).unwrap().unwrap().bytes, b"{\"keys\":[1]}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_copy_of_somebody_else_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let spec = spec(folder.path());
        write(&spec, b"{\"keys\":[]}", NOW).unwrap();
        let other = IssuerSpec { issuer: "https://id.example.com/".into(), ..spec.clone() };
        assert!(read(&other, NOW).is_err());
        let other = IssuerSpec { keys: KeySource::JwksUrl("https://id.example.com/other".into()), ..spec.clone() };
        assert!(read(&other, NOW).is_err());
        let path = spec.copy.as_ref().unwrap();
        for mode in [0o640, 0o604, 0o620, 0o602] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(read(&spec, NOW).is_err(), "{mode:o}");
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        for text in ["", "{}", "{\"keys\":[]}", "[]"] {
            fs::write(path, text).unwrap();
            assert!(read(&spec, NOW).is_err(), "{text}");
        }
    }
}
