//! One connection at work, and what follows it.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep};
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
    /// Mailboxes that have caught up; a move to another node is no news.
    pub(super) caught_up: HashSet<MailboxId>,
    /// Requests of posts, and the outbox's numbers for them.
    pub(super) posts: HashMap<u32, u64>,
    /// On the way to another connection.
    pub(super) moving: Option<Moving>,
    /// Where a relay that moves into a data centre has said to go, and how often that was tried in vain.
    pub(super) ordered: Option<(Vec<RelayAddress>, u32)>,
    /// When a move was given up that may have attached something all the same.
    pub(super) in_vain: Option<Instant>,
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
            caught_up: HashSet::new(),
            posts: HashMap::new(),
            moving: None,
            ordered: None,
            in_vain: None,
            aside: Aside::new(),
            carried: HashMap::new(),
            refused: HashSet::new(),
            turned_away: 0,
            leaving: None,
        }
    }

    pub(super) fn attach(&mut self, served: Served, wait: Duration) {
        let connection = self.connection.clone();
        self.attaching.push(Box::pin(async move {
            if !wait.is_zero() {
                sleep(wait).await;
            }
            let result = connection.attach(&served.owner, &served.member_token).await;
            (served, result)
        }));
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
