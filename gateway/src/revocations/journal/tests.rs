//! What was written is read again, and what is damaged is not read in part.

use portcullis_plugins::revocations::{Kind, Reason, Target};

use super::*;

struct Fixture {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("revocations.journal");
        Self { _dir: dir, path }
    }

    /// A journal of three revocations that nobody has open.
    fn written() -> Self {
        let this = Self::new();
        let (mut journal, replayed) = Journal::open(&this.path).unwrap();
        assert!(replayed.records.is_empty());
        journal.append(&records()).unwrap();
        this
    }

    fn replay(&self) -> Result<Replayed, JournalError> {
        Journal::open(&self.path).map(|(_, replayed)| replayed)
    }

    fn damage(&self, change: impl FnOnce(&mut Vec<u8>)) {
        let mut text = fs::read(&self.path).unwrap();
        change(&mut text);
        fs::write(&self.path, text).unwrap();
    }
}

fn records() -> Vec<Record> {
    let record = |id: &str| {
        let target = Target::parse(Kind::ApiKey, None, None, id).unwrap();
        Record::new(&target, 1_800_000_000, Reason::try_from("lost".to_owned()).unwrap())
    };
    ["000000000001", "000000000002", "000000000003"].map(record).to_vec()
}

#[test]
fn what_was_written_is_read_again_and_the_file_is_the_owners_alone() {
    let journal = Fixture::written();
    let replayed = journal.replay().unwrap();
    assert_eq!((replayed.records, replayed.torn), (records(), 0));
    assert_eq!(fs::metadata(&journal.path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_last_line_that_was_broken_off_is_left_out_and_told_and_the_next_one_stands_alone() {
    let whole = fs::read(&Fixture::written().path).unwrap();
    for length in 0..whole.len() {
        let journal = Fixture::written();
        journal.damage(|text| text.truncate(length));
        let (mut open, replayed) = Journal::open(&journal.path).unwrap();
        let kept = whole[..length].iter().filter(|byte| **byte == b'\n').count().saturating_sub(1);
        assert_eq!(replayed.records, records()[..kept], "{length}");
        assert_eq!(replayed.torn > 0, length > 0 && whole[length - 1] != b'\n', "{length}");
        open.append(&records()[2..]).unwrap();
        drop(open);
        assert_eq!(journal.replay().unwrap().records.len(), kept + 1);
    }
}

#[test]
fn any_other_damage_stops_the_start_and_names_the_line() {
    let whole = fs::read(&Fixture::written().path).unwrap();
    for place in 0..whole.len() - 1 {
        let journal = Fixture::written();
        journal.damage(|text| text[place] ^= 1);
        let error = journal.replay().err().unwrap_or_else(|| panic!("byte {place} was changed and nobody saw it"));
        let in_head = place < HEAD.len();
        assert_eq!(matches!(error, JournalError::Foreign(_)), in_head, "{place}: {error}");
        assert_eq!(matches!(error, JournalError::Damaged(_, 2..=4)), !in_head, "{place}: {error}");
        assert!(Journal::check(&journal.path).is_err());
    }
}

#[test]
fn a_line_that_is_missing_in_the_middle_or_another_file_is_no_journal() {
    let journal = Fixture::new();
    fs::write(&journal.path, "[listeners.public]\n").unwrap();
    fs::set_permissions(&journal.path, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(matches!(journal.replay(), Err(JournalError::Foreign(_))));
    fs::write(&journal.path, "x").unwrap();
    assert!(matches!(journal.replay(), Err(JournalError::Foreign(_))));
}

#[test]
fn a_file_that_others_may_read_or_write_is_refused() {
    let journal = Fixture::written();
    for mode in [0o640, 0o604, 0o620, 0o666] {
        fs::set_permissions(&journal.path, fs::Permissions::from_mode(mode)).unwrap();
        assert!(matches!(journal.replay(), Err(JournalError::Open(_, told)) if told == mode));
        assert!(Journal::check(&journal.path).is_err());
    }
}

#[test]
fn two_gateways_do_not_write_into_one_journal() {
    let journal = Fixture::written();
    let _open = Journal::open(&journal.path).unwrap();
    assert!(matches!(journal.replay(), Err(JournalError::Taken(_))));
    assert!(Journal::check(&journal.path).is_ok(), "a look at it is no use of it");
}

#[test]
fn a_journal_that_is_written_anew_holds_what_it_was_given_and_goes_on() {
    let journal = Fixture::written();
    fs::write(journal.path.with_extension("next"), "broken off").unwrap();
    let (mut open, _) = Journal::open(&journal.path).unwrap();
    assert!(!open.is_worn(3));
    open.lines = OVER_MIN + 7;
    assert!(open.is_worn(3));
    open.replace(&records()[..1]).unwrap();
    assert!(!open.is_worn(1));
    open.append(&records()[2..]).unwrap();
    assert!(matches!(journal.replay(), Err(JournalError::Taken(_))), "the new file is this gateway's too");
    drop(open);
    assert_eq!(journal.replay().unwrap().records, [records()[0].clone(), records()[2].clone()]);
    assert_eq!(fs::metadata(&journal.path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn nothing_is_written_after_a_write_of_which_nobody_knows_the_end() {
    let journal = Fixture::written();
    let (mut open, _) = Journal::open(&journal.path).unwrap();
    // A file that can only be read: the write fails, and so does taking it back.
    open.file = File::open(&journal.path).unwrap();
    assert!(matches!(open.append(&records()), Err(JournalError::Io(..))));
    assert!(matches!(open.append(&records()), Err(JournalError::Broken(_))));
    drop(open);
    assert_eq!(journal.replay().unwrap().records, records());
}

#[test]
fn a_journal_in_no_folder_says_so() {
    let journal = Fixture::new();
    assert!(matches!(Journal::open(&journal.path.join("x")), Err(JournalError::Io(..))));
    assert!(Journal::check(&journal.path).is_ok(), "it need not be there yet");
}
