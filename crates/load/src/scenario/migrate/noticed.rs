//! What people notice, stretch by stretch: in the calm, while logs are copied, while shards are cut
//! over, and at the data centre afterwards.

use hdrhistogram::Histogram;

use crate::latency::{self, Percentiles};
use crate::pauses::Paused;
use crate::report::Noticed;
use crate::run::Run;
use crate::topology::Topology;

/// The stretches of all migrations of a run.
pub(super) struct Sums {
    calm: Pair,
    copying: Pair,
    cutover: Pair,
    settled: Pair,
}

/// The stretches of one migration.
pub(super) struct Stretches<'a> {
    sums: &'a mut Sums,
    run: &'a Run,
    topology: &'a Topology,
    period_ns: u64,
}

/// Send pauses and receive gaps.
struct Pair {
    send: Histogram<u64>,
    receive: Histogram<u64>,
}

impl Sums {
    pub(super) fn new() -> Self {
        let pair = || Pair { send: latency::histogram(), receive: latency::histogram() };
        Self { calm: pair(), copying: pair(), cutover: pair(), settled: pair() }
    }

    /// In the calm, while copying, in the cutover, and at the data centre.
    pub(super) fn noticed(&self) -> [Noticed; 4] {
        [&self.calm, &self.copying, &self.cutover, &self.settled].map(|pair| Noticed {
            send_pause: Percentiles::of(&pair.send),
            receive_gap: Percentiles::of(&pair.receive),
        })
    }
}

impl Pair {
    fn add(&mut self, paused: &Paused) {
        latency::add(&mut self.send, &paused.send);
        latency::add(&mut self.receive, &paused.receive);
    }
}

impl<'a> Stretches<'a> {
    /// The first one begins. `rate` is over all senders, in frames a second.
    pub(super) fn begin(
        sums: &'a mut Sums,
        run: &'a Run,
        topology: &'a Topology,
        rate: f64,
    ) -> Self {
        let period_ns = (topology.conversations.len() as f64 / rate * 1e9) as u64;
        let stretches = Self { sums, run, topology, period_ns };
        stretches.cut();
        stretches
    }

    /// What has been does not count.
    pub(super) fn skip(&self) {
        self.cut();
    }

    pub(super) fn end_calm(&mut self) {
        let paused = self.cut();
        self.sums.calm.add(&paused);
    }

    pub(super) fn end_copying(&mut self) {
        let paused = self.cut();
        self.sums.copying.add(&paused);
    }

    pub(super) fn end_cutover(&mut self) {
        let paused = self.cut();
        self.sums.cutover.add(&paused);
    }

    pub(super) fn end_settled(&mut self) {
        let paused = self.cut();
        self.sums.settled.add(&paused);
    }

    fn cut(&self) -> Paused {
        let waiting = self.topology.conversations.iter().filter_map(|conversation| {
            let begun = &self.run.under_way[conversation.lanes.start];
            let begun_ns = begun.load(std::sync::atomic::Ordering::Relaxed);
            (begun_ns > 0).then_some((conversation.sender as usize, begun_ns))
        });
        self.run.pauses.cut(self.run.now_ns(), self.period_ns, waiting)
    }
}
