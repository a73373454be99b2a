//! Greetings: what comes from outside every group. A Welcome, a new device of one's own, a member
//! that was away too long.

use prost::Message as _;

use super::commits::Wanted;
use super::core::{Core, now_ms};
use super::effect::{Gather, Gathered, Job, Purpose, Ticket};
use super::fault::Fault;
use super::outgoing::bytes_of;
use super::records::state;
use crate::api::{Joined, Refusal};
use crate::identity::SignedRecord;
use crate::mls::{self, Group};
use crate::vault::Transaction;
use crate::wire::{self, content::Body, greeting, group_info::Kind};

/// The id of a new group, in bytes.
const GROUP_ID_BYTES: usize = 16;

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
    fn welcomed(
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
        if !package.last_resort {
            tx.remove::<state::KeyPackage>(package_row)?;
        }
        let info = group.info();
        let accounts = accounts_of(&group);
        let others: Vec<_> = accounts.iter().filter(|a| **a != self.me.account).cloned().collect();
        let own =
            wire::Address { relay: self.me.relay.clone(), capability: package.capability.clone() };
        let (conversation, is_news) = match info.kind() {
            Kind::OwnDevices if others.is_empty() => (0, false),
            Kind::Direct if others.len() == 1 => {
                if self.is_blocked(tx, &others[0])? {
                    return Ok(());
                }
                self.check_root(tx, &group, &others[0])?;
                let is_new = self.person(tx, &others[0])?.1.conversation == 0;
                (self.direct_conversation(tx, &others[0])?, is_new)
            }
            Kind::Group => self.group_conversation(tx, &group, &info)?,
            _ => return Ok(()),
        };
        let row = self.insert_group(tx, group, conversation, own)?;
        self.use_group(tx, conversation, row)?;
        if conversation == 0 {
            self.announce_device(tx)?;
        } else {
            self.say_card(tx, row)?;
            if is_news {
                self.tell_beginning(tx, row, conversation, info.kind())?;
            }
        }
        if package.last_resort {
            // The address in it is known to others too.
            self.mark_stale(tx, row)?;
        }
        self.use_up_invite(tx, invite)?;
        self.conversation_changed(tx, conversation)?;
        self.unpark(tx)?;
        self.walk(tx, row)
    }

    fn group_conversation(
        &mut self,
        tx: &Transaction<'_>,
        group: &Group,
        info: &wire::GroupInfo,
    ) -> Result<(i64, bool), Fault> {
        if let Some((_, old)) = tx.find::<state::Group>(group.id())? {
            if let Some(mut found) = tx.get::<state::Conversation>(old.conversation)? {
                found.closed.clear();
                tx.put(old.conversation, &found)?;
            }
            return Ok((old.conversation, true));
        }
        let conversation = state::Conversation {
            kind: Kind::Group as u32,
            title: info.name.clone(),
            ..Default::default()
        };
        Ok((tx.insert(&conversation)?, true))
    }

    /// The group that messages of a conversation go to from now on.
    fn use_group(
        &mut self,
        tx: &Transaction<'_>,
        conversation: i64,
        row: i64,
    ) -> Result<(), Fault> {
        if let Some(mut found) = tx.get::<state::Conversation>(conversation)? {
            found.group = row;
            tx.put(conversation, &found)?;
        }
        Ok(())
    }

    fn tell_beginning(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        conversation: i64,
        kind: Kind,
    ) -> Result<(), Fault> {
        let roster = self.group(tx, row)?.roster();
        let mut names = Vec::new();
        for leaf in roster {
            let account = leaf.account.as_bytes().to_vec();
            let name = self.name_of(tx, &account, Some(&leaf.member.name))?;
            if account != self.me.account && !names.contains(&name) {
                names.push(name);
            }
        }
        let text = match kind {
            Kind::Direct => format!("You and {} can write to each other now.", names.join(", ")),
            _ => format!("You are in this group now, with {}.", names.join(", ")),
        };
        self.add_notice(tx, conversation, &text)
    }

    /// What the tree says of a contact's root must be what we know of it.
    fn check_root(
        &mut self,
        tx: &Transaction<'_>,
        group: &Group,
        account: &[u8],
    ) -> Result<(), Fault> {
        let leaf = group.roster().into_iter().find(|l| l.account.as_bytes()[..] == *account);
        let Some(leaf) = leaf else { return Ok(()) };
        let (id, mut person) = self.person(tx, account)?;
        let known = self.root_of(&person).map(|(_, root)| root);
        if known.is_some_and(|known| known != *leaf.root_key.as_bytes()) {
            person.identity_reset = true;
            person.verified = false;
            tx.put(id, &person)?;
        } else if person.name.is_empty() {
            person.name.clone_from(&leaf.member.name);
            tx.put(id, &person)?;
        }
        Ok(())
    }

    /// In a new conversation this device says first how its account is reached.
    fn say_card(&mut self, tx: &Transaction<'_>, row: i64) -> Result<(), Fault> {
        let stored: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
        if stored.kind == Kind::Direct as u32 {
            let found = self.conversation(tx, stored.conversation)?;
            self.renew_card(&found.account, row);
        }
        Ok(())
    }

    /// What was gathered is there, or could not be had.
    pub(super) fn gathered(
        &mut self,
        tx: &Transaction<'_>,
        purpose: Purpose,
        result: Result<Gathered, crate::relays::RelayError>,
    ) -> Result<(), Fault> {
        let ticket = ticket_of(&purpose);
        let gathered = match result {
            Ok(gathered) => gathered,
            Err(error) => {
                self.gathering.clear();
                self.try_soon();
                if let Some(ticket) = ticket {
                    let text = format!("the relay could not be asked: {error}");
                    self.refuse(ticket, Refusal::new("unreachable", text));
                }
                return Ok(());
            }
        };
        let done = match purpose {
            Purpose::Greet { card, invite, .. } => {
                self.start_direct(tx, &card, invite, gathered, ticket)
            }
            Purpose::CreateGroup { name, accounts, .. } => {
                self.start_group(tx, &name, &accounts, gathered, ticket)
            }
            Purpose::Add { group, account, .. } => {
                self.add_packages(tx, group, &account, gathered, ticket)
            }
            Purpose::Invite { ticket, is_link } => self.make_invite(tx, ticket, is_link, gathered),
            Purpose::Bundle => self.make_bundle(tx, gathered),
            Purpose::Address { group } => self.give_address(tx, group, gathered),
            Purpose::Card { account, group } => self.give_card(tx, &account, group, gathered),
            Purpose::OwnCard => self.give_own_card(tx, gathered),
            Purpose::OwnGroup => self.start_own_group(tx, gathered),
            Purpose::ComeBack { row } => self.come_back(tx, row, &gathered),
            Purpose::Rejoin { group } => self.ask_to_rejoin(tx, group, gathered),
            Purpose::LinkRequest => self.request_link(tx, gathered),
            Purpose::Slot { group } => self.take_slot_token(tx, group, gathered),
        };
        match (done, ticket) {
            (Err(Fault::Refused(refusal)), Some(ticket)) => {
                self.refuse(ticket, refusal);
                Ok(())
            }
            (Err(Fault::Refused(refusal)), None) => {
                self.notice(refusal.message);
                Ok(())
            }
            (done, _) => done,
        }
    }

    /// A conversation with one other account, begun by us.
    fn start_direct(
        &mut self,
        tx: &Transaction<'_>,
        card: &wire::Card,
        invite: Vec<u8>,
        gathered: Gathered,
        ticket: Option<Ticket>,
    ) -> Result<(), Fault> {
        let record = card.record.clone().and_then(|record| SignedRecord::try_from(record).ok());
        let Some(record) = record else {
            return Err(Fault::refused("bad_invite", "the invite's account record is not valid"));
        };
        let account = record.record().account.as_bytes().to_vec();
        let theirs = |(got, _): &(wire::DeviceCard, bytes::Bytes)| card.devices.contains(got);
        if !gathered.packages.iter().any(theirs) {
            let why = gathered.missing.as_deref().unwrap_or("its relay has no key packages");
            let text = format!("{} cannot be reached now: {why}", card.name);
            return Err(Fault::refused("not_reachable", text));
        }
        let (id, mut person) = self.person(tx, &account)?;
        if !self.judge_record(tx, &mut person, card)? {
            tx.put(id, &person)?;
            let text = "the invite's account does not follow from the one you know; ask for a new invite in person";
            return Err(Fault::refused("identity", text));
        }
        person.name.clone_from(&card.name);
        person.card = card.encode_to_vec();
        tx.put(id, &person)?;
        let conversation = self.direct_conversation(tx, &account)?;
        let kind = Kind::Direct;
        let mut newcomers = Self::newcomers(card);
        newcomers.extend(self.sibling_newcomers(tx)?);
        let row = self.create_group(tx, conversation, kind, "", &newcomers, gathered, invite)?;
        self.use_group(tx, conversation, row)?;
        self.say_card(tx, row)?;
        self.tell_beginning(tx, row, conversation, kind)?;
        self.conversation_changed(tx, conversation)?;
        if let Some(ticket) = ticket {
            self.answer(ticket, serde_json::json!(Joined { conversation }));
        }
        Ok(())
    }

    fn start_group(
        &mut self,
        tx: &Transaction<'_>,
        name: &str,
        accounts: &[Vec<u8>],
        gathered: Gathered,
        ticket: Option<Ticket>,
    ) -> Result<(), Fault> {
        let conversation = state::Conversation {
            kind: Kind::Group as u32,
            title: name.to_owned(),
            ..Default::default()
        };
        let mut newcomers = self.sibling_newcomers(tx)?;
        for account in accounts {
            newcomers.extend(self.person_newcomers(tx, account)?);
        }
        for account in accounts {
            let is_there = |(card, newcomer): &(wire::DeviceCard, state::Newcomer)| {
                newcomer.account == *account && gathered.packages.iter().any(|(got, _)| got == card)
            };
            if !newcomers.iter().any(is_there) {
                let name = self.name_of(tx, account, None)?;
                let why = gathered.missing.as_deref().unwrap_or("its relay has no key packages");
                let text = format!("{name} cannot be added now: {why}");
                return Err(Fault::refused("not_reachable", text));
            }
        }
        let conversation = tx.insert(&conversation)?;
        let row = self.create_group(
            tx,
            conversation,
            Kind::Group,
            name,
            &newcomers,
            gathered,
            Vec::new(),
        )?;
        self.use_group(tx, conversation, row)?;
        self.tell_beginning(tx, row, conversation, Kind::Group)?;
        self.conversation_changed(tx, conversation)?;
        if let Some(ticket) = ticket {
            self.answer(ticket, serde_json::json!(Joined { conversation }));
        }
        Ok(())
    }

    /// The group in which the account's devices tell each other what they know.
    fn start_own_group(&mut self, tx: &Transaction<'_>, gathered: Gathered) -> Result<(), Fault> {
        self.gathering.remove("own group");
        let newcomers = self.sibling_newcomers(tx)?;
        if gathered.packages.is_empty() {
            self.try_soon();
            return Ok(());
        }
        if self.own_group(tx)?.is_some() {
            return Ok(());
        }
        self.create_group(tx, 0, Kind::OwnDevices, "", &newcomers, gathered, Vec::new())?;
        self.announce_device(tx)
    }

    #[allow(clippy::too_many_arguments)] // what a group is made of
    fn create_group(
        &mut self,
        tx: &Transaction<'_>,
        conversation: i64,
        kind: Kind,
        name: &str,
        newcomers: &[(wire::DeviceCard, state::Newcomer)],
        gathered: Gathered,
        invite: Vec<u8>,
    ) -> Result<i64, Fault> {
        let capability = gathered.post.first().map(|token| token.as_bytes().to_vec());
        let Some(capability) = capability else {
            return Err(Fault::refused("no_capability", "the relay gave no capability"));
        };
        let slot_token = gathered.slot.map(|token| token.as_bytes().to_vec()).unwrap_or_default();
        let info = wire::GroupInfo {
            kind: kind as i32,
            name: name.to_owned(),
            home: self.me.relay.clone(),
            slot_token: slot_token.clone(),
        };
        let id = valise_client::random::bytes::<GROUP_ID_BYTES>();
        let member = self.member(capability.clone());
        let group = Group::create(&self.device, id, &info, &member)?;
        let own = wire::Address { relay: self.me.relay.clone(), capability };
        let row = self.insert_group(tx, group, conversation, own)?;
        let mut stored: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
        stored.slot_token = slot_token;
        tx.put(row, &stored)?;
        let add = matched(newcomers, gathered.packages);
        self.walked.insert(row);
        self.want(tx, row, Wanted { add, invite, ..Default::default() })?;
        Ok(row)
    }

    /// The account's devices by its card.
    pub(super) fn person_newcomers(
        &mut self,
        tx: &Transaction<'_>,
        account: &[u8],
    ) -> Result<Vec<(wire::DeviceCard, state::Newcomer)>, Fault> {
        let (_, person) = self.person(tx, account)?;
        let card = wire::Card::decode(person.card.as_slice());
        Ok(card.map(|card| Self::newcomers(&card)).unwrap_or_default())
    }

    /// The other devices of this account.
    pub(super) fn sibling_newcomers(
        &mut self,
        tx: &Transaction<'_>,
    ) -> Result<Vec<(wire::DeviceCard, state::Newcomer)>, Fault> {
        let card = self.own_card(tx, Vec::new(), Vec::new())?;
        let own = self.me.device.clone();
        Ok(Self::newcomers(&card).into_iter().filter(|(_, found)| found.device != own).collect())
    }

    fn add_packages(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        account: &[u8],
        gathered: Gathered,
        ticket: Option<Ticket>,
    ) -> Result<(), Fault> {
        self.gathering.remove(&format!("add {row}"));
        if gathered.packages.is_empty() && ticket.is_none() {
            self.try_soon();
            return Ok(());
        }
        if gathered.packages.is_empty() {
            let name = self.name_of(tx, account, None)?;
            let why =
                gathered.missing.unwrap_or_else(|| "its relay has no key packages".to_owned());
            return Err(Fault::refused(
                "not_reachable",
                format!("{name} cannot be added now: {why}"),
            ));
        }
        let mut newcomers = self.sibling_newcomers(tx)?;
        newcomers.extend(self.person_newcomers(tx, account)?);
        let add = matched(&newcomers, gathered.packages);
        self.want(tx, row, Wanted { add, ticket, ..Default::default() })
    }

    fn take_slot_token(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        gathered: Gathered,
    ) -> Result<(), Fault> {
        self.gathering.remove(&format!("slot {row}"));
        let mut stored: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
        stored.slot_token =
            gathered.slot.map(|token| token.as_bytes().to_vec()).unwrap_or_default();
        tx.put(row, &stored)?;
        if stored.slot_token.is_empty() {
            return Ok(());
        }
        self.next_wanted(tx, row)
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

    fn ask_to_rejoin(
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
    fn rejoin_asked(&mut self, tx: &Transaction<'_>, rejoin: &wire::Rejoin) -> Result<(), Fault> {
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
        // The device's old leaf goes, and with it those that the account has given up.
        let goes = |found: &&mls::Leaf| {
            found.account == leaf.account
                && (found.device == leaf.device
                    || !record.record().devices.iter().any(|d| d.device == found.device))
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
        };
        let add = vec![(rejoin.key_package.clone(), newcomer)];
        self.want(tx, row, Wanted { add, remove, ..Default::default() })
    }

    /// Makes a key package of this device, and keeps its secrets.
    pub(super) fn new_key_package(
        &mut self,
        tx: &Transaction<'_>,
        capability: Vec<u8>,
        last_resort: bool,
    ) -> Result<Vec<u8>, Fault> {
        let member = self.member(capability.clone());
        let made = mls::key_package(&self.device, &member, last_resort, crate::KEY_PACKAGE_DAYS)?;
        let entry = |(key, value)| state::MlsEntry { group: 0, key, value };
        let stored = state::KeyPackage {
            reference: made.reference,
            entries: made.entries.into_iter().map(entry).collect(),
            capability,
            last_resort,
            made_ms: now_ms(),
        };
        tx.insert(&stored)?;
        Ok(made.bytes)
    }

    fn give_address(
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

/// Key packages with the newcomers they are of. One that is of somebody else is left out: its relay
/// has handed out the wrong one.
fn matched(
    newcomers: &[(wire::DeviceCard, state::Newcomer)],
    packages: Vec<(wire::DeviceCard, bytes::Bytes)>,
) -> Vec<(Vec<u8>, state::Newcomer)> {
    let mut add = Vec::new();
    for (card, package) in packages {
        let Some((_, newcomer)) = newcomers.iter().find(|(of, _)| *of == card) else { continue };
        let leaf = mls::read_key_package(&package);
        let is_its = leaf.is_ok_and(|leaf| {
            leaf.account.as_bytes()[..] == newcomer.account[..]
                && leaf.device.as_bytes()[..] == newcomer.device[..]
        });
        if is_its {
            add.push((package.to_vec(), newcomer.clone()));
        }
    }
    add
}

fn ticket_of(purpose: &Purpose) -> Option<Ticket> {
    match purpose {
        Purpose::Greet { ticket, .. } | Purpose::Add { ticket, .. } => *ticket,
        Purpose::CreateGroup { ticket, .. } | Purpose::Invite { ticket, .. } => Some(*ticket),
        _ => None,
    }
}
