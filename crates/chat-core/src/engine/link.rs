//! Linking a device: the new one shows that it has seen the code, the old one's user confirms, and
//! the account's record lists it. From then on every device of the account brings it along.

use aws_lc_rs::hmac;
use prost::Message as _;

use super::core::{Core, now_ms};
use super::effect::{Gather, Gathered, Job, Purpose};
use super::fault::Fault;
use super::outgoing::bytes_of;
use super::records::state;
use crate::api::{Event, LinkRequest};
use crate::identity::{DeviceEntry, DeviceId, RECORD_BYTES_MAX, SignedRecord, words};
use crate::seal::HpkePublicKey;
use crate::vault::Transaction;
use crate::wire::{self, greeting, group_info::Kind};

impl Core {
    /// On the new device: everything that the request needs is had from the relay.
    pub(super) fn begin_link(&mut self) {
        if !self.me.link_secret.is_empty() && !self.me.link_requested {
            let gather = Gather { post: 1, take: 1, ..Default::default() };
            if self.gathering.insert("link".to_owned()) {
                self.start(Job::Gather(Purpose::LinkRequest, gather));
            }
        }
    }

    /// On the new device: asks the old one.
    pub(super) fn request_link(
        &mut self,
        tx: &Transaction<'_>,
        gathered: Gathered,
    ) -> Result<(), Fault> {
        self.gathering.remove("link");
        let (Some(post), Some(take)) = (gathered.post.first(), gathered.take.first()) else {
            return Ok(());
        };
        let offer = wire::LinkOffer::decode(self.me.link_offer.as_slice());
        let offer = offer.map_err(|_| Fault::damaged("the link's offer"))?;
        let device = super::own::device_record(&self.me)?;
        let secret = self.me.link_secret.clone();
        let card = wire::DeviceCard {
            device: self.me.device.clone(),
            address: Some(wire::Address {
                relay: self.me.relay.clone(),
                capability: post.as_bytes().to_vec(),
            }),
            take_token: take.as_bytes().to_vec(),
            bundle_key: self.me.bundle_key.clone(),
        };
        let request = wire::LinkRequest {
            proof: proof(&secret, &device),
            device: Some(device),
            card: Some(card),
        };
        let body = Some(greeting::Body::LinkRequest(request));
        let address = offer.address.unwrap_or_default();
        // The user has followed the link there.
        self.permit(tx, &address.relay, true)?;
        let to = state::Newcomer {
            account: offer.account,
            device: offer.hpke_key[..16.min(offer.hpke_key.len())].to_vec(),
            relay: address.relay,
            capability: address.capability,
            hpke_key: offer.hpke_key,
            ..Default::default()
        };
        self.greet(tx, 0, &to, &wire::Greeting { body, invite: Vec::new() })?;
        self.me.link_requested = true;
        self.save_me(tx)
    }

    /// On the old device: a new one asks. Its user decides.
    pub(super) fn link_requested(
        &mut self,
        tx: &Transaction<'_>,
        request: wire::LinkRequest,
    ) -> Result<(), Fault> {
        let Some(device) = request.device.clone() else { return Ok(()) };
        let mut secret = None;
        for (_, invite) in tx.all::<state::Invite>()? {
            if invite.is_link && is_proof(&invite.secret, &device, &request.proof) {
                secret = Some(invite.secret);
            }
        }
        let Some(secret) = secret else { return Ok(()) };
        // What the user compares is the first one: nobody can put another in its place meanwhile.
        let is_known = tx.find::<state::LinkAsk>(&device.device)?.is_some();
        if is_known || bytes_of::<16>(&device.device).is_err() || !is_sound(&request) {
            return Ok(());
        }
        let ask = state::LinkAsk {
            device: device.device.clone(),
            request: request.encode_to_vec(),
            secret,
        };
        tx.insert(&ask)?;
        let request = view(&ask)?;
        self.emit(Event::LinkRequest { request });
        Ok(())
    }

    pub(super) fn link_requests(&self, tx: &Transaction<'_>) -> Result<Vec<LinkRequest>, Fault> {
        tx.all::<state::LinkAsk>()?.iter().map(|(_, ask)| view(ask)).collect()
    }

