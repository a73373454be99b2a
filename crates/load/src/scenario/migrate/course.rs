//! One realm's move, from the importer's start until the supernode is wiped, with the kills that the
//! plan asks for; or a migration that is given up.

use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use tokio::task::{JoinHandle, block_in_place, spawn_blocking};
use valise_client::random;
use valise_client::testing::SERVERS;

use super::census::{self, Census, LOOK, SHARDS};
use super::noticed::Stretches;
use crate::cli::{AbortAt, Crash, Moment};
use crate::crossing::{Crossing, CrossingError, said};
use crate::latency::millis;
use crate::plan::Plan;
use crate::recorder::{Recorder, Window};
use crate::relay::SpawnedRelay;
use crate::report::{Crashed, Crossed};
use crate::run::{Run, Totals};
use crate::scenario::Failure;

/// What is killed "then" is killed within this.
const THEN: Duration = Duration::from_millis(300);

/// A killed node comes back within this.
const NODE_AWAY: Duration = Duration::from_secs(3);

/// A killed server comes back within this; an election takes up to 9 s.
const SERVER_AWAY: Duration = Duration::from_secs(12);

/// Entries that are copied in a second, about, where a random moment of the copying is wanted.
const ENTRIES_PER_S: f64 = 20_000.0;

/// A command is tried so often while something is down.
const TRIES: u32 = 60;

/// From one try to finish to the next.
const ASKED_AGAIN: Duration = Duration::from_secs(1);

/// Everyone has to have left the supernode within this.
const LEFT_WITHIN: Duration = Duration::from_secs(300);

/// One realm on its way.
pub(super) struct Course<'a> {
    pub(super) plan: &'a Plan,
    pub(super) run: &'a Arc<Run>,
    pub(super) recorder: &'a Recorder,
    pub(super) spawned: &'a mut SpawnedRelay,
    pub(super) crossing: &'a mut Crossing,
    /// Which one of all; what is killed goes by it.
    pub(super) number: usize,
    /// When something is killed.
    pub(super) moments: Vec<Moment>,
    pub(super) crossed: Crossed,
    /// Counted by the supernode's processes before this one.
    pub(super) earlier: Census,
}

/// How a migration that was to be given up has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aborted {
    /// The supernode serves as if nothing had been.
    InTime,
    /// A shard had moved already: it goes on.
    TooLate,
}

