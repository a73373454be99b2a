//! The command line.

pub mod arguments;
mod daemon;
mod devices;
mod duration;
mod exit;
mod group;
mod manual;
mod output;
mod people;
mod place;
mod profile;
mod relays;
mod secret;
mod session;
mod talk;
mod target;

use std::io::{self, IsTerminal};

use tokio::signal::unix::{SignalKind, signal};
use valise_chat_core::api::Command;

use crate::tui;
use arguments::{Action, Arguments};
pub use exit::{Exit, Failure};
use output::{Output, say};
use session::Session;
pub use target::TargetError;

/// Does what was asked for, and says what went wrong.
pub async fn run(arguments: Arguments) -> Exit {
    match perform(arguments).await {
        Ok(()) => Exit::Ok,
        Err(failure) => {
            if !matches!(failure, Failure::OutputClosed) {
                say(format!("valise-chat: {}", crate::printable::printable(&failure.to_string())));
                if let Some(advice) = failure.advice() {
                    say(advice);
                }
            }
            Exit::from(&failure)
        }
    }
}

async fn perform(Arguments { place, action }: Arguments) -> Result<(), Failure> {
    let Some(action) = action else {
        return terminal(&place).await;
    };
    match &action {
        Action::Init(init) => return profile::init(&place, init).await,
        Action::Restore(restore) => return profile::restore(&place, restore).await,
        Action::Passphrase(change) => return secret::change(&place, change).await,
        Action::RemoveProfile(remove) => return profile::remove(&place, remove).await,
        Action::Completions { shell } => return manual::completions(*shell),
        Action::Man { out } => return manual::pages(out),
        Action::Join(join) => profile::create_to_join(&place, join).await?,
        _ => {}
    }
    // These end when they are told to; to be told so is no fault.
    let is_endless = matches!(
        action,
        Action::Tail(_) | Action::Daemon { .. } | Action::Invite(_) | Action::Devices(_)
    );
    let mut session = Session::open(&place).await?;
    let result = tokio::select! {
        result = in_session(&mut session, action) => result,
        stopped = stopped() => stopped.and_then(|()| {
            if is_endless { Ok(()) } else { Err(Failure::NotYet("stopped by a signal".to_owned())) }
        }),
    };
    // What could not be sent while it was waited for is not waited for again.
    let has_last_words = !matches!(result, Err(Failure::NotYet(_)));
    tokio::select! {
        () = session.close(has_last_words) => {}
        // Whoever says it a second time means now.
        _ = stopped() => {}
    }
    result
}

async fn in_session(session: &mut Session, action: Action) -> Result<(), Failure> {
    // Another process may end while it is asked: what does no harm is asked again.
    while action.is_repeatable() {
        match act(session, action.clone()).await {
            Err(failure) if session.is_lost(&failure) => session.reopen().await?,
            result => return result,
        }
    }
    act(session, action).await
}

async fn act(session: &mut Session, action: Action) -> Result<(), Failure> {
    let output = &Output::of_process();
    // These tell what comes while it comes; the others look once, and have to see it.
    if !matches!(action, Action::Tail(_) | Action::Daemon { .. }) {
        session.catch_up().await;
    }
    match action {
        // Done before, without an engine.
        Action::Init(_)
        | Action::Restore(_)
        | Action::Passphrase(_)
        | Action::RemoveProfile(_)
        | Action::Completions { .. }
        | Action::Man { .. } => Ok(()),
        Action::Invite(invite) => people::invite(session, &invite, output).await,
        Action::Join(join) => people::join(session, &join).await,
        Action::Send(send) => talk::send(session, send, output).await,
        Action::Tail(tail) => talk::tail(session, &tail, output).await,
        Action::List(json) => talk::list(session, json.json, output).await,
        Action::History(history) => talk::history(session, &history, output).await,
        Action::Contacts(json) => people::contacts(session, json.json, output).await,
        Action::Group(group) => group::group(session, group, output).await,
        Action::Devices(devices) => devices::devices(session, devices, output).await,
        Action::Relays(relays) => relays::relays(session, relays, output).await,
        Action::Verify(verify) => people::verify(session, &verify, output).await,
        Action::Trust { who } => people::trust(session, &who).await,
        Action::Name { name } => session.tell(Command::Rename { name }).await,
        Action::Petname { who, name } => people::petname(session, &who, name).await,
        Action::Block { who } => people::block(session, &who, true).await,
        Action::Unblock { who } => people::block(session, &who, false).await,
        Action::Mute { to } => talk::mute(session, &to, true).await,
        Action::Unmute { to } => talk::mute(session, &to, false).await,
        Action::Disappear { to, duration } => talk::disappear(session, &to, duration).await,
        Action::Export(export) => profile::export(session, &export).await,
        Action::Daemon { stdio } => daemon::daemon(session, stdio).await,
        Action::Status(json) => profile::status(session, json.json, output).await,
    }
}

/// The terminal UI, which listens to signals itself.
async fn terminal(place: &arguments::Place) -> Result<(), Failure> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        let text = "this is no terminal: say what to do, see `valise-chat --help`";
        return Err(Failure::Usage(text.to_owned()));
    }
    let session = Session::open(place).await?;
    let result = tui::run(session.api.clone()).await;
    session.close(true).await;
    Ok(result?)
}

/// Waits for SIGINT or SIGTERM.
async fn stopped() -> Result<(), Failure> {
    let listen = |kind| signal(kind).map_err(Failure::file("listen to signals"));
    let (mut interrupt, mut terminate) =
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
