//! What all clients of a run share: the clock, the phase, and the totals that are shown while it
//! lasts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::cli::Kind;
use crate::header::Stamp;
use crate::latency::Latencies;
use crate::pacer::{Schedule, elapsed_ns};

/// What the clients are to do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Phase {
    /// Nothing new yet; receive.
    Waiting,
    /// Send, at the pace.
    Load(LoadPace),
    /// Nothing new any more; resolve what is open, receive.
    Quiet,
    /// End.
    Stop,
}

/// The pace as a sender sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum LoadPace {
    /// Open model.
    Schedule(Schedule),
    /// Closed model: frames in flight per sender.
    Window(usize),
}

/// Shared by all clients of a run.
pub(crate) struct Run {
    // Static after construction.
    pub(crate) stamp: Stamp,
    pub(crate) kind: Kind,
    pub(crate) payload_bytes: usize,
    pub(crate) clock: Instant,
    /// How many frames one conversation may have at most.
    pub(crate) frames_per_conversation: u64,
    /// Whether a delivery's latency means something: not where recipients were away.
    pub(crate) times_deliveries: bool,
    /// Per lane, the highest counter that was shown: the closed model of signals goes by it.
    pub(crate) seen: Vec<AtomicU64>,
    /// Per client: something to send, or a signal was seen.
    pub(crate) due: Vec<Arc<Notify>>,
    phase: watch::Sender<Phase>,
    // Counted by all.
    pub(crate) accepted_latency: Latencies,
    pub(crate) delivered_latency: Latencies,
    pub(crate) send_lag: Latencies,
    pub(crate) totals: Totals,
    errors: Mutex<BTreeMap<String, u64>>,
}

/// Counted while a run lasts; per target where not said otherwise.
#[derive(Default)]
pub(crate) struct Totals {
    /// Frames posted or signaled for the first time.
    pub(crate) sent: AtomicU64,
    pub(crate) accepted: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) shown: AtomicU64,
    /// Posts, not targets, that were made again.
    pub(crate) retries: AtomicU64,
    /// Of the open model; frames, not targets.
    pub(crate) not_sent: AtomicU64,
    pub(crate) reconnects: AtomicU64,
    /// Clients that are attached at the moment.
    pub(crate) attached: AtomicU64,
    /// Clients that have sent all they may.
    pub(crate) finished: AtomicU64,
    /// Clients that gave up.
    pub(crate) failed: AtomicU64,
}

impl Totals {
    /// Adds to one of the totals. They are only ever read as a whole when nothing moves.
    pub(crate) fn add(total: &AtomicU64, count: u64) {
        total.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn get(total: &AtomicU64) -> u64 {
        total.load(Ordering::Relaxed)
    }

    /// Frames with an outcome or in it forever.
    pub(crate) fn unresolved(&self) -> u64 {
        let resolved = Self::get(&self.accepted) + Self::get(&self.refused);
        Self::get(&self.sent).saturating_sub(resolved)
    }
}

impl Run {
    pub(crate) fn new(
        kind: Kind,
        payload_bytes: usize,
        lanes: usize,
        clients: usize,
        frames_per_conversation: u64,
        times_deliveries: bool,
    ) -> Self {
        let run = u64::from_be_bytes(valise_client::random::bytes());
        Self {
            stamp: Stamp::new(run, payload_bytes),
            kind,
            payload_bytes,
            clock: Instant::now(),
            frames_per_conversation,
            times_deliveries,
            seen: (0..lanes).map(|_| AtomicU64::new(0)).collect(),
            due: (0..clients).map(|_| Arc::new(Notify::new())).collect(),
            phase: watch::Sender::new(Phase::Waiting),
            accepted_latency: Latencies::new(),
            delivered_latency: Latencies::new(),
            send_lag: Latencies::new(),
            totals: Totals::default(),
            errors: Mutex::default(),
        }
    }

    /// Nanoseconds since the run began.
    pub(crate) fn now_ns(&self) -> u64 {
        elapsed_ns(self.clock)
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    pub(crate) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Counts something that went wrong, by its name.
    pub(crate) fn error(&self, name: impl Into<String>) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        // Names come from fixed lists and from the system's own messages; a hundred are plenty.
        if errors.len() < 100 {
            *errors.entry(name.into()).or_default() += 1;
        }
    }

    pub(crate) fn errors(&self) -> BTreeMap<String, u64> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
