//! The supernode's half of a migration.

mod shards;

pub use shards::{Mode, Shards};
