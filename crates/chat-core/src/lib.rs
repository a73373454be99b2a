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

// The people of `tests/common` are also in the engine's own tests.
#[cfg(test)]
extern crate self as valise_chat_core;

/// What the ends say to each other: `proto/valise/chat/v1/chat.proto`.
#[allow(missing_docs, clippy::all)]
pub mod wire {
    include!(concat!(env!("OUT_DIR"), "/valise.chat.v1.rs"));
}

/// The longest text of a message, in bytes. Longer content is for attachments.
pub const TEXT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How long a key package can be used, in days. MLS asks the local clock while it follows a commit: a
/// package that ends while a member is away would split the group. What ends a package is that it is
/// used, or that the bundle is published anew.
pub const KEY_PACKAGE_DAYS: u64 = 3_650;

// Unit tests of the engine share the people of the tests outside.
#[cfg(test)]
extern crate self as valise_chat_core;
