//! The ends of Valise: what a chat client has to be so that only the two ends can read.

pub mod api;
pub mod identity;
pub mod mls;
pub mod relays;
pub mod seal;
pub mod vault;

/// What the ends say to each other: `proto/valise/chat/v1/chat.proto`.
#[allow(missing_docs, clippy::all)]
pub mod wire {
    include!(concat!(env!("OUT_DIR"), "/valise.chat.v1.rs"));
}
