//! How far a realm's move is, as its supernode counts it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::crossing::{Crossing, CrossingError};
use crate::scenario::Failure;
use crate::scrape;

/// Shards of a realm.
pub(super) const SHARDS: u64 = 256;

/// How often it is looked.
pub(super) const LOOK: Duration = Duration::from_millis(20);

/// A migration that does not get on for so long is stuck.
const STUCK: Duration = Duration::from_secs(180);

/// How many shards are in which state, and who is still there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Census {
    pub(super) plain: u64,
    /// With a log, waiting for the importer included.
    pub(super) logged: u64,
    pub(super) sealed: u64,
    /// The data centre's.
    pub(super) forward: u64,
    pub(super) gone: u64,
    /// Mailboxes that are attached.
    pub(super) attached: u64,
    /// Entries of logs that were handed to the importer, by this process.
    pub(super) exported: u64,
    /// Posts that were passed on, by this process.
    pub(super) passed: u64,
}

impl Census {
    /// What the supernode says; none while it is down.
    pub(super) async fn of(admin: SocketAddr) -> Option<Self> {
        let metrics = scrape::get(admin, "/metrics").await.ok()?;
        Self::read(&metrics)
    }

    fn read(metrics: &str) -> Option<Self> {
        let shards = |state: &str| {
            scrape::sum(metrics, &format!("valise_migration_shards{{state=\"{state}\"}}"))
        };
        let count = |name: &str| scrape::sum(metrics, name).unwrap_or_default();
        Some(Self {
            plain: shards("plain")?,
            logged: shards("local")? + shards("unsure")? + shards("writing")?,
            sealed: shards("sealed")?,
            forward: shards("forward")?,
            gone: shards("gone")?,
            attached: count("valise_attachments"),
            exported: count("valise_migration_entries_exported_total"),
            passed: count("valise_migration_posts_passed_total"),
        })
    }

    /// Whether shards have begun to be cut over.
    pub(super) fn is_cut(&self) -> bool {
        self.sealed + self.forward + self.gone > 0
    }

    /// Whether all shards are the data centre's.
    pub(super) fn is_moved(&self) -> bool {
        self.forward + self.gone == SHARDS
    }
}

/// Waits until the supernode is so, as long as the migration gets on.
pub(super) async fn until(
    crossing: &mut Crossing,
    admin: SocketAddr,
    what: &'static str,
    is_so: impl Fn(&Census) -> bool,
) -> Result<Census, Failure> {
    let (mut last, mut moved) = (None, Instant::now());
    loop {
        let census = Census::of(admin).await;
        if let Some(census) = census.filter(&is_so) {
            return Ok(census);
        }
        crossing.check_importer()?;
        if census != last {
            (last, moved) = (census, Instant::now());
        }
        if moved.elapsed() > STUCK {
            let (waited_s, log) = (STUCK.as_secs(), crossing.log());
            return Err(CrossingError::Stuck { what, waited_s, log }.into());
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "\
valise_attachments 12
valise_migration_shards{state=\"plain\"} 1
valise_migration_shards{state=\"local\"} 2
valise_migration_shards{state=\"unsure\"} 3
valise_migration_shards{state=\"writing\"} 4
valise_migration_shards{state=\"sealed\"} 5
valise_migration_shards{state=\"forward\"} 200
valise_migration_shards{state=\"gone\"} 41
valise_migration_entries_exported_total 7000
valise_migration_posts_passed_total 8
";

    #[test]
    fn shards_are_counted_by_state() {
        let census = Census::read(METRICS).unwrap();
        let Census { plain, logged, sealed, forward, gone, .. } = census;
        assert_eq!((plain, logged, sealed, forward, gone), (1, 9, 5, 200, 41));
        assert_eq!(plain + logged + sealed + forward + gone, SHARDS);
        assert_eq!((census.attached, census.exported, census.passed), (12, 7_000, 8));
        assert!(census.is_cut() && !census.is_moved());
        assert!(Census { forward: 215, gone: 41, ..Census::default() }.is_moved());
    }

    #[test]
    fn a_relay_without_such_counts_says_nothing() {
        assert_eq!(Census::read("valise_attachments 12\n"), None);
    }
}
