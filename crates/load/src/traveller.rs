//! One client of a run that is the client library's own, as applications have it: it finds the way by
//! itself when the realm moves. The other clients of the harness are thinner, and know one relay.

use std::sync::Arc;

use tokio::sync::watch;
use valise_client::{Client, Dial, Update, Updates};
use valise_proto::Reason;

use crate::account::Account;
use crate::peer::PeerLog;
use crate::receiver::Receiver;
use crate::run::{Phase, Run, Totals};
use crate::sender::Sender;

/// One client.
pub(crate) struct Traveller {
    run: Arc<Run>,
    number: usize,
    client: Client,
    updates: Updates,
    /// `None` for a client that only receives.
    sender: Option<Sender>,
    receiver: Receiver,
    is_connected: bool,
    has_connected: bool,
}

impl Traveller {
    /// A client that serves its mailbox and is about to run. `sender` makes its conversations.
    pub(crate) fn start(
        run: Arc<Run>,
        number: usize,
        dial: Dial,
        account: Account,
        sender: impl FnOnce(Client) -> Option<Sender>,
        receiver: Receiver,
    ) -> Self {
        let (client, updates) = Client::start(dial);
        client.serve(Arc::new(account.owner), account.member);
        let sender = sender(client.clone());
        Self {
            run,
            number,
            client,
            updates,
            sender,
            receiver,
            is_connected: false,
            has_connected: false,
        }
    }

    /// Sends what is due and shows what comes, until the run ends.
    pub(crate) async fn run(mut self) -> PeerLog {
        let mut phase = self.run.phase();
        let due = self.run.due[self.number].clone();
        loop {
            let now = *phase.borrow_and_update();
            if now == Phase::Stop {
                self.client.close().await;
                break;
            }
            if let Some(sender) = &mut self.sender {
                sender.generate(now);
            }
            // Biased, because what has arrived is worth more than what could be begun.
            tokio::select! {
                biased;
                update = self.updates.next() => match update {
                    Some(update) => self.handle(update),
                    None => {
                        stop(&mut phase).await;
                        break;
                    }
                },
                () = due.notified() => {}
                _ = phase.changed() => {}
            }
        }
        self.connected(false);
        let sent = self.sender.into_iter().flat_map(Sender::into_log).collect();
        let (shown, strays) = self.receiver.into_log();
        PeerLog { sent, shown, strays }
    }

    fn handle(&mut self, update: Update) {
        match update {
            Update::Message { payload, receipt, .. } => {
                self.receiver.receive(&payload);
                self.client.acknowledge(receipt);
            }
            Update::Settled(settled) => {
                if let Some(sender) = &mut self.sender {
                    sender.settle([settled]);
                }
            }
            Update::Connected => {
                if std::mem::replace(&mut self.has_connected, true) {
                    Totals::add(&self.run.totals.reconnects, 1);
                }
                self.connected(true);
            }
            Update::Disconnected { .. } => {
                self.run.error("disconnected");
                self.connected(false);
                if let Some(sender) = &mut self.sender {
                    sender.lost();
                }
            }
            // It never is, unless somebody else has its key: not even when its shard moves.
            Update::Replaced { .. } => self.failed("replaced"),
            Update::NotServed { reason, .. } => {
                let reason = reason.map_or("unknown", Reason::name);
                self.failed(&format!("not served: {reason}"));
            }
            Update::GaveUp(stop) => self.failed(&format!("gave up: {stop}")),
            // What is signaled, preferred, learnt or caught up changes nothing here.
            _ => {}
        }
    }

    fn failed(&self, how: &str) {
        self.run.error(how);
        Totals::add(&self.run.totals.failed, 1);
    }

    fn connected(&mut self, is_connected: bool) {
        let attached = &self.run.totals.attached;
        match (std::mem::replace(&mut self.is_connected, is_connected), is_connected) {
            (false, true) => Totals::add(attached, 1),
            (true, false) => drop(attached.fetch_sub(1, std::sync::atomic::Ordering::Relaxed)),
            _ => {}
        }
    }
}

/// Waits until the run ends.
async fn stop(phase: &mut watch::Receiver<Phase>) {
    // Without a run there is nothing to wait for.
    phase.wait_for(|phase| *phase == Phase::Stop).await.ok();
}
