//! A pair of connections as the load sees it: one end sends, the other counts what arrives, and a
//! message that is done with lets the next one go.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::pump::{Outbox, Pump, Receive};

/// How long the last messages may take to arrive after the last was sent.
const DRAIN: Duration = Duration::from_secs(2);

/// Bytes at the beginning of a payload that say when it was due.
const STAMP_BYTES: usize = 8;

/// What a run counts over all its connections.
pub(crate) struct Tally {
    epoch: Instant,
    sent: AtomicU64,
    arrived: AtomicU64,
    completed: AtomicU64,
    stopping: AtomicBool,
    /// Latencies in nanoseconds of the messages that were due after the warm-up.
    latencies: Mutex<Vec<u64>>,
    latencies_from: AtomicU64,
    /// The first connection that ended says why.
    failure: Mutex<Option<io::Error>>,
}

impl Tally {
    /// Nothing has happened yet.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            epoch: Instant::now(),
            sent: AtomicU64::new(0),
            arrived: AtomicU64::new(0),
            completed: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            latencies: Mutex::default(),
            latencies_from: AtomicU64::new(u64::MAX),
            failure: Mutex::default(),
        })
    }

    /// Nanoseconds since the run began.
    pub(crate) fn now(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    /// Messages done with so far.
    pub(crate) fn completed(&self) -> u64 {
        self.completed.load(Relaxed)
    }

    /// Latencies are kept of messages that are due at this time or later.
    pub(crate) fn keep_latencies_from(&self, nanoseconds: u64) {
        self.latencies_from.store(nanoseconds, Relaxed);
    }

    /// The latencies kept, ascending, in nanoseconds.
    pub(crate) fn take_latencies(&self) -> Vec<u64> {
        let mut latencies = std::mem::take(
            &mut *self.latencies.lock().expect("nothing panics while it holds the lock"),
        );
        latencies.sort_unstable();
        latencies
    }

    /// Runs a connection to its end, which during a run is always a failure.
    pub(crate) fn spawn<S, R>(self: &Arc<Self>, stream: S, outbox: Arc<Outbox>, receiver: R)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        R: Receive + Send + 'static,
    {
        let tally = self.clone();
        tokio::spawn(async move {
            if let Err(error) = Pump::new(stream, outbox, receiver).await {
                let mut failure =
                    tally.failure.lock().expect("nothing panics while it holds the lock");
                failure.get_or_insert(error);
            }
        });
    }

    /// Stops sending, and waits until every message sent has arrived and is done with.
    ///
    /// # Errors
    /// A connection has ended, or messages were lost.
    pub(crate) async fn drain(&self) -> io::Result<()> {
        self.stopping.store(true, Relaxed);
        let deadline = Instant::now() + DRAIN;
        loop {
            if let Some(error) =
                self.failure.lock().expect("nothing panics while it holds the lock").take()
            {
                return Err(error);
            }
            let sent = self.sent.load(Relaxed);
            let (arrived, completed) = (self.arrived.load(Relaxed), self.completed.load(Relaxed));
            if arrived == sent && completed == sent {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(io::Error::other(format!(
                    "of {sent} messages {arrived} arrived and {completed} were answered"
                )));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// One encoded message, and where it differs from one sending to the next.
pub(crate) struct Frame {
    bytes: Vec<u8>,
    id_at: Option<usize>,
    payload_at: usize,
}

impl Frame {
    /// `bytes` end with a payload of `payload_bytes`, and may hold a frame id of 16 bytes that is to
    /// be another one each time.
    pub(crate) fn new(bytes: Vec<u8>, payload_bytes: usize, id_at: Option<usize>) -> Self {
        let payload_at = bytes.len() - payload_bytes;
        Self { bytes, id_at, payload_at }
    }
}

/// The sending end.
pub(crate) struct Sender {
    tally: Arc<Tally>,
    outbox: Arc<Outbox>,
    /// One per stream.
    frames: Vec<Frame>,
    /// Whether a message that is done with lets the next one of its stream go.
    closed_loop: bool,
    /// The upper half of its frame ids, drawn by chance; the lower half counts.
    id_prefix: u64,
    id_counter: AtomicU64,
}

impl Sender {
    /// Sends through the outbox of an open connection.
    pub(crate) fn new(
        tally: &Arc<Tally>,
        outbox: Arc<Outbox>,
        frames: Vec<Frame>,
        closed_loop: bool,
    ) -> Arc<Self> {
        let mut prefix = [0; 8];
        aws_lc_rs::rand::fill(&mut prefix).expect("the generator was seeded");
        Arc::new(Self {
            tally: tally.clone(),
            outbox,
            frames,
            closed_loop,
            id_prefix: u64::from_le_bytes(prefix),
            id_counter: AtomicU64::new(0),
        })
    }

    /// Sends the next message of each of these streams, in one batch.
    pub(crate) fn send(&self, streams: impl ExactSizeIterator<Item = usize>) {
        self.tally.sent.fetch_add(streams.len() as u64, Relaxed);
        self.outbox.push(|batch| streams.for_each(|stream| self.put(stream, batch)));
    }

    /// Sends a message of the first stream that carries the time it was due.
    pub(crate) fn send_stamped(&self, due: u64) {
        self.tally.sent.fetch_add(1, Relaxed);
        self.outbox.push(|batch| {
            let payload_at = batch.len() + self.frames[0].payload_at;
            self.put(0, batch);
            batch[payload_at..payload_at + STAMP_BYTES].copy_from_slice(&due.to_le_bytes());
        });
    }

    /// These streams' messages are done with.
    pub(crate) fn completed(&self, streams: impl ExactSizeIterator<Item = usize>) {
        self.tally.completed.fetch_add(streams.len() as u64, Relaxed);
        if self.closed_loop && streams.len() > 0 && !self.tally.stopping.load(Relaxed) {
            self.send(streams);
        }
    }

    fn put(&self, stream: usize, batch: &mut Vec<u8>) {
        let frame = &self.frames[stream];
        let start = batch.len();
        batch.extend_from_slice(&frame.bytes);
        if let Some(id_at) = frame.id_at {
            let id = &mut batch[start + id_at..start + id_at + 16];
            let count = self.id_counter.fetch_add(1, Relaxed);
            id[..8].copy_from_slice(&self.id_prefix.to_le_bytes());
            id[8..].copy_from_slice(&count.to_le_bytes());
        }
    }
}

/// The receiving end's account of what arrives.
pub(crate) struct Arrivals {
    tally: Arc<Tally>,
    /// Whom an arrival completes a message of; `None` where an answer does that.
    completes: Option<Arc<Sender>>,
    /// Whether the payloads carry the time they were due.
    stamped: bool,
    batch: usize,
}

impl Arrivals {
    /// Counts for this run.
    pub(crate) fn new(tally: &Arc<Tally>, completes: Option<Arc<Sender>>, stamped: bool) -> Self {
        Self { tally: tally.clone(), completes, stamped, batch: 0 }
    }

    /// One message.
    pub(crate) fn arrived(&mut self, payload: &[u8]) {
        self.batch += 1;
        if self.stamped
            && let Some(due) = payload.first_chunk::<STAMP_BYTES>()
        {
            let due = u64::from_le_bytes(*due);
            if due >= self.tally.latencies_from.load(Relaxed) {
                let latency = self.tally.now().saturating_sub(due);
                self.tally
                    .latencies
                    .lock()
                    .expect("nothing panics while it holds the lock")
                    .push(latency);
            }
        }
    }

    /// All that one read brought has been handed over: the next messages go in one batch.
    pub(crate) fn end_of_batch(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        self.tally.arrived.fetch_add(batch as u64, Relaxed);
        if let Some(sender) = &self.completes {
            sender.completed(std::iter::repeat_n(0, batch));
        }
    }
}
