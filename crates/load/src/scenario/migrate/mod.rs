//! migrate: a supernode full of frames, with clients that chat, moves into a data centre, driven by
//! the commands that an operator uses. What was accepted, before, meanwhile or after, must be shown
//! once and in order; what was queued is read at the data centre. Parts of it may be killed on the
//! way, and a migration may be given up.

mod beside;
mod census;
mod course;
mod noticed;

use std::sync::Arc;
use std::time::Instant;

use tokio::task::block_in_place;

use super::crew::{self, Crew, Relay};
use super::mailboxes::Mailboxes;
use super::measure::{self, Load, Span, millis_since};
use super::{Failure, Stage, WARM_UP};
use crate::checker::Verdict;
use crate::companion::Companion;
use crate::crossing::Crossing;
use crate::latency::{millis, rounded};
use crate::plan::{Pace, Plan};
use crate::progress::Progress;
use crate::recorder::{Recorder, Window};
use crate::relay::SpawnedRelay;
use crate::report::{Crossed, Migration};
use crate::run::{Phase, Run, Totals};
use crate::topology::Topology;
use census::Census;
use course::{Aborted, Course};
use noticed::{Stretches, Sums};

/// What all migrations of a run have in common.
struct Sum {
    noticed: Sums,
    verdict: Verdict,
    migration: Migration,
}

/// What one realm has besides its clients.
struct Realm {
    spawned: SpawnedRelay,
    crossing: Crossing,
    crossed: Vec<Crossed>,
    aborted: Option<Aborted>,
    passed: u64,
}

pub(crate) async fn run(stage: &mut Stage<'_>) -> Result<(), Failure> {
    let mut sum =
        Sum { noticed: Sums::new(), verdict: Verdict::default(), migration: Migration::default() };
    for number in 0..stage.plan.repeat as usize {
        if number > 0 {
            stage.begin_again().await?;
        }
        Box::pin(one(stage, &mut sum, number)).await?;
        if *stage.interrupted.borrow() || !sum.verdict.is_clean() {
            break;
        }
    }
    stage.report.migration = sum.whole();
    Ok(())
}

/// One realm: filled, moved, and everything read.
async fn one(stage: &mut Stage<'_>, sum: &mut Sum, number: usize) -> Result<(), Failure> {
    let plan = stage.plan;
    let topology = Topology::ring(plan.clients, plan.conversations);
    let set_up = Instant::now();
    let mut queue = stage.prepare(fill(stage)).await?;
    let clients = plan.clients as usize;
    let enrolled = stage.prepare(crew::enroll(&stage.relay, &topology, clients)).await?;
    let lanes = topology.recipients.len();
    let run = Arc::new(Run::new(plan.kind, plan.payload_bytes, lanes, clients, u64::MAX, true));
    let mut crew = Crew::new(&topology);
    crew.start_travellers(&run, &stage.relay, &topology, enrolled).await?;
    let companion = stage.prepare(beside::start(stage)).await?;
    let mut realm = realm(stage)?;
    stage.report.setup_ms = millis_since(set_up);

    let progress = Progress::watching("migrate", run.clone());
    let mut runs = vec![run.clone()];
    runs.extend(queue.as_ref().map(|queue| queue.run.clone()));
    let recorder = stage.recorder(&runs, Window::Other);
    let span = Span::begin(Some(&realm.spawned));
    let load = Load::begin(&run, &topology, plan.pace, Some(&realm.spawned));
    let moved = travel(stage, &mut realm, &run, &topology, &recorder, &mut sum.noticed, number);
    let moved = moved.await;
    // Whatever was wrong, the files say why.
    let Realm { spawned, crossing, crossed, aborted, passed } = realm;
    let relay = where_it_is(&stage.relay, &crossing, crossed.last());
    (stage.spawned, stage.crossing) = (Some(spawned), Some(crossing));
    moved?;
    let loaded = load.end(&run, stage.spawned.as_ref()).await?;
    stage.report.quiet_ms = Some(millis(measure::quiet(&run).await));
    let beside = block_in_place(|| companion.map(Companion::end).transpose())?;
    let spent = span.end(stage.spawned.as_ref());
    drop(progress);
    let mut read = 0;
    if let Some(queue) = &mut queue {
        recorder.enter(Window::Other, "recipients come");
        queue.go_to(relay);
        queue.call_owners().await?;
        measure::quiet(&queue.run).await;
        read = Totals::get(&queue.run.totals.shown);
    }
    measure::record_timeline(&mut stage.report, recorder.end());
    sum.add(&crossed, aborted, passed);
    if let Some(queue) = &queue {
        sum.queued(Totals::get(&queue.run.totals.accepted), read);
    }
    for run in &runs {
        run.enter(Phase::Stop);
    }
    sum.verdict.merge(crew.judge().await);
    if let Some(queue) = queue {
        sum.verdict.merge(queue.judge().await);
    }
    if let Some(beside) = &beside {
        sum.verdict.merge(beside.verdict.clone());
        sum.migration.clients_beside = Some(beside.clients.into());
    }
    measure::record(&mut stage.report, &runs, sum.verdict.clone(), &loaded, &spent);
    if let Some(beside) = &beside {
        beside::record(&mut stage.report, beside);
    }
    Ok(())
}

