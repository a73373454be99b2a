//! Following a group: its slots are read one after the other, epoch by epoch. Junk in a slot moves
//! everyone to the next attempt; everyone judges alike, so everyone moves alike. Whoever meets what
//! only it may be unable to follow does not move at all: it has lost track.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use valise_client::SlotPut;
use valise_proto::{RelayAddress, SlotId};

use super::commits::home;
use super::core::Core;
use super::effect::{Job, Outcome};
use super::fault::Fault;
use super::records::state;
use crate::mls::Refusal;
use crate::relays::RelayError;
use crate::seal::slot::{self, Whole};
use crate::vault::Transaction;

/// Between a walk that something came in the middle of, and the next one.
const WALK_AGAIN: Duration = Duration::from_millis(200);

/// A group, its epoch, and the attempt.
type Head = (i64, u64, u32, SlotId);

/// A walk of all groups to their ends.
pub(super) struct Round {
    /// The frame that was parked last when it began.
    up_to: i64,
    /// Groups whose ends were not reached yet.
    waits_for: HashSet<i64>,
    /// Those whose slots had been asked before it began: what they answer first does not count.
    asked: HashSet<i64>,
}

/// A large foreign commit: part 0, and what the later parts' slots hold, as far as they were asked.
pub(super) struct Half {
    head: slot::Head,
    values: Vec<Option<Bytes>>,
}

impl Core {
    /// Looks at the next slot of a group.
    pub(super) fn walk(&mut self, tx: &Transaction<'_>, row: i64) -> Result<(), Fault> {
        self.walk_some(tx, &[row])
    }

    /// Looks at the next slot of every group that was not looked at since we are online.
    pub(super) fn walk_all(&mut self, tx: &Transaction<'_>) -> Result<(), Fault> {
        let active = tx.all::<state::Group>()?.into_iter().filter(|(_, stored)| stored.active);
        let rows: Vec<i64> = active.map(|(row, _)| row).collect();
        if self.is_caught_up {
            let asked: HashSet<i64> =
                rows.iter().copied().filter(|row| self.walking.contains(row)).collect();
            self.walk_again.extend(&asked);
            if self.round.is_none() {
                let waits_for = rows.iter().copied().collect();
                self.round = Some(Round { up_to: self.parking.last(), waits_for, asked });
            }
        }
        self.walk_some(tx, &rows)?;
        self.end_round(tx)
    }

    /// The group will not be walked any more.
    pub(super) fn leave_round(&mut self, row: i64) {
        self.walk_again.remove(&row);
        if let Some(round) = &mut self.round {
            round.waits_for.remove(&row);
        }
    }

    /// What was parked before the round, and nobody could open in it, is not for any group we have.
    fn end_round(&mut self, tx: &Transaction<'_>) -> Result<(), Fault> {
        let Some(round) = self.round.take_if(|round| round.waits_for.is_empty()) else {
            return Ok(());
        };
        for id in self.parking.walked(round.up_to) {
            tx.remove::<state::Parked>(id)?;
        }
        Ok(())
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
            let Some(relay) = home(&stored).ok().filter(|_| stored.active && stored.lost_ms == 0)
            else {
                self.leave_round(*row);
                continue;
            };
            if self.walking.contains(row) {
                continue;
            }
            if !self.may_reach(&stored.home) {
                self.ask_about(tx, &stored.home, stored.conversation)?;
                continue;
            }
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
        let was_asked = self.round.as_mut().is_some_and(|round| {
            let was_asked = round.asked.remove(&row);
            if !was_asked {
                round.waits_for.remove(&row);
            }
            was_asked
        });
        if self.walk_again.remove(&row) || was_asked {
            // Not at once: junk that comes without end must not keep this device from talking.
            self.start(Job::Wait(WALK_AGAIN, Box::new(Outcome::WalkAgain(row))));
        }
        self.end_round(tx)?;
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
                self.halves.insert(row, Half { head, values: Vec::new() });
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
        let Some(mut half) = self.resume_half(tx, row, (epoch, attempt))? else { return Ok(()) };
        let Ok(values) = result else { return self.walk_later(row) };
        half.values = values;
        self.put_together(tx, row, half)
    }

    /// What was begun of a foreign commit, if the group still waits for it.
    fn resume_half(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        at: (u64, u32),
    ) -> Result<Option<Half>, Fault> {
        self.walking.remove(&row);
        let Some(half) = self.halves.remove(&row) else { return Ok(None) };
        if self.committing.contains(&row) {
            return Ok(None);
        }
        if !self.is_at(tx, row, at)? {
            self.walk(tx, row)?;
            return Ok(None);
        }
        Ok(Some(half))
    }

    /// Judges a commit whose parts are all there. Whoever writes part 0 has written all others before
    /// it; so where one is missing, its slot is asked with a void, and decides for everyone.
    fn put_together(&mut self, tx: &Transaction<'_>, row: i64, half: Half) -> Result<(), Fault> {
        let stored: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
        let (keys, attempt) = (self.group(tx, row)?.keys(), stored.attempt);
        let part = match slot::whole(&keys, attempt, &half.head, &half.values) {
            Whole::Commit(commit) => return self.decide(tx, row, &commit),
            Whole::Junk => return self.next_attempt(tx, row),
            Whole::Missing(part) => part,
        };
        let Some(token) = self.slot_token(tx, row)? else {
            // Other members can do it. Ours, if we can have one, is there at the next try.
            self.ask_for_slot_token(tx, row)?;
            return self.walk_later(row);
        };
        let slot = slot::part_id(&keys, attempt, part, &half.head.seed);
        let payload = slot::seal_void(&keys, &slot);
        let (epoch, relay) = (keys.epoch, home(&stored)?);
        self.halves.insert(row, half);
        self.walking.insert(row);
        let group = row;
        self.start(Job::PutVoid { group, epoch, attempt, part, relay, token, slot, payload });
        Ok(())
    }

    /// The slot of a part that was missing has decided, or could not be asked.
    pub(super) fn voided(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        (epoch, attempt, part): (u64, u32, u32),
        result: Result<SlotPut, RelayError>,
    ) -> Result<(), Fault> {
        let Some(mut half) = self.resume_half(tx, row, (epoch, attempt))? else { return Ok(()) };
        match result {
            Ok(SlotPut::Stored) => self.next_attempt(tx, row),
            Ok(SlotPut::Taken(value)) => {
                // It came in the meantime, or the relay had not said that it is there.
                if let Some(place) = half.values.get_mut(part as usize - 1) {
                    *place = Some(value);
                }
                self.put_together(tx, row, half)
            }
            Err(error) => {
                if !error.is_retryable() {
                    self.forget_slot_token(tx, row)?;
                }
                self.walk_later(row)
            }
        }
    }

    /// The group's slots cannot be used now.
    fn walk_later(&mut self, row: i64) -> Result<(), Fault> {
        self.rewalk.insert(row);
        self.start(Job::Wait(Duration::from_secs(5), Box::new(Outcome::Upkeep)));
        Ok(())
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
