//! What the relay counts. One prefix, base units, label values from fixed lists: every series
//! exists from the start and their number never depends on who uses the relay. Recording is one
//! relaxed addition.

mod bus;
mod declaring;
mod labels;
mod migration;
mod served;
mod totals;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use valise_proto::{CLIENT_PACKET_NAMES, CloseReason, Reason, SERVER_PACKET_NAMES};

use bus::BusCounts;
use declaring::{Declaring, Labelled};
use labels::{GROUPS, OTHER_ENDS};
use migration::MigrationCounts;

pub use labels::{
    AcceptRefused, ConnectionKind, HttpPath, MoveReason, Reload, ShardState, SignalDrop,
};
pub use migration::Migrating;
pub use totals::{BusTotals, CommitTotals, DiskTotals};

/// Every metric by its exposed name, for the tests and the documents.
pub const DECLARED: &[&str] = &[
    "valise_build_info",
    "valise_connections",
    "valise_connections_opened_total",
    "valise_connections_closed_total",
    "valise_accepts_refused_total",
    "valise_handshakes_total",
    "valise_handshake_seconds",
    "valise_http_requests_total",
    "valise_packets_received_total",
    "valise_packets_sent_total",
    "valise_received_bytes_total",
    "valise_sent_bytes_total",
    "valise_refusals_total",
    "valise_post_outcomes_total",
    "valise_frames_queued_at_start",
    "valise_frames_accepted_total",
    "valise_frames_acknowledged_total",
    "valise_frames_expired_total",
    "valise_frames_queued",
    "valise_frames_repeated_total",
    "valise_frames_delivered_total",
    "valise_frames_spilled_total",
    "valise_frames_never_written_total",
    "valise_signals_delivered_total",
    "valise_signals_dropped_total",
    "valise_attachments",
    "valise_attachments_replaced_total",
    "valise_mailboxes_live",
    "valise_moves_total",
    "valise_nodes_live",
    "valise_partitions",
    "valise_commits_total",
    "valise_commit_steps_total",
    "valise_commit_written_bytes_total",
    "valise_commit_sync_microseconds_total",
    "valise_store_open",
    "valise_store_reopened_total",
    "valise_disk_free_bytes",
    "valise_disk_used_bytes",
    "valise_disk_budget_bytes",
    "valise_disk_refusing",
    "valise_mailbox_quota_bytes",
    "valise_bus_connected",
    "valise_bus_gaps_total",
    "valise_bus_stale_reads_total",
    "valise_bus_claims_total",
    "valise_bus_purges_total",
    "valise_bus_publications_repeated_total",
    "valise_bus_publications_given_up_total",
    "valise_bus_streams_full",
    "valise_migration_shards",
    "valise_migration_importers",
    "valise_migration_entries_exported_total",
    "valise_migration_posts_passed_total",
    "valise_migration_posts_unanswered_total",
    "valise_newer_epochs_claimed_total",
    "valise_reloads_total",
    "valise_certificate_not_after_timestamp_seconds",
    "valise_draining",
];

/// The relay's counts. Clones share them.
#[derive(Clone)]
pub struct Metrics(Arc<(Registry, Counts)>);

