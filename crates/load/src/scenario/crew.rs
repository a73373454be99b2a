//! The clients of a run: from nothing to attached, and at the end back to their logs.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use tokio::sync::watch;
use tokio::task::JoinSet;
use valise_client::{Client, TransportKind};
use valise_proto::{RelayAddress, Token};

use super::Failure;
use crate::account::{self, Account, AccountError, Live};
use crate::checker::{Lane, Strays, Verdict};
use crate::peer::{Appetite, Peer, PeerLog};
use crate::progress::Progress;
use crate::receiver::Receiver;
use crate::run::{Run, Totals};
use crate::sender::{Opening, Sender};
use crate::topology::Topology;
use crate::traveller::Traveller;

/// Clients that connect at the same time during the set-up.
const CONNECTING_MAX: usize = 64;

/// How the clients of a run reach the relay.
#[derive(Debug, Clone)]
pub(crate) struct Relay {
    pub(crate) address: RelayAddress,
    /// Of the other nodes of a data centre.
    pub(crate) further: Vec<RelayAddress>,
    pub(crate) transport: TransportKind,
    /// One per client, or none.
    pub(crate) codes: Vec<Token>,
}

/// A client that is attached and does nothing yet.
pub(crate) struct Enrolled {
    pub(crate) account: Account,
    pub(crate) live: Live,
    /// One for each lane that leads to it, in their order.
    pub(crate) capabilities: Vec<Token>,
}

/// The running clients.
pub(crate) struct Crew {
    tasks: JoinSet<PeerLog>,
    /// Of those that have ended.
    lanes: Vec<Lane>,
    strays: Strays,
}

impl Relay {
    pub(crate) fn dial(&self, number: usize) -> valise_client::Dial {
        self.dials(number).swap_remove(0)
    }

    /// How a client reaches each of the nodes, its own first: clients are spread over them.
    pub(crate) fn dials(&self, number: usize) -> Vec<valise_client::Dial> {
        let nodes = std::iter::once(&self.address).chain(&self.further);
        let mut dials: Vec<_> =
            nodes.map(|address| account::dial(address, self.transport, number)).collect();
        let nodes = dials.len();
        dials.rotate_left(number % nodes);
        dials
    }

    /// The same for others, when the first codes are taken.
    pub(crate) fn after(&self, clients: usize) -> Self {
        let codes = self.codes.iter().skip(clients).copied().collect();
        Self { codes, ..self.clone() }
    }
}

/// Connects, joins and attaches all `clients`, some at a time, and lets each issue the capabilities
/// for the lanes that lead to it.
pub(crate) async fn enroll(
    relay: &Relay,
    topology: &Topology,
    clients: usize,
) -> Result<Vec<Enrolled>, Failure> {
    let lanes = topology.received(clients).into_iter().map(|lanes| lanes.len());
    let one = |(number, lanes): (usize, usize)| {
        let relay = relay.clone();
        async move {
            let code = relay.codes.get(number);
            let (account, live) = Box::pin(account::enroll(&relay.dial(number), code)).await?;
            let capabilities = live.capabilities(lanes).await?;
            Ok(Enrolled { account, live, capabilities })
        }
    };
    let mut enrolled = Vec::with_capacity(clients);
    some_at_a_time("connecting", lanes.enumerate(), one, |one| enrolled.push(one)).await?;
    Ok(enrolled)
}

/// Does the work for each item, for [`CONNECTING_MAX`] at the same time, and hands over what each
/// has brought, in the items' order.
pub(crate) async fn some_at_a_time<I, T, F>(
    what: &'static str,
    items: impl ExactSizeIterator<Item = I>,
    work: impl Fn(I) -> F,
    mut done: impl FnMut(T),
) -> Result<(), Failure>
where
    F: Future<Output = Result<T, AccountError>> + Send + 'static,
    T: Send + 'static,
{
    let progress = Progress::counting(what, items.len() as u64);
    let mut working =
        stream::iter(items).map(|item| tokio::spawn(work(item))).buffered(CONNECTING_MAX);
    while let Some(worked) = working.next().await {
        done(worked.expect("setting up a client never panics")?);
        progress.advance();
    }
    Ok(())
}

