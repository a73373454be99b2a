//! overload: what is the most the relay takes, and what does it do when it is offered three times
//! as much?

use std::sync::Arc;
use std::time::Instant;

use super::crew::{self, Crew};
use super::measure::{self, Load, Span, millis_since};
use super::{Failure, Stage};
use crate::latency::{millis, rounded};
use crate::plan::Pace;
use crate::progress::Progress;
use crate::recorder::Window;
use crate::run::{Phase, Run, Totals};
use crate::topology::Topology;

/// What is offered, as a multiple of the peak.
const FACTOR: f64 = 3.0;

pub(crate) async fn run(stage: &mut Stage<'_>) -> Result<(), Failure> {
    let plan = stage.plan;
    let topology = Topology::pairs(plan.clients, plan.conversations);
    let clients = plan.clients as usize;
    let set_up = Instant::now();
    let enrolled = stage.prepare(crew::enroll(&stage.relay, &topology, clients)).await?;
    stage.report.setup_ms = millis_since(set_up);

    let lanes = topology.recipients.len();
    let run = Arc::new(Run::new(plan.kind, plan.payload_bytes, lanes, clients, u64::MAX, true));
    let mut crew = Crew::new(&topology);
    crew.start_all(&run, &stage.relay, &topology, enrolled);

    let progress = Progress::watching("overload", run.clone());
    let span = Span::begin(stage.spawned.as_ref());
    let recorder = stage.recorder(std::slice::from_ref(&run), Window::Other);
    let load = Load::begin(&run, &topology, plan.pace, stage.spawned.as_ref());
    stage.pause(plan.duration).await;
    let peak = load.end(&run, stage.spawned.as_ref()).await?;
    let peak_per_s = peak.accepted as f64 / peak.spent.seconds;
    measure::quiet(&run).await;

    recorder.enter(Window::Other, "three times as much");
    let before = [&run.totals.accepted, &run.totals.shown].map(Totals::get);
    let offered = (peak_per_s * FACTOR).max(1.0);
    let load = Load::begin(&run, &topology, Pace::Rate(offered), stage.spawned.as_ref());
    stage.pause(plan.duration).await;
    let mut loaded = load.end(&run, stage.spawned.as_ref()).await?;
    recorder.enter(Window::Other, "over");
    let quiet = measure::quiet(&run).await;
    stage.report.quiet_ms = Some(millis(quiet));
    let spent = span.end(stage.spawned.as_ref());
    drop(progress);
    (loaded.accepted, loaded.shown) = (loaded.accepted - before[0], loaded.shown - before[1]);
    let goodput = loaded.accepted as f64 / loaded.spent.seconds;
    let figures = &mut stage.report.overload;
    figures.peak_per_s = Some(rounded(peak_per_s, 1));
    figures.offered_per_s = Some(rounded(offered, 1));
    figures.goodput_percent = (peak_per_s > 0.0).then(|| rounded(goodput / peak_per_s * 100.0, 1));
    measure::record_timeline(&mut stage.report, recorder.end());
    measure::conservation(stage).await?;
    run.enter(Phase::Stop);
    measure::record(&mut stage.report, &[run], crew.judge().await, &loaded, &spent);
    Ok(())
}
