//! What a process costs, by the kernel's account: time on a CPU in nanoseconds, resident memory.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::Context;

/// Time on a CPU of each thread of a process, in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuTime(BTreeMap<u32, u64>);

impl CpuTime {
    /// Reads the scheduler's account, `/proc/PID/task/*/schedstat`: nanoseconds, where `/proc/PID/stat` has ticks of
    /// ten milliseconds.
    ///
    /// # Errors
    /// When the process has ended, or the kernel keeps no such account.
    pub fn read(pid: u32) -> anyhow::Result<Self> {
        let mut threads = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{pid}/task")).context("the process has ended")? {
            let entry = entry?;
            let id = entry.file_name().to_string_lossy().parse()?;
            // A thread may end between being listed and being read.
            if let Ok(text) = fs::read_to_string(entry.path().join("schedstat")) {
                threads.insert(id, on_cpu(&text).context("this kernel keeps no schedstat")?);
            }
        }
        Ok(Self(threads))
    }

    /// The time since `earlier`. A thread that started in between counts from its start.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Duration {
        let spent = self.0.iter().map(|(id, now)| now.saturating_sub(earlier.0.get(id).copied().unwrap_or(0)));
        Duration::from_nanos(spent.fold(0, u64::saturating_add))
    }
}

/// The first field of `schedstat`: time on a CPU in nanoseconds.
fn on_cpu(schedstat: &str) -> Option<u64> {
    schedstat.split_ascii_whitespace().next()?.parse().ok()
}

/// Resident memory in KiB.
///
/// # Errors
/// When the process has ended.
pub fn resident_kib(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the process has ended")?;
    vm_rss(&status).context("/proc/PID/status has no VmRSS")
}

fn vm_rss(status: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_start_count_and_threads_that_end_do_not_go_below_zero() {
        let earlier = CpuTime(BTreeMap::from([(1, 100), (2, 900)]));
        let later = CpuTime(BTreeMap::from([(1, 250), (3, 50)]));
        assert_eq!(later.since(&earlier), Duration::from_nanos(200));
    }

    #[test]
    fn the_kernel_answers_for_this_process() {
        let before = CpuTime::read(std::process::id()).unwrap();
        assert!(!before.0.is_empty());
        assert!(resident_kib(std::process::id()).unwrap() > 0);
        assert_eq!(on_cpu("141524 2221370 2\n"), Some(141_524));
        assert_eq!(vm_rss("Name:\tx\nVmRSS:\t    1234 kB\n"), Some(1234));
    }
}
