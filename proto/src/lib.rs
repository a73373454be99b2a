//! The Valise protocol, version 1: packets, ids, codec, limits, realm records and the statements
//! that are signed. No I/O, no clock, no global state: every function here is pure.
//!
//! `docs/PROTOCOL.md` is the law; this crate is its reading in Rust. Decoding happens once, at the
//! edge ([`ClientPacket::decode`], [`ServerPacket::decode`]), and yields checked types: an id of a
//! wrong length does not exist beyond it.

mod address;
mod buffer;
mod convert;
mod deframer;
mod ids;
pub mod limits;
mod packet;
mod realm;
mod reason;
pub mod statement;

pub use address::{AddressError, RelayAddress, from_base32, to_base32};
pub use buffer::{PacketBuffer, PacketPayload};
pub use convert::PacketError;
pub use deframer::{Deframer, FramingError};
pub use ids::{
    Channel, FrameId, IdError, MailboxId, Nonce, OwnerKey, PublicationId, PutId, RealmId,
    Signature, SigningKey, SlotId, Token,
};
pub use packet::{
    Attach, CLIENT_PACKET_NAMES, ClientPacket, Deliver, Hello, Issue, Join, Move, MovePhase, Post,
    Posted, PublishBundle, PutSlot, Refused, Revoke, SERVER_PACKET_NAMES, ServerPacket, Signal,
    TokenKind, Welcome,
};
pub use realm::{RealmError, RealmRecord, RelayKey, SignedRealmRecord};
pub use reason::{CloseReason, Reason};

/// The prost types compiled from `proto/valise/v1/valise.proto`. They end at [`convert`]: nothing
/// but that file and `realm.rs` names them.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
pub(crate) mod pb {
    include!(concat!(env!("OUT_DIR"), "/valise.v1.rs"));
}

/// The protocol version this crate speaks.
pub const VERSION: u32 = 1;

/// The optional features of this version, a bit set: there are none yet.
pub const FEATURES: u64 = 0;

/// The ALPN protocol id of the raw packet stream (RFC 7301).
pub const ALPN: &[u8] = b"valise/1";

/// The path of the WebSocket transport on the HTTPS side.
pub const WEBSOCKET_PATH: &str = "/v1/relay";