struct Counts {
    connections: Vec<(&'static str, Gauge)>,
    connections_opened: Labelled,
    connections_closed: Labelled,
    accepts_refused: Labelled,
    handshakes: Labelled,
    handshake_seconds: Histogram,
    http_requests: Labelled,
    packets_received: Labelled,
    packets_sent: Labelled,
    received_bytes: Counter,
    sent_bytes: Counter,
    refusals: Vec<(&'static str, &'static str, Counter)>,
    post_outcomes: Labelled,
    frames_queued_at_start: Gauge,
    frames_accepted: Counter,
    frames_acknowledged: Counter,
    frames_expired: Counter,
    frames_queued: Gauge,
    frames_repeated: Counter,
    frames_delivered: Counter,
    frames_spilled: Counter,
    frames_never_written: Counter,
    signals_delivered: Counter,
    signals_dropped: Labelled,
    attachments: Gauge,
    attachments_replaced: Counter,
    mailboxes_live: Gauge,
    moves: Labelled,
    nodes_live: Gauge,
    partitions: Gauge,
    commits: Counter,
    commit_steps: Counter,
    commit_written_bytes: Counter,
    commit_sync_microseconds: Counter,
    store_open: Gauge,
    store_reopened: Counter,
    disk_free: Gauge,
    disk_used: Gauge,
    disk_budget: Gauge,
    disk_refusing: Gauge,
    mailbox_quota: Gauge,
    bus: BusCounts,
    migration: MigrationCounts,
    reloads: Labelled,
    certificate_not_after: Gauge,
    draining: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let mut new = Declaring { registry: Registry::with_prefix("valise") };
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        new.registry.register("build", "What runs here", Info::new(version));
        let close_reasons: Vec<&str> =
            CloseReason::ALL.iter().map(|reason| reason.name()).collect();
        let ends = [&close_reasons, OTHER_ENDS].concat();
        let outcomes: Vec<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        let handshake_seconds = Histogram::new(exponential_buckets(0.000_5, 2.0, 14));
        new.registry.register_with_unit(
            "handshake",
            "How long TLS handshakes took, waiting for their turn not included",
            Unit::Seconds,
            handshake_seconds.clone(),
        );
        let counts = Counts {
            connections: new.gauges("connections", "Open now", "kind", ConnectionKind::ALL),
            connections_opened: new.counters(
                "connections_opened",
                "Reached this state",
                "kind",
                ConnectionKind::ALL,
            ),
            connections_closed: new.counters("connections_closed", "Ended", "reason", &ends),
            accepts_refused: new.counters(
                "accepts_refused",
                "Not accepted",
                "reason",
                AcceptRefused::ALL,
            ),
            handshakes: new.counters("handshakes", "TLS handshakes done", "group", GROUPS),
            handshake_seconds,
            http_requests: new.counters("http_requests", "HTTPS requests", "path", HttpPath::ALL),
            packets_received: new.counters("packets_received", "In", "packet", CLIENT_PACKET_NAMES),
            packets_sent: new.counters("packets_sent", "Out", "packet", SERVER_PACKET_NAMES),
            received_bytes: new.bytes("received", "Packet bytes in"),
            sent_bytes: new.bytes("sent", "Packet bytes out"),
            refusals: new.refusals(&outcomes),
            post_outcomes: new.counters("post_outcomes", "Targets decided", "outcome", &outcomes),
            frames_queued_at_start: new.gauge("frames_queued_at_start", "Copies found at start"),
            frames_accepted: new.counter("frames_accepted", "Copies accepted"),
            frames_acknowledged: new.counter("frames_acknowledged", "Copies acknowledged"),
            frames_expired: new.counter("frames_expired", "Copies whose time to live ended"),
            frames_queued: new.gauge("frames_queued", "Copies accepted and not gone"),
            frames_repeated: new.counter("frames_repeated", "Posts of a known frame id"),
            frames_delivered: new.counter("frames_delivered", "Deliveries, repeated ones included"),
            frames_spilled: new
                .counter("frames_spilled", "Copies a live recipient reads from disk"),
            frames_never_written: new
                .counter("frames_never_written", "Copies acknowledged before they were written"),
            signals_delivered: new.counter("signals_delivered", "Signals passed on"),
            signals_dropped: new.counters(
                "signals_dropped",
                "Signals that went nowhere",
                "reason",
                SignalDrop::ALL,
            ),
            attachments: new.gauge("attachments", "Mailboxes served now"),
            attachments_replaced: new.counter("attachments_replaced", "Attached elsewhere"),
            mailboxes_live: new.gauge("mailboxes_live", "Mailboxes in memory"),
            moves: new.counters(
                "moves",
                "Asked to move to another node",
                "reason",
                MoveReason::ALL,
            ),
            nodes_live: new.gauge("nodes_live", "Nodes of the data centre, this one included"),
            partitions: new.gauge("partitions", "Shards that are listened to here"),
            commits: new.counter("commits", "Batches made durable"),
            commit_steps: new.counter("commit_steps", "Appends and removals in them"),
            commit_written_bytes: new.bytes("commit_written", "Payload bytes made durable"),
            commit_sync_microseconds: new
                .counter("commit_sync_microseconds", "Time spent making batches durable"),
            store_open: new.gauge("store_open", "0 while the store is being opened again"),
            store_reopened: new.counter("store_reopened", "Times the store was opened again"),
            disk_free: new.gauge("disk_free_bytes", "Free on the disk"),
            disk_used: new.gauge("disk_used_bytes", "Used of the disk's budget"),
            disk_budget: new.gauge("disk_budget_bytes", "The disk's budget"),
            disk_refusing: new.gauge("disk_refusing", "1 while posts are refused for want of room"),
            mailbox_quota: new.gauge("mailbox_quota_bytes", "What one mailbox may hold now"),
            bus: BusCounts::new(&mut new),
            migration: MigrationCounts::new(&mut new),
            reloads: new.counters("reloads", "Configuration reloads", "result", Reload::ALL),
            certificate_not_after: new
                .gauge("certificate_not_after_timestamp_seconds", "When the certificate ends"),
            draining: new.gauge("draining", "1 from the first moment of a shutdown"),
        };
        Self(Arc::new((new.registry, counts)))
    }

