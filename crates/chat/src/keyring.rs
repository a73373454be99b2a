//! The keyring of the user's session: it keeps the secret of a profile, and opens with the login.
//! It is the Secret Service of freedesktop.org, as GNOME Keyring, KWallet and KeePassXC serve it.

use std::collections::HashMap;
use std::path::Path;

use data_encoding::HEXLOWER;
use secret_service::{Collection, EncryptionType, Error, Item, SecretService};
use valise_chat_core::vault::Passphrase;
use valise_client::random;
use zeroize::Zeroizing;

const APPLICATION: &str = "valise-chat";

/// Why the keyring does not help. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// Nobody serves one.
    #[error(
        "there is no keyring here: {0}. Log in to a desktop, start gnome-keyring, KWallet or \
         KeePassXC, or use a passphrase"
    )]
    None(String),
    /// It has no place that lasts.
    #[error(
        "the keyring has no default collection, so nothing would last in it: make one with its own \
         program (for example Seahorse or KWalletManager), or use a passphrase"
    )]
    NoCollection,
    /// It stays locked.
    #[error(
        "the keyring is locked: log in, or unlock it (`gnome-keyring-daemon --unlock` where there is \
         no desktop), and try again"
    )]
    Locked,
    /// The secret of this profile is not there.
    #[error(
        "the keyring has no secret for this profile: it was removed, or is in the keyring of \
         another user or machine. Bring the keyring back, or `valise-chat restore` the account from \
         an export into another directory"
    )]
    Missing,
    /// What was stored did not come back.
    #[error("the keyring does not give back what was stored in it: use a passphrase")]
    Forgetful,
    /// Anything else it says.
    #[error("the keyring failed: {0}")]
    Failed(String),
}

/// Makes a secret for the profile that is to be in a directory, and stores it.
///
/// # Errors
/// [`KeyringError`]; then nothing is stored.
pub async fn store(directory: &Path) -> Result<Passphrase, KeyringError> {
    let name = HEXLOWER.encode(&random::bytes::<16>());
    let secret = Zeroizing::new(HEXLOWER.encode(&*Zeroizing::new(random::bytes::<32>())));
    let service = connect().await?;
    let collection = lasting(&service).await?;
    let label = format!("Valise Chat profile {}", directory.display());
    let item = collection
        .create_item(&label, attributes(&name), secret.as_bytes(), true, "text/plain")
        .await
        .map_err(failed)?;
    // The profile would be lost with it: look before it is needed.
    let found = read(&service, &name).await;
    if found.as_ref().is_ok_and(|found| **found == *secret) {
        return Ok(Passphrase::from_keyring(name, &secret));
    }
    item.delete().await.ok();
    Err(found.err().unwrap_or(KeyringError::Forgetful))
}

/// The secret of this name.
///
/// # Errors
/// [`KeyringError`].
pub async fn fetch(name: String) -> Result<Passphrase, KeyringError> {
    let service = connect().await?;
    let secret = read(&service, &name).await?;
    Ok(Passphrase::from_keyring(name, &secret))
}

/// Removes the secret of this name, if it is there.
///
/// # Errors
/// [`KeyringError`].
pub async fn forget(name: &str) -> Result<(), KeyringError> {
    let service = connect().await?;
    match find(&service, name).await {
        Ok(item) => item.delete().await.map_err(failed),
        Err(KeyringError::Missing) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Secrets cross the bus under a key of their own.
async fn connect() -> Result<SecretService<'static>, KeyringError> {
    SecretService::connect(EncryptionType::Dh)
        .await
        .map_err(|error| KeyringError::None(words(&error)))
}

/// Where things last: not the collection of one session, which is in memory only.
async fn lasting<'a>(service: &'a SecretService<'_>) -> Result<Collection<'a>, KeyringError> {
    let collection = match service.get_default_collection().await {
        Err(Error::NoResult) => return Err(KeyringError::NoCollection),
        other => other.map_err(failed)?,
    };
    if collection.collection_path.as_str().ends_with("/session") {
        return Err(KeyringError::NoCollection);
    }
    if collection.is_locked().await.map_err(failed)? {
        collection.unlock().await.map_err(failed)?;
    }
    Ok(collection)
}

async fn read(service: &SecretService<'_>, name: &str) -> Result<Zeroizing<String>, KeyringError> {
    let secret = find(service, name).await?.get_secret().await.map_err(failed)?;
    let secret = Zeroizing::new(secret);
    // Somebody may have written over it: then it does not open the profile, whatever it is.
    Ok(Zeroizing::new(String::from_utf8_lossy(&secret).into_owned()))
}

/// The item, unlocked.
async fn find<'a>(service: &'a SecretService<'_>, name: &str) -> Result<Item<'a>, KeyringError> {
    let found = service.search_items(attributes(name)).await.map_err(failed)?;
    if let Some(item) = found.unlocked.into_iter().next() {
        return Ok(item);
    }
    let item = found.locked.into_iter().next().ok_or(KeyringError::Missing)?;
    item.unlock().await.map_err(failed)?;
    Ok(item)
}

fn attributes(name: &str) -> HashMap<&str, &str> {
    HashMap::from([("application", APPLICATION), ("profile", name)])
}

fn failed(error: Error) -> KeyringError {
    match error {
        Error::Locked | Error::Prompt | Error::PromptDisconnected => KeyringError::Locked,
        Error::NoResult => KeyringError::Missing,
        error => KeyringError::Failed(words(&error)),
    }
}

/// What is meant for people in an error of the bus.
fn words(error: &Error) -> String {
    match error {
        Error::Zbus(error) => error.to_string(),
        Error::ZbusFdo(error) => error.to_string(),
        error => error.to_string(),
    }
}
