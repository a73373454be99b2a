//! What a node of a data centre counts of its bus. On a supernode all of it stays at zero.

use std::sync::atomic::Ordering;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use super::BusTotals;
use super::declaring::Declaring;

pub(super) struct BusCounts {
    connected: Gauge,
    gaps: Counter,
    stale_reads: Counter,
    claims: Counter,
    purges: Counter,
    repeated: Counter,
    given_up: Counter,
    streams_full: Gauge,
}

impl BusCounts {
    pub(super) fn new(new: &mut Declaring) -> Self {
        Self {
            connected: new.gauge("bus_connected", "1 while a node has its bus"),
            gaps: new.counter("bus_gaps", "Times that pushes may have been missed"),
            stale_reads: new.counter("bus_stale_reads", "Answers of replicas that were behind"),
            claims: new.counter("bus_claims", "Claims of mailboxes stored"),
            purges: new.counter("bus_purges", "Purges of what is acknowledged or over"),
            repeated: new.counter("bus_publications_repeated", "Publications tried once more"),
            given_up: new.counter("bus_publications_given_up", "Publications without an answer"),
            streams_full: new.gauge("bus_streams_full", "Streams that take no more posts"),
        }
    }

    pub(super) fn set(&self, totals: BusTotals) {
        let set = |counter: &Counter, to| counter.inner().store(to, Ordering::Relaxed);
        self.connected.set(totals.connected.into());
        set(&self.gaps, totals.gaps);
        set(&self.stale_reads, totals.stale_reads);
        set(&self.claims, totals.claims);
        set(&self.purges, totals.purges);
        set(&self.repeated, totals.repeated);
        set(&self.given_up, totals.given_up);
        self.streams_full.set(totals.streams_full.into());
    }
}
