//! The ends of Valise: what a chat client has to be so that only the two ends can read.
//!
//! [`engine::Engine`] runs a profile; [`api`] is what front ends say to it. Below it are the rooms
//! that know nothing of each other's business: [`identity`] (accounts and devices), [`mls`] (groups),
//! [`seal`] (what relays see), [`vault`] (what the disk sees), [`relays`] (connections).

pub mod api;
pub mod engine;
pub mod identity;
pub mod mls;
pub mod relays;
pub mod seal;
pub mod vault;
#[cfg(test)]
mod vectors;

/// What the ends say to each other: `proto/valise/chat/v1/chat.proto`.
#[allow(missing_docs, clippy::all)]
pub mod wire {
    include!(concat!(env!("OUT_DIR"), "/valise.chat.v1.rs"));
}

/// The longest text of a message, in bytes. Longer content is for attachments.
pub const TEXT_BYTES_MAX: usize = 4 * 1024 * 1024;

// Unit tests of the engine share the people of the tests outside.
#[cfg(test)]
extern crate self as valise_chat_core;
