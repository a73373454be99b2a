//! Following a group: its slots are read one after the other, epoch by epoch. Junk in a slot moves
//! everyone to the next attempt; everyone judges alike, so everyone moves alike. Whoever meets what
//! only it may be unable to follow does not move at all: it has lost track.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use valise_proto::{RelayAddress, SlotId};

use super::commits::home;
use super::core::Core;
use super::effect::{Job, Outcome};
use super::fault::Fault;
use super::records::state;
use crate::mls::Refusal;
use crate::relays::RelayError;
use crate::seal::slot;
use crate::vault::Transaction;

/// A group, its epoch, and the attempt.
type Head = (i64, u64, u32, SlotId);

impl Core {
    /// Looks at the next slot of a group.
    pub(super) fn walk(&mut self, tx: &Transaction<'_>, row: i64) -> Result<(), Fault> {
        self.walk_some(tx, &[row])
    }

    /// Looks at the next slot of every group that was not looked at since we are online.
    pub(super) fn walk_all(&mut self, tx: &Transaction<'_>) -> Result<(), Fault> {
        let rows: Vec<i64> = tx.all::<state::Group>()?.into_iter().map(|(row, _)| row).collect();
        self.walk_some(tx, &rows)
    }

    /// Not before everything that waited at the own relay has come: an old frame must be here while
    /// the keys of its epoch are.
    pub(super) fn walk_some(&mut self, tx: &Transaction<'_>, rows: &[i64]) -> Result<(), Fault> {
        if !self.is_caught_up {
            return Ok(());
        }
        let mut by_relay: BTreeMap<String, (RelayAddress, Vec<Head>)> = BTreeMap::new();
        for row in rows {
            let Some(stored) = tx.get::<state::Group>(*row)? else { continue };
            if !stored.active || stored.lost_ms > 0 || self.walking.contains(row) {
                continue;
            }
            if !self.may_reach(&stored.home) {
                self.ask_about(tx, &stored.home, stored.conversation)?;
                continue;
            }
            let Ok(relay) = home(&stored) else { continue };
            let keys = self.group(tx, *row)?.keys();
            let head = (*row, keys.epoch, stored.attempt, slot::id(&keys, stored.attempt));
            self.walking.insert(*row);
            let entry = by_relay.entry(stored.home.clone());
            entry.or_insert((relay, Vec::new())).1.push(head);
        }
        for (_, (relay, heads)) in by_relay {
            self.start(Job::Walk { relay, heads });
        }
        Ok(())
    }

    /// What was in the slots.
    pub(super) fn walked(
        &mut self,
        tx: &Transaction<'_>,
        heads: &[(i64, u64, u32)],
        result: Result<Vec<Option<Bytes>>, RelayError>,
    ) -> Result<(), Fault> {
        let values = match result {
            Ok(values) => values,
            Err(_) => {
                // What is said meanwhile may be sealed under an epoch that has just passed, which
                // the others still open.
                for (row, ..) in heads {
                    self.walking.remove(row);
                    let stored: state::Group = tx.get(*row)?.ok_or(Fault::damaged("a group"))?;
                    if stored.lost_ms == 0 {
                        self.walked.insert(*row);
                        self.rewalk.insert(*row);
                    }
                }
                self.start(Job::Wait(Duration::from_secs(5), Box::new(Outcome::Upkeep)));
                return Ok(());
            }
        };
        for (i, (row, epoch, attempt)) in heads.iter().enumerate() {
            self.walking.remove(row);
            if !self.is_at(tx, *row, (*epoch, *attempt))? {
                // The group has moved on while the relay was asked.
                self.walk(tx, *row)?;
                continue;
            }
            match values.get(i).cloned().flatten() {
                Some(value) => self.head(tx, *row, (*epoch, *attempt), &value)?,
                None => self.is_current(tx, *row)?,
            }
        }
        Ok(())
    }

