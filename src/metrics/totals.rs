//! What others count, as they hand it over to be shown.

/// What the committer has done so far, as totals.
#[derive(Debug, Clone, Copy, Default)]
pub struct CommitTotals {
    /// Commits.
    pub commits: u64,
    /// Steps in them.
    pub steps: u64,
    /// Payload bytes in them.
    pub written_bytes: u64,
    /// Time spent in them, in microseconds.
    pub sync_microseconds: u64,
    /// Frames acknowledged before they were written.
    pub never_written: u64,
    /// Times the store was had back after a failure.
    pub reopened: u64,
}

/// How it stands with the disk.
#[derive(Debug, Clone, Copy)]
pub struct DiskTotals {
    /// Free.
    pub free_bytes: u64,
    /// Used, of the budget.
    pub used_bytes: u64,
    /// The budget.
    pub budget_bytes: u64,
    /// What one mailbox may hold.
    pub mailbox_bytes_max: u64,
    /// Posts are taken.
    pub takes: bool,
}

/// What was asked of the bus so far, as totals.
#[derive(Debug, Clone, Copy, Default)]
pub struct BusTotals {
    /// There is a connection now.
    pub connected: bool,
    /// Times that something may have been missed, the first connection included.
    pub gaps: u64,
    /// Answers of replicas that were behind.
    pub stale_reads: u64,
    /// Claims stored.
    pub claims: u64,
    /// Purges done.
    pub purges: u64,
    /// Publications tried once more.
    pub repeated: u64,
    /// Publications given up.
    pub given_up: u64,
    /// Streams that take no more posts.
    pub streams_full: u32,
}