/// The calm, and then the migration, or one that is given up and perhaps another one.
async fn travel(
    stage: &Stage<'_>,
    realm: &mut Realm,
    run: &Arc<Run>,
    topology: &Topology,
    recorder: &Recorder,
    sums: &mut Sums,
    number: usize,
) -> Result<(), Failure> {
    let plan = stage.plan;
    let mut stretches = Stretches::begin(sums, run, topology, rate(plan));
    stage.pause(WARM_UP).await;
    recorder.enter(Window::Calm, "calm");
    stretches.skip();
    stage.pause(plan.duration).await;
    stretches.end_calm();
    let mut begun = false;
    if let Some(at) = plan.abort_at {
        let mut course = realm.course(plan, run, recorder, number);
        let aborted = course.give_up(at).await?;
        if aborted == Aborted::InTime {
            course.serves_on().await?;
            let crossed = course.crossed;
            realm.crossed.push(crossed);
        }
        realm.aborted = Some(aborted);
        begun = aborted == Aborted::TooLate;
        if !begun && !plan.again {
            stage.pause(plan.duration).await;
            return Ok(());
        }
        stretches.skip();
    }
    let mut course = realm.course(plan, run, recorder, number);
    let crossed = course.cross(begun, &mut stretches).await;
    let Course { crossed: how, earlier, .. } = course;
    realm.crossed.push(how);
    let last = Census::of(realm.spawned.admin()).await.unwrap_or_default();
    realm.passed += earlier.passed + last.passed;
    crossed?;
    recorder.enter(Window::During, "wiped");
    stretches.skip();
    stage.pause(plan.duration).await;
    stretches.end_settled();
    Ok(())
}

impl Realm {
    fn course<'a>(
        &'a mut self,
        plan: &'a Plan,
        run: &'a Arc<Run>,
        recorder: &'a Recorder,
        number: usize,
    ) -> Course<'a> {
        Course {
            plan,
            run,
            recorder,
            spawned: &mut self.spawned,
            crossing: &mut self.crossing,
            number,
            moments: course::moments(plan, number),
            crossed: Crossed::default(),
            earlier: Census::default(),
        }
    }
}

/// Queues what the plan asks for; the senders leave.
async fn fill(stage: &Stage<'_>) -> Result<Option<Mailboxes>, Failure> {
    let (mailboxes, frames) = stage.plan.queue();
    if mailboxes == 0 {
        return Ok(None);
    }
    let relay = stage.relay.after(stage.plan.clients as usize);
    let mut queue = Mailboxes::open(relay, mailboxes, 1, stage.plan.payload_bytes, frames).await?;
    let progress = Progress::watching("fill", queue.run.clone());
    queue.fill().await;
    queue.dismiss_senders().await;
    drop(progress);
    Ok(Some(queue))
}

/// The supernode, and the data centre with its nodes.
fn realm(stage: &mut Stage<'_>) -> Result<Realm, Failure> {
    let spawned = stage.spawned.take().expect("the plan has a supernode of our own");
    let mut crossing = stage.crossing.take().expect("the plan has a data centre of our own");
    let added = block_in_place(|| crossing.add_nodes(&spawned, stage.plan.nodes));
    let realm = Realm { spawned, crossing, crossed: Vec::new(), aborted: None, passed: 0 };
    added?;
    Ok(realm)
}

/// Where the realm is now.
fn where_it_is(supernode: &Relay, crossing: &Crossing, last: Option<&Crossed>) -> Relay {
    let mut nodes = crossing.addresses();
    match last {
        Some(crossed) if crossed.whole_ms.is_some() && !nodes.is_empty() => {
            let address = nodes.remove(0);
            Relay { address, further: nodes, ..supernode.clone() }
        }
        _ => supernode.clone(),
    }
}

fn rate(plan: &Plan) -> f64 {
    match plan.pace {
        Pace::Rate(rate) => rate,
        Pace::Window(_) => unreachable!("the plan has a steady stream"),
    }
}

impl Sum {
    fn add(&mut self, crossed: &[Crossed], aborted: Option<Aborted>, passed: u64) {
        let migration = &mut self.migration;
        let done = crossed.iter().filter(|crossed| crossed.whole_ms.is_some()).count() as u64;
        let is = |what| u64::from(aborted == Some(what));
        *migration.done.get_or_insert(0) += done;
        *migration.aborted.get_or_insert(0) += is(Aborted::InTime);
        *migration.aborted_too_late.get_or_insert(0) += is(Aborted::TooLate);
        *migration.posts_passed.get_or_insert(0) += passed;
        migration.migrations.extend_from_slice(crossed);
    }

    fn queued(&mut self, before: u64, read: u64) {
        *self.migration.queued_frames.get_or_insert(0) += before;
        *self.migration.queued_frames_read.get_or_insert(0) += read;
    }

    /// With the figures that are about all of them.
    fn whole(self) -> Migration {
        let mut migration = self.migration;
        let per_s = |one: &Crossed| {
            let (entries, ms) = (one.copied_entries?, one.prepare_ms? + one.copy_ms?);
            (entries > 0 && ms > 0.0).then(|| rounded(entries as f64 / ms * 1_000.0, 1))
        };
        let all = &migration.migrations;
        migration.copy_entries_per_s = all.iter().filter_map(per_s).reduce(f64::min);
        let whole_ms = all.iter().filter_map(|one| one.whole_ms).reduce(f64::max);
        migration.whole_s = whole_ms.map(|ms| rounded(ms / 1_000.0, 3));
        [migration.calm, migration.copying, migration.cutover, migration.settled] =
            self.noticed.noticed();
        migration
    }
}
