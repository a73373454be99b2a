//! What is longer than a frame: one MLS message over several frames, one greeting over several
//! payloads. Up to 4 MiB; what is larger is a blob.

use std::collections::BTreeMap;

use super::{SealError, frame};
use crate::wire;

/// The longest whole, in bytes: 4 MiB of content and what MLS adds to it.
pub const WHOLE_BYTES_MAX: usize = 4 * 1024 * 1024 + 64 * 1024;

/// The most parts of one whole: twice what the largest needs.
pub const PARTS_MAX: u32 = 128;

/// The most that surrounds a part's bytes in its envelope, in bytes: stream and counter (29), and
/// the part's own tags, lengths, index and count (4 + 4 + 6 + 6).
const AROUND: usize = 49;

/// Splits one long MLS message into the envelopes of the frames that carry it.
///
/// # Errors
/// [`SealError::TooLong`] above [`WHOLE_BYTES_MAX`].
pub fn split(
    stream: &[u8; 16],
    counter: u64,
    message: &[u8],
) -> Result<Vec<wire::Envelope>, SealError> {
    let pieces = pieces(message, frame::ENVELOPE_BYTES_MAX - AROUND)?;
    // One part alone would be no part.
    let pieces = if pieces.len() == 1 { halves(message) } else { pieces };
    let count = pieces.len() as u32;
    let envelope = |(index, bytes): (u32, &[u8])| wire::Envelope {
        stream: stream.to_vec(),
        first_counter: counter,
        part: Some(wire::Part { index, count, bytes: bytes.to_vec() }),
        ..wire::Envelope::default()
    };
    Ok((0..).zip(pieces).map(envelope).collect())
}

/// Pieces of at most `room` bytes, no more than [`PARTS_MAX`].
pub(super) fn pieces(whole: &[u8], room: usize) -> Result<Vec<&[u8]>, SealError> {
    if whole.len() > WHOLE_BYTES_MAX {
        return Err(SealError::TooLong(whole.len()));
    }
    Ok(whole.chunks(room).collect())
}

fn halves(message: &[u8]) -> Vec<&[u8]> {
    let (first, second) = message.split_at(message.len() / 2);
    vec![first, second]
}

/// Collects the parts of one whole, in any order. Which parts belong to one whole is for the caller
/// to say: those of one (stream, counter), or of one transfer.
#[derive(Default)]
pub struct Assembler {
    /// As the first part said.
    count: u32,
    parts: BTreeMap<u32, Vec<u8>>,
    bytes: usize,
}

impl Assembler {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a part. A copy of one that is there is harmless. A part that is refused changes
    /// nothing. Some: the whole.
    ///
    /// # Errors
    /// [`SealError::Part`]: it contradicts itself or a part before it, or the whole would be longer
    /// than [`WHOLE_BYTES_MAX`].
    pub fn add(
        &mut self,
        index: u32,
        count: u32,
        bytes: Vec<u8>,
    ) -> Result<Option<Vec<u8>>, SealError> {
        if count == 0 || count > PARTS_MAX || index >= count {
            return Err(SealError::Part("has a number that cannot be"));
        }
        if bytes.is_empty() {
            return Err(SealError::Part("is empty"));
        }
        if self.count != 0 && self.count != count {
            return Err(SealError::Part("says another count than the parts before"));
        }
        match self.parts.get(&index) {
            Some(there) if *there == bytes => return Ok(self.whole()),
            Some(_) => return Err(SealError::Part("is there already with other bytes")),
            None => {}
        }
        if self.bytes + bytes.len() > WHOLE_BYTES_MAX {
            return Err(SealError::Part("makes the whole too long"));
        }
        self.count = count;
        self.bytes += bytes.len();
        self.parts.insert(index, bytes);
        Ok(self.whole())
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn whole(&self) -> Option<Vec<u8>> {
        let complete = self.parts.len() == self.count as usize;
        complete.then(|| self.parts.values().flatten().copied().collect())
    }
}

impl std::fmt::Debug for Assembler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Assembler({} of {} parts, {} bytes)", self.parts.len(), self.count, self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_in_any_order_and_twice_make_the_whole() {
        let mut parts = Assembler::new();
        assert_eq!(parts.add(2, 3, b"c".to_vec()), Ok(None));
        assert_eq!(parts.add(2, 3, b"c".to_vec()), Ok(None));
        assert_eq!(parts.add(0, 3, b"aa".to_vec()), Ok(None));
        assert_eq!(parts.add(1, 3, b"b".to_vec()), Ok(Some(b"aabc".to_vec())));
        assert_eq!(parts.add(0, 3, b"aa".to_vec()), Ok(Some(b"aabc".to_vec())));
    }

    #[test]
    fn a_part_that_is_refused_changes_nothing() {
        let mut parts = Assembler::new();
        assert_eq!(parts.add(0, 2, b"a".to_vec()), Ok(None));
        for (index, count, bytes) in [
            (0, 2, vec![9]),
            (0, 0, vec![9]),
            (2, 2, vec![9]),
            (1, 3, vec![9]),
            (1, 2, vec![]),
            (1, PARTS_MAX + 1, vec![9]),
            (1, 2, vec![9; WHOLE_BYTES_MAX]),
        ] {
            let len = bytes.len();
            let refused = parts.add(index, count, bytes);
            assert!(matches!(refused, Err(SealError::Part(_))), "{index} {count} {len}");
        }
        assert_eq!(parts.add(1, 2, b"b".to_vec()), Ok(Some(b"ab".to_vec())));
    }

    #[test]
    fn every_message_comes_in_two_parts_or_more() {
        for (len, count) in [(2, 2), (65_447, 2), (65_448, 2), (WHOLE_BYTES_MAX, 66)] {
            let message = vec![7; len];
            let envelopes = split(&[1; 16], 5, &message).unwrap();
            assert_eq!(envelopes.len(), count, "{len}");
            let mut parts = Assembler::new();
            let mut whole = None;
            for part in envelopes.into_iter().filter_map(|envelope| envelope.part) {
                whole = parts.add(part.index, part.count, part.bytes).unwrap();
            }
            assert_eq!(whole, Some(message), "{len}");
        }
        let long = vec![0; WHOLE_BYTES_MAX + 1];
        assert_eq!(split(&[1; 16], 5, &long), Err(SealError::TooLong(long.len())));
    }
}
