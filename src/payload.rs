//! A frame's bytes, which this process cannot look at.
//!
//! There is no way from a [`Payload`] to a byte slice: no `AsRef`, no `Deref`, no `Serialize`, no
//! comparison; `Debug` prints its length. Its bytes go to two concrete sinks only, the packet
//! buffer of a connection and the record buffer of the store. `tests/opacity.rs` holds programs
//! that try otherwise and must not compile.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use valise_proto::{PacketBuffer, PacketPayload};

/// A sealed frame or signal. Cloning shares the memory.
#[derive(Clone)]
pub struct Payload(Bytes);

impl Payload {
    /// Length in bytes: all that anyone here may know of it.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends the bytes to a record on its way to the disk.
    pub(crate) fn write_record(&self, out: &mut RecordBuffer) {
        out.0.put_slice(&self.0);
    }

    /// Takes over the bytes of a record that was read from the disk and checked.
    pub(crate) fn from_record(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl PacketPayload for Payload {
    /// Takes over the packet's memory; decoding has seen to it that the payload is most of it.
    fn from_packet(bytes: Bytes) -> Self {
        Self(bytes)
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn write(&self, out: &mut PacketBuffer) {
        out.put_payload(&self.0);
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.0.len())
    }
}

/// A record on its way to the disk: the store writes its own header and checksum around a payload.
pub(crate) struct RecordBuffer(BytesMut);

impl RecordBuffer {
    /// Room for a record of this many bytes.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self(BytesMut::with_capacity(bytes))
    }

    /// Appends header or trailer bytes.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.0.put_slice(bytes);
    }

    /// The CRC-32 of what is in the record so far.
    pub(crate) fn crc(&self) -> u32 {
        crc32fast::hash(&self.0)
    }

    /// The finished record. Only the store's engine receives it.
    pub(crate) fn finish(self) -> Bytes {
        self.0.freeze()
    }
}
