//! one-to-one and fan-out: everyone is attached, and frames flow for some time.

use std::sync::Arc;
use std::time::Instant;

use super::crew::{self, Crew};
use super::measure::{self, Load, Span, millis_since};
use super::{Failure, Stage};
use crate::cli::Scenario;
use crate::latency::millis;
use crate::progress::Progress;
use crate::recorder::Window;
use crate::run::{Phase, Run};
use crate::topology::Topology;

pub(crate) async fn run(stage: &mut Stage<'_>) -> Result<(), Failure> {
    let plan = stage.plan;
    let topology = match plan.scenario {
        Scenario::FanOut => Topology::groups(plan.clients, plan.conversations),
        _ => Topology::pairs(plan.clients, plan.conversations),
    };
    let clients = plan.clients as usize;
    let set_up = Instant::now();
    let enrolled = stage.prepare(crew::enroll(&stage.relay, &topology, clients)).await?;

    let lanes = topology.recipients.len();
    let run = Arc::new(Run::new(plan.kind, plan.payload_bytes, lanes, clients, u64::MAX, true));
    let mut crew = Crew::new(&topology);
    if plan.following {
        stage.prepare(crew.start_travellers(&run, &stage.relay, &topology, enrolled)).await?;
    } else {
        crew.start_all(&run, &stage.relay, &topology, enrolled);
    }
    stage.report.setup_ms = millis_since(set_up);

    let progress = Progress::watching("load", run.clone());
    let span = Span::begin(stage.spawned.as_ref());
    let recorder = stage.recorder(std::slice::from_ref(&run), Window::Calm);
    let load = Load::begin(&run, &topology, plan.pace, stage.spawned.as_ref());
    stage.pause(plan.duration).await;
    let loaded = load.end(&run, stage.spawned.as_ref()).await?;
    let quiet = measure::quiet(&run).await;
    stage.report.quiet_ms = Some(millis(quiet));
    let spent = span.end(stage.spawned.as_ref());
    drop(progress);
    measure::record_timeline(&mut stage.report, recorder.end());
    measure::conservation(stage).await?;
    run.enter(Phase::Stop);
    measure::record(&mut stage.report, &[run], crew.judge().await, &loaded, &spent);
    Ok(())
}
