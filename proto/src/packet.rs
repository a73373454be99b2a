//! The packets as the rest of the code sees them: checked, with ids of the right length. `P` is
//! the payload: opaque in the relay, [`bytes::Bytes`] in clients.

use crate::{
    CloseReason, FrameId, Nonce, OwnerKey, Reason, Signature, SignedRealmRecord, SigningKey, Token,
};

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

/// Reaches attached mailboxes only.
#[derive(Debug, Clone, PartialEq)]
pub struct Signal<P> {
    /// The targets.
    pub capabilities: Vec<Token>,
    /// What is signaled.
    pub payload: P,
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

impl<P> ClientPacket<P> {
    /// The packet's name in metrics, logs and documents.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "hello",
            Self::Join(_) => "join",
            Self::Attach(_) => "attach",
            Self::Detach { .. } => "detach",
            Self::Issue(_) => "issue",
            Self::Post(_) => "post",
            Self::Signal(_) => "signal",
            Self::Ack { .. } => "ack",
            Self::Ping { .. } => "ping",
            Self::Pong { .. } => "pong",
            Self::Unknown => "unknown",
        }
    }
}

impl<P> ServerPacket<P> {
    /// The packet's name in metrics, logs and documents.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Welcome(_) => "welcome",
            Self::Joined { .. } => "joined",
            Self::Attached { .. } => "attached",
            Self::Detached { .. } => "detached",
            Self::Issued { .. } => "issued",
            Self::Posted(_) => "posted",
            Self::Refused(_) => "refused",
            Self::Deliver(_) => "deliver",
            Self::Signaled { .. } => "signaled",
            Self::CaughtUp { .. } => "caught_up",
            Self::Replaced { .. } => "replaced",
            Self::Restarting { .. } => "restarting",
            Self::Closing(_) => "closing",
            Self::Ping { .. } => "ping",
            Self::Pong { .. } => "pong",
            Self::Unknown => "unknown",
        }
    }
}
