//! What all clients of a run share: the clock, the phase, and the totals that are shown while it
//! lasts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::cli::Kind;
use crate::header::Stamp;
use crate::latency::Latencies;
use crate::pacer::{Schedule, elapsed_ns};
use crate::pauses::Pauses;

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

/// Everyone drops its socket, and comes back after a random part of `within`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Cut {
    /// 0 stands for none.
    pub(crate) number: u64,
    pub(crate) within: Duration,
}

/// Every `of`th client is away, the one with this place among them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Away {
    pub(crate) place: usize,
    /// 0: nobody is away.
    pub(crate) of: usize,
}

impl Away {
    /// Whether this client is.
    pub(crate) fn includes(&self, number: usize) -> bool {
        self.of > 0 && number % self.of == self.place
    }
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
    /// Per first lane of a conversation: when its frame under way was begun, in nanoseconds of the
    /// clock; 0: none is.
    pub(crate) under_way: Vec<AtomicU64>,
    /// Per client: something to send, or a signal was seen.
    pub(crate) due: Vec<Arc<Notify>>,
    phase: watch::Sender<Phase>,
    /// How often all connections were cut by us.
    cuts: watch::Sender<Cut>,
    /// Who is away on purpose.
    away: watch::Sender<Away>,
    /// When the relay or the network last failed everyone, in nanoseconds of the clock; 0: never.
    disrupted_ns: AtomicU64,
    // Counted by all.
    pub(crate) accepted_latency: Latencies,
    pub(crate) delivered_latency: Latencies,
    pub(crate) send_lag: Latencies,
    /// From the last disruption until a client was attached again.
    pub(crate) back: Latencies,
    /// Of the stretch that is under way.
    pub(crate) pauses: Pauses,
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
    /// Clients that came back since the last disruption.
    pub(crate) back: AtomicU64,
    /// Clients that were told that the relay restarts.
    pub(crate) told: AtomicU64,
    /// How often a client went away on purpose.
    pub(crate) absences: AtomicU64,
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
            under_way: (0..lanes).map(|_| AtomicU64::new(0)).collect(),
            due: (0..clients).map(|_| Arc::new(Notify::new())).collect(),
            phase: watch::Sender::new(Phase::Waiting),
            accepted_latency: Latencies::new(),
            delivered_latency: Latencies::new(),
            send_lag: Latencies::new(),
            back: Latencies::new(),
            pauses: Pauses::new(lanes, clients),
            cuts: watch::Sender::new(Cut::default()),
            away: watch::Sender::new(Away::default()),
            disrupted_ns: AtomicU64::new(0),
            totals: Totals::default(),
            errors: Mutex::default(),
        }
    }

    /// The latencies people ask for: of deliveries where they mean something.
    pub(crate) fn headline(&self) -> &Latencies {
        if self.times_deliveries { &self.delivered_latency } else { &self.accepted_latency }
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

    /// When the oldest frame was begun that has no outcome yet, in nanoseconds of the clock.
    pub(crate) fn oldest_ns(&self) -> Option<u64> {
        let begun = self.under_way.iter().map(|begun| begun.load(Ordering::Relaxed));
        begun.filter(|begun| *begun > 0).min()
    }

    /// Everyone will be missed from now on, until they are back.
    pub(crate) fn disrupt(&self) {
        self.totals.back.store(0, Ordering::Relaxed);
        self.disrupted_ns.store(self.now_ns().max(1), Ordering::Relaxed);
    }

    /// When that was, in nanoseconds of the clock; 0: never.
    pub(crate) fn disrupted_ns(&self) -> u64 {
        self.disrupted_ns.load(Ordering::Relaxed)
    }

    /// Cuts all connections.
    pub(crate) fn cut(&self, within: Duration) {
        self.disrupt();
        self.cuts.send_modify(|cut| *cut = Cut { number: cut.number + 1, within });
    }

    pub(crate) fn cuts(&self) -> watch::Receiver<Cut> {
        self.cuts.subscribe()
    }

    /// Sends some away, and calls those back that were away before.
    pub(crate) fn send_away(&self, away: Away) {
        self.away.send_replace(away);
    }

    pub(crate) fn away(&self) -> watch::Receiver<Away> {
        self.away.subscribe()
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