    /// On the old device: the user has compared the words and decided.
    pub(super) fn confirm_link(
        &mut self,
        tx: &Transaction<'_>,
        device: &[u8],
        accept: bool,
    ) -> Result<(), Fault> {
        let Some((id, ask)) = tx.find::<state::LinkAsk>(device)? else {
            return Err(Fault::refused(
                "unknown_device",
                "no device with this id asks to be linked",
            ));
        };
        tx.remove::<state::LinkAsk>(id)?;
        if let Some((invite, stored)) = tx.find::<state::Invite>(&ask.secret)? {
            self.revoke_later(tx, stored.capability, 60 * 1_000)?;
            self.revoke_later(tx, stored.take_token, 0)?;
            tx.remove::<state::Invite>(invite)?;
        }
        if !accept {
            return Ok(());
        }
        let request = wire::LinkRequest::decode(ask.request.as_slice());
        let request = request.map_err(|_| Fault::damaged("a link's request"))?;
        let (Some(device), Some(card)) = (request.device, request.card) else { return Ok(()) };
        let root = super::own::root(&self.me)?;
        let known = SignedRecord::try_from(self.own_record()?);
        let known = known.map_err(|_| Fault::damaged("the account's record"))?;
        let record = known.with_device(&root, device.clone()).map_err(|error| {
            Fault::refused("bad_device", format!("the device cannot be linked: {error}"))
        })?;
        self.set_own_record(tx, record, Some(&device), None)?;
        let mut contacts = Vec::new();
        let mut room = CONTACTS_BYTES_MAX;
        for (_, person) in tx.all::<state::Person>()? {
            let Some(left) = room.checked_sub(person.card.len() + person.petname.len()) else {
                continue;
            };
            room = left;
            if let Ok(card) = wire::Card::decode(person.card.as_slice()) {
                contacts.push(wire::ContactSync {
                    card: Some(card),
                    petname: person.petname,
                    verified: person.verified,
                    blocked: person.blocked,
                    decided: true,
                });
            }
        }
        let grant = wire::LinkGrant {
            record: Some(self.own_record()?),
            root_secret: self.me.root_seed.clone(),
            notice_secret: self.me.notice_secret.clone(),
            name: self.me.name.clone(),
            contacts,
            relays: self.permitted.iter().cloned().collect(),
        };
        let address = card.address.clone().unwrap_or_default();
        let to = state::Newcomer {
            account: self.me.account.clone(),
            device: device.device.clone(),
            relay: address.relay,
            capability: address.capability,
            hpke_key: device.hpke_key,
            ..Default::default()
        };
        let body = Some(greeting::Body::LinkGrant(grant));
        self.greet(tx, 0, &to, &wire::Greeting { body, invite: Vec::new() })?;
        let sibling = state::Sibling { device: device.device, card: card.encode_to_vec() };
        match tx.find::<state::Sibling>(&sibling.device)? {
            Some((id, _)) => tx.put(id, &sibling)?,
            None => drop(tx.insert(&sibling)?),
        }
        self.tell_own_card(tx)?;
        self.hurry = super::upkeep::HURRIES;
        self.upkeep(tx)
    }

    /// On the new device: it belongs to the account now.
    pub(super) fn link_granted(
        &mut self,
        tx: &Transaction<'_>,
        grant: wire::LinkGrant,
    ) -> Result<(), Fault> {
        if self.me.link_secret.is_empty() {
            return Ok(());
        }
        let offer = wire::LinkOffer::decode(self.me.link_offer.as_slice());
        let offer = offer.map_err(|_| Fault::damaged("the link's offer"))?;
        let record = grant.record.clone().and_then(|record| SignedRecord::try_from(record).ok());
        let Some(record) = record else { return Ok(()) };
        let root = crate::identity::RootKey::from_seed(&match bytes_of(&grant.root_secret) {
            Ok(seed) => seed,
            Err(_) => return Ok(()),
        });
        // Only the account that the code was of can grant, and its root must be the one it showed.
        let is_right = record.record().account.as_bytes()[..] == offer.account[..]
            && record.record().root_key.as_bytes()[..] == offer.root_key[..]
            && root.public().as_bytes()[..] == offer.root_key[..]
            && record.record().devices.iter().any(|d| d.device == self.device_id());
        if !is_right {
            return Ok(());
        }
        self.me.account = offer.account;
        self.me.root_seed = grant.root_secret;
        self.me.notice_secret = grant.notice_secret;
        self.me.signed_record = grant.record.unwrap_or_default().encode_to_vec();
        self.me.name = grant.name;
        self.me.link_secret.clear();
        self.me.link_offer.clear();
        // Key packages from now on: their certificate is the account's.
        self.me.bundle_published = false;
        self.save_me(tx)?;
        self.device = super::own::device(&self.me)?;
        for relay in grant.relays {
            self.permit(tx, &relay, true)?;
        }
        for contact in grant.contacts {
            self.contact_synced(tx, contact)?;
        }
        self.notice("This device is linked. Conversations appear as the other device adds it.");
        self.upkeep(tx)
    }

