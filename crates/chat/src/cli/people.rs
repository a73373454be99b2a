//! People: meeting them, knowing them, and not wanting to hear of them.

use std::collections::HashSet;

use valise_chat_core::api::{Command, ConversationKind, Event, Joined, Link, Refusal, Words};

use super::arguments::{Invite, Join, Verify};
use super::exit::Failure;
use super::output::{Output, is_agreed, say};
use super::session::Session;
use crate::api::Happening;
use crate::printable::{printable, printable_line};

/// `invite`.
///
/// # Errors
/// [`Failure`].
pub(super) async fn invite(
    session: &mut Session,
    invite: &Invite,
    output: &Output,
) -> Result<(), Failure> {
    let known = session.conversations().await?;
    let known: HashSet<_> = known.into_iter().map(|conversation| conversation.number).collect();
    let mut events = session.api.events();
    let Link { link } = session.ask(Command::Invite {}).await?;
    output.link(&link, !invite.no_qr)?;
    say(
        "One person can follow this link: `valise-chat join LINK`. Whoever has it can be that person.",
    );
    if invite.no_wait {
        return Ok(());
    }
    say("Waiting until somebody has joined; Ctrl-C ends the waiting, not the invite.");
    loop {
        let joined = match events.next().await {
            Happening::Event(Event::Conversation { conversation }) => vec![conversation],
            Happening::Event(_) => continue,
            Happening::Missed => session.conversations().await?,
            Happening::Ended(_) => {
                session.reopen().await?;
                events = session.api.events();
                session.conversations().await?
            }
        };
        let joined = joined.into_iter().find(|conversation| {
            conversation.kind == ConversationKind::Direct && !known.contains(&conversation.number)
        });
        if let Some(joined) = joined {
            let title = printable_line(&joined.title);
            let number = joined.number;
            say(format!("{title} has joined. Write with: valise-chat send {number} TEXT"));
            return Ok(());
        }
    }
}

/// `join`.
///
/// # Errors
/// [`Failure`].
pub(super) async fn join(session: &Session, join: &Join) -> Result<(), Failure> {
    let command = |allow_relay| Command::Join { link: join.link.clone(), allow_relay };
    let mut allow = join.allow_relay;
    // What a link opens can name further relays: each is asked about once.
    let joined = loop {
        match session.api.ask::<Joined>(command(allow)).await {
            Err(Refusal { code, message }) if code == "new_relay" => {
                if !is_agreed(&format!("{}. Allow it?", printable_line(&message))).await {
                    return Err(Refusal { code, message }.into());
                }
                allow = true;
            }
            joined => break joined?,
        }
    };
    let conversations = session.conversations().await?;
    let title = conversations.into_iter().find(|known| known.number == joined.conversation);
    let title = title.map(|known| printable_line(&known.title)).unwrap_or_default();
    let number = joined.conversation;
    say(format!(
        "You can write to {title} now: valise-chat send {number} TEXT, or just valise-chat"
    ));
    Ok(())
}

/// `contacts`.
///
/// # Errors
/// [`Failure`].
pub(super) async fn contacts(
    session: &Session,
    is_json: bool,
    output: &Output,
) -> Result<(), Failure> {
    let contacts = session.contacts().await?;
    if is_json {
        return output.json(&contacts);
    }
    if contacts.is_empty() {
        say("You know nobody yet: `valise-chat invite` makes a link for somebody.");
    }
    for contact in contacts {
        let mut line = format!("{}  {}", contact.account, output.strong(&contact.name));
        if !contact.petname.is_empty() {
            line.push_str(&format!(" = {}", output.strong(&contact.petname)));
        }
        let marks = [
            (contact.verified, "  verified"),
            (contact.blocked, "  blocked"),
            (contact.identity_reset, "  KEY CHANGED, see `valise-chat trust`"),
        ];
        line.extend(marks.into_iter().filter(|(is_so, _)| *is_so).map(|(_, mark)| mark));
        output.line(line)?;
    }
    Ok(())
}

/// `verify`.
///
/// # Errors
/// [`Failure`].
pub(super) async fn verify(
    session: &Session,
    verify: &Verify,
    output: &Output,
) -> Result<(), Failure> {
    let account = session.contact(&verify.who).await?;
    if verify.same || verify.different {
        let verified = verify.same;
        session.tell(Command::MarkVerified { account, verified }).await?;
        say(if verified {
            "Noted: nobody sits between you two."
        } else {
            "Noted: not verified. If you compared all the words and they differ, trust nothing said \
             here: invite each other anew, and compare again."
        });
        return Ok(());
    }
    let words: Words = session.ask(Command::Verify { account }).await?;
    output.line(words.words.join(" "))?;
    say(printable(&words.next));
    Ok(())
}

/// `trust`.
///
/// # Errors
/// [`Failure`].
pub(super) async fn trust(session: &Session, who: &str) -> Result<(), Failure> {
    let account = session.contact(who).await?;
    session.tell(Command::AcceptIdentity { account }).await?;
    say("Noted. Compare the words again: valise-chat verify WHO");
    Ok(())
}

/// `petname`.
///
/// # Errors
/// [`Failure`].
pub(super) async fn petname(session: &Session, who: &str, name: String) -> Result<(), Failure> {
    let account = session.contact(who).await?;
    session.tell(Command::Petname { account, name }).await
}

/// `block` and `unblock`.
///
/// # Errors
/// [`Failure`].
pub(super) async fn block(session: &Session, who: &str, blocked: bool) -> Result<(), Failure> {
    let account = session.contact(who).await?;
    session.tell(Command::Block { account, blocked }).await
}
