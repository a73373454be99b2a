//! What has to be done sooner or later, derived from what is stored: fresh addresses, cards for
//! contacts, own devices in every group, those who leave, what disappears, what is to be revoked.

use std::time::Duration;

use valise_client::{Publication, random};
use valise_proto::{PublicationId, Token};

use super::commits::Wanted;
use super::core::{Core, now_ms};
use super::effect::{Gather, Gathered, Job, Outcome, Purpose};
use super::fault::Fault;
use super::records::state;
use crate::api::{Event, MessageState};
use crate::identity::SignedRecord;
use crate::relays::RelayError;
use crate::seal::{ItemKey, item};
use crate::vault::Transaction;
use crate::wire::{self, content::Body, group_info::Kind};

/// One-time key packages that are published at once.
const BUNDLE_ITEMS: u32 = 20;

/// Key packages whose secrets are kept. Nobody whom that many people begin conversations with in half a
/// year needs more at once.
const KEY_PACKAGES_MAX: u64 = 1_000;

/// A bundle is published anew after so long, and key packages' secrets are kept for so long.
const BUNDLE_RENEW_MS: u64 = 45 * 24 * 60 * 60 * 1_000;
/// What is published since key packages are good at all times. An older bundle is replaced.
const BUNDLE_FORMAT: u32 = 1;
const KEY_PACKAGE_MS_MAX: u64 = 180 * 24 * 60 * 60 * 1_000;

/// An address that was replaced is good for so long: for those who were away.
pub(super) const OLD_ADDRESS_MS: u64 = 24 * 60 * 60 * 1_000;

/// Between two tries of what should be there any moment, and how many of them.
const HURRY: Duration = Duration::from_millis(500);
pub(super) const HURRIES: u32 = 60;

/// An address, and the right to attach, are renewed at half of their 400 days.
const RENEW_AFTER_MS: u64 = 200 * 24 * 60 * 60 * 1_000;

impl Core {
    /// Begins whatever is due. Called when the engine is online, and after what may have made
    /// something due.
    pub(super) fn upkeep(&mut self, tx: &Transaction<'_>) -> Result<(), Fault> {
        if !self.is_caught_up {
            return Ok(());
        }
        // What a device that is not linked could publish has no certificate of the account.
        if !self.me.link_secret.is_empty() {
            self.begin_link();
        } else if self.me.bundle_ms + BUNDLE_RENEW_MS < now_ms()
            || self.me.bundle_format < BUNDLE_FORMAT
        {
            // The relay forgets a bundle ninety days after it was published last.
            self.me.bundle_published = false;
            self.save_me(tx)?;
            self.refill_bundle();
        }
        if self.me.member_token_ms + RENEW_AFTER_MS < now_ms()
            && self.gathering.insert("member".to_owned())
        {
            self.start(Job::RenewMember);
        }
        self.revoke_due(tx)?;
        self.expire_parked(tx)?;
        for (id, invite) in tx.all::<state::Invite>()? {
            if invite.is_stale() {
                self.revoke_later(tx, invite.capability, 0)?;
                self.revoke_later(tx, invite.take_token, 0)?;
                tx.remove::<state::Invite>(id)?;
            }
        }
        if !self.me.link_secret.is_empty() || self.me.removed {
            return Ok(());
        }
        self.own_devices(tx)?;
        let again: Vec<i64> = self.rewalk.drain().collect();
        self.walk_some(tx, &again)?;
        for (row, _) in tx.all::<state::Group>()? {
            self.ask_if_lost(tx, row)?;
            self.look_after(tx, row)?;
            if self.wanted.contains_key(&row) {
                self.next_wanted(tx, row)?;
            }
        }
        self.restore(tx)
    }

