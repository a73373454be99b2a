//! One visit to the relay, as any client makes it: connect, attach, post, wait, acknowledge, detach.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use valise_client::proto::limits::PAYLOAD_SIZES;
use valise_client::proto::{FrameId, Reason, Token, TokenKind};
use valise_client::{
    Connection, Dial, Event, Incoming, OwnerKeyPair, RequestError, connect, random,
};

use super::book::Id;
use crate::limits::{CANARY_LATE_SECONDS, CANARY_TTL_HOURS, CANARY_WAIT_SECONDS, TOKEN_DAYS};

/// Why the relay could not be asked, or did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot {doing}: {why}")]
pub(crate) struct Refused {
    doing: &'static str,
    why: String,
    /// The relay's own reason, where it gave one.
    pub(crate) reason: Option<Reason>,
}

impl Refused {
    pub(crate) fn of(doing: &'static str, error: impl std::fmt::Display) -> Self {
        Self { doing, why: error.to_string(), reason: None }
    }

    fn by_relay(doing: &'static str, error: &RequestError) -> Self {
        let reason = match error {
            RequestError::Refused { reason, .. } => *reason,
            _ => None,
        };
        Self { reason, ..Self::of(doing, error) }
    }

    /// Whether the tokens are good no more, so that new ones have to be got.
    pub(crate) fn is_about_tokens(&self) -> bool {
        use Reason::{TokenExpired, TokenInvalid, TokenRevoked};
        matches!(self.reason, Some(TokenExpired | TokenInvalid | TokenRevoked))
    }
}

/// What became of a canary that was to come back at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flight {
    /// It is back.
    Back(Duration),
    /// It is back, and took too long.
    Late(Duration),
    /// It was accepted, and the store has it no more.
    Lost,
    /// It came twice.
    Doubled,
}

impl Flight {
    /// It was accepted, came so often, and took so long.
    fn of(times: usize, took: Duration) -> Self {
        match times {
            0 => Self::Lost,
            1 if took > Duration::from_secs(CANARY_LATE_SECONDS) => Self::Late(took),
            1 => Self::Back(took),
            _ => Self::Doubled,
        }
    }
}

/// What a visit takes at most, waiting for a canary apart.
const PATIENCE: Duration = Duration::from_secs(20);
/// Waits between tries of a post.
const AGAIN: Duration = Duration::from_millis(500);

/// A mailbox that is attached.
pub(crate) struct Visit {
    connection: Connection,
    incoming: Incoming,
    attachment: u32,
    /// What was stored before, oldest first.
    pub(crate) found: Vec<(Id, u64)>,
}

impl Visit {
    /// Attaches, and fetches everything that is there.
    pub(crate) async fn begin(
        dial: &Dial,
        owner: &OwnerKeyPair,
        member: &Token,
    ) -> Result<Self, Refused> {
        let visiting = async {
            let (connection, mut incoming) =
                connect(dial).await.map_err(|error| Refused::of("connect", error))?;
            let attaching = connection.attach(owner, member).await;
            let attachment = attaching.map_err(|error| Refused::by_relay("attach", &error))?;
            let mut found = Vec::new();
            loop {
                match incoming.next().await {
                    Some(Event::Deliver(deliver)) if deliver.attachment == attachment => {
                        found.push((Id::from(&deliver.frame_id), deliver.n));
                    }
                    Some(Event::CaughtUp { .. }) => break,
                    Some(Event::Closed(ending)) => return Err(Refused::of("fetch", ending)),
                    Some(_) => {}
                    None => return Err(Refused::of("fetch", "the connection has ended")),
                }
                if found.len() > FOUND_MAX {
                    return Err(Refused::of("fetch", "the mailbox holds more than canaries"));
                }
            }
            Ok(Self { connection, incoming, attachment, found })
        };
        timeout(PATIENCE, visiting)
            .await
            .unwrap_or_else(|_| Err(Refused::of("attach", "no answer")))
    }

    /// Acknowledges the first so many of what was found.
    pub(crate) fn acknowledge(&self, count: usize) {
        if let Some((_, n)) = count.checked_sub(1).and_then(|last| self.found.get(last)) {
            // A connection that is gone has acknowledged nothing: they come again.
            self.connection.ack(self.attachment, *n).ok();
        }
    }

    /// Posts a canary; whether it was accepted is known when this is well.
    pub(crate) async fn post(&self, id: FrameId, capability: &Token) -> Result<(), Refused> {
        let until = Instant::now() + 2 * PATIENCE;
        let payload = Bytes::from(random::bytes::<{ PAYLOAD_SIZES[0] }>().to_vec());
        let to = [*capability];
        loop {
            let posting = self.connection.post(id, &to, CANARY_TTL_HOURS, payload.clone());
            let posted = match timeout_at(until, posting).await {
                Err(_) => return Err(Refused::of("post", "no answer")),
                Ok(Err(error)) => return Err(Refused::by_relay("post", &error)),
                Ok(Ok(posted)) => posted,
            };
            match posted.outcomes.first().copied().flatten() {
                Some(Reason::Accepted) => return Ok(()),
                Some(Reason::Busy | Reason::RateLimited) if Instant::now() < until => {}
                Some(reason) => {
                    return Err(Refused {
                        reason: Some(reason),
                        ..Refused::of("post", reason.name())
                    });
                }
                None => return Err(Refused::of("post", "an answer of another version")),
            }
            sleep(AGAIN).await;
        }
    }

