//! What a frame holds where nothing is sealed: the examples and the load harness. A chat client
//! seals the same structure before it pads.
//!
//! Layout, integers big-endian: `stream 16 | first counter u64 | count u16 | length u32 for each
//! message | messages | zeros up to the next padded size`.

use bytes::{BufMut, Bytes, BytesMut};
use valise_proto::limits::{PAYLOAD_BYTES_MAX, PAYLOAD_SIZES};

use crate::inbox::StreamId;

const HEAD_BYTES: usize = 16 + 8 + 2;
const LENGTH_BYTES: usize = 4;

/// The longest message, in bytes.
pub const MESSAGE_BYTES_MAX: usize = PAYLOAD_BYTES_MAX - HEAD_BYTES - LENGTH_BYTES;

/// Some messages of one stream, with consecutive counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Whose messages, in which conversation.
    pub stream: StreamId,
    /// The first message's counter; the others follow it.
    pub first_counter: u64,
    /// The messages.
    pub messages: Vec<Bytes>,
}

/// Not an envelope, or none that fits a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// The messages do not fit one frame together.
    #[error("the messages do not fit into {PAYLOAD_BYTES_MAX} bytes")]
    TooLarge,
    /// The lengths point beyond the frame's end.
    #[error("the frame is no envelope: it ends too early")]
    Truncated,
    /// The padding is not zeros.
    #[error("the frame is no envelope: its padding is not empty")]
    Padding,
}

impl Envelope {
    /// Bytes of an envelope before padding, with so many messages of so many bytes together.
    pub const fn encoded_len(messages: usize, bytes: usize) -> usize {
        HEAD_BYTES + messages * LENGTH_BYTES + bytes
    }

    /// Whether so many messages of so many bytes together fit one frame.
    pub const fn fits(messages: usize, bytes: usize) -> bool {
        messages <= u16::MAX as usize && Self::encoded_len(messages, bytes) <= PAYLOAD_BYTES_MAX
    }

    /// The padded payload.
    ///
    /// # Errors
    /// [`EnvelopeError::TooLarge`].
    pub fn encode(&self) -> Result<Bytes, EnvelopeError> {
        encode(self.stream, self.first_counter, self.messages.iter())
    }

    /// Reads a payload back. The messages share its memory.
    ///
    /// # Errors
    /// [`EnvelopeError`].
    pub fn decode(payload: &Bytes) -> Result<Self, EnvelopeError> {
        let (head, _) = payload.split_at_checked(HEAD_BYTES).ok_or(EnvelopeError::Truncated)?;
        let (stream, numbers) = head.split_first_chunk::<16>().expect("the head is longer");
        let (first, count) = numbers.split_first_chunk::<8>().expect("the head is longer");
        let count = usize::from(u16::from_be_bytes([count[0], count[1]]));
        let mut at = HEAD_BYTES + count * LENGTH_BYTES;
        let lengths = payload.get(HEAD_BYTES..at).ok_or(EnvelopeError::Truncated)?;
        let mut messages = Vec::with_capacity(count);
        for length in lengths.chunks_exact(LENGTH_BYTES) {
            let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]);
            let end = at.checked_add(length as usize).filter(|end| *end <= payload.len());
            let end = end.ok_or(EnvelopeError::Truncated)?;
            messages.push(payload.slice(at..end));
            at = end;
        }
        if payload[at..].iter().any(|byte| *byte != 0) {
            return Err(EnvelopeError::Padding);
        }
        let first_counter = u64::from_be_bytes(*first);
        Ok(Self { stream: StreamId::new(*stream), first_counter, messages })
    }
}

/// As [`Envelope::encode`], from messages that stay where they are.
pub(crate) fn encode<'a>(
    stream: StreamId,
    first_counter: u64,
    messages: impl ExactSizeIterator<Item = &'a Bytes> + Clone,
) -> Result<Bytes, EnvelopeError> {
    let count = u16::try_from(messages.len()).map_err(|_| EnvelopeError::TooLarge)?;
    let bytes = messages.clone().map(Bytes::len).sum();
    let len = Envelope::encoded_len(messages.len(), bytes);
    let padded = PAYLOAD_SIZES.into_iter().find(|size| len <= *size);
    let padded = padded.ok_or(EnvelopeError::TooLarge)?;
    let mut payload = BytesMut::with_capacity(padded);
    payload.put_slice(stream.as_bytes());
    payload.put_u64(first_counter);
    payload.put_u16(count);
    for message in messages.clone() {
        payload.put_u32(u32::try_from(message.len()).map_err(|_| EnvelopeError::TooLarge)?);
    }
    messages.for_each(|message| payload.put_slice(message));
    payload.put_bytes(0, padded - len);
    Ok(payload.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use valise_proto::limits::is_padded;

    fn envelope(messages: Vec<Bytes>) -> Envelope {
        Envelope { stream: StreamId::new([3; 16]), first_counter: 9, messages }
    }

    #[test]
    fn the_sizes_are_the_padded_ones() {
        let size = |len: usize| envelope(vec![vec![1; len].into()]).encode().map(|p| p.len());
        assert_eq!(size(0), Ok(512));
        assert_eq!(size(512 - 30), Ok(512));
        assert_eq!(size(512 - 29), Ok(2048));
        assert_eq!(size(MESSAGE_BYTES_MAX), Ok(PAYLOAD_BYTES_MAX));
        assert_eq!(size(MESSAGE_BYTES_MAX + 1), Err(EnvelopeError::TooLarge));
    }

    #[test]
    fn what_is_no_envelope_is_refused() {
        let good = envelope(vec![Bytes::from_static(b"hello")]).encode().unwrap();
        let changed = |at: usize, byte: u8| {
            let mut payload = good.to_vec();
            payload[at] = byte;
            Envelope::decode(&payload.into())
        };
        assert_eq!(changed(good.len() - 1, 1), Err(EnvelopeError::Padding));
        assert_eq!(changed(HEAD_BYTES, 0xff), Err(EnvelopeError::Truncated));
        assert_eq!(changed(HEAD_BYTES - 2, 0xff), Err(EnvelopeError::Truncated));
        assert_eq!(Envelope::decode(&good.slice(..20)), Err(EnvelopeError::Truncated));
    }

    proptest! {
        #[test]
        fn envelopes_round_trip(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..99), 0..99),
            first_counter in any::<u64>(),
        ) {
            let messages: Vec<Bytes> = messages.into_iter().map(Bytes::from).collect();
            let bytes = messages.iter().map(Bytes::len).sum();
            prop_assert!(Envelope::fits(messages.len(), bytes));
            let envelope = Envelope { first_counter, ..envelope(messages) };
            let payload = envelope.encode().unwrap();
            prop_assert!(is_padded(payload.len()));
            prop_assert_eq!(Envelope::decode(&payload), Ok(envelope));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            Envelope::decode(&bytes.into()).ok();
        }
    }
}
