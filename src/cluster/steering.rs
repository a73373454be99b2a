//! Which node the clients of a shard belong to, and who is moved when: functions of `(now, input)`.
//!
//! Every live node has a score for each shard (rendezvous hashing); the highest one is where the
//! shard's clients belong. A node moves a client only up in that order, so however differently two
//! nodes see the others, no client is sent in a circle. Nothing but scale depends on any of this.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};

use super::announcement::{Announcement, State};
use crate::limits::{
    MOVE_AGAIN_SECONDS, MOVES_PER_SECOND, NODE_SILENT_SECONDS, STEERING_SETTLED_SECONDS,
};
use crate::metrics::MoveReason;
use crate::rate::{Bucket, Rate};

/// Where the realm is served, as its record says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// All of them.
    pub listed: Vec<String>,
    /// Which of them is this node; none where it cannot tell.
    pub own: Option<String>,
}

/// What a node knows of the others, and its connections.
pub(super) struct Steering {
    // Static after construction.
    key: String,
    start: u64,
    // Heard.
    places: Places,
    others: BTreeMap<String, Heard>,
    /// Somebody else says that this node's endpoint is its own.
    contested_until: Option<Instant>,
    // Derived: the nodes that take clients, now and as it is acted on.
    seen: Vec<Place>,
    seen_since: Instant,
    settled: Vec<Place>,
    // The connections.
    connections: HashMap<u64, Connection>,
    last_id: u64,
    to_look_at: VecDeque<u64>,
    later: VecDeque<(Instant, u64)>,
    pace: Bucket,
    /// Since when this node leaves.
    leaving: Option<Instant>,
}

/// What was heard of another node last.
struct Heard {
    start: u64,
    state: State,
    at: Instant,
}

/// A node that takes clients.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    endpoint: String,
    start: u64,
}

/// A connection of this node.
#[derive(Default)]
struct Connection {
    /// Of the mailbox that it is steered by.
    shard: Option<u8>,
    moved: Option<Instant>,
    waits: bool,
}

/// A connection is to be served elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Moving {
    pub(super) connection: u64,
    /// In order of preference.
    pub(super) endpoints: Vec<String>,
    /// Over how long those that are moved together should spread.
    pub(super) spread: Duration,
    pub(super) reason: MoveReason,
}

const SILENT: Duration = Duration::from_secs(NODE_SILENT_SECONDS);
const SETTLED: Duration = Duration::from_secs(STEERING_SETTLED_SECONDS);
const AGAIN: Duration = Duration::from_secs(MOVE_AGAIN_SECONDS);

impl Steering {
    /// A node with this key that has just started, with a number drawn for that.
    pub(super) fn new(key: String, start: u64, now: Instant) -> Self {
        Self {
            key,
            start,
            places: Places::default(),
            others: BTreeMap::new(),
            contested_until: None,
            seen: Vec::new(),
            seen_since: now,
            settled: Vec::new(),
            connections: HashMap::new(),
            last_id: 0,
            to_look_at: VecDeque::new(),
            later: VecDeque::new(),
            pace: Bucket::default(),
            leaving: None,
        }
    }

    /// Where the realm is served from now on.
    pub(super) fn served_at(&mut self, places: Places) {
        self.others.retain(|endpoint, _| places.listed.contains(endpoint));
        self.places = places;
    }

    /// What this node says of itself; nothing where it does not know its endpoint for its own.
    pub(super) fn announcement(&self, now: Instant) -> Option<Announcement> {
        let endpoint = self.own(now)?.to_owned();
        let state = if self.leaving.is_some() { State::Leaving } else { State::Up };
        Some(Announcement { endpoint, key: self.key.clone(), start: self.start, state })
    }

    /// Another node, or this one, has said something. Whether that node knows nothing of this one.
    pub(super) fn hear(&mut self, now: Instant, said: Announcement) -> bool {
        let Announcement { endpoint, key, start, state } = said;
        if key == self.key || !self.places.listed.contains(&endpoint) {
            return false;
        }
        if self.places.own.as_ref() == Some(&endpoint) {
            self.contested_until = Some(now + 2 * SILENT);
            return false;
        }
        let before = self.others.insert(endpoint, Heard { start, state, at: now });
        state == State::Up && before.is_none_or(|before| before.start != start)
    }

    /// Whether somebody else says that this node's endpoint is its own.
    pub(super) fn is_contested(&self, now: Instant) -> bool {
        self.contested_until.is_some_and(|until| now < until)
    }

    /// A new connection's number.
    pub(super) fn connected(&mut self) -> u64 {
        self.last_id += 1;
        self.connections.insert(self.last_id, Connection::default());
        if self.leaving.is_some() {
            self.look_at(self.last_id);
        }
        self.last_id
    }

