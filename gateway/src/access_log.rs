//! The access log's sink: a bounded queue and one writer thread. A slow sink drops lines and counts them; it never
//! holds a request up.
//!
//! The writer rests after each batch: a thread that waits for the next line must be woken by the request that brings
//! it, and a line at a time that costs more than everything else in it.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::Mutex;
use portcullis_config::AccessLog as Target;
use prometheus::IntCounter;

/// Lines that may wait for the sink.
const QUEUE_MAX: usize = 16 << 10;
/// The longest that a line waits for the writer. The queue holds what comes in this time at 800,000 a second; a thread
/// that woke more often would cost each request of a quiet gateway as much as its line does.
const REST: Duration = Duration::from_millis(20);

/// What the writer is told.
enum Told {
    Line(Vec<u8>),
    /// The file may have been renamed: what follows goes into one of the old name.
    Reopen,
}

/// The sink of access lines.
pub(crate) struct AccessLog {
    queue: Mutex<Option<SyncSender<Told>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    dropped: IntCounter,
}

impl AccessLog {
    /// Opens the target and starts the writer.
    ///
    /// # Errors
    /// When the file cannot be opened or the thread not be started.
    pub(crate) fn start(target: &Target, dropped: IntCounter) -> io::Result<Self> {
        let sink = open(target)?;
        let target = target.clone();
        let (queue, lines) = sync_channel(QUEUE_MAX);
        let writer =
            std::thread::Builder::new().name("access-log".into()).spawn(move || write_lines(sink, &target, &lines))?;
        Ok(Self { queue: Mutex::new(Some(queue)), writer: Mutex::new(Some(writer)), dropped })
    }

    /// Hands one line over, with its line end.
    pub(crate) fn line(&self, line: Vec<u8>) {
        let sent = match &*self.queue.lock() {
            Some(queue) => queue.try_send(Told::Line(line)),
            None => Err(TrySendError::Disconnected(Told::Line(line))),
        };
        if sent.is_err() {
            self.dropped.inc();
        }
    }

    /// Opens the file again, after what waits is written.
    pub(crate) fn reopen(&self) {
        if let Some(queue) = &*self.queue.lock()
            && queue.try_send(Told::Reopen).is_err()
        {
            tracing::error!(event = "access_log.reopen", "the queue is full: the access log was not opened again");
        }
    }

    /// Writes what waits and ends the writer.
    pub(crate) fn close(&self) {
        drop(self.queue.lock().take());
        if let Some(writer) = self.writer.lock().take() {
            // A writer that panicked has nothing more to write.
            let _ended = writer.join();
        }
    }
}

fn open(target: &Target) -> io::Result<Box<dyn Write + Send>> {
    Ok(match target {
        Target::Stdout => Box::new(io::stdout()),
        Target::File(path) => Box::new(OpenOptions::new().create(true).append(true).open(path)?),
    })
}

fn write_lines(sink: Box<dyn Write + Send>, target: &Target, lines: &Receiver<Told>) {
    let mut sink = with_buffer(sink);
    while let Ok(first) = lines.recv() {
        let mut failed = None;
        for told in std::iter::once(first).chain(lines.try_iter().take(QUEUE_MAX)) {
            failed = failed.or(match told {
                Told::Line(line) => sink.write_all(&line).err(),
                Told::Reopen => sink.flush().and_then(|()| open(target)).map(|next| sink = with_buffer(next)).err(),
            });
        }
        if let Some(error) = failed.or(sink.flush().err()) {
            tracing::error!(event = "access_log.write", %error, "access lines were lost, or the log not opened again");
        }
        std::thread::sleep(REST);
    }
}

fn with_buffer(sink: Box<dyn Write + Send>) -> io::BufWriter<Box<dyn Write + Send>> {
    io::BufWriter::with_capacity(64 << 10, sink)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_was_renamed_is_opened_again_under_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("access.jsonl"), dir.path().join("access.jsonl.1"));
        let log =
            AccessLog::start(&Target::File(path.clone()), IntCounter::new("dropped", "dropped").unwrap()).unwrap();
        log.line(b"before\n".to_vec());
        std::fs::rename(&path, &old).unwrap();
        log.reopen();
        log.line(b"after\n".to_vec());
        log.close();
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "before\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "after\n");
    }

    #[test]
    fn every_line_is_written_before_close_returns_and_later_ones_are_counted_as_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.jsonl");
        let dropped = IntCounter::new("dropped", "dropped").unwrap();
        let log = AccessLog::start(&Target::File(path.clone()), dropped.clone()).unwrap();
        for i in 0..1000 {
            log.line(format!("{i}\n").into_bytes());
        }
        log.close();
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1000);
        log.line(b"late\n".to_vec());
        assert_eq!(dropped.get(), 1);
    }
}