    /// Whether the group still waits for this slot.
    fn is_at(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        (epoch, attempt): (u64, u32),
    ) -> Result<bool, Fault> {
        let stored: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
        let is_at = stored.lost_ms == 0 && stored.attempt == attempt;
        Ok(is_at && self.group(tx, row)?.epoch() == epoch)
    }

    /// The group's next slot is free: we have its latest state.
    fn is_current(&mut self, tx: &Transaction<'_>, row: i64) -> Result<(), Fault> {
        self.walked.insert(row);
        self.look_after(tx, row)?;
        self.next_wanted(tx, row)
    }

    /// A value of the group's next slot, by somebody else.
    pub(super) fn head(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        (epoch, attempt): (u64, u32),
        value: &Bytes,
    ) -> Result<(), Fault> {
        // While our own commit is on its way, its outcome tells the same.
        if self.committing.contains(&row) {
            return Ok(());
        }
        if !self.is_at(tx, row, (epoch, attempt))? {
            return self.walk(tx, row);
        }
        let stored: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
        let keys = self.group(tx, row)?.keys();
        match slot::open_head(&keys, attempt, value) {
            Err(_) => self.next_attempt(tx, row),
            Ok(head) if head.count > 1 => {
                let parts = 1..head.count;
                let ids = parts.map(|part| slot::part_id(&keys, attempt, part, &head.seed));
                let ids = ids.collect();
                self.halves.insert(row, head);
                self.walking.insert(row);
                let relay = home(&stored)?;
                self.start(Job::FetchParts { group: row, epoch, attempt, relay, ids });
                Ok(())
            }
            Ok(head) => self.decide(tx, row, &head.bytes),
        }
    }

    /// The later parts of a large commit.
    pub(super) fn parts_fetched(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        (epoch, attempt): (u64, u32),
        result: Result<Vec<Option<Bytes>>, RelayError>,
    ) -> Result<(), Fault> {
        self.walking.remove(&row);
        let Some(head) = self.halves.remove(&row) else { return Ok(()) };
        if self.committing.contains(&row) {
            return Ok(());
        }
        if !self.is_at(tx, row, (epoch, attempt))? {
            return self.walk(tx, row);
        }
        let keys = self.group(tx, row)?.keys();
        let values = match result {
            Ok(values) => values,
            Err(_) => {
                self.rewalk.insert(row);
                self.start(Job::Wait(Duration::from_secs(5), Box::new(Outcome::Upkeep)));
                return Ok(());
            }
        };
        // Whoever wrote part 0 had written all others before it. A relay that holds one back stops the
        // group, but must not split it.
        if values.iter().any(Option::is_none) {
            self.rewalk.insert(row);
            self.start(Job::Wait(Duration::from_secs(5), Box::new(Outcome::Upkeep)));
            return Ok(());
        }
        let open = |(part, value): (u32, Option<Bytes>)| {
            slot::open_part(&keys, attempt, (&head, part), &value?).ok()
        };
        let parts: Option<Vec<_>> = (1..).zip(values).map(open).collect();
        match parts.and_then(|parts| slot::join(head, &parts).ok()) {
            Some(commit) => self.decide(tx, row, &commit),
            None => self.next_attempt(tx, row),
        }
    }

    fn decide(&mut self, tx: &Transaction<'_>, row: i64, commit: &[u8]) -> Result<(), Fault> {
        let group = self.group(tx, row)?;
        let old_keys = group.keys();
        match group.judge(commit) {
            Err(Refusal::Junk(_)) => self.next_attempt(tx, row),
            Err(Refusal::Lost(_)) => self.lose_track(tx, row),
            Ok(judged) => {
                let summary = group.apply(judged)?;
                self.save(tx, row)?;
                self.after_commit(tx, row, &summary, &old_keys, None)?;
                self.walk(tx, row)
            }
        }
    }

    fn next_attempt(&mut self, tx: &Transaction<'_>, row: i64) -> Result<(), Fault> {
        let mut stored: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
        stored.attempt += 1;
        tx.put(row, &stored)?;
        self.walk(tx, row)
    }
}
