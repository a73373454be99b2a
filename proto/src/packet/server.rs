//! What a relay says.

use crate::{CloseReason, FrameId, Nonce, Reason, Signature, SignedRealmRecord, SigningKey, Token};

/// What a relay says.
#[derive(Debug, Clone, PartialEq)]
pub enum ServerPacket<P> {
    /// The first packet of a connection.
    Welcome(Box<Welcome>),
    /// The answer to `Join`.
    Joined {
        /// The request answered.
        request: u32,
        /// The right to attach the mailbox.
        member_token: Token,
    },
    /// The answer to `Attach`.
    Attached {
        /// The request answered.
        request: u32,
        /// The attachment's number.
        attachment: u32,
    },
    /// The answer to `Detach`.
    Detached {
        /// The request answered.
        request: u32,
    },
    /// The answer to `Issue`.
    Issued {
        /// The request answered.
        request: u32,
        /// As many as asked for.
        tokens: Vec<Token>,
    },
    /// The answer to `Revoke`.
    Revoked {
        /// The request answered.
        request: u32,
    },
    /// The answer to `PutSlot`: the slot holds what this put brought.
    Stored {
        /// The request answered.
        request: u32,
    },
    /// The answer to `PutSlot`: another put was first.
    Taken {
        /// The request answered.
        request: u32,
        /// What the slot holds.
        payload: P,
    },
    /// The answer to `GetSlots`.
    Slots {
        /// The request answered.
        request: u32,
        /// What the first of the slots asked for hold, in order; `None` for a free one.
        payloads: Vec<Option<P>>,
    },
    /// The answer to `PublishBundle`.
    Published {
        /// The request answered.
        request: u32,
        /// One-time items in the bundle now.
        items: u32,
    },
    /// The answer to `TakeBundle`.
    BundleItem {
        /// The request answered.
        request: u32,
        /// No one-time item was left.
        last_resort: bool,
        /// The item.
        payload: P,
    },
    /// Few one-time items are left.
    BundleLow {
        /// The attachment's number.
        attachment: u32,
        /// One-time items in its mailbox's bundle.
        items: u32,
    },
    /// The answer to `Post`, once every target is decided.
    Posted(Posted),
    /// A request that was not carried out.
    Refused(Refused),
    /// One frame.
    Deliver(Deliver<P>),
    /// A signal for an attached mailbox.
    Signaled {
        /// The attachment's number.
        attachment: u32,
        /// What was signaled.
        payload: P,
    },
    /// What was stored when the attachment began has been delivered.
    CaughtUp {
        /// The attachment's number.
        attachment: u32,
    },
    /// The mailbox was attached elsewhere.
    Replaced {
        /// The attachment's number.
        attachment: u32,
    },
    /// The relay is about to restart.
    Restarting {
        /// Reconnect after a random part of this, in milliseconds.
        reconnect_in_ms: u32,
        /// Keep trying for this long, in milliseconds.
        try_for_ms: u32,
    },
    /// The client is better served elsewhere in its realm.
    Move(Box<Move>),
    /// The last packet of a connection the relay ends; `None` for a reason this version does not
    /// know.
    Closing(Option<CloseReason>),
    /// To be answered by `Pong`.
    Ping {
        /// To be echoed.
        request: u32,
    },
    /// The answer to the client's `Ping`.
    Pong {
        /// The ping's number.
        request: u32,
    },
    /// A packet this version does not know; to be ignored.
    Unknown,
}

/// The relay introduces itself and proves that it holds the realm's relay key on this channel.
#[derive(Debug, Clone, PartialEq)]
pub struct Welcome {
    /// Protocol versions offered, ascending.
    pub versions: Vec<u32>,
    /// Optional features offered, a bit set.
    pub features: u64,
    /// Where and by whom the realm is served.
    pub realm_record: SignedRealmRecord,
    /// Fresh for this connection.
    pub nonce: Nonce,
    /// One of the record's relay keys.
    pub signing_key: SigningKey,
    /// Over [`crate::statement::welcome`].
    pub signature: Signature,
}

