//! How conversations begin: what has to be had is gathered, a group is made, and the others are let
//! in by their key packages.

use prost::Message as _;

use super::commits::Wanted;
use super::core::{Core, now_ms};
use super::effect::{Gathered, Purpose, Ticket};
use super::fault::Fault;
use super::records::state;
use crate::api::{Joined, Refusal};
use crate::identity::SignedRecord;
use crate::mls::{self, Group};
use crate::vault::Transaction;
use crate::wire::{self, group_info::Kind};

/// The id of a new group, in bytes.
const GROUP_ID_BYTES: usize = 16;

/// Why somebody cannot be added whose relay was asked.
const NO_PACKAGES: &str = "its relay has no key package that is good";

impl Core {
    /// The group that messages of a conversation go to from now on.
    pub(super) fn use_group(
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

    pub(super) fn tell_beginning(
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
            let name = self.member_name(tx, &leaf)?;
            if account != self.me.account && !names.contains(&name) {
                names.push(name);
            }
        }
        let text = match kind {
            Kind::Direct => format!("You and {} can write to each other now.", names.join(", ")),
            _ if names.is_empty() => "You are in this group now, alone.".to_owned(),
            _ => format!("You are in this group now, with {}.", names.join(", ")),
        };
        self.add_notice(tx, conversation, &text)?;
        self.tell_claims(tx, row, None)
    }

    /// In a new conversation this device says first how its account is reached.
    pub(super) fn say_card(&mut self, tx: &Transaction<'_>, row: i64) -> Result<(), Fault> {
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
            Purpose::Invite { ticket } => self.make_invite(tx, ticket, None, gathered),
            Purpose::DeviceLink { ticket, join_code } => {
                self.make_invite(tx, ticket, Some(join_code), gathered)
            }
            Purpose::Bundle => self.make_bundle(tx, gathered),
            Purpose::Address { group } => self.give_address(tx, group, gathered),
            Purpose::Card { account, group } => self.give_card(tx, &account, group, gathered),
            Purpose::OwnCard => self.give_own_card(tx, gathered),
            Purpose::OwnGroup => self.start_own_group(tx, gathered),
            Purpose::ComeBack { row } => self.come_back(tx, row, &gathered),
            Purpose::Rejoin { group } => self.ask_to_rejoin(tx, group, gathered),
            Purpose::LinkRequest => self.request_link(tx, gathered),
            Purpose::Slot { group } => self.take_slot_token(tx, group, gathered),
            Purpose::SharedSlot { group } => self.share_slot_token(tx, group, gathered),
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
    pub(super) fn start_direct(
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
        let theirs = Self::newcomers(card);
        if matched(&theirs, &gathered.packages).is_empty() {
            let why = gathered.missing.as_deref().unwrap_or(NO_PACKAGES);
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
        let is_new = self.person(tx, &account)?.1.conversation == 0;
        let conversation = self.direct_conversation(tx, &account)?;
        let kind = Kind::Direct;
        let mut newcomers = theirs;
        newcomers.extend(self.sibling_newcomers(tx)?);
        let row = self.create_group(tx, conversation, kind, "", &newcomers, gathered, invite)?;
        self.use_group(tx, conversation, row)?;
        self.say_card(tx, row)?;
        if is_new {
            self.tell_beginning(tx, row, conversation, kind)?;
        }
        self.conversation_changed(tx, conversation)?;
        if let Some(ticket) = ticket {
            self.answer(ticket, serde_json::json!(Joined { conversation }));
        }
        Ok(())
    }

    pub(super) fn start_group(
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
            let theirs = self.person_newcomers(tx, account)?;
            if matched(&theirs, &gathered.packages).is_empty() {
                let name = self.name_of(tx, account, None)?;
                let why = gathered.missing.as_deref().unwrap_or(NO_PACKAGES);
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
    pub(super) fn start_own_group(
        &mut self,
        tx: &Transaction<'_>,
        gathered: Gathered,
    ) -> Result<(), Fault> {
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
    pub(super) fn create_group(
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
            slot_token_ms: now_ms(),
        };
        let id = valise_client::random::bytes::<GROUP_ID_BYTES>();
        let member = self.member(capability.clone());
        let group = Group::create(&self.device, id, &info, &member)?;
        let own = wire::Address { relay: self.me.relay.clone(), capability };
        let row = self.insert_group(tx, group, conversation, own)?;
        let mut stored: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
        stored.slot_token = slot_token;
        tx.put(row, &stored)?;
        let add = matched(newcomers, &gathered.packages);
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
        let card = self.account_card(tx, Vec::new(), Vec::new())?;
        let own = self.me.device.clone();
        Ok(Self::newcomers(&card).into_iter().filter(|(_, found)| found.device != own).collect())
    }

    pub(super) fn add_packages(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        account: &[u8],
        gathered: Gathered,
        ticket: Option<Ticket>,
    ) -> Result<(), Fault> {
        self.gathering.remove(&format!("add {row}"));
        let mut newcomers = self.sibling_newcomers(tx)?;
        if account[..] != self.me.account[..] {
            newcomers.extend(self.person_newcomers(tx, account)?);
        }
        let add = matched(&newcomers, &gathered.packages);
        if add.is_empty() && ticket.is_none() {
            self.try_soon();
            return Ok(());
        }
        if add.is_empty() {
            let name = self.name_of(tx, account, None)?;
            let why = gathered.missing.unwrap_or_else(|| NO_PACKAGES.to_owned());
            return Err(Fault::refused(
                "not_reachable",
                format!("{name} cannot be added now: {why}"),
            ));
        }
        self.want(tx, row, Wanted { add, ticket, ..Default::default() })
    }

    pub(super) fn take_slot_token(
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
}

/// Key packages with the newcomers they are of. One that is not of the very device that the account's
/// record lists is left out: whoever has the bundle's key and the relay's ear could have made it.
fn matched(
    newcomers: &[(wire::DeviceCard, state::Newcomer)],
    packages: &[(wire::DeviceCard, bytes::Bytes)],
) -> Vec<(Vec<u8>, state::Newcomer)> {
    let mut add = Vec::new();
    for (card, package) in packages {
        let Some((_, newcomer)) = newcomers.iter().find(|(of, _)| of == card) else { continue };
        let leaf = mls::read_key_package(package);
        let is_its = leaf.is_ok_and(|leaf| {
            leaf.account.as_bytes()[..] == newcomer.account[..]
                && leaf.device.as_bytes()[..] == newcomer.device[..]
                && leaf.root_key.as_bytes()[..] == newcomer.root_key[..]
                && leaf.signature_key == newcomer.signature_key
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
        Purpose::CreateGroup { ticket, .. }
        | Purpose::Invite { ticket }
        | Purpose::DeviceLink { ticket, .. } => Some(*ticket),
        _ => None,
    }
}
