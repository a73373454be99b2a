//! The first visit to a relay: become a member, and get capabilities to hand out.

use valise_proto::{Token, TokenKind};

use crate::{ConnectError, Dial, OwnerKeyPair, RequestError, connect};

/// What a new member has to keep.
#[derive(Debug, Clone, PartialEq)]
pub struct Enrolled {
    /// The right to attach the owner's mailbox.
    pub member_token: Token,
    /// Rights to post into it, one for each correspondent.
    pub capabilities: Vec<Token>,
}

/// The relay did not take the new member.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// It could not be reached, or not be trusted.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It said no.
    #[error(transparent)]
    Request(#[from] RequestError),
}

/// Joins with the owner's key, and an invite code where the relay asks for one, and gets so many
/// capabilities, valid for so many days.
///
/// # Errors
/// [`EnrollError`].
pub async fn enroll(
    dial: &Dial,
    owner: &OwnerKeyPair,
    code: Option<&Token>,
    capabilities: u32,
    days: u32,
) -> Result<Enrolled, EnrollError> {
    let (connection, _incoming) = connect(dial).await?;
    let member_token = connection.join(owner, code).await?;
    let attachment = connection.attach(owner, &member_token).await?;
    let kind = TokenKind::Post;
    let capabilities = connection.issue(attachment, kind, capabilities, days, 0).await?;
    connection.close().await;
    Ok(Enrolled { member_token, capabilities })
}
