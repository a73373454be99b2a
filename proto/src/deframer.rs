//! Cuts a byte stream into packets: each is preceded by its length as a varint. A declared length
//! is judged before a byte of the packet is buffered.

use bytes::{Bytes, BytesMut};

use crate::limits::{LENGTH_PREFIX_BYTES_MAX, PACKET_BYTES_MAX};

/// The stream is not a sequence of packets; it cannot be resumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// The declared length is above the limit.
    #[error("a packet of {declared} bytes was announced; the limit is {PACKET_BYTES_MAX}")]
    TooLarge {
        /// The announced length in bytes.
        declared: u64,
    },
    /// The length prefix is no varint of at most five bytes.
    #[error("the length prefix is not a varint of at most {LENGTH_PREFIX_BYTES_MAX} bytes")]
    BadPrefix,
    /// A transport that carries whole packets delivered a part of one.
    #[error("the message ends inside a packet")]
    Truncated,
}

/// Holds at most one incomplete packet; between packets it holds no memory.
#[derive(Default)]
pub struct Deframer {
    partial: BytesMut,
}

impl Deframer {
    /// Takes the next whole packet out of `input`, or stores what is left of it and returns `None`.
    /// Every packet has its own allocation, so keeping one payload does not keep its neighbours.
    ///
    /// # Errors
    /// [`FramingError`] when the stream is broken; it stays broken.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Bytes>, FramingError> {
        if self.partial.is_empty() {
            return match parse_prefix(input)? {
                Some((prefix, len)) if input.len() - prefix >= len => {
                    let packet = Bytes::copy_from_slice(&input[prefix..prefix + len]);
                    *input = &input[prefix + len..];
                    Ok(Some(packet))
                }
                _ => {
                    self.partial.extend_from_slice(input);
                    *input = &[];
                    Ok(None)
                }
            };
        }
        self.complete(input)
    }

    /// Whether the stream stands between two packets.
    pub fn is_between_packets(&self) -> bool {
        self.partial.is_empty()
    }

    /// Bytes of the incomplete packet.
    pub fn buffered(&self) -> usize {
        self.partial.len()
    }

    fn complete(&mut self, input: &mut &[u8]) -> Result<Option<Bytes>, FramingError> {
        while !input.is_empty() {
            let missing = match parse_prefix(&self.partial)? {
                Some((prefix, len)) => prefix + len - self.partial.len(),
                None => 1,
            };
            if missing > 0 {
                let taken = missing.min(input.len());
                self.partial.reserve(missing);
                self.partial.extend_from_slice(&input[..taken]);
                *input = &input[taken..];
            }
            if let Some((prefix, len)) = parse_prefix(&self.partial)?
                && self.partial.len() == prefix + len
            {
                let packet = std::mem::take(&mut self.partial).freeze();
                return Ok(Some(packet.slice(prefix..)));
            }
        }
        Ok(None)
    }
}

/// The prefix's own length and the packet's, if the prefix is complete.
fn parse_prefix(bytes: &[u8]) -> Result<Option<(usize, usize)>, FramingError> {
    let mut declared = 0u64;
    for (i, byte) in bytes.iter().take(LENGTH_PREFIX_BYTES_MAX).enumerate() {
        declared |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return match usize::try_from(declared) {
                Ok(len) if len <= PACKET_BYTES_MAX => Ok(Some((i + 1, len))),
                _ => Err(FramingError::TooLarge { declared }),
            };
        }
    }
    if bytes.len() >= LENGTH_PREFIX_BYTES_MAX { Err(FramingError::BadPrefix) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(deframer: &mut Deframer, mut input: &[u8]) -> Result<Vec<Bytes>, FramingError> {
        let mut packets = Vec::new();
        while let Some(packet) = deframer.next(&mut input)? {
            packets.push(packet);
        }
        assert!(input.is_empty());
        Ok(packets)
    }

    #[test]
    fn packets_come_out_whole_however_they_are_cut() {
        let mut stream = vec![0];
        stream.extend([3, 1, 2, 3]);
        stream.extend([0xac, 0x02]);
        stream.extend([9; 300]);
        for cut in 1..stream.len() {
            let mut deframer = Deframer::default();
            let mut packets = Vec::new();
            for chunk in stream.chunks(cut) {
                packets.extend(collect(&mut deframer, chunk).unwrap());
            }
            let lengths: Vec<usize> = packets.iter().map(Bytes::len).collect();
            assert_eq!(lengths, [0, 3, 300], "cut every {cut} bytes");
            assert!(deframer.is_between_packets());
        }
    }

    #[test]
    fn an_oversized_length_is_refused_before_anything_is_buffered() {
        let mut deframer = Deframer::default();
        // 147,457 = 144 KiB + 1, as a varint.
        let error = collect(&mut deframer, &[0x81, 0x80, 0x09]).unwrap_err();
        assert_eq!(error, FramingError::TooLarge { declared: 147_457 });
        assert_eq!(deframer.buffered(), 0);
        let error = collect(&mut Deframer::default(), &[0xff; 5]).unwrap_err();
        assert_eq!(error, FramingError::BadPrefix);
    }

    #[test]
    fn an_oversized_length_is_refused_byte_by_byte_too() {
        let mut deframer = Deframer::default();
        assert_eq!(collect(&mut deframer, &[0x81]).unwrap().len(), 0);
        assert_eq!(collect(&mut deframer, &[0x80]).unwrap().len(), 0);
        assert!(matches!(collect(&mut deframer, &[0x09]), Err(FramingError::TooLarge { .. })));
    }
}
