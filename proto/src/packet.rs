//! The packets as the rest of the code sees them: checked, with ids of the right length. `P` is
//! the payload: opaque in the relay, [`bytes::Bytes`] in clients.

mod client;
mod server;

pub use client::{
    Attach, CLIENT_PACKET_NAMES, ClientPacket, Hello, Issue, Join, Post, PublishBundle, PutSlot,
    Revoke, Signal, TokenKind,
};
pub use server::{
    Deliver, Move, MovePhase, Posted, Refused, SERVER_PACKET_NAMES, ServerPacket, Welcome,
};
