//! The order of what is posted: for each device in each conversation one frame at a time. A lane's
//! next frame goes when the one before it is with the relay or given up.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use valise_client::random;

use super::fault::Fault;
use super::records::state;
use crate::vault::Transaction;

/// The wait after the first failure, which may be a relay that decides nothing for an instant; the
/// first one of those that double, and the longest.
const WAIT_ONCE: Duration = Duration::from_millis(50);
const WAIT_FIRST: Duration = Duration::from_millis(500);
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A group's row (0: none) and a device.
pub(super) type LaneKey = (i64, Vec<u8>);

#[derive(Debug, Default)]
struct Lane {
    /// Deliveries that wait, in order.
    queue: VecDeque<i64>,
    state: LaneState,
    failures: u32,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum LaneState {
    #[default]
    Idle,
    InFlight,
    RetryAt(Instant),
    /// The relay does not take the capability: a new address has to come first.
    Blocked,
    /// Its relay may not be contacted yet.
    Held,
}

/// All lanes of a profile.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: BTreeMap<LaneKey, Lane>,
    /// Those that may post at once.
    ready: BTreeSet<LaneKey>,
}

impl Lanes {
    pub(super) fn load(tx: &Transaction<'_>) -> Result<Self, Fault> {
        let mut lanes = Self::default();
        for (id, delivery) in tx.all::<state::Delivery>()? {
            if delivery.state == WAITING {
                lanes.push((delivery.group, delivery.device), id);
            }
        }
        Ok(lanes)
    }

    /// A delivery joins the end of its lane.
    pub(super) fn push(&mut self, key: LaneKey, delivery: i64) {
        let lane = self.lanes.entry(key.clone()).or_default();
        lane.queue.push_back(delivery);
        if lane.state == LaneState::Idle {
            self.ready.insert(key);
        }
    }

    /// Whether nothing waits for the device.
    pub(super) fn is_empty(&self, key: &LaneKey) -> bool {
        self.lanes.get(key).is_none_or(|lane| lane.queue.is_empty())
    }

    /// The heads of all lanes that may post now. Each is in flight then.
    pub(super) fn take_ready(&mut self, now: Instant) -> Vec<(LaneKey, i64)> {
        for (key, lane) in &mut self.lanes {
            if matches!(lane.state, LaneState::RetryAt(at) if at <= now) {
                lane.state = LaneState::Idle;
                self.ready.insert(key.clone());
            }
        }
        let mut heads = Vec::new();
        for key in std::mem::take(&mut self.ready) {
            let Some(lane) = self.lanes.get_mut(&key) else { continue };
            let Some(head) = lane.queue.front().copied() else { continue };
            lane.state = LaneState::InFlight;
            heads.push((key, head));
        }
        heads
    }

    /// The head has met its fate; the next one may go.
    pub(super) fn done(&mut self, key: &LaneKey, delivery: i64) {
        let Some(lane) = self.lanes.get_mut(key) else { return };
        if lane.queue.front() == Some(&delivery) {
            lane.queue.pop_front();
            lane.state = LaneState::Idle;
            lane.failures = 0;
        }
        if lane.queue.is_empty() {
            self.lanes.remove(key);
        } else {
            self.ready.insert(key.clone());
        }
    }

    /// The head goes again, after a while and at least `least`.
    pub(super) fn retry(&mut self, key: &LaneKey, now: Instant, least: Duration) {
        let Some(lane) = self.lanes.get_mut(key) else { return };
        let exponential = match lane.failures.checked_sub(1) {
            None => WAIT_ONCE,
            Some(doublings) => WAIT_FIRST.saturating_mul(1 << doublings.min(10)).min(WAIT_MAX),
        };
        lane.failures = lane.failures.saturating_add(1);
        let wait = random::between(exponential / 2, exponential).max(least);
        lane.state = LaneState::RetryAt(now + wait);
    }