    /// Removes a device from the account: no record lists it, and every group lets it go.
    pub(super) fn remove_device(
        &mut self,
        tx: &Transaction<'_>,
        device: &[u8],
    ) -> Result<(), Fault> {
        if device == self.me.device {
            let text =
                "this is the device you are using; remove it on another one, or remove the profile";
            return Err(Fault::refused("this_device", text));
        }
        if !self.is_own_device(device)? {
            return Err(Fault::refused("unknown_device", "the account has no device with this id"));
        }
        let root = super::own::root(&self.me)?;
        let known = SignedRecord::try_from(self.own_record()?);
        let known = known.map_err(|_| Fault::damaged("the account's record"))?;
        let id = DeviceId(bytes_of(device)?);
        let record = known.without_device(&root, id).map_err(|error| {
            Fault::refused("bad_device", format!("the device cannot be removed: {error}"))
        })?;
        self.set_own_record(tx, record, None, Some(id))?;
        if let Some((row, _)) = tx.find::<state::Sibling>(device)? {
            tx.remove::<state::Sibling>(row)?;
        }
        self.tell_own_card(tx)?;
        self.upkeep(tx)
    }

    /// Tells the other devices the account's latest record.
    pub(super) fn tell_own_card(&mut self, tx: &Transaction<'_>) -> Result<(), Fault> {
        let card = wire::Card {
            record: Some(self.own_record()?),
            devices: Vec::new(),
            name: self.me.name.clone(),
        };
        self.tell_siblings(tx, wire::sync::Body::OwnCard(card))
    }

    /// In the group of the account's own devices: how this one is reached.
    pub(super) fn announce_device(&mut self, _tx: &Transaction<'_>) -> Result<(), Fault> {
        if self.gathering.insert("own card".to_owned()) {
            let gather = Gather { post: 1, take: 1, ..Default::default() };
            self.start(Job::Gather(Purpose::OwnCard, gather));
        }
        Ok(())
    }

    pub(super) fn give_own_card(
        &mut self,
        tx: &Transaction<'_>,
        gathered: Gathered,
    ) -> Result<(), Fault> {
        self.gathering.remove("own card");
        let (Some(post), Some(take)) = (gathered.post.first(), gathered.take.first()) else {
            return Ok(());
        };
        let (post, take) = (post.as_bytes().to_vec(), take.as_bytes().to_vec());
        let card = self.own_card(post, take)?;
        self.tell_siblings(tx, wire::sync::Body::OwnCard(card))
    }

    /// The group of the account's own devices, made when there is a second one.
    pub(super) fn own_group(&mut self, tx: &Transaction<'_>) -> Result<Option<i64>, Fault> {
        let groups = tx.children::<state::Group>(0)?;
        let kind = Kind::OwnDevices as u32;
        let found = groups.into_iter().find(|(_, group)| group.active && group.kind == kind);
        Ok(found.map(|(row, _)| row))
    }
}

/// What the user compares on both screens.
pub(super) fn link_words(secret: &[u8], device: &wire::DeviceRecord) -> Vec<String> {
    let secret: [u8; 16] = secret.try_into().unwrap_or([0; 16]);
    words::link_words(&secret, device).iter().map(ToString::to_string).collect()
}

/// Whether a request can be granted: its device is whole, and something can be sealed to it.
fn is_sound(request: &wire::LinkRequest) -> bool {
    let (Some(device), Some(card)) = (&request.device, &request.card) else { return false };
    let key = bytes_of(&device.hpke_key).map(HpkePublicKey);
    request.encoded_len() <= RECORD_BYTES_MAX
        && card.device == device.device
        && DeviceEntry::try_from(device.clone()).is_ok()
        && key
            .is_ok_and(|key| crate::seal::greeting::seal(&key, &wire::Greeting::default()).is_ok())
}

fn view(ask: &state::LinkAsk) -> Result<LinkRequest, Fault> {
    let request = wire::LinkRequest::decode(ask.request.as_slice());
    let device = request.ok().and_then(|request| request.device).unwrap_or_default();
    Ok(LinkRequest {
        device: DeviceId(bytes_of(&ask.device)?).to_text(),
        name: device.name.clone(),
        words: link_words(&ask.secret, &device),
    })
}

pub(super) fn proof(secret: &[u8], device: &wire::DeviceRecord) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    hmac::sign(&key, &device.encode_to_vec()).as_ref().to_vec()
}

fn is_proof(secret: &[u8], device: &wire::DeviceRecord, proof: &[u8]) -> bool {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    hmac::verify(&key, &device.encode_to_vec(), proof).is_ok()
}

/// A new device is told of so many bytes of contacts: a grant has to fit a greeting. Some thousand people.
const CONTACTS_BYTES_MAX: usize = 3 * 1024 * 1024;

/// When a link was made so long ago, it is no use any more.
pub(super) const LINK_MS_MAX: u64 = 24 * 60 * 60 * 1_000;

/// The slot of an invite is gone after so long, and with it its use for anyone who is meant.
const INVITE_MS_MAX: u64 = 90 * 24 * 60 * 60 * 1_000;

impl state::Invite {
    /// Whether nobody should follow it any more.
    pub(super) fn is_stale(&self) -> bool {
        let ends_after = if self.is_link { LINK_MS_MAX } else { INVITE_MS_MAX };
        self.made_ms + ends_after < now_ms()
    }
}
