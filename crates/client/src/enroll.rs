//! The first visit to a relay: become a member, and get capabilities to hand out.

use valise_proto::{Token, TokenKind};

use crate::visit::{Visit, VisitError};
use crate::{Connection, Dial, OwnerKeyPair};

/// What a new member has to keep.
#[derive(Debug, Clone, PartialEq)]
pub struct Enrolled {
    /// The right to attach the owner's mailbox.
    pub member_token: Token,
    /// Rights to post into it, one for each correspondent.
    pub capabilities: Vec<Token>,
}

/// Joins with the owner's key, and an invite code where the relay asks for one, and gets so many
/// capabilities, valid for so many days; none are fine.
///
/// # Errors
/// [`VisitError`].
pub async fn enroll(
    dial: &Dial,
    owner: &OwnerKeyPair,
    code: Option<&Token>,
    capabilities: u32,
    days: u32,
) -> Result<Enrolled, VisitError> {
    let mut visit = Visit::new(dial);
    let join = |connection: Connection| async move { connection.join(owner, code).await };
    let member_token = visit.ask(join).await?;
    let mut enrolled = Enrolled { member_token, capabilities: Vec::new() };
    if capabilities > 0 {
        let issue = |connection: Connection| async move {
            let attachment = connection.attach(owner, &member_token).await?;
            connection.issue(attachment, TokenKind::Post, capabilities, days, 0).await
        };
        enrolled.capabilities = visit.ask(issue).await?;
    }
    visit.close().await;
    Ok(enrolled)
}
