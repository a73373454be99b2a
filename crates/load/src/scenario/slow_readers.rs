//! slow-readers: clients whose mailboxes are full attach and then hardly read, or not at all, while
//! others chat. In the end they read everything.

use std::time::Instant;

use tokio::sync::watch;

use super::chat::Chat;
use super::mailboxes::Mailboxes;
use super::measure::{self, millis_since};
use super::{Failure, Stage};
use crate::latency::rounded;
use crate::plan::mailbox_frames;
use crate::progress::Progress;
use crate::recorder::Window;
use crate::run::{Phase, Totals};

pub(crate) async fn run(stage: &mut Stage<'_>) -> Result<(), Failure> {
    let plan = stage.plan;
    let set_up = Instant::now();
    let crowd = stage.crowd()?;
    let relay = stage.relay.after(plan.others as usize);
    let (readers, bytes) = (plan.clients, plan.payload_bytes);
    let frames = mailbox_frames(bytes);
    let progress = Progress::counting("filling mailboxes", 0);
    let filling = crowd.run(async move {
        let mailboxes = Mailboxes::open(relay, readers, 1, bytes, frames).await?;
        mailboxes.fill().await;
        Ok::<_, Failure>(mailboxes)
    });
    let mut mailboxes = stage.prepare(filling).await?;
    drop(progress);
    let run = mailboxes.run.clone();
    let chat = Chat::begin(stage).await?;
    stage.report.setup_ms = millis_since(set_up);

    let recorder = stage.recorder(&[chat.run.clone(), run.clone()], Window::Other);
    stage.calm(&recorder).await;
    let before = stage.rss();
    let (feed, hungry) = watch::channel(false);
    recorder.enter(Window::Other, "slow readers come");
    let calling = crowd.run(async move {
        mailboxes.call_slow_owners(&hungry).await?;
        Ok::<_, Failure>(mailboxes)
    });
    let mailboxes = stage.prepare(calling).await?;
    // Coming is a storm, which is another scenario; this is about who reads slowly.
    recorder.enter(Window::During, "all read slowly");
    stage.pause(plan.duration).await;
    let after = stage.rss();
    let taken = Totals::get(&run.totals.shown);
    recorder.enter(Window::Other, "they read as everyone");
    let draining = Instant::now();
    feed.send_replace(true);
    measure::quiet(&run).await;
    let drain_s = draining.elapsed().as_secs_f64();

    let figures = &mut stage.report.slow_readers;
    figures.readers = Some(plan.clients.into());
    figures.queued_frames = Some(frames);
    figures.rss_bytes_per_reader = measure::growth_per(after, before, plan.clients.into());
    figures.frames_taken_while_slow = Some(taken);
    figures.drain_s = Some(rounded(drain_s, 3));
    let chatted = chat.end(stage).await?;
    measure::quiet(&chatted.run).await;
    measure::record_timeline(&mut stage.report, recorder.end());
    measure::conservation(stage).await?;
    run.enter(Phase::Stop);
    let verdict = mailboxes.judge().await;
    chatted.record(stage, &[run], verdict).await;
    Ok(())
}
