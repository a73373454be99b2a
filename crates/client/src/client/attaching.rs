//! What is attached on a connection, and what ends it.

use std::time::Duration;

use tokio::time::Instant;
use valise_proto::Reason;

use super::actor::Actor;
use super::serving::{After, Serving};
use super::{Served, Update};
use crate::RequestError;
use crate::limits::ATTACH_RETRY_MS;
use crate::reconnect::Stop;

impl Serving {
    pub(super) fn attach(&mut self, served: Served) {
        let connection = self.connection.clone();
        self.asked.insert(served.mailbox);
        self.attaching.push(Box::pin(async move {
            let result = connection.attach(&served.owner, &served.member_token).await;
            (served, result)
        }));
    }

    pub(super) fn attach_later(&mut self, served: Served, wait: Duration) {
        self.later.push((Instant::now() + wait, served));
    }

    /// Attaches what is due, and returns when more will be. Never beside a move that attaches the same
    /// elsewhere: the two would take the mailbox from each other.
    pub(super) fn attach_due(&mut self) -> Option<Instant> {
        if self.takes_over() {
            return None;
        }
        let now = Instant::now();
        while let Some(due) = self.later.iter().position(|(at, _)| *at <= now) {
            let (_, served) = self.later.swap_remove(due);
            self.attach(served);
        }
        self.later.iter().map(|(at, _)| *at).min()
    }
}

impl Actor {
    /// An attach was answered, or never will be.
    pub(super) fn attached(
        &mut self,
        serving: &mut Serving,
        served: &Served,
        result: Result<u32, RequestError>,
    ) {
        serving.asked.remove(&served.mailbox);
        match result {
            Ok(attachment) => {
                // It may be so later than there.
                if serving.takes_over() {
                    self.doubts.arise(served.mailbox);
                }
                serving.attached.insert(attachment, served.mailbox);
                self.shared.set_attachment(served.mailbox, attachment);
                serving.turned_away = 0;
                serving.refused.remove(&served.mailbox);
                self.reconnect.established();
            }
            Err(RequestError::Refused { reason: Some(Reason::Moved), retry_after_ms }) => {
                self.turned_away(serving, served, retry_after_ms);
            }
            Err(RequestError::Refused { reason, retry_after_ms }) => {
                if reason.is_some_and(Reason::is_retryable) {
                    let wait = if retry_after_ms == 0 { ATTACH_RETRY_MS } else { retry_after_ms };
                    serving.attach_later(served.clone(), Duration::from_millis(wait.into()));
                } else {
                    let mailbox = served.mailbox;
                    let is_it = |other: &Served| {
                        (other.mailbox, other.member_token) == (mailbox, served.member_token)
                    };
                    let mut state = self.shared.state();
                    let before = state.served.len();
                    state.served.retain(|other| !is_it(other));
                    // With another token meanwhile, it is served.
                    if state.served.len() < before {
                        self.shared.changed.notify_waiters();
                        self.pending.push_back(Update::NotServed { mailbox, reason });
                    }
                }
            }
            // The connection's last event says the same.
            Err(RequestError::Closed(_) | RequestError::OtherAnswer) => {
                self.doubts.arise(served.mailbox);
            }
        }
    }

    /// What was asked for here or there, and is given up with this connection, may have an effect.
    pub(super) fn doubt_what_is_asked(&mut self, serving: &Serving) {
        let state = self.shared.state();
        let asked = state
            .served
            .iter()
            .map(|served| served.mailbox)
            .filter(|mailbox| serving.takes_over() || serving.asked.contains(mailbox));
        asked.for_each(|mailbox| self.doubts.arise(mailbox));
    }

    /// Somebody else has the mailbox, unless it is the client's own doing.
    pub(super) fn replaced(&mut self, serving: &mut Serving, attachment: u32) -> Option<After> {
        let mailbox = serving.attached.remove(&attachment)?;
        if serving.has_newer(&mailbox) {
            return None;
        }
        // As a connection that broke: one is opened anew, and takes the mailbox back.
        if self.doubts.resolve(&mailbox) {
            return Some(After::Fresh);
        }
        self.pending.push_back(Update::Replaced { mailbox });
        let mut state = self.shared.state();
        state.served.retain(|served| served.mailbox != mailbox);
        state.served.is_empty().then_some(After::Stop(Stop::Replaced))
    }
}
