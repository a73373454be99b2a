//! An engine for one command: the one that some process holds already, or one that this process
//! opens, and serves to others as long as the command takes.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use valise_chat_core::api::{
    Command, Connection, Contact, Conversation, ConversationNumber, Refusal, Status,
};
use valise_chat_core::engine::{Engine, EngineError};
use valise_chat_core::vault::{Passphrase, VaultError};

use super::arguments::Place;
use super::exit::Failure;
use super::output::say;
use super::target;
use crate::api::{Api, Happening};
use crate::rpc::{Remote, Server};

/// A process that holds the profile may take so long to begin or end serving it; and when many
/// come at once, one of them may be late several times.
const LOCKED_MAX: Duration = Duration::from_secs(10);

/// How often it is tried meanwhile: what is served for a moment only must not be missed.
const LOCKED_WAIT: Duration = Duration::from_millis(25);

/// How long one waits for the relay before one goes on without it.
const CATCH_UP_MAX: Duration = Duration::from_secs(5);

/// How long what was said may take to leave this process before it ends.
const LAST_WORDS_MAX: Duration = Duration::from_secs(5);

/// An engine to ask.
#[derive(Debug)]
pub(super) struct Session {
    /// The engine.
    pub(super) api: Api,
    place: Place,
    is_local: bool,
    server: Option<Server>,
}

impl Session {
    /// Finds the process that holds the profile, or opens the profile.
    ///
    /// # Errors
    /// No profile, no passphrase, or a process that holds the profile and does not serve it.
    pub(super) async fn open(place: &Place) -> Result<Self, Failure> {
        let directory = place.directory()?;
        let mut passphrase = None;
        let until = Instant::now() + LOCKED_MAX;
        loop {
            if let Some(remote) = connect(&directory).await? {
                let (api, place) = (Api::remote(remote), place.clone());
                return Ok(Self { api, place, is_local: false, server: None });
            }
            match open_here(place, &directory, &mut passphrase).await {
                Ok(engine) => return Ok(Self::local(engine, place.clone(), &directory)),
                Err(Failure::Engine(EngineError::Vault(VaultError::Locked(_))))
                    if Instant::now() < until =>
                {
                    tokio::time::sleep(LOCKED_WAIT).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn local(engine: Engine, place: Place, directory: &Path) -> Self {
        let api = Api::local(engine);
        let server = Server::start(directory, api.clone())
            .inspect_err(|error| {
                say(format!(
                    "Other commands cannot use this profile meanwhile: its socket fails ({error})."
                ));
            })
            .ok();
        Self { api, place, is_local: true, server }
    }

    /// Waits until what had waited at the relay is here, if this process has to fetch it, or it is
    /// clear that the relay is not.
    pub(super) async fn catch_up(&self) {
        if !self.is_local {
            return;
        }
        let mut events = self.api.events();
        let settled = async {
            loop {
                match self.ask::<Status>(Command::Status {}).await {
                    Ok(Status { connection: Connection::Connecting, .. }) => {}
                    _ => return,
                }
                if matches!(events.next().await, Happening::Ended(_)) {
                    return;
                }
            }
        };
        tokio::time::timeout(CATCH_UP_MAX, settled).await.ok();
    }

    /// Whether the engine is in this process.
    pub(super) fn is_local(&self) -> bool {
        self.is_local
    }

    /// Whether a command failed because the process that held the profile has ended meanwhile: to
    /// [reopen](Self::reopen) and to ask again may help.
    pub(super) fn is_lost(&self, failure: &Failure) -> bool {
        !self.is_local && matches!(failure, Failure::Refused(refusal) if refusal.code == "ended")
    }

    /// Finds or opens the profile again, after the process that held it has ended.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub(super) async fn reopen(&mut self) -> Result<(), Failure> {
        *self = Self::open(&self.place).await?;
        Ok(())
    }

    /// Asks the engine.
    ///
    /// # Errors
    /// [`Failure::Refused`].
    pub(super) async fn ask<T: DeserializeOwned>(&self, command: Command) -> Result<T, Failure> {
        Ok(self.api.ask(command).await?)
    }

    /// Tells the engine, and wants no answer but that it is done.
    ///
    /// # Errors
    /// [`Failure::Refused`].
    pub(super) async fn tell(&self, command: Command) -> Result<(), Failure> {
        self.api.call(command).await?;
        Ok(())
    }

    /// The conversations, the newest first.
    ///
    /// # Errors
    /// [`Failure::Refused`].
    pub(super) async fn conversations(&self) -> Result<Vec<Conversation>, Failure> {
        self.ask(Command::Conversations {}).await
    }

    /// The people one knows.
    ///
    /// # Errors
    /// [`Failure::Refused`].
    pub(super) async fn contacts(&self) -> Result<Vec<Contact>, Failure> {
        self.ask(Command::Contacts {}).await
    }

    /// The conversation that is meant.
    ///
    /// # Errors
    /// [`Failure::Target`].
    pub(super) async fn conversation(&self, name: &str) -> Result<ConversationNumber, Failure> {
        let (conversations, contacts) = (self.conversations().await?, self.contacts().await?);
        Ok(target::conversation(name, &conversations, &contacts)?)
    }

    /// The contact's account that is meant.
    ///
    /// # Errors
    /// [`Failure::Target`].
    pub(super) async fn contact(&self, name: &str) -> Result<String, Failure> {
        Ok(target::contact(name, &self.contacts().await?)?)
    }

    /// Lets go of the engine. One in this process gets some time to say what it has to say, if
    /// `has_last_words` and there is a relay to say it to.
    pub(super) async fn close(mut self, has_last_words: bool) {
        let status = self.ask::<Status>(Command::Status {}).await;
        let can_speak = has_last_words
            && status.is_ok_and(|status| {
                matches!(status.connection, Connection::Connecting | Connection::Online)
            });
        if self.is_local && can_speak {
            let timeout_ms = u64::try_from(LAST_WORDS_MAX.as_millis()).unwrap_or(u64::MAX);
            // An engine that has ended meanwhile has nothing more to say.
            self.api.call(Command::Settle { timeout_ms }).await.ok();
        }
        self.api.close().await;
        if let Some(server) = self.server.take() {
            server.finish().await;
        }
    }
}

/// Opens the profile in this process. A person is asked once only.
async fn open_here(
    place: &Place,
    directory: &Path,
    passphrase: &mut Option<Passphrase>,
) -> Result<Engine, Failure> {
    let passphrase = match passphrase {
        Some(passphrase) => passphrase,
        None => passphrase.insert(place.passphrase().await?),
    };
    Ok(Engine::open(directory, passphrase, place.options()?)?)
}

/// The engine of another process, if one serves the profile.
async fn connect(directory: &Path) -> Result<Option<Remote>, Failure> {
    match Remote::connect(directory).await {
        Ok(remote) => Ok(Some(remote)),
        Err(error) => match error.kind() {
            // None, or what a dead process has left, or one that ends just now.
            io::ErrorKind::NotFound
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => Ok(None),
            io::ErrorKind::TimedOut => Err(Failure::NotYet(error.to_string())),
            _ => match error.downcast::<Refusal>() {
                Ok(_) => Ok(None),
                Err(error) => {
                    let doing = format!("reach the process that holds {}", directory.display());
                    Err(Failure::File { doing, error })
                }
            },
        },
    }
}
