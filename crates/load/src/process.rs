//! What a process has used so far, from /proc.

use std::fs;
use std::io;

use crate::machine::{field, kib};

/// What a process has used since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Usage {
    /// User and system time of all its threads, in seconds.
    pub(crate) cpu_s: f64,
    /// Resident memory, in bytes.
    pub(crate) rss_bytes: u64,
    /// The most resident memory it ever had, in bytes.
    pub(crate) rss_peak_bytes: u64,
    /// Bytes it caused to be sent to a disk.
    pub(crate) written_bytes: u64,
}

/// How many files a process has open; `None` if it is gone.
pub(crate) fn descriptors(pid: u32) -> Option<u64> {
    Some(fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64)
}

impl Usage {
    /// Of the process with this id.
    ///
    /// # Errors
    /// If it is gone.
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}"));
        let status = read("status")?;
        let memory = |name| field(&status, name).map_or(0, kib);
        let io = read("io")?;
        Ok(Self {
            cpu_s: cpu_seconds(&read("stat")?),
            rss_bytes: memory("VmRSS"),
            rss_peak_bytes: memory("VmHWM"),
            written_bytes: field(&io, "write_bytes").and_then(|n| n.parse().ok()).unwrap_or(0),
        })
    }

    /// What was used between `earlier` and now; the memory is that of now.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self {
            cpu_s: self.cpu_s - earlier.cpu_s,
            written_bytes: self.written_bytes.saturating_sub(earlier.written_bytes),
            ..*self
        }
    }

    /// What two processes use together.
    pub(crate) fn beside(&self, other: &Self) -> Self {
        Self {
            cpu_s: self.cpu_s + other.cpu_s,
            rss_bytes: self.rss_bytes + other.rss_bytes,
            rss_peak_bytes: self.rss_peak_bytes + other.rss_peak_bytes,
            written_bytes: self.written_bytes + other.written_bytes,
        }
    }

    /// What another process used before this one, as if it had been the same.
    pub(crate) fn after(&self, earlier: &Self) -> Self {
        Self {
            cpu_s: self.cpu_s + earlier.cpu_s,
            rss_bytes: self.rss_bytes,
            rss_peak_bytes: self.rss_peak_bytes.max(earlier.rss_peak_bytes),
            written_bytes: self.written_bytes + earlier.written_bytes,
        }
    }
}

/// User and system time from a line of /proc/PID/stat, in seconds. The name in parentheses may
/// contain anything, so the fields are counted from its end.
fn cpu_seconds(stat: &str) -> f64 {
    let behind_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    // proc_pid_stat(5): utime and stime are fields 14 and 15; the first here is field 3.
    let ticks: u64 = behind_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse::<u64>().ok())
        .sum();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 11 12";
        assert_eq!(cpu_seconds(stat), 300.0 / rustix::param::clock_ticks_per_second() as f64);
    }

    #[test]
    fn this_process_uses_something() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.rss_bytes > 0 && usage.rss_peak_bytes >= usage.rss_bytes, "{usage:?}");
        assert!(Usage::of(u32::MAX).is_err());
        assert!(descriptors(std::process::id()) > Some(3));
        assert_eq!(descriptors(u32::MAX), None);
    }

    #[test]
    fn usage_adds_up_over_restarts() {
        let first = Usage { cpu_s: 2.0, rss_bytes: 10, rss_peak_bytes: 30, written_bytes: 5 };
        let second = Usage { cpu_s: 1.0, rss_bytes: 20, rss_peak_bytes: 20, written_bytes: 7 };
        let all = second.after(&first);
        let expected = Usage { cpu_s: 3.0, rss_bytes: 20, rss_peak_bytes: 30, written_bytes: 12 };
        assert_eq!(all, expected);
        assert_eq!(all.since(&first).written_bytes, 7);
    }
}
