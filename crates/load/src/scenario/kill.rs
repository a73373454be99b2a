//! kill: the relay is killed and started again under load, at random moments. Clients come back by
//! themselves and post again what has no outcome, with the same frame ids. Half of the kills come
//! while clients are still away, so that frames for them are on disk and nowhere else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use valise_client::{connect, random};

use super::crew::{self, Crew, Relay};
use super::measure::{self, Load, Span, millis_since};
use super::{Failure, Stage};
use crate::latency::millis;
use crate::progress::Progress;
use crate::recorder::{Recorder, Window};
use crate::relay::{RelayError, SpawnedRelay};
use crate::report::{Report, Restart};
use crate::run::{Phase, Run, Totals};
use crate::topology::Topology;

/// After a restart some clients are away for about so long.
const AWAY: Duration = Duration::from_millis(300);

/// How long a restarted relay may take until it can be connected to.
const CONNECT_WAIT: Duration = Duration::from_secs(60);

/// How long all clients may take to come back after the last kill.
const RECOVERY_WAIT: Duration = Duration::from_secs(30);

pub(crate) async fn run(stage: &mut Stage<'_>) -> Result<(), Failure> {
    let plan = stage.plan;
    let clients = plan.clients as usize;
    let topology = Topology::ring(plan.clients, plan.conversations);
    let set_up = Instant::now();
    let enrolled = stage.prepare(crew::enroll(&stage.relay, &topology, clients)).await?;
    stage.report.setup_ms = millis_since(set_up);

    let lanes = topology.recipients.len();
    let run = Arc::new(Run::new(plan.kind, plan.payload_bytes, lanes, clients, u64::MAX, true));
    let mut crew = Crew::new(&topology);
    crew.start_all(&run, &stage.relay, &topology, enrolled);

    let progress = Progress::watching("kill", run.clone());
    let span = Span::begin(stage.spawned.as_ref());
    let recorder = stage.recorder(std::slice::from_ref(&run), Window::Calm);
    let load = Load::begin(&run, &topology, plan.pace, stage.spawned.as_ref());
    let began = Instant::now();
    let spawned = stage.spawned.take().expect("the plan has a relay of our own");
    let (spawned, restarts) = kill(stage, &run, &recorder, spawned).await?;
    stage.spawned = Some(spawned);
    stage.pause(plan.duration.saturating_sub(began.elapsed())).await;
    let loaded = load.end(&run, stage.spawned.as_ref()).await?;
    let quiet = measure::quiet(&run).await;
    stage.report.quiet_ms = Some(millis(quiet));
    let spent = span.end(stage.spawned.as_ref());
    drop(progress);
    measure::record_timeline(&mut stage.report, recorder.end());
    measure::conservation(stage).await?;
    run.enter(Phase::Stop);
    measure::record(&mut stage.report, &[run], crew.judge().await, &loaded, &spent);
    report_restarts(&mut stage.report, restarts);
    Ok(())
}

/// Kills and restarts, within the duration; hands the relay back running.
async fn kill(
    stage: &Stage<'_>,
    run: &Arc<Run>,
    recorder: &Recorder,
    mut spawned: SpawnedRelay,
) -> Result<(SpawnedRelay, Vec<Restart>), Failure> {
    let stretch = stage.plan.duration / stage.plan.kills.max(1);
    let mut restarts = Vec::new();
    let mut killed = Instant::now();
    let mut attached = 0;
    for number in 0..stage.plan.kills {
        let within = if number % 2 == 0 { stretch } else { stretch.min(AWAY) };
        let moment = Instant::now() + random::between(Duration::ZERO, within);
        let recovered = recovered(run, stage.plan.clients.into(), attached, moment);
        let interrupted = tokio::select! {
            biased;
            () = stage.interrupt() => true,
            at = recovered => {
                note_recovery(&mut restarts, at, killed);
                false
            }
        };
        if interrupted {
            return Ok((spawned, restarts));
        }
        killed = Instant::now();
        recorder.enter(Window::Calm, "kill -9");
        let restarted = tokio::task::spawn_blocking(move || {
            spawned.kill()?;
            spawned.restart()?;
            Ok::<_, RelayError>(spawned)
        });
        spawned = restarted.await.expect("restarting never panics")?;
        attached = Totals::get(&run.totals.reconnects);
        let first_connect = first_connect(&stage.relay, spawned.started()).await?;
        restarts.push(Restart {
            ready_ms: millis(spawned.ready()),
            first_connect_ms: millis(first_connect),
            recovery_ms: None,
        });
    }
    let until = Instant::now() + RECOVERY_WAIT;
    let mut at = None;
    while at.is_none() && Instant::now() < until && !*stage.interrupted.borrow() {
        let moment = Instant::now() + Duration::from_millis(100);
        at = recovered(run, stage.plan.clients.into(), attached, moment).await;
    }
    note_recovery(&mut restarts, at, killed);
    Ok((spawned, restarts))
}

fn note_recovery(restarts: &mut [Restart], at: Option<Instant>, killed: Instant) {
    if let (Some(last), Some(at)) = (restarts.last_mut(), at) {
        last.recovery_ms = Some(millis(at - killed));
    }
}

/// Sleeps until `moment`; when all clients were attached again, if they were. `before` is how many
/// reconnects there had been when the relay was started: a client that has not noticed yet that
/// its connection is dead still counts as attached.
async fn recovered(run: &Run, clients: u64, before: u64, moment: Instant) -> Option<Instant> {
    let mut at = None;
    while Instant::now() < moment {
        let wait = Duration::from_millis(5).min(moment - Instant::now());
        tokio::time::sleep(wait).await;
        let back = Totals::get(&run.totals.reconnects) > before;
        if at.is_none() && back && Totals::get(&run.totals.attached) >= clients {
            at = Some(Instant::now());
        }
    }
    at
}

/// From the start of the process until a client was connected. A connection of our own tells.
pub(super) async fn first_connect(relay: &Relay, started: Instant) -> Result<Duration, Failure> {
    let dial = relay.dial(0);
    loop {
        match connect(&dial).await {
            Ok(_) => return Ok(started.elapsed()),
            Err(error) if started.elapsed() > CONNECT_WAIT => {
                return Err(crate::account::AccountError::Connect(error).into());
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
}

fn report_restarts(report: &mut Report, restarts: Vec<Restart>) {
    let longest = |of: fn(&Restart) -> Option<f64>| restarts.iter().filter_map(of).reduce(f64::max);
    report.kills = restarts.len() as u64;
    report.ready_max_ms = longest(|restart| Some(restart.ready_ms));
    report.first_connect_max_ms = longest(|restart| Some(restart.first_connect_ms));
    report.recovery_max_ms = longest(|restart| restart.recovery_ms);
    report.restarts = restarts;
}
