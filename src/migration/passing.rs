//! Posts for shards that are the data centre's: each goes to the importer that came last, in the order in
//! which it came, and its sender is told what the importer says of it, and nothing else.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Sender;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use valise_migration::wire::{self, FromSupernode};
use valise_proto::Reason;

use crate::limits::{
    FULL_RETRY_MS, PASSING_BYTES_MAX, PASSING_MAX, PASSING_SECONDS, PASSING_TICK_MS,
};
use crate::metrics::Metrics;
use crate::receipt::Waiter;
use crate::store::Carried;
use crate::store::Frame;

/// Posts that are passed on.
pub struct Passing {
    metrics: Metrics,
    // Room: taken until a post is both written and answered.
    posts: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The connection that posts go to.
    newest: Option<(u64, Sender<Outgoing>)>,
    connections: u64,
    posts: u64,
    waiting: HashMap<u64, Waiting>,
    /// Until when they wait, in this order.
    due: VecDeque<(Instant, u64)>,
}

/// A post whose importer has not answered.
struct Waiting {
    connection: u64,
    waiter: Waiter,
    _room: Arc<Room>,
}

/// A message on its way to an importer, and the room that it takes until it is written.
pub(super) struct Outgoing {
    pub(super) message: FromSupernode,
    pub(super) room: Arc<Room>,
}

/// Room that is free again when this is dropped.
pub(super) struct Room {
    _permits: [Option<OwnedSemaphorePermit>; 2],
}

impl Room {
    /// Of these permits.
    pub(super) fn of(permits: [Option<OwnedSemaphorePermit>; 2]) -> Arc<Self> {
        Arc::new(Self { _permits: permits })
    }
}

/// An importer's connection that posts may go to; none goes there, and none waits for it, once it is
/// dropped.
pub(super) struct Importer {
    passing: Arc<Passing>,
    number: u64,
}

impl Passing {
    /// Nobody to pass anything to.
    pub fn new(metrics: Metrics) -> Self {
        let posts = Arc::new(Semaphore::new(PASSING_MAX));
        let bytes = Arc::new(Semaphore::new(PASSING_BYTES_MAX));
        Self { metrics, posts, bytes, state: Mutex::default() }
    }

    /// Passes a post on, for a capability of this serial. The frame's hour and sequence number say
    /// nothing: the data centre gives it its own. `moved` where there is no importer; `busy` where too much is
    /// under way, where there is no answer in time, and where the connection is lost: the
    /// sender says it again, with the same id, and the data centre knows it then.
    pub fn pass(&self, shard: u8, serial: [u8; 8], frame: &Frame, now: Instant, waiter: Waiter) {
        let bytes = u32::try_from(frame.payload.len()).expect("a payload has 64 KiB at most");
        let mut state = self.state();
        let Some((connection, to)) = state.newest.clone() else {
            drop(state);
            return waiter.decide(Reason::Moved);
        };
        let post = Arc::clone(&self.posts).try_acquire_owned();
        let bytes = Arc::clone(&self.bytes).try_acquire_many_owned(bytes);
        let (Ok(post), Ok(bytes)) = (post, bytes) else {
            drop(state);
            return waiter.decide(Reason::Busy);
        };
        let room = Room::of([Some(post), Some(bytes)]);
        state.posts += 1;
        let number = state.posts;
        let passing = wire::Passing {
            shard,
            mailbox: *frame.mailbox.as_bytes(),
            serial,
            record: Carried::Frame(frame.clone()).encode(),
        };
        let message = FromSupernode::Pass(number, passing);
        // Under the lock, so that they leave in the order of their numbers.
        if to.try_send(Outgoing { message, room: Arc::clone(&room) }).is_err() {
            drop(state);
            return waiter.decide(Reason::Busy);
        }
        state.waiting.insert(number, Waiting { connection, waiter, _room: room });
        state.due.push_back((now + PATIENCE, number));
        self.metrics.migration().post_passed();
    }

    /// Posts without an answer.
    pub fn waiting(&self) -> usize {
        self.state().waiting.len()
    }

    /// Tells senders whose time is over, for as long as it is polled.
    pub async fn run(&self) {
        let mut ticks = tokio::time::interval(Duration::from_millis(PASSING_TICK_MS));
        loop {
            ticks.tick().await;
            self.overdue(Instant::now());
        }
    }

    /// Posts that have waited long enough: `busy`.
    fn overdue(&self, now: Instant) {
        let mut state = self.state();
        let mut late = Vec::new();
        while let Some((_, number)) = state.due.front().filter(|(due, _)| *due <= now).copied() {
            state.due.pop_front();
            late.extend(state.waiting.remove(&number));
        }
        drop(state);
        self.give_up(late);
    }

    /// An importer that posts go to from now on. Those that are under way to an earlier one are
    /// answered `busy`: they are not waited for beside posts that come after them.
    pub(super) fn connected(self: &Arc<Self>, to: Sender<Outgoing>) -> Importer {
        let mut state = self.state();
        state.connections += 1;
        let number = state.connections;
        state.newest = Some((number, to));
        let left = state.waiting.drain().map(|(_, waiting)| waiting).collect();
        state.due.clear();
        drop(state);
        self.give_up(left);
        Importer { passing: Arc::clone(self), number }
    }

    fn gone(&self, connection: u64) {
        let mut state = self.state();
        if state.newest.as_ref().is_some_and(|(newest, _)| *newest == connection) {
            state.newest = None;
        }
        let lost = state.waiting.extract_if(|_, waiting| waiting.connection == connection);
        let lost = lost.map(|(_, waiting)| waiting).collect();
        drop(state);
        self.give_up(lost);
    }

    /// A waiter that is dropped says `busy`.
    fn give_up(&self, waiting: Vec<Waiting>) {
        self.metrics.migration().posts_unanswered(waiting.len());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no one panics while passing posts")
    }
}

const PATIENCE: Duration = Duration::from_secs(PASSING_SECONDS);

impl Importer {
    /// What came of a post, as the reason's number. One that is not waited for any more, or is
    /// another importer's, says nothing.
    pub(super) fn passed(&self, post: u64, outcome: u32) {
        let mut state = self.passing.state();
        let own = state.waiting.get(&post).is_some_and(|waiting| waiting.connection == self.number);
        let waiting = if own { state.waiting.remove(&post) } else { None };
        // Answers come nearly in order, so what is due is forgotten here.
        while state.due.front().is_some_and(|(_, post)| !state.waiting.contains_key(post)) {
            state.due.pop_front();
        }
        drop(state);
        let Some(Waiting { waiter, .. }) = waiting else { return };
        match Reason::from_number(outcome) {
            Some(Reason::MailboxFull) => {
                waiter.decide_with_retry(Reason::MailboxFull, FULL_RETRY_MS);
            }
            Some(reason) => waiter.decide(reason),
            // A reason that this version does not know: nothing is promised.
            None => waiter.decide(Reason::Busy),
        }
    }
}

impl Drop for Importer {
    fn drop(&mut self) {
        self.passing.gone(self.number);
    }
}

#[cfg(test)]
mod tests;
