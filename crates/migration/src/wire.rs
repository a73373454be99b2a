//! What an importer and a supernode say to each other, over TLS that both have proven a pinned key in.
//! The importer dials; it asks, and each question has one answer. The supernode asks one thing itself:
//! that a post be passed on. Each message is four bytes of length, big-endian, and [`encode`] of it.
//!
//! [`encode`]: crate::real::encode

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::importer::Report;
use crate::real::{Digest, Real, RealLine, RealRequest};
use crate::refusal::Refusal;
use crate::scheme::{Boot, Epoch, Position};

/// The version of these messages: both ends say theirs first, and end if they differ.
pub const VERSION: u32 = 1;

/// The longest message, in bytes: lines of 1 MiB of bodies, or a report of every shard.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// The bodies of an answer's lines together, in bytes, if there is more than one line.
pub const LINES_BYTES_MAX: usize = 1 << 20;

/// Lines in one answer: a batch at the data centre has 1,000 messages at most.
pub const LINES_MAX: usize = 900;

/// A supernode closes a connection from which it has heard nothing for so long, in seconds: an importer
/// with nothing to ask asks [`Question::Users`].
pub const SILENT_SECONDS: u64 = 60;

/// What the importer sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromImporter {
    /// A question, by a number of its own that the answer repeats.
    Ask(u32, Question),
    /// The answer to [`FromSupernode::Pass`] of this number: the outcome as the reason's number on
    /// the clients' wire.
    Passed(u64, u32),
}

/// What the supernode sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromSupernode {
    /// The answer to the question of this number.
    Answer(u32, Answer),
    /// A post for a shard that is the data centre's: publish it, and say what came of it.
    Pass(u64, Passing),
}

/// A post that is passed on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passing {
    /// Of which shard.
    pub shard: u8,
    /// The recipient's mailbox.
    pub mailbox: [u8; 16],
    /// The serial of the capability: the data centre may know that it is revoked.
    pub serial: [u8; 8],
    /// The frame as the supernode's store writes it, accepted in hour 0.
    pub record: Bytes,
}

/// What the importer asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// The first one.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// The realm it has come for.
        realm: [u8; 20],
    },
    /// How one shard is.
    Report(u8),
    /// How all shards are, in order.
    Reports,
    /// Entries of a shard's log from this place on, and the log's digest there.
    Fetch(u8, Position),
    /// Do this, if the process still has this boot.
    Tell(u8, Boot, RealRequest),
    /// Where clients are served by the data centre, as the realm's record lists it, and how many a
    /// second are told to move. They are told to prepare at once.
    Lead {
        /// `host:port` of nodes.
        endpoints: Vec<String>,
        /// Clients a second.
        per_second: u32,
    },
    /// Who still uses the supernode.
    Users,
    /// The realm's record, as the importer knows it: signature 64, record. A supernode that is in it puts
    /// it into force; one that is not serves the realm no more ([`Refusal::Fenced`]).
    Record(Bytes),
}

/// What the supernode answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Question::Hello`].
    Welcome(Welcome),
    /// To [`Question::Report`].
    Report(Box<Report<Real>>),
    /// To [`Question::Reports`]: 256, in order.
    Reports(Vec<Report<Real>>),
    /// To [`Question::Fetch`]: the digest up to the place asked for, none beyond the log's end.
    Lines(Option<Digest>, Vec<RealLine>),
    /// To [`Question::Tell`], [`Question::Lead`] and [`Question::Record`].
    Told(Result<(), Refusal>),
    /// To [`Question::Users`].
    Users(Users),
}

/// What a supernode says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// [`VERSION`].
    pub version: u32,
    /// Its program's version, in words.
    pub program: String,
    /// Its realm.
    pub realm: [u8; 20],
    /// The epoch of the realm's record it serves by.
    pub epoch: Epoch,
    /// The realm's record: signature 64, record.
    pub record: Bytes,
    /// This life of its process.
    pub boot: Boot,
    /// Frames it holds.
    pub frames: u64,
    /// Bytes of their payloads, about.
    pub bytes: u64,
    /// Frames that a mailbox may hold.
    pub mailbox_frames_max: u32,
    /// Bytes that a mailbox may hold.
    pub mailbox_bytes_max: u64,
}

/// Who uses a supernode.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Users {
    /// Connections.
    pub connections: u32,
    /// Attachments of mailboxes whose shard has moved.
    pub attachments: u32,
    /// Posts that are being passed on.
    pub passing: u32,
}
