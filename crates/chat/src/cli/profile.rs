//! Profiles: how they begin, move and end.

use std::fs::{self, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use valise_chat_core::api::{Command, Exported, Status};
use valise_chat_core::engine::{self, NewProfile};
use valise_chat_core::identity::InviteLink;
use valise_chat_core::vault::{Passphrase, Vault, VaultError};
use valise_proto::{RelayAddress, Token};

use super::arguments::{Export, Init, Join, Place, RemoveProfile, Restore};
use super::exit::Failure;
use super::output::{Output, is_agreed, say};
use super::place::file_passphrase;
use super::session::Session;
use super::{secret, stopped};
use crate::printable::printable_line;

/// An engine may take so long to let go of its profile.
const LET_GO_MAX: Duration = Duration::from_secs(5);

/// `init`.
///
/// # Errors
/// [`Failure`].
pub(super) async fn init(place: &Place, init: &Init) -> Result<(), Failure> {
    let device_name = init.device_name.clone().unwrap_or_else(machine_name);
    if let Some(link) = &init.link {
        return init_linked(place, link, &device_name).await;
    }
    let no_relay = || Failure::Usage("init needs --relay or --link".to_owned());
    let relay = init.relay.clone().ok_or_else(no_relay)?;
    create(place, relay, init.code, init.name.clone(), device_name).await?;
    say("Next: `valise-chat invite` makes a link for somebody to chat with.");
    Ok(())
}

/// Makes the profile that `join` needs, if there is none, on the relay of the link.
///
/// # Errors
/// [`Failure`].
pub(super) async fn create_to_join(place: &Place, join: &Join) -> Result<(), Failure> {
    if Vault::exists(&place.directory()?) {
        return Ok(());
    }
    let link: InviteLink =
        join.link.parse().map_err(|error| Failure::Data(format!("this is no invite: {error}")))?;
    say(format!("There is no profile yet; your account is made on {}.", link.relay.host));
    create(place, link.relay, join.code, join.name.clone(), machine_name()).await
}

async fn create(
    place: &Place,
    relay: RelayAddress,
    join_code: Option<Token>,
    name: Option<String>,
    device_name: String,
) -> Result<(), Failure> {
    let directory = place.directory()?;
    refuse_existing(place)?;
    let name = name.map_or_else(ask_name, Ok)?;
    let new = NewProfile { name, relay, join_code, device_name };
    let options = place.options()?;
    let secret = place.new_secret().await?;
    let created = engine::create(&directory, secret.passphrase(), new, &options).await;
    secret.settle(created).await?;
    say(format!("Your profile is in {}.", directory.display()));
    Ok(())
}

async fn init_linked(place: &Place, link: &str, device_name: &str) -> Result<(), Failure> {
    let directory = place.directory()?;
    refuse_existing(place)?;
    let options = place.options()?;
    let secret = place.new_secret().await?;
    let show = |words: &[String]| {
        say(format!(
            "Compare these words with your other device, and confirm there:\n\n    {}\n",
            words.join(" ")
        ));
    };
    let passphrase = secret.passphrase();
    let linking = engine::create_linked(&directory, passphrase, link, device_name, options, show);
    let linked = tokio::select! {
        linked = linking => linked.map_err(Failure::from),
        stopped = stopped() => match stopped {
            Ok(()) => remove_waiting(&directory).await.and_then(|()| {
                let text = "stopped before the device was linked; `devices link` makes a new link";
                Err(Failure::NotYet(text.to_owned()))
            }),
            Err(failure) => Err(failure),
        },
    };
    secret.settle(linked).await?;
    say(format!("This device is linked. Your profile is in {}.", directory.display()));
    Ok(())
}

/// Removes the profile of a device that is not linked, once its engine has let go of it.
async fn remove_waiting(directory: &Path) -> Result<(), Failure> {
    let until = Instant::now() + LET_GO_MAX;
    loop {
        match Vault::remove(directory) {
            Ok(()) | Err(VaultError::Missing(_)) => return Ok(()),
            Err(VaultError::Locked(_)) if Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => return Err(engine::EngineError::Vault(error).into()),
        }
    }
}

/// Before any question is asked.
fn refuse_existing(place: &Place) -> Result<(), Failure> {
    let directory = place.directory()?;
    if Vault::exists(&directory) {
        return Err(engine::EngineError::Exists(directory).into());
    }
    Ok(())
}

fn ask_name() -> Result<String, Failure> {
    if !io::stdin().is_terminal() {
        let text = "say --name NAME: what others see as your name";
        return Err(Failure::Usage(text.to_owned()));
    }
    write!(io::stderr(), "Your name, as others see it: ").and_then(|()| io::stderr().flush()).ok();
    let mut name = String::new();
    io::stdin().read_line(&mut name).map_err(Failure::file("read your name"))?;
    Ok(name.trim().to_owned())
}

/// Only one's own devices see it.
fn machine_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "terminal".to_owned() } else { name.to_owned() }
}