    /// The head waits for a new address, and with it everything behind it, which is returned.
    pub(super) fn block(&mut self, key: &LaneKey) -> Vec<i64> {
        let Some(lane) = self.lanes.get_mut(key) else { return Vec::new() };
        lane.state = LaneState::Blocked;
        lane.queue.iter().copied().collect()
    }

    /// The head waits until its relay may be contacted.
    pub(super) fn hold(&mut self, key: &LaneKey) {
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.state = LaneState::Held;
        }
    }

    /// Relays may be contacted that could not be.
    pub(super) fn release(&mut self) {
        for (key, lane) in &mut self.lanes {
            if lane.state == LaneState::Held {
                lane.state = LaneState::Idle;
                self.ready.insert(key.clone());
            }
        }
    }

    /// Whether a device is waited for to tell a new address.
    pub(super) fn is_blocked(&self, key: &LaneKey) -> bool {
        self.lanes.get(key).is_some_and(|lane| lane.state == LaneState::Blocked)
    }

    /// A new address is there.
    pub(super) fn unblock(&mut self, key: &LaneKey) {
        if let Some(lane) = self.lanes.get_mut(key)
            && matches!(lane.state, LaneState::Blocked | LaneState::Held)
        {
            lane.state = LaneState::Idle;
            self.ready.insert(key.clone());
        }
    }

    /// There is a connection again: nothing waits for its time any more.
    pub(super) fn retry_all(&mut self) {
        for (key, lane) in &mut self.lanes {
            if matches!(lane.state, LaneState::RetryAt(_)) {
                lane.state = LaneState::Idle;
                self.ready.insert(key.clone());
            }
        }
    }

    /// Forgets the deliveries of a device that is no target any more, and returns them.
    pub(super) fn remove(&mut self, key: &LaneKey) -> Vec<i64> {
        self.ready.remove(key);
        self.lanes.remove(key).map(|lane| lane.queue.into()).unwrap_or_default()
    }

    /// When a retry is due.
    pub(super) fn next_at(&self) -> Option<Instant> {
        let times = self.lanes.values().filter_map(|lane| match lane.state {
            LaneState::RetryAt(at) => Some(at),
            _ => None,
        });
        times.min()
    }
}

/// The states of a delivery, as stored.
pub(super) const WAITING: u32 = 0;
pub(super) const ACCEPTED: u32 = 1;
pub(super) const FAILED: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_frame_at_a_time_in_order() {
        let (mut lanes, now) = (Lanes::default(), Instant::now());
        let (a, b): (LaneKey, LaneKey) = ((1, vec![1]), (1, vec![2]));
        for (key, delivery) in [(&a, 10), (&a, 11), (&b, 12)] {
            lanes.push(key.clone(), delivery);
        }
        assert_eq!(lanes.take_ready(now), [(a.clone(), 10), (b.clone(), 12)]);
        assert!(lanes.take_ready(now).is_empty(), "both are in flight");
        lanes.retry(&b, now, Duration::ZERO);
        lanes.done(&a, 10);
        assert_eq!(lanes.take_ready(now), [(a.clone(), 11)]);
        assert!(lanes.next_at().is_some_and(|at| at > now));
        assert_eq!(lanes.take_ready(now + WAIT_MAX), [(b.clone(), 12)]);
        lanes.block(&b);
        lanes.retry_all();
        assert!(lanes.take_ready(now + WAIT_MAX).is_empty(), "it waits for an address");
        lanes.unblock(&b);
        assert_eq!(lanes.take_ready(now), [(b.clone(), 12)]);
        lanes.hold(&b);
        lanes.retry_all();
        assert!(lanes.take_ready(now + WAIT_MAX).is_empty(), "its relay is not allowed");
        lanes.release();
        assert_eq!(lanes.take_ready(now), [(b.clone(), 12)]);
        lanes.done(&b, 12);
        assert!(lanes.is_empty(&b));
        assert_eq!(lanes.remove(&a), [11]);
    }
}
