//! groups: every member posts to all others of its group, one post for each message, while members
//! go away and come back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::crew::{self, Crew};
use super::measure::{self, Load, Span, millis_since};
use super::{Failure, Stage};
use crate::latency::{millis, rounded};
use crate::progress::Progress;
use crate::recorder::Window;
use crate::run::{Away, Phase, Run, Totals};
use crate::topology::Topology;

/// How long one member of each group is away.
const ABSENCE: Duration = Duration::from_secs(1);

pub(crate) async fn run(stage: &mut Stage<'_>) -> Result<(), Failure> {
    let plan = stage.plan;
    let topology = Topology::circles(plan.clients, plan.members);
    let clients = plan.clients as usize;
    let members = plan.members as usize;
    let set_up = Instant::now();
    let enrolled = stage.prepare(crew::enroll(&stage.relay, &topology, clients)).await?;
    stage.report.setup_ms = millis_since(set_up);

    let lanes = topology.recipients.len();
    let run = Arc::new(Run::new(plan.kind, plan.payload_bytes, lanes, clients, u64::MAX, true));
    let mut crew = Crew::new(&topology);
    crew.start_all(&run, &stage.relay, &topology, enrolled);

    let progress = Progress::watching("groups", run.clone());
    let span = Span::begin(stage.spawned.as_ref());
    let recorder = stage.recorder(std::slice::from_ref(&run), Window::Calm);
    let load = Load::begin(&run, &topology, plan.pace, stage.spawned.as_ref());
    let until = Instant::now() + plan.duration;
    // The member on turn is away, the one before it comes back.
    for turn in 0.. {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || stage.pause(left.min(ABSENCE)).await {
            break;
        }
        run.send_away(Away { place: turn % members, of: members });
    }
    run.send_away(Away::default());
    let loaded = load.end(&run, stage.spawned.as_ref()).await?;
    let quiet = measure::quiet(&run).await;
    stage.report.quiet_ms = Some(millis(quiet));
    let spent = span.end(stage.spawned.as_ref());
    drop(progress);
    measure::record_timeline(&mut stage.report, recorder.end());
    measure::conservation(stage).await?;
    run.enter(Phase::Stop);
    let verdict = crew.judge().await;

    let targets = u64::from(plan.members) - 1;
    let messages = verdict.sent / targets;
    let posts = messages + Totals::get(&run.totals.retries);
    let figures = &mut stage.report.groups;
    figures.groups = Some(u64::from(plan.clients / plan.members));
    figures.members = Some(plan.members.into());
    figures.messages = Some(messages);
    figures.posts_per_message = (messages > 0).then(|| rounded(posts as f64 / messages as f64, 4));
    figures.absences = Some(Totals::get(&run.totals.absences));
    measure::record(&mut stage.report, &[run], verdict, &loaded, &spent);
    Ok(())
}
