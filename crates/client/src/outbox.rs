//! The sender's half of the order rule: for each (conversation, target) at most one frame is
//! unresolved. What is pushed meanwhile waits and goes into the next frame together. A retry has
//! the same frame id, so that a copy is recognised.
//!
//! Pure: every decision is a function of what happened and of `now`. The caller posts what
//! [`Outbox::next_post`] gives it, and reports what became of it.

mod conversation;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;
use valise_proto::{FrameId, Reason, Token};

use crate::envelope::MESSAGE_BYTES_MAX;
use crate::inbox::StreamId;
use crate::limits::OUTBOX_BYTES_MAX;
use conversation::Conversation;

/// The caller's own name for a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConversationId(pub u64);

/// Where a request is made. A realm that is being moved serves some of its mailboxes here, and some
/// there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Side {
    /// Where the client is connected.
    #[default]
    Here,
    /// At another place of the realm's record.
    There,
}

impl Side {
    /// The other one, to which a request goes that was refused `moved`.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Here => Self::There,
            Self::There => Self::Here,
        }
    }
}

/// One post to be made now.
#[derive(Debug, Clone, PartialEq)]
pub struct Posting {
    /// To report the outcome with.
    pub number: u64,
    /// Where it is to be made.
    pub side: Side,
    /// Whose messages these are.
    pub conversation: ConversationId,
    /// The same on every retry.
    pub frame_id: FrameId,
    /// One per target; the outcomes have this order.
    pub capabilities: Vec<Token>,
    /// An encoded [`Envelope`](crate::Envelope).
    pub payload: Bytes,
}

/// Some messages have met their fate at one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// The conversation.
    pub conversation: ConversationId,
    /// The target's place among the conversation's capabilities.
    pub target: usize,
    /// The messages.
    pub counters: Range<u64>,
    /// Their fate.
    pub fate: Settlement,
}

/// The fate of a frame at one target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// The relay keeps it until the recipient has it.
    Accepted,
    /// It will not be tried again; `None` for a reason this version does not know.
    GivenUp(Option<Reason>),
}

/// A message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// No such conversation is open.
    #[error("the conversation is not open")]
    Unknown,
    /// It does not fit a frame.
    #[error("a message has at most {MESSAGE_BYTES_MAX} bytes")]
    TooLarge,
    /// Too much waits already.
    #[error("too many bytes wait to be posted already")]
    Full,
}

/// All conversations of one sender with one relay.
#[derive(Debug, Default)]
pub struct Outbox {
    conversations: HashMap<ConversationId, Conversation>,
    /// Those that may have something to post, each once.
    ready: VecDeque<ConversationId>,
    /// When retries are due.
    retries: BTreeSet<(Instant, ConversationId)>,
    /// Posts whose outcome is open, by their number.
    flights: HashMap<u64, Flight>,
    last_number: u64,
    waiting_bytes: usize,
    unsettled: u64,
}

#[derive(Debug)]
struct Flight {
    side: Side,
    conversation: ConversationId,
    targets: Vec<usize>,
}

impl Outbox {
    /// Opens a conversation whose next message has the counter `next_counter` (1 for a new
    /// stream) and goes to each of the capabilities' mailboxes. One that was open is replaced.
    pub fn open(
        &mut self,
        conversation: ConversationId,
        stream: StreamId,
        capabilities: Vec<Token>,
        next_counter: u64,
    ) {
        self.close(conversation);
        let opened = Conversation::new(stream, capabilities, next_counter);
        self.conversations.insert(conversation, opened);
    }

    /// Forgets a conversation and everything that waits in it.
    pub fn close(&mut self, conversation: ConversationId) {
        if let Some(closed) = self.conversations.remove(&conversation) {
            self.unsettled -= closed.unsettled();
            self.waiting_bytes -= closed.messages.iter().map(cost).sum::<usize>();
            self.ready.retain(|id| *id != conversation);
            self.retries.retain(|(_, id)| *id != conversation);
            self.flights.retain(|_, flight| flight.conversation != conversation);
        }
    }

    /// Gives a target a new capability, for example because the old one expires. It is used from
    /// the next try on.
    pub fn replace_capability(
        &mut self,
        conversation: ConversationId,
        target: usize,
        capability: Token,
    ) {
        let conversation = self.conversations.get_mut(&conversation);
        if let Some(target) = conversation.and_then(|found| found.targets.get_mut(target)) {
            target.capability = capability;
        }
    }

    /// Adds a message for every target and returns its counter.
    ///
    /// # Errors
    /// [`PushError`].
    pub fn push(&mut self, conversation: ConversationId, message: Bytes) -> Result<u64, PushError> {
        if message.len() > MESSAGE_BYTES_MAX {
            return Err(PushError::TooLarge);
        }
        let found = self.conversations.get_mut(&conversation).ok_or(PushError::Unknown)?;
        if self.waiting_bytes + cost(&message) > OUTBOX_BYTES_MAX {
            return Err(PushError::Full);
        }
        let counter = found.end();
        if found.targets.is_empty() {
            // Nobody to send it to: it is settled with everyone.
            found.first += 1;
            return Ok(counter);
        }
        self.waiting_bytes += cost(&message);
        self.unsettled += found.targets.len() as u64;
        found.messages.push_back(message);
        if found.targets.iter().any(|target| target.unresolved.is_none()) {
            make_ready(found, conversation, &mut self.ready);
        }
        Ok(counter)
    }