    /// Waits for a canary to be pushed; none where it is not in time. Acknowledges it.
    async fn wait_for(&mut self, id: &Id, until: Instant) -> Option<u64> {
        while let Ok(Some(event)) = timeout_at(until, self.incoming.next()).await {
            match event {
                Event::Deliver(deliver) if Id::from(&deliver.frame_id) == *id => {
                    self.connection.ack(self.attachment, deliver.n).ok();
                    return Some(deliver.n);
                }
                // Whoever visits again is told what became of it.
                Event::Closed(_) | Event::Replaced { .. } => return None,
                _ => {}
            }
        }
        None
    }

    /// Detaches, by which what was acknowledged is removed; how often this one came meanwhile.
    pub(crate) async fn end(mut self, id: Option<&Id>) -> usize {
        // Without an answer the end of the connection is an end too.
        timeout(PATIENCE, self.connection.detach(self.attachment)).await.ok();
        let mut times = 0;
        while let Some(event) = self.incoming.try_next() {
            if let Event::Deliver(deliver) = event {
                times += usize::from(id.is_some_and(|id| Id::from(&deliver.frame_id) == *id));
            }
        }
        timeout(PATIENCE, self.connection.close()).await.ok();
        times
    }
}

/// Frames in a canary's mailbox, at most: what is not acknowledged has to fit the attachment's window.
const FOUND_MAX: usize = 64;

/// Sends a canary out, and waits until it is back.
pub(crate) async fn fly(
    dial: &Dial,
    owner: &OwnerKeyPair,
    (member, capability): (&Token, &Token),
) -> Result<Flight, Refused> {
    let mut visit = Visit::begin(dial, owner, member).await?;
    // Those that an earlier watch did not wait for.
    visit.acknowledge(visit.found.len());
    let frame = random::frame_id();
    let (id, posted) = (Id::from(&frame), Instant::now());
    let accepted = visit.post(frame, capability).await;
    if let Err(refused) = accepted {
        visit.end(None).await;
        return Err(refused);
    }
    let back = visit.wait_for(&id, posted + Duration::from_secs(CANARY_WAIT_SECONDS)).await;
    let took = posted.elapsed();
    if back.is_some() {
        let times = 1 + visit.end(Some(&id)).await;
        return Ok(Flight::of(times, took));
    }
    visit.end(None).await;
    // It was accepted, so whoever attaches has it, unless it is lost.
    let visit = Visit::begin(dial, owner, member).await?;
    let times = visit.found.iter().filter(|(found, _)| *found == id).count();
    visit.acknowledge(visit.found.len());
    visit.end(None).await;
    Ok(Flight::of(times, posted.elapsed()))
}

/// Joins, with an invite code where there is one; a member token and a capability.
pub(crate) async fn join(
    dial: &Dial,
    owner: &OwnerKeyPair,
    code: Option<&Token>,
) -> Result<(Token, Token), Refused> {
    let joining = async {
        let (connection, _incoming) =
            connect(dial).await.map_err(|error| Refused::of("connect", error))?;
        let joined = connection.join(owner, code).await;
        let member = joined.map_err(|error| Refused::by_relay("join", &error))?;
        tokens(&connection, owner, &member).await
    };
    timeout(PATIENCE, joining).await.unwrap_or_else(|_| Err(Refused::of("join", "no answer")))
}

/// New tokens for old ones.
pub(crate) async fn renew(
    dial: &Dial,
    owner: &OwnerKeyPair,
    member: &Token,
) -> Result<(Token, Token), Refused> {
    let renewing = async {
        let (connection, _incoming) =
            connect(dial).await.map_err(|error| Refused::of("connect", error))?;
        tokens(&connection, owner, member).await
    };
    timeout(PATIENCE, renewing).await.unwrap_or_else(|_| Err(Refused::of("renew", "no answer")))
}

async fn tokens(
    connection: &Connection,
    owner: &OwnerKeyPair,
    member: &Token,
) -> Result<(Token, Token), Refused> {
    let wrong = |error: RequestError| Refused::by_relay("get tokens", &error);
    let attachment = connection.attach(owner, member).await.map_err(wrong)?;
    let issue = |kind| connection.issue(attachment, kind, 1, TOKEN_DAYS, 0);
    let (members, posts) =
        tokio::try_join!(issue(TokenKind::Member), issue(TokenKind::Post)).map_err(wrong)?;
    connection.close().await;
    match (members.first(), posts.first()) {
        (Some(member), Some(post)) => Ok((*member, *post)),
        _ => Err(Refused::of("get tokens", "none came")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flight_is_judged_by_how_often_and_when_it_came() {
        let (soon, late) = (Duration::from_secs(15), Duration::from_secs(16));
        let cases = [
            (0, soon, Flight::Lost),
            (1, soon, Flight::Back(soon)),
            (1, late, Flight::Late(late)),
            (2, soon, Flight::Doubled),
        ];
        for (times, took, expected) in cases {
            assert_eq!(Flight::of(times, took), expected);
        }
    }
}