    /// The account's other devices are in a group with this one.
    fn own_devices(&mut self, tx: &Transaction<'_>) -> Result<(), Fault> {
        let siblings = self.sibling_newcomers(tx)?;
        if siblings.is_empty() || self.own_group(tx)?.is_some() {
            return Ok(());
        }
        // The device that linked the first one makes the group; a linked one waits for it.
        let record = SignedRecord::try_from(self.own_record()?);
        let record = record.map_err(|_| Fault::damaged("the account's record"))?;
        let first = record.record().devices.first().map(|device| device.device);
        if first == Some(self.device_id()) && self.gathering.insert("own group".to_owned()) {
            let siblings = siblings.into_iter().filter(|(_, found)| self.may_reach(&found.relay));
            let cards = siblings.map(|(card, _)| card).collect();
            let gather = Gather { post: 1, slot: true, cards, ..Default::default() };
            self.start(Job::Gather(Purpose::OwnGroup, gather));
        }
        Ok(())
    }

    /// Something could not be had. It is tried again soon for a while, then with every upkeep.
    pub(super) fn try_soon(&mut self) {
        if self.hurry > 0 {
            self.hurry -= 1;
            self.start(Job::Wait(HURRY, Box::new(Outcome::Upkeep)));
        }
    }

    /// What one group needs.
    pub(super) fn look_after(&mut self, tx: &Transaction<'_>, row: i64) -> Result<(), Fault> {
        let Some(mut stored) = tx.get::<state::Group>(row)? else { return Ok(()) };
        if !stored.active || !self.is_caught_up || !self.walked.contains(&row) {
            return Ok(());
        }
        let is_blocked = self.is_with_blocked(tx, &stored)?;
        let is_old = stored.own_capability_ms + RENEW_AFTER_MS < now_ms();
        if (stored.address_stale || is_old) && !is_blocked && !stored.left {
            self.renew_address(row);
        }
        if stored.kind == Kind::Direct as u32
            && stored.card_version != self.me.card_version
            && !is_blocked
        {
            let account = self.conversation(tx, stored.conversation)?.account;
            stored.card_version = self.me.card_version;
            tx.put(row, &stored)?;
            self.renew_card(&account, row);
        }
        self.bring_own_devices(tx, row, &stored)?;
        self.let_go(tx, row, &stored)?;
        if stored.left || is_blocked {
            return Ok(());
        }
        self.renew(tx, row)
    }

    fn is_with_blocked(&self, tx: &Transaction<'_>, stored: &state::Group) -> Result<bool, Fault> {
        if stored.kind != Kind::Direct as u32 {
            return Ok(false);
        }
        let account = self.conversation(tx, stored.conversation)?.account;
        self.is_blocked(tx, &account)
    }

    fn renew_address(&mut self, row: i64) {
        if self.gathering.insert(format!("address {row}")) {
            let gather = Gather { post: 1, ..Default::default() };
            self.start(Job::Gather(Purpose::Address { group: row }, gather));
        }
    }

    pub(super) fn mark_stale(&mut self, tx: &Transaction<'_>, row: i64) -> Result<(), Fault> {
        let mut stored: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
        stored.address_stale = true;
        Ok(tx.put(row, &stored)?)
    }

    /// The account's devices that are missing in a group are added, those that are gone removed.
    fn bring_own_devices(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        stored: &state::Group,
    ) -> Result<(), Fault> {
        if stored.left || self.wanted.contains_key(&row) || self.committing.contains(&row) {
            return Ok(());
        }
        let me = self.me.account.clone();
        let roster = self.group(tx, row)?.roster();
        let mut remove = Vec::new();
        for leaf in roster.iter().filter(|leaf| leaf.account.as_bytes()[..] == me[..]) {
            if !self.is_own_device(leaf.device.as_bytes())? {
                remove.push((me.clone(), Some(leaf.device.as_bytes().to_vec())));
            }
        }
        if !remove.is_empty() {
            return self.want(tx, row, Wanted { remove, ..Default::default() });
        }
        let missing: Vec<_> = self
            .sibling_newcomers(tx)?
            .into_iter()
            .filter(|(_, found)| {
                !roster.iter().any(|leaf| leaf.device.as_bytes()[..] == found.device[..])
                    && self.may_reach(&found.relay)
            })
            .map(|(card, _)| card)
            .collect();
        if !missing.is_empty() && self.gathering.insert(format!("add {row}")) {
            let gather = Gather { cards: missing, ..Default::default() };
            let purpose = Purpose::Add { group: row, account: me, ticket: None };
            self.start(Job::Gather(purpose, gather));
        }
        Ok(())
    }