    /// The next post to be made, if one is due. `new_id` is asked for an id when a new frame
    /// begins.
    pub fn next_post(
        &mut self,
        now: Instant,
        mut new_id: impl FnMut() -> FrameId,
    ) -> Option<Posting> {
        while let Some((_, id)) = self.retries.first().filter(|(at, _)| *at <= now).copied() {
            self.retries.pop_first();
            let found = self.conversations.get_mut(&id).expect("closing removes the retries");
            make_ready(found, id, &mut self.ready);
        }
        while let Some(id) = self.ready.pop_front() {
            let found = self.conversations.get_mut(&id).expect("closing removes the readiness");
            found.is_ready = false;
            let Some((frame, side, targets)) = found.take_frame(now, &mut new_id) else { continue };
            // It may have more for other targets; the others have their turn first.
            make_ready(found, id, &mut self.ready);
            let capabilities = targets.iter().map(|i| found.targets[*i].capability).collect();
            self.waiting_bytes -= found.trim();
            self.last_number += 1;
            self.flights.insert(self.last_number, Flight { side, conversation: id, targets });
            return Some(Posting {
                number: self.last_number,
                side,
                conversation: id,
                frame_id: frame.id,
                capabilities,
                payload: frame.payload,
            });
        }
        None
    }

    /// When [`Self::next_post`] should be asked at the latest; `None`: not before something
    /// happens.
    pub fn next_at(&self, now: Instant) -> Option<Instant> {
        if self.ready.is_empty() { self.retries.first().map(|(at, _)| *at) } else { Some(now) }
    }

    /// The outcomes of a post, in the order of its capabilities.
    pub fn resolve(
        &mut self,
        now: Instant,
        number: u64,
        outcomes: &[Option<Reason>],
        retry_after: Duration,
    ) -> Vec<Settled> {
        self.land(now, number, retry_after, |i| {
            outcomes.get(i).copied().unwrap_or(Some(Reason::Busy))
        })
    }

    /// The post as a whole was refused.
    pub fn refuse(
        &mut self,
        now: Instant,
        number: u64,
        reason: Option<Reason>,
        retry_after: Duration,
    ) -> Vec<Settled> {
        self.land(now, number, retry_after, |_| reason)
    }

    /// The connection is lost: the outcome of every post under way is unknown, and each is due
    /// again at once, with its old id.
    pub fn lose(&mut self, now: Instant) {
        let all: Vec<u64> = self.flights.keys().copied().collect();
        all.into_iter().for_each(|number| self.lose_one(now, number));
    }

    /// The outcome of one post is unknown: it is due again at once, with its old id.
    pub fn lose_one(&mut self, now: Instant, number: u64) {
        let Some(flight) = self.flights.remove(&number) else { return };
        let id = flight.conversation;
        let found = self.conversations.get_mut(&id).expect("closing removes the flights");
        for target in flight.targets {
            if let Some(unresolved) = &mut found.targets[target].unresolved {
                unresolved.retry_at = Some(now);
            }
        }
        make_ready(found, id, &mut self.ready);
    }

    /// Here is elsewhere now: every target is tried here first.
    pub fn rebase(&mut self) {
        for conversation in self.conversations.values_mut() {
            conversation.targets.iter_mut().for_each(|target| target.side = Side::Here);
        }
    }

    /// (Message, target) pairs that are neither accepted nor given up.
    pub fn unsettled(&self) -> u64 {
        self.unsettled
    }

    /// Bytes of messages that wait for their first post, with their place in the queue.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    fn land(
        &mut self,
        now: Instant,
        number: u64,
        retry_after: Duration,
        outcome: impl Fn(usize) -> Option<Reason>,
    ) -> Vec<Settled> {
        let Some(Flight { side, conversation, targets }) = self.flights.remove(&number) else {
            return Vec::new();
        };
        let found = self.conversations.get_mut(&conversation).expect("closing removes the flights");
        let mut settled = Vec::new();
        for (i, target) in targets.into_iter().enumerate() {
            let slot = &mut found.targets[target].unresolved;
            let mut unresolved = slot.take().expect("a flight's targets are unresolved");
            let fate = match outcome(i) {
                Some(Reason::Accepted) => Settlement::Accepted,
                Some(reason) if reason.is_retryable() => {
                    let wait = retry_after + unresolved.next_wait();
                    let at = match reason {
                        // The other side is asked at once, unless it has said so, too.
                        Reason::Moved if unresolved.turns_away(side) => now,
                        _ => now + wait,
                    };
                    unresolved.retry_at = Some(at);
                    *slot = Some(unresolved);
                    if reason == Reason::Moved {
                        found.targets[target].side = side.other();
                    }
                    self.retries.insert((at, conversation));
                    continue;
                }
                reason => Settlement::GivenUp(reason),
            };
            let counters = unresolved.frame.counters;
            self.unsettled -= counters.end - counters.start;
            settled.push(Settled { conversation, target, counters, fate });
        }
        if !settled.is_empty() {
            make_ready(found, conversation, &mut self.ready);
        }
        settled
    }
}

/// What a waiting message costs of [`OUTBOX_BYTES_MAX`]: empty ones are not free.
fn cost(message: &Bytes) -> usize {
    message.len() + size_of::<Bytes>()
}

fn make_ready(found: &mut Conversation, id: ConversationId, ready: &mut VecDeque<ConversationId>) {
    if !found.is_ready {
        found.is_ready = true;
        ready.push_back(id);
    }
}

#[cfg(test)]
mod tests;
