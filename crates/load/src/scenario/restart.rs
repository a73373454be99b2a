//! restart: SIGTERM under load and a new start on the same state. Clients are told, come back by
//! themselves, and nothing is lost. With frames queued for absent recipients, the same store is also
//! started after kill -9, and in the end the recipients come and take everything.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::crew::{self, Crew};
use super::kill::first_connect;
use super::mailboxes::Mailboxes;
use super::measure::{self, Load, Span, millis_since};
use super::{Failure, Stage};
use crate::latency::{self, Percentiles, millis, rounded};
use crate::progress::Progress;
use crate::recorder::{Recorder, Window};
use crate::relay::{RelayError, SpawnedRelay};
use crate::report::Terminated;
use crate::run::{Phase, Run, Totals};
use crate::topology::Topology;

/// How long everyone may take to come back.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn run(stage: &mut Stage<'_>) -> Result<(), Failure> {
    let plan = stage.plan;
    let clients = plan.clients as usize;
    let topology = Topology::ring(plan.clients, plan.conversations);
    let set_up = Instant::now();
    let mut queue = stage.prepare(fill_queue(stage)).await?;
    let enrolled = stage.prepare(crew::enroll(&stage.relay, &topology, clients)).await?;
    stage.report.setup_ms = millis_since(set_up);

    let lanes = topology.recipients.len();
    let run = Arc::new(Run::new(plan.kind, plan.payload_bytes, lanes, clients, u64::MAX, true));
    let mut crew = Crew::new(&topology);
    crew.start_all(&run, &stage.relay, &topology, enrolled);
    let mut runs = vec![run.clone()];
    runs.extend(queue.as_ref().map(|queue| queue.run.clone()));

    let progress = Progress::watching("restart", run.clone());
    let recorder = stage.recorder(&runs, Window::Other);
    let span = Span::begin(stage.spawned.as_ref());
    let load = Load::begin(&run, &topology, plan.pace, stage.spawned.as_ref());
    stage.pause(plan.duration / 2).await;
    let spawned = stage.spawned.take().expect("the plan has a relay of our own");
    let mut spawned = terminate(stage, &run, &recorder, spawned).await?;
    stage.pause(plan.duration / 2).await;
    if queue.is_some() {
        spawned = kill(stage, &run, &recorder, spawned).await?;
    }
    stage.spawned = Some(spawned);
    let loaded = load.end(&run, stage.spawned.as_ref()).await?;
    let quiet = measure::quiet(&run).await;
    stage.report.quiet_ms = Some(millis(quiet));
    let spent = span.end(stage.spawned.as_ref());
    drop(progress);
    if let Some(queue) = &mut queue {
        recorder.enter(Window::Other, "recipients come");
        let draining = Instant::now();
        queue.call_owners().await?;
        let attaching = draining.elapsed();
        let took = attaching + measure::quiet(&queue.run).await;
        stage.report.terminated.queued_frames = Some(Totals::get(&queue.run.totals.accepted));
        stage.report.terminated.drain_queue_s = Some(rounded(took.as_secs_f64(), 3));
    }
    measure::record_timeline(&mut stage.report, recorder.end());
    measure::conservation(stage).await?;
    for run in &runs {
        run.enter(Phase::Stop);
    }
    let mut verdict = crew.judge().await;
    if let Some(queue) = queue {
        verdict.merge(queue.judge().await);
    }
    measure::record(&mut stage.report, &runs, verdict, &loaded, &spent);
    Ok(())
}

/// Queues what the plan asks for.
async fn fill_queue(stage: &Stage<'_>) -> Result<Option<Mailboxes>, Failure> {
    let (mailboxes, frames) = stage.plan.queue();
    if mailboxes == 0 {
        return Ok(None);
    }
    let relay = stage.relay.after(stage.plan.clients as usize);
    let queue = Mailboxes::open(relay, mailboxes, 1, stage.plan.payload_bytes, frames).await?;
    let progress = Progress::watching("fill", queue.run.clone());
    queue.fill().await;
    drop(progress);
    Ok(Some(queue))
}

/// SIGTERM, a new start, and everyone's return.
async fn terminate(
    stage: &mut Stage<'_>,
    run: &Arc<Run>,
    recorder: &Recorder,
    mut spawned: SpawnedRelay,
) -> Result<SpawnedRelay, Failure> {
    recorder.enter(Window::Other, "SIGTERM");
    run.disrupt();
    let began = Instant::now();
    let restarted = tokio::task::spawn_blocking(move || {
        spawned.terminate()?;
        let drained = began.elapsed();
        spawned.restart()?;
        Ok::<_, RelayError>((spawned, drained))
    });
    let (spawned, drained) = restarted.await.expect("restarting never panics")?;
    let everyone = measure::all_back(run, stage.plan.clients.into(), PATIENCE).await;
    let took = began.elapsed();
    recorder.enter(Window::Other, "all back");
    let back = run.back.whole();
    stage.report.histograms.back = latency::to_text(&back);
    stage.report.terminated = Terminated {
        queued_frames: Some(0),
        told: Some(Totals::get(&run.totals.told)),
        drain_ms: Some(millis(drained)),
        ready_ms: Some(millis(spawned.ready())),
        all_back_ms: everyone.then(|| millis(took)),
        back: Percentiles::of(&back),
        ..Terminated::default()
    };
    Ok(spawned)
}

/// kill -9 and a new start, on the queue.
async fn kill(
    stage: &mut Stage<'_>,
    run: &Arc<Run>,
    recorder: &Recorder,
    mut spawned: SpawnedRelay,
) -> Result<SpawnedRelay, Failure> {
    recorder.enter(Window::Other, "kill -9");
    run.disrupt();
    let restarted = tokio::task::spawn_blocking(move || {
        spawned.kill()?;
        spawned.restart()?;
        Ok::<_, RelayError>(spawned)
    });
    let spawned = restarted.await.expect("restarting never panics")?;
    let connected = first_connect(&stage.relay, spawned.started()).await?;
    stage.report.terminated.kill_ready_ms = Some(millis(spawned.ready()));
    stage.report.terminated.kill_first_connect_ms = Some(millis(connected));
    measure::all_back(run, stage.plan.clients.into(), PATIENCE).await;
    Ok(spawned)
}
