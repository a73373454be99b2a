//! A stream, cut where its first byte says: the cuts change nothing, and no more than one packet is
//! ever held.
#![no_main]

use libfuzzer_sys::fuzz_target;
use valise_proto::limits::{LENGTH_PREFIX_BYTES_MAX, PACKET_BYTES_MAX};
use valise_proto::{Deframer, FramingError};

fuzz_target!(|bytes: &[u8]| {
    let Some((cut, stream)) = bytes.split_first() else { return };
    assert_eq!(read(stream, usize::from(*cut) + 1), read(stream, stream.len().max(1)));
});

/// The lengths of the packets, and what broke the stream.
fn read(stream: &[u8], cut: usize) -> (Vec<usize>, Option<FramingError>) {
    let mut deframer = Deframer::default();
    let mut lengths = Vec::new();
    for mut input in stream.chunks(cut) {
        loop {
            match deframer.next(&mut input) {
                Ok(Some(packet)) => lengths.push(packet.len()),
                Ok(None) => break,
                Err(error) => return (lengths, Some(error)),
            }
        }
        assert!(deframer.buffered() < LENGTH_PREFIX_BYTES_MAX + PACKET_BYTES_MAX);
    }
    (lengths, None)
}
