//! A data centre of our own: three NATS servers, and the nodes besides the first one.

use std::net::SocketAddr;
use std::sync::Arc;

use valise_authority::{Authority, AuthorityError};
use valise_client::testing::{NatsPlan, SERVERS, TestNats, TestPlace, TestRelay, TestRelayError};
use valise_proto::RelayAddress;

use crate::network::{Network, NetworkError};
use crate::process::Usage;
use crate::relay::Ground;
use crate::tap::Tap;

/// The data centre.
pub(crate) struct Centre {
    // In the order in which they go: nodes, servers, what they stand on.
    nodes: Vec<Node>,
    tap: Option<Tap>,
    nats: Arc<TestNats>,
    network: Option<Arc<Network>>,
    /// Mutual TLS, which servers elsewhere than on loopback need.
    _authority: Option<Authority>,
    /// How a relay shows its certificate.
    certificate: String,
    /// Of servers that have ended.
    bus_earlier: Usage,
}

struct Node {
    relay: TestRelay,
    earlier: Usage,
}

impl Node {
    fn note_end(&mut self) {
        if let Some(now) = self.relay.pid().and_then(|pid| Usage::of(pid).ok()) {
            self.earlier = now.after(&self.earlier);
        }
    }
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CentreError {
    #[error(transparent)]
    Process(#[from] TestRelayError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("nothing can be put before the servers: {0}")]
    Tap(#[from] std::io::Error),
}

impl Centre {
    /// Starts the servers. Blocks until they listen.
    pub(crate) fn start(ground: Ground) -> Result<Self, CentreError> {
        let (mut plan, mut network, mut authority) = (NatsPlan::default(), None, None);
        let mut certificate = String::new();
        if ground.apart {
            let made = Network::new()?;
            let names: Vec<_> = (0..SERVERS).map(|i| made.address(i).to_string()).collect();
            let known = Authority::new()?;
            certificate = known.of_relay(&known.certificate(&["valise-relay"])?);
            plan.places = Some(made.places());
            plan.deployed = true;
            plan.variables = known.of_server(&known.certificate(&names)?);
            (network, authority) = (Some(Arc::new(made)), Some(known));
        }
        let nats = Arc::new(TestNats::planned(plan)?);
        let bus_earlier = Usage::default();
        let nodes = Vec::new();
        Ok(Self {
            nodes,
            tap: None,
            nats,
            network,
            _authority: authority,
            certificate,
            bus_earlier,
        })
    }

    /// The section by which a relay is a node on them.
    pub(crate) fn section(&self) -> String {
        self.section_of(&self.nats.urls())
    }

    fn section_of(&self, servers: &[String]) -> String {
        format!("\n[cluster]\nservers = {servers:?}\nstream_mib = 64\n{}", self.certificate)
    }

    /// Starts the nodes besides this one. Blocks until all are ready.
    pub(crate) fn add_nodes(
        &mut self,
        first: &TestRelay,
        ground: Ground,
        config: &str,
    ) -> Result<(), CentreError> {
        for i in 1..ground.nodes {
            let is_last = i + 1 == ground.nodes;
            let section = if is_last && ground.tapped {
                let tap = Tap::start(&self.nats.urls())?;
                let section = self.section_of(&tap.urls());
                self.tap = Some(tap);
                section
            } else if is_last && ground.apart {
                // Where its server goes, it goes too: a relay in the minority.
                self.section_of(&self.nats.urls()[SERVERS - 1..])
            } else {
                self.section()
            };
            let relay = first.further_node(&format!("{config}{section}"), TestPlace::default())?;
            self.nodes.push(Node { relay, earlier: Usage::default() });
        }
        Ok(())
    }

    /// The servers.
    pub(crate) fn nats(&self) -> Arc<TestNats> {
        Arc::clone(&self.nats)
    }

    /// The network between them, where they are apart.
    pub(crate) fn network(&self) -> Option<Arc<Network>> {
        self.network.clone()
    }

    /// What stands between the last node and its servers.
    pub(crate) fn tap(&self) -> Option<&Tap> {
        self.tap.as_ref()
    }

    /// One of the nodes besides the first.
    pub(crate) fn node(&self, i: usize) -> &TestRelay {
        &self.nodes[i].relay
    }

    /// Kills one of them.
    pub(crate) fn kill_node(&mut self, i: usize) -> Result<(), CentreError> {
        self.nodes[i].note_end();
        Ok(self.nodes[i].relay.kill()?)
    }

    /// Lets one of them drain and end.
    pub(crate) fn terminate_node(&mut self, i: usize) -> Result<(), CentreError> {
        self.nodes[i].note_end();
        self.nodes[i].relay.terminate()?;
        Ok(())
    }

    /// Starts one of them again.
    pub(crate) fn restart_node(&mut self, i: usize) -> Result<(), CentreError> {
        Ok(self.nodes[i].relay.restart()?)
    }

    /// Kills a server.
    pub(crate) fn kill_server(&mut self, i: usize) -> Result<(), CentreError> {
        self.note_end_of_server(i);
        Ok(self.nats.kill(i)?)
    }

    /// Lets a server hand over what it leads, and end.
    pub(crate) fn drain_server(&mut self, i: usize) -> Result<(), CentreError> {
        self.note_end_of_server(i);
        Ok(self.nats.drain(i)?)
    }

    fn note_end_of_server(&mut self, i: usize) {
        if let Some(now) = self.nats.pid(i).and_then(|pid| Usage::of(pid).ok()) {
            self.bus_earlier = now.after(&self.bus_earlier);
        }
    }

    /// How many nodes there are besides the first.
    pub(crate) fn count(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn addresses(&self) -> Vec<RelayAddress> {
        self.nodes.iter().map(|node| node.relay.address().clone()).collect()
    }

    pub(crate) fn admins(&self) -> Vec<SocketAddr> {
        self.nodes.iter().filter_map(|node| node.relay.admin_address()).collect()
    }

    /// What the nodes besides the first have used.
    pub(crate) fn usage(&self) -> Usage {
        self.nodes.iter().fold(Usage::default(), |sum, node| {
            let now = node.relay.pid().and_then(|pid| Usage::of(pid).ok());
            sum.beside(&now.unwrap_or_default().after(&node.earlier))
        })
    }

    /// What the servers have used.
    pub(crate) fn bus_usage(&self) -> Usage {
        let pids = (0..SERVERS).filter_map(|i| self.nats.pid(i));
        pids.filter_map(|pid| Usage::of(pid).ok())
            .fold(self.bus_earlier, |sum, usage| sum.beside(&usage))
    }
}
