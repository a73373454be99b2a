//! Valise: a messaging relay that cannot read what it carries.
//!
//! The rooms, from the outside in: `listener -> connection -> tls -> transport -> session ->
//! router -> mailbox -> store`. Lower rooms never import upper ones (`tests/tidy.rs`). `app` alone
//! knows everything. See docs/ARCHITECTURE.md.

pub mod identity;
pub mod limits;
pub mod payload;
pub mod store;
pub mod token;
