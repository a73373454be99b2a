//! What a connection tells its application, and how it ends.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use valise_proto::{CloseReason, Deliver, Move, Posted, Refused};

use crate::connection::Handle;
use crate::limits::EVENT_BYTES;
use crate::shared::Shared;

/// Something a relay said without being asked, or an answer nobody waits for.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A frame for an attached mailbox.
    Deliver(Deliver<Bytes>),
    /// A signal for an attached mailbox.
    Signaled {
        /// The attachment's number.
        attachment: u32,
        /// What was signaled.
        payload: Bytes,
    },
    /// Everything stored when the attachment began has been delivered.
    CaughtUp {
        /// The attachment's number.
        attachment: u32,
    },
    /// The mailbox was attached elsewhere; this attachment is over.
    Replaced {
        /// The attachment's number.
        attachment: u32,
    },
    /// Few one-time items are left in the bundle of an attached mailbox.
    BundleLow {
        /// The attachment's number.
        attachment: u32,
        /// How many.
        items: u32,
    },
    /// The relay is about to restart.
    Restarting {
        /// Reconnect after a random part of this, in milliseconds.
        reconnect_in_ms: u32,
        /// Keep trying for this long, in milliseconds.
        try_for_ms: u32,
    },
    /// The relay says that this client is better served elsewhere. [`crate::Client`] judges that and
    /// obeys; whoever uses a [`crate::Connection`] alone may ignore it.
    Move(Box<Move>),
    /// The answer to [`crate::Connection::post_later`].
    Posted(Posted),
    /// The refusal of a [`crate::Connection::post_later`].
    Refused(Refused),
    /// The last event.
    Closed(Ending),
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The relay ended it; `None` for a reason this version does not know.
    Relay(Option<CloseReason>),
    /// It broke: what the system or the protocol says.
    Network(String),
    /// We closed it.
    Ours,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Relay(Some(reason)) => write!(f, "the relay closed the connection: {reason}"),
            Self::Relay(None) => f.write_str("the relay closed the connection for a new reason"),
            Self::Network(text) => write!(f, "the connection broke: {text}"),
            Self::Ours => f.write_str("the connection was closed here"),
        }
    }
}

impl Event {
    /// What it costs of the incoming queue's bound, in bytes.
    pub(crate) fn cost(&self) -> usize {
        let payload = match self {
            Self::Deliver(deliver) => deliver.payload.len(),
            Self::Signaled { payload, .. } => payload.len(),
            Self::Posted(posted) => posted.outcomes.len(),
            _ => 0,
        };
        EVENT_BYTES + payload
    }
}

/// The events of one connection, in order. Whoever does not read them makes the connection stop
/// reading its socket; whoever drops this discards them.
pub struct Incoming {
    shared: Arc<Shared>,
    /// Keeps the connection open.
    _handle: Arc<Handle>,
    /// Taken from the shared queue at once, so that a batch costs one lock.
    batch: VecDeque<Event>,
    ended: bool,
}

impl Incoming {
    pub(crate) fn new(shared: Arc<Shared>, handle: Arc<Handle>) -> Self {
        Self { shared, _handle: handle, batch: VecDeque::new(), ended: false }
    }

    /// The next event; `None` after [`Event::Closed`]. Cancel-safe.
    pub async fn next(&mut self) -> Option<Event> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The next event, if there is one already.
    pub fn try_next(&mut self) -> Option<Event> {
        if self.batch.is_empty() {
            self.batch = self.shared.take_events(None)?;
        }
        self.pop()
    }

    /// As [`Self::next`], for hand-written futures.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        if self.batch.is_empty() {
            if self.ended {
                return Poll::Ready(None);
            }
            match self.shared.take_events(Some(cx.waker())) {
                Some(batch) => self.batch = batch,
                None => {
                    // Idle: the memory of the last batch goes too.
                    self.batch = VecDeque::new();
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(self.pop())
    }

    fn pop(&mut self) -> Option<Event> {
        let event = self.batch.pop_front();
        self.ended |= matches!(event, Some(Event::Closed(_)));
        event
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.shared.discard_events();
    }
}
