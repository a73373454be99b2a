//! Which frames have an entry in the expiry index. A removal names only sequence numbers, and most
//! frames have the default time to live and no entry: without this, each removal would read its
//! frame first.

use std::collections::HashMap;

use super::{Frame, RunningHours, Seq};

/// Entries remembered at most: 2 MiB. Beyond that they are looked up on the disk.
const REMEMBERED_MAX: usize = 65_536;

/// What this process knows of the index.
#[derive(Debug)]
pub(super) struct ExpiryIndex {
    remembered: HashMap<Seq, RunningHours>,
    /// Below it, only the disk knows.
    unknown_below: Seq,
}

/// Where a frame stands in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// It has none.
    Absent,
    /// Under this hour.
    At(RunningHours),
    /// Its record has to be read.
    Unknown,
}

impl ExpiryIndex {
    /// An index of which nothing is known below `unknown_below`, and which has nothing above it.
    pub(super) fn new(unknown_below: Seq) -> Self {
        Self { remembered: HashMap::new(), unknown_below }
    }

    /// Whether a frame belongs into the index.
    pub(super) fn wants(frame: &Frame) -> bool {
        u32::from(frame.ttl_hours) != valise_proto::limits::TTL_HOURS_DEFAULT
    }

    /// A frame was added to the index, in a batch that ends before `next_seq`.
    pub(super) fn insert(&mut self, frame: &Frame, next_seq: Seq) {
        if self.remembered.len() >= REMEMBERED_MAX {
            self.remembered.clear();
            self.unknown_below = next_seq;
        }
        self.remembered.insert(frame.seq, frame.expires());
    }

    /// Where a frame that is being removed stands; it is forgotten.
    pub(super) fn remove(&mut self, seq: Seq) -> Entry {
        match self.remembered.remove(&seq) {
            Some(expires) => Entry::At(expires),
            None if seq < self.unknown_below => Entry::Unknown,
            None => Entry::Absent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::contract::frame;

    #[test]
    fn a_full_memory_falls_back_to_the_disk() {
        let mut index = ExpiryIndex::new(Seq(0));
        let last = REMEMBERED_MAX as u64 + 1;
        for seq in 1..=last {
            index.insert(&frame(1, seq, 1), Seq(last + 1));
        }
        assert_eq!(index.remove(Seq(1)), Entry::Unknown);
        assert_eq!(index.remove(Seq(last)), Entry::At(frame(1, last, 1).expires()));
        assert_eq!(index.remove(Seq(last + 1)), Entry::Absent);
    }
}