    /// The shard of the mailbox that a connection is steered by, if it serves one.
    pub(super) fn serves(&mut self, id: u64, shard: Option<u8>) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.shard = shard;
            self.look_at(id);
        }
    }

    /// A connection has ended.
    pub(super) fn gone(&mut self, id: u64) {
        self.connections.remove(&id);
    }

    /// Nodes that were heard of lately, this one included.
    pub(super) fn live(&self, now: Instant) -> usize {
        self.others.values().filter(|heard| heard.is_live(now)).count() + 1
    }

    /// Whether there is more to decide than the pace allows now.
    pub(super) fn is_busy(&self) -> bool {
        !self.to_look_at.is_empty()
    }

    /// Who is to be moved now.
    pub(super) fn decide(&mut self, now: Instant) -> Vec<Moving> {
        self.look_around(now);
        while self.later.front().is_some_and(|(at, _)| *at <= now) {
            let (_, id) = self.later.pop_front().expect("there is a front");
            self.look_at(id);
        }
        let pace = Rate::new(MOVES_PER_SECOND, BURST);
        let mut moving = Vec::new();
        while self.pace.wait(&pace, now).is_zero()
            && let Some(id) = self.to_look_at.pop_front()
        {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            connection.waits = false;
            let (shard, moved) = (connection.shard, connection.moved);
            let Some(endpoints) = self.elsewhere(id, shard, now) else { continue };
            match (self.leaving, moved) {
                // It was told that this node ends.
                (Some(since), Some(at)) if at >= since => continue,
                (None, Some(at)) if now < at + AGAIN => {
                    self.later.push_back((at + AGAIN, id));
                    continue;
                }
                _ => {}
            }
            self.pace.charge(&pace, 1, now);
            moving.push(self.moved(id, endpoints, now));
        }
        self.together(moving, Duration::MAX)
    }

    /// This node ends: all its connections are moved now, within this time; a node that has more of
    /// them than the pace allows in it exceeds the pace, since they would be cut off otherwise.
    pub(super) fn leave(&mut self, now: Instant, within: Duration) -> Vec<Moving> {
        self.leaving.get_or_insert(now);
        self.look_around(now);
        // Nobody waits any more: all have their turn now.
        self.to_look_at.clear();
        self.connections.values_mut().for_each(|connection| connection.waits = false);
        let all: Vec<_> = self.connections.iter().map(|(id, other)| (*id, other.shard)).collect();
        let moving = all.into_iter().filter_map(|(id, shard)| {
            let endpoints = self.elsewhere(id, shard, now)?;
            Some(self.moved(id, endpoints, now))
        });
        let moving = moving.collect();
        self.together(moving, within)
    }

    /// Where a connection belongs rather than here, the best first.
    fn elsewhere(&self, id: u64, shard: Option<u8>, now: Instant) -> Option<Vec<String>> {
        let own = self.own(now)?;
        if self.leaving.is_some() {
            // Who serves no mailbox goes anywhere, but not all to the same.
            let shard = shard.unwrap_or((id % 256) as u8);
            let others = order(shard, &self.seen).into_iter();
            let others: Vec<_> = others.map(|place| place.endpoint.clone()).collect();
            return Some(others).filter(|others| !others.is_empty());
        }
        let order = order(shard?, &self.settled);
        // Not in it: nothing is known for sure yet.
        let here = order.iter().position(|place| place.endpoint == own)?;
        let is_there = |place: &&Place| self.seen.binary_search(place).is_ok();
        // One that has just gone may be back in a moment.
        order.first().filter(|best| is_there(best))?;
        let better = order[..here].iter().filter(|place| is_there(place));
        let better: Vec<_> = better.map(|place| place.endpoint.clone()).collect();
        Some(better).filter(|better| !better.is_empty())
    }

    fn moved(&mut self, id: u64, endpoints: Vec<String>, now: Instant) -> Moving {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.moved = Some(now);
        }
        let reason =
            if self.leaving.is_some() { MoveReason::Leaving } else { MoveReason::Preferred };
        Moving { connection: id, endpoints, spread: Duration::ZERO, reason }
    }

    /// They spread over the time that the pace asks for, or this.
    fn together(&self, mut moving: Vec<Moving>, within: Duration) -> Vec<Moving> {
        let count = u32::try_from(moving.len()).unwrap_or(u32::MAX);
        let spread = (Duration::from_secs(1) / MOVES_PER_SECOND).saturating_mul(count).min(within);
        moving.iter_mut().for_each(|one| one.spread = spread);
        moving
    }

    /// Who takes clients now; acted on once it has not changed for a while.
    fn look_around(&mut self, now: Instant) {
        self.others.retain(|_, heard| heard.is_live(now));
        let others = self.others.iter().filter(|(_, heard)| heard.state == State::Up);
        let others = others
            .map(|(endpoint, heard)| Place { endpoint: endpoint.clone(), start: heard.start });
        let own = self.own(now).filter(|_| self.leaving.is_none());
        let own = own.map(|endpoint| Place { endpoint: endpoint.to_owned(), start: self.start });
        let mut seen: Vec<_> = others.chain(own).collect();
        seen.sort();
        if seen != self.seen {
            (self.seen, self.seen_since) = (seen, now);
        }
        if self.seen != self.settled && now >= self.seen_since + SETTLED {
            self.settled = self.seen.clone();
            let all: Vec<u64> = self.connections.keys().copied().collect();
            all.into_iter().for_each(|id| self.look_at(id));
        }
    }

    fn own(&self, now: Instant) -> Option<&str> {
        self.places.own.as_deref().filter(|_| !self.is_contested(now))
    }

    fn look_at(&mut self, id: u64) {
        if let Some(connection) = self.connections.get_mut(&id)
            && !std::mem::replace(&mut connection.waits, true)
        {
            self.to_look_at.push_back(id);
        }
    }
}

/// Moves at once: a tenth of a second's.
const BURST: u32 = MOVES_PER_SECOND / 10;

impl Heard {
    fn is_live(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < SILENT
    }
}

/// The places by their score for a shard, the highest first.
fn order(shard: u8, places: &[Place]) -> Vec<&Place> {
    let mut order: Vec<_> = places.iter().collect();
    order.sort_by_cached_key(|place| std::cmp::Reverse(score(shard, place)));
    order
}

/// Every node comes to the same: nothing that changes with the realm's record is in it.
fn score(shard: u8, place: &Place) -> [u8; 16] {
    let text = [b"valise steering 1", &[shard][..], place.endpoint.as_bytes()].concat();
    let hash = digest(&SHA256, &text);
    hash.as_ref()[..16].try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests;
