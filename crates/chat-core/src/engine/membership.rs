//! What a new epoch means: who came, who went, where they are reached, and what is told to whom.

use prost::Message as _;

use super::core::{Core, now_ms};
use super::fault::Fault;
use super::outgoing::bytes_of;
use super::people::presentable;
use super::records::{of_group, state};
use crate::mls::{Group, Leaf, Summary};
use crate::seal::{EpochKeys, HpkePublicKey, greeting};
use crate::vault::Transaction;
use crate::wire;

/// The keys of so many epochs are kept for late frames.
const EPOCHS_KEPT: u64 = 8;

impl Core {
    /// Our commit is the group's.
    pub(super) fn merge_own(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        pending: state::PendingCommit,
    ) -> Result<(), Fault> {
        let group = self.group(tx, row)?;
        let old_keys = group.keys();
        let summary = group.merge_own()?;
        self.save(tx, row)?;
        self.after_commit(tx, row, &summary, &old_keys, Some(pending))
    }

    /// Takes over what a commit has changed; `own` is ours.
    pub(super) fn after_commit(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        summary: &Summary,
        old_keys: &EpochKeys,
        own: Option<state::PendingCommit>,
    ) -> Result<(), Fault> {
        let old_targets: Vec<_> =
            tx.children::<state::Target>(row)?.into_iter().map(|(_, target)| target).collect();
        self.enter_epoch(tx, row)?;
        for leaf in &summary.removed {
            self.drop_target(tx, row, leaf.device.as_bytes())?;
        }
        for leaf in summary.added.iter().chain(&summary.changed) {
            self.set_target(tx, row, leaf)?;
        }
        let is_own = own.is_some();
        // Who is let in again is nobody new, and knows of the others what the tree says.
        let mut has_joiners = !summary.added.is_empty() || !summary.again.is_empty();
        if let Some(pending) = own {
            self.poke_after(tx, row, old_keys, &old_targets)?;
            self.welcome(tx, row, &pending)?;
            has_joiners |= !pending.welcome.is_empty();
        }
        let mut stored: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
        stored.attempt = 0;
        if is_own {
            self.leaf_is_new(&mut stored);
        }
        if !summary.removed.is_empty() {
            stored.address_stale = true;
        }
        // Whoever is added again does not leave any more.
        let came = |account: &Vec<u8>| {
            summary.added.iter().any(|leaf| leaf.account.as_bytes()[..] == account[..])
        };
        stored.leaving.retain(|account| !came(account));
        tx.put(row, &stored)?;
        if has_joiners && !summary.removed_me {
            self.tell_address(tx, row, &stored)?;
            if stored.conversation == 0 {
                // What was said before it came, a new device has not heard: the record may be later
                // than the one it was linked with.
                self.tell_own_card(tx)?;
            }
        }
        // Who was there from the beginning is told with the beginning.
        if old_keys.epoch > 0 {
            self.tell_changes(tx, &stored, summary)?;
        }
        self.remember_acted(tx, row, &summary.again)?;
        if summary.removed_me {
            let own = self.device_id();
            // Somebody lets this device in again, perhaps by a key package it has no more.
            match summary.added.iter().any(|leaf| leaf.device == own) {
                true => self.lose_track(tx, row)?,
                false => self.removed_from(tx, row)?,
            }
        }
        self.conversation_changed(tx, stored.conversation)?;
        self.unpark(tx)
    }

    /// The tree has the address that this device came with. Whoever comes later learns the one it has
    /// now.
    fn tell_address(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        stored: &state::Group,
    ) -> Result<(), Fault> {
        let own = self.device_id();
        let leaf = self.group(tx, row)?.roster().into_iter().find(|leaf| leaf.device == own);
        let in_tree = leaf.and_then(|leaf| leaf.member.address).unwrap_or_default();
        if stored.own_capability.is_empty() || in_tree.capability == stored.own_capability {
            return Ok(());
        }
        let address = wire::Address {
            relay: stored.own_relay.clone(),
            capability: stored.own_capability.clone(),
        };
        let body = Some(wire::content::Body::Address(address));
        let content = wire::Content { sent_ms: now_ms(), body, ..Default::default() };
        self.say(tx, row, &content, 0).map(drop)
    }

    /// Keeps the keys of the group's epoch, and lets those of old ones go.
    pub(super) fn enter_epoch(&mut self, tx: &Transaction<'_>, row: i64) -> Result<(), Fault> {
        let group = self.group(tx, row)?;
        if !group.is_active() {
            return Ok(());
        }
        let keys = group.keys();
        let stored = state::Epoch {
            group: row,
            epoch: keys.epoch,
            hint: keys.hint.to_vec(),
            envelope: keys.envelope.to_vec(),
            slot: keys.slot.to_vec(),
        };
        for (id, old) in tx.children::<state::Epoch>(row)? {
            if old.epoch + EPOCHS_KEPT < keys.epoch || old.epoch == keys.epoch {
                tx.remove::<state::Epoch>(id)?;
            }
        }
        tx.insert(&stored)?;
        let kept = |(group, old): &(i64, EpochKeys)| {
            *group != row || (old.epoch + EPOCHS_KEPT >= keys.epoch && old.epoch != keys.epoch)
        };
        self.keys.retain(kept);
        self.entered.push((row, keys.epoch));
        self.keys.push((row, keys));
        Ok(())
    }

