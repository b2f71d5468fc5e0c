//! Which CPU runs what: the proxies on the first, the client and the upstream on the others.
//!
//! Without this the scheduler moves the proxy between caches in the middle of a measurement. `taskset` does it, from
//! outside, because the call itself would need unsafe code.

use std::{
    io::{self, Write},
    path::Path,
    process::Command,
};

use anyhow::Context;

/// Whether processes are kept on CPUs of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// The proxies on the first ones, everything else on the others.
    Apart,
    /// The scheduler decides.
    Nothing,
}

/// The CPUs of the proxies and the CPUs of everything else.
#[derive(Debug)]
pub struct Cpus {
    proxy: Option<String>,
    client_threads: usize,
}

impl Cpus {
    /// Splits the CPUs that this process may use, so many of them for the proxies, and moves this process to its share.
    ///
    /// # Errors
    /// Where /proc or `taskset` does not do what it does on Linux.
    pub fn split(proxy_cpus: u32, pin: Pin) -> anyhow::Result<Self> {
        let status = std::fs::read_to_string("/proc/self/status").context("this needs Linux with /proc")?;
        let all = allowed(&status).context("/proc/self/status lists no CPUs")?;
        let threads = usize::try_from(proxy_cpus)?;
        let client_threads = all.len().saturating_sub(threads).clamp(1, 4);
        let Some((proxy, rest)) = all.split_at_checked(threads).filter(|(_, rest)| !rest.is_empty()) else {
            writeln!(io::stderr(), "note: too few CPUs to keep client and proxy apart")?;
            return Ok(Self { proxy: None, client_threads });
        };
        if pin == Pin::Nothing || !["/usr/bin/taskset", "/bin/taskset"].iter().any(|path| Path::new(path).exists()) {
            writeln!(io::stderr(), "note: nothing is pinned to a CPU")?;
            return Ok(Self { proxy: None, client_threads });
        }
        let moved = Command::new("taskset")
            .args(["-a", "-p", "-c", &list(rest), &std::process::id().to_string()])
            .output()
            .context("taskset")?;
        anyhow::ensure!(moved.status.success(), "taskset: {}", String::from_utf8_lossy(&moved.stderr).trim());
        Ok(Self { proxy: Some(list(proxy)), client_threads })
    }

    /// Worker threads of the client.
    #[must_use]
    pub const fn client_threads(&self) -> usize {
        self.client_threads
    }

    /// A command that runs `program` on the proxies' CPUs. `taskset` becomes the program, so the process id stays.
    #[must_use]
    pub fn proxy_command(&self, program: &Path) -> Command {
        match &self.proxy {
            None => Command::new(program),
            Some(cpus) => {
                let mut command = Command::new("taskset");
                command.args(["-c", cpus]).arg(program);
                command
            }
        }
    }

    /// For the head of the report.
    #[must_use]
    pub fn describe(&self) -> String {
        self.proxy.as_ref().map_or_else(|| "nothing pinned".to_owned(), |cpus| format!("proxies pinned to CPU {cpus}"))
    }
}

fn list(cpus: &[u32]) -> String {
    cpus.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// The CPUs of `Cpus_allowed_list` in /proc/self/status.
fn allowed(status: &str) -> Option<Vec<u32>> {
    let ranges = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let mut all = Vec::new();
    for range in ranges.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        all.extend(first.parse::<u32>().ok()?..=last.parse::<u32>().ok()?);
    }
    (!all.is_empty()).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_cpus_is_read_as_the_kernel_writes_it() {
        assert_eq!(allowed("Name:\tload\nCpus_allowed_list:\t0-1,4\n"), Some(vec![0, 1, 4]));
        assert_eq!(allowed("Cpus_allowed_list:\t3\n"), Some(vec![3]));
        assert_eq!(allowed("Cpus_allowed_list:\t\n"), None);
        assert_eq!(allowed("Name:\tload\n"), None);
    }
}
