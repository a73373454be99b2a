//! idle: many attached connections that say nothing. What does one cost, to open and to keep?

use std::sync::Arc;
use std::time::{Duration, Instant};

use valise_client::connect;

use super::crew::{Crew, Enrolled, Relay, some_at_a_time};
use super::measure::{self, Load, Span, millis_since};
use super::{Failure, Stage};
use crate::account::{self, Account, AccountError};
use crate::latency::{millis, rounded};
use crate::plan::Pace;
use crate::progress::Progress;
use crate::run::{Phase, Run, Totals};
use crate::topology::Topology;

/// Owners that join on one connection before the connections are measured.
const JOINS_PER_CONNECTION: usize = 50;

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
    let rss_before = stage.spawned.as_ref().map(|spawned| spawned.usage().rss_bytes);
    let attached = stage.prepare(attach_all(&stage.relay, accounts)).await?;
    let opened = before.end(stage.spawned.as_ref());
    stage.report.connects_per_s = Some(rounded(clients as f64 / opened.seconds, 1));
    stage.report.server_cpu_ms_per_connect =
        opened.server_cpu_us_per(clients as u64).map(|us| rounded(us / 1_000.0, 3));

    tokio::time::sleep(SETTLING).await;
    let rss = stage.spawned.as_ref().map(|spawned| spawned.usage().rss_bytes);
    stage.report.rss_bytes_per_silent_connection = per_connection(rss, rss_before, clients);

    let run = Arc::new(Run::new(plan.kind, plan.payload_bytes, clients, clients, 1, true));
    let mut crew = Crew::new(&topology);
    let enrolled = stage.prepare(issue_all(attached)).await?;
    crew.start_all(&run, &stage.relay, &topology, enrolled);

    let progress = Progress::watching("one message each", run.clone());
    let span = Span::begin(stage.spawned.as_ref());
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
    let rss = stage.spawned.as_ref().map(|spawned| spawned.usage().rss_bytes);
    stage.report.rss_bytes_per_connection = per_connection(rss, rss_before, clients);
    let idle = Span::begin(stage.spawned.as_ref());
    tokio::select! {
        () = tokio::time::sleep(plan.duration) => {}
        () = stage.interrupt() => {}
    }
    let idle = idle.end(stage.spawned.as_ref());
    stage.report.idle_server_cpu_percent =
        idle.server.map(|server| rounded(server.cpu_s / idle.seconds * 100.0, 2));
    stage.report.connections = Some(Totals::get(&run.totals.attached));
    drop(progress);
    measure::conservation(stage).await?;
    run.enter(Phase::Stop);
    measure::record(&mut stage.report, &run, crew.judge().await, &loaded, &spent);
    Ok(())
}

fn per_connection(after: Option<u64>, before: Option<u64>, connections: usize) -> Option<f64> {
    let growth = after? as f64 - before? as f64;
    Some(rounded(growth / connections as f64, 1))
}

/// Lets every owner join, many on one connection, so that the connections that are measured later
/// only attach.
async fn join_all(relay: &Relay, clients: usize) -> Result<Vec<Account>, Failure> {
    let progress = Progress::counting("joining", clients as u64);
    let mut accounts = Vec::with_capacity(clients);
    while accounts.len() < clients {
        let dial = relay.dial(accounts.len());
        let (connection, _incoming) = connect(&dial).await.map_err(AccountError::Connect)?;
        for _ in 0..JOINS_PER_CONNECTION.min(clients - accounts.len()) {
            accounts.push(account::join(&connection, relay.codes.get(accounts.len())).await?);
            progress.advance();
        }
        connection.close().await;
    }
    Ok(accounts)
}

async fn attach_all(
    relay: &Relay,
    accounts: Vec<Account>,
) -> Result<Vec<(Account, account::Live)>, Failure> {
    let one = |(number, account): (usize, Account)| {
        let dial = relay.dial(number);
        async move {
            let live = Box::pin(account.attach_patiently(&dial)).await?;
            Ok((account, live))
        }
    };
    let mut attached = Vec::with_capacity(accounts.len());
    let accounts = accounts.into_iter().enumerate();
    some_at_a_time("connecting", accounts, one, |one| attached.push(one)).await?;
    Ok(attached)
}

/// Everyone gets a capability for its own mailbox: the one message goes to oneself.
async fn issue_all(attached: Vec<(Account, account::Live)>) -> Result<Vec<Enrolled>, Failure> {
    let one = |(account, live): (Account, account::Live)| async move {
        let capabilities = live.capabilities(1).await?;
        Ok(Enrolled { account, live, capabilities })
    };
    let mut enrolled = Vec::with_capacity(attached.len());
    some_at_a_time("capabilities", attached.into_iter(), one, |one| enrolled.push(one)).await?;
    Ok(enrolled)
}

async fn everyone_finished(run: &Run, clients: u64) {
    let until = Instant::now() + MESSAGES_WAIT;
    while Totals::get(&run.totals.finished) < clients && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