    /// Where a device of the group is reached, from its leaf.
    pub(super) fn set_target(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        leaf: &Leaf,
    ) -> Result<(), Fault> {
        if leaf.device == self.device_id() {
            return Ok(());
        }
        let address = leaf.member.address.clone().unwrap_or_default();
        let account = leaf.account.as_bytes().to_vec();
        self.set_address(tx, row, account, leaf.device.as_bytes().to_vec(), address)
    }

    /// A device is reached somewhere else from now on.
    pub(super) fn set_address(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        account: Vec<u8>,
        device: Vec<u8>,
        address: wire::Address,
    ) -> Result<(), Fault> {
        let wire::Address { relay, capability } = address;
        let before = false;
        let mut target = state::Target { group: row, account, device, relay, capability, before };
        let lookup = of_group(row, &[&target.device]);
        match tx.find::<state::Target>(&lookup)? {
            Some((id, old)) => {
                target.before = old.before;
                tx.put(id, &target)?;
            }
            None => drop(tx.insert(&target)?),
        }
        self.lanes.unblock(&(row, target.device));
        Ok(())
    }

    /// All targets of a group that was made or joined, from its tree.
    fn set_targets(&mut self, tx: &Transaction<'_>, row: i64) -> Result<(), Fault> {
        let group = self.group(tx, row)?;
        // Whoever is let into a group that had spoken before hears its streams from the middle.
        let before = group.epoch() > 1;
        for leaf in group.roster() {
            self.set_target(tx, row, &leaf)?;
            let found = tx.find::<state::Target>(&of_group(row, &[leaf.device.as_bytes()]))?;
            if let Some((id, target)) = found.filter(|_| before) {
                tx.put(id, &state::Target { before, ..target })?;
            }
        }
        Ok(())
    }

    /// Those who were in the group before learn that it has a new epoch; also those who are gone.
    fn poke_after(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        old_keys: &EpochKeys,
        old_targets: &[state::Target],
    ) -> Result<(), Fault> {
        let mut still = Vec::new();
        for target in old_targets {
            if tx.find::<state::Target>(&of_group(row, &[&target.device]))?.is_some() {
                still.push(target.clone());
            } else {
                let envelope = wire::Envelope { poke: true, ..Default::default() };
                let payload = crate::seal::frame::seal(old_keys, &envelope)
                    .map_err(|_| Fault::damaged("a poke"))?;
                let gone = state::Newcomer {
                    account: target.account.clone(),
                    device: target.device.clone(),
                    relay: target.relay.clone(),
                    capability: target.capability.clone(),
                    ..Default::default()
                };
                self.deliver_to(tx, 0, &gone, payload)?;
            }
        }
        if still.is_empty() { Ok(()) } else { self.poke(tx, row, old_keys, &still) }
    }

    /// The new devices are let in.
    fn welcome(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        pending: &state::PendingCommit,
    ) -> Result<(), Fault> {
        if pending.welcome.is_empty() {
            return Ok(());
        }
        let body = wire::greeting::Body::Welcome(pending.welcome.clone());
        let greeting = wire::Greeting { body: Some(body), invite: pending.invite.clone() };
        for newcomer in &pending.newcomers {
            self.greet(tx, row, newcomer, &greeting)?;
        }
        Ok(())
    }

    /// Sends a greeting to a device. Others say what their keys are: to one that nothing can be sealed
    /// to, nothing is sent.
    pub(super) fn greet(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        to: &state::Newcomer,
        greeting: &wire::Greeting,
    ) -> Result<(), Fault> {
        let Ok(key) = bytes_of(&to.hpke_key) else { return Ok(()) };
        for payload in greeting::seal(&HpkePublicKey(key), greeting).unwrap_or_default() {
            self.deliver_to(tx, row, to, payload)?;
        }
        Ok(())
    }

