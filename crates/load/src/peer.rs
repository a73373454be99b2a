//! One client of a run, as a task: it serves its connection, and after a loss it comes back.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;
use valise_client::{Backoff, Dial, Ending, Event, random};

use crate::account::{Account, Live};
use crate::checker::{SentLane, ShownLane, Strays};
use crate::receiver::Receiver;
use crate::run::{Phase, Run, Totals};
use crate::sender::Sender;

/// Events handled before acknowledgements and new frames have their turn.
const EVENTS_PER_TURN: usize = 256;

/// One client.
pub(crate) struct Peer {
    pub(crate) run: Arc<Run>,
    pub(crate) number: usize,
    pub(crate) dial: Dial,
    pub(crate) account: Account,
    /// `None` for a client that only receives.
    pub(crate) sender: Option<Sender>,
    pub(crate) receiver: Receiver,
}

/// What a client leaves to the checker.
#[derive(Default)]
pub(crate) struct PeerLog {
    pub(crate) sent: Vec<(usize, SentLane)>,
    pub(crate) shown: Vec<(usize, ShownLane)>,
    pub(crate) strays: Strays,
}

/// Why a connection is not served any more.
enum Served {
    /// The run is over.
    Stopped,
    /// Come back.
    Lost,
    /// Another client attached the mailbox: a client never comes back by itself then.
    Replaced,
}

impl Peer {
    /// Serves the connection and those after it until the run ends.
    pub(crate) async fn run(mut self, live: Live) -> PeerLog {
        let mut phase = self.run.phase();
        let mut next = Some(live);
        while let Some(mut live) = next.take() {
            Totals::add(&self.run.totals.attached, 1);
            let served = Box::pin(self.serve(&mut live, &mut phase)).await;
            self.run.totals.attached.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
            match served {
                Served::Stopped => break,
                Served::Replaced => {
                    self.run.error("replaced");
                    Totals::add(&self.run.totals.failed, 1);
                }
                Served::Lost => {
                    drop(live);
                    if let Some(sender) = &mut self.sender {
                        sender.lost();
                    }
                    next = Box::pin(self.come_back(&mut phase)).await;
                }
            }
        }
        self.into_log()
    }

    /// Each turn: begin what is due, post it, then hear what there is and acknowledge it.
    async fn serve(&mut self, live: &mut Live, phase: &mut watch::Receiver<Phase>) -> Served {
        let due = self.run.due[self.number].clone();
        loop {
            let now = *phase.borrow_and_update();
            if now == Phase::Stop {
                return Served::Stopped;
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
            // Biased, because what has arrived is worth more than what could be begun.
            let event = tokio::select! {
                biased;
                event = live.incoming.next() => event,
                () = due.notified() => continue,
                () = live.connection.ready(), if wants_room => continue,
                _ = phase.changed() => continue,
                () = wake, if wake_at.is_some() => continue,
            };
            if let Some(served) = self.hear(live, event) {
                return served;
            }
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
            Event::Restarting { .. }
            | Event::CaughtUp { .. }
            | Event::BundleLow { .. }
            | Event::Deliver(_) => {}
        }
        None
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
    async fn come_back(&mut self, phase: &mut watch::Receiver<Phase>) -> Option<Live> {
        for failures in 1.. {
            let wait = Backoff::RESTART.wait(failures, random::fraction());
            let attempt = async {
                tokio::time::sleep_until(Instant::now() + wait).await;
                self.account.attach(&self.dial).await
            };
            let attached = tokio::select! {
                biased;
                _ = phase.wait_for(|phase| *phase == Phase::Stop) => return None,
                attached = attempt => attached,
            };
            match attached {
                Ok(live) => {
                    Totals::add(&self.run.totals.reconnects, 1);
                    return Some(live);
                }
                Err(error) if error.may_pass() => {}
                Err(error) => {
                    self.run.error(error.to_string());
                    Totals::add(&self.run.totals.failed, 1);
                    return None;
                }
            }
        }
        None
    }

    fn into_log(self) -> PeerLog {
        let sent = self.sender.into_iter().flat_map(Sender::into_log).collect();
        let (shown, strays) = self.receiver.into_log();
        PeerLog { sent, shown, strays }
    }
}
