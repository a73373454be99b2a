//! Why a relay did not do what it was asked.

use std::time::Duration;

use valise_client::proto::Reason;
use valise_client::{AskError, Away, Closed, ConnectError, RequestError, Stop, VisitError};

/// A request to a relay has failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RelayError {
    /// There is no connection now. Nothing was sent.
    #[error("the relay cannot be reached: {0}")]
    Unreachable(String),
    /// The other side does not prove that it serves the realm. Nothing was sent.
    #[error("the relay cannot be trusted: {0}")]
    Untrusted(String),
    /// The connection ended, or the time was over, before the answer came: whether the relay has
    /// done it is unknown, and a retry with the same id is right.
    #[error("the relay's answer did not come: {0}")]
    Unknown(String),
    /// The relay said no.
    #[error("the relay refused: {}", reason.map_or("for a reason this version does not know", Reason::name))]
    Refused {
        /// Why; `None` for a reason this version does not know.
        reason: Option<Reason>,
        /// When a retry makes sense; zero: the relay does not say.
        retry_after: Duration,
    },
    /// The address is not to be dialled: it is no host, or one of a private network.
    #[error("the relay's address is not allowed: {0}")]
    Forbidden(String),
    /// One's own mailbox is not served here any more.
    #[error("this mailbox is not connected any more: {0}")]
    Stopped(String),
    /// The connections of this profile were closed.
    #[error("the connections of this profile are closed")]
    Closed,
}

impl RelayError {
    /// Whether the same request may succeed later without being changed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Untrusted(_) | Self::Unknown(_) => true,
            // Of this engine: the next one of the profile has another chance.
            Self::Stopped(_) | Self::Closed => true,
            Self::Refused { reason, .. } => reason.is_some_and(|reason| {
                // The connection has changed between looking for it and asking.
                reason.is_retryable() || reason == Reason::NotAttached
            }),
            Self::Forbidden(_) => false,
        }
    }
}

impl From<RequestError> for RelayError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Refused { reason, retry_after_ms } => {
                Self::Refused { reason, retry_after: Duration::from_millis(retry_after_ms.into()) }
            }
            RequestError::Closed(_) | RequestError::OtherAnswer => Self::Unknown(error.to_string()),
        }
    }
}

/// Of a signal, which has no answer.
impl From<Closed> for RelayError {
    fn from(closed: Closed) -> Self {
        match closed {
            Closed::TooLarge => {
                Self::Refused { reason: Some(Reason::TooLarge), retry_after: Duration::ZERO }
            }
            Closed::Ended | Closed::Full => Self::Unreachable(closed.to_string()),
        }
    }
}

impl From<Away> for RelayError {
    fn from(away: Away) -> Self {
        match away {
            Away::Paused { .. } => Self::Unreachable(away.to_string()),
            Away::NotServed => Self::Stopped(away.to_string()),
            Away::Ended(None) => Self::Closed,
            Away::Ended(Some(Stop::Untrusted(error))) => Self::Untrusted(error.to_string()),
            Away::Ended(Some(Stop::Address(why))) => Self::Forbidden(why),
            Away::Ended(Some(stop @ Stop::Replaced)) => Self::Stopped(stop.to_string()),
            Away::Ended(Some(stop @ Stop::Rejected(_))) => Self::Unreachable(stop.to_string()),
        }
    }
}

impl From<AskError> for RelayError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Away(away) => away.into(),
            AskError::Request(error) => error.into(),
        }
    }
}

impl From<VisitError> for RelayError {
    fn from(error: VisitError) -> Self {
        match error {
            VisitError::Connect(ConnectError::Opening(error)) => Self::Untrusted(error.to_string()),
            VisitError::Connect(
                error @ (ConnectError::HostName(_) | ConnectError::NotPublic(_)),
            ) => Self::Forbidden(error.to_string()),
            VisitError::Connect(error) => Self::Unreachable(error.to_string()),
            VisitError::Request(error) => error.into(),
        }
    }
}
