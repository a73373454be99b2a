//! Which shard a mailbox belongs to: the unit in which mailboxes will be moved.

use std::fmt;

use aws_lc_rs::hmac;
use valise_proto::{MailboxId, SlotId};

/// The relay's secret 32 bytes from which shards follow. Without it, nobody can make many
/// mailboxes of one shard.
#[derive(Clone)]
pub struct ShardKey(hmac::Key);

impl ShardKey {
    /// Takes over the bytes.
    pub fn new(bytes: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// The mailbox's shard: the first byte of HMAC-SHA-256(shard key, mailbox).
    pub fn shard(&self, mailbox: &MailboxId) -> u8 {
        hmac::sign(&self.0, mailbox.as_bytes()).as_ref()[0]
    }

    /// The slot's shard: the first byte of HMAC-SHA-256(shard key, slot).
    pub fn slot_shard(&self, slot: &SlotId) -> u8 {
        hmac::sign(&self.0, slot.as_bytes()).as_ref()[0]
    }

    /// The shard of an invite code's serial, likewise.
    pub fn serial_shard(&self, serial: &[u8; 8]) -> u8 {
        hmac::sign(&self.0, serial).as_ref()[0]
    }
}

impl fmt::Debug for ShardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShardKey(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with another implementation: what is on disk must stay where it is.
    #[test]
    fn the_shard_is_stable() {
        let key = ShardKey::new(&[7; 32]);
        assert_eq!(key.shard(&MailboxId::new([1; 16])), 0x13);
        assert_eq!(key.shard(&MailboxId::new([2; 16])), 0x4c);
    }

    #[test]
    fn debug_shows_no_key() {
        assert_eq!(format!("{:?}", ShardKey::new(&[7; 32])), "ShardKey(redacted)");
    }
}
