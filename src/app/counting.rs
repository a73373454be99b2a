//! What is counted elsewhere, handed to the metrics when they are asked for.

use valise_migration::Shard;

use super::Kept;
use crate::committer::Committer;
use crate::metrics::{CommitTotals, Metrics, ShardState};
use crate::migration::Shards;
use crate::relay::Relay;

/// The OpenMetrics text, with what others count as it is now.
pub(super) fn scrape(relay: &Relay, kept: &Kept) -> String {
    match kept {
        Kept::Local { local, committer, .. } => {
            let stats = committer.stats();
            relay.metrics.commits(CommitTotals {
                commits: stats.commits(),
                steps: stats.steps(),
                written_bytes: stats.synced_bytes(),
                sync_microseconds: u64::try_from(stats.sync_total().as_micros())
                    .unwrap_or(u64::MAX),
                never_written: stats.skipped(),
                reopened: stats.times_reopened(),
            });
            relay.metrics.mailboxes_live(local.mailboxes_live());
            count_shards(&relay.metrics, committer);
        }
        Kept::Cluster(cluster) => {
            cluster.count_bus();
            relay.metrics.mailboxes_live(cluster.mailboxes_live());
        }
    }
    relay.metrics.encode()
}

/// How many shards are in which state, for the metrics.
fn count_shards(metrics: &Metrics, committer: &Committer) {
    let Some(shards) = Shards::of(committer) else { return };
    let states = (0..=u8::MAX).map(|shard| match shards.report(shard).shard {
        Shard::Plain => ShardState::Plain,
        Shard::Local { .. } => ShardState::Local,
        Shard::Unsure { .. } => ShardState::Unsure,
        Shard::Writing { .. } => ShardState::Writing,
        Shard::Sealed(_) => ShardState::Sealed,
        Shard::Forward { .. } => ShardState::Forward,
        Shard::Gone { .. } => ShardState::Gone,
    });
    metrics.migration().shards(states);
}
