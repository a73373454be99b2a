//! Changing a group: one commit for each epoch, agreed on through the group's slots. What this
//! device wants waits in a queue; whoever's commit is in the slot first wins, and the others want
//! theirs again upon it.

use std::collections::VecDeque;
use std::time::Duration;

use valise_client::random;
use valise_proto::{PutId, RelayAddress, SlotId, Token};

use super::core::{Core, now_ms};
use super::effect::{CommitPut, Gather, Job, Outcome, Purpose, Ticket};
use super::fault::Fault;
use super::outgoing::bytes_of;
use super::records::state;
use crate::api::Refusal;
use crate::mls::Change;
use crate::relays::RelayError;
use crate::seal::parts::WHOLE_BYTES_MAX;
use crate::seal::{SealError, slot};
use crate::vault::Transaction;

/// A Welcome goes in a greeting, which is a little longer.
const WELCOME_BYTES_MAX: usize = WHOLE_BYTES_MAX - 64;

/// So many others may be first before a change is given up.
const TRIES_MAX: u32 = 200;

/// Why nothing can be changed in a group.
pub(super) const LOST: &str =
    "this device lost track of the group and has asked to be let in again; try again then";
const NO_TOKEN: &str = "the group gives members of other relays no right to change it; ask a member at the \
                        group's own relay to make the change";

/// A change that this device wants in a group.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    /// Key packages, with where their owners are reached.
    pub(super) add: Vec<(Vec<u8>, state::Newcomer)>,
    /// Accounts and devices; without a device: all of the account's.
    pub(super) remove: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// What the group is called from then on.
    pub(super) name: Option<String>,
    /// The shared slot token from then on.
    pub(super) shared_token: Option<Vec<u8>>,
    /// Fresh keys for our own leaf, which every commit brings.
    pub(super) renew: bool,
    /// The invite that is followed.
    pub(super) invite: Vec<u8>,
    pub(super) ticket: Option<Ticket>,
    pub(super) tries: u32,
}

impl Core {
    /// Puts a change into the group's queue.
    pub(super) fn want(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        wanted: Wanted,
    ) -> Result<(), Fault> {
        let stored: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
        if stored.lost_ms > 0 {
            if let Some(ticket) = wanted.ticket {
                self.refuse(ticket, Refusal::new("lost_track", LOST));
            }
            return Ok(());
        }
        self.wanted.entry(row).or_default().push_back(wanted);
        self.next_wanted(tx, row)
    }

    /// Gives up every change that is wanted in a group; who waits for one is told why.
    pub(super) fn refuse_wanted(&mut self, row: i64, refusal: &Refusal) {
        let waiting = self.wanted.remove(&row).unwrap_or_default();
        for wanted in waiting.into_iter().chain(self.current.remove(&row)) {
            if let Some(ticket) = wanted.ticket {
                self.refuse(ticket, refusal.clone());
            }
        }
    }

    /// There is no right to write the group's slots. At our own relay one is asked for; elsewhere
    /// only the members of the group's home can give one.
    fn without_token(&mut self, tx: &Transaction<'_>, row: i64) -> Result<(), Fault> {
        let stored: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
        if self.is_home_ours(&stored)? {
            return self.ask_for_slot_token(tx, row);
        }
        // What nobody waits for stays, and is tried again with the next upkeep.
        let waiting = self.wanted.remove(&row).unwrap_or_default();
        let (told, kept): (VecDeque<_>, VecDeque<_>) =
            waiting.into_iter().partition(|wanted| wanted.ticket.is_some());
        for ticket in told.into_iter().filter_map(|wanted| wanted.ticket) {
            self.refuse(ticket, Refusal::new("no_slot_token", NO_TOKEN));
        }
        if !kept.is_empty() {
            self.wanted.insert(row, kept);
        }
        Ok(())
    }

