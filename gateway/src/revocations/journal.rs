//! Revocations on disk: a line each, with a checksum, that has reached the disk before anybody is told that it holds.
//!
//! Invariant: what was written is read again. A last line without its end was never answered for and is left out, with a
//! word in the log; anything else that is not as it was written stops the start: a journal that is read in part would let
//! revoked credentials in.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use portcullis_api::hex;
use portcullis_plugins::revocations::Record;

/// The first line: what this is, and how it is written.
const HEAD: &str = "portcullis revocations 1\n";
/// More than any number of revocations takes that there is room for, with as many that are over.
const BYTES_MAX: u64 = 512 << 20;
/// Lines that are over before the file is written anew.
const OVER_MIN: usize = 1024;
/// Hexadecimal digits of a line's checksum.
const CHECKSUM_CHARS: usize = 16;

/// The file.
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    bytes: u64,
    lines: usize,
    /// Whether what is on disk is no longer known.
    broken: bool,
}

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    #[error("{}: {}", .0.display(), .1)]
    Io(PathBuf, #[source] io::Error),
    #[error("{} can be read or written by others than its owner (mode {:o}): chmod 600", .0.display(), .1)]
    Open(PathBuf, u32),
    #[error("{} is in use by another gateway: each has a journal of its own", .0.display())]
    Taken(PathBuf),
    #[error("{} is no journal of revocations", .0.display())]
    Foreign(PathBuf),
    #[error("{} has {} bytes, more than {BYTES_MAX}", .0.display(), .1)]
    Large(PathBuf, u64),
    #[error("{}, line {} is not as it was written: put a good copy back, or move the file away and revoke anew", .0.display(), .1)]
    Damaged(PathBuf, usize),
    #[error("{} could not be written before and its state is not known: restart this gateway", .0.display())]
    Broken(PathBuf),
}

/// What stands in a journal.
pub(crate) struct Replayed {
    pub(crate) records: Vec<Record>,
    /// Bytes of a last line that was broken off.
    pub(crate) torn: usize,
}

impl Journal {
    /// Opens the file, or makes one, and reads it.
    ///
    /// # Errors
    /// [`JournalError`].
    pub(crate) fn open(path: &Path) -> Result<(Self, Replayed), JournalError> {
        let failed = |error| JournalError::Io(path.to_owned(), error);
        let mut file = locked(path)?;
        let text = read(path, &mut file)?;
        let (replayed, good, lines) = parse(path, &text)?;
        let mut this = Self { path: path.to_owned(), file, bytes: good, lines, broken: false };
        this.file.set_len(good).map_err(failed)?;
        if good == 0 {
            this.write(HEAD.as_bytes())?;
            sync_folder(path).map_err(failed)?;
        }
        Ok((this, replayed))
    }

    /// Reads a journal that is in use, or is none yet, and leaves it as it is.
    ///
    /// # Errors
    /// [`JournalError`].
    pub(crate) fn check(path: &Path) -> Result<(), JournalError> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(JournalError::Io(path.to_owned(), error)),
        };
        private(path, &file)?;
        parse(path, &read(path, &mut file)?).map(|_parsed| ())
    }

    /// Writes revocations down. When this answers they are on the disk.
    ///
    /// # Errors
    /// [`JournalError`]: they are not, and none will be until the disk takes them.
    pub(crate) fn append<'r>(&mut self, records: impl IntoIterator<Item = &'r Record>) -> Result<(), JournalError> {
        let lines: Vec<String> = records.into_iter().filter_map(line).collect();
        self.write(lines.concat().as_bytes())?;
        self.lines = self.lines.saturating_add(lines.len());
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), JournalError> {
        if self.broken {
            return Err(JournalError::Broken(self.path.clone()));
        }
        let failed = |error| JournalError::Io(self.path.clone(), error);
        if let Err(error) = self.file.write_all(bytes) {
            // Half a line would make the next one unreadable.
            self.broken = self.file.set_len(self.bytes).is_err();
            return Err(failed(error));
        }
        if let Err(error) = self.file.sync_data() {
            // What the kernel could not write it may forget: nobody knows what stands there now.
            self.broken = true;
            return Err(failed(error));
        }
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        Ok(())
    }

    /// How long it is.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether most of it is over when so many are not.
    pub(crate) fn is_worn(&self, alive: usize) -> bool {
        self.lines > alive.saturating_mul(2).saturating_add(OVER_MIN)
    }

    /// Writes these into a new file and puts it in the place of this one.
    ///
    /// # Errors
    /// [`JournalError`]: this one stays.
    pub(crate) fn replace<'r>(&mut self, records: impl IntoIterator<Item = &'r Record>) -> Result<(), JournalError> {
        let beside = self.path.with_extension("next");
        let failed = |error| JournalError::Io(beside.clone(), error);
        // One that is there was broken off.
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            Ok(()) | Err(_) => {}
        }
        let mut options = OpenOptions::new();
        let file = options.append(true).create_new(true).mode(0o600).open(&beside).map_err(failed)?;
        file.try_lock().map_err(|_| JournalError::Taken(beside.clone()))?;
        let mut next = Self { path: self.path.clone(), file, bytes: 0, lines: 0, broken: false };
        next.write(HEAD.as_bytes())?;
        next.append(records)?;
        fs::rename(&beside, &self.path).map_err(failed)?;
        sync_folder(&self.path).map_err(failed)?;
        *self = next;
        Ok(())
    }
}

