//! Coming back: a member that lost track of a group asks to be added again, and any member does it.

use super::commits::Wanted;
use super::core::Core;
use super::effect::{Gather, Gathered, Job, Purpose};
use super::fault::Fault;
use super::outgoing::bytes_of;
use super::records::state;
use prost::Message as _;

use crate::identity::{SignedRecord, Verdict};
use crate::mls;
use crate::vault::Transaction;
use crate::wire::{self, greeting};

impl Core {
    /// Asks to be added again to a group that this device lost track of.
    pub(super) fn rejoin(&mut self, tx: &Transaction<'_>, row: i64) -> Result<(), Fault> {
        if tx.get::<state::Group>(row)?.is_none() {
            return Err(Fault::refused("not_a_group", "there is nothing to come back to"));
        }
        let mut stored: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
        stored.rejoining = true;
        tx.put(row, &stored)?;
        if self.gathering.insert(format!("rejoin {row}")) {
            let gather = Gather { post: 1, ..Default::default() };
            self.start(Job::Gather(Purpose::Rejoin { group: row }, gather));
        }
        Ok(())
    }

    pub(super) fn ask_to_rejoin(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        gathered: Gathered,
    ) -> Result<(), Fault> {
        self.gathering.remove(&format!("rejoin {row}"));
        let stored: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
        let Some(capability) = gathered.post.first().map(|token| token.as_bytes().to_vec()) else {
            return Ok(());
        };
        let members = self.members_of(tx, row)?;
        self.send_rejoin(tx, stored.id, capability, &members)
    }

    /// The other devices of a group, as newcomers are reached: by greetings.
    pub(super) fn members_of(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
    ) -> Result<Vec<state::Newcomer>, Fault> {
        let own = self.me.device.clone();
        let of = |leaf: mls::Leaf| {
            let address = leaf.member.address.unwrap_or_default();
            state::Newcomer {
                account: leaf.account.as_bytes().to_vec(),
                device: leaf.device.as_bytes().to_vec(),
                relay: address.relay,
                capability: address.capability,
                hpke_key: leaf.member.hpke_key,
                ..Default::default()
            }
        };
        let mut members: Vec<_> = self.group(tx, row)?.roster().into_iter().map(of).collect();
        members.retain(|member| member.device != own);
        for member in &mut members {
            // The tree has the address a device came with; it may have told a newer one.
            let lookup = super::records::of_group(row, &[&member.device]);
            if let Some((_, target)) = tx.find::<state::Target>(&lookup)? {
                (member.relay, member.capability) = (target.relay, target.capability);
            }
        }
        Ok(members)
    }

    /// Asks members of a group to add this device with a fresh key package.
    pub(super) fn send_rejoin(
        &mut self,
        tx: &Transaction<'_>,
        group: Vec<u8>,
        capability: Vec<u8>,
        members: &[state::Newcomer],
    ) -> Result<(), Fault> {
        let key_package = self.new_key_package(tx, capability, false)?;
        let rejoin = wire::Rejoin { group, key_package, record: Some(self.own_record()?) };
        let body = Some(greeting::Body::Rejoin(rejoin));
        let greeting = wire::Greeting { body, invite: Vec::new() };
        for to in members {
            if bytes_of::<32>(&to.hpke_key).is_ok() {
                self.greet(tx, 0, to, &greeting)?;
            }
        }
        Ok(())
    }

    /// A member, or a new device of one, asks to be let in again. Its account must be in the group
    /// already, with the same root: that is checked here and again by everyone in the commit.
    pub(super) fn rejoin_asked(
        &mut self,
        tx: &Transaction<'_>,
        rejoin: &wire::Rejoin,
    ) -> Result<(), Fault> {
        let Some((row, stored)) = tx.find::<state::Group>(&rejoin.group)? else { return Ok(()) };
        let Ok(leaf) = mls::read_key_package(&rejoin.key_package) else { return Ok(()) };
        let record = rejoin.record.clone().and_then(|record| SignedRecord::try_from(record).ok());
        let Some(record) = record.filter(|_| stored.active) else { return Ok(()) };
        let roster = self.group(tx, row)?.roster();
        let is_member = roster
            .iter()
            .any(|found| found.account == leaf.account && found.root_key == leaf.root_key);
        let of_account = record.record().account == leaf.account
            && record.record().root_key == leaf.root_key
            && record.record().devices.iter().any(|found| found.device == leaf.device);
        if !is_member || !of_account || stored.leaving.contains(&leaf.account.as_bytes().to_vec()) {
            return Ok(());
        }
        let account = leaf.account.as_bytes().to_vec();
        // A device that was removed must not come back by an old record: of our own account we know which
        // devices it has.
        if account == self.me.account && !self.is_own_device(leaf.device.as_bytes())? {
            return Ok(());
        }
        if let Some((_, person)) = tx.find::<state::Person>(&account)? {
            let known = wire::SignedRecord::decode(person.signed_record.as_slice()).ok();
            let known = known.and_then(|known| SignedRecord::try_from(known).ok());
            match crate::identity::judge(known.as_ref(), &record) {
                Ok(Verdict::First | Verdict::Same | Verdict::Newer { .. }) => {}
                _ => return Ok(()),
            }
        }
        // The device's old leaf goes, and with it those that the account has given up.
        let goes = |found: &&mls::Leaf| {
            found.account == leaf.account
                && (found.device == leaf.device
                    || account != self.me.account
                        && !record.record().devices.iter().any(|d| d.device == found.device))
        };
        let gone = roster.iter().filter(goes);
        let remove =
            gone.map(|found| (account.clone(), Some(found.device.as_bytes().to_vec()))).collect();
        let address = leaf.member.address.clone().unwrap_or_default();
        let newcomer = state::Newcomer {
            account,
            device: leaf.device.as_bytes().to_vec(),
            relay: address.relay,
            capability: address.capability,
            hpke_key: leaf.member.hpke_key.clone(),
            ..Default::default()
        };
        let add = vec![(rejoin.key_package.clone(), newcomer)];
        self.want(tx, row, Wanted { add, remove, ..Default::default() })
    }
}
