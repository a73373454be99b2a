//! The figures that only some scenarios have.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cli::Fault;
use crate::latency::Percentiles;

/// Pairs that kept chatting while something else went on: did they notice?
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Others {
    /// How many clients chatted.
    pub(crate) clients: Option<u64>,
    /// Before it began.
    pub(crate) calm: Percentiles,
    /// While it went on.
    pub(crate) during: Percentiles,
    /// p99 while it went on, as a multiple of p99 before.
    pub(crate) p99_ratio: Option<f64>,
}

/// connect-storm and reconnect-storm: everyone at once.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Storm {
    /// Over how long the clients spread their first attempt, in seconds.
    pub(crate) within_s: Option<f64>,
    /// Source addresses they shared.
    pub(crate) sources: Option<u64>,
    /// Clients that were attached in the end.
    pub(crate) attached: Option<u64>,
    /// connect-storm: from the intended start of a client until it was attached; reconnect-storm:
    /// from the cut until it was attached again.
    pub(crate) back: Percentiles,
    /// From the beginning of the storm until everyone was attached, in milliseconds; `null` if
    /// somebody never was.
    pub(crate) all_back_ms: Option<f64>,
    /// How late the tester began a connection, in microseconds.
    pub(crate) start_lag_p99_us: Option<f64>,
}

/// cluster-faults: what failed, and how long frames waited for it.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ClusterFaults {
    /// What failed; `null` in other scenarios.
    pub(crate) fault: Option<Fault>,
    /// How often.
    pub(crate) times: Option<u64>,
    /// From the failure (of the network: from its end) until every frame posted before it was
    /// accepted and every client was attached, in milliseconds.
    pub(crate) back_p50_ms: Option<f64>,
    /// The slowest.
    pub(crate) back_max_ms: Option<f64>,
    /// Each failure.
    #[serde(default)]
    pub(crate) failures: Vec<Failure>,
    /// Attaches after the first ones.
    pub(crate) attaches: Option<u64>,
    /// Replicas that were asked and had not seen the claim of an attach yet: each was noticed.
    pub(crate) stale_reads: Option<u64>,
    /// Pushes to the last node.
    pub(crate) pushes: Option<u64>,
    /// Of these, dropped on the way.
    pub(crate) pushes_dropped: Option<u64>,
}

/// One failure.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Failure {
    /// What failed.
    pub(crate) what: String,
    /// How long it took until everyone was served again, in milliseconds; `null` if longer than a
    /// minute.
    pub(crate) back_ms: Option<f64>,
}

/// slow-readers: what each of them makes the relay hold.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct SlowReaders {
    /// How many there were.
    pub(crate) readers: Option<u64>,
    /// Frames that waited for each of them.
    pub(crate) queued_frames: Option<u64>,
    /// Memory of the relay for each of them, connection included, when all had stopped taking
    /// frames, in bytes.
    pub(crate) rss_bytes_per_reader: Option<f64>,
    /// Frames all of them together took while they were slow.
    pub(crate) frames_taken_while_slow: Option<u64>,
    /// How long they took everything that was left once they read as fast as they could, in seconds.
    pub(crate) drain_s: Option<f64>,
}

/// stalled: connections that got stuck on the way, by how far they had come.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Stalled {
    /// How many there were.
    pub(crate) connections: Option<u64>,
    /// Memory of the relay for each of them, in bytes.
    pub(crate) rss_bytes_per_connection: Option<f64>,
    /// TCP, and not a byte.
    pub(crate) no_client_hello: Reaped,
    /// A ClientHello, and no answer to the relay's part of the handshake.
    pub(crate) half_handshake: Reaped,
    /// TLS done, and no `Hello`.
    pub(crate) no_hello: Reaped,
    /// Attached, and silent: not even pings.
    pub(crate) silent: Reaped,
}

/// How long the relay kept connections of one kind.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Reaped {
    /// Opened and stuck as planned.
    pub(crate) opened: Option<u64>,
    /// Of these, closed by the relay while we watched.
    pub(crate) reaped: Option<u64>,
    /// The soonest, in seconds from when it was begun.
    pub(crate) least_s: Option<f64>,
    /// The last, in seconds from when it was begun.
    pub(crate) most_s: Option<f64>,
}

/// groups: one post for a message to everyone.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Groups {
    /// How many groups.
    pub(crate) groups: Option<u64>,
    /// Members of each.
    pub(crate) members: Option<u64>,
    /// Messages sent.
    pub(crate) messages: Option<u64>,
    /// Posts for each message: 1, and the repetitions.
    pub(crate) posts_per_message: Option<f64>,
    /// How often a member went away, and came back later.
    pub(crate) absences: Option<u64>,
}

/// restart: SIGTERM under load, and the way back.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Terminated {
    /// Frames that waited in the store at that time, for recipients that were away.
    pub(crate) queued_frames: Option<u64>,
    /// Clients that were told `Restarting`.
    pub(crate) told: Option<u64>,
    /// From SIGTERM until the process had ended, in milliseconds.
    pub(crate) drain_ms: Option<f64>,
    /// From the start of the process until it printed its address, in milliseconds.
    pub(crate) ready_ms: Option<f64>,
    /// From SIGTERM until every client was attached again, in milliseconds; `null` if somebody
    /// never was.
    pub(crate) all_back_ms: Option<f64>,
    /// From SIGTERM until a client was attached again.
    pub(crate) back: Percentiles,
    /// Then kill -9: from the start after it until it printed its address, in milliseconds. Only
    /// with frames queued.
    pub(crate) kill_ready_ms: Option<f64>,
    /// Then kill -9: from the start after it until a client could connect, in milliseconds.
    pub(crate) kill_first_connect_ms: Option<f64>,
    /// Taking the queue in the end, in seconds.
    pub(crate) drain_queue_s: Option<f64>,
}

/// overload: more than the relay can do.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Overload {
    /// Frames accepted a second with as many in flight as it took best.
    pub(crate) peak_per_s: Option<f64>,
    /// Frames offered a second after that.
    pub(crate) offered_per_s: Option<f64>,
    /// Frames accepted a second meanwhile, in percent of the peak.
    pub(crate) goodput_percent: Option<f64>,
}
