//! A child process: everything that it prints is kept, signals reach it, and it does not outlive its test.

use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::PATIENCE;

/// Lines as they come, from any number of streams.
#[derive(Default)]
pub struct Lines {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

impl Lines {
    /// The first line for which `pick` answers, now or within [`PATIENCE`].
    pub fn wait<T>(&self, pick: impl Fn(&str) -> Option<T>) -> Option<T> {
        let start = Instant::now();
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = 0;
        loop {
            if let Some(found) = lines[seen..].iter().find_map(|line| pick(line)) {
                return Some(found);
            }
            seen = lines.len();
            let left = PATIENCE.checked_sub(start.elapsed())?;
            lines = self
                .more
                .wait_timeout(lines, left.min(Duration::from_millis(200)))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Every line so far.
    pub fn all(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn collect(self: &Arc<Self>, stream: impl Read + Send + 'static) -> JoinHandle<()> {
        let lines = Arc::clone(self);
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n') {
                let Ok(line) = line else { break };
                let line = String::from_utf8_lossy(&line).into_owned();
                lines.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                lines.more.notify_all();
            }
        })
    }
}

/// A running process.
pub struct Process {
    child: Child,
    /// Ends the child and removes its directory when this process ends, however it ends: what stands in a `static` is
    /// never dropped. It waits on a pipe that closes with us.
    guard: Child,
    readers: Vec<JoinHandle<()>>,
    /// Its standard output.
    pub stdout: Arc<Lines>,
    /// Its standard error.
    pub stderr: Arc<Lines>,
}

impl Process {
    /// Starts it. `directory` is its own, and goes with it.
    pub fn start(command: &mut Command, directory: &Path) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?} does not start: {e}"));
        let guard = Command::new("sh")
            .args(["-c", r#"read -r _; kill -KILL "$0" 2>/dev/null; rm -rf "$1""#, &child.id().to_string()])
            .arg(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("there is a shell");
        let (stdout, stderr) = (Arc::new(Lines::default()), Arc::new(Lines::default()));
        let readers = vec![
            stdout.collect(child.stdout.take().expect("piped")),
            stderr.collect(child.stderr.take().expect("piped")),
        ];
        Self { child, guard, readers, stdout, stderr }
    }

    /// Sends a signal by name, e.g. `HUP`.
    pub fn signal(&self, name: &str) {
        // A builtin of every shell; the binary of this name is not everywhere.
        let done = Command::new("sh")
            .args(["-c", &format!("kill -{name} {}", self.child.id())])
            .status()
            .expect("there is a shell");
        assert!(done.success(), "kill -{name} failed");
    }

    /// How it ended, if it did; then all that it printed has been read.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().expect("a child can be waited for")?;
        for reader in self.readers.drain(..) {
            reader.join().expect("a reader does not panic");
        }
        Some(status)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it now.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.guard.kill());
        drop(self.guard.wait());
        self.child.wait().expect("a child can be waited for");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        for child in [&mut self.guard, &mut self.child] {
            drop(child.kill());
            drop(child.wait());
        }
    }
}