    /// Begins the next change, if none is under way and the group's state is the latest.
    pub(super) fn next_wanted(&mut self, tx: &Transaction<'_>, row: i64) -> Result<(), Fault> {
        let is_alone = self.group(tx, row)?.is_alone();
        let may_begin = !self.committing.contains(&row)
            && (is_alone || (self.walked.contains(&row) && !self.walking.contains(&row)));
        if !may_begin {
            return Ok(());
        }
        let Some(wanted) = self.wanted.get_mut(&row).and_then(VecDeque::pop_front) else {
            self.wanted.remove(&row);
            return Ok(());
        };
        if !is_alone && self.slot_token(tx, row)?.is_none() {
            self.wanted.entry(row).or_default().push_front(wanted);
            return self.without_token(tx, row);
        }
        self.begin(tx, row, wanted, is_alone)?;
        if !self.committing.contains(&row) {
            return self.next_wanted(tx, row);
        }
        Ok(())
    }

    fn begin(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        wanted: Wanted,
        is_alone: bool,
    ) -> Result<(), Fault> {
        let Some((change, newcomers)) = self.resolve(tx, row, &wanted)? else {
            // Somebody has done it already.
            if let Some(ticket) = wanted.ticket {
                self.answer(ticket, serde_json::Value::Null);
            }
            return Ok(());
        };
        let device = self.device.clone();
        let group = self.group(tx, row)?;
        let keys = group.keys();
        let stored: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
        let made = group.prepare(&device, change).map_err(|error| error.to_string());
        let made = made.and_then(|prepared| {
            let values = if is_alone {
                Vec::new()
            } else {
                slot::seal_values(&keys, stored.attempt, &prepared.commit).map_err(too_large)?
            };
            let welcome = prepared.welcome.as_ref().map_or(0, Vec::len);
            if welcome > WELCOME_BYTES_MAX {
                return Err(too_large(SealError::TooLong(welcome)));
            }
            Ok((prepared, values))
        });
        let (prepared, values) = match made {
            Ok(made) => made,
            Err(error) => {
                group.abandon_own().ok();
                self.save(tx, row)?;
                if let Some(ticket) = wanted.ticket {
                    let text = format!("the group cannot be changed like that: {error}");
                    self.refuse(ticket, Refusal::new("not_possible", text));
                }
                return Ok(());
            }
        };
        let put = |(slot, payload): (SlotId, bytes::Bytes)| state::Put {
            slot: slot.as_bytes().to_vec(),
            put_id: random::bytes::<16>().to_vec(),
            payload: payload.to_vec(),
        };
        let pending = state::PendingCommit {
            group: row,
            epoch: keys.epoch,
            attempt: stored.attempt,
            commit: prepared.commit,
            welcome: prepared.welcome.unwrap_or_default(),
            puts: values.into_iter().map(put).collect(),
            newcomers,
            invite: wanted.invite.clone(),
        };
        let id = tx.insert(&pending)?;
        self.save(tx, row)?;
        if is_alone {
            // Nobody else could commit: there is nothing to agree on.
            tx.remove::<state::PendingCommit>(id)?;
            self.merge_own(tx, row, pending)?;
            if let Some(ticket) = wanted.ticket {
                self.answer(ticket, serde_json::Value::Null);
            }
            return Ok(());
        }
        self.committing.insert(row);
        self.current.insert(row, wanted);
        self.put_commit(tx, row, &pending)
    }

