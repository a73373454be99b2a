//! Which connection of a supernode is told to move to the data centre, and when: functions of `(now, input)`.
//!
//! Once an importer leads, everyone is told to prepare, as fast as it says. A connection is told to
//! go when every mailbox that it serves has moved; one that serves none, when every shard has. One that
//! stays is told again after a while.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::limits::{LEAD_PER_SECOND_MAX, MOVE_AGAIN_SECONDS};
use crate::rate::{Bucket, Rate};
use crate::store::SHARDS;
use valise_proto::MovePhase;
use valise_proto::limits::ESTABLISHMENT_SECONDS;

/// The shards that have moved.
pub(super) type Moved = [bool; SHARDS];

/// What is known of a supernode's connections.
pub(super) struct Leading {
    moved: Moved,
    all_moved: bool,
    /// Told by an importer: since then everyone is to prepare.
    lead: Option<Lead>,
    connections: HashMap<u64, Connection>,
    last_id: u64,
    /// Those that may have to be told something: to go before to prepare.
    to_go: VecDeque<u64>,
    to_prepare: VecDeque<u64>,
    later: BTreeSet<(Instant, u64)>,
    pace: Bucket,
}

/// Where clients are led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lead {
    /// In order of preference.
    pub(super) endpoints: Vec<String>,
    /// So many are told in a second.
    pub(super) per_second: u32,
}

/// A connection.
#[derive(Default)]
struct Connection {
    /// Of the mailboxes that it serves.
    shards: Vec<u8>,
    /// It was told to prepare, for this lead.
    prepared: bool,
    /// When it was told to go.
    told: Option<Instant>,
    /// It waits for its turn.
    going: bool,
    preparing: bool,
    /// When it is looked at again.
    due: Option<Instant>,
}

/// A connection is told this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Telling {
    pub(super) connection: u64,
    pub(super) phase: MovePhase,
}

const AGAIN: Duration = Duration::from_secs(MOVE_AGAIN_SECONDS);
/// By then it serves something, or only posts.
const SETTLED: Duration = Duration::from_secs(ESTABLISHMENT_SECONDS);

impl Default for Leading {
    fn default() -> Self {
        Self {
            moved: [false; SHARDS],
            all_moved: false,
            lead: None,
            connections: HashMap::new(),
            last_id: 0,
            to_go: VecDeque::new(),
            to_prepare: VecDeque::new(),
            later: BTreeSet::new(),
            pace: Bucket::default(),
        }
    }
}

impl Leading {
    /// A new connection's number.
    pub(super) fn connected(&mut self, now: Instant) -> u64 {
        self.last_id += 1;
        self.connections.insert(self.last_id, Connection::default());
        self.look_later(self.last_id, now + SETTLED);
        self.last_id
    }

    /// The shards of the mailboxes that a connection serves from now on.
    pub(super) fn serves(&mut self, id: u64, shards: Vec<u8>, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if shards.is_empty() && !connection.shards.is_empty() {
            // It may be about to attach another one.
            connection.shards = shards;
            return self.look_later(id, now + SETTLED);
        }
        connection.shards = shards;
        self.look_at(id, now);
    }

    /// A connection has ended.
    pub(super) fn gone(&mut self, id: u64) {
        if let Some(due) = self.connections.remove(&id).and_then(|connection| connection.due) {
            self.later.remove(&(due, id));
        }
    }