    /// Those who said that they leave are removed.
    fn let_go(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        stored: &state::Group,
    ) -> Result<(), Fault> {
        if stored.leaving.is_empty()
            || stored.left
            || self.wanted.contains_key(&row)
            || self.committing.contains(&row)
        {
            return Ok(());
        }
        let roster = self.group(tx, row)?.roster();
        let is_there = |account: &&Vec<u8>| {
            roster.iter().any(|leaf| leaf.account.as_bytes()[..] == account[..])
        };
        let remove: Vec<_> =
            stored.leaving.iter().filter(is_there).map(|account| (account.clone(), None)).collect();
        if remove.is_empty() {
            return Ok(());
        }
        self.want(tx, row, Wanted { remove, ..Default::default() })
    }

    /// All key packages are replaced. Whoever has one already can use it for a day: others than the one
    /// that is meant may just be following an invite.
    pub(super) fn renew_packages(&mut self, tx: &Transaction<'_>) -> Result<(), Fault> {
        for (row, mut package) in tx.all::<state::KeyPackage>()? {
            if !package.replaced {
                package.replaced = true;
                tx.put(row, &package)?;
                self.revoke_later(tx, package.capability, OLD_ADDRESS_MS)?;
            }
        }
        self.me.bundle_published = false;
        self.save_me(tx)?;
        self.refill_bundle();
        Ok(())
    }

    /// Publishes key packages.
    pub(super) fn refill_bundle(&mut self) {
        if self.gathering.insert("bundle".to_owned()) {
            let gather = Gather { post: BUNDLE_ITEMS + 1, ..Default::default() };
            self.start(Job::Gather(Purpose::Bundle, gather));
        }
    }

    pub(super) fn make_bundle(
        &mut self,
        tx: &Transaction<'_>,
        gathered: Gathered,
    ) -> Result<(), Fault> {
        let key = ItemKey::new(super::outgoing::bytes_of(&self.me.bundle_key)?);
        let replace = !self.me.bundle_published;
        for (row, package) in tx.all::<state::KeyPackage>()? {
            // A Welcome for one that was taken may still be under way.
            if package.made_ms + KEY_PACKAGE_MS_MAX < now_ms() {
                tx.remove::<state::KeyPackage>(row)?;
                self.revoke_later(tx, package.capability, 0)?;
            }
        }
        // A relay that says again and again that few are left fills no disk: then the last resort has to do.
        let has_many = tx.count::<state::KeyPackage>(0)? > KEY_PACKAGES_MAX;
        let count = if has_many { 1 } else { gathered.post.len() };
        let mut sealed = Vec::new();
        for (i, token) in gathered.post.iter().take(count).enumerate() {
            // The first is for when all others are gone.
            let last_resort = i == 0;
            let package = self.new_key_package(tx, token.as_bytes().to_vec(), last_resort)?;
            sealed.push(item::seal(&key, &package).map_err(|_| Fault::damaged("a key package"))?);
        }
        let mut items = sealed.into_iter();
        let last_resort = items.next();
        let publication = Publication { replace, last_resort, items: items.collect() };
        let id = PublicationId::new(random::bytes());
        self.start(Job::Publish(id, publication));
        Ok(())
    }

    pub(super) fn published(
        &mut self,
        tx: &Transaction<'_>,
        result: Result<u32, RelayError>,
    ) -> Result<(), Fault> {
        self.gathering.remove("bundle");
        if result.is_err() {
            self.try_soon();
        }
        if result.is_ok() && !self.me.bundle_published {
            self.me.bundle_published = true;
            self.me.bundle_ms = now_ms();
            self.me.bundle_format = BUNDLE_FORMAT;
            self.save_me(tx)?;
            return self.upkeep(tx);
        }
        Ok(())
    }

