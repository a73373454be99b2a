//! Coming back: a member that lost track of a group asks to be added again, and any member does it.

use super::commits::{LOST, Wanted};
use super::core::{Core, now_ms};
use super::effect::{Gather, Gathered, Job, Purpose};
use super::fault::Fault;
use super::outgoing::bytes_of;
use super::records::{of_group, state};
use prost::Message as _;

use crate::api::Refusal;
use crate::identity::{SignedRecord, Verdict};
use crate::mls;
use crate::vault::Transaction;
use crate::wire::{self, greeting, group_info::Kind};

/// Between two requests to be let in again there is at least so long: whoever can make a device lose
/// track must not make it do nothing else.
const AGAIN_LEAST_MS: u64 = 60 * 1_000;

/// A request that nobody followed is made anew after so long.
const AGAIN_MS: u64 = 60 * 60 * 1_000;

/// So many of the key packages that were sent with requests are remembered.
const PACKAGES_KEPT: usize = 8;

/// So many key packages that were acted on are remembered for each group.
const ACTED_KEPT: u64 = 256;

/// After so long without an answer any member may let a lost device in, with any key package.
const LOST_MS_MAX: u64 = 24 * 60 * 60 * 1_000;

impl Core {
    /// There is a commit that this device cannot follow, and perhaps nobody else could not. It says
    /// and changes nothing more in this group: in the old epoch it would be alone, and it must not
    /// go on to another attempt alone. It asks to be let in again.
    pub(super) fn lose_track(&mut self, tx: &Transaction<'_>, row: i64) -> Result<(), Fault> {
        let mut stored: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
        if stored.lost_ms > 0 {
            return Ok(());
        }
        stored.lost_ms = now_ms();
        stored.rejoining = false;
        tx.put(row, &stored)?;
        for (id, _) in tx.children::<state::PendingCommit>(row)? {
            self.finish_commit(tx, row, id)?;
        }
        let group = self.group(tx, row)?;
        if group.has_pending() {
            group.abandon_own()?;
            self.save(tx, row)?;
        }
        self.walked.remove(&row);
        self.rewalk.remove(&row);
        self.halves.remove(&row);
        self.refuse_wanted(row, &Refusal::new("lost_track", LOST));
        if stored.conversation == 0 {
            self.notice(
                "This device lost track of your other devices and asks them to let it in again.",
            );
        } else {
            let text = "This device could not follow a change in this conversation. It has asked the others to let \
                        it in again; what you write waits until then. If nobody answers for long, begin a new \
                        conversation with them.";
            self.add_notice(tx, stored.conversation, text)?;
        }
        self.ask_if_lost(tx, row)
    }

    /// Whoever lost track asks to be let in, and again after a while.
    pub(super) fn ask_if_lost(&mut self, tx: &Transaction<'_>, row: i64) -> Result<(), Fault> {
        let Some(stored) = tx.get::<state::Group>(row)? else { return Ok(()) };
        let wait = if stored.rejoining { AGAIN_MS } else { AGAIN_LEAST_MS };
        if stored.lost_ms == 0 || now_ms() < stored.rejoin_ms.saturating_add(wait) {
            return Ok(());
        }
        self.rejoin(tx, row)
    }

    /// Asks to be added again to a group that this device lost track of.
    pub(super) fn rejoin(&mut self, tx: &Transaction<'_>, row: i64) -> Result<(), Fault> {
        if tx.get::<state::Group>(row)?.is_none() {
            return Err(Fault::refused("not_a_group", "there is nothing to come back to"));
        }
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
        let Some(capability) = gathered.post.first().map(|token| token.as_bytes().to_vec()) else {
            return Ok(());
        };
        let members = self.members_of(tx, row)?;
        let mut stored: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
        let id = stored.id.clone();
        let reference = self.send_rejoin(tx, id, capability, &members)?;
        stored.rejoining = true;
        stored.rejoin_ms = now_ms();
        stored.rejoin_packages.push(reference);
        let old = stored.rejoin_packages.len().saturating_sub(PACKAGES_KEPT);
        stored.rejoin_packages.drain(..old);
        Ok(tx.put(row, &stored)?)
    }

