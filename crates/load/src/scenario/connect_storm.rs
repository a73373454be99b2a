//! connect-storm: many clients connect and attach within a moment, from several source addresses.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::chat::Chat;
use super::crew::{Crew, Relay};
use super::herd::{issue_all, join_all};
use super::measure::{self, Load, Span, millis_since};
use super::{Failure, Stage};
use crate::account::{Account, AccountError, Live, SOURCES};
use crate::cli::Kind;
use crate::latency::{self, Percentiles, millis, rounded};
use crate::plan::Pace;
use crate::recorder::Window;
use crate::run::{Phase, Run, Totals};
use crate::topology::Topology;
use valise_client::{Backoff, random};

/// A client that is not attached by then gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Messages a second while everyone who came sends one, to show that it is really there.
const MESSAGES_PER_S: f64 = 2_000.0;

/// How long everyone's one message may take.
const MESSAGES_WAIT: Duration = Duration::from_secs(60);

pub(crate) async fn run(stage: &mut Stage<'_>) -> Result<(), Failure> {
    let plan = stage.plan;
    let clients = plan.clients as usize;
    let set_up = Instant::now();
    let crowd = stage.crowd()?;
    let relay = stage.relay.after(plan.others as usize);
    let joining = relay.clone();
    let join = crowd.run(async move { join_all(&joining, clients).await });
    let accounts = stage.prepare(join).await?;
    let chat = Chat::begin(stage).await?;
    stage.report.setup_ms = millis_since(set_up);
    let topology = Topology::ring(plan.clients, 1);
    let run = Arc::new(Run::new(Kind::Post, plan.payload_bytes, clients, clients, 1, false));

    let recorder = stage.recorder(&[chat.run.clone(), run.clone()], Window::Other);
    stage.calm(&recorder).await;
    let span = Span::begin(stage.spawned.as_ref());
    recorder.enter(Window::During, "storm begins");
    let storming = storm(relay.clone(), run.clone(), accounts, plan.within);
    let (began, came) = crowd.run(storming).await;
    let spent = span.end(stage.spawned.as_ref());
    recorder.enter(Window::Other, "everyone has come");
    let attached = came.len() as u64;
    let back = run.back.whole();
    let report = &mut stage.report;
    report.storm.within_s = Some(plan.within.as_secs_f64());
    report.storm.sources = Some(SOURCES.min(clients) as u64);
    report.storm.attached = Some(attached);
    report.storm.back = Percentiles::of(&back);
    let last = came.iter().map(|come| come.at - began).max().unwrap_or_default();
    let everyone = attached == u64::from(plan.clients);
    report.storm.all_back_ms = everyone.then(|| millis(last));
    report.storm.start_lag_p99_us = run.send_lag.percentiles().p99_us;
    report.histograms.back = latency::to_text(&back);
    if plan.others == 0 {
        // Nobody else used the relay meanwhile.
        report.server_cpu_ms_per_connect =
            spent.server_cpu_us_per(attached).map(|us| rounded(us / 1_000.0, 3));
    }
    report.connects_per_s = Some(rounded(attached as f64 / spent.seconds, 1));

    let mut seen = Crew::new(&topology);
    if everyone {
        let (relay, run, topology) = (relay.clone(), run.clone(), topology.clone());
        let messages = crowd.run(async move {
            let pairs = came.into_iter().map(|come| (come.account, come.live)).collect();
            let enrolled = issue_all(pairs).await?;
            let mut crew = Crew::new(&topology);
            crew.start_all(&run, &relay, &topology, enrolled);
            let load = Load::begin(&run, &topology, Pace::Rate(MESSAGES_PER_S), None);
            let until = Instant::now() + MESSAGES_WAIT;
            while Totals::get(&run.totals.finished) < clients as u64 && Instant::now() < until {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            load.end(&run, None).await?;
            Ok::<_, Failure>(crew)
        });
        seen = stage.prepare(messages).await?;
    }
    let chatted = chat.end(stage).await?;
    measure::quiet(&run).await;
    measure::quiet(&chatted.run).await;
    measure::record_timeline(&mut stage.report, recorder.end());
    measure::conservation(stage).await?;
    run.enter(Phase::Stop);
    let verdict = seen.judge().await;
    chatted.record(stage, &[run], verdict).await;
    if plan.others == 0 {
        stage.report.headline = stage.report.storm.back.into();
    }
    Ok(())
}

/// A client that has come.
struct Come {
    account: Account,
    live: Live,
    at: Instant,
}

/// Everyone comes, evenly spread; who came, in order, and when the storm began.
async fn storm(
    relay: Relay,
    run: Arc<Run>,
    accounts: Vec<Account>,
    within: Duration,
) -> (Instant, Vec<Come>) {
    let mut coming = JoinSet::new();
    let began = Instant::now();
    let step = within / u32::try_from(accounts.len().max(1)).expect("clients fit 32 bits");
    for (number, account) in accounts.into_iter().enumerate() {
        let (relay, run) = (relay.clone(), run.clone());
        let intended = began + step * u32::try_from(number).expect("clients fit 32 bits");
        coming.spawn(async move { come(&relay, &run, number, account, intended).await });
    }
    let mut came = Vec::new();
    while let Some(come) = coming.join_next().await {
        if let Some((number, come)) = come.expect("a client never panics") {
            came.push((number, come));
        }
    }
    came.sort_by_key(|(number, _)| *number);
    (began, came.into_iter().map(|(_, come)| come).collect())
}

async fn come(
    relay: &Relay,
    run: &Run,
    number: usize,
    account: Account,
    intended: Instant,
) -> Option<(usize, Come)> {
    tokio::time::sleep_until(intended.into()).await;
    let nanos = |since: Duration| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
    run.send_lag.record(number, nanos(intended.elapsed()));
    let dial = relay.dial(number);
    for failures in 1.. {
        match account.attach(&dial).await {
            Ok(live) => {
                let at = Instant::now();
                run.back.record(number, nanos(at - intended));
                return Some((number, Come { account, live, at }));
            }
            Err(error) => {
                run.error(error.reason());
                if !error.may_pass() || intended.elapsed() > PATIENCE {
                    return None;
                }
                tokio::time::sleep(wait_after(&error, failures)).await;
            }
        }
    }
    None
}

fn wait_after(error: &AccountError, failures: u32) -> Duration {
    Backoff::RETRY.wait(failures, random::fraction()) + error.retry_after()
}
