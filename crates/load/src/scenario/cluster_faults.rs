//! cluster-faults: a data centre of our own, in which one kind of thing fails again and again while
//! clients chat. What was accepted must be shown once and in order all the same, and everyone must
//! be served again soon.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use valise_client::random;
use valise_client::testing::SERVERS;

use super::crew::{self, Crew};
use super::measure::{self, Load, Span, millis_since};
use super::{Failure, Stage};
use crate::centre::CentreError;
use crate::cli::Fault;
use crate::latency::{millis, rounded};
use crate::network::Parting;
use crate::progress::Progress;
use crate::recorder::{Recorder, Window};
use crate::relay::{RelayError, SpawnedRelay};
use crate::report;
use crate::report::ClusterFaults;
use crate::run::{Phase, Run, Totals};
use crate::scrape;
use crate::topology::Topology;

/// A new leader takes up to 9 s, so that some failures are over before there is one.
const OUTAGE: Duration = Duration::from_secs(12);

/// A parting is noticed by silence, so it has to last.
const PARTED: Duration = Duration::from_secs(6);

/// A killed node comes back within this.
const NODE_AWAY: Duration = Duration::from_secs(3);

/// A node hangs for longer than a client waits for a connection.
const NODE_HANGS: Duration = Duration::from_secs(20);

/// Pushes are lost for so long; the sweep of a node comes every 30 s.
const PUSHES_LOST: Duration = Duration::from_secs(5);

/// One push of so many is lost.
const LOST_ONE_OF: u64 = 10;

/// Everyone attaches again within this.
const CUT_WITHIN: Duration = Duration::from_millis(300);

/// A server is stopped and goes on in turns of up to this, so that it is always a little behind.
const STOPPED: Duration = Duration::from_millis(60);

/// A frame that has had no outcome for so long is stuck, at the least.
const STUCK_MIN: Duration = Duration::from_millis(250);

/// It is stuck if it takes so many times as long as half of the frames did in the calm before: with slow
/// disks every frame takes long.
const STUCK_TIMES: u32 = 10;

/// How long everyone may take to be served again.
const PATIENCE: Duration = Duration::from_secs(60);

/// Nobody has waited for so long, at the least: everyone is served again.
const CALM: Duration = Duration::from_secs(2);

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

    let progress = Progress::watching("cluster-faults", run.clone());
    let span = Span::begin(stage.spawned.as_ref());
    let recorder = stage.recorder(std::slice::from_ref(&run), Window::Calm);
    let load = Load::begin(&run, &topology, plan.pace, stage.spawned.as_ref());
    stage.pause(CALM).await;
    let stuck = stuck(run.accepted_latency.percentiles().p50_us);
    let failed = fail_again_and_again(stage, &run, &recorder, stuck).await?;
    let loaded = load.end(&run, stage.spawned.as_ref()).await?;
    stage.report.quiet_ms = Some(millis(measure::quiet(&run).await));
    let spent = span.end(stage.spawned.as_ref());
    drop(progress);
    measure::record_timeline(&mut stage.report, recorder.end());
    run.enter(Phase::Stop);
    measure::record(
        &mut stage.report,
        std::slice::from_ref(&run),
        crew.judge().await,
        &loaded,
        &spent,
    );
    report(stage, &run, failed).await
}

/// Does it as often as planned. How long it took each time until everyone was served again.
async fn fail_again_and_again(
    stage: &mut Stage<'_>,
    run: &Arc<Run>,
    recorder: &Recorder,
    stuck: Duration,
) -> Result<Vec<report::Failure>, Failure> {
    let mut failures = Vec::new();
    for number in 0..stage.plan.times as usize {
        let spawned = stage.spawned.take().expect("the plan has a data centre of our own");
        let fault = stage.plan.fault;
        let what = what_fails(fault, number, spawned.nodes());
        recorder.enter(Window::Calm, what.clone());
        let fail = Arc::new(Fail { number, run: run.clone(), since_ns: AtomicU64::new(0) });
        let failing = {
            let fail = fail.clone();
            tokio::task::spawn_blocking(move || fail.once(fault, spawned))
        };
        let clients = stage.plan.clients.into();
        let watching = Watching { run, clients, stuck, since: &fail.since_ns };
        let (served, spawned) = watching.until_served_again(failing).await;
        stage.spawned = Some(spawned.expect("failing never panics")?);
        let back_ms = served.map(|served| rounded(millis(served), 1));
        failures.push(report::Failure { what, back_ms });
        if *stage.interrupted.borrow() {
            break;
        }
    }
    Ok(failures)
}

