//! What every scenario measures: the time under load, the quiet after it, what it cost, and the
//! judgement.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::{Failure, Stage};
use crate::checker::Verdict;
use crate::cli::Kind;
use crate::latency::{self, Percentiles, millis, rounded};
use crate::pacer::{self, Schedule};
use crate::plan::Pace;
use crate::process::Usage;
use crate::recorder::Recorded;
use crate::relay::SpawnedRelay;
use crate::report::{Conservation, Others, Report};
use crate::run::{LoadPace, Phase, Run, Totals};
use crate::scrape;
use crate::topology::Topology;

/// Nothing has moved for so long: it will not any more.
const STILL: Duration = Duration::from_secs(10);

/// The longest wait for stillness.
const QUIET_MAX: Duration = Duration::from_secs(60);

/// Everything is shown; whatever should not have come may come until then.
const AFTERMATH: Duration = Duration::from_millis(300);

/// How long the last acknowledgements may take to be counted.
const COUNTS_WAIT: Duration = Duration::from_secs(30);

/// The tester is the bottleneck if its threads are busier than this, in percent.
const BUSY_PERCENT: f64 = 90.0;

/// The tester is the bottleneck if it notices one frame in a hundred later than this, in
/// microseconds.
const LATE_US: f64 = 5_000.0;

/// The same for connections, whose opening takes milliseconds anyway.
const START_LATE_US: f64 = 100_000.0;

/// What was used from here on.
pub(crate) struct Span {
    server: Option<Usage>,
    bus: Option<Usage>,
    own: Usage,
    began: Instant,
}

/// What was used in a span.
pub(crate) struct Spent {
    pub(crate) server: Option<Usage>,
    /// Of the NATS servers.
    pub(crate) bus: Option<Usage>,
    pub(crate) own: Usage,
    pub(crate) seconds: f64,
}

impl Span {
    pub(crate) fn begin(spawned: Option<&SpawnedRelay>) -> Self {
        Self {
            server: spawned.map(SpawnedRelay::usage),
            bus: spawned.and_then(SpawnedRelay::bus_usage),
            own: Usage::of(std::process::id()).unwrap_or_default(),
            began: Instant::now(),
        }
    }

    pub(crate) fn end(&self, spawned: Option<&SpawnedRelay>) -> Spent {
        let now = Self::begin(spawned);
        let server = now.server.zip(self.server).map(|(now, then)| now.since(&then));
        let bus = now.bus.zip(self.bus).map(|(now, then)| now.since(&then));
        let seconds = (now.began - self.began).as_secs_f64();
        Spent { server, bus, own: now.own.since(&self.own), seconds }
    }
}

impl Spent {
    /// The relay's CPU time in microseconds for each of so many things.
    pub(crate) fn server_cpu_us_per(&self, count: u64) -> Option<f64> {
        cpu_us_per(self.server, count)
    }
}

fn cpu_us_per(usage: Option<Usage>, count: u64) -> Option<f64> {
    let usage = usage?;
    (count > 0).then(|| rounded(usage.cpu_s * 1e6 / count as f64, 2))
}

/// The time in which new frames are sent.
pub(crate) struct Load {
    span: Span,
    pacer: Option<JoinHandle<std::io::Result<()>>>,
}

/// What had been done when the last new frame was sent, and what it had cost until then.
pub(crate) struct Loaded {
    pub(crate) accepted: u64,
    pub(crate) shown: u64,
    pub(crate) spent: Spent,
}

impl Load {
    /// Lets the senders send.
    pub(crate) fn begin(
        run: &Arc<Run>,
        topology: &Topology,
        pace: Pace,
        spawned: Option<&SpawnedRelay>,
    ) -> Self {
        let span = Span::begin(spawned);
        let pacer = match pace {
            Pace::Rate(rate) => Some(Self::pace(run, topology, rate)),
            Pace::Window(window) => {
                run.enter(Phase::Load(LoadPace::Window(window as usize)));
                None
            }
        };
        Self { span, pacer }
    }

    fn pace(run: &Arc<Run>, topology: &Topology, rate: f64) -> JoinHandle<std::io::Result<()>> {
        let senders: Vec<Arc<Notify>> = topology
            .conversations
            .chunk_by(|a, b| a.sender == b.sender)
            .map(|own| run.due[own[0].sender as usize].clone())
            .collect();
        let schedule = Schedule {
            start_ns: run.now_ns(),
            interval_ns: 1e9 / rate,
            senders: senders.len() as u64,
        };
        run.enter(Phase::Load(LoadPace::Schedule(schedule)));
        let clock = run.clock;
        tokio::spawn(async move { pacer::pace(schedule, clock, &senders).await })
    }