    /// What is left to do of a change; `None` if nothing is.
    fn resolve(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        wanted: &Wanted,
    ) -> Result<Option<(Change, Vec<state::Newcomer>)>, Fault> {
        let stored: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
        let is_shared_due =
            wanted.shared_token.is_some() && self.is_shared_token_due(tx, row, &stored)?;
        let is_leaf_due = wanted.renew && self.is_leaf_due(&stored);
        let group = self.group(tx, row)?;
        let (roster, own, info) = (group.roster(), group.own_leaf(), group.info());
        let mut new = info.clone();
        if let Some(name) = &wanted.name {
            new.name.clone_from(name);
        }
        if let Some(token) = wanted.shared_token.as_ref().filter(|_| is_shared_due) {
            (new.slot_token, new.slot_token_ms) = (token.clone(), now_ms());
        }
        let mut change = Change { info: (new != info).then_some(new), ..Default::default() };
        let mut newcomers = Vec::new();
        // Whoever asked to be let in again is in again already: another member was first.
        let is_done = |(_, newcomer): &(Vec<u8>, state::Newcomer)| {
            roster.iter().any(|leaf| {
                let address = leaf.member.address.clone().unwrap_or_default();
                leaf.device.as_bytes()[..] == newcomer.device[..]
                    && address.capability == newcomer.capability
            })
        };
        if !wanted.add.is_empty() && wanted.add.iter().all(is_done) {
            return Ok(None);
        }
        for (account, device) in &wanted.remove {
            let leaves = roster.iter().filter(|leaf| {
                leaf.index != own
                    && leaf.account.as_bytes()[..] == account[..]
                    && device.as_ref().is_none_or(|device| leaf.device.as_bytes()[..] == device[..])
            });
            change.remove.extend(leaves.map(|leaf| leaf.index));
        }
        for (package, newcomer) in &wanted.add {
            let is_there = roster.iter().any(|leaf| {
                leaf.device.as_bytes()[..] == newcomer.device[..]
                    && leaf.account.as_bytes()[..] == newcomer.account[..]
                    && !change.remove.contains(&leaf.index)
            });
            if !is_there {
                change.add.push(package.clone());
                newcomers.push(newcomer.clone());
            }
        }
        let is_empty = change.add.is_empty() && change.remove.is_empty() && change.info.is_none();
        Ok((!is_empty || is_leaf_due).then_some((change, newcomers)))
    }

    /// The right to write the group's slots: our own at our own relay, else the shared one.
    pub(super) fn slot_token(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
    ) -> Result<Option<Token>, Fault> {
        let stored: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
        let bytes = if self.is_home_ours(&stored)? {
            stored.slot_token
        } else {
            self.group(tx, row)?.info().slot_token
        };
        Ok(Token::try_from(bytes.as_slice()).ok())
    }

    /// Whether this device's mailbox is in the realm where the group's slots are.
    pub(super) fn is_home_ours(&self, stored: &state::Group) -> Result<bool, Fault> {
        Ok(home(stored)?.realm == self.own_relay.realm)
    }

    /// Has a slot token of our own issued, where the home relay does that for us. Elsewhere there is
    /// the shared one only, and others may renew it.
    pub(super) fn ask_for_slot_token(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
    ) -> Result<(), Fault> {
        let stored: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
        if self.is_home_ours(&stored)? && self.gathering.insert(format!("slot {row}")) {
            let gather = Gather { slot: true, ..Default::default() };
            self.start(Job::Gather(Purpose::Slot { group: row }, gather));
        }
        Ok(())
    }

    /// A token of our own that the relay does not take is asked for anew next time.
    pub(super) fn forget_slot_token(&self, tx: &Transaction<'_>, row: i64) -> Result<(), Fault> {
        let mut stored: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
        stored.slot_token.clear();
        Ok(tx.put(row, &stored)?)
    }

    fn put_commit(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        pending: &state::PendingCommit,
    ) -> Result<(), Fault> {
        let stored: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
        if !self.may_reach(&stored.home) {
            return self.ask_about(tx, &stored.home, stored.conversation);
        }
        let Some(token) = self.slot_token(tx, row)? else { return Ok(()) };
        let mut puts = Vec::new();
        for put in &pending.puts {
            let slot = SlotId::new(bytes_of(&put.slot)?);
            let put_id = PutId::new(bytes_of(&put.put_id)?);
            puts.push((slot, put_id, bytes::Bytes::from(put.payload.clone())));
        }
        if self.putting.insert(row) {
            self.start(Job::PutCommit { group: row, relay: home(&stored)?, token, puts });
        }
        Ok(())
    }

    /// Takes up commits whose fate was open when the engine or the connection ended.
    pub(super) fn resume_commits(&mut self, tx: &Transaction<'_>) -> Result<(), Fault> {
        for row in self.committing.clone() {
            self.retry_commit(tx, row)?;
        }
        Ok(())
    }

