//! A profile's connections against real relays.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers included")]

mod foreign;
mod own;
mod way;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;
use valise_client::proto::{FrameId, Reason, RelayAddress, Token, TokenKind};
use valise_client::testing::TestRelay;
use valise_client::{OwnerKeyPair, random};

use super::{Options, Own, RelayError, RelayEvent, Relays, enroll};

/// A profile with a mailbox at a relay.
struct Profile {
    own: Own,
    relays: Relays,
    events: Receiver<RelayEvent>,
}

impl Profile {
    /// Enrolled, attached, and caught up.
    async fn at(relay: &TestRelay) -> Self {
        Self::with(relay, options()).await
    }

    async fn with(relay: &TestRelay, options: Options) -> Self {
        let owner = Arc::new(OwnerKeyPair::generate());
        let address = relay.address().clone();
        // Limits that a test makes short are for what comes after that.
        let Options { connect_limit, request_limit, .. } = Options::default();
        let patient = Options { connect_limit, request_limit, ..options.clone() };
        let member_token = enroll(&address, &owner, None, &patient).await.unwrap();
        let own = Own { address, owner, member_token, prefer: None };
        let (relays, events) = Relays::start(own.clone(), Vec::new(), options);
        let mut profile = Self { own, relays, events };
        profile.caught_up().await;
        profile
    }

    async fn next(&mut self) -> RelayEvent {
        next(&mut self.events).await.expect("an event")
    }

    /// The frames that come before everything has come.
    async fn caught_up(&mut self) -> Vec<Bytes> {
        let mut frames = Vec::new();
        loop {
            match self.next().await {
                RelayEvent::CaughtUp => return frames,
                RelayEvent::Frame { payload, .. } => frames.push(payload),
                RelayEvent::Online | RelayEvent::Offline { .. } | RelayEvent::BundleLow { .. } => {}
                other => panic!("not {other:?}"),
            }
        }
    }

    async fn frame(&mut self) -> RelayEvent {
        loop {
            let event = self.next().await;
            if matches!(event, RelayEvent::Frame { .. }) {
                return event;
            }
        }
    }

    async fn issue(&self, kind: TokenKind) -> Token {
        self.relays.issue(kind, 1, 30).await.unwrap()[0]
    }

    async fn post(&self, to: &RelayAddress, capability: Token, n: u32) -> Outcomes {
        self.relays.post(to, id(), &[capability], 0, payload(n)).await
    }
}

/// The next event that is not about a realm; none after the last.
async fn next(events: &mut Receiver<RelayEvent>) -> Option<RelayEvent> {
    loop {
        match timeout(Duration::from_secs(30), events.recv()).await.expect("in time") {
            Some(RelayEvent::Realm(_)) => {}
            event => return event,
        }
    }
}

type Outcomes = Result<Vec<Option<Reason>>, RelayError>;

/// Everything a test needs is on this machine.
/// How long something may take that takes moments, unless the machine stands still.
const SOON: Duration = Duration::from_secs(30);

fn options() -> Options {
    Options { allow_private: true, ..Options::default() }
}

fn id() -> FrameId {
    random::frame_id()
}

fn payload(n: u32) -> Bytes {
    [&n.to_be_bytes()[..], &[0; 508]].concat().into()
}

fn accepted() -> Outcomes {
    Ok(vec![Some(Reason::Accepted)])
}

#[test]
fn requests_can_be_made_from_tasks() {
    fn is_send<T: Send>(_: impl FnOnce(Relays, RelayAddress, Token) -> T) {}
    is_send(|relays, relay, token| async move {
        relays.post(&relay, id(), &[token], 0, Bytes::new()).await.ok();
        relays.get_slots(&relay, &[]).await.ok();
        relays.take_bundle(&relay, &token).await.ok();
        relays.signal(&relay, &[token], Bytes::new()).await.ok();
        relays.revoke(&token).await.ok();
        relays.renew_member().await.ok();
        relays.close().await;
    });
}

#[test]
fn what_may_be_retried_is_told() {
    let refused = |reason| RelayError::Refused { reason, retry_after: Duration::ZERO };
    for (error, is_retryable) in [
        (RelayError::Unreachable(String::new()), true),
        (RelayError::Untrusted(String::new()), true),
        (RelayError::Unknown(String::new()), true),
        (RelayError::Stopped(String::new()), true),
        (RelayError::Closed, true),
        (RelayError::Forbidden(String::new()), false),
        (refused(Some(Reason::Busy)), true),
        (refused(Some(Reason::MailboxFull)), true),
        (refused(Some(Reason::NotAttached)), true),
        (refused(Some(Reason::TokenRevoked)), false),
        (refused(None), false),
    ] {
        assert_eq!(error.is_retryable(), is_retryable, "{error}");
    }
}
