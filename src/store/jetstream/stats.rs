//! What the bus has been asked, and what came of it: counts, and nothing of what was sent or read.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counts since the start. Each only grows, but for the first.
#[derive(Debug, Default)]
pub struct BusStats {
    connected: AtomicBool,
    gaps: AtomicU64,
    stale_reads: AtomicU64,
    claims: AtomicU64,
    purges: AtomicU64,
    repeated: AtomicU64,
    given_up: AtomicU64,
}

impl BusStats {
    /// Whether there is a connection now.
    pub fn connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Times that something may have been missed, the first connection included.
    pub fn gaps(&self) -> u64 {
        self.gaps.load(Ordering::Relaxed)
    }

    /// Answers of replicas that were behind, and were asked for again.
    pub fn stale_reads(&self) -> u64 {
        self.stale_reads.load(Ordering::Relaxed)
    }

    /// Claims of mailboxes that were stored.
    pub fn claims(&self) -> u64 {
        self.claims.load(Ordering::Relaxed)
    }

    /// Purges that were done.
    pub fn purges(&self) -> u64 {
        self.purges.load(Ordering::Relaxed)
    }

    /// Publications that were tried once more, because there was no answer.
    pub fn repeated(&self) -> u64 {
        self.repeated.load(Ordering::Relaxed)
    }

    /// Publications that were given up after all tries: nobody knows whether they are stored.
    pub fn given_up(&self) -> u64 {
        self.given_up.load(Ordering::Relaxed)
    }

    pub(super) fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Relaxed);
    }

    pub(super) fn gap(&self) {
        self.gaps.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn stale_read(&self) {
        self.stale_reads.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn claim(&self) {
        self.claims.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn purge(&self) {
        self.purges.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn repeat(&self) {
        self.repeated.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn give_up(&self) {
        self.given_up.fetch_add(1, Ordering::Relaxed);
    }
}
