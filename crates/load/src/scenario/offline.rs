//! offline: mailboxes are filled while their owners are away; then the owners come and take
//! everything. The filling measures the store, since nothing can be handed over without it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use valise_client::Dial;
use valise_proto::Token;

use super::crew::{self, Crew, Relay, some_at_a_time};
use super::measure::{self, Load, Loaded, Span, millis_since};
use super::{Failure, Stage};
use crate::account::{self, Account, Live};
use crate::latency::{millis, rounded};
use crate::peer::Peer;
use crate::plan::mailbox_frames;
use crate::progress::Progress;
use crate::run::{Phase, Run, Totals};
use crate::topology::Topology;

/// How long outcomes may take once nothing new is posted.
const OUTCOMES_WAIT: Duration = Duration::from_secs(10);

pub(crate) async fn run(stage: &mut Stage<'_>) -> Result<(), Failure> {
    let plan = stage.plan;
    let owners = plan.clients as usize;
    let senders = plan.offline_senders() as usize;
    let clients = owners + senders;
    let topology = Topology::mailboxes(plan.clients, plan.offline_senders(), plan.conversations);
    let set_up = Instant::now();
    let accounts = stage.prepare(open_mailboxes(&stage.relay, &topology, owners)).await?;
    let lanes = topology.recipients.len();
    let run = Arc::new(Run::new(
        plan.kind,
        plan.payload_bytes,
        lanes,
        clients,
        frames_per_conversation(plan.payload_bytes, plan.conversations),
        false,
    ));
    let mut crew = Crew::new(&topology);
    let issued: Vec<Vec<Token>> = accounts.iter().map(|(_, tokens)| tokens.clone()).collect();
    let started = start_senders(&mut crew, stage, &run, &topology, &issued);
    stage.prepare(started).await?;
    stage.report.setup_ms = millis_since(set_up);

    let progress = Progress::watching("fill", run.clone());
    let whole = Span::begin(stage.spawned.as_ref());
    let load = Load::begin(&run, &topology, plan.pace, stage.spawned.as_ref());
    tokio::select! {
        () = tokio::time::sleep(plan.duration) => {}
        () = finished(&run, senders as u64) => {}
        () = stage.interrupt() => {}
    }
    let filled = load.end(&run, stage.spawned.as_ref()).await?;
    resolved(&run).await;
    drop(progress);
    report_fill(stage, &filled);

    let progress = Progress::watching("drain", run.clone());
    let span = Span::begin(stage.spawned.as_ref());
    let draining = Instant::now();
    let accounts = accounts.into_iter().map(|(account, _)| account).collect();
    attach_owners(&mut crew, stage, &run, &topology, accounts).await?;
    let attaching = draining.elapsed();
    let quiet = measure::quiet(&run).await;
    let drain_s = (attaching + quiet).as_secs_f64();
    let drain = span.end(stage.spawned.as_ref());
    drop(progress);
    let shown = Totals::get(&run.totals.shown);
    stage.report.drain_s = Some(rounded(drain_s, 3));
    stage.report.drain_shown_per_s = Some(rounded(shown as f64 / drain_s, 1));
    stage.report.drain_server_cpu_us_per_frame = drain.server_cpu_us_per(shown);
    stage.report.quiet_ms = Some(millis(quiet));
    measure::conservation(stage).await?;
    run.enter(Phase::Stop);
    let spent = whole.end(stage.spawned.as_ref());
    measure::record(&mut stage.report, &run, crew.judge().await, &filled, &spent);
    Ok(())
}

/// As many as fit the mailbox.
fn frames_per_conversation(payload_bytes: usize, conversations: u32) -> u64 {
    mailbox_frames(payload_bytes) / u64::from(conversations)
}

/// Makes a mailbox for each owner and lets the owner go again, leaving capabilities behind.
async fn open_mailboxes(
    relay: &Relay,
    topology: &Topology,
    owners: usize,
) -> Result<Vec<(Account, Vec<Token>)>, Failure> {
    let lanes = topology.received(owners).into_iter().map(|lanes| lanes.len());
    let one = |(number, lanes): (usize, usize)| {
        let relay = relay.clone();
        async move {
            let dial = relay.dial(number);
            let (account, live) = Box::pin(account::enroll(&dial, relay.codes.get(number))).await?;
            let capabilities = live.capabilities(lanes).await?;
            live.connection.close().await;
            Ok((account, capabilities))
        }
    };
    let mut opened = Vec::with_capacity(owners);
    some_at_a_time("mailboxes", lanes.enumerate(), one, |one| opened.push(one)).await?;
    Ok(opened)
}

async fn start_senders(
    crew: &mut Crew,
    stage: &Stage<'_>,
    run: &Arc<Run>,
    topology: &Topology,
    issued: &[Vec<Token>],
) -> Result<(), Failure> {
    let capabilities = crew::capabilities(topology, issued);
    let mut turn = 0;
    for number in issued.len()..run.due.len() {
        let dial = stage.relay.dial(number);
        let code = stage.relay.codes.get(number);
        let (account, live) = Box::pin(account::enroll(&dial, code)).await?;
        let peer = Peer {
            run: run.clone(),
            number,
            dial,
            account,
            sender: crew::sender(run, topology, &capabilities, number, &mut turn),
            receiver: crew::receiver(run, topology, &[], number),
        };
        crew.start(peer, live);
    }
    Ok(())
}

/// The owners come back, some at a time, and take what waits.
async fn attach_owners(
    crew: &mut Crew,
    stage: &Stage<'_>,
    run: &Arc<Run>,
    topology: &Topology,
    accounts: Vec<Account>,
) -> Result<(), Failure> {
    let lanes = topology.received(accounts.len());
    let one = |(number, account): (usize, Account)| {
        let dial = stage.relay.dial(number);
        async move {
            let live = Box::pin(account.attach_patiently(&dial)).await?;
            Ok((number, dial, account, live))
        }
    };
    let start = |(number, dial, account, live): (usize, Dial, Account, Live)| {
        let receiver = crew::receiver(run, topology, &lanes[number], number);
        let peer = Peer { run: run.clone(), number, dial, account, sender: None, receiver };
        crew.start(peer, live);
    };
    some_at_a_time("owners", accounts.into_iter().enumerate(), one, start).await
}

/// Every sender has filled its mailboxes.
async fn finished(run: &Run, senders: u64) {
    while Totals::get(&run.totals.finished) < senders {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// What was under way when the filling ended has its outcome, or gets none.
async fn resolved(run: &Run) {
    let until = Instant::now() + OUTCOMES_WAIT;
    while run.totals.unresolved() > 0 && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn report_fill(stage: &mut Stage<'_>, filled: &Loaded) {
    let spent = &filled.spent;
    let report = &mut stage.report;
    report.fill_s = Some(rounded(spent.seconds, 3));
    report.fill_accepted_per_s = Some(rounded(filled.accepted as f64 / spent.seconds, 1));
    report.fill_server_cpu_us_per_frame = spent.server_cpu_us_per(filled.accepted);
    let bytes = filled.accepted * stage.plan.payload_bytes as u64;
    if let (Some(server), true) = (spent.server, bytes > 0) {
        let amplification = server.written_bytes as f64 / bytes as f64;
        report.fill_write_amplification = Some(rounded(amplification, 2));
    }
}
