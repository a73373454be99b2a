//! The log of a shard: what happened to it at the supernode, in one order.
//!
//! An entry holds ids only. What belongs to it (a payload, a slot's value, an item) travels beside
//! it in a [`Line`] while the supernode still has it, and its length of life with it.

use serde::{Deserialize, Serialize};

use crate::scheme::{Position, Scheme};

/// One thing that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(bound = "")]
pub enum Entry<S: Scheme> {
    /// A frame was stored.
    Appended {
        /// Where.
        mailbox: S::Mailbox,
        /// Which.
        frame: S::Frame,
    },
    /// The device has every frame of its mailbox that was stored before this place.
    Acknowledged {
        /// Whose.
        mailbox: S::Mailbox,
        /// The first place that is not covered.
        below: Position,
    },
    /// A frame's time was over before its device came. Without this entry the data centre would
    /// hold more than the supernode, and a mailbox that is full here would be too full there.
    Expired {
        /// Where.
        mailbox: S::Mailbox,
        /// The place of its `Appended`.
        at: Position,
    },
    /// A token was ended.
    Revoked {
        /// Whose.
        mailbox: S::Mailbox,
        /// Which.
        token: S::Token,
    },
    /// A slot got its value.
    Put {
        /// Which.
        slot: S::Slot,
        /// By which put.
        put: S::Put,
    },
    /// A bundle got an item.
    Offered {
        /// Whose.
        mailbox: S::Mailbox,
        /// Which.
        item: S::Item,
    },
    /// A publication replaced what the bundle held before this place.
    Withdrawn {
        /// Whose.
        mailbox: S::Mailbox,
        /// The first place that is not covered.
        below: Position,
    },
    /// An item was handed out.
    Taken {
        /// Whose.
        mailbox: S::Mailbox,
        /// Which.
        item: S::Item,
    },
    /// A single-use invite code was used.
    Spent {
        /// Which.
        code: S::Code,
    },
    /// The shard was sealed. An un-sealed shard's log goes on after it.
    Sealed,
}

/// An entry with what belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(bound(serialize = "B: Serialize", deserialize = "B: Deserialize<'de>"))]
pub struct Line<S: Scheme, B> {
    /// What happened.
    pub entry: Entry<S>,
    /// Its payload, value or item; none where the supernode does not have it any more, because a
    /// later entry has removed it.
    pub body: Option<B>,
}

/// How far a log was read, and what it was up to there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Cursor<S: Scheme> {
    /// The first place that was not read.
    pub next: Position,
    /// Of everything before it.
    pub digest: S::Digest,
}

impl<S: Scheme> Cursor<S> {
    /// Before the first entry.
    #[must_use]
    pub fn start() -> Self {
        Self { next: Position(0), digest: S::Digest::default() }
    }

    /// After one entry more.
    #[must_use]
    pub fn after(self, entry: &Entry<S>) -> Self {
        Self { next: self.next.next(), digest: S::chain(self.digest, entry) }
    }
}