/// The file, which no other gateway has. One that is just ending may still have it, so this waits a little.
fn locked(path: &Path) -> Result<File, JournalError> {
    const TRIES: u32 = 30;
    let failed = |error| JournalError::Io(path.to_owned(), error);
    for _ in 0..TRIES {
        let mut options = OpenOptions::new();
        let file = options.read(true).append(true).create(true).mode(0o600).open(path).map_err(failed)?;
        private(path, &file)?;
        match file.try_lock() {
            // The other may have put a new file in the place of this one.
            Ok(()) if fs::metadata(path).is_ok_and(|now| file.metadata().is_ok_and(|ours| ours.ino() == now.ino())) => {
                return Ok(file);
            }
            Ok(()) | Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(100)),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
    Err(JournalError::Taken(path.to_owned()))
}

fn private(path: &Path, file: &File) -> Result<(), JournalError> {
    let mode = file.metadata().map_err(|error| JournalError::Io(path.to_owned(), error))?.permissions().mode() & 0o777;
    if mode & 0o077 == 0 { Ok(()) } else { Err(JournalError::Open(path.to_owned(), mode)) }
}

fn read(path: &Path, file: &mut File) -> Result<Vec<u8>, JournalError> {
    let failed = |error| JournalError::Io(path.to_owned(), error);
    let bytes = file.metadata().map_err(failed)?.len();
    if bytes > BYTES_MAX {
        return Err(JournalError::Large(path.to_owned(), bytes));
    }
    let mut text = Vec::new();
    file.read_to_end(&mut text).map_err(failed)?;
    Ok(text)
}

/// What stands there, how many bytes of it are whole lines, and how many lines are revocations.
fn parse(path: &Path, text: &[u8]) -> Result<(Replayed, u64, usize), JournalError> {
    let damaged = |line: usize| JournalError::Damaged(path.to_owned(), line);
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last.saturating_add(1));
    let (lines, torn) = text.split_at_checked(whole).ok_or_else(|| damaged(0))?;
    let torn = torn.len();
    if lines.is_empty() {
        let begun = HEAD.as_bytes().starts_with(text);
        let replayed = Replayed { records: Vec::new(), torn };
        return if begun { Ok((replayed, 0, 0)) } else { Err(JournalError::Foreign(path.to_owned())) };
    }
    let body = lines.strip_prefix(HEAD.as_bytes()).ok_or_else(|| JournalError::Foreign(path.to_owned()))?;
    let mut records = Vec::new();
    for (index, line) in body.split_inclusive(|byte| *byte == b'\n').enumerate() {
        records.push(record(line).ok_or_else(|| damaged(index.saturating_add(2)))?);
    }
    let count = records.len();
    Ok((Replayed { records, torn }, u64::try_from(whole).unwrap_or(u64::MAX), count))
}

/// `CHECKSUM JSON`.
fn line(record: &Record) -> Option<String> {
    // A record is a few texts and numbers: there is always JSON of it.
    let json = serde_json::to_string(record).ok()?;
    Some(format!("{} {json}\n", checksum(json.as_bytes())))
}

fn record(line: &[u8]) -> Option<Record> {
    let (sum, json) = line.strip_suffix(b"\n")?.split_at_checked(CHECKSUM_CHARS)?;
    let json = json.strip_prefix(b" ")?;
    if sum != checksum(json).as_bytes() {
        return None;
    }
    serde_json::from_slice(json).ok()
}

fn checksum(json: &[u8]) -> String {
    let mut sum = hex(digest(&SHA256, json).as_ref());
    sum.truncate(CHECKSUM_CHARS);
    sum
}

/// A name is on the disk when its folder is.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests;
