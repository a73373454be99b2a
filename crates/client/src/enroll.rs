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
/// capabilities, valid for so many days; none are fine.
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
    let mut enrolled = Enrolled { member_token, capabilities: Vec::new() };
    if capabilities > 0 {
        let attachment = connection.attach(owner, &member_token).await?;
        let issued = connection.issue(attachment, TokenKind::Post, capabilities, days, 0);
        enrolled.capabilities = issued.await?;
    }
    connection.close().await;
    Ok(enrolled)
}
