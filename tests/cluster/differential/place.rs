//! Where scripts are played: a supernode, or nodes of a data centre.

use std::net::SocketAddr;

use valise_proto::{MailboxId, RealmId};

use crate::kept::Kept;
use crate::nats;
use crate::nodes::further_node;
use crate::relay::Relay;
use crate::wire::{Via, Wire, hello};

/// Enough for scripts: they are not about rates.
pub const LIMITS: &str = "[limits]\nposts_per_second = 100000\nposts_burst = 100000\n\
    packets_per_second = 100000\npackets_burst = 100000\ntakes_per_hour_per_token = 100000\n\
    connects_per_second_per_prefix = 100000\nconnects_burst_per_prefix = 100000\n\
    joins_per_minute_per_prefix = 100000\n";

/// The relays of one realm.
pub struct Place {
    pub name: String,
    pub realm: RealmId,
    pub sockets: Vec<SocketAddr>,
    /// None where the relay is a process of its own.
    pub relays: Vec<Relay>,
    kept: Option<Kept>,
}

impl Place {
    pub async fn supernode() -> Self {
        let relay = Relay::on_servers(tempfile::tempdir().unwrap(), LIMITS).await;
        Self::of("a supernode".to_owned(), vec![relay], None)
    }

    /// A data centre of so many nodes; none without NATS servers.
    pub async fn data_centre(nodes: usize) -> Option<Self> {
        let nats = nats::shared()?;
        let mut relays = vec![Relay::configured(LIMITS).await];
        while relays.len() < nodes {
            let (directory, port, _) = further_node(&relays[0]);
            relays.push(Relay::at(directory, ([127, 0, 0, 1], port).into(), LIMITS).await);
        }
        let kept = Kept::of(&nats, &relays[0]).await;
        Some(Self::of(format!("a data centre of {nodes}"), relays, Some(kept)))
    }

    /// A supernode that is a process of its own.
    pub fn process(realm: RealmId, socket: SocketAddr) -> Self {
        let name = "a process".to_owned();
        Self { name, realm, sockets: vec![socket], relays: Vec::new(), kept: None }
    }

    fn of(name: String, relays: Vec<Relay>, kept: Option<Kept>) -> Self {
        let sockets = relays.iter().map(Relay::socket).collect();
        Self { name, realm: relays[0].realm(), sockets, relays, kept }
    }

    /// Connected to one of its relays.
    pub async fn connect(&self, relay: usize, via: Via) -> Wire {
        let socket = self.sockets[relay % self.sockets.len()];
        let mut wire = Wire::connect_to(socket, self.realm, via).await;
        wire.say(&hello()).await;
        wire
    }

    pub fn is_data_centre(&self) -> bool {
        self.kept.is_some()
    }

    /// Waits until exactly so many frames of a mailbox are kept. A node removes what was acknowledged
    /// after 2 s, 64 frames, or the end of the attachment, and nobody is told when.
    pub async fn settle(&self, mailbox: &MailboxId, frames: usize) {
        if let Some(kept) = &self.kept {
            kept.until(mailbox, frames as u64).await;
        }
    }

    /// Checks that no frame is kept in the whole realm, also where nobody looks.
    pub async fn is_empty(&self) {
        if let Some(kept) = &self.kept {
            let by_stream = kept.of_realm(&self.realm).await;
            assert!(by_stream.is_empty(), "{}: frames of nobody in {by_stream:?}", self.name);
        } else if let [relay] = &self.relays[..] {
            assert_eq!(relay.metric("valise_frames_queued"), 0.0, "frames of nobody");
        }
    }

    /// Ends it. A supernode's store has to agree with its counts.
    pub async fn finish(self) {
        for relay in self.relays {
            if self.kept.is_some() {
                relay.stop().await;
            } else {
                relay.finish().await;
            }
        }
    }
}
