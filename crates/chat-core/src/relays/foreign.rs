//! The relays of others: a client for each, connected while it is used.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use valise_client::proto::RelayAddress;
use valise_client::{Away, Client, is_public_host};

use super::known::{self, Known};
use super::{Options, RelayError, RelayEvent};

/// A relay that a client has given up is not asked again for so long.
const GIVEN_UP: Duration = Duration::from_secs(60);

/// By address, not by realm: a wrong address that one contact gives us must not stand in the way of
/// the right one that another gave. An entry stays, for its back-off and for the realm's epoch; a
/// client without a connection is small.
pub(super) struct Foreign {
    relays: HashMap<RelayAddress, Entry>,
    known: Known,
    /// Of one's own mailbox, whose end is theirs.
    events: mpsc::WeakSender<RelayEvent>,
    is_closed: bool,
}

enum Entry {
    Client(Client),
    GivenUp { until: Instant, why: RelayError },
}

impl Foreign {
    pub(super) fn new(known: Known, events: mpsc::WeakSender<RelayEvent>) -> Self {
        Self { relays: HashMap::new(), known, events, is_closed: false }
    }

    /// The client for a relay.
    pub(super) fn client(
        &mut self,
        relay: &RelayAddress,
        options: &Options,
    ) -> Result<Client, RelayError> {
        if self.is_closed {
            return Err(RelayError::Closed);
        }
        if !options.allow_private && !is_public_host(&relay.host) {
            return Err(RelayError::Forbidden(relay.host.clone()));
        }
        match self.relays.get(relay) {
            Some(Entry::Client(client)) => return Ok(client.clone()),
            Some(Entry::GivenUp { until, why }) if Instant::now() < *until => {
                return Err(why.clone());
            }
            Some(Entry::GivenUp { .. }) | None => {}
        }
        let mut dial = options.dial(relay);
        dial.public_only = !options.allow_private;
        self.known.guide(&mut dial);
        let (client, updates) = Client::start_on_demand(dial, options.idle);
        // Ends with the client. Requests tell how it stands.
        let (known, events) = (self.known.clone(), self.events.clone());
        tokio::spawn(known::note(updates, relay.realm, known, events));
        self.relays.insert(relay.clone(), Entry::Client(client.clone()));
        Ok(client)
    }

    /// The error of a client that lends no connection. One that has ended is another day replaced.
    pub(super) fn away(&mut self, relay: &RelayAddress, away: Away) -> RelayError {
        if self.is_closed {
            return RelayError::Closed;
        }
        let has_ended = matches!(away, Away::Ended(_));
        let why = RelayError::from(away);
        if has_ended && let Some(entry @ Entry::Client(_)) = self.relays.get_mut(relay) {
            *entry = Entry::GivenUp { until: Instant::now() + GIVEN_UP, why: why.clone() };
        }
        why
    }

    /// Gives all connections up for fresh ones, and tries again where it was paused.
    pub(super) fn reconnect(&mut self) {
        self.relays.retain(|_, entry| match entry {
            Entry::Client(client) => {
                client.reconnect();
                true
            }
            Entry::GivenUp { .. } => false,
        });
    }

    /// Refuses everything from now on; the clients are to be closed.
    pub(super) fn close(&mut self) -> JoinSet<()> {
        self.is_closed = true;
        let mut closing = JoinSet::new();
        for (_, entry) in self.relays.drain() {
            if let Entry::Client(client) = entry {
                closing.spawn(async move { client.close().await });
            }
        }
        closing
    }
}
