//! Requests that find their way in a realm that is being moved: what is refused `moved` where the
//! client is connected is asked at another place of the realm's record, with the same ids.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;
use valise_proto::{FrameId, MailboxId, Posted, Reason, Token};

use super::{Away, Client, Held};
use crate::limits::MOVED_TRIES;
use crate::{Backoff, Connection, RequestError, Side, random};

/// A request has no answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AskError {
    /// There is no connection to ask over.
    #[error(transparent)]
    Away(#[from] Away),
    /// It was asked.
    #[error(transparent)]
    Request(#[from] RequestError),
}

/// Where a request is asked next, and how often it was turned away.
struct Errand {
    side: Side,
    tries: u32,
}

impl Errand {
    fn new() -> Self {
        Self { side: Side::Here, tries: 0 }
    }

    /// A connection to ask over.
    async fn connection(&mut self, client: &Client, patience: Duration) -> Result<Held, Away> {
        if self.side == Side::There {
            match client.elsewhere(patience).await {
                Ok(held) => return Ok(held),
                Err(away @ Away::Ended(_)) => return Err(away),
                // Perhaps it has come here meanwhile.
                Err(_) => {
                    self.side = Side::Here;
                    self.pause().await;
                }
            }
        }
        client.connection(patience).await
    }

    /// It was refused `moved`: the other side is next. False: it was tried often enough.
    async fn moved(&mut self, client: &Client, held: Held) -> bool {
        if self.side == Side::There {
            client.not_there(&held);
        }
        drop(held);
        self.side = self.side.other();
        self.tries += 1;
        // The other side is asked at once, when this was the first.
        if self.tries > 1 {
            self.pause().await;
        }
        self.tries < MOVED_TRIES
    }

    async fn pause(&self) {
        sleep(Backoff::RETRY.wait(self.tries, random::fraction())).await;
    }
}

impl Client {
    /// Asks something over the connection, as [`Client::connection`] lends it. What is refused
    /// `moved` is asked again at another place of the realm, over a second connection that is opened
    /// for it, and so to and fro for some seconds; a last refusal is the answer.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn ask<T, F: Future<Output = Result<T, RequestError>>>(
        &self,
        patience: Duration,
        request: impl Fn(Connection) -> F,
    ) -> Result<T, AskError> {
        let mut errand = Errand::new();
        loop {
            let held = errand.connection(self, patience).await?;
            match request(Connection::clone(&held)).await {
                Err(error) if error.is_moved() => {
                    if !errand.moved(self, held).await {
                        return Err(error.into());
                    }
                }
                answer => return Ok(answer?),
            }
        }
    }

    /// As [`Self::ask`], of a mailbox of this client, once it is attached. What is refused `moved`
    /// is asked again where the client has moved to: it does that by itself.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn ask_of<T, F: Future<Output = Result<T, RequestError>>>(
        &self,
        mailbox: MailboxId,
        patience: Duration,
        request: impl Fn(Connection, u32) -> F,
    ) -> Result<T, AskError> {
        let mut tries = 0;
        loop {
            let (held, attachment) = self.attachment(mailbox, patience).await?;
            match request(Connection::clone(&held), attachment).await {
                Err(error) if error.is_moved() => {
                    tries += 1;
                    if tries == MOVED_TRIES {
                        return Err(error.into());
                    }
                    self.not_here(&held);
                    drop(held);
                    sleep(Backoff::RETRY.wait(tries, random::fraction())).await;
                }
                answer => return Ok(answer?),
            }
        }
    }

    /// As [`Connection::post`]. Targets whose outcome is `moved` are posted to again, with the same
    /// frame id, as [`Self::ask`] does it; the others are not repeated.
    ///
    /// # Errors
    /// [`AskError`]; where some targets have an outcome, it is given, and the others are `moved`.
    pub async fn post(
        &self,
        patience: Duration,
        frame_id: FrameId,
        capabilities: &[Token],
        ttl_hours: u32,
        payload: Bytes,
    ) -> Result<Posted, AskError> {
        let mut errand = Errand::new();
        let mut all: Option<Posted> = None;
        loop {
            let open: Vec<usize> = match &all {
                None => (0..capabilities.len()).collect(),
                Some(all) => open_targets(all),
            };
            let asked: Vec<Token> = open.iter().map(|i| capabilities[*i]).collect();
            let held = match errand.connection(self, patience).await {
                Ok(held) => held,
                Err(away) => return all.ok_or(away.into()),
            };
            match held.post(frame_id, &asked, ttl_hours, payload.clone()).await {
                Ok(posted) if posted.outcomes.len() != asked.len() => {
                    return Err(RequestError::OtherAnswer.into());
                }
                Ok(posted) => merge(&mut all, &open, posted),
                Err(error) if error.is_moved() => {}
                Err(error) => return all.ok_or(error.into()),
            }
            let is_open = all.as_ref().is_none_or(|all| !open_targets(all).is_empty());
            if !is_open || !errand.moved(self, held).await {
                let moved = Some(Reason::Moved);
                let error = RequestError::Refused { reason: moved, retry_after_ms: 0 };
                return all.ok_or(AskError::Request(error));
            }
        }
    }
}

/// Targets that are served elsewhere.
fn open_targets(posted: &Posted) -> Vec<usize> {
    let outcomes = posted.outcomes.iter().enumerate();
    outcomes.filter(|(_, it)| **it == Some(Reason::Moved)).map(|(i, _)| i).collect()
}

/// Adds the outcomes of some of the targets.
fn merge(all: &mut Option<Posted>, targets: &[usize], posted: Posted) {
    let Some(all) = all else {
        *all = Some(posted);
        return;
    };
    for (target, outcome) in targets.iter().zip(posted.outcomes) {
        all.outcomes[*target] = outcome;
    }
    all.retry_after_ms = all.retry_after_ms.max(posted.retry_after_ms);
}