/// Looks who waits while something fails and after it.
struct Watching<'a> {
    run: &'a Run,
    clients: u64,
    /// A frame that has had no outcome for so long is stuck.
    stuck: Duration,
    /// Since when everyone has to be served again, in nanoseconds of the clock; 0: not yet.
    since: &'a AtomicU64,
}

impl Watching<'_> {
    /// Waits until what fails is back and nobody has waited for a while; how long after the failure
    /// somebody waited last, none if somebody waits on and on.
    async fn until_served_again<T>(
        &self,
        failing: impl Future<Output = T>,
    ) -> (Option<Duration>, T) {
        tokio::pin!(failing);
        // Long enough for whoever waits by its end to be stuck.
        let calm = CALM.max(2 * self.stuck);
        let (mut over, mut last_stuck_ns) = (None, 0);
        loop {
            tokio::select! {
                biased;
                failed = &mut failing, if over.is_none() => over = Some((failed, Instant::now())),
                () = tokio::time::sleep(Duration::from_millis(2)) => {}
            }
            let (now_ns, since_ns) = (self.run.now_ns(), self.since.load(Ordering::Relaxed));
            if since_ns > 0 && self.is_somebody_stuck(now_ns) {
                last_stuck_ns = now_ns;
            }
            let Some((failed, ended)) = over.take() else { continue };
            let served = Duration::from_nanos(last_stuck_ns.saturating_sub(since_ns));
            if now_ns.saturating_sub(last_stuck_ns.max(since_ns)) > calm.as_nanos() as u64 {
                return (Some(served), failed);
            }
            if ended.elapsed() > PATIENCE {
                self.run.error("not everyone was served again in time");
                return (None, failed);
            }
            over = Some((failed, ended));
        }
    }

    fn is_somebody_stuck(&self, now_ns: u64) -> bool {
        let age_ns = self.run.oldest_ns().map(|oldest_ns| now_ns.saturating_sub(oldest_ns));
        age_ns.is_some_and(|age_ns| age_ns > self.stuck.as_nanos() as u64)
            || Totals::get(&self.run.totals.attached) < self.clients
    }
}

/// How long a frame goes without an outcome until it is stuck; `half_us`: half of the frames had theirs
/// within so many microseconds in the calm, none if there was none.
fn stuck(half_us: Option<f64>) -> Duration {
    let half = half_us.map_or(CALM, |us| Duration::from_secs_f64(us / 1e6));
    STUCK_MIN.max(half * STUCK_TIMES)
}

/// One failure. Blocks.
struct Fail {
    number: usize,
    run: Arc<Run>,
    /// Since when everyone has to be served again, in nanoseconds of the clock; 0: not yet.
    since_ns: AtomicU64,
}

impl Fail {
    /// Lets it happen; what runs is handed back.
    fn once(&self, fault: Fault, mut spawned: SpawnedRelay) -> Result<SpawnedRelay, RelayError> {
        let node = self.number % spawned.nodes();
        match fault {
            Fault::ServerKill | Fault::ServerHang | Fault::ServerDrain => {
                self.server(fault, &mut spawned)?;
            }
            Fault::Partition => self.partition(&mut spawned)?,
            Fault::StaleReplicas => self.stale_replicas(&mut spawned)?,
            Fault::LostPushes => self.lost_pushes(&mut spawned),
            Fault::NodeKill => {
                self.begins();
                spawned.kill_node(node)?;
                wait_up_to(NODE_AWAY);
                spawned.restart_node(node)?;
            }
            Fault::NodeHang => {
                self.begins();
                spawned.hang_node(node, true)?;
                self.run.cut(CUT_WITHIN);
                std::thread::sleep(NODE_HANGS);
                spawned.hang_node(node, false)?;
            }
            Fault::RollingRestart => {
                self.begins();
                for node in 0..spawned.nodes() {
                    spawned.terminate_node(node)?;
                    spawned.restart_node(node)?;
                }
            }
        }
        Ok(spawned)
    }

    /// Everyone has to be served again from now on.
    fn begins(&self) {
        self.since_ns.store(self.run.now_ns().max(1), Ordering::Relaxed);
    }

    fn server(&self, fault: Fault, spawned: &mut SpawnedRelay) -> Result<(), RelayError> {
        let server = self.number % SERVERS;
        let centre = spawned.centre().expect("the plan has a data centre");
        let nats = centre.nats();
        self.begins();
        match fault {
            Fault::ServerHang => {
                nats.hang(server)?;
                wait_up_to(OUTAGE);
                nats.go_on(server)?;
            }
            Fault::ServerDrain => {
                centre.drain_server(server)?;
                nats.restart(server)?;
            }
            _ => {
                centre.kill_server(server)?;
                wait_up_to(OUTAGE);
                nats.restart(server)?;
            }
        }
        Ok(nats.until_up()?)
    }