/// The outcomes of a post.
#[derive(Debug, Clone, PartialEq)]
pub struct Posted {
    /// The request answered.
    pub request: u32,
    /// The frame's id.
    pub frame_id: FrameId,
    /// One per capability, in order; `None` for a reason this version does not know, which is a
    /// refusal.
    pub outcomes: Vec<Option<Reason>>,
    /// When a retry of the retryable ones makes sense, in milliseconds.
    pub retry_after_ms: u32,
}

/// One frame on its way to its recipient.
#[derive(Debug, Clone, PartialEq)]
pub struct Deliver<P> {
    /// The attachment's number.
    pub attachment: u32,
    /// This attachment's deliveries count 1, 2, 3, ...
    pub n: u64,
    /// The frame's id.
    pub frame_id: FrameId,
    /// The frame.
    pub payload: P,
}

/// A request that was not carried out.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    /// The request refused.
    pub request: u32,
    /// Why; `None` for a reason this version does not know.
    pub reason: Option<Reason>,
    /// When a retry makes sense, in milliseconds; 0: not as it stands.
    pub retry_after_ms: u32,
}

/// Asks a client to be served at another endpoint of its realm.
#[derive(Debug, Clone, PartialEq)]
pub struct Move {
    /// What to do; `None` for a phase this version does not know: nothing.
    pub phase: Option<MovePhase>,
    /// A newer realm record than the one of `Welcome`.
    pub realm_record: Option<SignedRealmRecord>,
    /// `host:port`, in order of preference. Each is to be one of the realm record's.
    pub endpoints: Vec<String>,
    /// A random part of this is waited for first, in milliseconds.
    pub spread_ms: u32,
}

/// What a [`Move`] asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MovePhase {
    /// Open a connection there and hold it.
    Prepare = 1,
    /// Be served there.
    Go = 2,
}

impl MovePhase {
    /// Every phase.
    pub const ALL: [Self; 2] = [Self::Prepare, Self::Go];

    /// The phase of this number.
    pub fn from_number(number: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| *phase as i32 == number)
    }
}

/// Every name that [`ServerPacket::name`] gives.
pub const SERVER_PACKET_NAMES: &[&str] = &[
    "welcome",
    "joined",
    "attached",
    "detached",
    "issued",
    "revoked",
    "stored",
    "taken",
    "slots",
    "published",
    "bundle_item",
    "bundle_low",
    "posted",
    "refused",
    "deliver",
    "signaled",
    "caught_up",
    "replaced",
    "restarting",
    "move",
    "closing",
    "ping",
    "pong",
    "unknown",
];

impl<P> ServerPacket<P> {
    /// The packet's name in metrics, logs and documents.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Welcome(_) => "welcome",
            Self::Joined { .. } => "joined",
            Self::Attached { .. } => "attached",
            Self::Detached { .. } => "detached",
            Self::Issued { .. } => "issued",
            Self::Revoked { .. } => "revoked",
            Self::Stored { .. } => "stored",
            Self::Taken { .. } => "taken",
            Self::Slots { .. } => "slots",
            Self::Published { .. } => "published",
            Self::BundleItem { .. } => "bundle_item",
            Self::BundleLow { .. } => "bundle_low",
            Self::Posted(_) => "posted",
            Self::Refused(_) => "refused",
            Self::Deliver(_) => "deliver",
            Self::Signaled { .. } => "signaled",
            Self::CaughtUp { .. } => "caught_up",
            Self::Replaced { .. } => "replaced",
            Self::Restarting { .. } => "restarting",
            Self::Move(_) => "move",
            Self::Closing(_) => "closing",
            Self::Ping { .. } => "ping",
            Self::Pong { .. } => "pong",
            Self::Unknown => "unknown",
        }
    }
}
