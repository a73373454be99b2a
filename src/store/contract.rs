//! The contract.
use super::*;
use bytes::Bytes;
use std::sync::Arc;
use valise_proto::{FrameId, MailboxId, PacketPayload};

/// A frame.
pub(crate) fn frame(mailbox: u8, seq: u64, bytes: usize) -> Frame {
    let mut id = [mailbox; 16];
    id[8..].copy_from_slice(&seq.to_be_bytes());
    Frame {
        mailbox: MailboxId::new([mailbox; 16]),
        seq: Seq(seq),
        frame_id: FrameId::new(id),
        accepted: RunningHours(5),
        ttl_hours: 24,
        payload: Payload::from_packet(Bytes::from(vec![seq as u8; bytes])),
    }
}