    fn partition(&self, spawned: &mut SpawnedRelay) -> Result<(), RelayError> {
        let centre = spawned.centre().expect("the plan has a data centre");
        let network = centre.network().expect("the plan has servers that can be parted");
        let parting = parting(self.number);
        let set = |parted| network.set(parting, parted).map_err(CentreError::from);
        set(true)?;
        std::thread::sleep(PARTED);
        wait_up_to(OUTAGE - PARTED);
        set(false)?;
        // The network is whole again.
        self.begins();
        Ok(())
    }

    /// A replica that is always behind, while everyone attaches again at another node.
    fn stale_replicas(&self, spawned: &mut SpawnedRelay) -> Result<(), RelayError> {
        let nats = spawned.centre().expect("the plan has a data centre").nats();
        // A while for each, since who leads a stream is never behind in it.
        let server = self.number / 16 % SERVERS;
        self.begins();
        self.run.cut(CUT_WITHIN);
        let until = Instant::now() + 2 * CUT_WITHIN;
        while Instant::now() < until {
            nats.hang(server)?;
            wait_up_to(STOPPED);
            nats.go_on(server)?;
            wait_up_to(STOPPED);
        }
        Ok(())
    }

    fn lost_pushes(&self, spawned: &mut SpawnedRelay) {
        let tap = spawned.centre().and_then(|centre| centre.tap());
        let tap = tap.expect("the plan has a bus that passes through us");
        tap.drop_one_of(LOST_ONE_OF);
        std::thread::sleep(PUSHES_LOST);
        tap.drop_one_of(0);
        self.begins();
    }
}

/// Which one it is.
fn what_fails(fault: Fault, number: usize, nodes: usize) -> String {
    let fault_name = fault.to_possible_value().expect("all faults have a name");
    match fault {
        Fault::Partition => parting(number).to_string(),
        Fault::ServerKill | Fault::ServerHang | Fault::ServerDrain => {
            format!("{} n{}", fault_name.get_name(), number % SERVERS)
        }
        Fault::NodeKill | Fault::NodeHang => {
            format!("{} {}", fault_name.get_name(), number % nodes)
        }
        Fault::StaleReplicas | Fault::LostPushes | Fault::RollingRestart => {
            fault_name.get_name().to_owned()
        }
    }
}

/// The partings, in turn.
fn parting(number: usize) -> Parting {
    let (one, other) = (number / 4 % SERVERS, (number / 4 + 1) % SERVERS);
    match number % 4 {
        0 => Parting::Pair(one, other),
        1 => Parting::OneWay(one, other),
        2 => Parting::Alone(one),
        // With it goes the relay that knows no other server.
        _ => Parting::Gone(SERVERS - 1),
    }
}

/// Blocks for a random part of this.
fn wait_up_to(most: Duration) {
    std::thread::sleep(random::between(Duration::ZERO, most));
}

/// What the scenario is about.
async fn report(
    stage: &mut Stage<'_>,
    run: &Run,
    failures: Vec<report::Failure>,
) -> Result<(), Failure> {
    let mut sorted: Vec<f64> = failures.iter().filter_map(|failure| failure.back_ms).collect();
    sorted.sort_by(f64::total_cmp);
    let pushes = stage.spawned.as_mut().and_then(|spawned| Some(spawned.centre()?.tap()?.pushes()));
    let mut stale_reads = 0;
    for admin in stage.spawned.iter().flat_map(SpawnedRelay::admins) {
        let metrics = scrape::get(admin, "/metrics").await?;
        stale_reads += scrape::sum(&metrics, "valise_bus_stale_reads_total").unwrap_or_default();
    }
    stage.report.cluster_faults = ClusterFaults {
        fault: Some(stage.plan.fault),
        times: Some(failures.len() as u64),
        back_p50_ms: sorted.get(sorted.len() / 2).copied(),
        back_max_ms: sorted.last().copied(),
        failures,
        attaches: Some(Totals::get(&run.totals.reconnects)),
        stale_reads: Some(stale_reads),
        pushes: pushes.map(|(seen, _)| seen),
        pushes_dropped: pushes.map(|(_, dropped)| dropped),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_stuck_by_what_is_usual() {
        assert_eq!(stuck(Some(4_000.0)), STUCK_MIN);
        assert_eq!(stuck(Some(300_000.0)), Duration::from_secs(3));
        assert_eq!(stuck(None), CALM * STUCK_TIMES, "not one had an outcome in the calm");
    }
}
