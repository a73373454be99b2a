//! The engine of a profile: it holds the lock, keeps the connections, and decides. Front ends ask
//! it with [`Command`]s and hear [`Event`]s; there is one engine for a profile at a time.
//!
//! Decisions are made by `Core`, one input at a time, each in one transaction; their effects follow
//! the commit. So whatever happens to the process, the profile is in a state between two inputs.

mod again;
mod beginning;
mod cards;
mod claims;
mod commands;
mod commits;
mod content;
mod core;
mod create;
mod delivery;
mod effect;
mod fault;
mod forks;
mod greetings;
mod incoming;
mod invite;
mod job;
mod lanes;
mod link;
mod membership;
mod outgoing;
mod own;
mod parking;
mod people;
mod permits;
mod realms;
mod receipts;
mod records;
mod recovery;
mod rejoin;
mod renewal;
mod settings;
mod shell;
mod slots;
#[cfg(test)]
mod tests;
mod upkeep;
mod view;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use valise_client::{OwnerKeyPair, VisitError};
use valise_proto::Token;

use crate::api::{Command, Event, Refusal};
use crate::relays::{self, Own, Relays};
use crate::vault::{Cost, Passphrase, Vault, VaultError};
use effect::Input;
use fault::Fault;
use records::{ONLY, state};

pub use create::{NewProfile, create, create_linked, restore};
pub use parking::{PARKED_BYTES_MAX, SURVIVORS_BYTES_MAX, SURVIVORS_MAX};
pub use renewal::{
    LEAF_DAYS, LEAF_DAYS_LARGE, LEAF_DEVICES_MAX, LEAF_SOON_MINUTES, Renewal, SHARED_TOKEN_DAYS,
    SHARED_TOKEN_STEP_DAYS,
};

/// Inputs that may wait for the engine.
const INPUTS_WAITING_MAX: usize = 256;

/// Events that a slow front end may be behind.
const EVENTS_BEHIND_MAX: usize = 4_096;

/// How an engine runs.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// How relays are reached.
    pub relays: relays::Options,
    /// What a new profile's passphrase costs to try.
    pub cost: Cost,
    /// When keys and rights are renewed.
    pub renewal: Renewal,
}

/// There is no engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A name, a link or a file that cannot be used.
    #[error("{0}")]
    Invalid(String),
    /// There is a profile already.
    #[error("there is a profile in {0} already; choose another with --profile")]
    Exists(PathBuf),
    /// The relay could not be joined.
    #[error(transparent)]
    Relay(#[from] VisitError),
    /// The profile's file.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The profile's content.
    #[error("{0}")]
    Damaged(String),
}

impl From<Fault> for EngineError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Vault(error) => Self::Vault(error),
            Fault::Refused(refusal) => Self::Invalid(refusal.message),
            Fault::Damaged(_) | Fault::Mls(_) => Self::Damaged(fault.to_string()),
        }
    }
}

/// A handle on a running engine; cheap to clone. The engine ends with [`Engine::close`], with the
/// command `shutdown`, or with the last handle.
#[derive(Clone)]
pub struct Engine {
    inputs: mpsc::Sender<Input>,
    events: broadcast::Sender<Event>,
    has_ended: watch::Receiver<Option<Ended>>,
}

/// How an engine has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// What went wrong; none if it was ended by order.
    pub why: Option<String>,
}

impl Engine {
    /// Opens a profile, takes its lock, and starts. Runs in a Tokio runtime.
    ///
    /// # Errors
    /// [`EngineError`]; [`VaultError`] tells a wrong passphrase and a profile in use apart.
    pub fn open(
        directory: &Path,
        passphrase: &Passphrase,
        options: Options,
    ) -> Result<Self, EngineError> {
        let mut vault = Vault::open(directory, passphrase)?;
        vault.write(permits::migrate)?;
        let mut core = vault.read(core::Core::load)?;
        core.renewal = options.renewal;
        let own = own_mailbox(&core.me)?;
        let (inputs, receiver) = mpsc::channel(INPUTS_WAITING_MAX);
        let (events, _) = broadcast::channel(EVENTS_BEHIND_MAX);
        let (ended, has_ended) = watch::channel(None);
        let shell = shell::Shell {
            vault,
            own,
            options: options.relays,
            events: events.clone(),
            inputs: inputs.downgrade(),
            unbearable: HashSet::new(),
        };
        shell::start(shell, core, receiver, ended);
        Ok(Self { inputs, events, has_ended })
    }