    /// A row for a group that was made or joined.
    pub(super) fn insert_group(
        &mut self,
        tx: &Transaction<'_>,
        group: Group,
        conversation: i64,
        own: wire::Address,
    ) -> Result<i64, Fault> {
        let info = group.info();
        let mut stored = state::Group {
            id: group.id().to_vec(),
            conversation,
            kind: info.kind as u32,
            home: info.home,
            stream: valise_client::random::bytes::<16>().to_vec(),
            next_counter: 1,
            own_relay: own.relay,
            own_capability: own.capability,
            own_capability_ms: now_ms(),
            active: true,
            joined_epoch: group.epoch(),
            ..Default::default()
        };
        self.leaf_is_new(&mut stored);
        // Somebody who was let in again has the group already, with an end.
        let (row, unsent) = match tx.find::<state::Group>(&stored.id)? {
            Some((row, old)) => (row, self.take_place(tx, row, old, stored)?),
            None => (tx.insert(&stored)?, Vec::new()),
        };
        self.unload(row);
        self.adopt(row, group);
        self.save(tx, row)?;
        self.enter_epoch(tx, row)?;
        self.set_targets(tx, row)?;
        self.say_again(tx, row, unsent)?;
        Ok(row)
    }

    fn tell_changes(
        &mut self,
        tx: &Transaction<'_>,
        stored: &state::Group,
        summary: &Summary,
    ) -> Result<(), Fault> {
        if stored.conversation == 0 {
            return Ok(());
        }
        let me = self.me.account.clone();
        let row = tx.find::<state::Group>(&stored.id)?.map_or(0, |(row, _)| row);
        let who = self.name_there(tx, row, summary.committer.as_bytes())?;
        let mut told = Vec::new();
        for (leaves, is_added) in [(&summary.added, true), (&summary.removed, false)] {
            for leaf in leaves {
                let account = leaf.account.as_bytes().to_vec();
                if account == me || told.contains(&account) {
                    continue;
                }
                told.push(account.clone());
                let devices = self.group_devices(tx, stored, &account)?;
                let name = self.member_name(tx, leaf)?;
                let of =
                    |leaves: &[Leaf]| leaves.iter().filter(|l| l.account == leaf.account).count();
                let is_new = devices == of(&summary.added) && of(&summary.removed) == 0;
                let text = match (is_added, devices) {
                    (true, _) if is_new => self.added_words(tx, leaf, &who)?,
                    (true, _) => format!("{name} uses another device"),
                    (false, 0) => format!("{name} is no longer in this conversation"),
                    (false, _) => format!("{name} uses one device less"),
                };
                self.add_notice(tx, stored.conversation, &text)?;
            }
        }
        if summary.info_changed {
            let title = self.group(tx, row)?.info().name;
            let found = tx.get::<state::Conversation>(stored.conversation)?;
            if let Some(mut conversation) = found.filter(|found| found.title != title) {
                conversation.title = title.clone();
                tx.put(stored.conversation, &conversation)?;
                let text = format!("{who} named the group {}", presentable(&title));
                self.add_notice(tx, stored.conversation, &text)?;
            }
        }
        Ok(())
    }

    fn group_devices(
        &mut self,
        tx: &Transaction<'_>,
        stored: &state::Group,
        account: &[u8],
    ) -> Result<usize, Fault> {
        let Some((row, _)) = tx.find::<state::Group>(&stored.id)? else { return Ok(0) };
        let roster = self.group(tx, row)?.roster();
        Ok(roster.iter().filter(|leaf| leaf.account.as_bytes()[..] == account[..]).count())
    }

    /// This device is no member any more.
    fn removed_from(&mut self, tx: &Transaction<'_>, row: i64) -> Result<(), Fault> {
        let mut stored: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
        stored.active = false;
        let old = std::mem::take(&mut stored.own_capability);
        self.revoke_later(tx, old, 0)?;
        let (left, conversation) = (stored.left, stored.conversation);
        tx.put(row, &stored)?;
        for (_, target) in tx.children::<state::Target>(row)? {
            self.drop_target(tx, row, &target.device)?;
        }
        self.keys.retain(|(group, _)| *group != row);
        tx.remove_all::<state::Epoch>(row)?;
        tx.remove_all::<state::Outgoing>(row)?;
        self.talkative.remove(&row);
        self.wanted.remove(&row);
        self.leave_round(row);
        if conversation == 0 {
            self.me.removed = true;
            self.save_me(tx)?;
            self.notice(
                "This device was removed from its account. Remove the profile, or link it again.",
            );
            return Ok(());
        }
        if let Some(mut found) = tx.get::<state::Conversation>(conversation)?
            && found.group == row
        {
            found.closed = if left {
                "you have left this group".to_owned()
            } else {
                "you are no longer in this group; ask a member to add you".to_owned()
            };
            tx.put(conversation, &found)?;
        }
        Ok(())
    }

    /// Our own leaf's content in a new group or key package.
    pub(super) fn member(&self, capability: Vec<u8>) -> wire::Member {
        wire::Member {
            address: Some(wire::Address { relay: self.me.relay.clone(), capability }),
            name: self.me.name.clone(),
            hpke_key: self.me.hpke_public.clone(),
        }
    }

    /// Our own account record.
    pub(super) fn own_record(&self) -> Result<wire::SignedRecord, Fault> {
        wire::SignedRecord::decode(self.me.signed_record.as_slice())
            .map_err(|_| Fault::damaged("the account's record"))
    }
}
