//! The report of a run. This struct is the one truth: `report.schema.json` is generated from it and
//! `--fail-if` knows its numbers by their names here. A number that a scenario does not measure is
//! `null`, never absent.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::checker::Verdict;
use crate::cli::{Kind, Scenario, Transport};
use crate::latency::Percentiles;
use crate::machine::Machine;
use crate::timeline::{Timeline, Trend};

mod figures;
mod migration;

pub(crate) use figures::{
    ClusterFaults, Failure, Groups, Others, Overload, Reaped, SlowReaders, Stalled, Storm,
    Terminated,
};
pub(crate) use migration::{Crashed, Crossed, Migration, Noticed};

/// The version of the report's keys. Higher when a key changes its meaning or goes.
pub(crate) const REPORT_VERSION: u32 = 1;

/// What one run of valise-load measured. Units are in the names: `_us`, `_ms`, `_s`, `_bytes`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Report {
    /// The version of these keys.
    pub(crate) report_version: u32,
    /// The version of the load harness.
    pub(crate) valise_load_version: String,
    /// The version the relay gives itself, where the relay was spawned here; else empty.
    pub(crate) relay_version: String,
    /// The command line, as it was given.
    pub(crate) command_line: Vec<String>,
    /// When the run began, in seconds since 1970-01-01 UTC.
    pub(crate) started_at_unix_s: u64,
    /// Whether Ctrl-C ended it early.
    pub(crate) interrupted: bool,
    /// Where it ran.
    pub(crate) machine: Machine,

    /// The name a scenario file gave it, or that of the scenario.
    pub(crate) name: String,
    /// How many processes' reports were merged into this one; 0 for one that was not merged.
    pub(crate) merged_from: u32,
    /// What was done.
    pub(crate) scenario: Scenario,
    /// How packets travelled inside TLS.
    pub(crate) transport: Transport,
    /// What was sent.
    pub(crate) kind: Kind,
    /// Clients.
    pub(crate) clients: u32,
    /// Nodes of the data centre that was spawned; 0 for a supernode.
    #[serde(default)]
    pub(crate) nodes: u32,
    /// Conversations of each sender with each recipient; in a fan-out, recipients of each post.
    pub(crate) conversations: u32,
    /// Open model: frames per second that were intended; `null` in a closed model.
    pub(crate) rate_per_s: Option<f64>,
    /// Closed model: frames in flight per sender; `null` in an open model.
    pub(crate) window: Option<u32>,
    /// Bytes of each payload.
    pub(crate) payload_bytes: u64,
    /// The limits raised for the spawned relay: key of its configuration to value. Limiters are
    /// never bypassed for loopback.
    pub(crate) raised_limits: BTreeMap<String, u64>,

    /// Connecting, joining, attaching and exchanging capabilities, in milliseconds.
    pub(crate) setup_ms: Option<f64>,
    /// How long frames were sent, in seconds.
    pub(crate) load_s: Option<f64>,
    /// From the last new frame until nothing moved any more, in milliseconds.
    pub(crate) quiet_ms: Option<f64>,

    /// Signals that reached nobody: allowed.
    pub(crate) signals_dropped: u64,
    /// Posts repeated with the same frame id.
    pub(crate) retries: u64,
    /// Frames of the open model that were not sent, because too many waited already.
    pub(crate) not_sent: u64,
    /// Connections that were opened again.
    pub(crate) reconnects: u64,
    /// Frames accepted per second, per target.
    pub(crate) accepted_per_s: Option<f64>,
    /// Frames shown per second.
    pub(crate) shown_per_s: Option<f64>,
    /// Payload shown, in millions of bytes per second.
    pub(crate) shown_mb_per_s: Option<f64>,
    /// What was refused or broke, and how often, by its name.
    pub(crate) errors: BTreeMap<String, u64>,

    /// Whether every promise was kept, frame by frame.
    #[serde(flatten)]
    pub(crate) verdict: Verdict,
    /// The relay's own count of its frames, where the relay was spawned here.
    pub(crate) conservation: Conservation,

    /// The headline: of `delivered`, or of `accepted` where nothing was delivered under load.
    #[serde(flatten)]
    pub(crate) headline: Headline,
    /// From the intended post to its outcome.
    pub(crate) accepted_latency: Percentiles,
    /// From the intended post until the recipient's application showed it.
    pub(crate) delivered_latency: Percentiles,

    /// CPU time of the relay until the last frame was shown, in seconds.
    pub(crate) server_cpu_s: Option<f64>,
    /// CPU of the relay under load, in percent of one core.
    pub(crate) server_cpu_percent: Option<f64>,
    /// CPU time of the relay per frame (shown, or accepted where none were shown), in microseconds.
    pub(crate) server_cpu_us_per_frame: Option<f64>,
    /// CPU time of the NATS servers per frame, in microseconds; `null` under a supernode.
    #[serde(default)]
    pub(crate) bus_cpu_us_per_frame: Option<f64>,
    /// Resident memory of the relay at the end, in bytes.
    pub(crate) server_rss_bytes: Option<u64>,
    /// The most resident memory the relay had, in bytes.
    pub(crate) server_rss_peak_bytes: Option<u64>,
    /// Bytes the relay wrote to its disk until the last frame was shown.
    pub(crate) server_written_bytes: Option<u64>,

    /// offline: how long the filling took, in seconds.
    pub(crate) fill_s: Option<f64>,
    /// offline: frames accepted per second while their recipients were away.
    pub(crate) fill_accepted_per_s: Option<f64>,
    /// offline: CPU time of the relay per frame accepted, in microseconds.
    pub(crate) fill_server_cpu_us_per_frame: Option<f64>,
    /// offline: bytes written to the disk per byte of payload accepted.
    pub(crate) fill_write_amplification: Option<f64>,
    /// offline: from the first attach until everything was shown, in seconds.
    pub(crate) drain_s: Option<f64>,
    /// offline: frames shown per second while draining.
    pub(crate) drain_shown_per_s: Option<f64>,
    /// offline: CPU time of the relay per frame drained, in microseconds.
    pub(crate) drain_server_cpu_us_per_frame: Option<f64>,

    /// idle: connections attached at the end.
    pub(crate) connections: Option<u64>,
    /// idle: connections opened and attached per second.
    pub(crate) connects_per_s: Option<f64>,
    /// idle: CPU time of the relay per connect and attach, in milliseconds.
    pub(crate) server_cpu_ms_per_connect: Option<f64>,
    /// idle: resident memory of the relay per attached connection, after one message each.
    pub(crate) rss_bytes_per_connection: Option<f64>,
    /// idle: the same before anyone had sent anything.
    pub(crate) rss_bytes_per_silent_connection: Option<f64>,
    /// idle: CPU of the relay while nobody says anything, in percent of one core.
    pub(crate) idle_server_cpu_percent: Option<f64>,

    /// kill: how often the relay was killed.
    pub(crate) kills: u64,
    /// kill: the longest start until the relay printed its address, in milliseconds.
    pub(crate) ready_max_ms: Option<f64>,
    /// kill: the longest start until a client could connect, in milliseconds.
    pub(crate) first_connect_max_ms: Option<f64>,
    /// kill: the longest time from a kill until every client was attached again, in milliseconds.
    pub(crate) recovery_max_ms: Option<f64>,
    /// kill: each restart.
    pub(crate) restarts: Vec<Restart>,

    /// The pairs that kept chatting meanwhile.
    pub(crate) others: Others,
    /// connect-storm, reconnect-storm.
    pub(crate) storm: Storm,
    /// slow-readers.
    pub(crate) slow_readers: SlowReaders,
    /// stalled.
    pub(crate) stalled: Stalled,
    /// groups.
    pub(crate) groups: Groups,
    /// restart.
    pub(crate) terminated: Terminated,
    /// cluster-faults.
    #[serde(default)]
    pub(crate) cluster_faults: ClusterFaults,
    /// migrate.
    #[serde(default)]
    pub(crate) migration: Migration,
    /// overload.
    pub(crate) overload: Overload,

    /// Whether the relay grew.
    pub(crate) trend: Trend,
    /// Second by second.
    pub(crate) timeline: Timeline,
    /// The latencies themselves, so that reports can be merged.
    pub(crate) histograms: Histograms,

    /// Whether the tester itself was the bottleneck, so that the figures say little of the relay.
    pub(crate) tester_is_bottleneck: bool,
    /// The `--fail-if` conditions that held.
    pub(crate) failed_conditions: Vec<String>,
    /// Why the tester was the bottleneck, in words.
    pub(crate) tester_notes: Vec<String>,
    /// The tester's worker threads.
    pub(crate) tester_threads: u64,
    /// CPU of the tester under load, in percent of one core per thread.
    pub(crate) tester_cpu_percent: Option<f64>,
    /// How late the tester noticed that a frame was due, in microseconds; `null` in a closed model.
    pub(crate) send_lag_p99_us: Option<f64>,
}

