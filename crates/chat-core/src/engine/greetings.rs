//! Greetings: what comes from outside every group. A Welcome, a new device of one's own, a member
//! that was away too long.

use super::core::{Core, now_ms};
use super::effect::Gathered;
use super::fault::Fault;
use super::people::presentable;
use super::records::state;
use crate::mls::{self, Group};
use crate::vault::Transaction;
use crate::wire::{self, content::Body, greeting, group_info::Kind};

impl Core {
    /// A greeting that was sealed to this device.
    pub(super) fn greeted(
        &mut self,
        tx: &Transaction<'_>,
        greeting: wire::Greeting,
    ) -> Result<(), Fault> {
        match greeting.body {
            Some(greeting::Body::Welcome(welcome)) => self.welcomed(tx, &welcome, &greeting.invite),
            Some(greeting::Body::LinkRequest(request)) => self.link_requested(tx, request),
            Some(greeting::Body::LinkGrant(grant)) => self.link_granted(tx, grant),
            Some(greeting::Body::Rejoin(rejoin)) => self.rejoin_asked(tx, &rejoin),
            None => Ok(()),
        }
    }

    /// Somebody has let this device into a group. What does not fit is dropped: anyone who has an
    /// invite can send anything.
    pub(super) fn welcomed(
        &mut self,
        tx: &Transaction<'_>,
        welcome: &[u8],
        invite: &[u8],
    ) -> Result<(), Fault> {
        let Ok(references) = mls::welcome_references(welcome) else { return Ok(()) };
        let mut found = None;
        for reference in references {
            found = found.or(tx.find::<state::KeyPackage>(&reference)?);
        }
        let Some((package_row, package)) = found else { return Ok(()) };
        let entries = package.entries.iter();
        let entries = entries.map(|entry| (entry.key.clone(), entry.value.clone())).collect();
        let Ok(group) = Group::join(&self.device, welcome, entries) else { return Ok(()) };
        let known = tx.find::<state::Group>(group.id())?.map(|(_, known)| known);
        if let Some(known) = &known
            && !self.may_replace(tx, known, &group, &package)?
        {
            return self.let_package_go(tx, package);
        }
        if !package.last_resort {
            tx.remove::<state::KeyPackage>(package_row)?;
        }
        let inviter = self.inviter(tx, &group)?;
        let info = group.info();
        let accounts = accounts_of(&group);
        let others: Vec<_> = accounts.iter().filter(|a| **a != self.me.account).cloned().collect();
        let own =
            wire::Address { relay: self.me.relay.clone(), capability: package.capability.clone() };
        let (conversation, is_news) = match info.kind() {
            Kind::OwnDevices if others.is_empty() => (0, false),
            Kind::Direct if others.len() == 1 => {
                let is_welcome =
                    !self.is_blocked(tx, &others[0])? && self.check_root(tx, &group, &others[0])?;
                if !is_welcome {
                    return self.let_package_go(tx, package);
                }
                let is_new = self.person(tx, &others[0])?.1.conversation == 0;
                (self.direct_conversation(tx, &others[0])?, is_new)
            }
            // Whoever is blocked draws nobody into new groups.
            Kind::Group if self.is_by_blocked(tx, &group)? => {
                return self.let_package_go(tx, package);
            }
            Kind::Group => self.group_conversation(tx, &group, &info)?,
            _ => return self.let_package_go(tx, package),
        };
        let row = self.insert_group(tx, group, conversation, own)?;
        let mut stored: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
        // Whoever took the last resort has the leaf's public key in another group, too.
        self.leaf_is_of(&mut stored, package.made_ms, package.last_resort);
        tx.put(row, &stored)?;
        self.use_group(tx, conversation, row)?;
        if conversation == 0 {
            // Whoever was taken out while two devices changed the account at once is in again: only
            // the account's own devices can be in this group, and so only they can say so.
            self.me.removed = false;
            self.save_me(tx)?;
            self.announce_device(tx)?;
        } else {
            if known.is_some() {
                self.reopen(tx, conversation, &inviter, &info.name)?;
            }
            self.say_card(tx, row)?;
            if is_news {
                self.tell_beginning(tx, row, conversation, info.kind())?;
            }
        }
        if package.last_resort || package.replaced {
            // The address in it is known to others too, or ends soon.
            self.mark_stale(tx, row)?;
        }
        self.use_up_invite(tx, invite)?;
        self.conversation_changed(tx, conversation)?;
        self.unpark(tx)?;
        self.walk(tx, row)
    }

    pub(super) fn group_conversation(
        &mut self,
        tx: &Transaction<'_>,
        group: &Group,
        info: &wire::GroupInfo,
    ) -> Result<(i64, bool), Fault> {
        if let Some((_, old)) = tx.find::<state::Group>(group.id())? {
            return Ok((old.conversation, true));
        }
        let conversation = state::Conversation {
            kind: Kind::Group as u32,
            title: info.name.clone(),
            ..Default::default()
        };
        Ok((tx.insert(&conversation)?, true))
    }