    /// The OpenMetrics text of everything.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.0.0).expect("a string takes everything");
        text
    }

    fn counts(&self) -> &Counts {
        &self.0.1
    }

    /// A connection is of this kind until the guard is dropped.
    pub fn connection(&self, kind: ConnectionKind) -> Counted {
        let gauges = &self.counts().connections;
        let gauge = gauges.iter().find(|(name, _)| *name == kind.name());
        let gauge = gauge.expect("every kind has its gauge").1.clone();
        gauge.inc();
        self.counts().connections_opened.get(kind.name()).inc();
        Counted(gauge)
    }

    /// A connection ended for the reason of this name.
    pub fn connection_ended(&self, reason: &str) {
        self.counts().connections_closed.get(reason).inc();
    }

    /// A connection was not accepted.
    pub fn accept_refused(&self, reason: AcceptRefused) {
        self.counts().accepts_refused.get(reason.name()).inc();
    }

    /// A TLS handshake is done.
    pub fn handshake(&self, group: &str, took: Duration) {
        self.counts().handshakes.get(group).inc();
        self.counts().handshake_seconds.observe(took.as_secs_f64());
    }

    /// An HTTPS request came.
    pub fn http_request(&self, path: HttpPath) {
        self.counts().http_requests.get(path.name()).inc();
    }

    /// A packet of this name came.
    pub fn packet_received(&self, name: &str) {
        self.counts().packets_received.get(name).inc();
    }

    /// A packet of this name is on its way out.
    pub fn packet_sent(&self, name: &str) {
        self.counts().packets_sent.get(name).inc();
    }

    /// So many packet bytes came.
    pub fn bytes_received(&self, bytes: usize) {
        self.counts().received_bytes.inc_by(bytes as u64);
    }

    /// So many packet bytes were written.
    pub fn bytes_sent(&self, bytes: usize) {
        self.counts().sent_bytes.inc_by(bytes as u64);
    }

    /// A request was refused.
    pub fn refusal(&self, packet: &str, reason: Reason) {
        let refusals = &self.counts().refusals;
        let found = refusals.iter().find(|(name, why, _)| *name == packet && *why == reason.name());
        if let Some((_, _, counter)) = found {
            counter.inc();
        }
    }

    /// One target of a post was decided.
    pub fn post_outcome(&self, outcome: Reason) {
        self.counts().post_outcomes.get(outcome.name()).inc();
    }

    /// So many copies were in the store when the relay started.
    pub fn frames_at_start(&self, queued: u64) {
        let queued = i64::try_from(queued).unwrap_or(i64::MAX);
        self.counts().frames_queued_at_start.set(queued);
        self.counts().frames_queued.set(queued);
    }

    /// So many copies were accepted.
    pub fn frames_accepted(&self, count: u64) {
        self.counts().frames_accepted.inc_by(count);
        self.counts().frames_queued.inc_by(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// So many copies were acknowledged.
    pub fn frames_acknowledged(&self, count: u64) {
        self.counts().frames_acknowledged.inc_by(count);
        self.counts().frames_queued.dec_by(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// So many copies reached the end of their time to live.
    pub fn frames_expired(&self, count: u64) {
        self.counts().frames_expired.inc_by(count);
        self.counts().frames_queued.dec_by(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A frame id was posted again.
    pub fn frame_repeated(&self) {
        self.counts().frames_repeated.inc();
    }

    /// A frame was put into a connection's outbox.
    pub fn frame_delivered(&self) {
        self.counts().frames_delivered.inc();
    }

    /// A frame for a live recipient did not fit into its ring.
    pub fn frame_spilled(&self) {
        self.counts().frames_spilled.inc();
    }

    /// A signal was passed on.
    pub fn signal_delivered(&self) {
        self.counts().signals_delivered.inc();
    }

    /// A signal went nowhere.
    pub fn signal_dropped(&self, reason: SignalDrop) {
        self.counts().signals_dropped.get(reason.name()).inc();
    }

    /// A mailbox was attached elsewhere.
    pub fn attachment_replaced(&self) {
        self.counts().attachments_replaced.inc();
    }

    /// The committer's totals; they only grow.
    pub fn commits(&self, totals: CommitTotals) {
        let counts = self.counts();
        let set = |counter: &Counter, to| counter.inner().store(to, Ordering::Relaxed);
        set(&counts.commits, totals.commits);
        set(&counts.commit_steps, totals.steps);
        set(&counts.commit_written_bytes, totals.written_bytes);
        set(&counts.commit_sync_microseconds, totals.sync_microseconds);
        set(&counts.frames_never_written, totals.never_written);
        set(&counts.store_reopened, totals.reopened);
    }

    /// Whether the store takes what comes.
    pub fn store_open(&self, open: bool) {
        self.counts().store_open.set(open.into());
    }

    /// How it stands with the disk.
    pub fn disk(&self, totals: DiskTotals) {
        let counts = self.counts();
        let set = |gauge: &Gauge, to| gauge.set(i64::try_from(to).unwrap_or(i64::MAX));
        set(&counts.disk_free, totals.free_bytes);
        set(&counts.disk_used, totals.used_bytes);
        set(&counts.disk_budget, totals.budget_bytes);
        set(&counts.mailbox_quota, totals.mailbox_bytes_max);
        counts.disk_refusing.set((!totals.takes).into());
    }

    /// What the bus of a data centre has counted.
    pub fn bus(&self, totals: BusTotals) {
        self.counts().bus.set(totals);
    }

    /// A reload was tried.
    pub fn reload(&self, result: Reload) {
        self.counts().reloads.get(result.name()).inc();
    }

    /// When the certificate ends, in seconds since 1970-01-01.
    pub fn certificate_not_after(&self, unix: i64) {
        self.counts().certificate_not_after.set(unix);
    }

    /// The relay shuts down.
    pub fn draining(&self) {
        self.counts().draining.set(1);
    }
}

/// Counts one thing while it exists.
pub struct Counted(Gauge);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_declared_metric_is_exposed_and_nothing_else() {
        let text = Metrics::new().encode();
        let mut exposed: Vec<String> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .map(|line| {
                let (name, kind) = line.split_once(' ').unwrap();
                match kind {
                    "counter" => format!("{name}_total"),
                    "info" => format!("{name}_info"),
                    _ => name.to_owned(),
                }
            })
            .collect();
        exposed.sort();
        let mut declared: Vec<String> = DECLARED.iter().map(ToString::to_string).collect();
        declared.sort();
        assert_eq!(exposed, declared);
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn the_series_do_not_depend_on_use() {
        let series = |metrics: &Metrics| metrics.encode().lines().count();
        let metrics = Metrics::new();
        let before = series(&metrics);
        metrics.refusal("attach", Reason::NotOwner);
        metrics.connection_ended("idle");
        metrics.handshake("X25519MLKEM768", Duration::from_millis(1));
        assert_eq!(series(&metrics), before);
        let text = metrics.encode();
        assert!(text.contains("valise_refusals_total{packet=\"attach\",reason=\"not_owner\"} 1"));
        assert!(text.contains("valise_connections_closed_total{reason=\"idle\"} 1"));
    }
}
