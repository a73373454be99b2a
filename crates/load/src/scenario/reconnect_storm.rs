//! reconnect-storm: many attached clients lose their connections at the same moment and come back
//! within a few seconds, with frames posted to them meanwhile, while others chat.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::chat::Chat;
use super::crew::{self, Crew};
use super::measure::{self, Load, millis_since};
use super::{Failure, Stage};
use crate::account::SOURCES;
use crate::cli::Kind;
use crate::latency::{self, Percentiles, millis};
use crate::plan::Pace;
use crate::recorder::Window;
use crate::run::{Phase, Run, Totals};
use crate::topology::Topology;

/// Frames a second among those who will be cut, so that some are posted to who is away.
const CROWD_PER_S: f64 = 200.0;

/// How long everyone may take to come back.
const PATIENCE: Duration = Duration::from_secs(90);

/// The others still notice for so long after everyone is back.
const AFTERMATH: Duration = Duration::from_secs(1);

pub(crate) async fn run(stage: &mut Stage<'_>) -> Result<(), Failure> {
    let plan = stage.plan;
    let clients = plan.clients as usize;
    let topology = Topology::ring(plan.clients, 1);
    let run = Arc::new(Run::new(Kind::Post, plan.payload_bytes, clients, clients, u64::MAX, false));
    let set_up = Instant::now();
    let crowd = stage.crowd()?;
    let relay = stage.relay.after(plan.others as usize);
    let set_up_crowd = {
        let (relay, run, topology) = (relay, run.clone(), topology.clone());
        crowd.run(async move {
            let enrolled = crew::enroll(&relay, &topology, clients).await?;
            let mut crew = Crew::new(&topology);
            crew.start_all(&run, &relay, &topology, enrolled);
            let load = Load::begin(&run, &topology, Pace::Rate(CROWD_PER_S), None);
            Ok::<_, Failure>((crew, load))
        })
    };
    let (crew, load) = stage.prepare(set_up_crowd).await?;
    let chat = Chat::begin(stage).await?;
    stage.report.setup_ms = millis_since(set_up);

    let recorder = stage.recorder(&[chat.run.clone(), run.clone()], Window::Other);
    stage.calm(&recorder).await;
    recorder.enter(Window::During, "all cut");
    let cut = Instant::now();
    run.cut(plan.within);
    let everyone = measure::all_back(&run, plan.clients.into(), PATIENCE).await;
    let took = cut.elapsed();
    tokio::time::sleep(AFTERMATH).await;
    recorder.enter(Window::Other, "all back");

    let back = run.back.whole();
    let storm = &mut stage.report.storm;
    storm.within_s = Some(plan.within.as_secs_f64());
    storm.sources = Some(SOURCES.min(clients) as u64);
    storm.attached = Some(Totals::get(&run.totals.back));
    storm.back = Percentiles::of(&back);
    storm.all_back_ms = everyone.then(|| millis(took));
    stage.report.histograms.back = latency::to_text(&back);
    let chatted = chat.end(stage).await?;
    load.end(&run, None).await?;
    measure::quiet(&chatted.run).await;
    measure::quiet(&run).await;
    measure::record_timeline(&mut stage.report, recorder.end());
    measure::conservation(stage).await?;
    run.enter(Phase::Stop);
    let verdict = crew.judge().await;
    chatted.record(stage, &[run], verdict).await;
    Ok(())
}
