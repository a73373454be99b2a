//! offline: mailboxes are filled while their owners are away; then the owners come and take
//! everything. The filling measures the store, since nothing can be handed over without it.

use std::time::Instant;

use super::mailboxes::Mailboxes;
use super::measure::{self, Load, Loaded, Span, millis_since};
use super::{Failure, Stage};
use crate::latency::{millis, rounded};
use crate::plan::mailbox_frames;
use crate::progress::Progress;
use crate::recorder::Window;
use crate::run::{Phase, Totals};

pub(crate) async fn run(stage: &mut Stage<'_>) -> Result<(), Failure> {
    let plan = stage.plan;
    let set_up = Instant::now();
    // As many as fit the mailbox.
    let frames = mailbox_frames(plan.payload_bytes) / u64::from(plan.conversations);
    let open = Mailboxes::open(
        stage.relay.clone(),
        plan.clients,
        plan.conversations,
        plan.payload_bytes,
        frames,
    );
    let mut mailboxes = stage.prepare(open).await?;
    let run = mailboxes.run.clone();
    stage.report.setup_ms = millis_since(set_up);

    let progress = Progress::watching("fill", run.clone());
    let whole = Span::begin(stage.spawned.as_ref());
    let recorder = stage.recorder(std::slice::from_ref(&run), Window::Calm);
    let load = Load::begin(&run, &mailboxes.topology, plan.pace, stage.spawned.as_ref());
    tokio::select! {
        () = tokio::time::sleep(plan.duration) => {}
        () = mailboxes.filled() => {}
        () = stage.interrupt() => {}
    }
    let filled = load.end(&run, stage.spawned.as_ref()).await?;
    mailboxes.resolved().await;
    drop(progress);
    report_fill(stage, &filled);

    let progress = Progress::watching("drain", run.clone());
    recorder.enter(Window::Other, "owners come");
    let span = Span::begin(stage.spawned.as_ref());
    let draining = Instant::now();
    mailboxes.call_owners().await?;
    let attaching = draining.elapsed();
    let quiet = measure::quiet(&run).await;
    let drain_s = (attaching + quiet).as_secs_f64();
    let drain = span.end(stage.spawned.as_ref());
    drop(progress);
    measure::record_timeline(&mut stage.report, recorder.end());
    let shown = Totals::get(&run.totals.shown);
    stage.report.drain_s = Some(rounded(drain_s, 3));
    stage.report.drain_shown_per_s = Some(rounded(shown as f64 / drain_s, 1));
    stage.report.drain_server_cpu_us_per_frame = drain.server_cpu_us_per(shown);
    stage.report.quiet_ms = Some(millis(quiet));
    measure::conservation(stage).await?;
    run.enter(Phase::Stop);
    let spent = whole.end(stage.spawned.as_ref());
    measure::record(&mut stage.report, &[run], mailboxes.judge().await, &filled, &spent);
    Ok(())
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
