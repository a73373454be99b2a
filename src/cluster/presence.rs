//! This node among the others: it says that it is there, hears who else is, and asks connections to
//! move. What is decided is decided in [`super::steering`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, sleep};
use valise_proto::{MailboxId, Move, MovePhase};

use super::announcement::Announcement;
use super::node::Node;
use super::random;
use super::steering::{Moving, Steering};
use super::upkeep::Membership;
use crate::doorbell::Doorbell;
use crate::limits::{ANNOUNCE_SECONDS, MOVED_AWAY_MS};
use crate::store::jetstream::NodeNews;

/// This node among the others.
pub(super) struct Presence {
    // Static after construction.
    node: Arc<Node>,
    membership: Arc<dyn Membership>,
    // Changed by anyone.
    state: Mutex<State>,
    /// There may be something to decide.
    work: Notify,
}

struct State {
    steering: Steering,
    doors: HashMap<u64, Arc<Doorbell>>,
}

/// A connection that may be asked to move; forgotten when dropped.
pub struct Steered {
    presence: Arc<Presence>,
    id: u64,
}

/// How often it is looked at who is there, unasked.
const LOOK: Duration = Duration::from_secs(1);
/// How soon it is gone on with what the pace has held up.
const GO_ON: Duration = Duration::from_millis(100);

impl Presence {
    pub(super) fn new(node: Arc<Node>, membership: Arc<dyn Membership>) -> Self {
        let start = u64::from_be_bytes(random()[..8].try_into().expect("16 bytes have 8"));
        let mut steering = Steering::new(membership.key(), start, Instant::now());
        steering.served_at(membership.places());
        let state = Mutex::new(State { steering, doors: HashMap::new() });
        Self { node, membership, state, work: Notify::new() }
    }

    /// A connection whose door this is.
    pub(super) fn connected(self: &Arc<Self>, door: &Arc<Doorbell>) -> Steered {
        let mut state = self.state();
        let id = state.steering.connected();
        state.doors.insert(id, Arc::clone(door));
        let is_due = state.steering.is_busy();
        drop(state);
        if is_due {
            self.work.notify_one();
        }
        Steered { presence: Arc::clone(self), id }
    }

    /// Announces, hears and steers, for as long as it is polled.
    pub(super) async fn run(self: Arc<Self>, mut news: NodeNews) {
        let mut announcing = interval(Duration::from_secs(ANNOUNCE_SECONDS));
        announcing.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut answered = Instant::now();
        let mut warned = false;
        loop {
            let wait = if self.state().steering.is_busy() { GO_ON } else { LOOK };
            tokio::select! {
                biased;
                said = news.next() => {
                    let Some(said) = said else { return };
                    let is_new = self.hear(&said, &mut warned);
                    // It knows nothing of this one; but nobody makes this node talk without end.
                    if is_new && answered.elapsed() >= LOOK {
                        answered = Instant::now();
                        self.announce().await;
                    }
                }
                _ = announcing.tick() => {
                    let places = self.membership.places();
                    self.state().steering.served_at(places);
                    self.announce().await;
                }
                () = self.work.notified() => {}
                () = sleep(wait) => {}
            }
            self.steer();
        }
    }

    /// Says that this node ends, and asks every connection to move. Returns how long to wait for
    /// them, of so much; nothing where there is nowhere to move.
    pub(super) async fn leave(&self, drain: Duration) -> Duration {
        let moving = self.state().steering.leave(Instant::now(), drain.mul_f64(SPREAD_SHARE));
        // The others send nobody here from now on.
        self.announce().await;
        self.node.streams.flush().await;
        let Some(first) = moving.first() else { return Duration::ZERO };
        let wait = first.spread + Duration::from_millis(MOVED_AWAY_MS);
        tracing::info!(connections = moving.len(), "clients are asked to move to other nodes");
        self.ask(moving);
        wait.min(drain.mul_f64(WAIT_SHARE))
    }

    async fn announce(&self) {
        let said = self.state().steering.announcement(Instant::now());
        if let Some(said) = said
            && let Err(error) = self.node.streams.tell_nodes(said.encode()).await
        {
            tracing::debug!(%error, "the other nodes are told later");
        }
    }

    fn hear(&self, said: &[u8], warned: &mut bool) -> bool {
        let Some(said) = Announcement::decode(said) else { return false };
        let now = Instant::now();
        let mut state = self.state();
        let is_new = state.steering.hear(now, said);
        if state.steering.is_contested(now) && !std::mem::replace(warned, true) {
            tracing::warn!(
                "another node says that this node's endpoint is its own: neither this node nor the \
                 other can move clients; give each an endpoint of its own in relay.endpoints, or \
                 leave it so where something in front of them spreads the clients"
            );
        }
        is_new
    }

    fn steer(&self) {
        let now = Instant::now();
        let mut state = self.state();
        let moving = state.steering.decide(now);
        self.node.metrics.nodes_live(state.steering.live(now));
        drop(state);
        self.ask(moving);
    }

    fn ask(&self, moving: Vec<Moving>) {
        let state = self.state();
        for Moving { connection, endpoints, spread, reason } in moving {
            let Some(door) = state.doors.get(&connection) else { continue };
            let spread_ms = u32::try_from(spread.as_millis()).unwrap_or(u32::MAX);
            let phase = Some(MovePhase::Go);
            door.moved(Move { phase, realm_record: None, endpoints, spread_ms });
            self.node.metrics.moved(reason);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no one panics while steering")
    }
}

/// Of the time that a shutdown may take, so much for clients to spread over.
const SPREAD_SHARE: f64 = 0.4;
/// And so much until those that are still here are told that the relay ends.
const WAIT_SHARE: f64 = 0.7;

impl Steered {
    /// The mailbox that the connection is steered by from now on, if it serves one.
    pub fn by(&self, mailbox: Option<&MailboxId>) {
        let shard = mailbox.map(|mailbox| self.presence.node.streams.shard(mailbox));
        self.presence.state().steering.serves(self.id, shard);
        self.presence.work.notify_one();
    }
}

impl Drop for Steered {
    fn drop(&mut self) {
        let mut state = self.presence.state();
        state.steering.gone(self.id);
        state.doors.remove(&self.id);
    }
}
