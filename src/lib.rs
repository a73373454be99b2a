//! Valise: a messaging relay that cannot read what it carries.
//!
//! The rooms, from the outside in: `listener -> connection -> tls -> transport -> link -> session ->
//! router -> engine -> mailbox -> committer -> store`. Lower rooms never import upper ones
//! (`tests/tidy.rs`). `app` alone knows everything. See docs/ARCHITECTURE.md.

pub mod access;
pub mod admin;
pub mod app;
pub mod cli;
pub mod cluster;
pub mod committer;
pub mod config;
pub mod connection;
pub mod connections;
pub mod disk;
pub mod doorbell;
pub mod engine;
pub mod engines;
pub mod https;
pub mod identity;
pub mod limits;
pub mod link;
pub mod listener;
pub mod mailbox;
pub mod metrics;
pub mod migration;
pub mod payload;
pub mod prefix;
pub mod rate;
pub mod receipt;
pub mod registry;
pub mod relay;
pub mod router;
pub mod session;
pub mod shards;
pub mod standing;
pub mod store;
pub mod tls;
pub mod token;
pub mod transport;
