//! Reads what a document refers to: `file:` and `env:`. A secret's file must not be readable by everybody.

use std::{
    fs::File,
    io::{self, Read},
    ops::Range,
    os::unix::{ffi::OsStringExt, fs::PermissionsExt},
    path::{Path, PathBuf},
};

use portcullis_api::{Secret, SecretRef};

use super::Room;

/// More than any key, token or certificate chain has.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The least bytes of a secret that keys something.
pub(super) const SECRET_BYTES_MIN: usize = 32;

/// What a file holds, and so who may read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    /// A secret or a private key: nobody but the gateway's user and group.
    Secret,
    /// A certificate, a public key.
    Public,
}

/// Why a reference could not be read.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("file `{}` cannot be read: {}", .0.display(), reason(.1))]
    Unreadable(PathBuf, io::Error),
    #[error("file `{}` can be read or written by everybody (mode {:o})", .0.display(), .1)]
    Open(PathBuf, u32),
    #[error("file `{}` has {} bytes, more than {FILE_BYTES_MAX}", .0.display(), .1)]
    TooLarge(PathBuf, u64),
    #[error("`{0}` is empty")]
    Empty(String),
    #[error("environment variable `{0}` is not set")]
    Unset(String),
}

impl ReadError {
    const fn code(&self) -> &'static str {
        match self {
            Self::Unreadable(..) => "references.unreadable",
            Self::Open(..) => "references.open_to_everybody",
            Self::TooLarge(..) => "references.too_large",
            Self::Empty(_) => "references.empty",
            Self::Unset(_) => "references.unset",
        }
    }

    fn help(&self) -> String {
        match self {
            Self::Unreadable(..) => "a relative path is relative to the configuration file".to_owned(),
            Self::Open(path, _) => format!("run: chmod o-rw '{}'", path.display()),
            Self::TooLarge(..) => "check that it is the right file".to_owned(),
            Self::Empty(_) => "nothing is switched off by being empty; leave the setting out instead".to_owned(),
            Self::Unset(name) => format!("set `{name}` in the gateway's environment, or write a `file:` reference"),
        }
    }
}

/// An I/O error in words that do not depend on the platform.
fn reason(error: &io::Error) -> String {
    let known = [
        (io::ErrorKind::NotFound, "it does not exist"),
        (io::ErrorKind::PermissionDenied, "the gateway's user may not"),
        (io::ErrorKind::IsADirectory, "it is a directory"),
    ];
    known
        .iter()
        .find(|(kind, _)| *kind == error.kind())
        .map_or_else(|| error.to_string(), |(_, words)| (*words).to_owned())
}

impl Room<'_> {
    /// A path of the document, resolved.
    pub(super) fn resolve(&self, path: &Path) -> PathBuf {
        self.around.base.join(path)
    }

    /// The bytes of a reference, without one trailing newline; never empty.
    pub(super) fn read(&mut self, reference: &SecretRef, span: &Range<usize>, holds: Holds) -> Option<Secret> {
        let read = bytes(reference, self.around.base, self.around.env, holds);
        self.told(read, span)
    }

    /// A secret that keys something: at least [`SECRET_BYTES_MIN`] bytes.
    pub(super) fn secret(&mut self, reference: &SecretRef, span: &Range<usize>, what: &str) -> Option<Secret> {
        let secret = self.read(reference, span, Holds::Secret)?;
        let length = secret.expose().len();
        if length >= SECRET_BYTES_MIN {
            return Some(secret);
        }
        let message = format!("{what} has {length} bytes, fewer than {SECRET_BYTES_MIN}");
        let help = "make one with: openssl rand -hex 32";
        self.issues.push_help("references.too_short", span, message, help);
        None
    }

    /// The bytes of a file that holds nothing secret.
    pub(super) fn public_file(&mut self, path: &Path, span: &Range<usize>) -> Option<Vec<u8>> {
        let read = file(self.resolve(path), Holds::Public);
        self.told(read, span)
    }

    fn told<T>(&mut self, read: Result<T, ReadError>, span: &Range<usize>) -> Option<T> {
        read.map_err(|error| self.issues.push_help(error.code(), span, error.to_string(), error.help())).ok()
    }
}

/// Reads a secret that keys something, for the command line: at least [`SECRET_BYTES_MIN`] bytes.
///
/// # Errors
/// A message for the operator.
pub fn secret(reference: &SecretRef, base: &Path) -> Result<Secret, String> {
    let env = |name: &str| std::env::var_os(name);
    let secret = bytes(reference, base, &env, Holds::Secret).map_err(|error| format!("{error}; {}", error.help()))?;
    let length = secret.expose().len();
    if length < SECRET_BYTES_MIN {
        return Err(format!(
            "{reference} has {length} bytes, fewer than {SECRET_BYTES_MIN}; make one with: openssl rand -hex 32"
        ));
    }
    Ok(secret)
}