/// `export`.
///
/// # Errors
/// [`Failure`].
pub(super) async fn export(session: &Session, export: &Export) -> Result<(), Failure> {
    if export.file.exists() {
        return Err(Failure::FileExists(export.file.clone()));
    }
    let passphrase = file_passphrase(export.file_passphrase_file.as_deref(), true)?;
    let passphrase = passphrase.as_str().to_owned();
    let Exported { file } = session.ask(Command::Export { passphrase }).await?;
    let doing = format!("write {}", export.file.display());
    let content = BASE64.decode(file.as_bytes()).map_err(|_| {
        Failure::Unavailable("the engine gave no file; it is of another version".to_owned())
    })?;
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&export.file);
    let written =
        opened.and_then(|mut file| file.write_all(&content).and_then(|()| file.sync_all()));
    written.map_err(Failure::file(doing))?;
    say(
        "Keep the file and its passphrase apart from this device: both together are your account. \
         `valise-chat restore FILE` brings it back; messages are not in it.",
    );
    Ok(())
}

/// `restore`.
///
/// # Errors
/// [`Failure`].
pub(super) async fn restore(place: &Place, restore: &Restore) -> Result<(), Failure> {
    let directory = place.directory()?;
    refuse_existing(place)?;
    let doing = format!("read {}", restore.file.display());
    let file = fs::read(&restore.file).map_err(Failure::file(doing))?;
    let opens = file_passphrase(restore.file_passphrase_file.as_deref(), false)?;
    let opens = Passphrase::from(opens.as_str());
    let options = place.options()?;
    let secret = place.new_secret().await?;
    let code = restore.code.as_ref();
    let restored =
        engine::restore(&directory, secret.passphrase(), &file, &opens, code, &options).await;
    secret.settle(restored).await?;
    say(format!(
        "Your account is in {}. Contacts and groups come back as people are online.",
        directory.display()
    ));
    Ok(())
}

/// `remove-profile`.
///
/// # Errors
/// [`Failure`].
pub(super) async fn remove(place: &Place, remove: &RemoveProfile) -> Result<(), Failure> {
    let directory = place.directory()?;
    let question = format!(
        "Remove the profile in {} with all its messages? Without an export the account is lost.",
        directory.display()
    );
    if !remove.yes && !is_agreed(&question).await {
        let text = "nothing was removed; say --yes where nobody can be asked";
        return Err(Failure::Usage(text.to_owned()));
    }
    // What cannot be read has no secret that we could find.
    let opener = secret::opener(place).ok();
    if remove.files_only {
        Vault::remove(&directory).map_err(engine::EngineError::Vault)?;
    } else {
        engine::remove(&directory, &place.passphrase().await?, place.options()?).await?;
    }
    if let Some(opener) = opener {
        secret::forget(&opener).await;
    }
    say("The profile is gone.");
    Ok(())
}

/// `status`.
///
/// # Errors
/// [`Failure`].
pub(super) async fn status(
    session: &Session,
    is_json: bool,
    output: &Output,
) -> Result<(), Failure> {
    use valise_chat_core::api::Connection;

    let status: Status = session.ask(Command::Status {}).await?;
    if is_json {
        return output.json(&status);
    }
    let connection = match &status.connection {
        Connection::Connecting => "connecting".to_owned(),
        Connection::Online => "connected".to_owned(),
        Connection::Offline { why, retry_in_ms } => {
            format!("not connected: {why}; trying again in {} s", retry_in_ms.div_ceil(1_000))
        }
        Connection::Stopped { why } => format!("not connected: {why}"),
    };
    let lines = [
        ("name", printable_line(&status.name)),
        ("account", status.account),
        ("device", status.device),
        ("relay", status.relay),
        ("connection", printable_line(&connection)),
        ("unread", status.unread.to_string()),
        ("sending", status.sending.to_string()),
    ];
    for (what, value) in lines {
        output.line(format!("{what:<12}{value}"))?;
    }
    Ok(())
}
