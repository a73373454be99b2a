//! Whether to come back after a connection has ended, and when. Pure.

use std::time::{Duration, Instant};

use valise_proto::CloseReason;

use crate::backoff::Backoff;
use crate::{ConnectError, Ending, OpeningError};

/// Why a client does not come back by itself.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Stop {
    /// The mailbox was attached elsewhere, and no other is served here.
    #[error("the mailbox was attached elsewhere")]
    Replaced,
    /// The relay closed the connection for something that would happen again.
    #[error("the relay does not accept what this client says: {0}")]
    Rejected(CloseReason),
    /// The other side does not prove that it serves the realm.
    #[error("the relay cannot be trusted: {0}")]
    Untrusted(OpeningError),
    /// The address cannot be dialled.
    #[error("the relay's address cannot be used: {0}")]
    Address(String),
}

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Next {
    RetryIn(Duration),
    Stop(Stop),
}

/// The history that decides the next wait.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reconnect {
    failures: u32,
    restart: Option<Restart>,
}

/// What a relay said about its restart.
#[derive(Debug, Clone)]
struct Restart {
    /// The first try comes after a random part of this.
    spread: Duration,
    /// Until then the relay is worth asking often.
    until: Instant,
}

impl Reconnect {
    /// There is a connection: what the relay said about its restart has come to pass.
    pub(crate) fn connected(&mut self) {
        self.restart = None;
    }

    /// The relay has answered something: the next failure is the first.
    pub(crate) fn established(&mut self) {
        self.failures = 0;
    }

    /// The relay has announced its restart.
    pub(crate) fn restarting(&mut self, now: Instant, reconnect_in_ms: u32, try_for_ms: u32) {
        let spread = Duration::from_millis(reconnect_in_ms.into());
        let until = now + spread + Duration::from_millis(try_for_ms.into());
        self.failures = 0;
        self.restart = Some(Restart { spread, until });
    }

    /// A connection has ended. `fraction` is drawn from 0 to 1.
    pub(crate) fn ended(&mut self, now: Instant, ending: &Ending, fraction: f64) -> Next {
        match ending {
            Ending::Relay(Some(reason)) if is_our_fault(*reason) => {
                Next::Stop(Stop::Rejected(*reason))
            }
            _ => self.retry(now, fraction),
        }
    }

    /// No connection came about.
    pub(crate) fn failed(&mut self, now: Instant, error: &ConnectError, fraction: f64) -> Next {
        match error {
            ConnectError::HostName(_) | ConnectError::NotPublic(_) => {
                Next::Stop(Stop::Address(error.to_string()))
            }
            // It may not have heard of the newest record yet. It was told nothing.
            ConnectError::Opening(OpeningError::EpochBehind { .. }) => self.retry(now, fraction),
            ConnectError::Opening(untrusted) => Next::Stop(Stop::Untrusted(untrusted.clone())),
            ConnectError::EndedEarly(Some(reason)) if is_our_fault(*reason) => {
                Next::Stop(Stop::Rejected(*reason))
            }
            _ => self.retry(now, fraction),
        }
    }

    fn retry(&mut self, now: Instant, fraction: f64) -> Next {
        self.failures = self.failures.saturating_add(1);
        Next::RetryIn(match &self.restart {
            Some(restart) if self.failures == 1 => restart.spread.mul_f64(fraction),
            Some(restart) if now < restart.until => {
                Backoff::RESTART.wait(self.failures - 1, fraction)
            }
            _ => Backoff::RECONNECT.wait(self.failures, fraction),
        })
    }
}

/// Whether the same client would be closed for the same reason again.
fn is_our_fault(reason: CloseReason) -> bool {
    match reason {
        CloseReason::Malformed
        | CloseReason::PacketTooLarge
        | CloseReason::OutOfOrder
        | CloseReason::VersionUnsupported
        | CloseReason::AckInvalid => true,
        CloseReason::Restarting
        | CloseReason::EstablishmentTimeout
        | CloseReason::Idle
        | CloseReason::TooSlow
        | CloseReason::StoreFailed => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(next: Next) -> Duration {
        match next {
            Next::RetryIn(wait) => wait,
            Next::Stop(why) => panic!("stopped: {why}"),
        }
    }

    #[test]
    fn each_close_reason_has_its_consequence() {
        for reason in CloseReason::ALL {
            let next =
                Reconnect::default().ended(Instant::now(), &Ending::Relay(Some(*reason)), 0.5);
            let stops = [
                "malformed",
                "packet_too_large",
                "out_of_order",
                "version_unsupported",
                "ack_invalid",
            ];
            if stops.contains(&reason.name()) {
                assert_eq!(next, Next::Stop(Stop::Rejected(*reason)));
            } else {
                assert!(wait(next) > Duration::ZERO);
            }
        }
        for ending in [Ending::Relay(None), Ending::Network("reset".to_owned()), Ending::Ours] {
            wait(Reconnect::default().ended(Instant::now(), &ending, 0.5));
        }
    }

    #[test]
    fn failures_back_off_and_success_forgives() {
        let (mut reconnect, now) = (Reconnect::default(), Instant::now());
        let refused = ConnectError::TimedOut("connecting");
        let waits: Vec<u64> =
            (0..9).map(|_| wait(reconnect.failed(now, &refused, 1.0)).as_millis() as u64).collect();
        assert_eq!(waits, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
        reconnect.connected();
        let next = wait(reconnect.failed(now, &refused, 1.0));
        assert_eq!(next.as_secs(), 60, "a relay that accepts and dies is no success");
        reconnect.established();
        assert_eq!(wait(reconnect.failed(now, &refused, 1.0)).as_millis(), 500);
    }

    #[test]
    fn a_restart_is_obeyed() {
        let (mut reconnect, now) = (Reconnect::default(), Instant::now());
        let after = |seconds| now + Duration::from_secs(seconds);
        reconnect.restarting(now, 5_000, 600_000);
        reconnect.established(); // a late answer to a post
        let ending = Ending::Relay(Some(CloseReason::Restarting));
        assert_eq!(wait(reconnect.ended(now, &ending, 0.5)).as_millis(), 2_500);
        let refused = ConnectError::TimedOut("connecting");
        for _ in 0..50 {
            let again = wait(reconnect.failed(after(300), &refused, 1.0));
            assert!(again <= Duration::from_secs(2), "worth asking often");
        }
        let later = wait(reconnect.failed(after(606), &refused, 1.0));
        assert_eq!(later, Duration::from_secs(60), "the relay's own time is over");
        reconnect.connected();
        reconnect.established();
        assert_eq!(wait(reconnect.ended(after(700), &ending, 1.0)), Backoff::RECONNECT.first);
    }

    #[test]
    fn a_relay_that_cannot_be_trusted_is_not_asked_again() {
        let (mut reconnect, now) = (Reconnect::default(), Instant::now());
        let next = reconnect.failed(now, &OpeningError::Signature.into(), 0.5);
        assert_eq!(next, Next::Stop(Stop::Untrusted(OpeningError::Signature)));
        let next = reconnect.failed(now, &ConnectError::HostName("a b".to_owned()), 0.5);
        assert!(matches!(next, Next::Stop(Stop::Address(_))));
    }
}
