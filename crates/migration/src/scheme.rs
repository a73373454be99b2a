//! What the machines are generic over: ids, and how a log is hashed. The relay gives its own ids
//! and SHA-256; the explorer gives bytes.

use std::fmt::Debug;
use std::hash::Hash;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::entry::Entry;

/// The ids of a realm's things, and the hash that chains its logs.
pub trait Scheme: Debug + Copy + Eq + Hash + 'static {
    /// A mailbox.
    type Mailbox: Id;
    /// A frame's id, chosen by its sender.
    type Frame: Id;
    /// A token's serial.
    type Token: Id;
    /// A slot.
    type Slot: Id;
    /// Who put a value into a slot: the put id.
    type Put: Id;
    /// An item of a bundle.
    type Item: Id;
    /// An invite code.
    type Code: Id;
    /// What a log is known by; the default is that of an empty log.
    type Digest: Id + Default;

    /// The digest of a log that had `before` and got one entry more. Two logs of the same digest
    /// are the same log: the relay needs a hash without known collisions here.
    fn chain(before: Self::Digest, entry: &Entry<Self>) -> Self::Digest;
}

/// Small, copied, compared. Implemented by everything that can be.
pub trait Id: Debug + Copy + Ord + Hash + Serialize + DeserializeOwned {}

impl<T: Debug + Copy + Ord + Hash + Serialize + DeserializeOwned> Id for T {}

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident: $of:ty),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
        )]
        pub struct $name(pub $of);

        impl $name {
            /// The number after this one.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }
    )*};
}

numbers! {
    /// A migration of a realm: counted by whoever starts it, never used twice for a realm.
    Migration: u32,
    /// Of a shard's ledger: every change of what S may do makes a new one.
    Version: u32,
    /// One life of a supernode's process: drawn at random at each start (128 bits in the relay),
    /// so that a process restored from a backup has a new one too.
    Boot: u128,
    /// Of a realm's record: the highest is in force.
    Epoch: u64,
    /// A place in a shard's log: 0 is the first entry.
    Position: u64,
}