    /// Carries a command out. Its answer is described with the command.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn call(&self, command: Command) -> Result<Value, Refusal> {
        let ended = || Refusal::new("ended", "the engine has ended; start it again");
        let (reply, answer) = oneshot::channel();
        let input = Input::Command(command, reply);
        self.inputs.send(input).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }

    /// Everything that happens from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Ends the engine, and waits until the profile's lock is free.
    pub async fn close(self) {
        self.call(Command::Shutdown {}).await.ok();
        self.ended().await;
    }

    /// Waits until the engine has ended.
    pub async fn ended(&self) -> Ended {
        let mut has_ended = self.has_ended.clone();
        let ended = has_ended.wait_for(Option::is_some).await.map(|ended| ended.clone());
        ended.ok().flatten().unwrap_or(Ended { why: Some("the engine was cut off".to_owned()) })
    }
}

/// Removes a profile: what it handed out is revoked if the relay can be reached, and its files go.
///
/// # Errors
/// [`EngineError`].
pub async fn remove(
    directory: &Path,
    passphrase: &Passphrase,
    options: Options,
) -> Result<(), EngineError> {
    let vault = Vault::open(directory, passphrase)?;
    let (me, tokens) = vault.read(given_away)?;
    let known = vault.read(realms::load)?;
    drop(vault);
    let (relays, mut events) = Relays::start(own_mailbox(&me)?, known, options.relays);
    let drain = async { while events.recv().await.is_some() {} };
    let revoke = async {
        relays
            .publish(
                valise_proto::PublicationId::new(valise_client::random::bytes()),
                valise_client::Publication { replace: true, ..Default::default() },
            )
            .await
            .ok();
        for token in tokens {
            if relays.revoke(&token).await.is_err_and(|error| error.is_retryable()) {
                break; // out of reach: the tokens end by themselves
            }
        }
        relays.close().await;
    };
    tokio::select! { () = drain => {}, () = revoke => {} }
    Ok(Vault::remove(directory)?)
}

/// The owner, and every token that others may hold.
fn given_away(tx: &crate::vault::Transaction<'_>) -> Result<(state::Me, Vec<Token>), EngineError> {
    let me = tx.get::<state::Me>(ONLY)?;
    let me = me.ok_or_else(|| EngineError::Damaged("the profile has no owner".to_owned()))?;
    let mut bytes = Vec::new();
    for (_, group) in tx.all::<state::Group>()? {
        bytes.push(group.own_capability);
    }
    for (_, person) in tx.all::<state::Person>()? {
        bytes.extend([person.given_capability, person.given_take]);
    }
    for (_, invite) in tx.all::<state::Invite>()? {
        bytes.extend([invite.capability, invite.take_token]);
    }
    for (_, package) in tx.all::<state::KeyPackage>()? {
        bytes.push(package.capability);
    }
    let tokens = bytes.iter().filter_map(|token| Token::try_from(token.as_slice()).ok());
    Ok((me, tokens.collect()))
}

fn own_mailbox(me: &state::Me) -> Result<Own, EngineError> {
    let damaged = |_| EngineError::Damaged("the profile's mailbox is damaged".to_owned());
    let address = me.relay.parse().map_err(|_| damaged(()))?;
    let owner = OwnerKeyPair::from_seed(&outgoing::bytes_of(&me.owner_key)?);
    let member_token = Token::try_from(me.member_token.as_slice()).map_err(|_| damaged(()))?;
    let prefer = Some(me.preferred_endpoint.clone()).filter(|endpoint| !endpoint.is_empty());
    Ok(Own { address, owner: Arc::new(owner), member_token, prefer })
}
