//! What the committer has done since it was started.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counters, written by the committer thread and read by the metrics.
#[derive(Debug, Default)]
pub struct CommitStats {
    commits: AtomicU64,
    steps: AtomicU64,
    bytes: AtomicU64,
    sync_last: AtomicU64,
    sync_total: AtomicU64,
    skipped: AtomicU64,
    reopened: AtomicU64,
}

impl CommitStats {
    /// Batches made durable.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Steps in them.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// Payload bytes in them.
    pub fn synced_bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// How long the store took for the last one.
    pub fn sync_last(&self) -> Duration {
        Duration::from_nanos(self.sync_last.load(Ordering::Relaxed))
    }

    /// How long it took for all of them.
    pub fn sync_total(&self) -> Duration {
        Duration::from_nanos(self.sync_total.load(Ordering::Relaxed))
    }

    /// Appends that were acknowledged in time and never written.
    pub fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }

    /// Times the store was had back after a failure.
    pub fn times_reopened(&self) -> u64 {
        self.reopened.load(Ordering::Relaxed)
    }

    pub(super) fn reopened(&self) {
        self.reopened.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn committed(&self, steps: usize, bytes: u64, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.steps.fetch_add(steps as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.sync_last.store(nanos, Ordering::Relaxed);
        self.sync_total.fetch_add(nanos, Ordering::Relaxed);
    }

    pub(super) fn skip(&self, appends: u32) {
        self.skipped.fetch_add(appends.into(), Ordering::Relaxed);
    }
}