impl Course<'_> {
    /// The whole of it. `begun`: the importer runs already.
    pub(super) async fn cross(
        &mut self,
        begun: bool,
        stretches: &mut Stretches<'_>,
    ) -> Result<(), Failure> {
        let began = Instant::now();
        if !begun {
            self.mark("importer started");
            block_in_place(|| self.crossing.start_importer())?;
            self.kill(Moment::Begin, THEN).await?;
        }
        let is_logged = |census: &Census| census.plain == 0;
        self.until("log of every shard", is_logged).await?;
        self.crossed.prepare_ms = Some(millis(began.elapsed()));
        self.mark("copy");
        let copying = Instant::now();
        self.kill(Moment::Copy, self.copying()).await?;
        let census = self.until("seal of a shard", Census::is_cut).await?;
        self.crossed.copy_ms = Some(millis(copying.elapsed()));
        self.crossed.copied_entries = Some(self.earlier.exported + census.exported);
        stretches.end_copying();
        self.cut_over().await?;
        stretches.end_cutover();
        self.finish(began).await
    }

    /// Shard by shard, until nobody is attached at the supernode any more.
    async fn cut_over(&mut self) -> Result<(), Failure> {
        self.mark("cutover");
        let cutting = Instant::now();
        self.kill(Moment::Seal, Duration::ZERO).await?;
        if self.moments.contains(&Moment::Activate) {
            let some = random_shards();
            self.until("moved shard", |census| census.forward >= some).await?;
            self.kill(Moment::Activate, Duration::ZERO).await?;
        }
        self.until("realm that has moved", Census::is_moved).await?;
        self.crossed.cutover_ms = Some(millis(cutting.elapsed()));
        self.mark("drain");
        let draining = Instant::now();
        self.kill(Moment::Forward, THEN).await?;
        self.until("supernode without users", |census| census.attached == 0).await?;
        self.crossed.drain_ms = Some(millis(draining.elapsed()));
        Ok(())
    }

    /// Until the supernode is wiped.
    async fn finish(&mut self, began: Instant) -> Result<(), Failure> {
        self.mark("finish");
        let finishing = Instant::now();
        let mut some = self.moments.contains(&Moment::Finish).then(random_shards);
        let mut tries = 0;
        while tries < TRIES {
            // Told again and again: whoever is told may have just been killed, or have forgotten it.
            let asked = self.ask_to_finish().await.expect("asking never panics");
            let asked_at = Instant::now();
            while asked_at.elapsed() < ASKED_AGAIN {
                let census = Census::of(self.spawned.admin()).await.unwrap_or_default();
                if some.take_if(|some| census.gone >= *some).is_some() {
                    self.kill(Moment::Finish, Duration::ZERO).await?;
                }
                if census.gone == SHARDS {
                    self.crossed.finish_ms = Some(millis(finishing.elapsed()));
                    self.crossed.whole_ms = Some(millis(began.elapsed()));
                    return Ok(());
                }
                sleep_for(LOOK).await;
            }
            self.crossing.check_importer()?;
            tries = if asked.is_ok() && finishing.elapsed() < LEFT_WITHIN { 0 } else { tries + 1 };
        }
        let (waited_s, log) = (finishing.elapsed().as_secs(), self.crossing.log());
        Err(CrossingError::Stuck { what: "wiped supernode", waited_s, log }.into())
    }

    fn ask_to_finish(&self) -> JoinHandle<Result<String, CrossingError>> {
        let finish = self.crossing.finish();
        spawn_blocking(move || said(finish))
    }

    /// Begins, and gives up; the supernode has to serve on.
    pub(super) async fn give_up(&mut self, at: AbortAt) -> Result<Aborted, Failure> {
        self.mark("importer started");
        self.crossed.aborted_at = Some(at);
        block_in_place(|| self.crossing.start_importer())?;
        if at != AbortAt::Begin {
            self.until("shard with a log", |census| census.plain < SHARDS).await?;
        }
        let within = match at {
            AbortAt::Begin => THEN,
            AbortAt::Copy => Duration::ZERO,
            AbortAt::Random => THEN + self.copying(),
        };
        sleep_for(random::between(Duration::ZERO, within)).await;
        self.mark("abort");
        for tries in 1.. {
            let abort = self.crossing.abort();
            let asked = block_in_place(|| said(abort));
            let census = Census::of(self.spawned.admin()).await.unwrap_or_default();
            match asked {
                Ok(_) => break,
                Err(_) if census.forward > 0 => return Ok(Aborted::TooLate),
                Err(error) if tries == TRIES => return Err(error.into()),
                Err(_) => sleep_for(Duration::from_millis(200)).await,
            }
        }
        let is_over = |census: &Census| census.plain == SHARDS || census.forward > 0;
        let census = self.until("supernode without logs", is_over).await?;
        if census.forward > 0 {
            return Ok(Aborted::TooLate);
        }
        block_in_place(|| self.crossing.kill_importer())?;
        Ok(Aborted::InTime)
    }

    /// That frames are accepted now.
    pub(super) async fn serves_on(&mut self) -> Result<(), Failure> {
        let accepted = || Totals::get(&self.run.totals.accepted);
        let (before, began) = (accepted(), Instant::now());
        while accepted() == before {
            let waited_s = began.elapsed().as_secs();
            if waited_s > 60 {
                let (what, log) = ("accepted frame after the abort", self.crossing.log());
                return Err(CrossingError::Stuck { what, waited_s, log }.into());
            }
            sleep_for(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// How long the copying takes, about.
    fn copying(&self) -> Duration {
        Duration::from_secs_f64(f64::from(self.plan.queued) / ENTRIES_PER_S)
    }

    async fn until(
        &mut self,
        what: &'static str,
        is_so: impl Fn(&Census) -> bool,
    ) -> Result<Census, Failure> {
        census::until(self.crossing, self.spawned.admin(), what, is_so).await
    }

    /// Kills what the plan says, if it does so for this moment, and starts it again.
    async fn kill(&mut self, at: Moment, within: Duration) -> Result<(), Failure> {
        let Some(what) = self.plan.crash.filter(|_| self.moments.contains(&at)) else {
            return Ok(());
        };
        sleep_for(random::between(Duration::ZERO, within)).await;
        let census = Census::of(self.spawned.admin()).await.unwrap_or_default();
        self.mark(&format!("kill -9, {what:?}").to_lowercase());
        let Census { sealed, forward, gone, .. } = census;
        self.crossed.crashes.push(Crashed { what, at, sealed, forward, gone });
        if what == Crash::Supernode {
            self.earlier.exported += census.exported;
            self.earlier.passed += census.passed;
        }
        // Each of them at each moment.
        let turn = self.number / self.plan.at.len();
        block_in_place(|| self.kill_now(what, turn))
    }

    fn kill_now(&mut self, what: Crash, turn: usize) -> Result<(), Failure> {
        match what {
            Crash::Supernode => {
                self.spawned.kill()?;
                self.spawned.restart()?;
            }
            Crash::Importer => {
                self.crossing.kill_importer()?;
                self.crossing.start_importer()?;
            }
            Crash::Node => {
                let centre = self.crossing.centre();
                let node = turn % centre.count();
                centre.kill_node(node).map_err(CrossingError::from)?;
                sleep(random::between(Duration::ZERO, NODE_AWAY));
                centre.restart_node(node).map_err(CrossingError::from)?;
            }
            Crash::Server => {
                let centre = self.crossing.centre();
                let server = turn % SERVERS;
                centre.kill_server(server).map_err(CrossingError::from)?;
                sleep(random::between(Duration::ZERO, SERVER_AWAY));
                let nats = centre.nats();
                nats.restart(server).and_then(|()| nats.until_up()).map_err(CrossingError::from)?;
            }
        }
        Ok(())
    }

    fn mark(&self, what: &str) {
        self.recorder.enter(Window::During, what);
    }
}

/// When something is killed in this migration. What is away for a while would miss the next moment, so
/// it has one in each migration, in turn.
pub(super) fn moments(plan: &Plan, number: usize) -> Vec<Moment> {
    match plan.crash {
        Some(Crash::Node | Crash::Server) => vec![plan.at[number % plan.at.len()]],
        _ => plan.at.clone(),
    }
}

/// More than none, and less than all.
fn random_shards() -> u64 {
    let within = Duration::from_millis(SHARDS - 2);
    1 + u64::try_from(random::between(Duration::ZERO, within).as_millis()).unwrap_or(0)
}

async fn sleep_for(time: Duration) {
    tokio::time::sleep(time).await;
}
