//! The engine's state in memory, and the way from an input to its effects. One input is one
//! transaction: either all of it is kept, or nothing has happened.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::{Instant, SystemTime};

use serde_json::Value;
use valise_proto::RelayAddress;

use super::commits::Wanted;
use super::effect::{Effect, Input, Job, Outcome, Reply, Ticket};
use super::fault::Fault;
use super::lanes::Lanes;
use super::parking::Parking;
use super::records::{ONLY, state};
use super::renewal::Renewal;
use super::slots::{Half, Round};
use crate::api::{Connection, Event, Refusal};
use crate::identity::DeviceId;
use crate::mls::{Device, Group};
use crate::relays::RelayEvent;
use crate::seal::EpochKeys;
use crate::vault::Transaction;

/// Everything of a profile that is kept in memory.
pub(super) struct Core {
    // As stored.
    pub(super) me: state::Me,
    pub(super) device: Device,
    pub(super) own_relay: RelayAddress,
    /// Relays of others that may be contacted.
    pub(super) permitted: HashSet<String>,
    /// As the engine was opened.
    pub(super) renewal: Renewal,
    // Read from the vault when needed first.
    groups: HashMap<i64, Group>,
    /// The keys of every epoch that frames may still come from.
    pub(super) keys: Vec<(i64, EpochKeys)>,
    pub(super) lanes: Lanes,
    // Of this run.
    pub(super) connection: Connection,
    /// Everything that waited at the own relay has come: what is said now is said last.
    pub(super) is_caught_up: bool,
    /// Groups that have something to say.
    pub(super) talkative: BTreeSet<i64>,
    /// Frames that nobody can open yet.
    pub(super) parking: Parking,
    /// Epochs whose frames may be parked.
    pub(super) entered: Vec<(i64, u64)>,
    /// The walk of all groups that is under way.
    pub(super) round: Option<Round>,
    /// Groups that are walked once more: something came after their slots were asked.
    pub(super) walk_again: HashSet<i64>,
    /// Groups whose slots were looked at since we are online.
    pub(super) walked: HashSet<i64>,
    pub(super) walking: HashSet<i64>,
    /// Groups whose slots could not be asked.
    pub(super) rewalk: HashSet<i64>,
    pub(super) committing: HashSet<i64>,
    /// Commits that are on their way to the slot.
    pub(super) putting: HashSet<i64>,
    pub(super) wanted: HashMap<i64, VecDeque<Wanted>>,
    /// The change that a pending commit makes.
    pub(super) current: HashMap<i64, Wanted>,
    /// A foreign commit whose later parts are being fetched.
    pub(super) halves: HashMap<i64, Half>,
    pub(super) gathering: HashSet<String>,
    pub(super) receipts_at: Option<Instant>,
    pub(super) settling: Vec<(Instant, Reply)>,
    pub(super) revoking: HashSet<i64>,
    /// Network work that goes on.
    pub(super) jobs: usize,
    /// So many things that failed may still be tried again soon.
    pub(super) hurry: u32,
    waiting: HashMap<Ticket, Reply>,
    last_ticket: Ticket,
    effects: Vec<Effect>,
}

impl Core {
    /// Reads what has to be in memory.
    pub(super) fn load(tx: &Transaction<'_>) -> Result<Self, Fault> {
        let me: state::Me = tx.get(ONLY)?.ok_or(Fault::damaged("the profile has no owner"))?;
        let device = super::own::device(&me)?;
        let own_relay = me.relay.parse().map_err(|_| Fault::damaged("the relay's address"))?;
        let mut keys = Vec::new();
        for (_, epoch) in tx.all::<state::Epoch>()? {
            keys.push((epoch.group, super::own::epoch_keys(&epoch)?));
        }
        let relays = tx.all::<state::Relay>()?.into_iter().map(|(_, relay)| relay);
        let permitted = relays.filter(|relay| relay.allowed).map(|relay| relay.address).collect();
        let mut parking = Parking::default();
        for (row, parked) in tx.all::<state::Parked>()? {
            parking.arrive(row, &parked.payload, parked.since_ms);
        }
        let lanes = Lanes::load(tx)?;
        let mut talkative = BTreeSet::new();
        let mut committing = HashSet::new();
        for (id, group) in tx.all::<state::Group>()? {
            if group.framed + 1 < group.next_counter {
                talkative.insert(id);
            }
            if tx.count::<state::PendingCommit>(id)? > 0 {
                committing.insert(id);
            }
        }
        Ok(Self {
            me,
            device,
            own_relay,
            permitted,
            renewal: Renewal::default(),
            groups: HashMap::new(),
            keys,
            lanes,
            connection: Connection::Connecting,
            is_caught_up: false,
            talkative,
            parking,
            entered: Vec::new(),
            round: None,
            walk_again: HashSet::new(),
            walked: HashSet::new(),
            walking: HashSet::new(),
            committing,
            putting: HashSet::new(),
            wanted: HashMap::new(),
            current: HashMap::new(),
            rewalk: HashSet::new(),
            halves: HashMap::new(),
            gathering: HashSet::new(),
            receipts_at: None,
            settling: Vec::new(),
            revoking: HashSet::new(),
            jobs: 0,
            hurry: super::upkeep::HURRIES,
            waiting: HashMap::new(),
            last_ticket: 0,
            effects: Vec::new(),
        })
    }

