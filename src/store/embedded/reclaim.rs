//! Giving back the room of removed frames. The engine does that when it merges tables, and when
//! nothing is posted any more, because the disk is full, it has no reason to.

use std::time::Duration;

use ::fjall::{AbstractTree, PersistMode};

use super::EmbeddedStore;
use crate::store::{StoreError, record};

/// What is known of the tables without reading them.
#[derive(Debug, Clone, Copy)]
struct Tables {
    /// Records, those that say that another was removed included.
    items: u64,
    /// Of tables, and of what waits to become one.
    bytes: u64,
    /// Frames that are to stay.
    queued: u64,
}

impl EmbeddedStore {
    /// Merges all tables into fresh ones, if that is worth it and can be done in `free` bytes.
    pub(super) fn merge_everything(&self, queued: u64, free: u64) -> Result<bool, StoreError> {
        let items = self.keyspace.approximate_len() as u64;
        // What waits in memory becomes a table, too. It is asked first: what is written meanwhile
        // counts twice, and not never.
        let waiting = self.database.write_buffer_size();
        let bytes = waiting + self.keyspace.disk_space();
        let tables = Tables { items, bytes, queued };
        if !is_worth_it(tables, free) {
            return Ok(false);
        }
        self.write_tables()?;
        self.keyspace.major_compact()?;
        // The engine lets go of merged tables when it writes the next one after them.
        self.write_tables()?;
        Ok(true)
    }

    fn write_tables(&self) -> Result<(), StoreError> {
        let mut out = self.database.batch().durability(Some(PersistMode::SyncData));
        out.insert(&self.keyspace, record::FORMAT_KEY, record::encode_format(record::FORMAT));
        out.commit()?;
        self.keyspace.rotate_memtable()?;
        while self.keyspace.tree.sealed_memtable_count() > 0 {
            // It syncs nothing; it fails where the thread that writes tables has died.
            self.database.persist(PersistMode::Buffer)?;
            std::thread::sleep(LOOK);
        }
        Ok(())
    }
}

/// Three records of four must be about what is gone, and what stays must fit beside the old tables
/// with a quarter to spare. The records of removals take next to nothing, so the frames that are
/// left have twice the average.
fn is_worth_it(tables: Tables, free: u64) -> bool {
    let Tables { items, bytes, queued } = tables;
    let stays = u128::from(bytes) * 2 * u128::from(queued) / u128::from(items.max(1));
    items > 0 && items >= 4 * queued && stays + stays / 4 <= u128::from(free)
}

/// How often it is looked whether the tables are written.
const LOOK: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_worth_it_when_most_is_gone_and_the_rest_has_room() {
        const MIB: u64 = 1 << 20;
        // Items, MiB of tables, frames that stay, MiB free.
        let cases = [
            (0, 0, 0, 100, false),
            (100, 100, 0, 0, true),
            (100, 100, 25, 100, true),
            (100, 100, 26, 100, false),
            (100, 100, 25, 62, false),
            (1_000_000, 1_000_000, 10_000, 25_000, true),
        ];
        for (items, mib, queued, free_mib, worth) in cases {
            let tables = Tables { items, bytes: mib * MIB, queued };
            assert_eq!(is_worth_it(tables, free_mib * MIB), worth, "{tables:?}, {free_mib}");
        }
    }
}
