//! What each frame says about itself, in plain: the load harness has nothing to hide, and the
//! checker must recognise every frame without keeping a list of them.

use bytes::{BufMut, Bytes, BytesMut};
use valise_client::{Envelope, StreamId};

/// Length of the header at the start of every message, in bytes.
const HEADER_BYTES: usize = 56;

/// Stands for "every target of the conversation" in [`Header::recipient`], in a fan-out.
pub(crate) const EVERY_RECIPIENT: u32 = u32::MAX;

const MAGIC: &[u8; 4] = b"VLD1";

/// Which frame this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// The client that posted it.
    pub(crate) sender: u32,
    /// The client it is for, or [`EVERY_RECIPIENT`].
    pub(crate) recipient: u32,
    /// Its conversation, numbered over the whole run.
    pub(crate) conversation: u32,
    /// 1, 2, 3, ... in its conversation.
    pub(crate) counter: u64,
    /// When it should have been posted, in nanoseconds of the run's clock.
    pub(crate) intended_ns: u64,
}

/// Why bytes are no frame of this run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderError {
    /// The bytes were changed on the way.
    #[error("the frame's header or padding does not fit its hash")]
    Corrupt,
    /// An intact frame that this run never made.
    #[error("the frame was not made by this run")]
    Foreign,
}

/// Makes and recognises the frames of one run.
pub(crate) struct Stamp {
    run: u64,
    message_bytes: usize,
    /// Random bytes; each frame is padded with another stretch of them.
    padding: Vec<u8>,
}

impl Stamp {
    /// A stamp of a run. Frames of two runs differ in their nonces. A message fills a payload of
    /// this length, one of the padded ones.
    pub(crate) fn new(run: u64, payload_bytes: usize) -> Self {
        let words = 0..payload_bytes as u64 / 4;
        let padding = words.flat_map(|word| (mix(run ^ !word) as u32).to_be_bytes()).collect();
        let message_bytes = payload_bytes - Envelope::encoded_len(1, 0);
        Self { run, message_bytes, padding }
    }

    /// The message of a frame.
    pub(crate) fn message(&self, header: &Header) -> Bytes {
        let nonce = self.nonce(header);
        let padding_bytes = self.message_bytes - HEADER_BYTES;
        let start = nonce as usize % (self.padding.len() - padding_bytes);
        let padding = &self.padding[start..start + padding_bytes];
        let mut message = BytesMut::with_capacity(self.message_bytes);
        message.put_slice(MAGIC);
        message.put_u64(self.run);
        message.put_u32(header.sender);
        message.put_u32(header.recipient);
        message.put_u32(header.conversation);
        message.put_u64(header.counter);
        message.put_u64(header.intended_ns);
        message.put_u64(nonce);
        message.put_u32(crc32fast::hash(padding));
        message.put_u32(crc32fast::hash(&message));
        message.put_slice(padding);
        message.freeze()
    }

    /// Reads [`Self::message`] back.
    ///
    /// # Errors
    /// [`HeaderError`], if anything about it is wrong.
    pub(crate) fn read(&self, message: &[u8]) -> Result<Header, HeaderError> {
        let (head, padding) = message.split_at_checked(HEADER_BYTES).ok_or(HeaderError::Corrupt)?;
        if head[..4] != *MAGIC || crc32fast::hash(&head[..52]) != u32_at(head, 52) {
            return Err(HeaderError::Corrupt);
        }
        if crc32fast::hash(padding) != u32_at(head, 48) {
            return Err(HeaderError::Corrupt);
        }
        let header = Header {
            sender: u32_at(head, 12),
            recipient: u32_at(head, 16),
            conversation: u32_at(head, 20),
            counter: u64_at(head, 24),
            intended_ns: u64_at(head, 32),
        };
        if u64_at(head, 4) != self.run || u64_at(head, 40) != self.nonce(&header) {
            return Err(HeaderError::Foreign);
        }
        Ok(header)
    }

    /// A function of the frame's place, so that nobody needs to remember it.
    fn nonce(&self, header: &Header) -> u64 {
        let place = u64::from(header.sender) << 32 | u64::from(header.conversation);
        mix(mix(self.run ^ place) ^ header.counter)
    }
}

/// The stream a conversation's frames are in.
pub(crate) fn stream(conversation: u32) -> StreamId {
    StreamId::new(u128::from(conversation).to_be_bytes())
}

/// The finaliser of splitmix64.
fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("the range has four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("the range has eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header =
        Header { sender: 1, recipient: 2, conversation: 3, counter: 4, intended_ns: 5 };

    #[test]
    fn a_frame_says_what_it_is() {
        for size in valise_proto::limits::PAYLOAD_SIZES {
            let stamp = Stamp::new(9, size);
            let message = stamp.message(&HEADER);
            assert_eq!(stamp.read(&message), Ok(HEADER));
            let envelope =
                Envelope { stream: stream(3), first_counter: 4, messages: vec![message] };
            assert_eq!(envelope.encode().unwrap().len(), size);
        }
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let stamp = Stamp::new(9, 512);
        let message = stamp.message(&HEADER).to_vec();
        for bit in 0..message.len() * 8 {
            let mut flipped = message.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(stamp.read(&flipped), Err(HeaderError::Corrupt), "bit {bit}");
        }
        assert_eq!(stamp.read(&message[..400]), Err(HeaderError::Corrupt));
        assert_eq!(stamp.read(b""), Err(HeaderError::Corrupt));
    }

    #[test]
    fn a_frame_of_another_run_is_foreign() {
        let message = Stamp::new(8, 512).message(&HEADER);
        assert_eq!(Stamp::new(9, 512).read(&message), Err(HeaderError::Foreign));
    }
}
