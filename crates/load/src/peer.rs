//! One client of a run, as a task: it serves its connection, and after a loss it comes back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use valise_client::{Backoff, Dial, Ending, Event, random};
use valise_proto::{Move, MovePhase};

use crate::account::{Account, Live};
use crate::checker::{SentLane, ShownLane, Strays};
use crate::receiver::Receiver;
use crate::run::{Away, Cut, Phase, Run, Totals};
use crate::sender::Sender;

/// Events handled before acknowledgements and new frames have their turn.
const EVENTS_PER_TURN: usize = 256;

/// One client.
pub(crate) struct Peer {
    run: Arc<Run>,
    number: usize,
    /// The nodes, in the order in which they are tried.
    dials: Vec<Dial>,
    account: Account,
    /// `None` for a client that only receives.
    sender: Option<Sender>,
    receiver: Receiver,
    /// The relay restarts, and wants us back after a random part of this.
    told: Option<Duration>,
    /// When to go to the node that the relay has named.
    leave_at: Option<Instant>,
    /// The last disruption we have come back from.
    back_from_ns: u64,
}

/// What a client leaves to the checker.
#[derive(Default)]
pub(crate) struct PeerLog {
    pub(crate) sent: Vec<(usize, SentLane)>,
    pub(crate) shown: Vec<(usize, ShownLane)>,
    pub(crate) strays: Strays,
}

/// Why a connection is not served any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Served {
    /// The run is over.
    Stopped,
    /// Come back.
    Lost,
    /// We cut it: come back after a random part of this.
    Cut(Duration),
    /// We went away on purpose.
    Left,
    /// The relay wants us at another node.
    Moved,
    /// Another client attached the mailbox: a client never comes back by itself then.
    Replaced,
}

/// What a client follows.
struct Orders {
    phase: watch::Receiver<Phase>,
    cuts: watch::Receiver<Cut>,
    away: watch::Receiver<Away>,
}

/// How eagerly a slow client reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Appetite {
    /// Not at all.
    None,
    /// A mouthful, then a pause.
    Every(Duration),
}

impl Peer {
    /// A client that is about to run.
    pub(crate) fn new(
        run: Arc<Run>,
        number: usize,
        dials: Vec<Dial>,
        account: Account,
        sender: Option<Sender>,
        receiver: Receiver,
    ) -> Self {
        Self {
            run,
            number,
            dials,
            account,
            sender,
            receiver,
            told: None,
            leave_at: None,
            back_from_ns: 0,
        }
    }

    /// Serves the connection and those after it until the run ends.
    pub(crate) async fn run(mut self, live: Live) -> PeerLog {
        let mut orders =
            Orders { phase: self.run.phase(), cuts: self.run.cuts(), away: self.run.away() };
        let mut next = Some(live);
        while let Some(mut live) = next.take() {
            Totals::add(&self.run.totals.attached, 1);
            let served = Box::pin(self.serve(&mut live, &mut orders)).await;
            self.run.totals.attached.fetch_sub(1, Ordering::Relaxed);
            let first_wait = match served {
                Served::Stopped => break,
                Served::Replaced => {
                    self.run.error("replaced");
                    Totals::add(&self.run.totals.failed, 1);
                    break;
                }
                Served::Lost => self.told.take().map(random_part),
                Served::Cut(within) => {
                    live.connection.abort();
                    Some(random_part(within))
                }
                Served::Left | Served::Moved => {
                    live.connection.close().await;
                    Some(Duration::ZERO)
                }
            };
            drop(live);
            if let Some(sender) = &mut self.sender {
                sender.lost();
            }
            if served == Served::Left {
                self.stay_away(&mut orders).await;
            }
            next = Box::pin(self.come_back(&mut orders.phase, first_wait)).await;
        }
        self.into_log()
    }