/// Latencies in nanoseconds: HdrHistogram V2, compressed, base64.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Histograms {
    /// As in `accepted_latency`.
    pub(crate) accepted: String,
    /// As in `delivered_latency`.
    pub(crate) delivered: String,
    /// As in `others.calm`.
    pub(crate) calm: String,
    /// As in `others.during`.
    pub(crate) during: String,
    /// As in `storm.back` or `terminated.back`.
    pub(crate) back: String,
}

/// The latency most people ask for, in microseconds.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Headline {
    /// Half of the frames were at most this slow, in microseconds.
    pub(crate) p50_us: Option<f64>,
    /// 90 of 100 frames, in microseconds.
    pub(crate) p90_us: Option<f64>,
    /// 99 of 100 frames, in microseconds.
    pub(crate) p99_us: Option<f64>,
    /// 999 of 1,000 frames, in microseconds.
    pub(crate) p999_us: Option<f64>,
    /// The slowest frame, in microseconds.
    pub(crate) max_us: Option<f64>,
}

/// One kill -9 and the start after it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Restart {
    /// From the start of the process until it printed its address, in milliseconds.
    pub(crate) ready_ms: f64,
    /// From the start of the process until a client was connected, in milliseconds.
    pub(crate) first_connect_ms: f64,
    /// From the kill until every client was attached again, in milliseconds; `null` if the next
    /// kill came first.
    pub(crate) recovery_ms: Option<f64>,
}