    pub(super) fn give_card(
        &mut self,
        tx: &Transaction<'_>,
        account: &[u8],
        row: i64,
        gathered: Gathered,
    ) -> Result<(), Fault> {
        self.gathering.remove(&format!("card {row}"));
        let (Some(post), Some(take)) = (gathered.post.first(), gathered.take.first()) else {
            return Ok(());
        };
        let (id, mut person) = self.person(tx, account)?;
        let old = std::mem::replace(&mut person.given_capability, post.as_bytes().to_vec());
        self.revoke_later(tx, old, OLD_ADDRESS_MS)?;
        let old = std::mem::replace(&mut person.given_take, take.as_bytes().to_vec());
        self.revoke_later(tx, old, OLD_ADDRESS_MS)?;
        tx.put(id, &person)?;
        let card = self.own_card(person.given_capability.clone(), person.given_take.clone())?;
        let body = Some(Body::Card(card));
        let content = wire::Content { sent_ms: now_ms(), body, ..Default::default() };
        self.say(tx, row, &content, 0)?;
        let mut stored: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
        stored.card_version = self.me.card_version;
        Ok(tx.put(row, &stored)?)
    }

    /// A token ends so many milliseconds from now.
    pub(super) fn revoke_later(
        &mut self,
        tx: &Transaction<'_>,
        token: Vec<u8>,
        after_ms: u64,
    ) -> Result<(), Fault> {
        if !token.is_empty() {
            let due = i64::try_from(now_ms() + after_ms).unwrap_or(i64::MAX);
            tx.insert(&state::Revocation { token, due })?;
        }
        if after_ms == 0 { self.revoke_due(tx) } else { Ok(()) }
    }

    fn revoke_due(&mut self, tx: &Transaction<'_>) -> Result<(), Fault> {
        if !self.is_caught_up {
            return Ok(());
        }
        let now = i64::try_from(now_ms()).unwrap_or(i64::MAX);
        for (row, revocation) in tx.due::<state::Revocation>(now, 100)? {
            match Token::try_from(revocation.token.as_slice()) {
                Ok(token) if self.revoking.insert(row) => self.start(Job::Revoke(row, token)),
                Ok(_) => {}
                Err(_) => drop(tx.remove::<state::Revocation>(row)?),
            }
        }
        Ok(())
    }

    pub(super) fn revoked(
        &mut self,
        tx: &Transaction<'_>,
        row: i64,
        result: Result<(), RelayError>,
    ) -> Result<(), Fault> {
        self.revoking.remove(&row);
        // What is refused is no token of ours any more, for example because it has expired.
        if result.is_ok() || result.is_err_and(|error| !error.is_retryable()) {
            tx.remove::<state::Revocation>(row)?;
        }
        Ok(())
    }

    pub(super) fn member_renewed(
        &mut self,
        tx: &Transaction<'_>,
        result: Result<Token, RelayError>,
    ) -> Result<(), Fault> {
        self.gathering.remove("member");
        if let Ok(token) = result {
            self.me.member_token = token.as_bytes().to_vec();
            self.me.member_token_ms = now_ms();
            self.save_me(tx)?;
        }
        Ok(())
    }

    /// Lets disappear what has had its time.
    pub(super) fn expire(&mut self, tx: &Transaction<'_>) -> Result<(), Fault> {
        let now = i64::try_from(now_ms()).unwrap_or(i64::MAX);
        for (id, message) in tx.due::<state::Message>(now, 100)? {
            tx.remove::<state::Message>(id)?;
            let (conversation, state) = (message.conversation, MessageState::Gone);
            self.emit(Event::MessageState { conversation, message: id, state });
        }
        for (id, _) in tx.due::<state::SendKey>(now, 100)? {
            tx.remove::<state::SendKey>(id)?;
        }
        Ok(())
    }
}

/// The time of a disappearing message begins.
pub(super) fn start_disappearing(message: &mut state::Message) {
    if message.disappears_after > 0 && message.disappears_ms == 0 {
        let at = now_ms() + u64::from(message.disappears_after) * 1_000;
        message.disappears_ms = i64::try_from(at).unwrap_or(i64::MAX);
    }
}