    /// Reads slowly until `hungry`, then as everyone.
    pub(crate) async fn run_slowly(
        mut self,
        mut live: Live,
        appetite: Appetite,
        mut hungry: watch::Receiver<bool>,
    ) -> PeerLog {
        let mut ended = false;
        while !ended && !*hungry.borrow_and_update() {
            let pause = match appetite {
                Appetite::None => Duration::MAX,
                Appetite::Every(pause) => pause,
            };
            tokio::select! {
                biased;
                changed = hungry.changed() => ended = changed.is_err(),
                () = tokio::time::sleep(pause) => {
                    let event = live.incoming.try_next();
                    if event.is_some() && self.hear(&mut live, event).is_some() {
                        // The connection is over; what has ended once says so again.
                        ended = true;
                    }
                }
            }
        }
        self.run(live).await
    }

    /// Each turn: begin what is due, post it, then hear what there is and acknowledge it.
    async fn serve(&mut self, live: &mut Live, orders: &mut Orders) -> Served {
        let due = self.run.due[self.number].clone();
        loop {
            let now = *orders.phase.borrow_and_update();
            if now == Phase::Stop {
                return Served::Stopped;
            }
            let is_away = orders.away.borrow_and_update().includes(self.number);
            if is_away && matches!(now, Phase::Load(_)) {
                return Served::Left;
            }
            let mut wants_room = false;
            let mut wake_at = None;
            if let Some(sender) = &mut self.sender {
                sender.generate(now);
                wants_room = sender.pump(&live.connection);
                wake_at = if wants_room { None } else { sender.wake_at() };
            }
            let wake =
                tokio::time::sleep_until(wake_at.unwrap_or_else(std::time::Instant::now).into());
            let leave = tokio::time::sleep_until(self.leave_at.unwrap_or_else(Instant::now));
            // Biased, because what has arrived is worth more than what could be begun.
            let event = tokio::select! {
                biased;
                _ = orders.cuts.changed() => {
                    return Served::Cut(orders.cuts.borrow_and_update().within);
                }
                event = live.incoming.next() => event,
                () = leave, if self.leave_at.is_some() => return Served::Moved,
                () = due.notified() => continue,
                () = live.connection.ready(), if wants_room => continue,
                _ = orders.phase.changed() => continue,
                _ = orders.away.changed() => continue,
                () = wake, if wake_at.is_some() => continue,
            };
            if let Some(served) = self.hear(live, event) {
                return served;
            }
        }
    }

    /// Away on purpose, until called back or nothing new is sent any more.
    async fn stay_away(&mut self, orders: &mut Orders) {
        Totals::add(&self.run.totals.absences, 1);
        self.receiver.catch_up(true);
        let number = self.number;
        tokio::select! {
            _ = orders.away.wait_for(|away| !away.includes(number)) => {}
            _ = orders.phase.wait_for(|phase| matches!(phase, Phase::Quiet | Phase::Stop)) => {}
        }
        if let Some(sender) = &mut self.sender {
            sender.skip(*orders.phase.borrow());
        }
    }

    /// Handles an event and some of those that wait behind it, and acknowledges the deliveries.
    fn hear(&mut self, live: &mut Live, first: Option<Event>) -> Option<Served> {
        let mut delivered = None;
        let mut served = None;
        let mut event = first;
        for room in (0..EVENTS_PER_TURN).rev() {
            let Some(heard) = event else {
                served = Some(Served::Lost);
                break;
            };
            served = self.handle(heard, live.attachment, &mut delivered);
            if served.is_some() || room == 0 {
                break;
            }
            match live.incoming.try_next() {
                Some(next) => event = Some(next),
                None => break,
            }
        }
        if let Some(n) = delivered {
            // If the connection has ended meanwhile, its last event says so.
            live.connection.ack(live.attachment, n).ok();
        }
        served
    }

