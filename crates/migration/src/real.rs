//! The scheme of real realms: their ids as bytes, and SHA-256.

use aws_lc_rs::digest::{Context, SHA256};

use crate::entry::{Cursor, Entry, Line};
use crate::ledger::{Ledger, Seal};
use crate::scheme::Scheme;
use crate::shard::{Record, Request, Shard};
use bytes::Bytes;

/// The scheme of supernodes, importers and data centres.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Real;

/// SHA-256 of a log; that of an empty log is 32 zeros.
pub type Digest = [u8; 32];

impl Scheme for Real {
    type Mailbox = [u8; 16];
    type Frame = [u8; 16];
    type Token = [u8; 8];
    type Slot = [u8; 32];
    type Put = [u8; 16];
    /// The item's number in its mailbox's bundle.
    type Item = u32;
    type Code = [u8; 8];
    type Digest = Digest;

    /// SHA-256 of the digest before and of the entry as it is stored and sent ([`encode`]).
    fn chain(before: Digest, entry: &Entry<Self>) -> Digest {
        let mut context = Context::new(&SHA256);
        context.update(&before);
        context.update(&encode(entry));
        context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
    }
}

/// An entry of a real log.
pub type RealEntry = Entry<Real>;
/// An entry with what belongs to it: a record that the supernode's store has made.
pub type RealLine = Line<Real, Bytes>;
/// How far a real log was read.
pub type RealCursor = Cursor<Real>;
/// A real shard's ledger.
pub type RealLedger = Ledger<Real>;
/// A real shard's seal.
pub type RealSeal = Seal<Real>;
/// A real shard at its supernode.
pub type RealShard = Shard<Real>;
/// The same on its disk.
pub type RealRecord = Record<Real>;
/// What is asked of it.
pub type RealRequest = Request<Real>;

/// A value of this crate as bytes: the format of postcard 1, which stays as it is. It is stored, sent
/// and hashed.
///
/// # Panics
/// Never: everything in this crate can be written.
#[must_use]
pub fn encode<T: serde::Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("everything here can be written")
}

/// Reads [`encode`] back; none for what is damaged or has something left over.
#[must_use]
pub fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let (value, rest) = postcard::take_from_bytes(bytes).ok()?;
    rest.is_empty().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheme::{Boot, Migration, Position, Version};
    use crate::{Refusal, Stage};

    /// What is on disks and on the bus must be readable by the next version.
    #[test]
    fn the_bytes_are_stable() {
        let entry: RealEntry = Entry::Appended { mailbox: [1; 16], frame: [2; 16] };
        assert_eq!(encode(&entry), [&[0][..], &[1; 16], &[2; 16]].concat());
        let entry: RealEntry = Entry::Acknowledged { mailbox: [1; 16], below: Position(300) };
        assert_eq!(encode(&entry), [&[1][..], &[1; 16], &[0xac, 0x02]].concat());
        assert_eq!(encode::<RealEntry>(&Entry::Sealed), [9]);
        let stage = Stage::Importing(RealCursor::start());
        let ledger = Ledger { migration: Migration(1), version: Version(2), boot: Boot(3), stage };
        assert_eq!(encode(&ledger), [&[1, 2, 3, 0, 0][..], &[0; 32]].concat());
        assert_eq!(decode::<RealLedger>(&encode(&ledger)), Some(ledger));
        assert_eq!(encode(&Refusal::Fenced), [11]);
    }

    #[test]
    fn a_log_is_known_by_its_digest() {
        let entry: RealEntry = Entry::Spent { code: [7; 8] };
        let (one, two) =
            (RealCursor::start().after(&entry), RealCursor::start().after(&Entry::Sealed));
        assert_ne!(one.digest, two.digest);
        assert_ne!(one.after(&entry).digest, one.digest);
        assert_eq!(one.next, Position(1));
    }

    #[test]
    fn what_is_damaged_is_nothing() {
        let entry: RealEntry = Entry::Put { slot: [1; 32], put: [2; 16] };
        let bytes = encode(&entry);
        for len in 0..bytes.len() {
            assert_eq!(decode::<RealEntry>(&bytes[..len]), None, "{len}");
        }
        assert_eq!(decode::<RealEntry>(&[&bytes[..], &[0]].concat()), None);
        assert_eq!(decode::<RealEntry>(&[200]), None);
    }
}
