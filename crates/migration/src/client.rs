//! What a client decides about a `Move`: where it attaches, and when it says a post again.
//!
//! The client library (`crates/client`) does what one [`Berth`] for each mailbox it serves and one
//! [`Errand`] for each request say, and does not call them: it knows the places of a record, and not
//! which of them is whose (docs/decisions/0047). The order of posts is the `Outbox`'s, which has one
//! errand at a time for a target.

use crate::refusal::Refusal;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// The supernode.
    Supernode,
    /// The data centre.
    DataCentre,
}

impl Side {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Supernode => Self::DataCentre,
            Self::DataCentre => Self::Supernode,
        }
    }
}

/// Where a mailbox is served for this client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Berth {
    /// Not attached; it will try here.
    Away(Side),
    /// Attached.
    At(Side),
    /// Taken over by another instance of this device: it stays away until its user asks.
    TakenOver,
}

/// What happened to a mailbox's attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// `Move{prepare}`: a connection is opened to the data centre and held.
    Prepare,
    /// `Move{go}` for this mailbox.
    Go,
    /// `Attached`, from this side.
    Attached(Side),
    /// An attach was refused by this side.
    Refused(Side, Refusal),
    /// The connection to this side is lost.
    Lost(Side),
    /// `Replaced`, from this side.
    Replaced(Side),
}

/// What the client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errands {
    /// Nothing.
    Wait,
    /// Open a connection to the data centre, and hold it.
    Hold,
    /// Attach there, over the connection held if there is one.
    Attach(Side),
    /// Attach there, after the usual pause.
    AttachLater(Side),
}

impl Berth {
    /// One step. News of a side the client has turned away from changes nothing.
    #[must_use]
    pub const fn step(self, news: News) -> (Self, Errands) {
        match (self, news) {
            (Self::TakenOver, _) => (self, Errands::Wait),
            (_, News::Prepare) => (self, Errands::Hold),
            (Self::At(Side::DataCentre), News::Go) => (self, Errands::Wait),
            (_, News::Go) => (Self::Away(Side::DataCentre), Errands::Attach(Side::DataCentre)),
            (Self::Away(want), News::Attached(side)) if same(want, side) => {
                (Self::At(side), Errands::Wait)
            }
            (Self::Away(want), News::Refused(side, Refusal::Moved)) if same(want, side) => {
                (Self::Away(side.other()), Errands::AttachLater(side.other()))
            }
            (Self::Away(want), News::Refused(side, _) | News::Lost(side)) if same(want, side) => {
                (self, Errands::AttachLater(side))
            }
            (Self::At(at), News::Lost(side)) if same(at, side) => {
                (Self::Away(side), Errands::AttachLater(side))
            }
            (Self::At(at), News::Replaced(side)) if same(at, side) => {
                (Self::TakenOver, Errands::Wait)
            }
            _ => (self, Errands::Wait),
        }
    }
}

const fn same(a: Side, b: Side) -> bool {
    matches!((a, b), (Side::Supernode, Side::Supernode) | (Side::DataCentre, Side::DataCentre))
}

/// A request that has not been answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errand {
    /// Where it is said next.
    pub side: Side,
}

/// What became of a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// It is decided: accepted, stored, or refused with a reason that is final.
    Decided,
    /// This side said so.
    Refused(Side, Refusal),
    /// No answer, or the connection is lost: it may have been done.
    Unknown,
    /// The realm's next record came, which lists the data centre alone.
    Record,
}

impl Errand {
    /// What to do with the request: none when it is decided; otherwise say it again, with the
    /// same id, before anything newer for the same target.
    #[must_use]
    pub fn step(self, reply: Reply) -> Option<Self> {
        match reply {
            Reply::Decided => None,
            Reply::Refused(side, Refusal::Moved) if side == self.side => {
                Some(Self { side: side.other() })
            }
            Reply::Refused(..) | Reply::Unknown => Some(self),
            Reply::Record => Some(Self { side: Side::DataCentre }),
        }
    }
}
