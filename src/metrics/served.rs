//! What is served here, and by which nodes.

use super::{Metrics, MoveReason};

impl Metrics {
    /// A mailbox is served.
    pub fn attachment_began(&self) {
        self.counts().attachments.inc();
    }

    /// A mailbox is served no more.
    pub fn attachment_ended(&self) {
        self.counts().attachments.dec();
    }

    /// So many mailboxes are in memory.
    pub fn mailboxes_live(&self, count: usize) {
        self.counts().mailboxes_live.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A connection was asked to move.
    pub fn moved(&self, reason: MoveReason) {
        self.counts().moves.get(reason.name()).inc();
    }

    /// So many nodes were heard of lately, this one included.
    pub fn nodes_live(&self, nodes: usize) {
        self.counts().nodes_live.set(i64::try_from(nodes).unwrap_or(i64::MAX));
    }

    /// One more shard is listened to.
    pub fn partition_began(&self) {
        self.counts().partitions.inc();
    }

    /// One less.
    pub fn partition_ended(&self) {
        self.counts().partitions.dec();
    }
}