/// Waits until so many clients are attached.
async fn attached(run: &Run, clients: u64) -> Result<(), Failure> {
    while Totals::get(&run.totals.attached) < clients {
        if Totals::get(&run.totals.failed) > 0 {
            return Err(Failure::NotAttached(run.errors().into_keys().collect()));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

/// For each lane, the capability its recipient issued.
pub(crate) fn capabilities(topology: &Topology, issued: &[Vec<Token>]) -> Vec<Token> {
    let mut capabilities = vec![None; topology.recipients.len()];
    for (client, lanes) in topology.received(issued.len()).iter().enumerate() {
        for ((_, lane), token) in lanes.iter().zip(&issued[client]) {
            capabilities[*lane] = Some(*token);
        }
    }
    capabilities.into_iter().map(|token| token.expect("each lane has its recipient")).collect()
}

/// The sending side of a client; `None` if it sends nothing.
pub(crate) fn sender(
    run: &Arc<Run>,
    topology: &Topology,
    capabilities: &[Token],
    number: usize,
    turn: &mut u64,
    client: Option<Client>,
) -> Option<Sender> {
    let own = topology.sent_by(u32::try_from(number).expect("clients are counted in 32 bits"));
    if own.is_empty() {
        return None;
    }
    let opening = |conversation: &crate::topology::Conversation| Opening {
        first_lane: conversation.lanes.start,
        recipients: topology.recipients[conversation.lanes.clone()].to_vec(),
        capabilities: capabilities[conversation.lanes.clone()].to_vec(),
    };
    let openings = topology.conversations[own.clone()].iter().map(opening).collect();
    *turn += 1;
    Some(Sender::new(run.clone(), number, *turn - 1, own.start, openings, client))
}

/// The receiving side of a client.
pub(crate) fn receiver(
    run: &Arc<Run>,
    topology: &Topology,
    lanes: &[(u32, usize)],
    number: usize,
) -> Receiver {
    let lanes = lanes.iter().map(|(conversation, lane)| {
        (*conversation, topology.conversations[*conversation as usize].sender, *lane)
    });
    Receiver::new(run.clone(), number, lanes)
}

impl Crew {
    pub(crate) fn new(topology: &Topology) -> Self {
        let lanes = vec![Lane::default(); topology.recipients.len()];
        Self { tasks: JoinSet::new(), lanes, strays: Strays::default() }
    }

    /// Starts one client.
    pub(crate) fn start(&mut self, peer: Peer, live: Live) {
        self.tasks.spawn(peer.run(live));
    }

    /// Starts one client that reads slowly until `hungry`.
    pub(crate) fn start_slowly(
        &mut self,
        peer: Peer,
        live: Live,
        appetite: Appetite,
        hungry: watch::Receiver<bool>,
    ) {
        self.tasks.spawn(peer.run_slowly(live, appetite, hungry));
    }

    /// Starts every client of a run in which all are attached from the beginning.
    pub(crate) fn start_all(
        &mut self,
        run: &Arc<Run>,
        relay: &Relay,
        topology: &Topology,
        enrolled: Vec<Enrolled>,
    ) {
        let issued: Vec<Vec<Token>> =
            enrolled.iter().map(|enrolled| enrolled.capabilities.clone()).collect();
        let capabilities = capabilities(topology, &issued);
        let lanes = topology.received(enrolled.len());
        let mut turn = 0;
        for (number, Enrolled { account, live, .. }) in enrolled.into_iter().enumerate() {
            let sender = sender(run, topology, &capabilities, number, &mut turn, None);
            let receiver = receiver(run, topology, &lanes[number], number);
            let peer =
                Peer::new(run.clone(), number, relay.dials(number), account, sender, receiver);
            self.start(peer, live);
        }
    }

    /// Starts clients of the library's own, of a run in which all are attached from the beginning;
    /// returns when they are, or when one of them never will be.
    pub(crate) async fn start_travellers(
        &mut self,
        run: &Arc<Run>,
        relay: &Relay,
        topology: &Topology,
        enrolled: Vec<Enrolled>,
    ) -> Result<(), Failure> {
        let issued: Vec<Vec<Token>> =
            enrolled.iter().map(|enrolled| enrolled.capabilities.clone()).collect();
        let capabilities = capabilities(topology, &issued);
        let lanes = topology.received(enrolled.len());
        let (mut turn, clients) = (0, enrolled.len() as u64);
        for (number, Enrolled { account, live, .. }) in enrolled.into_iter().enumerate() {
            live.connection.close().await;
            drop(live);
            let sender =
                |client| sender(run, topology, &capabilities, number, &mut turn, Some(client));
            let receiver = receiver(run, topology, &lanes[number], number);
            let dial = relay.dial(number);
            let traveller = Traveller::start(run.clone(), number, dial, account, sender, receiver);
            self.tasks.spawn(traveller.run());
            // Some at a time.
            attached(run, (number as u64).saturating_sub(CONNECTING_MAX as u64)).await?;
        }
        attached(run, clients).await
    }

    /// Waits until every client has ended. The run has to be stopped.
    pub(crate) async fn gather(&mut self) {
        while let Some(log) = self.tasks.join_next().await {
            let log = log.expect("a client never panics");
            for (lane, sent) in log.sent {
                self.lanes[lane].sent = sent;
            }
            for (lane, shown) in log.shown {
                self.lanes[lane].shown = shown;
            }
            self.strays.corrupt += log.strays.corrupt;
            self.strays.phantom += log.strays.phantom;
        }
    }

    /// Waits until every client has ended, and judges what they saw. The run has to be stopped.
    pub(crate) async fn judge(mut self) -> Verdict {
        self.gather().await;
        Verdict::of(&self.lanes, self.strays)
    }
}
