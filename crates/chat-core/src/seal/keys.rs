//! The keys of the outer seal. None of them is ever printed, and their memory is cleared.

use std::fmt;

use valise_client::random;
use valise_proto::IdError;
use zeroize::{Zeroize, Zeroizing};

/// What the MLS exporter (RFC 9420, section 8.5) gives all members in one epoch of a group:
/// `MLS-Exporter(label, "", 32)` with the labels "valise hint", "valise envelope", "valise slot".
#[derive(Clone)]
pub struct EpochKeys {
    /// The group's epoch.
    pub epoch: u64,
    /// Makes the first 8 bytes of a frame, by which members know it as theirs.
    pub hint: [u8; 32],
    /// Seals frames and slot values.
    pub envelope: [u8; 32],
    /// Says in which slots the epoch's commit may lie.
    pub slot: [u8; 32],
}

impl Drop for EpochKeys {
    fn drop(&mut self) {
        self.hint.zeroize();
        self.envelope.zeroize();
        self.slot.zeroize();
    }
}

impl fmt::Debug for EpochKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EpochKeys(epoch {}, redacted)", self.epoch)
    }
}

/// Seals what lies in one place: a device's bundle items, an invite's or a link's slot.
#[derive(Clone)]
pub struct ItemKey(Zeroizing<[u8; 32]>);

impl ItemKey {
    /// A new key, for a bundle.
    pub fn random() -> Self {
        Self::new(random::bytes())
    }

    /// Wraps the bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, to be kept or to be put into a card.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl TryFrom<&[u8]> for ItemKey {
    type Error = IdError;

    fn try_from(bytes: &[u8]) -> Result<Self, IdError> {
        bytes.try_into().map(Self::new).map_err(|_| IdError {
            what: "ItemKey",
            expected: 32,
            got: bytes.len(),
        })
    }
}

impl fmt::Debug for ItemKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ItemKey(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_key() {
        let key = [0xab; 32];
        let keys = EpochKeys { epoch: 7, hint: key, envelope: key, slot: key };
        let shown = format!("{keys:?} {:?}", ItemKey::new(key));
        assert_eq!(shown, "EpochKeys(epoch 7, redacted) ItemKey(redacted)");
    }
}
