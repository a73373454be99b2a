//! What a supernode that migrates counts, and claims of newer records of its realm.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use super::declaring::Declaring;
use super::{Counted, Metrics, ShardState};

pub(super) struct MigrationCounts {
    shards: Vec<(&'static str, Gauge)>,
    importers: Gauge,
    exported: Counter,
    passed: Counter,
    unanswered: Counter,
    claimed: Counter,
}

/// The counts of a migration.
pub struct Migrating<'a>(&'a MigrationCounts);

impl MigrationCounts {
    pub(super) fn new(new: &mut Declaring) -> Self {
        Self {
            shards: new.gauges("migration_shards", "Shards here", "state", ShardState::ALL),
            importers: new.gauge("migration_importers", "Importers connected"),
            exported: new.counter("migration_entries_exported", "Entries of logs sent"),
            passed: new.counter("migration_posts_passed", "Posts handed to an importer"),
            unanswered: new.counter("migration_posts_unanswered", "Of them, without an answer"),
            claimed: new.counter("newer_epochs_claimed", "Hellos with an epoch not known here"),
        }
    }
}

impl Metrics {
    /// The counts of a migration.
    pub fn migration(&self) -> Migrating<'_> {
        Migrating(&self.counts().migration)
    }

    /// A `Hello` knows an epoch above that of the record in force.
    pub fn newer_epoch_claimed(&self) {
        self.counts().migration.claimed.inc();
    }
}

impl Migrating<'_> {
    /// So many shards are in each state.
    pub fn shards(&self, states: impl IntoIterator<Item = ShardState>) {
        let mut counts = vec![0; self.0.shards.len()];
        for state in states {
            let at = self.0.shards.iter().position(|(name, _)| *name == state.name());
            counts[at.expect("every state has its gauge")] += 1;
        }
        for ((_, gauge), count) in self.0.shards.iter().zip(counts) {
            gauge.set(count);
        }
    }

    /// An importer is connected until this is dropped.
    pub fn importer(&self) -> Counted {
        self.0.importers.inc();
        Counted(self.0.importers.clone())
    }

    /// So many entries were sent.
    pub fn entries_exported(&self, count: usize) {
        self.0.exported.inc_by(count as u64);
    }

    /// A post was handed to an importer.
    pub fn post_passed(&self) {
        self.0.passed.inc();
    }

    /// So many had no answer.
    pub fn posts_unanswered(&self, count: usize) {
        self.0.unanswered.inc_by(count as u64);
    }
}
