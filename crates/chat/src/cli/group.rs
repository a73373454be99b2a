//! Groups.

use valise_chat_core::api::{Command, Joined, Member};

use super::arguments::Group;
use super::exit::Failure;
use super::output::{Output, say};
use super::session::Session;
use super::target;

/// `group ...`.
///
/// # Errors
/// [`Failure`].
pub(super) async fn group(session: &Session, group: Group, output: &Output) -> Result<(), Failure> {
    match group {
        Group::Create { name, members } => {
            let contacts = session.contacts().await?;
            let members = members.iter().map(|who| target::contact(who, &contacts));
            let members = members.collect::<Result<_, _>>()?;
            let made: Joined = session.ask(Command::GroupCreate { name, members }).await?;
            output.line(made.conversation.to_string())?;
            say(format!(
                "The group is there. Write with: valise-chat send {} TEXT",
                made.conversation
            ));
            Ok(())
        }
        Group::Add { group, who } => {
            let conversation = session.conversation(&group).await?;
            let account = session.contact(&who).await?;
            session.tell(Command::GroupAdd { conversation, account }).await
        }
        Group::Remove { group, who } => {
            let conversation = session.conversation(&group).await?;
            let members: Vec<Member> = session.ask(Command::Members { conversation }).await?;
            let account = target::member(&who, &members)?;
            session.tell(Command::GroupRemove { conversation, account }).await
        }
        Group::Leave { group } => {
            let conversation = session.conversation(&group).await?;
            session.tell(Command::GroupLeave { conversation }).await
        }
        Group::Rename { group, name } => {
            let conversation = session.conversation(&group).await?;
            session.tell(Command::GroupRename { conversation, name }).await
        }
        Group::Members { group, json } => members(session, &group, json, output).await,
        Group::Rejoin { group } => {
            let conversation = session.conversation(&group).await?;
            session.tell(Command::GroupRejoin { conversation }).await?;
            say("Asked. A member's device adds this one when it is online.");
            Ok(())
        }
    }
}

async fn members(
    session: &Session,
    group: &str,
    is_json: bool,
    output: &Output,
) -> Result<(), Failure> {
    let conversation = session.conversation(group).await?;
    let members: Vec<Member> = session.ask(Command::Members { conversation }).await?;
    if is_json {
        return output.json(&members);
    }
    for member in members {
        let devices = if member.devices == 1 { "device" } else { "devices" };
        let mut line = format!("{}  {}", member.account, output.strong(&member.name));
        line.push_str(&format!("  {} {devices}", member.devices));
        line.push_str(if member.me { "  you" } else { "" });
        line.push_str(if member.verified { "  verified" } else { "" });
        line.push_str(if member.other_key { "  ANOTHER KEY than the one you know" } else { "" });
        output.line(line)?;
    }
    Ok(())
}
