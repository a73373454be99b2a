//! The scenarios. Each prepares its clients, drives them, and fills in the report.

mod chat;
mod cluster_faults;
mod connect_storm;
mod crew;
mod crowd;
mod groups;
mod herd;
mod idle;
mod kill;
mod mailboxes;
mod measure;
mod migrate;
mod offline;
mod overload;
mod reconnect_storm;
mod restart;
mod slow_readers;
mod stalled;
mod steady;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::watch;

use crate::account::AccountError;
use crate::cli::{Fault, Scenario};
use crate::companion::CompanionError;
use crate::crossing::{Crossing, CrossingError};
use crate::machine::Machine;
use crate::plan::{Pace, Plan, Target};
use crate::recorder::{Recorder, Watched, Window};
use crate::relay::{Ground, RelayError, SpawnedRelay};
use crate::report::Report;
use crate::run::Run;
use crate::scrape::{self, ScrapeError};
use crew::Relay;
use crowd::Crowd;

/// Others that begin to chat are not judged before they have for so long.
const WARM_UP: Duration = Duration::from_secs(1);

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Relay(#[from] RelayError),
    #[error("a client could not be set up: {0}")]
    Account(#[from] AccountError),
    #[error(transparent)]
    Crossing(#[from] CrossingError),
    #[error("a client could not be attached: {}", .0.join(", "))]
    NotAttached(Vec<String>),
    #[error(transparent)]
    Companion(#[from] CompanionError),
    #[error(transparent)]
    Scrape(#[from] ScrapeError),
    #[error("the system has no timer or no thread for it: {0}")]
    System(#[from] std::io::Error),
    #[error("interrupted before there was anything to report")]
    Interrupted,
}

/// Whether the user has asked to end, for whoever has to look or wait.
pub(crate) type Interrupted = watch::Receiver<bool>;

/// What every scenario starts from.
pub(crate) struct Stage<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) relay: Relay,
    /// The relay's process, where it is ours.
    pub(crate) spawned: Option<SpawnedRelay>,
    /// Where it moves to, where it does.
    pub(crate) crossing: Option<Crossing>,
    pub(crate) interrupted: Interrupted,
    /// Connections besides those of clients.
    pub(crate) bare: Arc<AtomicU64>,
    pub(crate) report: Report,
}

/// Runs the plan.
///
/// # Errors
/// [`Failure`], if it could not be carried out. Broken promises are in the report.
pub(crate) async fn run(plan: &Plan, interrupted: Interrupted) -> Result<Report, Failure> {
    let mut stage = stage(plan, interrupted).await?;
    match plan.scenario {
        Scenario::OneToOne | Scenario::FanOut => Box::pin(steady::run(&mut stage)).await?,
        Scenario::Offline => Box::pin(offline::run(&mut stage)).await?,
        Scenario::Idle => Box::pin(idle::run(&mut stage)).await?,
        Scenario::Kill => Box::pin(kill::run(&mut stage)).await?,
        Scenario::Groups => Box::pin(groups::run(&mut stage)).await?,
        Scenario::Restart => Box::pin(restart::run(&mut stage)).await?,
        Scenario::ConnectStorm => Box::pin(connect_storm::run(&mut stage)).await?,
        Scenario::ReconnectStorm => Box::pin(reconnect_storm::run(&mut stage)).await?,
        Scenario::SlowReaders => Box::pin(slow_readers::run(&mut stage)).await?,
        Scenario::Stalled => Box::pin(stalled::run(&mut stage)).await?,
        Scenario::ClusterFaults => Box::pin(cluster_faults::run(&mut stage)).await?,
        Scenario::Migrate => {
            let done = Box::pin(migrate::run(&mut stage)).await;
            done.inspect_err(|_| stage.keep())?;
        }
        Scenario::Overload => Box::pin(overload::run(&mut stage)).await?,
    }
    stage.report.interrupted = *stage.interrupted.borrow();
    if !stage.report.is_clean() {
        stage.keep();
    }
    Ok(stage.report)
}

async fn stage(plan: &Plan, interrupted: Interrupted) -> Result<Stage<'_>, Failure> {
    let mut report = Report::new(Machine::here());
    report.command_line = std::env::args().collect();
    report.started_at_unix_s = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    report.name.clone_from(&plan.name);
    report.scenario = plan.scenario;
    report.transport = plan.transport;
    report.kind = plan.kind;
    report.clients = plan.clients;
    report.conversations = plan.conversations;
    report.payload_bytes = plan.payload_bytes as u64;
    report.tester_threads = plan.threads as u64;
    match plan.pace {
        Pace::Rate(rate) => report.rate_per_s = Some(rate),
        Pace::Window(window) => report.window = Some(window),
    }
    let (relay, spawned, crossing) = match &plan.target {
        Target::Address { address, codes } => {
            let (address, codes) = (address.clone(), codes.clone());
            let transport = plan.transport_kind();
            (Relay { address, further: Vec::new(), transport, codes }, None, None)
        }
        Target::Spawn => {
            let (relay, spawned, crossing) = spawn(plan).await?;
            report.raised_limits = spawned.limits().clone();
            report.relay_version = version(&scrape::get(spawned.admin(), "/version").await?);
            report.nodes = plan.nodes;
            (relay, Some(spawned), crossing)
        }
    };
    Ok(Stage { plan, relay, spawned, crossing, interrupted, bare: Arc::default(), report })
}

/// Starts what the plan wants a relay to be.
async fn spawn(plan: &Plan) -> Result<(Relay, SpawnedRelay, Option<Crossing>), Failure> {
    let connections = plan.connections();
    let moves = plan.scenario == Scenario::Migrate;
    let faulty = plan.scenario == Scenario::ClusterFaults;
    let ground = Ground {
        nodes: if moves { 0 } else { plan.nodes },
        apart: faulty && plan.fault == Fault::Partition,
        tapped: faulty && plan.fault == Fault::LostPushes,
    };
    let started = tokio::task::spawn_blocking(move || {
        let crossing = moves.then(Crossing::prepare).transpose()?;
        let more = crossing.as_ref().map(Crossing::section).unwrap_or_default();
        Ok::<_, Failure>((SpawnedRelay::start(connections, ground, &more)?, crossing))
    });
    let (spawned, crossing) = started.await.expect("starting a relay never panics")?;
    let (address, further) = (spawned.address().clone(), spawned.further());
    let relay = Relay { address, further, transport: plan.transport_kind(), codes: Vec::new() };
    Ok((relay, spawned, crossing))
}

/// The version in the relay's answer to `/version`.
fn version(answer: &str) -> String {
    let answer: serde_json::Value = serde_json::from_str(answer).unwrap_or_default();
    answer["version"].as_str().unwrap_or_default().to_owned()
}

impl Stage<'_> {
    /// Another relay, with nothing in it.
    async fn begin_again(&mut self) -> Result<(), Failure> {
        // What there was ends first.
        (self.spawned, self.crossing) = (None, None);
        let (relay, spawned, crossing) = spawn(self.plan).await?;
        (self.relay, self.spawned, self.crossing) = (relay, Some(spawned), crossing);
        Ok(())
    }

    /// Leaves the files of what was started for whoever has to find out why.
    fn keep(&mut self) {
        let relay = self.spawned.as_mut().map(|spawned| ("relay", spawned.keep()));
        let importer = self.crossing.as_mut().map(|crossing| ("importer", crossing.keep()));
        for (whose, kept) in relay.into_iter().chain(importer) {
            let kept = format!("the {whose}'s files are kept in {}", kept.display());
            eprintln!("valise-load: {kept}");
            self.report.verdict.examples.push(kept);
        }
    }

    /// Ready when the user has asked to end.
    fn interrupt(&self) -> impl Future<Output = ()> + use<> {
        let mut interrupted = self.interrupted.clone();
        async move {
            if interrupted.wait_for(|interrupted| *interrupted).await.is_err() {
                // Nobody can ask any more.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits, unless the user ends the run; whether that was so.
    async fn pause(&self, time: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(time) => false,
            () = self.interrupt() => true,
        }
    }

    /// The time before it begins: the first second warms up, the rest is what is compared with.
    async fn calm(&self, recorder: &Recorder) {
        if self.plan.others == 0 {
            return;
        }
        self.pause(WARM_UP).await;
        recorder.enter(Window::Calm, "calm");
        self.pause(self.plan.duration).await;
    }

    /// Begins to watch these runs. The first one's latencies are the ones that count.
    fn recorder(&self, runs: &[Arc<Run>], window: Window) -> Recorder {
        let watched = Watched {
            runs: runs.to_vec(),
            pid: self.spawned.as_ref().map(SpawnedRelay::pid),
            bare: self.bare.clone(),
        };
        Recorder::begin(watched, window, self.plan.duration)
    }

    /// A thread for the clients the scenario is about.
    fn crowd(&mut self) -> Result<Crowd, Failure> {
        self.report.tester_threads += crowd::THREADS;
        Crowd::new()
    }

    /// The relay's memory, where it is ours, in bytes.
    fn rss(&self) -> Option<u64> {
        self.spawned.as_ref().map(|spawned| spawned.usage().rss_bytes)
    }

    /// Work that has nothing to report yet, unless the user ends it.
    async fn prepare<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            biased;
            () = self.interrupt() => Err(Failure::Interrupted),
            done = work => done,
        }
    }
}
