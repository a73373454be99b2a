//! Ids of one or two bytes, for worlds that have to be small.

use valise_migration::importer::{Action, Importer};
use valise_migration::plan::Removal;
use valise_migration::{Cursor, Entry, Ledger, Record, Request, Scheme, Shard};

/// The scheme of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tiny;

impl Scheme for Tiny {
    type Mailbox = u8;
    /// The lane, then the counter.
    type Frame = u16;
    /// The lane it is for.
    type Token = u8;
    type Slot = u8;
    type Put = u8;
    type Item = u8;
    type Code = u8;
    type Digest = u32;

    fn chain(before: u32, entry: &Entry<Self>) -> u32 {
        let (kind, what) = match *entry {
            Entry::Appended { mailbox, frame } => (1, u32::from(mailbox) << 16 | u32::from(frame)),
            Entry::Acknowledged { mailbox, below } => {
                (2, u32::from(mailbox) << 16 | below.0 as u32)
            }
            Entry::Expired { mailbox, at } => (3, u32::from(mailbox) << 16 | at.0 as u32),
            Entry::Revoked { mailbox, token } => (4, u32::from(mailbox) << 16 | u32::from(token)),
            Entry::Put { slot, put } => (5, u32::from(slot) << 16 | u32::from(put)),
            Entry::Offered { mailbox, item } => (6, u32::from(mailbox) << 16 | u32::from(item)),
            Entry::Withdrawn { mailbox, below } => (7, u32::from(mailbox) << 16 | below.0 as u32),
            Entry::Taken { mailbox, item } => (8, u32::from(mailbox) << 16 | u32::from(item)),
            Entry::Spent { code } => (9, u32::from(code)),
            Entry::Sealed => (10, 0),
        };
        let mixed = (before ^ (kind << 28) ^ what.rotate_left(9)).wrapping_mul(0x9E37_79B1);
        mixed ^ mixed >> 15
    }
}

pub type TinyEntry = Entry<Tiny>;
pub type TinyCursor = Cursor<Tiny>;
pub type TinyLedger = Ledger<Tiny>;
pub type TinyShard = Shard<Tiny>;
pub type TinyRecord = Record<Tiny>;
pub type TinyRequest = Request<Tiny>;
pub type TinyRemoval = Removal<Tiny>;
pub type TinyImporter = Importer<Tiny, ()>;
pub type TinyAction = Action<Tiny, ()>;
