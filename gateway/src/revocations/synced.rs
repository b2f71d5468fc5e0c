//! Until when the journal holds what other gateways revoked, on disk beside it: a start while the store is away knows how
//! old what it knows is.
//!
//! Invariant: it is never said to be newer than it is. The time is that before a reading began, and it is written after all
//! that was read is in the journal. It is not synced: what a crash leaves is an older time, or a line that is no line, which
//! counts as none. It counts for a journal of at least the length that it had: an older copy put back is not vouched for.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
};

use aws_lc_rs::digest::{SHA256, digest};
use portcullis_api::{UnixSeconds, hex};

/// Digits of each number: all lines are equally long, so that a new one covers the old one whole.
const DIGITS: usize = 20;
/// Much more than a line.
const BYTES_MAX: u64 = 256;

/// The file.
pub(crate) struct Synced(File);

impl Synced {
    /// Opens the file beside this journal, or makes one; also what stands in it for a journal of so many bytes.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn open(journal: &Path, bytes: u64) -> io::Result<(Self, Option<UnixSeconds>)> {
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(beside(journal))?;
        let mut text = String::new();
        // Whatever is no text is no line of ours either.
        let read = (&mut file).take(BYTES_MAX).read_to_string(&mut text);
        let at = read.ok().and_then(|_| parse(&text)).filter(|(_, then)| *then <= bytes).map(|(at, _)| at);
        Ok((Self(file), at))
    }

    /// Says that a journal of so many bytes holds all that was revoked up to then.
    ///
    /// # Errors
    /// What the file system says; what stood there before may stand there still.
    pub(crate) fn write(&self, at: UnixSeconds, bytes: u64) -> io::Result<()> {
        self.0.write_all_at(line(at, bytes).as_bytes(), 0)
    }
}

fn beside(journal: &Path) -> std::path::PathBuf {
    let mut name = journal.as_os_str().to_owned();
    name.push(".synced");
    name.into()
}

fn line(at: UnixSeconds, bytes: u64) -> String {
    let said = format!("{at:0DIGITS$} {bytes:0DIGITS$}");
    format!("{said} {}\n", hex(digest(&SHA256, said.as_bytes()).as_ref()))
}

fn parse(text: &str) -> Option<(UnixSeconds, u64)> {
    let (at, rest) = text.split_once(' ')?;
    let (bytes, _sum) = rest.split_once(' ')?;
    let (at, bytes) = (at.parse().ok()?, bytes.parse().ok()?);
    (line(at, bytes) == text).then_some((at, bytes))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_last_time_is_read_again_for_a_journal_that_is_as_long() {
        let folder = tempfile::tempdir().unwrap();
        let journal = folder.path().join("revocations.journal");
        let (synced, at) = Synced::open(&journal, 0).unwrap();
        assert_eq!(at, None);
        for at in [1_800_000_000, 7] {
            synced.write(at, 500).unwrap();
            assert_eq!(Synced::open(&journal, 500).unwrap().1, Some(at));
            assert_eq!(Synced::open(&journal, 501).unwrap().1, Some(at));
            assert_eq!(Synced::open(&journal, 499).unwrap().1, None, "an older copy of the journal");
        }
    }

    #[test]
    fn what_is_no_line_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let journal = folder.path().join("j");
        Synced::open(&journal, 0).unwrap().0.write(1_800_000_000, 1).unwrap();
        let path = beside(&journal);
        let good = fs::read(&path).unwrap();
        for (at, byte) in good.iter().enumerate() {
            let mut bad = good.clone();
            bad[at] = byte ^ 1;
            fs::write(&path, &bad).unwrap();
            assert_eq!(Synced::open(&journal, 9).unwrap().1, None, "byte {at}");
            fs::write(&path, &good[..at]).unwrap();
            assert_eq!(Synced::open(&journal, 9).unwrap().1, None, "cut at {at}");
        }
        fs::write(&path, [good.clone(), vec![b'x']].concat()).unwrap();
        assert_eq!(Synced::open(&journal, 9).unwrap().1, None, "one byte more");
        fs::write(&path, &good).unwrap();
        assert_eq!(Synced::open(&journal, 9).unwrap().1, Some(1_800_000_000));
    }
}
