//! The receiver's half of the order rule: per stream one integer, the highest counter shown.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use crate::random;

/// A sending device's messages in one conversation, counted 1, 2, 3, ... A client that lost its
/// counter starts a new stream.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId([u8; 16]);

impl StreamId {
    /// Wraps the bytes.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// A new stream.
    pub fn random() -> Self {
        Self(random::bytes())
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamId(")?;
        self.0.iter().take(4).try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}

/// What a frame's messages mean to the receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The counters to show; empty for a copy of what was shown already.
    pub fresh: Range<u64>,
    /// The counters before them that will never come: their sender gave them up.
    pub gap: Option<Range<u64>>,
}

/// The highest counter per stream. Pure: the application commits [`Inbox::highest`] together with
/// the messages, in one transaction, and acknowledges the frame after that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inbox {
    highest: HashMap<StreamId, u64>,
}

impl Inbox {
    /// Judges the messages `first_counter .. first_counter + count` of a stream. A stream never
    /// seen is expected to begin with counter 1.
    pub fn receive(&mut self, stream: StreamId, first_counter: u64, count: u64) -> Received {
        let highest = self.highest(&stream);
        let end = first_counter.saturating_add(count);
        let next = highest + 1;
        if end <= next || first_counter == end {
            return Received { fresh: next..next, gap: None };
        }
        self.highest.insert(stream, end - 1);
        let gap = (first_counter > next).then_some(next..first_counter);
        Received { fresh: first_counter.max(next)..end, gap }
    }

    /// The highest counter shown of a stream; 0 for a stream never seen.
    pub fn highest(&self, stream: &StreamId) -> u64 {
        self.highest.get(stream).copied().unwrap_or(0)
    }

    /// Continues a stream from what was committed, or from where this device was let in.
    pub fn resume(&mut self, stream: StreamId, highest: u64) {
        // The last counter a u64 has would leave no next one.
        self.highest.insert(stream, highest.min(u64::MAX - 1));
    }

    /// Forgets a stream whose sender has ended it.
    pub fn forget(&mut self, stream: &StreamId) {
        self.highest.remove(stream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STREAM: StreamId = StreamId::new([7; 16]);

    #[test]
    fn copies_are_dropped_and_gaps_are_shown() {
        let mut inbox = Inbox::default();
        let table = [
            // (first, count, fresh, gap)
            (1, 3, 1..4, None),
            (1, 3, 4..4, None),
            (2, 4, 4..6, None),
            (9, 1, 9..10, Some(6..9)),
            (6, 2, 10..10, None),
            (10, 0, 10..10, None),
            (12, 0, 10..10, None),
            (0, 5, 10..10, None),
            // The largest counter cannot be one of a frame, but must not overflow either.
            (u64::MAX, 9, 10..10, None),
        ];
        for (first, count, fresh, gap) in table {
            assert_eq!(inbox.receive(STREAM, first, count), Received { fresh, gap }, "{first}");
        }
        assert_eq!(inbox.highest(&StreamId::new([8; 16])), 0, "streams are independent");
    }

    #[test]
    fn a_resumed_stream_has_no_gap_before_it() {
        let mut inbox = Inbox::default();
        inbox.resume(STREAM, 41);
        assert_eq!(inbox.receive(STREAM, 41, 2), Received { fresh: 42..43, gap: None });
    }

    proptest! {
        #[test]
        fn every_counter_is_shown_or_in_a_gap_exactly_once(
            frames in proptest::collection::vec((1u64..50, 0u64..10), 0..40),
        ) {
            let mut inbox = Inbox::default();
            let mut next = 1;
            for (first, count) in frames {
                let Received { fresh, gap } = inbox.receive(STREAM, first, count);
                if fresh.is_empty() {
                    prop_assert_eq!(gap, None);
                    continue;
                }
                let begin = gap.map_or(fresh.start, |gap| {
                    assert_eq!(gap.end, fresh.start);
                    gap.start
                });
                prop_assert_eq!(begin, next);
                next = fresh.end;
                prop_assert_eq!(inbox.highest(&STREAM), next - 1);
            }
        }
    }
}