/// The operator's listener of a configuration file, whatever else is in the file: where it is, and its token.
///
/// # Errors
/// A message for the operator.
pub fn admin(path: &Path) -> Result<(std::net::SocketAddr, Option<Secret>), String> {
    #[derive(serde::Deserialize)]
    struct Only {
        admin: Option<crate::document::Admin>,
    }
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let only: Only = toml::from_str(&text).map_err(|error| error.message().to_owned())?;
    let admin = only.admin.ok_or("it has no [admin] section")?;
    let base = path.parent().unwrap_or(Path::new("."));
    let token = admin.token.map(|token| secret(&token.value, base)).transpose()?;
    Ok((admin.address.value, token))
}

fn bytes(
    reference: &SecretRef,
    base: &Path,
    env: &dyn Fn(&str) -> Option<std::ffi::OsString>,
    holds: Holds,
) -> Result<Secret, ReadError> {
    let mut bytes = match reference {
        SecretRef::File(path) => file(base.join(path), holds)?,
        SecretRef::Env(name) => env(name).map(OsStringExt::into_vec).ok_or_else(|| ReadError::Unset(name.clone()))?,
    };
    if bytes.pop_if(|last| *last == b'\n').is_some() {
        bytes.pop_if(|last| *last == b'\r');
    }
    if bytes.is_empty() { Err(ReadError::Empty(reference.to_string())) } else { Ok(Secret::new(bytes)) }
}

fn file(path: PathBuf, holds: Holds) -> Result<Vec<u8>, ReadError> {
    let read = || -> io::Result<(u32, u64, Vec<u8>)> {
        // Before it is opened: opening a pipe would wait for a writer, and a reload with it.
        let found = std::fs::metadata(&path)?;
        if found.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if !found.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        let file = File::open(&path)?;
        let metadata = file.metadata()?;
        // One allocation, so that a secret leaves no copies behind while the buffer grows.
        let capacity = usize::try_from(metadata.len().min(FILE_BYTES_MAX)).unwrap_or_default().saturating_add(1);
        let mut bytes = Vec::with_capacity(capacity);
        file.take(FILE_BYTES_MAX.saturating_add(1)).read_to_end(&mut bytes)?;
        Ok((metadata.permissions().mode() & 0o7777, metadata.len(), bytes))
    };
    match read() {
        Err(error) => Err(ReadError::Unreadable(path, error)),
        Ok((mode, _, _)) if holds == Holds::Secret && mode & 0o006 != 0 => Err(ReadError::Open(path, mode)),
        Ok((_, length, bytes)) if u64::try_from(bytes.len()).is_ok_and(|read| read > FILE_BYTES_MAX) => {
            Err(ReadError::TooLarge(path, length))
        }
        Ok((_, _, bytes)) => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn written(bytes: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    #[test]
    fn a_secret_that_everybody_may_read_or_write_is_refused_and_a_certificate_is_not() {
        let (_dir, path) = written(b"x", 0o644);
        assert!(matches!(file(path.clone(), Holds::Secret), Err(ReadError::Open(_, 0o644))));
        assert!(file(path, Holds::Public).is_ok());
        let (_dir, path) = written(b"x", 0o602);
        assert!(matches!(file(path, Holds::Secret), Err(ReadError::Open(_, 0o602))));
        let (_dir, path) = written(b"x", 0o640);
        assert!(file(path, Holds::Secret).is_ok(), "a group may read, as with systemd and Kubernetes");
    }

    #[test]
    fn a_file_of_exactly_the_bound_is_read_and_one_byte_more_is_not() {
        let bound = usize::try_from(FILE_BYTES_MAX).unwrap();
        let (_dir, path) = written(&vec![b'x'; bound], 0o600);
        assert_eq!(file(path, Holds::Secret).unwrap().len(), bound);
        let (_dir, path) = written(&vec![b'x'; bound + 1], 0o600);
        assert!(matches!(file(path, Holds::Secret), Err(ReadError::TooLarge(..))));
    }

    #[test]
    fn a_directory_and_nothing_are_no_files() {
        let dir = tempfile::tempdir().unwrap();
        let said = |path: PathBuf| file(path, Holds::Public).unwrap_err().to_string();
        assert!(said(dir.path().to_owned()).ends_with("it is a directory"));
        assert!(said(dir.path().join("none")).ends_with("it does not exist"));
        assert!(said("/dev/null".into()).ends_with("it is no regular file"));
    }
}
