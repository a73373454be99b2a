//! What each frame says about itself, in plain: the load harness has nothing to hide, and the
//! checker must recognise every frame without keeping a list of them.

use bytes::{BufMut, Bytes, BytesMut};

/// Length of the header at the start of every payload, in bytes.
pub(crate) const HEADER_BYTES: usize = 56;

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
    /// Random bytes; each frame is padded with another stretch of them.
    padding: Vec<u8>,
}

impl Stamp {
    /// A stamp of a run. Frames of two runs differ in their nonces.
    pub(crate) fn new(run: u64, payload_bytes: usize) -> Self {
        let words = payload_bytes / 4;
        let padding = (0..words as u64).flat_map(|word| mix(run ^ !word).to_be_bytes()).collect();
        Self { run, padding }
    }

    /// The payload of a frame, `payload_bytes` long.
    pub(crate) fn payload(&self, header: &Header, payload_bytes: usize) -> Bytes {
        let nonce = self.nonce(header);
        let padding_bytes = payload_bytes - HEADER_BYTES;
        let start = nonce as usize % (self.padding.len() - padding_bytes);
        let padding = &self.padding[start..start + padding_bytes];
        let mut payload = BytesMut::with_capacity(payload_bytes);
        payload.put_slice(MAGIC);
        payload.put_u64(self.run);
        payload.put_u32(header.sender);
        payload.put_u32(header.recipient);
        payload.put_u32(header.conversation);
        payload.put_u64(header.counter);
        payload.put_u64(header.intended_ns);
        payload.put_u64(nonce);
        payload.put_u32(crc32fast::hash(padding));
        payload.put_u32(crc32fast::hash(&payload));
        payload.put_slice(padding);
        payload.freeze()
    }

    /// Reads [`Self::payload`] back.
    ///
    /// # Errors
    /// [`HeaderError`], if anything about it is wrong.
    pub(crate) fn read(&self, payload: &[u8]) -> Result<Header, HeaderError> {
        let (head, padding) = payload.split_at_checked(HEADER_BYTES).ok_or(HeaderError::Corrupt)?;
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

/// The finaliser of splitmix64.
pub(crate) fn mix(n: u64) -> u64 {
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
            let payload = stamp.payload(&HEADER, size);
            assert_eq!(payload.len(), size);
            assert_eq!(stamp.read(&payload), Ok(HEADER));
        }
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let stamp = Stamp::new(9, 512);
        let payload = stamp.payload(&HEADER, 512).to_vec();
        for bit in 0..payload.len() * 8 {
            let mut flipped = payload.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(stamp.read(&flipped), Err(HeaderError::Corrupt), "bit {bit}");
        }
        assert_eq!(stamp.read(&payload[..511]), Err(HeaderError::Corrupt));
        assert_eq!(stamp.read(b""), Err(HeaderError::Corrupt));
    }

    #[test]
    fn a_frame_of_another_run_is_foreign() {
        let payload = Stamp::new(8, 512).payload(&HEADER, 512);
        assert_eq!(Stamp::new(9, 512).read(&payload), Err(HeaderError::Foreign));
    }
}
