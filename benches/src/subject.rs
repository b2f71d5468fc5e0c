//! A process under measurement: a child that is ready, and that ends with its value.

use std::{
    env,
    fs::{self, File},
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};

/// How long a process may take to be ready.
const READY_MAX: Duration = Duration::from_secs(20);
/// How long a question to it may take.
const ASK_MAX: Duration = Duration::from_secs(1);

/// The programs beside this one, in its profile.
#[derive(Debug)]
pub struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// Finds the folder, and notes where its programs are no measure.
    ///
    /// # Errors
    /// When this program cannot be found itself.
    pub fn beside_this() -> anyhow::Result<Self> {
        let programs = Self { folder: env::current_exe()?.parent().context("this program has no folder")?.to_owned() };
        if !programs.are_optimised() {
            writeln!(io::stderr(), "note: this is a debug build, the numbers mean nothing; use --release")?;
        }
        Ok(programs)
    }

    fn are_optimised(&self) -> bool {
        self.folder.ends_with("release")
    }

    /// Builds programs, each named with its package.
    ///
    /// # Errors
    /// When they do not build.
    pub fn build(&self, programs: &[(&str, &str)]) -> anyhow::Result<()> {
        let mut build = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        build.args(["build", "--locked"]);
        for (package, program) in programs {
            build.args(["-p", package, "--bin", program]);
        }
        if self.are_optimised() {
            build.arg("--release");
        }
        ensure!(build.status().context("cargo")?.success(), "what is to be measured does not build");
        Ok(())
    }

    /// Where a program is.
    ///
    /// # Errors
    /// When it is not there.
    pub fn path(&self, program: &str) -> anyhow::Result<PathBuf> {
        let path = self.folder.join(program);
        ensure!(path.exists(), "{} is not there; build it, or leave --no-build out", path.display());
        Ok(path)
    }
}

/// A running process.
#[derive(Debug)]
pub struct Subject {
    name: String,
    child: Child,
    errors: PathBuf,
}

impl Subject {
    /// Starts it and waits until `is_ready`. What it writes to standard error is kept in `folder`.
    ///
    /// # Errors
    /// When it does not start, ends, or is not ready in time.
    pub fn start(name: &str, mut command: Command, folder: &Path, is_ready: impl Fn() -> bool) -> anyhow::Result<Self> {
        let errors = folder.join(format!("{name}.stderr"));
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(File::create(&errors)?)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let mut subject = Self { name: name.to_owned(), child, errors };
        subject.wait(is_ready)?;
        Ok(subject)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The last of what it wrote to standard error, for messages.
    #[must_use]
    pub fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.errors).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    fn wait(&mut self, is_ready: impl Fn() -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now().checked_add(READY_MAX).context("clock")?;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("`{}` ended with {status}:\n{}", self.name, self.last_words());
            }
            if is_ready() {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "`{}` is not ready after {} s:\n{}",
                self.name,
                READY_MAX.as_secs(),
                self.last_words()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Whether it can be connected to.
#[must_use]
pub fn listens(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, ASK_MAX).is_ok()
}

/// Whether `GET /readyz` of a gateway's admin listener answers 200.
#[must_use]
pub fn is_ready(admin: SocketAddr) -> bool {
    ask_admin(admin, "/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// The sum over the labels of a metric of a gateway; none of it is 0.
///
/// # Errors
/// When the admin listener does not answer.
pub fn metric(admin: SocketAddr, name: &str) -> anyhow::Result<f64> {
    let answer = ask_admin(admin, "/metrics").context("metrics")?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "no metrics: {}", answer.lines().next().unwrap_or_default());
    Ok(sum_of(&answer, name))
}

fn sum_of(metrics: &str, name: &str) -> f64 {
    let values = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name).filter(|rest| rest.starts_with([' ', '{']))?;
        rest.rsplit(' ').next()?.parse::<f64>().ok()
    });
    values.sum()
}

fn ask_admin(admin: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&admin, ASK_MAX)?;
    stream.set_read_timeout(Some(ASK_MAX))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// A port that was free a moment ago. The processes bind it themselves, so there is no holding on to it.
///
/// # Errors
/// When there is none.
pub fn free_port() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_the_sum_over_its_labels_and_not_another_that_starts_like_it() {
        let text = "# TYPE a counter\na{rule=\"x y\"} 2\na{rule=\"z\"} 3\na_total 9\n";
        assert!((sum_of(text, "a") - 5.0).abs() < 1e-9);
        assert!((sum_of(text, "a_total") - 9.0).abs() < 1e-9);
        assert!(sum_of(text, "b").abs() < 1e-9);
    }
}
