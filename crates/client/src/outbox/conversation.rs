//! One conversation of the outbox: its messages, and how far each target is.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;
use valise_proto::limits::{FAN_OUT_BYTES_MAX, TARGETS_MAX};
use valise_proto::{FrameId, Token};

use super::{Side, cost};
use crate::backoff::Backoff;
use crate::envelope::{self, Envelope};
use crate::inbox::StreamId;

#[derive(Debug)]
pub(super) struct Conversation {
    pub(super) stream: StreamId,
    /// The counter of `messages[0]`.
    pub(super) first: u64,
    /// Those not yet in a frame for every target.
    pub(super) messages: VecDeque<Bytes>,
    pub(super) targets: Vec<Target>,
    pub(super) is_ready: bool,
}

#[derive(Debug)]
pub(super) struct Target {
    pub(super) capability: Token,
    /// Where it is posted to.
    pub(super) side: Side,
    /// The counter of the first message not yet in a frame for this target.
    pub(super) next: u64,
    pub(super) unresolved: Option<Unresolved>,
}

#[derive(Debug)]
pub(super) struct Unresolved {
    pub(super) frame: Frame,
    pub(super) failures: u32,
    /// The side that was the last to say that the target is served elsewhere.
    pub(super) turned_away: Option<Side>,
    /// `None` while a post is under way.
    pub(super) retry_at: Option<Instant>,
}

#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(super) id: FrameId,
    pub(super) counters: Range<u64>,
    pub(super) payload: Bytes,
}

impl Conversation {
    pub(super) fn new(stream: StreamId, capabilities: Vec<Token>, next: u64) -> Self {
        let target = |capability| Target { capability, side: Side::Here, next, unresolved: None };
        let targets = capabilities.into_iter().map(target).collect();
        Self { stream, first: next, messages: VecDeque::new(), targets, is_ready: false }
    }

    /// The counter after the last message.
    pub(super) fn end(&self) -> u64 {
        self.first + self.messages.len() as u64
    }

    pub(super) fn unsettled(&self) -> u64 {
        let begin = |target: &Target| {
            target.unresolved.as_ref().map_or(target.next, |open| open.frame.counters.start)
        };
        self.targets.iter().map(|target| self.end() - begin(target)).sum()
    }

    /// The first target that may be posted to decides the frame and the side; every other one there
    /// that may have the same frame shares the post.
    pub(super) fn take_frame(
        &mut self,
        now: Instant,
        new_id: &mut impl FnMut() -> FrameId,
    ) -> Option<(Frame, Side, Vec<usize>)> {
        let end = self.end();
        let lead = self.targets.iter().position(|target| match &target.unresolved {
            Some(open) => open.is_due(now),
            None => target.next < end,
        })?;
        let frame = match &self.targets[lead].unresolved {
            Some(open) => open.frame.clone(),
            None => self.build(self.targets[lead].next, new_id()),
        };
        let most = (FAN_OUT_BYTES_MAX / frame.payload.len()).min(TARGETS_MAX);
        let side = self.targets[lead].side;
        let mut chosen = Vec::new();
        for (i, target) in self.targets.iter_mut().enumerate().skip(lead) {
            if target.side != side {
                continue;
            }
            match &mut target.unresolved {
                Some(open) if open.frame.id == frame.id && open.is_due(now) => {
                    open.retry_at = None;
                }
                None if target.next == frame.counters.start => {
                    target.next = frame.counters.end;
                    let frame = frame.clone();
                    target.unresolved = Some(Unresolved::new(frame));
                }
                _ => continue,
            }
            chosen.push(i);
            if chosen.len() == most {
                break;
            }
        }
        Some((frame, side, chosen))
    }

    /// A frame of as many messages from `next` on as fit.
    fn build(&self, next: u64, id: FrameId) -> Frame {
        let skip = usize::try_from(next - self.first).expect("no more than there are messages");
        let waiting = self.messages.range(skip..);
        let (mut count, mut bytes) = (0, 0);
        for message in waiting.clone() {
            if !Envelope::fits(count + 1, bytes + message.len()) {
                break;
            }
            count += 1;
            bytes += message.len();
        }
        let payload = envelope::encode(self.stream, next, waiting.take(count))
            .expect("each message was judged when it was pushed");
        Frame { id, counters: next..next + count as u64, payload }
    }

    /// Drops the messages that every target has in a frame; returns their bytes.
    pub(super) fn trim(&mut self) -> usize {
        let needed = self.targets.iter().map(|target| target.next).min().unwrap_or(self.first);
        let mut bytes = 0;
        while self.first < needed {
            bytes += self.messages.pop_front().map_or(0, |message| cost(&message));
            self.first += 1;
        }
        if self.messages.is_empty() {
            self.messages = VecDeque::new();
        }
        bytes
    }
}

impl Unresolved {
    fn new(frame: Frame) -> Self {
        Self { frame, failures: 0, turned_away: None, retry_at: None }
    }

    /// This side serves the target no more, or not yet; whether the other one has not said the same.
    pub(super) fn turns_away(&mut self, side: Side) -> bool {
        let before = self.turned_away.replace(side);
        before.is_none_or(|before| before == side)
    }

    fn is_due(&self, now: Instant) -> bool {
        self.retry_at.is_some_and(|at| at <= now)
    }

    /// One more failure. The frame id is random, so it serves as the jitter.
    pub(super) fn next_wait(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let id = self.frame.id.as_bytes();
        let byte = |offset: u32| f64::from(id[(self.failures.wrapping_add(offset) % 16) as usize]);
        Backoff::RETRY.wait(self.failures, (byte(0) + byte(1) / 256.0) / 256.0)
    }
}
