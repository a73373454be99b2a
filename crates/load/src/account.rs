//! A client's standing at the relay: its key, its right to attach, and the connection on which it
//! is attached.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use valise_client::{
    Backoff, ConnectError, Connection, Dial, Incoming, OwnerKeyPair, RequestError, TransportKind,
    connect, random,
};
use valise_proto::limits::ISSUE_COUNT_MAX;
use valise_proto::{Reason, RelayAddress, Token, TokenKind};

/// Source addresses of the loopback network that the clients share: none has more than a few
/// thousand, so that closed connections' ports need not be waited for.
pub(crate) const SOURCES: usize = 16;

/// Attempts before a refusal that may pass is taken for final.
const ATTEMPTS_MAX: u32 = 8;

/// Days the capabilities of a run are valid: the run may pass midnight.
const CAPABILITY_DAYS: u32 = 2;

/// A mailbox of ours.
pub(crate) struct Account {
    pub(crate) owner: OwnerKeyPair,
    pub(crate) member: Token,
}

/// A connection with an attachment.
pub(crate) struct Live {
    pub(crate) connection: Connection,
    pub(crate) incoming: Incoming,
    pub(crate) attachment: u32,
}

/// Why a client is not attached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AccountError {
    #[error("connect: {0}")]
    Connect(#[from] ConnectError),
    #[error("join: {0}")]
    Join(RequestError),
    #[error("attach: {0}")]
    Attach(RequestError),
    #[error("issue: {0}")]
    Issue(RequestError),
}

impl AccountError {
    /// Whether trying again, perhaps on a new connection, may help.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Connect(ConnectError::Opening(_) | ConnectError::HostName(_)) => false,
            Self::Connect(_) => true,
            Self::Join(error) | Self::Attach(error) | Self::Issue(error) => match error {
                RequestError::Refused { reason, .. } => reason.is_some_and(Reason::is_retryable),
                RequestError::Closed(_) => true,
                RequestError::OtherAnswer => false,
            },
        }
    }

    /// What went wrong, without addresses and other particulars: for counting.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Connect(ConnectError::Unreachable { error, .. }) => {
                format!("connect: {}", error.kind())
            }
            Self::Connect(ConnectError::Tls(error)) => format!("connect: TLS: {}", error.kind()),
            Self::Connect(ConnectError::Broken(_)) => "connect: broken".to_owned(),
            error => error.to_string(),
        }
    }

    /// How long the relay wants to be left alone.
    pub(crate) fn retry_after(&self) -> Duration {
        match self {
            Self::Join(RequestError::Refused { retry_after_ms, .. })
            | Self::Attach(RequestError::Refused { retry_after_ms, .. })
            | Self::Issue(RequestError::Refused { retry_after_ms, .. }) => {
                Duration::from_millis((*retry_after_ms).into())
            }
            _ => Duration::ZERO,
        }
    }
}

/// How client number `number` reaches the relay.
pub(crate) fn dial(address: &RelayAddress, transport: TransportKind, number: usize) -> Dial {
    let loopback = address.host.parse::<Ipv4Addr>().is_ok_and(|host| host.is_loopback());
    // 127.0.0.2, 127.0.0.3, ...: Linux takes the whole network for its own.
    let last = 2 + u8::try_from(number % SOURCES).expect("there are few sources");
    let connect_from = loopback.then(|| IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)));
    Dial { transport, connect_from, ..Dial::new(address.clone()) }
}

/// Joins with a new key on this connection, trying again as often as the relay asks for it.
pub(crate) async fn join(
    connection: &Connection,
    code: Option<&Token>,
) -> Result<Account, AccountError> {
    let owner = OwnerKeyPair::generate();
    let member =
        patiently(|| async { connection.join(&owner, code).await.map_err(AccountError::Join) });
    let member = member.await?;
    Ok(Account { owner, member })
}

/// Connects, joins with a new key, and attaches.
pub(crate) async fn enroll(
    dial: &Dial,
    code: Option<&Token>,
) -> Result<(Account, Live), AccountError> {
    let connected = patiently(|| async { Ok(connect(dial).await?) }).await;
    let (connection, incoming) = connected?;
    let account = join(&connection, code).await?;
    let attached = patiently(|| async {
        connection.attach(&account.owner, &account.member).await.map_err(AccountError::Attach)
    });
    let attachment = attached.await?;
    Ok((account, Live { connection, incoming, attachment }))
}

impl Account {
    /// Connects and attaches, once.
    pub(crate) async fn attach(&self, dial: &Dial) -> Result<Live, AccountError> {
        let (connection, incoming) = connect(dial).await?;
        let attached = connection.attach(&self.owner, &self.member).await;
        let attachment = attached.map_err(AccountError::Attach)?;
        Ok(Live { connection, incoming, attachment })
    }

    /// Connects and attaches, trying again if need be.
    pub(crate) async fn attach_patiently(&self, dial: &Dial) -> Result<Live, AccountError> {
        patiently(|| self.attach(dial)).await
    }
}

impl Live {
    /// So many capabilities of the attached mailbox.
    pub(crate) async fn capabilities(&self, count: usize) -> Result<Vec<Token>, AccountError> {
        let mut tokens = Vec::with_capacity(count);
        while tokens.len() < count {
            let next = u32::try_from(count - tokens.len()).unwrap_or(u32::MAX).min(ISSUE_COUNT_MAX);
            let issued = patiently(|| async {
                self.connection
                    .issue(self.attachment, TokenKind::Post, next, CAPABILITY_DAYS, 0)
                    .await
                    .map_err(AccountError::Issue)
            });
            tokens.extend(issued.await?);
        }
        Ok(tokens)
    }
}

async fn patiently<T, F>(attempt: impl Fn() -> F) -> Result<T, AccountError>
where
    F: Future<Output = Result<T, AccountError>>,
{
    for failures in 1.. {
        match attempt().await {
            Err(error) if error.may_pass() && failures < ATTEMPTS_MAX => {
                let wait = Backoff::RETRY.wait(failures, random::fraction());
                tokio::time::sleep(wait + error.retry_after()).await;
            }
            result => return result,
        }
    }
    unreachable!("the last attempt's result is returned")
}