    /// One input, inside one transaction.
    pub(super) fn step(&mut self, tx: &Transaction<'_>, input: Input) -> Result<(), Fault> {
        match input {
            Input::Command(command, reply) => self.command(tx, command, reply)?,
            Input::Relay(event) => self.relay_event(tx, event)?,
            Input::Done(outcome) => self.outcome(tx, outcome)?,
            Input::Tick => {}
        }
        self.expire(tx)?;
        self.receipts_if_due(tx)?;
        self.talk(tx)?;
        self.post(tx)?;
        self.answer_settling(tx)
    }

    fn relay_event(&mut self, tx: &Transaction<'_>, event: RelayEvent) -> Result<(), Fault> {
        match event {
            RelayEvent::Online => {
                self.lanes.retry_all();
                self.revoking.clear();
            }
            RelayEvent::Offline { why, retry_in } => {
                self.is_caught_up = false;
                self.walked.clear();
                self.walk_again.clear();
                self.round = None;
                let retry_in_ms = u64::try_from(retry_in.as_millis()).unwrap_or(u64::MAX);
                self.set_connection(Connection::Offline { why, retry_in_ms });
            }
            RelayEvent::Frame { payload, receipt, .. } => {
                self.frame(tx, &payload)?;
                self.effects.push(Effect::Acknowledge(receipt));
            }
            RelayEvent::Signal { .. } => {}
            RelayEvent::CaughtUp => {
                self.is_caught_up = true;
                self.set_connection(Connection::Online);
                self.walk_all(tx)?;
                self.resume_commits(tx)?;
                self.upkeep(tx)?;
            }
            RelayEvent::BundleLow { .. } => self.refill_bundle(),
            RelayEvent::Prefers(endpoint) => {
                self.me.preferred_endpoint = endpoint.unwrap_or_default();
                self.save_me(tx)?;
            }
            RelayEvent::Realm(known) => super::realms::keep(tx, known)?,
            RelayEvent::Stopped { why } => {
                self.is_caught_up = false;
                self.set_connection(Connection::Stopped { why });
            }
        }
        Ok(())
    }

    fn outcome(&mut self, tx: &Transaction<'_>, outcome: Outcome) -> Result<(), Fault> {
        if !matches!(outcome, Outcome::RetryCommit(_) | Outcome::WalkAgain(_) | Outcome::Upkeep) {
            self.jobs = self.jobs.saturating_sub(1);
        }
        match outcome {
            Outcome::Posted(deliveries, result) => self.posted(tx, &deliveries, result),
            Outcome::Gathered(purpose, result) => self.gathered(tx, purpose, result),
            Outcome::Invite(ticket, link, result) => self.invite_read(tx, ticket, &link, result),
            Outcome::InvitePut(ticket, link, result) => {
                self.invite_put(ticket, &link, result);
                Ok(())
            }
            Outcome::Committed { group, result } => self.committed(tx, group, result),
            Outcome::Walked { heads, result } => self.walked(tx, &heads, result),
            Outcome::Parts { group, epoch, attempt, result } => {
                self.parts_fetched(tx, group, (epoch, attempt), result)
            }
            Outcome::Voided { group, epoch, attempt, part, result } => {
                self.voided(tx, group, (epoch, attempt, part), result)
            }
            Outcome::Published(result) => self.published(tx, result),
            Outcome::Revoked(row, result) => self.revoked(tx, row, result),
            Outcome::MemberRenewed(result) => self.member_renewed(tx, result),
            Outcome::RetryCommit(group) => self.retry_commit(tx, group),
            Outcome::WalkAgain(group) => self.walk(tx, group),
            Outcome::Again { command, row, ticket, tries } => {
                self.try_later(tx, command, row, ticket, tries)
            }
            Outcome::Upkeep => self.upkeep(tx),
        }
    }

