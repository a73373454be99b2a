//! One connection at work, and what follows it.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;
use valise_proto::{MailboxId, RelayAddress};

use super::Served;
use super::aside::Aside;
use super::moving::{Leaving, Moving};
use crate::reconnect::{Next, Stop};
use crate::{Connection, Incoming, RequestError};

/// One connection at work.
pub(super) struct Serving {
    pub(super) connection: Connection,
    pub(super) incoming: Incoming,
    /// Where it leads.
    pub(super) at: RelayAddress,
    /// Attachment numbers.
    pub(super) attached: HashMap<u32, MailboxId>,
    pub(super) attaching: FuturesUnordered<BoxFuture<'static, (Served, Result<u32, RequestError>)>>,
    /// Of which mailboxes these are.
    pub(super) asked: HashSet<MailboxId>,
    /// What is to be attached here later, unless the client has moved until then.
    pub(super) later: Vec<(Instant, Served)>,
    /// Mailboxes that have caught up; a move to another node is no news.
    pub(super) caught_up: HashSet<MailboxId>,
    /// Requests of posts, and the outbox's numbers for them.
    pub(super) posts: HashMap<u32, u64>,
    /// On the way to another connection.
    pub(super) moving: Option<Moving>,
    /// Where a relay that moves into a data centre has said to go, and how often that was tried in vain.
    pub(super) ordered: Option<(Vec<RelayAddress>, u32)>,
    /// The second connection, to another place.
    pub(super) aside: Aside,
    /// Posts that the connection owes which is being attached.
    pub(super) carried: HashMap<u32, u64>,
    /// Mailboxes that this place has refused to attach because they are served elsewhere, and how
    /// often in a row something of the kind was said. They are tried again.
    pub(super) refused: HashSet<MailboxId>,
    pub(super) turned_away: u32,
    /// The connection before, which owes answers.
    pub(super) leaving: Option<Leaving>,
}

impl Serving {
    pub(super) fn new(connection: Connection, incoming: Incoming, at: RelayAddress) -> Self {
        Self {
            connection,
            incoming,
            at,
            attached: HashMap::new(),
            attaching: FuturesUnordered::new(),
            asked: HashSet::new(),
            later: Vec::new(),
            caught_up: HashSet::new(),
            posts: HashMap::new(),
            moving: None,
            ordered: None,
            aside: Aside::new(),
            carried: HashMap::new(),
            refused: HashSet::new(),
            turned_away: 0,
            leaving: None,
        }
    }
}

/// What follows a connection.
pub(super) enum After {
    Close,
    /// Another one, as soon as there is a reason for it.
    Fresh,
    Retry {
        wait: Duration,
        why: String,
    },
    Stop(Stop),
}

impl After {
    pub(super) fn of(next: Next, why: String) -> Self {
        match next {
            Next::RetryIn(wait) => Self::Retry { wait, why },
            Next::Stop(stop) => Self::Stop(stop),
        }
    }
}