    /// Nothing new from now on.
    ///
    /// # Errors
    /// If the pacer had failed, so that nothing was sent.
    pub(crate) async fn end(
        self,
        run: &Run,
        spawned: Option<&SpawnedRelay>,
    ) -> Result<Loaded, Failure> {
        run.enter(Phase::Quiet);
        let loaded = Loaded {
            accepted: Totals::get(&run.totals.accepted),
            shown: Totals::get(&run.totals.shown),
            spent: self.span.end(spawned),
        };
        if let Some(pacer) = self.pacer {
            pacer.abort();
            if let Ok(Err(error)) = pacer.await {
                return Err(error.into());
            }
        }
        Ok(loaded)
    }
}

/// Waits until every outcome is known and everything accepted is shown, or nothing moves any more.
/// How long that took.
pub(crate) async fn quiet(run: &Run) -> Duration {
    let began = Instant::now();
    let state = || {
        let totals = &run.totals;
        [&totals.accepted, &totals.refused, &totals.shown].map(Totals::get)
    };
    let (mut last, mut moved) = (state(), Instant::now());
    while began.elapsed() < QUIET_MAX {
        let totals = &run.totals;
        let complete = match run.kind {
            Kind::Post => {
                totals.unresolved() == 0
                    && Totals::get(&totals.shown) >= Totals::get(&totals.accepted)
            }
            // Nobody knows how many signals there are to wait for.
            Kind::Signal => moved.elapsed() >= AFTERMATH,
        };
        if complete || moved.elapsed() >= STILL {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        let now = state();
        if now != last {
            (last, moved) = (now, Instant::now());
        }
    }
    let took = moved - began;
    tokio::time::sleep(AFTERMATH).await;
    took
}

/// Waits until so many clients of the run have come back from the last disruption.
pub(crate) async fn all_back(run: &Run, clients: u64, patience: Duration) -> bool {
    let until = Instant::now() + patience;
    while Totals::get(&run.totals.back) < clients {
        if Instant::now() > until {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    true
}

/// What a recorder saw.
pub(crate) fn record_timeline(report: &mut Report, recorded: Recorded) {
    report.trend = recorded.timeline.trend();
    report.timeline = recorded.timeline;
    if !recorded.during.is_empty() {
        let (calm, during) = (&recorded.calm, &recorded.during);
        let others = &mut report.others;
        (others.calm, others.during) = (Percentiles::of(calm), Percentiles::of(during));
        others.p99_ratio = ratio(others);
        report.histograms.calm = latency::to_text(calm);
        report.histograms.during = latency::to_text(during);
    }
}

/// How much slower the others were meanwhile.
pub(crate) fn ratio(others: &Others) -> Option<f64> {
    let calm = others.calm.p99_us.filter(|calm| *calm > 0.0)?;
    Some(rounded(others.during.p99_us? / calm, 2))
}

/// Asks the relay for its counts until they show nothing queued, or time is over.
pub(crate) async fn conservation(stage: &mut Stage<'_>) -> Result<(), Failure> {
    let Some(spawned) = &mut stage.spawned else { return Ok(()) };
    spawned.check()?;
    if spawned.centre().is_some() {
        // A frame is accepted at one node and acknowledged at another, and expires at neither.
        return Ok(());
    }
    let until = Instant::now() + COUNTS_WAIT;
    loop {
        let counts = Conservation::of(&scrape::get(spawned.admin(), "/metrics").await?);
        stage.report.conservation = counts;
        if counts.holds == Some(true) && counts.queued == Some(0) || Instant::now() > until {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The figures every scenario with frames has. The first run's latencies are the ones that count;
/// `spent` goes on until the last frame was shown.
pub(crate) fn record(
    report: &mut Report,
    runs: &[Arc<Run>],
    verdict: Verdict,
    loaded: &Loaded,
    spent: &Spent,
) {
    let run = runs.first().expect("a scenario has a run");
    let seconds = loaded.spent.seconds;
    let per_s = |count: u64| rounded(count as f64 / seconds, 1);
    report.load_s = Some(rounded(seconds, 3));
    report.accepted_per_s = Some(per_s(loaded.accepted));
    report.shown_per_s = Some(per_s(loaded.shown));
    let bytes = loaded.shown as f64 * run.payload_bytes as f64;
    report.shown_mb_per_s = Some(rounded(bytes / seconds / 1e6, 3));
    report.accepted_latency = run.accepted_latency.percentiles();
    report.delivered_latency = run.delivered_latency.percentiles();
    report.histograms.accepted = latency::to_text(&run.accepted_latency.whole());
    report.histograms.delivered = latency::to_text(&run.delivered_latency.whole());
    let delivered = report.delivered_latency.count > 0;
    report.headline =
        if delivered { report.delivered_latency } else { report.accepted_latency }.into();
    record_costs(report, run, &verdict, loaded, spent);

    if run.kind == Kind::Signal {
        report.signals_dropped = verdict.sent.saturating_sub(verdict.shown);
    }
    for run in runs {
        report.retries += Totals::get(&run.totals.retries);
        report.not_sent += Totals::get(&run.totals.not_sent);
        report.reconnects += Totals::get(&run.totals.reconnects);
        for (name, count) in run.errors() {
            *report.errors.entry(name).or_default() += count;
        }
    }
    report.verdict = verdict;
}

fn record_costs(report: &mut Report, run: &Run, verdict: &Verdict, loaded: &Loaded, spent: &Spent) {
    let percent = |usage: &Usage| usage.cpu_s / loaded.spent.seconds * 100.0;
    if let (Some(server), Some(under_load)) = (spent.server, loaded.spent.server) {
        report.server_cpu_s = Some(rounded(server.cpu_s, 2));
        report.server_cpu_percent = Some(rounded(percent(&under_load), 1));
        report.server_rss_bytes = Some(server.rss_bytes);
        report.server_rss_peak_bytes = Some(server.rss_peak_bytes);
        report.server_written_bytes = Some(server.written_bytes);
    }
    let frames = if verdict.shown > 0 { verdict.shown } else { verdict.accepted };
    report.server_cpu_us_per_frame = spent.server_cpu_us_per(frames);
    report.bus_cpu_us_per_frame = cpu_us_per(spent.bus, frames);
    let busy = percent(&loaded.spent.own) / report.tester_threads as f64;
    report.tester_cpu_percent = Some(rounded(busy, 1));
    report.send_lag_p99_us = run.send_lag.percentiles().p99_us;
    let notes = bottleneck(busy, report.send_lag_p99_us, report.storm.start_lag_p99_us);
    report.tester_notes = notes;
    report.tester_is_bottleneck = !report.tester_notes.is_empty();
}

/// Why the tester was the bottleneck, if it was: how busy its threads were in percent, and how late
/// it noticed one due frame in a hundred, and one due connection in a hundred, in microseconds.
fn bottleneck(busy: f64, send_lag: Option<f64>, start_lag: Option<f64>) -> Vec<String> {
    let mut notes = Vec::new();
    if busy > BUSY_PERCENT {
        notes.push(format!("its threads were {} % busy", rounded(busy, 0)));
    }
    for (what, lag, late_us) in [
        ("noticed one due frame", send_lag, LATE_US),
        ("began one connection", start_lag, START_LATE_US),
    ] {
        if let Some(lag) = lag.filter(|lag| *lag > late_us) {
            let ms = rounded(lag / 1_000.0, 1);
            notes.push(format!("it {what} in a hundred {ms} ms late or later"));
        }
    }
    notes
}

/// By how much memory grew for each of so many things.
pub(crate) fn growth_per(after: Option<u64>, before: Option<u64>, count: u64) -> Option<f64> {
    let growth = after? as f64 - before? as f64;
    (count > 0).then(|| rounded(growth / count as f64, 1))
}

/// Milliseconds since then, for a report.
pub(crate) fn millis_since(began: Instant) -> Option<f64> {
    Some(millis(began.elapsed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tester_that_is_busy_or_late_says_so() {
        assert_eq!(bottleneck(90.0, Some(5_000.0), None), [""; 0]);
        assert_eq!(bottleneck(95.4, None, None), ["its threads were 95 % busy"]);
        let late = bottleneck(10.0, Some(7_120.0), Some(150_000.0));
        assert_eq!(late[0], "it noticed one due frame in a hundred 7.1 ms late or later");
        assert_eq!(late[1], "it began one connection in a hundred 150 ms late or later");
    }

    #[test]
    fn growth_needs_something_that_grew() {
        assert_eq!(growth_per(Some(3_000), Some(1_000), 10), Some(200.0));
        assert_eq!(growth_per(Some(1_000), Some(3_000), 10), Some(-200.0));
        assert_eq!(growth_per(Some(1), Some(1), 0), None);
        assert_eq!(growth_per(None, Some(1), 1), None);
    }
}