    /// The group's MLS state.
    pub(super) fn group(&mut self, tx: &Transaction<'_>, row: i64) -> Result<&mut Group, Fault> {
        match self.groups.entry(row) {
            Entry::Occupied(found) => Ok(found.into_mut()),
            Entry::Vacant(place) => {
                let stored: state::Group = tx.get(row)?.ok_or(Fault::damaged("a group"))?;
                let entries = tx.children::<state::MlsEntry>(row)?;
                let entries = entries.into_iter().map(|(_, entry)| (entry.key, entry.value));
                Ok(place.insert(Group::load(&stored.id, entries.collect())?))
            }
        }
    }

    /// Takes a group that was made or joined in this transaction.
    pub(super) fn adopt(&mut self, row: i64, group: Group) {
        self.groups.insert(row, group);
    }

    /// Writes what has changed in the group's MLS state.
    pub(super) fn save(&mut self, tx: &Transaction<'_>, row: i64) -> Result<(), Fault> {
        let Some(group) = self.groups.get_mut(&row) else { return Ok(()) };
        for entry in group.changes() {
            let lookup = super::records::of_group(row, &[&entry.key]);
            let found = tx.find::<state::MlsEntry>(&lookup)?;
            match (entry.value, found) {
                (Some(value), found) => {
                    let stored = state::MlsEntry { group: row, key: entry.key, value };
                    match found {
                        Some((id, _)) => tx.put(id, &stored)?,
                        None => drop(tx.insert(&stored)?),
                    }
                }
                (None, Some((id, _))) => drop(tx.remove::<state::MlsEntry>(id)?),
                (None, None) => {}
            }
        }
        Ok(())
    }

    /// Drops a group's state from memory; the vault has what counts.
    pub(super) fn unload(&mut self, row: i64) {
        self.groups.remove(&row);
    }

    pub(super) fn save_me(&self, tx: &Transaction<'_>) -> Result<(), Fault> {
        Ok(tx.put(ONLY, &self.me)?)
    }

    pub(super) fn device_id(&self) -> DeviceId {
        DeviceId(self.me.device.as_slice().try_into().unwrap_or([0; 16]))
    }

    pub(super) fn emit(&mut self, event: Event) {
        self.effects.push(Effect::Emit(event));
    }

    pub(super) fn notice(&mut self, text: impl Into<String>) {
        self.emit(Event::Notice { text: text.into() });
    }

    pub(super) fn start(&mut self, job: Job) {
        // A wait is no work: its end brings `RetryCommit` or `Upkeep`.
        self.jobs += usize::from(!matches!(job, Job::Wait(..)));
        self.effects.push(Effect::Start(job));
    }

    pub(super) fn stop(&mut self, why: Option<String>) {
        self.effects.push(Effect::Stop(why));
    }

    pub(super) fn answer_now(&mut self, reply: Reply, answer: Result<Value, Refusal>) {
        self.effects.push(Effect::Answer(reply, answer));
    }

    /// Keeps a command's reply until its work is done.
    pub(super) fn wait(&mut self, reply: Reply) -> Ticket {
        self.last_ticket += 1;
        self.waiting.insert(self.last_ticket, reply);
        self.last_ticket
    }

    pub(super) fn answer(&mut self, ticket: Ticket, value: Value) {
        if let Some(reply) = self.waiting.remove(&ticket) {
            self.answer_now(reply, Ok(value));
        }
    }

    pub(super) fn refuse(&mut self, ticket: Ticket, refusal: Refusal) {
        if let Some(reply) = self.waiting.remove(&ticket) {
            self.answer_now(reply, Err(refusal));
        }
    }

    /// What waits for the network waits in vain: the run ends.
    pub(super) fn interrupt(&mut self) {
        let settling = std::mem::take(&mut self.settling).into_iter().map(|(_, reply)| reply);
        for reply in self.waiting.drain().map(|(_, reply)| reply).chain(settling) {
            reply.send(Err(Refusal::new("interrupted", "this was interrupted; try again"))).ok();
        }
    }

    pub(super) fn set_connection(&mut self, connection: Connection) {
        self.connection = connection.clone();
        self.emit(Event::Connection(connection));
    }

    pub(super) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
