//! Mailboxes whose owners are away, senders that fill them, and the owners' coming.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use valise_client::Dial;
use valise_proto::Token;

use super::Failure;
use super::crew::{self, Crew, Relay, some_at_a_time};
use crate::account::{self, Account, Live};
use crate::checker::Verdict;
use crate::cli::Kind;
use crate::peer::{Appetite, Peer};
use crate::plan::{FILL_WINDOW, senders_for};
use crate::run::{LoadPace, Phase, Run, Totals};
use crate::topology::Topology;

/// How long outcomes may take once nothing new is posted.
const OUTCOMES_WAIT: Duration = Duration::from_secs(10);

/// A slow reader's socket holds so little, in bytes, that the rest is up to the relay.
const SLOW_BUFFER_BYTES: u32 = 8 * 1024;

/// How often a slow reader that reads at all takes what one read gives.
const MOUTHFUL_EVERY: Duration = Duration::from_secs(1);

/// The mailboxes, and who fills them.
pub(super) struct Mailboxes {
    pub(super) run: Arc<Run>,
    pub(super) topology: Topology,
    relay: Relay,
    /// The owners', until they come.
    accounts: Vec<Account>,
    senders: u64,
    crew: Crew,
}

impl Mailboxes {
    /// Makes `owners` mailboxes, and connects senders that have `conversations` with each; each
    /// conversation may have so many frames.
    pub(super) async fn open(
        relay: Relay,
        owners: u32,
        conversations: u32,
        payload_bytes: usize,
        frames_per_conversation: u64,
    ) -> Result<Self, Failure> {
        let senders = senders_for(owners);
        let topology = Topology::mailboxes(owners, senders, conversations);
        let opened = open_all(&relay, &topology, owners as usize).await?;
        let (accounts, issued): (Vec<Account>, Vec<Vec<Token>>) = opened.into_iter().unzip();
        let run = Arc::new(Run::new(
            Kind::Post,
            payload_bytes,
            topology.recipients.len(),
            (owners + senders) as usize,
            frames_per_conversation,
            false,
        ));
        let mut crew = Crew::new(&topology);
        start_senders(&mut crew, &relay, &run, &topology, &issued).await?;
        Ok(Self { run, topology, relay, accounts, senders: senders.into(), crew })
    }

    /// Lets the senders post until every mailbox has its frames.
    pub(super) async fn fill(&self) {
        self.run.enter(Phase::Load(LoadPace::Window(FILL_WINDOW as usize)));
        self.filled().await;
        self.run.enter(Phase::Quiet);
        self.resolved().await;
    }

    /// Every sender has filled its mailboxes.
    pub(super) async fn filled(&self) {
        while Totals::get(&self.run.totals.finished) < self.senders {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// What was under way when the filling ended has its outcome, or gets none.
    pub(super) async fn resolved(&self) {
        let until = Instant::now() + OUTCOMES_WAIT;
        while self.run.totals.unresolved() > 0 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Everyone who has sent leaves; what was sent is in the logs.
    pub(super) async fn dismiss_senders(&mut self) {
        self.run.enter(Phase::Stop);
        self.crew.gather().await;
        self.run.enter(Phase::Quiet);
    }

    /// The owners will come there.
    pub(super) fn go_to(&mut self, relay: Relay) {
        self.relay = relay;
    }

    /// The owners come, some at a time, and take what waits.
    pub(super) async fn call_owners(&mut self) -> Result<(), Failure> {
        self.call(None).await
    }

    /// The owners come; until they are `hungry` half of them read now and then, half not at all.
    pub(super) async fn call_slow_owners(
        &mut self,
        hungry: &watch::Receiver<bool>,
    ) -> Result<(), Failure> {
        self.call(Some(hungry)).await
    }

    async fn call(&mut self, hungry: Option<&watch::Receiver<bool>>) -> Result<(), Failure> {
        let accounts = std::mem::take(&mut self.accounts);
        let lanes = self.topology.received(accounts.len());
        let slow = hungry.is_some();
        let relay = &self.relay;
        let one = |(number, account): (usize, Account)| {
            let dials = relay.dials(number);
            async move {
                let first = if slow { slow_dial(&dials[0]) } else { dials[0].clone() };
                let live = Box::pin(account.attach_patiently(&first)).await?;
                Ok((number, dials, account, live))
            }
        };
        let Self { run, topology, crew, .. } = self;
        let start = |(number, dials, account, live): (usize, Vec<Dial>, Account, Live)| {
            let receiver = crew::receiver(run, topology, &lanes[number], number);
            let peer = Peer::new(run.clone(), number, dials, account, None, receiver);
            match hungry {
                None => crew.start(peer, live),
                Some(hungry) => {
                    let reads = number % 2 == 0;
                    let appetite =
                        if reads { Appetite::Every(MOUTHFUL_EVERY) } else { Appetite::None };
                    crew.start_slowly(peer, live, appetite, hungry.clone());
                }
            }
        };
        some_at_a_time("owners", accounts.into_iter().enumerate(), one, start).await
    }

    /// What everyone saw. The run has to be stopped.
    pub(super) async fn judge(self) -> Verdict {
        self.crew.judge().await
    }
}

fn slow_dial(dial: &Dial) -> Dial {
    Dial { receive_buffer_bytes: Some(SLOW_BUFFER_BYTES), incoming_bytes_max: 1, ..dial.clone() }
}

/// Makes a mailbox for each owner and lets the owner go again, leaving capabilities behind.
async fn open_all(
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
    relay: &Relay,
    run: &Arc<Run>,
    topology: &Topology,
    issued: &[Vec<Token>],
) -> Result<(), Failure> {
    let capabilities = crew::capabilities(topology, issued);
    let mut turn = 0;
    for number in issued.len()..run.due.len() {
        let dials = relay.dials(number);
        let code = relay.codes.get(number);
        let (account, live) = Box::pin(account::enroll(&dials[0], code)).await?;
        let sender = crew::sender(run, topology, &capabilities, number, &mut turn, None);
        let receiver = crew::receiver(run, topology, &[], number);
        crew.start(Peer::new(run.clone(), number, dials, account, sender, receiver), live);
    }
    Ok(())
}