    /// Whether a Welcome may take the place of what this device has of a group. Whoever knows a
    /// group's id can make another with it.
    pub(super) fn may_replace(
        &self,
        tx: &Transaction<'_>,
        known: &state::Group,
        group: &mls::Group,
        package: &state::KeyPackage,
    ) -> Result<bool, Fault> {
        if group.info().kind as u32 != known.kind {
            return Ok(false);
        }
        if known.kind == Kind::Direct as u32 {
            let found = tx.get::<state::Conversation>(known.conversation)?.unwrap_or_default();
            let own = &self.me.account;
            let is_of_both = group.roster().iter().all(|leaf| {
                let account = leaf.account.as_bytes()[..].to_vec();
                account == *own || account == found.account
            });
            if !is_of_both {
                return Ok(false);
            }
        }
        // Whoever was removed can be added by anyone, like whoever never was a member; and so can
        // who waits for long: it does not see any more whether it was removed.
        let is_given_up = known.lost_ms > 0 && known.lost_ms + LOST_MS_MAX < now_ms();
        let is_ours = known.rejoining && known.rejoin_packages.contains(&package.reference);
        Ok(!known.active || is_given_up || is_ours)
    }

    /// Remembers key packages that have had their effect: a request that is played again would
    /// put a leaf in the place of a good one whose secrets are gone.
    pub(super) fn remember_acted(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        references: &[Vec<u8>],
    ) -> Result<(), Fault> {
        for reference in references {
            if self.has_acted(tx, row, reference)? {
                continue;
            }
            tx.insert(&state::Acted { group: row, reference: reference.clone() })?;
            if tx.count::<state::Acted>(row)? > ACTED_KEPT
                && let Some((oldest, _)) = tx.after::<state::Acted>(row, 0, 1)?.pop()
            {
                tx.remove::<state::Acted>(oldest)?;
            }
        }
        Ok(())
    }

    fn has_acted(&self, tx: &Transaction<'_>, row: i64, reference: &[u8]) -> Result<bool, Fault> {
        Ok(tx.find::<state::Acted>(&of_group(row, &[reference]))?.is_some())
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
            let lookup = of_group(row, &[&member.device]);
            if let Some((_, target)) = tx.find::<state::Target>(&lookup)? {
                (member.relay, member.capability) = (target.relay, target.capability);
            }
        }
        Ok(members)
    }

    /// Asks members of a group to add this device with a fresh key package: its reference.
    pub(super) fn send_rejoin(
        &mut self,
        tx: &Transaction<'_>,
        group: Vec<u8>,
        capability: Vec<u8>,
        members: &[state::Newcomer],
    ) -> Result<Vec<u8>, Fault> {
        let key_package = self.new_key_package(tx, capability, false)?;
        let reference = mls::package_reference(&key_package);
        let reference = reference.map_err(|_| Fault::damaged("a key package"))?;
        let rejoin = wire::Rejoin { group, key_package, record: Some(self.own_record()?) };
        let body = Some(greeting::Body::Rejoin(rejoin));
        let greeting = wire::Greeting { body, invite: Vec::new() };
        for to in members {
            if bytes_of::<32>(&to.hpke_key).is_ok() {
                self.greet(tx, 0, to, &greeting)?;
            }
        }
        Ok(reference)
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
        let Ok(reference) = mls::package_reference(&rejoin.key_package) else { return Ok(()) };
        // Whoever lost track itself has nothing to let anyone into.
        if stored.lost_ms > 0 || self.has_acted(tx, row, &reference)? {
            return Ok(());
        }
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
        self.remember_acted(tx, row, &[reference])?;
        self.want(tx, row, Wanted { add, remove, ..Default::default() })
    }
}
