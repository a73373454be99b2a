//! Relays of others: each sees this machine's network address, so the user decides.

use valise_chat_core::api::{Command, Relay};

use super::arguments::{RelayAction, Relays};
use super::exit::Failure;
use super::output::{Output, say};
use super::session::Session;
use crate::printable::printable_line;

/// `relays ...`.
///
/// # Errors
/// [`Failure`].
pub(super) async fn relays(
    session: &Session,
    relays: Relays,
    output: &Output,
) -> Result<(), Failure> {
    let decide = |relay: String, allow| Command::AllowRelay { relay, allow };
    match relays.action {
        None => list(session, relays.json, output).await,
        Some(RelayAction::Allow { relay }) => {
            session.tell(decide(relay.to_string(), true)).await?;
            say("Allowed. What waited for it goes out now.");
            Ok(())
        }
        Some(RelayAction::Forbid { relay }) => {
            session.tell(decide(relay.to_string(), false)).await?;
            say("Not contacted any more. What is for it waits.");
            Ok(())
        }
        Some(RelayAction::Ask) => session.tell(Command::AskRelays { ask: true }).await,
        Some(RelayAction::Any) => session.tell(Command::AskRelays { ask: false }).await,
    }
}

async fn list(session: &Session, is_json: bool, output: &Output) -> Result<(), Failure> {
    let relays: Vec<Relay> = session.ask(Command::Relays {}).await?;
    if is_json {
        return output.json(&relays);
    }
    for relay in relays {
        let state = match (relay.own, relay.allowed) {
            (true, _) => "yours",
            (false, true) => "allowed",
            (false, false) => "WAITS FOR YOUR WORD",
        };
        let people = printable_line(&relay.people.join(", "));
        output.line(format!("{}  {state}  {people}", relay.relay).trim_end())?;
    }
    Ok(())
}
