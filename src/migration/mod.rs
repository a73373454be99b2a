//! The live move of a supernode into a data centre, at the supernode: its port for the importer, posts that
//! are passed on, and clients that are led away. The decisions are those of `crates/migration`.

mod clients;
mod exporter;
mod leading;
mod listener;
pub mod message;
mod passing;
pub mod peer;
mod shards;

pub use clients::{Clients, Led};
pub use exporter::{Exporter, Holdings, Supernode, signed_out};
pub use listener::Port;
pub use passing::Passing;
pub use peer::{KeyError, PeerKey, Pin};
pub use shards::{Mode, Shards};