    fn handle(
        &mut self,
        event: Event,
        attachment: u32,
        delivered: &mut Option<u64>,
    ) -> Option<Served> {
        match event {
            Event::Deliver(deliver) if deliver.attachment == attachment => {
                self.receiver.receive(&deliver.payload);
                *delivered = Some(deliver.n);
            }
            Event::Signaled { payload, .. } => self.receiver.receive(&payload),
            Event::Posted(posted) => {
                if let Some(sender) = &mut self.sender {
                    sender.posted(&posted);
                }
            }
            Event::Refused(refused) => {
                if let Some(sender) = &mut self.sender {
                    sender.refused(&refused);
                }
            }
            Event::Replaced { .. } => return Some(Served::Replaced),
            Event::Closed(ending) => {
                self.note_ending(&ending);
                return Some(Served::Lost);
            }
            Event::Restarting { reconnect_in_ms, .. } => {
                Totals::add(&self.run.totals.told, 1);
                self.told = Some(Duration::from_millis(reconnect_in_ms.into()));
            }
            Event::CaughtUp { .. } => self.receiver.catch_up(false),
            Event::Move(moved) => self.follow(&moved),
            Event::BundleLow { .. } | Event::Deliver(_) => {}
        }
        None
    }

    /// The node that a `Move{GO}` names first, if it is one of ours, is where we come back. The client
    /// library attaches there before it lets go here; this lets go first, so its gap is the larger one.
    fn follow(&mut self, moved: &Move) {
        let place = |dial: &Dial| format!("{}:{}", dial.address.host, dial.address.port);
        let first = moved.endpoints.first().filter(|_| moved.phase == Some(MovePhase::Go));
        let at = first.and_then(|first| self.dials.iter().position(|dial| place(dial) == *first));
        if let Some(at) = at {
            // The first one after a rotation is tried next.
            let nodes = self.dials.len();
            self.dials.rotate_left((at + nodes - 1) % nodes);
            let spread = Duration::from_millis(moved.spread_ms.into());
            self.leave_at = Some(Instant::now() + random_part(spread));
        }
    }

    fn note_ending(&self, ending: &Ending) {
        match ending {
            Ending::Relay(reason) => {
                let reason = reason.map_or("unknown", valise_proto::CloseReason::name);
                self.run.error(format!("closed by the relay: {reason}"));
            }
            Ending::Network(_) => self.run.error("connection broken"),
            Ending::Ours => {}
        }
    }

    /// Connects and attaches again, after a random wait each time; `None` at the end of the run, or
    /// if the relay will not have us any more.
    async fn come_back(
        &mut self,
        phase: &mut watch::Receiver<Phase>,
        mut first_wait: Option<Duration>,
    ) -> Option<Live> {
        self.leave_at = None;
        for failures in 1.. {
            // Not where it was lost, if there is another.
            self.dials.rotate_left(1);
            let wait = first_wait
                .take()
                .unwrap_or_else(|| Backoff::RESTART.wait(failures, random::fraction()));
            let attempt = async {
                tokio::time::sleep_until(Instant::now() + wait).await;
                self.account.attach(&self.dials[0]).await
            };
            let attached = tokio::select! {
                biased;
                _ = phase.wait_for(|phase| *phase == Phase::Stop) => return None,
                attached = attempt => attached,
            };
            match attached {
                Ok(live) => {
                    Totals::add(&self.run.totals.reconnects, 1);
                    self.note_back();
                    return Some(live);
                }
                Err(error) if error.may_pass() => self.run.error(error.reason()),
                Err(error) => {
                    self.run.error(error.to_string());
                    Totals::add(&self.run.totals.failed, 1);
                    return None;
                }
            }
        }
        None
    }

    /// Counts the way back from a disruption, once.
    fn note_back(&mut self) {
        let disrupted_ns = self.run.disrupted_ns();
        if disrupted_ns > self.back_from_ns {
            self.back_from_ns = disrupted_ns;
            let took_ns = self.run.now_ns().saturating_sub(disrupted_ns);
            self.run.back.record(self.number, took_ns);
            Totals::add(&self.run.totals.back, 1);
        }
    }

    fn into_log(self) -> PeerLog {
        let sent = self.sender.into_iter().flat_map(Sender::into_log).collect();
        let (shown, strays) = self.receiver.into_log();
        PeerLog { sent, shown, strays }
    }
}

fn random_part(whole: Duration) -> Duration {
    random::between(Duration::ZERO, whole)
}
