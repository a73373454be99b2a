//! The decisions of a live migration from a supernode to a data centre, and nothing else: no I/O,
//! no clock, no async. `docs/MIGRATION-MODEL.md` says what they are for and how they are checked.
//!
//! | module | whose decisions | called by |
//! |---|---|---|
//! | [`ledger`] | the record at the data centre that says whose a shard is | importer, nodes |
//! | [`shard`] | one shard at the supernode | the relay |
//! | [`realm`] | the supernode's realm | the relay |
//! | [`plan`] | a stretch of a log, as removals and a batch | importer |
//! | [`importer`] | one shard's importer | `valisectl migrate` |
//! | [`client`] | where to attach, when to say a post again | the client library |
//!
//! [`real`] has the ids and the digest of real realms, [`wire`] what an importer and a supernode say.
//!
//! Every machine is a value; a step consumes it and returns the next one with what is to be done.
//! A step that is refused leaves everything as it was. `model/` has the world in which the
//! explorer and the simulation run these very functions.

pub mod client;
pub mod entry;
pub mod importer;
pub mod ledger;
pub mod plan;
pub mod real;
pub mod realm;
mod refusal;
mod scheme;
pub mod shard;
pub mod wire;

pub use entry::{Cursor, Entry, Line};
pub use ledger::{Ledger, Seal, Stage};
pub use refusal::Refusal;
pub use scheme::{Boot, Epoch, Id, Migration, Position, Scheme, Version};
pub use shard::{Record, Request, Shard};
