//! Which frame ids a mailbox has seen: those in its queue always, those that left it lately as far
//! as memory allows. A sender that retries one of them hears `accepted` and stores nothing twice.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use valise_proto::FrameId;
use valise_proto::limits::RETRY_MEMORY_SECONDS;

use crate::limits::{RETRY_MEMORY_PER_MAILBOX, RETRY_MEMORY_TOTAL};

/// The frame ids of one mailbox.
#[derive(Default)]
pub(super) struct RetryMemory {
    ids: HashMap<FrameId, Whereabouts>,
    left: VecDeque<(Instant, FrameId)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Whereabouts {
    Queued,
    Left,
}

impl RetryMemory {
    pub(super) fn knows(&self, id: &FrameId) -> bool {
        self.ids.contains_key(id)
    }

    pub(super) fn is_queued(&self, id: &FrameId) -> bool {
        self.ids.get(id) == Some(&Whereabouts::Queued)
    }

    pub(super) fn queued(&mut self, id: FrameId) {
        self.ids.insert(id, Whereabouts::Queued);
    }

    /// The frame was not queued after all.
    pub(super) fn forget(&mut self, id: &FrameId) {
        self.ids.remove(id);
    }

    /// The frame has left the queue: remember it for a while, unless all mailboxes together
    /// remember too much. Returns by how much the memory grew.
    pub(super) fn left(&mut self, id: FrameId, now: Instant, remembered_in_all: usize) -> isize {
        if remembered_in_all >= RETRY_MEMORY_TOTAL {
            self.ids.remove(&id);
            return 0;
        }
        self.ids.insert(id, Whereabouts::Left);
        self.left.push_back((now, id));
        if self.left.len() > RETRY_MEMORY_PER_MAILBOX {
            self.forget_oldest();
            return 0;
        }
        1
    }

    /// Forgets what left too long ago, and returns how many that were.
    pub(super) fn forget_old(&mut self, now: Instant) -> usize {
        let age = Duration::from_secs(u64::from(RETRY_MEMORY_SECONDS));
        let before = self.left.len();
        while self.left.front().is_some_and(|(at, _)| now.duration_since(*at) >= age) {
            self.forget_oldest();
        }
        if self.ids.is_empty() {
            *self = Self::default();
        }
        before - self.left.len()
    }

    /// Whether no frame has left lately.
    pub(super) fn has_no_memory(&self) -> bool {
        self.left.is_empty()
    }

    /// Ids remembered of frames that have left.
    pub(super) fn len_left(&self) -> usize {
        self.left.len()
    }

    fn forget_oldest(&mut self) {
        if let Some((_, id)) = self.left.pop_front() {
            self.ids.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u32) -> FrameId {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        FrameId::new(bytes)
    }

    #[test]
    fn a_frame_is_known_while_queued_and_a_minute_after() {
        let start = Instant::now();
        let mut memory = RetryMemory::default();
        memory.queued(id(1));
        memory.forget_old(start + Duration::from_secs(3_600));
        assert!(memory.is_queued(&id(1)));
        assert_eq!(memory.left(id(1), start, 0), 1);
        assert!(memory.knows(&id(1)) && !memory.is_queued(&id(1)));
        assert_eq!(memory.forget_old(start + Duration::from_secs(59)), 0);
        assert_eq!(memory.forget_old(start + Duration::from_secs(60)), 1);
        assert!(!memory.knows(&id(1)));
    }

    #[test]
    fn the_memory_is_bounded_per_mailbox_and_in_all() {
        let now = Instant::now();
        let mut memory = RetryMemory::default();
        for n in 0..1_000 {
            memory.queued(id(n));
            memory.left(id(n), now, 0);
        }
        assert_eq!(memory.len_left(), RETRY_MEMORY_PER_MAILBOX);
        assert!(memory.knows(&id(999)) && !memory.knows(&id(0)));
        memory.queued(id(5_000));
        assert_eq!(memory.left(id(5_000), now, RETRY_MEMORY_TOTAL), 0);
        assert!(!memory.knows(&id(5_000)));
    }
}
