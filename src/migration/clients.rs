//! The connections of a supernode that moves: who serves what, and what each is told. What is decided is
//! decided in [`super::leading`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use valise_proto::{MailboxId, Move, MovePhase, SignedRealmRecord};

use super::leading::{Lead, Leading, Moved, Telling};
use super::shards::{Mode, Shards};
use crate::doorbell::Doorbell;
use crate::identity::Identity;
use crate::metrics::{Metrics, MoveReason};
use crate::store::{SHARDS, ShardKey};

/// The connections, while the realm moves or may be about to.
pub struct Clients {
    // Static after construction.
    shards: Shards,
    key: ShardKey,
    identity: Arc<Identity>,
    metrics: Metrics,
    /// What clients dial to reach this supernode.
    own: Vec<String>,
    // Changed by anyone.
    state: Mutex<State>,
    /// There may be something to decide.
    work: Notify,
}

struct State {
    leading: Leading,
    doors: HashMap<u64, Arc<Doorbell>>,
    /// The record that says that this supernode serves the realm no more.
    newer: Option<SignedRealmRecord>,
}

/// A connection that may be asked to move; forgotten when dropped.
pub struct Led {
    clients: Arc<Clients>,
    id: u64,
}

/// How often it is looked at, unasked.
const LOOK: Duration = Duration::from_secs(1);
/// How soon it is gone on with what the pace has held up.
const GO_ON: Duration = Duration::from_millis(20);

impl Clients {
    /// Of these shards. `own` is what clients dial to reach this supernode.
    pub fn new(
        shards: Shards,
        identity: Arc<Identity>,
        metrics: Metrics,
        own: Vec<String>,
    ) -> Self {
        let key = ShardKey::new(&identity.shard_key());
        let state = State { leading: Leading::default(), doors: HashMap::new(), newer: None };
        let (state, work) = (Mutex::new(state), Notify::new());
        Self { shards, key, identity, metrics, own, state, work }
    }

    /// A connection whose door this is.
    pub fn connected(self: &Arc<Self>, door: &Arc<Doorbell>) -> Led {
        let mut state = self.state();
        let id = state.leading.connected(Instant::now());
        state.doors.insert(id, Arc::clone(door));
        drop(state);
        Led { clients: Arc::clone(self), id }
    }

    /// Clients are led to these endpoints from now on, so many a second.
    pub fn lead(&self, endpoints: Vec<String>, per_second: u32) {
        self.state().leading.lead(Lead { endpoints, per_second });
        self.work.notify_one();
    }

    /// Clients are shown this record from now on: this supernode is not in it.
    pub fn superseded(&self, newer: SignedRealmRecord) {
        self.state().newer = Some(newer);
        self.work.notify_one();
    }

    /// Connections, and attachments of mailboxes that have moved.
    pub fn users(&self) -> (usize, usize) {
        self.state().leading.users()
    }

    /// Tells connections, for as long as it is polled.
    pub async fn run(self: Arc<Self>) {
        let mut changes = self.shards.changes();
        loop {
            let moved = self.moved();
            self.state().leading.moved(&moved, Instant::now());
            self.tell();
            let wait = if self.state().leading.is_busy() { GO_ON } else { LOOK };
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = self.work.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn moved(&self) -> Moved {
        let mut moved = [false; SHARDS];
        for (moved, shard) in moved.iter_mut().zip(0..=u8::MAX) {
            *moved = matches!(self.shards.mode(shard), Mode::Forward | Mode::Moved);
        }
        moved
    }

    fn tell(&self) {
        let mut state = self.state();
        let telling = state.leading.decide(Instant::now());
        if telling.is_empty() {
            return;
        }
        let record = state.newer.clone();
        let record = record.unwrap_or_else(|| SignedRealmRecord::clone(&self.identity.record()));
        let Some(endpoints) = self.endpoints(&record, state.leading.leads()) else {
            drop(state);
            return tracing::warn!(
                connections = telling.len(),
                "clients cannot be led to the data centre: the realm's record lists no node of it"
            );
        };
        for Telling { connection, phase } in telling {
            let Some(door) = state.doors.get(&connection) else { continue };
            door.moved(Move {
                phase: Some(phase),
                realm_record: Some(record.clone()),
                endpoints: endpoints.clone(),
                // The pace has spread them already.
                spread_ms: 0,
            });
            self.metrics.moved(match phase {
                MovePhase::Prepare => MoveReason::Preparing,
                MovePhase::Go => MoveReason::Migrated,
            });
        }
    }

    /// Where to: as the importer says, as far as the record lists it, since clients believe the record
    /// alone; else what it lists beside this supernode.
    fn endpoints(&self, record: &SignedRealmRecord, lead: Option<&Lead>) -> Option<Vec<String>> {
        let listed = record.verify(&self.identity.realm()).ok()?.endpoints;
        let said = lead.map(|lead| lead.endpoints.iter()).into_iter().flatten();
        let said: Vec<_> = said.filter(|endpoint| listed.contains(endpoint)).cloned().collect();
        let others = || listed.iter().filter(|endpoint| !self.own.contains(endpoint)).cloned();
        let endpoints = if said.is_empty() { others().collect() } else { said };
        Some(endpoints).filter(|endpoints| !endpoints.is_empty())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no one panics while clients are led")
    }
}

impl Led {
    /// The mailboxes that the connection serves from now on.
    pub fn serves<'a>(&self, mailboxes: impl Iterator<Item = &'a MailboxId>) {
        let shards = mailboxes.map(|mailbox| self.clients.key.shard(mailbox)).collect();
        self.clients.state().leading.serves(self.id, shards, Instant::now());
        self.clients.work.notify_one();
    }
}

impl Drop for Led {
    fn drop(&mut self) {
        let mut state = self.clients.state();
        state.leading.gone(self.id);
        state.doors.remove(&self.id);
    }
}
