//! What a client says.

use crate::{FrameId, OwnerKey, PublicationId, PutId, Signature, SlotId, Token};

/// What a client says.
#[derive(Debug, Clone, PartialEq)]
pub enum ClientPacket<P> {
    /// Ends the opening; exactly once, first.
    Hello(Hello),
    /// Asks for a member token.
    Join(Box<Join>),
    /// Serves a mailbox on this connection.
    Attach(Box<Attach>),
    /// Stops serving it.
    Detach {
        /// Echoed in the answer.
        request: u32,
        /// The attachment's number.
        attachment: u32,
    },
    /// Asks for tokens.
    Issue(Issue),
    /// Ends a token before its last day.
    Revoke(Box<Revoke>),
    /// Puts a frame into mailboxes.
    Post(Post<P>),
    /// Reaches attached mailboxes, unstored and unanswered.
    Signal(Signal<P>),
    /// The deliveries of `attachment` up to `n` are committed on the device.
    Ack {
        /// The attachment's number.
        attachment: u32,
        /// The last delivery that is acknowledged.
        n: u64,
    },
    /// Writes a slot, if nothing is in it.
    PutSlot(Box<PutSlot<P>>),
    /// Reads slots.
    GetSlots {
        /// Echoed in the answer.
        request: u32,
        /// Which.
        slot_ids: Vec<SlotId>,
    },
    /// Adds to the bundle of an attached mailbox.
    PublishBundle(Box<PublishBundle<P>>),
    /// Takes an item of a bundle.
    TakeBundle {
        /// Echoed in the answer.
        request: u32,
        /// The right to take one.
        take_token: Token,
    },
    /// Answered by `Pong`.
    Ping {
        /// Echoed in the answer.
        request: u32,
    },
    /// The answer to the relay's `Ping`.
    Pong {
        /// The ping's number.
        request: u32,
    },
    /// A packet this version does not know; to be ignored.
    Unknown,
}

/// The client's choice.
#[derive(Debug, Clone, PartialEq)]
pub struct Hello {
    /// One of the versions offered.
    pub version: u32,
    /// A subset of the features offered.
    pub features: u64,
    /// The highest epoch of this realm the client has seen: a hint.
    pub realm_epoch: u64,
    /// Lets the connection wait without attaching.
    pub member_token: Option<Token>,
}

/// Asks for a member token.
#[derive(Debug, Clone, PartialEq)]
pub struct Join {
    /// Echoed in the answer.
    pub request: u32,
    /// The key the mailbox is named after.
    pub owner_key: OwnerKey,
    /// Over [`crate::statement::join`].
    pub signature: Signature,
    /// The invite code, where the access policy asks for one.
    pub join_token: Option<Token>,
    /// The signature has zeros for the channel (WebSocket only).
    pub without_channel: bool,
}

/// Serves a mailbox on this connection.
#[derive(Debug, Clone, PartialEq)]
pub struct Attach {
    /// Echoed in the answer.
    pub request: u32,
    /// The right to attach.
    pub member_token: Token,
    /// The key the mailbox is named after.
    pub owner_key: OwnerKey,
    /// Over [`crate::statement::attach`].
    pub signature: Signature,
    /// The signature has zeros for the channel (WebSocket only).
    pub without_channel: bool,
}

/// What a token is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TokenKind {
    /// May join the relay once.
    Join = 1,
    /// May attach the mailbox.
    Member = 2,
    /// The capability: may post into the mailbox.
    Post = 3,
    /// May take a bundle item.
    Take = 4,
    /// May write slots.
    Slot = 5,
    /// May upload blobs.
    Blob = 6,
}

impl TokenKind {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::Join, Self::Member, Self::Post, Self::Take, Self::Slot, Self::Blob];

    /// The kind of this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// Asks for tokens of an attached mailbox.
#[derive(Debug, Clone, PartialEq)]
pub struct Issue {
    /// Echoed in the answer.
    pub request: u32,
    /// The kind asked for; `None` for a number this version does not know.
    pub kind: Option<TokenKind>,
    /// The attachment whose mailbox it is.
    pub attachment: u32,
    /// How many.
    pub count: u32,
    /// For how many days.
    pub days: u32,
    /// How often a capability may be used; 0 is the default class.
    pub rate_class: u32,
}

/// Ends a token before its last day.
#[derive(Debug, Clone, PartialEq)]
pub struct Revoke {
    /// Echoed in the answer.
    pub request: u32,
    /// The attachment whose mailbox's token it is.
    pub attachment: u32,
    /// The token.
    pub token: Token,
}

/// Writes a slot, if nothing is in it.
#[derive(Debug, Clone, PartialEq)]
pub struct PutSlot<P> {
    /// Echoed in the answer.
    pub request: u32,
    /// The right to write slots.
    pub slot_token: Token,
    /// Which.
    pub slot_id: SlotId,
    /// Random; reused only to retry.
    pub put_id: PutId,
    /// What to put there.
    pub payload: P,
}

/// Adds to the bundle of an attached mailbox.
#[derive(Debug, Clone, PartialEq)]
pub struct PublishBundle<P> {
    /// Echoed in the answer.
    pub request: u32,
    /// The attachment whose mailbox's bundle it is.
    pub attachment: u32,
    /// Random; reused only to retry.
    pub publication_id: PublicationId,
    /// What the bundle held goes first.
    pub replace: bool,
    /// Handed out when no one-time item is left; `None` leaves it as it was.
    pub last_resort: Option<P>,
    /// One-time items.
    pub items: Vec<P>,
}

/// Puts a frame into mailboxes.
#[derive(Debug, Clone, PartialEq)]
pub struct Post<P> {
    /// Echoed in the answer.
    pub request: u32,
    /// Random; reused only to retry.
    pub frame_id: FrameId,
    /// The targets.
    pub capabilities: Vec<Token>,
    /// How long to keep it, in hours; 0 is the default.
    pub ttl_hours: u32,
    /// The frame.
    pub payload: P,
}

/// Reaches attached mailboxes only.
#[derive(Debug, Clone, PartialEq)]
pub struct Signal<P> {
    /// The targets.
    pub capabilities: Vec<Token>,
    /// What is signaled.
    pub payload: P,
}

/// Every name that [`ClientPacket::name`] gives.
pub const CLIENT_PACKET_NAMES: &[&str] = &[
    "hello",
    "join",
    "attach",
    "detach",
    "issue",
    "revoke",
    "post",
    "signal",
    "ack",
    "put_slot",
    "get_slots",
    "publish_bundle",
    "take_bundle",
    "ping",
    "pong",
    "unknown",
];

impl<P> ClientPacket<P> {
    /// The packet's name in metrics, logs and documents.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "hello",
            Self::Join(_) => "join",
            Self::Attach(_) => "attach",
            Self::Detach { .. } => "detach",
            Self::Issue(_) => "issue",
            Self::Revoke(_) => "revoke",
            Self::Post(_) => "post",
            Self::Signal(_) => "signal",
            Self::Ack { .. } => "ack",
            Self::PutSlot(_) => "put_slot",
            Self::GetSlots { .. } => "get_slots",
            Self::PublishBundle(_) => "publish_bundle",
            Self::TakeBundle { .. } => "take_bundle",
            Self::Ping { .. } => "ping",
            Self::Pong { .. } => "pong",
            Self::Unknown => "unknown",
        }
    }
}
