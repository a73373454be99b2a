//! Encoded packets on their way to one write, and how a payload gets into them.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// What a packet carries for someone else. The relay's own payload type cannot be looked at, so
/// packets are generic over it; clients use [`Bytes`].
pub trait PacketPayload: Sized {
    /// Takes the bytes out of a decoded packet. They may share the packet's allocation.
    fn from_packet(bytes: Bytes) -> Self;

    /// Length in bytes.
    fn len(&self) -> usize;

    /// Whether there is nothing in it.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends exactly [`Self::len`] bytes to the packet buffer.
    fn write(&self, out: &mut PacketBuffer);
}

impl PacketPayload for Bytes {
    fn from_packet(bytes: Bytes) -> Self {
        bytes
    }

    fn len(&self) -> usize {
        Bytes::len(self)
    }

    fn write(&self, out: &mut PacketBuffer) {
        out.put_payload(self);
    }
}

/// Whole encoded packets that wait for one write. Empty, it holds no memory.
#[derive(Default)]
pub struct PacketBuffer {
    bytes: BytesMut,
}

impl PacketBuffer {
    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes not yet written.
    pub fn unwritten(&self) -> &[u8] {
        &self.bytes
    }

    /// Notes that the first `count` bytes were written; frees the memory once all were.
    pub fn written(&mut self, count: usize) {
        self.bytes.advance(count);
        if self.bytes.is_empty() {
            self.bytes = BytesMut::new();
        }
    }

    /// Takes everything out, for a transport that sends one message.
    pub fn take(&mut self) -> Bytes {
        std::mem::take(&mut self.bytes).freeze()
    }

    /// Appends a payload's bytes; called by [`PacketPayload::write`] alone.
    pub fn put_payload(&mut self, bytes: &[u8]) {
        self.bytes.put_slice(bytes);
    }

    pub(crate) fn encoder(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }
}
