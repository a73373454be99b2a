//! What a stage knows of its clients and mailboxes: enough to choose who does something, and to know
//! what has to be heard before the next step.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use valise_client::OwnerKeyPair;
use valise_proto::{MailboxId, PublishBundle, ServerPacket, Token};

use crate::wire::{Via, Wire};

/// One client, connected or not.
pub struct Client {
    pub via: Via,
    pub wire: Option<Wire>,
    /// Its connections so far.
    pub life: u32,
    pub attachments: BTreeMap<u32, Attachment>,
    /// The mailbox that it asks to attach.
    pub attaching: Option<usize>,
    /// What it was told in this step; the end of the connection is `None`.
    pub heard: Vec<Option<ServerPacket<Bytes>>>,
}

/// One attachment of the connection there is.
pub struct Attachment {
    pub mailbox: usize,
    /// The number of its last delivery.
    pub n: u64,
    /// What was delivered and is no copy: number, frame, bytes.
    pub delivered: Vec<(u64, u32, usize)>,
    /// How many of these are acknowledged.
    pub acknowledged: usize,
    pub over: bool,
}

impl Attachment {
    pub fn new(mailbox: usize) -> Self {
        Self { mailbox, n: 0, delivered: Vec::new(), acknowledged: 0, over: false }
    }

    /// Payload bytes that were delivered and are not acknowledged.
    pub fn in_flight(&self) -> usize {
        self.delivered[self.acknowledged..].iter().map(|(_, _, bytes)| bytes).sum()
    }
}

/// One mailbox.
pub struct Mailbox {
    pub owner: OwnerKeyPair,
    pub id: MailboxId,
    pub members: Vec<Right>,
    pub capabilities: Vec<Right>,
    /// The capability that nobody revokes.
    pub marker: Option<Token>,
    pub slot_token: Option<Token>,
    pub take_token: Option<Token>,
    /// A slot token by whose revocation it is seen that all nodes know the earlier ones.
    pub probe: Option<Token>,
    /// By which client, under which number.
    pub attached: Option<(usize, u32)>,
    /// Frames that were accepted and not acknowledged.
    pub queue: Vec<u32>,
    /// Frames that were ever accepted.
    pub accepted: BTreeSet<u32>,
    /// Frames that were acknowledged since the mailbox last settled.
    pub unsettled: BTreeSet<u32>,
    /// Items of its bundle, and whether there is a last resort.
    pub bundle: (u32, bool),
    pub publication: Option<PublishBundle<Bytes>>,
}

/// A token of a mailbox.
#[derive(Clone, Copy)]
pub struct Right {
    pub token: Token,
    pub revoked: bool,
}

/// A frame that was posted: whose capabilities, and which.
#[derive(Clone)]
pub struct Posted {
    pub number: u32,
    pub bytes: usize,
    pub targets: Vec<(usize, usize)>,
}

/// A value that was put into a slot.
#[derive(Clone)]
pub struct Put {
    pub slot: u32,
    pub put: u32,
    pub payload: Bytes,
    pub account: usize,
}

impl Mailbox {
    pub fn new(owner: OwnerKeyPair, id: MailboxId) -> Self {
        Self {
            owner,
            id,
            members: Vec::new(),
            capabilities: Vec::new(),
            marker: None,
            slot_token: None,
            take_token: None,
            probe: None,
            attached: None,
            queue: Vec::new(),
            accepted: BTreeSet::new(),
            unsettled: BTreeSet::new(),
            bundle: (0, false),
            publication: None,
        }
    }

    /// Whether the owner is told, when somebody takes or attaches, that few items are left.
    pub fn bundle_is_low(&self) -> bool {
        self.bundle != (0, false) && self.bundle.0 < valise_proto::limits::BUNDLE_LOW_ITEMS
    }

    pub fn add(rights: &mut Vec<Right>, tokens: &[Token]) {
        rights.extend(tokens.iter().map(|token| Right { token: *token, revoked: false }));
    }
}

impl Client {
    pub fn new(via: Via) -> Self {
        Self {
            via,
            wire: None,
            life: 0,
            attachments: BTreeMap::new(),
            attaching: None,
            heard: Vec::new(),
        }
    }
}