    /// The name of who has let this device in.
    fn inviter(&self, tx: &Transaction<'_>, group: &Group) -> Result<String, Fault> {
        let Some(inviter) = group.inviter() else { return Ok("somebody".to_owned()) };
        let leaf = group.roster().into_iter().find(|leaf| leaf.account == inviter);
        match leaf {
            Some(leaf) if inviter.as_bytes()[..] != self.me.account[..] => {
                self.name_of(tx, inviter.as_bytes(), Some(&leaf.member.name))
            }
            _ => Ok("another device of yours".to_owned()),
        }
    }

    /// A conversation goes on. Who has let this device in is told, for anyone could.
    fn reopen(
        &mut self,
        tx: &Transaction<'_>,
        conversation: i64,
        inviter: &str,
        title: &str,
    ) -> Result<(), Fault> {
        let Some(mut found) = tx.get::<state::Conversation>(conversation)? else { return Ok(()) };
        found.closed.clear();
        if found.kind == Kind::Group as u32 {
            title.clone_into(&mut found.title);
        }
        tx.put(conversation, &found)?;
        self.add_notice(tx, conversation, &format!("This device was let in again by {inviter}."))
    }

    /// What the tree says of a contact's root must be what we know of it.
    pub(super) fn check_root(
        &mut self,
        tx: &Transaction<'_>,
        group: &Group,
        account: &[u8],
    ) -> Result<bool, Fault> {
        let leaf = group.roster().into_iter().find(|l| l.account.as_bytes()[..] == *account);
        let Some(leaf) = leaf else { return Ok(false) };
        let (id, mut person) = self.person(tx, account)?;
        let root = leaf.root_key.as_bytes();
        let known = self.root_of(&person).map(|(_, root)| root);
        if known.is_some_and(|known| known != *root) {
            // Anyone can claim to be anyone: what is known stays as it is.
            if person.claimed_root != root {
                person.claimed_root = root.to_vec();
                tx.put(id, &person)?;
                let name = self.name_of(tx, account, None)?;
                let text = format!(
                    "Somebody with another account key wants to write to you as {name}. Nothing of it is shown, and nothing \
                     has changed. If {name} has begun anew, ask {name} for an invite in person, and follow it."
                );
                self.add_notice(tx, person.conversation, &text)?;
            }
            return Ok(false);
        }
        if known.is_none() || person.name.is_empty() {
            person.root_key = root.to_vec();
            if person.name.is_empty() {
                person.name = presentable(&leaf.member.name);
            }
            tx.put(id, &person)?;
        }
        Ok(true)
    }

    fn is_by_blocked(&self, tx: &Transaction<'_>, group: &Group) -> Result<bool, Fault> {
        match group.inviter() {
            Some(inviter) if tx.find::<state::Group>(group.id())?.is_none() => {
                self.is_blocked(tx, inviter.as_bytes())
            }
            _ => Ok(false),
        }
    }

    /// Whoever has used a package and is not let in has its address all the same: it ends.
    fn let_package_go(
        &mut self,
        tx: &Transaction<'_>,
        package: state::KeyPackage,
    ) -> Result<(), Fault> {
        if package.last_resort { Ok(()) } else { self.revoke_later(tx, package.capability, 0) }
    }

    /// Makes a key package of this device, and keeps its secrets.
    pub(super) fn new_key_package(
        &mut self,
        tx: &Transaction<'_>,
        capability: Vec<u8>,
        last_resort: bool,
    ) -> Result<Vec<u8>, Fault> {
        let member = self.member(capability.clone());
        let made = mls::key_package(&self.device, &member, last_resort)?;
        let entry = |(key, value)| state::MlsEntry { group: 0, key, value };
        let stored = state::KeyPackage {
            reference: made.reference,
            entries: made.entries.into_iter().map(entry).collect(),
            capability,
            last_resort,
            made_ms: now_ms(),
            replaced: false,
        };
        tx.insert(&stored)?;
        Ok(made.bytes)
    }

    pub(super) fn give_address(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        gathered: Gathered,
    ) -> Result<(), Fault> {
        self.gathering.remove(&format!("address {row}"));
        let mut stored: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
        let Some(capability) = gathered.post.first().map(|token| token.as_bytes().to_vec()) else {
            return Ok(());
        };
        let address =
            wire::Address { relay: self.me.relay.clone(), capability: capability.clone() };
        let body = Some(Body::Address(address));
        let content = wire::Content { sent_ms: now_ms(), body, ..Default::default() };
        let old = std::mem::replace(&mut stored.own_capability, capability);
        stored.own_capability_ms = now_ms();
        stored.address_stale = false;
        tx.put(row, &stored)?;
        self.say(tx, row, &content, 0)?;
        // Those who were away get the new address before they post: it waits for them in order.
        self.revoke_later(tx, old, super::upkeep::OLD_ADDRESS_MS)
    }
}

/// The accounts of a group, each once.
fn accounts_of(group: &Group) -> Vec<Vec<u8>> {
    let mut accounts: Vec<_> =
        group.roster().into_iter().map(|leaf| leaf.account.as_bytes().to_vec()).collect();
    accounts.sort();
    accounts.dedup();
    accounts
}