/// accepted + queued at start = acknowledged + expired + discarded + queued, in copies, as the
/// relay counts since its last start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Conservation {
    /// Whether it could be asked for, and held; `null` if it could not.
    pub(crate) holds: Option<bool>,
    /// Found in the store at the start.
    pub(crate) queued_at_start: Option<u64>,
    /// Accepted since.
    pub(crate) accepted: Option<u64>,
    /// Acknowledged by their recipients.
    pub(crate) acknowledged: Option<u64>,
    /// Not fetched in time.
    pub(crate) expired: Option<u64>,
    /// Given up, for any reason.
    pub(crate) discarded: Option<u64>,
    /// Still there.
    pub(crate) queued: Option<u64>,
}

impl Report {
    /// A report in which nothing has been measured yet.
    pub(crate) fn new(machine: Machine) -> Self {
        Self {
            report_version: REPORT_VERSION,
            valise_load_version: env!("CARGO_PKG_VERSION").to_owned(),
            machine,
            ..Self::default()
        }
    }

    /// Whether every promise was kept.
    pub(crate) fn is_clean(&self) -> bool {
        self.verdict.is_clean() && self.conservation.holds != Some(false)
    }
}

impl From<Percentiles> for Headline {
    fn from(percentiles: Percentiles) -> Self {
        let Percentiles { p50_us, p90_us, p99_us, p999_us, max_us, .. } = percentiles;
        Self { p50_us, p90_us, p99_us, p999_us, max_us }
    }
}

#[cfg(test)]
mod tests {
    use std::{env, fs};

    use super::*;

    /// Keys are promises to whoever reads reports: they change only on purpose, together with the
    /// committed schema (`VALISE_LOAD_SCHEMA=write cargo test -p valise-load schema`).
    #[test]
    fn the_committed_schema_is_the_reports() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/report.schema.json");
        let schema = schemars::schema_for!(Report);
        let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        if env::var_os("VALISE_LOAD_SCHEMA").is_some_and(|value| value == "write") {
            fs::write(path, &text).unwrap();
        }
        assert!(fs::read_to_string(path).unwrap() == text, "report.schema.json is not current");
    }
}
