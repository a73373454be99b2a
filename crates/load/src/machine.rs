//! The facts of the machine a report was made on.

use std::fs;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a run took place.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Machine {
    /// Cores this process may use.
    pub(crate) cores: u64,
    /// The processor's name.
    pub(crate) cpu_model: String,
    /// The system's memory, in bytes.
    pub(crate) memory_bytes: u64,
    /// The kernel's release.
    pub(crate) kernel: String,
}

impl Machine {
    /// This machine. What cannot be read stays empty.
    pub(crate) fn here() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self {
            cores: cores as u64,
            cpu_model: field(&read("/proc/cpuinfo"), "model name").unwrap_or_default().to_owned(),
            memory_bytes: field(&read("/proc/meminfo"), "MemTotal").map_or(0, kib),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

/// The value of `name: value` in the files of /proc.
pub(crate) fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim())
}

/// `123 kB` in bytes.
pub(crate) fn kib(value: &str) -> u64 {
    value.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1_024
}
