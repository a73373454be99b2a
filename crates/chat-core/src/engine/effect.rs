//! What a decision of the engine asks the world to do. Nothing of it happens before the decision is
//! committed: a frame is acknowledged, posted or shown only after that.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::oneshot;
use valise_client::{BundleItem, Publication, Receipt, SlotPut};
use valise_proto::{FrameId, PublicationId, PutId, Reason, RelayAddress, SlotId, Token};

use crate::api::{Command, Event, Refusal};
use crate::identity::InviteLink;
use crate::relays::{RelayError, RelayEvent};
use crate::seal::ItemKey;
use crate::wire;

/// Where a command's answer goes.
pub(super) type Reply = oneshot::Sender<Result<Value, Refusal>>;

/// A waiting command's number.
pub(super) type Ticket = u64;

/// Something happened.
pub(super) enum Input {
    Command(Command, Reply),
    Relay(RelayEvent),
    Done(Outcome),
    /// A timer is due, or may be.
    Tick,
}

/// Something to do, after the commit.
pub(super) enum Effect {
    Acknowledge(Receipt),
    Emit(Event),
    Answer(Reply, Result<Value, Refusal>),
    Start(Job),
    /// Ends the engine; the reason, if it is not by order.
    Stop(Option<String>),
}

/// One piece of network work. It ends by itself, in bounded time.
pub(super) enum Job {
    Post(Post),
    /// Tokens of one's own and key packages of others.
    Gather(Purpose, Gather),
    /// Reads what an invite opens.
    ReadInvite(Ticket, InviteLink),
    PutInvite {
        ticket: Ticket,
        link: InviteLink,
        is_link: bool,
        token: Token,
        payload: Bytes,
    },
    /// The values of a commit, part 0 last.
    PutCommit {
        group: i64,
        relay: RelayAddress,
        token: Token,
        puts: Vec<(SlotId, PutId, Bytes)>,
    },
    /// What lies in the next slots of some groups.
    Walk {
        relay: RelayAddress,
        heads: Vec<(i64, u64, u32, SlotId)>,
    },
    /// The later parts of a large commit.
    FetchParts {
        group: i64,
        epoch: u64,
        attempt: u32,
        relay: RelayAddress,
        ids: Vec<SlotId>,
    },
    /// A void for the slot of a later part that is missing.
    PutVoid {
        group: i64,
        epoch: u64,
        attempt: u32,
        part: u32,
        relay: RelayAddress,
        token: Token,
        slot: SlotId,
        payload: Bytes,
    },
    Publish(PublicationId, Publication),
    Revoke(i64, Token),
    RenewMember,
    /// Comes back after a while.
    Wait(Duration, Box<Outcome>),
}

/// A frame for mailboxes of one relay.
pub(super) struct Post {
    pub(super) deliveries: Vec<i64>,
    pub(super) relay: RelayAddress,
    pub(super) frame_id: FrameId,
    pub(super) capabilities: Vec<Token>,
    pub(super) payload: Bytes,
}

/// What has to be had before a decision can be made.
#[derive(Debug, Clone, Default)]
pub(super) struct Gather {
    /// So many capabilities of the own mailbox.
    pub(super) post: u32,
    /// So many rights to take from the own bundle.
    pub(super) take: u32,
    /// A right to write slots at the own relay.
    pub(super) slot: bool,
    /// One key package of each.
    pub(super) cards: Vec<wire::DeviceCard>,
}

/// What came of it.
#[derive(Default)]
pub(super) struct Gathered {
    pub(super) post: Vec<Token>,
    pub(super) take: Vec<Token>,
    pub(super) slot: Option<Token>,
    /// In the order of the cards; those that could not be had are missing.
    pub(super) packages: Vec<(wire::DeviceCard, Bytes)>,
    /// Why the last missing one is missing.
    pub(super) missing: Option<String>,
}

/// What the gathered things are for.
#[derive(Debug, Clone)]
pub(super) enum Purpose {
    /// A conversation with the account of a card.
    Greet {
        card: Box<wire::Card>,
        invite: Vec<u8>,
        ticket: Option<Ticket>,
    },
    CreateGroup {
        name: String,
        accounts: Vec<Vec<u8>>,
        ticket: Ticket,
    },
    Add {
        group: i64,
        account: Vec<u8>,
        ticket: Option<Ticket>,
    },
    Invite {
        ticket: Ticket,
    },
    /// An invite for a new device of the account, with a code for the relay, or none.
    DeviceLink {
        ticket: Ticket,
        join_code: Vec<u8>,
    },
    Bundle,
    /// A fresh capability for a conversation.
    Address {
        group: i64,
    },
    /// Fresh rights for one contact, to be sent as a card.
    Card {
        account: Vec<u8>,
        group: i64,
    },
    OwnCard,
    /// The group of the account's own devices.
    OwnGroup,
    /// For a group of before an export.
    ComeBack {
        row: i64,
    },
    Rejoin {
        group: i64,
    },
    LinkRequest,
    Slot {
        group: i64,
    },
    /// A slot token for members that have none of their own.
    SharedSlot {
        group: i64,
    },
}

/// What the slots say of a commit of our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CommitPut {
    /// It is the group's.
    Stored,
    /// Another part 0 was first.
    Taken(Bytes),
    /// The slot of a later part holds something else: nobody can put this commit together.
    Spoilt,
}

/// The end of a job.
pub(super) enum Outcome {
    Posted(Vec<i64>, Result<Vec<Option<Reason>>, RelayError>),
    Gathered(Purpose, Result<Gathered, RelayError>),
    Invite(Ticket, InviteLink, Result<Option<Bytes>, RelayError>),
    InvitePut(Ticket, InviteLink, Result<SlotPut, RelayError>),
    Committed {
        group: i64,
        result: Result<CommitPut, RelayError>,
    },
    Walked {
        heads: Vec<(i64, u64, u32)>,
        result: Result<Vec<Option<Bytes>>, RelayError>,
    },
    Parts {
        group: i64,
        epoch: u64,
        attempt: u32,
        result: Result<Vec<Option<Bytes>>, RelayError>,
    },
    Voided {
        group: i64,
        epoch: u64,
        attempt: u32,
        part: u32,
        result: Result<SlotPut, RelayError>,
    },
    Published(Result<u32, RelayError>),
    Revoked(i64, Result<(), RelayError>),
    MemberRenewed(Result<Token, RelayError>),
    RetryCommit(i64),
    WalkAgain(i64),
    /// A command that waits for something that is on its way.
    Again {
        command: Command,
        row: i64,
        ticket: Ticket,
        tries: u32,
    },
    Upkeep,
}

/// A bundle's item, opened with its card's key.
pub(super) fn open_item(card: &wire::DeviceCard, item: &BundleItem) -> Option<Bytes> {
    let key: [u8; 32] = card.bundle_key.as_slice().try_into().ok()?;
    let opened = crate::seal::item::open(&ItemKey::new(key), &item.payload).ok()?;
    Some(Bytes::from(opened.to_vec()))
}
