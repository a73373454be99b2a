//! idle: many attached connections that say nothing. What does one cost, to open and to keep?

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::crew::Crew;
use super::herd::{attach_all, issue_all, join_all};
use super::measure::{self, Load, Span, millis_since};
use super::{Failure, Stage};
use crate::latency::{millis, rounded};
use crate::plan::Pace;
use crate::progress::Progress;
use crate::recorder::Window;
use crate::run::{Phase, Run, Totals};
use crate::topology::Topology;

/// Messages per second while everyone sends one: a herd that is mostly idle, not a burst.
const MESSAGES_PER_S: f64 = 2_000.0;

/// Memory is looked at so long after the last message: freed buffers have gone by then.
const SETTLING: Duration = Duration::from_secs(2);

/// How long everyone's one message may take.
const MESSAGES_WAIT: Duration = Duration::from_secs(60);

pub(crate) async fn run(stage: &mut Stage<'_>) -> Result<(), Failure> {
    let plan = stage.plan;
    let clients = plan.clients as usize;
    let topology = Topology::selves(plan.clients);
    let set_up = Instant::now();
    let accounts = stage.prepare(join_all(&stage.relay, clients)).await?;
    stage.report.setup_ms = millis_since(set_up);

    let before = Span::begin(stage.spawned.as_ref());
    let rss_before = stage.rss();
    let attached = stage.prepare(attach_all(&stage.relay, accounts)).await?;
    let opened = before.end(stage.spawned.as_ref());
    stage.report.connects_per_s = Some(rounded(clients as f64 / opened.seconds, 1));
    stage.report.server_cpu_ms_per_connect =
        opened.server_cpu_us_per(clients as u64).map(|us| rounded(us / 1_000.0, 3));

    tokio::time::sleep(SETTLING).await;
    let rss = stage.rss();
    stage.report.rss_bytes_per_silent_connection =
        measure::growth_per(rss, rss_before, clients as u64);

    let run = Arc::new(Run::new(plan.kind, plan.payload_bytes, clients, clients, 1, true));
    let mut crew = Crew::new(&topology);
    let enrolled = stage.prepare(issue_all(attached)).await?;
    crew.start_all(&run, &stage.relay, &topology, enrolled);

    let progress = Progress::watching("one message each", run.clone());
    let span = Span::begin(stage.spawned.as_ref());
    let recorder = stage.recorder(std::slice::from_ref(&run), Window::Calm);
    let load = Load::begin(&run, &topology, Pace::Rate(MESSAGES_PER_S), stage.spawned.as_ref());
    tokio::select! {
        () = everyone_finished(&run, clients as u64) => {}
        () = stage.interrupt() => {}
    }
    let loaded = load.end(&run, stage.spawned.as_ref()).await?;
    let quiet = measure::quiet(&run).await;
    stage.report.quiet_ms = Some(millis(quiet));
    let spent = span.end(stage.spawned.as_ref());
    drop(progress);

    let progress = Progress::watching("idle", run.clone());
    tokio::time::sleep(SETTLING).await;
    let rss = stage.rss();
    stage.report.rss_bytes_per_connection = measure::growth_per(rss, rss_before, clients as u64);
    let idle = Span::begin(stage.spawned.as_ref());
    stage.pause(plan.duration).await;
    let idle = idle.end(stage.spawned.as_ref());
    stage.report.idle_server_cpu_percent =
        idle.server.map(|server| rounded(server.cpu_s / idle.seconds * 100.0, 2));
    stage.report.connections = Some(Totals::get(&run.totals.attached));
    drop(progress);
    measure::record_timeline(&mut stage.report, recorder.end());
    measure::conservation(stage).await?;
    run.enter(Phase::Stop);
    measure::record(&mut stage.report, &[run], crew.judge().await, &loaded, &spent);
    Ok(())
}

async fn everyone_finished(run: &Run, clients: u64) {
    let until = Instant::now() + MESSAGES_WAIT;
    while Totals::get(&run.totals.finished) < clients && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
