//! The client's connection, lent to whoever has something to ask of the relay: a slot, a bundle, a
//! token. While it is lent, the client has a reason to be connected.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use valise_proto::{MailboxId, Token};

use super::{Client, Link, Shared, State};
use crate::Connection;
use crate::reconnect::Stop;
use crate::until::found;

/// There is no connection to be lent.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Away {
    /// The last try failed, and the next is not due yet.
    #[error("{why}; the next try comes in {} s", retry_in.as_secs())]
    Paused {
        /// What happened, in words.
        why: String,
        /// When the next try comes.
        retry_in: Duration,
    },
    /// The mailbox is not served by this client, or not any more.
    #[error("the mailbox is not served here")]
    NotServed,
    /// The client does not come back by itself; `None`: it was closed.
    #[error("the client has ended{}", .0.as_ref().map(|stop| format!(": {stop}")).unwrap_or_default())]
    Ended(Option<Stop>),
}

/// A connection that is lent. An on-demand client stays connected while one of these is held; a
/// clone of the connection inside is no reason for it.
pub struct Held {
    connection: Connection,
    _interest: Interest,
}

impl Deref for Held {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl Client {
    /// Lends the connection. Without one it waits for the try that is under way, or that begins
    /// within `patience`; one that then fails is the answer. Cancel-safe.
    ///
    /// # Errors
    /// [`Away`].
    pub async fn connection(&self, patience: Duration) -> Result<Held, Away> {
        let find = |state: &State| Ok(state.connection());
        let (interest, connection) = self.lent(Of::Connection, patience, find).await?;
        Ok(Held { connection, _interest: interest })
    }

    /// Lends a connection to another place of the realm: for what is refused `moved` over the usual
    /// one. It is opened for it, and closed when nobody has used it for a while. Cancel-safe.
    ///
    /// # Errors
    /// [`Away`], at once where it cannot be opened.
    pub async fn elsewhere(&self, patience: Duration) -> Result<Held, Away> {
        let before = self.shared.state().aside_failures;
        let find = |state: &State| match &state.aside {
            None => {
                let retry_in = state.aside_until.saturating_duration_since(Instant::now());
                let is_vain = state.aside_failures > before || retry_in > patience;
                let why = || state.aside_why.clone();
                if is_vain { Err(Away::Paused { why: why(), retry_in }) } else { Ok(None) }
            }
            aside => Ok(aside.clone()),
        };
        let (interest, connection) = self.lent(Of::Aside, patience, find).await?;
        Ok(Held { connection, _interest: interest })
    }

    /// What was asked over the second connection is not served there: another place is next.
    pub(super) fn not_there(&self, held: &Held) {
        self.shared.state().turned_away.push(held.connection.clone());
        self.shared.work.notify_one();
    }

    /// What was asked of an attachment is served elsewhere: the client moves there by itself.
    pub(super) fn not_here(&self, held: &Held) {
        self.not_there(held);
    }

    /// As [`Self::connection`], once a mailbox is attached; with the attachment's number. An attach
    /// that the relay refuses for now can take as long as the relay likes: set a time limit.
    ///
    /// # Errors
    /// [`Away`].
    pub async fn attachment(
        &self,
        mailbox: MailboxId,
        patience: Duration,
    ) -> Result<(Held, u32), Away> {
        let attached = |state: &State| {
            let mut served = state.served.iter();
            let served = served.find(|served| served.mailbox == mailbox).ok_or(Away::NotServed)?;
            Ok(served.attachment.and_then(|number| Some((state.connection()?, number))))
        };
        let (interest, (connection, number)) =
            self.lent(Of::Attachment, patience, attached).await?;
        Ok((Held { connection, _interest: interest }, number))
    }

    /// Attaches a served mailbox with this member token from the next connection on. The current
    /// attachment is not disturbed.
    pub fn renew(&self, mailbox: MailboxId, member_token: Token) {
        let mut state = self.shared.state();
        if let Some(served) = state.served.iter_mut().find(|served| served.mailbox == mailbox) {
            served.member_token = member_token;
        }
    }

    async fn lent<T>(
        &self,
        of: Of,
        patience: Duration,
        find: impl Fn(&State) -> Result<Option<T>, Away>,
    ) -> Result<(Interest, T), Away> {
        let before = self.shared.state().failures;
        let mut interest = Interest::new(self.shared.clone(), of);
        let lent = found(&self.shared.changed, || {
            let mut state = self.shared.state();
            let found = match state.away(before, patience) {
                None => find(&state).transpose(),
                Some(away) => Some(Err(away)),
            };
            // Whoever still waits for an attachment asks nothing of it, and delays no move.
            if of == Of::Attachment && matches!(found, Some(Ok(_))) && !interest.is_attached {
                interest.is_attached = true;
                state.lent_attached += 1;
            }
            found
        });
        lent.await.map(|lent| (interest, lent))
    }
}

impl State {
    fn connection(&self) -> Option<Connection> {
        match &self.link {
            Link::Up { connection, .. } => Some(connection.clone()),
            _ => None,
        }
    }

    /// Whether someone who has waited since there were `before` failures waits in vain.
    fn away(&self, before: u64, patience: Duration) -> Option<Away> {
        match &self.link {
            Link::Ended(stop) => Some(Away::Ended(stop.clone())),
            Link::Paused { why, until } => {
                let retry_in = until.saturating_duration_since(Instant::now());
                let is_vain = self.failures > before || retry_in > patience;
                is_vain.then(|| Away::Paused { why: why.clone(), retry_in })
            }
            Link::Down | Link::Up { .. } => None,
        }
    }
}

/// What is lent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Connection,
    Attachment,
    Aside,
}

/// A reason to be connected.
struct Interest {
    shared: Arc<Shared>,
    of: Of,
    /// It counts among those that ask something of an attachment.
    is_attached: bool,
}

impl Interest {
    fn new(shared: Arc<Shared>, of: Of) -> Self {
        {
            let mut state = shared.state();
            state.lent += 1;
            state.lent_aside += u32::from(of == Of::Aside);
        }
        shared.work.notify_one();
        Self { shared, of, is_attached: false }
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.lent -= 1;
        state.lent_attached -= u32::from(self.is_attached);
        state.lent_aside -= u32::from(self.of == Of::Aside);
        state.used = Instant::now();
        drop(state);
        self.shared.work.notify_one();
    }
}
