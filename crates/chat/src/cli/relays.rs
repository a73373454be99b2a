//! Relays of others: each sees this machine's network address, so the user decides.

use clap::{Args, Subcommand};
use valise_chat_core::api::{Command, Relay};
use valise_proto::RelayAddress;

use super::exit::Failure;
use super::output::{Output, say};
use super::session::Session;
use crate::printable::printable_line;

#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[allow(missing_docs, reason = "its variant of `Action` says it")]
pub struct Relays {
    /// None: list them
    #[command(subcommand)]
    pub action: Option<RelayAction>,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
#[allow(missing_docs, reason = "the help text says it")]
pub enum RelayAction {
    /// Let a relay be contacted: it sees your network address; what waited for it goes out
    Allow {
        /// valise://HOST:PORT/REALM
        relay: RelayAddress,
    },
    /// Contact a relay no more; what is for it waits
    Forbid {
        /// valise://HOST:PORT/REALM
        relay: RelayAddress,
    },
    /// Ask before a new relay is contacted, as a new profile does
    Ask,
    /// Contact any relay without a question: for scripts, and where a proxy hides your address
    Any,
}

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