    pub(super) fn retry_commit(&mut self, tx: &Transaction<'_>, row: i64) -> Result<(), Fault> {
        let pending = tx.children::<state::PendingCommit>(row)?;
        match pending.into_iter().next() {
            Some((_, pending)) => self.put_commit(tx, row, &pending),
            None => {
                self.committing.remove(&row);
                Ok(())
            }
        }
    }

    /// The slot has decided, or could not be asked.
    pub(super) fn committed(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        result: Result<CommitPut, RelayError>,
    ) -> Result<(), Fault> {
        self.putting.remove(&row);
        let pending = tx.children::<state::PendingCommit>(row)?;
        let Some((id, pending)) = pending.into_iter().next() else { return Ok(()) };
        match result {
            Ok(CommitPut::Stored) => {
                self.finish_commit(tx, row, id)?;
                self.merge_own(tx, row, pending)?;
                if let Some(ticket) = self.current.remove(&row).and_then(|wanted| wanted.ticket) {
                    self.answer(ticket, serde_json::Value::Null);
                }
                if self.round.is_some() || !self.walked.contains(&row) {
                    // Somebody may have gone on from it before we heard that it is the group's; or the
                    // look at the slots found our own commit there, and told nothing.
                    self.walk(tx, row)?;
                }
                self.next_wanted(tx, row)
            }
            Ok(CommitPut::Taken(value)) => {
                self.finish_commit(tx, row, id)?;
                self.abandon(tx, row)?;
                self.want_again(row);
                self.head(tx, row, (pending.epoch, pending.attempt), &value)
            }
            Ok(CommitPut::Spoilt) => {
                self.finish_commit(tx, row, id)?;
                self.abandon(tx, row)?;
                self.want_again(row);
                // If part 0 is there from before a crash, it is junk now, and everyone goes on to the
                // next attempt. If it is not, this attempt is still free.
                self.walk(tx, row)
            }
            Err(error) if error.is_retryable() => {
                let wait = random::between(Duration::from_millis(500), Duration::from_secs(5));
                self.start(Job::Wait(wait, Box::new(Outcome::RetryCommit(row))));
                Ok(())
            }
            Err(error) => {
                self.finish_commit(tx, row, id)?;
                self.abandon(tx, row)?;
                let wanted = self.current.remove(&row);
                if wanted.as_ref().is_some_and(|wanted| wanted.renew) {
                    self.put_renewal_off(tx, row)?;
                }
                if let Some(ticket) = wanted.and_then(|wanted| wanted.ticket) {
                    let text = format!("the group's relay does not take the change: {error}");
                    self.refuse(ticket, Refusal::new("refused_by_relay", text));
                }
                self.forget_slot_token(tx, row)
            }
        }
    }

    pub(super) fn finish_commit(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        id: i64,
    ) -> Result<(), Fault> {
        tx.remove::<state::PendingCommit>(id)?;
        self.committing.remove(&row);
        Ok(())
    }

    fn abandon(&mut self, tx: &Transaction<'_>, row: i64) -> Result<(), Fault> {
        self.group(tx, row)?.abandon_own()?;
        self.save(tx, row)
    }

    /// Somebody else was first: the change is wanted again, upon theirs.
    fn want_again(&mut self, row: i64) {
        let Some(mut wanted) = self.current.remove(&row) else { return };
        wanted.tries += 1;
        if wanted.tries < TRIES_MAX {
            self.wanted.entry(row).or_default().push_front(wanted);
        } else if let Some(ticket) = wanted.ticket {
            let text = "others keep changing the group; try again in a moment";
            self.refuse(ticket, Refusal::new("contended", text));
        }
    }
}

fn too_large(error: SealError) -> String {
    format!("the group is too large for it ({error})")
}

/// Where the group's slots are.
pub(super) fn home(group: &state::Group) -> Result<RelayAddress, Fault> {
    group.home.parse().map_err(|_| Fault::damaged("a group's home"))
}