    /// Clients are led there. Who was told so already is not told again.
    pub(super) fn lead(&mut self, lead: Lead) {
        let same = self.lead.as_ref().is_some_and(|old| old.endpoints == lead.endpoints);
        self.lead = Some(lead);
        if same {
            return;
        }
        let mut all: Vec<u64> = self.connections.keys().copied().collect();
        all.sort_unstable();
        for id in all {
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.prepared = false;
                self.prepare(id);
            }
        }
    }

    /// Where clients are led, if an importer has said so.
    pub(super) fn leads(&self) -> Option<&Lead> {
        self.lead.as_ref()
    }

    /// So many shards have moved by now.
    pub(super) fn moved(&mut self, moved: &Moved, now: Instant) {
        if *moved == self.moved {
            return;
        }
        self.moved = *moved;
        self.all_moved = moved.iter().all(|moved| *moved);
        let mut all: Vec<u64> = self.connections.keys().copied().collect();
        all.sort_unstable();
        for id in all {
            // Who serves none and has just come gets its time to attach.
            let is_settled = |one: &Connection| !one.shards.is_empty() || one.due.is_none();
            if self.connections.get(&id).is_some_and(is_settled) && self.belongs_elsewhere(id) {
                self.look_at(id, now);
            }
        }
    }

    /// Connections, and attachments of mailboxes that have moved.
    pub(super) fn users(&self) -> (usize, usize) {
        let shards = self.connections.values().flat_map(|connection| &connection.shards);
        let attachments = shards.filter(|shard| self.moved[usize::from(**shard)]).count();
        (self.connections.len(), attachments)
    }

    /// Whether there is more to tell than the pace allows now.
    pub(super) fn is_busy(&self) -> bool {
        !self.to_go.is_empty() || !self.to_prepare.is_empty()
    }

    /// Who is told something now.
    pub(super) fn decide(&mut self, now: Instant) -> Vec<Telling> {
        while let Some((due, id)) = self.later.first().copied().filter(|(due, _)| *due <= now) {
            self.later.remove(&(due, id));
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.due = None;
                self.look_at(id, now);
            }
        }
        let per_second = self.lead.as_ref().map_or(LEAD_PER_SECOND_MAX, |lead| lead.per_second);
        let per_second = per_second.clamp(1, LEAD_PER_SECOND_MAX);
        let pace = Rate::new(per_second, per_second / 10);
        let mut telling = Vec::new();
        while self.pace.wait(&pace, now).is_zero()
            && let Some(one) = self.next_to_tell(now)
        {
            telling.extend(one);
            if one.is_some() {
                self.pace.charge(&pace, 1, now);
            }
        }
        telling
    }

    /// The next one in turn, and whether it is told anything; none where nobody waits.
    fn next_to_tell(&mut self, now: Instant) -> Option<Option<Telling>> {
        if let Some(id) = self.to_go.pop_front() {
            let goes = self.belongs_elsewhere(id);
            let Some(connection) = self.connections.get_mut(&id) else { return Some(None) };
            connection.going = false;
            if !goes {
                return Some(None);
            }
            connection.told = Some(now);
            self.look_later(id, now + AGAIN);
            return Some(Some(Telling { connection: id, phase: MovePhase::Go }));
        }
        let id = self.to_prepare.pop_front()?;
        let leads = self.lead.is_some();
        let Some(connection) = self.connections.get_mut(&id) else { return Some(None) };
        connection.preparing = false;
        // Who was told to go has been told all.
        if !leads || connection.prepared || connection.told.is_some() {
            return Some(None);
        }
        connection.prepared = true;
        Some(Some(Telling { connection: id, phase: MovePhase::Prepare }))
    }

    /// Whether everything that it is here for has moved.
    fn belongs_elsewhere(&self, id: u64) -> bool {
        let Some(Connection { shards, .. }) = self.connections.get(&id) else { return false };
        match &shards[..] {
            [] => self.all_moved,
            shards => shards.iter().all(|shard| self.moved[usize::from(*shard)]),
        }
    }

    fn look_at(&mut self, id: u64, now: Instant) {
        if !self.belongs_elsewhere(id) {
            return self.prepare(id);
        }
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if let Some(at) = connection.told
            && now < at + AGAIN
        {
            return self.look_later(id, at + AGAIN);
        }
        if !std::mem::replace(&mut connection.going, true) {
            self.to_go.push_back(id);
        }
    }

    fn prepare(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let fresh = connection.shards.is_empty() && connection.due.is_some();
        if self.lead.is_none() || connection.prepared || connection.preparing || fresh {
            return;
        }
        connection.preparing = true;
        self.to_prepare.push_back(id);
    }

    fn look_later(&mut self, id: u64, at: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if let Some(due) = connection.due.replace(at) {
            self.later.remove(&(due, id));
        }
        self.later.insert((at, id));
    }
}

#[cfg(test)]
mod tests;
