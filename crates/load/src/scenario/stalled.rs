//! stalled: connections that get stuck at each place where one can, while others chat. How much
//! does one cost, and when does the relay let go of it?

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::chat::Chat;
use super::crew::Relay;
use super::herd::join_all;
use super::measure::{self, millis_since};
use super::{Failure, Stage};
use crate::account::Account;
use crate::bare::{self, Bare, BareError, Stuck};
use crate::checker::Verdict;
use crate::latency::rounded;
use crate::recorder::Window;
use crate::report::Reaped;
use crate::run::{Run, Totals};

/// Connections that are opened at the same time.
const OPENING_MAX: usize = 64;

/// Over how long they are opened: this is about being stuck, not about a storm. Far less than the
/// relay's patience, so that all are stuck together for some time.
const OPENED_WITHIN: Duration = Duration::from_secs(4);

/// Memory is looked at so long after the last one got stuck.
const SETTLING: Duration = Duration::from_secs(1);

/// A connection that is still open by then is not reaped at all. The relay waits 90 s for a ping; the rest
/// is for a slow machine.
const WATCHED: Duration = Duration::from_secs(160);

/// Those that never said `Hello` should be gone by then, with some allowance for a busy machine.
const ESTABLISHMENT: Duration = Duration::from_secs(15);

/// How one of them fared.
struct Fate {
    stuck: Stuck,
    /// `None` if it was still open when we stopped looking.
    reaped: Option<Duration>,
}

pub(crate) async fn run(stage: &mut Stage<'_>) -> Result<(), Failure> {
    let plan = stage.plan;
    let set_up = Instant::now();
    let crowd = stage.crowd()?;
    let each = plan.clients as usize / Stuck::ALL.len();
    let relay = stage.relay.after(plan.others as usize);
    let joining = relay.clone();
    let join = crowd.run(async move { join_all(&joining, each).await });
    let accounts = stage.prepare(join).await?;
    let chat = Chat::begin(stage).await?;
    stage.report.setup_ms = millis_since(set_up);

    let recorder = stage.recorder(std::slice::from_ref(&chat.run), Window::Other);
    stage.calm(&recorder).await;
    let before = stage.rss();
    recorder.enter(Window::Other, "they come");
    let run = chat.run.clone();
    let held = stage.bare.clone();
    let (began, mut watching) =
        crowd.run(async move { open_all(&relay, &run, accounts, each, &held).await }).await;
    // Coming is a storm, which is another scenario; this is about who is stuck.
    recorder.enter(Window::During, "all stuck");
    tokio::time::sleep(SETTLING).await;
    let open = stage.bare.load(Ordering::Relaxed);
    stage.report.stalled.connections = Some(open);
    stage.report.stalled.rss_bytes_per_connection = measure::growth_per(stage.rss(), before, open);
    let mut fates = Vec::new();
    let mut handshakes_over = false;
    loop {
        let left = if handshakes_over { WATCHED } else { ESTABLISHMENT };
        tokio::select! {
            fate = watching.join_next() => match fate {
                Some(fate) => fates.push(fate.expect("watching never panics")),
                None => break,
            },
            () = tokio::time::sleep_until((began + left).into()), if !handshakes_over => {
                handshakes_over = true;
                recorder.enter(Window::Other, "only the silent are left");
            }
            () = stage.interrupt() => break,
        }
    }
    recorder.enter(Window::Other, "all reaped");
    record_fates(stage, &fates);
    let chatted = chat.end(stage).await?;
    measure::quiet(&chatted.run).await;
    measure::record_timeline(&mut stage.report, recorder.end());
    measure::conservation(stage).await?;
    chatted.record(stage, &[], Verdict::default()).await;
    Ok(())
}

/// Opens `each` connections of each kind, mixed; a task watches each of them.
async fn open_all(
    relay: &Relay,
    run: &Arc<Run>,
    accounts: Vec<Account>,
    each: usize,
    held: &Arc<AtomicU64>,
) -> (Instant, JoinSet<Fate>) {
    let began = Instant::now();
    let mut watching = JoinSet::new();
    let turns = Arc::new(tokio::sync::Semaphore::new(OPENING_MAX));
    let opened = Arc::new(AtomicU64::new(0));
    let mut accounts = accounts.into_iter();
    let all = u32::try_from(each * Stuck::ALL.len()).expect("connections fit 32 bits");
    let step = OPENED_WITHIN / all.max(1);
    for number in 0..each * Stuck::ALL.len() {
        let stuck = Stuck::ALL[number % Stuck::ALL.len()];
        let account = if stuck == Stuck::Silent { accounts.next() } else { None };
        let (dial, run, held) = (relay.dial(number), run.clone(), held.clone());
        let (turns, opened) = (turns.clone(), opened.clone());
        let intended = began + step * u32::try_from(number).expect("connections fit 32 bits");
        watching.spawn(async move {
            tokio::time::sleep_until(intended.into()).await;
            let turn = turns.acquire().await.expect("the turns never end");
            // Not later than the relay's clock begins, so that nothing seems to be reaped too soon.
            let since = Instant::now();
            let bare = bare::open(&dial, stuck, account.as_ref()).await;
            drop(turn);
            opened.fetch_add(1, Ordering::Relaxed);
            watch(bare, since, stuck, &run, &held).await
        });
    }
    while opened.load(Ordering::Relaxed) < (each * Stuck::ALL.len()) as u64 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    (began, watching)
}

async fn watch(
    bare: Result<Bare, BareError>,
    since: Instant,
    stuck: Stuck,
    run: &Run,
    held: &AtomicU64,
) -> Fate {
    let mut bare = match bare {
        Ok(bare) => bare,
        Err(error) => {
            run.error(format!("stalled connection not opened: {}", error.reason()));
            Totals::add(&run.totals.failed, 1);
            return Fate { stuck, reaped: None };
        }
    };
    held.fetch_add(1, Ordering::Relaxed);
    let ended = tokio::time::timeout(WATCHED, bare.ended()).await;
    held.fetch_sub(1, Ordering::Relaxed);
    Fate { stuck, reaped: ended.is_ok().then(|| since.elapsed()) }
}

fn record_fates(stage: &mut Stage<'_>, fates: &[Fate]) {
    let figures = &mut stage.report.stalled;
    for (stuck, reaped) in [
        (Stuck::NoClientHello, &mut figures.no_client_hello),
        (Stuck::HalfHandshake, &mut figures.half_handshake),
        (Stuck::NoHello, &mut figures.no_hello),
        (Stuck::Silent, &mut figures.silent),
    ] {
        let of_kind = || fates.iter().filter(move |fate| fate.stuck == stuck);
        let times = || of_kind().filter_map(|fate| fate.reaped);
        let seconds = |time: Duration| rounded(time.as_secs_f64(), 2);
        *reaped = Reaped {
            opened: Some(of_kind().count() as u64),
            reaped: Some(times().count() as u64),
            least_s: times().min().map(seconds),
            most_s: times().max().map(seconds),
        };
    }
}
