//! What a profile is closed with: chosen when it is made, and changed later.

use valise_chat_core::engine::EngineError;
use valise_chat_core::vault::{Opener, Passphrase, Vault};

use super::arguments::{ChangePassphrase, Place};
use super::exit::Failure;
use super::output::say;
use super::place::chosen_passphrase;
use crate::keyring;

/// The secret of a profile that does not use it yet.
#[derive(Debug)]
pub(super) struct NewSecret(Passphrase);

impl NewSecret {
    /// One that nobody else keeps.
    pub(super) fn remembered(passphrase: Passphrase) -> Self {
        Self(passphrase)
    }

    /// None: a choice that has its price.
    pub(super) fn none() -> Self {
        say(
            "Warning: without a passphrase, whoever gets the files of this profile can read every \
             message and write as you.",
        );
        Self(Passphrase::from(""))
    }

    /// A random one in the keyring.
    ///
    /// # Errors
    /// [`Failure::Keyring`].
    pub(super) async fn in_keyring(place: &Place) -> Result<Self, Failure> {
        let secret = keyring::store(&place.directory()?).await?;
        say(
            "The profile's secret is in your keyring: whoever is logged in as you opens the profile. \
             If the keyring is lost, so are profile and account: keep an export too (`valise-chat \
             export FILE`).",
        );
        Ok(Self(secret))
    }

    /// The secret itself.
    pub(super) fn passphrase(&self) -> &Passphrase {
        &self.0
    }

    /// After it was put to use, or could not be: then it does not stay in the keyring.
    pub(super) async fn settle<T, E>(self, result: Result<T, E>) -> Result<T, E> {
        if result.is_err() {
            forget(self.0.opener()).await;
        }
        result
    }
}

/// Where the secret of a profile is.
///
/// # Errors
/// [`Failure::Engine`].
pub(super) fn opener(place: &Place) -> Result<Opener, Failure> {
    Ok(Vault::opener(&place.directory()?).map_err(EngineError::Vault)?)
}

/// A secret that nothing needs any more goes, if it is in the keyring.
pub(super) async fn forget(opener: &Opener) {
    if let Opener::Keyring(name) = opener
        && let Err(error) = keyring::forget(name).await
    {
        say(format!("The profile's old secret stays in the keyring, unused: {error}"));
    }
}

/// `passphrase`.
///
/// # Errors
/// [`Failure`].
pub(super) async fn change(place: &Place, change: &ChangePassphrase) -> Result<(), Failure> {
    let before = opener(place)?;
    let passphrase = place.passphrase().await?;
    // Nobody else opens it meanwhile.
    let mut vault = Vault::open(&place.directory()?, &passphrase).map_err(EngineError::Vault)?;
    let secret = if change.to_keyring {
        NewSecret::in_keyring(place).await?
    } else if change.to_none {
        NewSecret::none()
    } else {
        NewSecret::remembered(chosen_passphrase(change.new_passphrase_file.as_deref())?)
    };
    let changed = vault.change_passphrase(secret.passphrase(), place.options()?.cost);
    secret.settle(changed).await.map_err(EngineError::Vault)?;
    drop(vault);
    if matches!(before, Opener::Keyring(_)) {
        forget(&before).await;
        say("Changed. Copies of the profile from before opened with the keyring's old secret.");
    } else {
        say("Changed. Copies of the profile from before still open with what they opened with.");
    }
    Ok(())
}
