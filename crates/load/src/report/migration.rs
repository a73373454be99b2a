//! migrate: what a realm's move took, and what people noticed of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cli::{AbortAt, Crash, Moment};
use crate::latency::Percentiles;

/// migrate: a supernode's realm moves into a data centre.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Migration {
    /// Migrations that came to their end, with the supernode wiped; `null` in other scenarios.
    pub(crate) done: Option<u64>,
    /// Migrations that were given up, after which the supernode served on.
    pub(crate) aborted: Option<u64>,
    /// Migrations that were to be given up when a shard had moved already: they went on.
    pub(crate) aborted_too_late: Option<u64>,
    /// Clients in a process of their own. Frames and what was wrong are counted over all clients; rates,
    /// latencies, pauses and gaps are those of the others, in this process.
    #[serde(default)]
    pub(crate) clients_beside: Option<u64>,
    /// Frames that waited for absent recipients before, of all migrations.
    pub(crate) queued_frames: Option<u64>,
    /// Of these, read afterwards at where the realm was then.
    pub(crate) queued_frames_read: Option<u64>,
    /// Entries of the shards' logs that were copied a second until the first seal, in the slowest
    /// copy of all.
    pub(crate) copy_entries_per_s: Option<f64>,
    /// From the importer's start until the supernode was wiped, in seconds, the longest.
    pub(crate) whole_s: Option<f64>,
    /// Posts that the supernode passed on.
    pub(crate) posts_passed: Option<u64>,
    /// What was noticed in the calm before, for the run's duration.
    pub(crate) calm: Noticed,
    /// While logs were copied.
    pub(crate) copying: Noticed,
    /// From the first seal until every client was attached at the data centre.
    pub(crate) cutover: Noticed,
    /// At the data centre, once the supernode is wiped, in a stretch as long as the calm: what the data
    /// centre itself makes of this load.
    #[serde(default)]
    pub(crate) settled: Noticed,
    /// Each migration.
    #[serde(default)]
    pub(crate) migrations: Vec<Crossed>,
}

/// What people noticed.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Noticed {
    /// For each sender: its longest time from an intended post to the acceptance.
    pub(crate) send_pause: Percentiles,
    /// For each steady stream: its longest silence beyond its period.
    pub(crate) receive_gap: Percentiles,
}

/// One migration.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Crossed {
    /// From the importer's start until every shard had a log, in milliseconds.
    pub(crate) prepare_ms: Option<f64>,
    /// From there until the first seal: copying, and telling clients to prepare, in milliseconds.
    pub(crate) copy_ms: Option<f64>,
    /// Entries that were copied until the first seal.
    pub(crate) copied_entries: Option<u64>,
    /// From the first seal until every shard was the data centre's, in milliseconds.
    pub(crate) cutover_ms: Option<f64>,
    /// From there until no mailbox was attached at the supernode, in milliseconds.
    pub(crate) drain_ms: Option<f64>,
    /// From the command to finish until the supernode was wiped, in milliseconds.
    pub(crate) finish_ms: Option<f64>,
    /// From the importer's start until the supernode was wiped, in milliseconds.
    pub(crate) whole_ms: Option<f64>,
    /// What was killed in its course.
    pub(crate) crashes: Vec<Crashed>,
    /// When it was given up.
    pub(crate) aborted_at: Option<AbortAt>,
}

/// One kill.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Crashed {
    /// What.
    pub(crate) what: Crash,
    /// When.
    pub(crate) at: Moment,
    /// How many of the 256 shards were sealed just before.
    pub(crate) sealed: u64,
    /// How many were the data centre's, as far as the supernode knew.
    pub(crate) forward: u64,
    /// How many were wiped.
    pub(crate) gone: u64,
}
