//! Which profile is meant, what opens it, and how its engine reaches relays.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;
use valise_chat_core::engine::Options;
use valise_chat_core::relays;
use valise_chat_core::vault::{Opener, Passphrase};
use valise_client::SocksProxy;
use zeroize::Zeroizing;

use super::arguments::Place;
use super::exit::Failure;
use super::output::say;
use super::secret::{self, NewSecret};
use crate::keyring;

const PROFILE: &str = "VALISE_CHAT_PROFILE";
const PASSPHRASE: &str = "VALISE_CHAT_PASSPHRASE";
const PASSPHRASE_FILE: &str = "VALISE_CHAT_PASSPHRASE_FILE";

impl Place {
    /// The profile's directory.
    ///
    /// # Errors
    /// When nothing says where it is.
    pub(super) fn directory(&self) -> Result<PathBuf, Failure> {
        if let Some(directory) = self.profile.clone().or_else(|| variable(PROFILE).map(Into::into))
        {
            return Ok(directory);
        }
        let base = etcetera::choose_base_strategy().map_err(|_| {
            Failure::Usage("there is no home directory: say --profile DIR".to_owned())
        })?;
        Ok(base.data_dir().join("valise-chat").join("default"))
    }

    /// What opens the profile, which says itself where that is.
    ///
    /// # Errors
    /// When there is none to be had, its file cannot be read, or the profile wants another.
    pub(super) async fn passphrase(&self) -> Result<Passphrase, Failure> {
        let is_given = self.no_passphrase || self.passphrase_file.is_some();
        match secret::opener(self)? {
            Opener::Keyring(_) if is_given => Err(Failure::Usage(
                "this profile opens with the keyring: leave the option for its passphrase away, or \
                 change that with `valise-chat passphrase`"
                    .to_owned(),
            )),
            Opener::Keyring(name) => Ok(keyring::fetch(name).await?),
            _ if self.keyring => Err(Failure::Usage(
                "this profile does not open with the keyring: `valise-chat passphrase --to-keyring` \
                 changes that"
                    .to_owned(),
            )),
            Opener::Nothing if !is_given => Ok(Passphrase::from("")),
            Opener::Nothing | Opener::Passphrase => match self.given_passphrase()? {
                Some(passphrase) => Ok(passphrase),
                None => prompt("Passphrase of the profile: "),
            },
        }
    }

    /// What a new profile is closed with: a passphrase is asked for twice.
    ///
    /// # Errors
    /// When there is none to be had, or its file cannot be read.
    pub(super) async fn new_secret(&self) -> Result<NewSecret, Failure> {
        if self.keyring {
            return NewSecret::in_keyring(self).await;
        }
        if self.no_passphrase {
            return Ok(NewSecret::none());
        }
        let given = self.given_passphrase()?;
        Ok(NewSecret::remembered(given.map_or_else(|| chosen_passphrase(None), Ok)?))
    }

    fn given_passphrase(&self) -> Result<Option<Passphrase>, Failure> {
        if self.no_passphrase {
            return Ok(Some(Passphrase::from("")));
        }
        let file = self.passphrase_file.clone();
        if let Some(file) = file.or_else(|| variable(PASSPHRASE_FILE).map(Into::into)) {
            return read_passphrase(&file).map(Some);
        }
        let Some(text) = variable(PASSPHRASE) else { return Ok(None) };
        let text = text.into_string().map_err(|_| {
            Failure::Usage(format!("{PASSPHRASE} is not UTF-8: put the passphrase into a file"))
        })?;
        Ok(Some(Passphrase::from(text)))
    }

    /// How the engine runs.
    ///
    /// # Errors
    /// When the proxy is none.
    pub(super) fn options(&self) -> Result<Options, Failure> {
        let proxy = self.proxy.as_deref().map(proxy).transpose()?;
        let allow_private = self.allow_private_relays;
        let relays = relays::Options { proxy, allow_private, ..relays::Options::default() };
        Ok(Options { relays, ..Options::default() })
    }
}

/// A new passphrase: from a file, or asked for twice.
///
/// # Errors
/// As [`Place::new_secret`].
pub(super) fn chosen_passphrase(file: Option<&Path>) -> Result<Passphrase, Failure> {
    match file {
        Some(file) => read_passphrase(file),
        None => prompt_twice("New passphrase for the profile: "),
    }
}

/// The passphrase for an exported file: from a file, or asked for; twice for a new one.
///
/// # Errors
/// As [`Place::passphrase`].
pub(super) fn file_passphrase(
    file: Option<&Path>,
    is_new: bool,
) -> Result<Zeroizing<String>, Failure> {
    match file {
        Some(file) => read_line(file),
        None if is_new => ask_twice("New passphrase for the exported file: "),
        None => ask("Passphrase of the exported file: "),
    }
}

/// A variable of the environment; an empty one counts as unset.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

fn read_passphrase(file: &Path) -> Result<Passphrase, Failure> {
    read_line(file).map(|line| Passphrase::from(line.as_str()))
}

/// The first line, without its end.
fn read_line(file: &Path) -> Result<Zeroizing<String>, Failure> {
    let doing = format!("read the passphrase from {}", file.display());
    let text = fs::read_to_string(file).map(Zeroizing::new).map_err(Failure::file(doing))?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        let file = file.display();
        return Err(Failure::Usage(format!(
            "the first line of {file} is empty: write the passphrase there"
        )));
    }
    Ok(Zeroizing::new(line.to_owned()))
}

fn prompt(question: &str) -> Result<Passphrase, Failure> {
    ask(question).map(|text| Passphrase::from(text.as_str()))
}

fn prompt_twice(question: &str) -> Result<Passphrase, Failure> {
    ask_twice(question).map(|text| Passphrase::from(text.as_str()))
}

fn ask(question: &str) -> Result<Zeroizing<String>, Failure> {
    rpassword::prompt_password(question).map(Zeroizing::new).map_err(|_| {
        Failure::Usage(format!(
            "there is no terminal to ask for the passphrase at: use a passphrase file (see --help), \
             or {PASSPHRASE}, or --keyring for a new profile whose secret the keyring keeps, or \
             --no-passphrase for one that has none"
        ))
    })
}

fn ask_twice(question: &str) -> Result<Zeroizing<String>, Failure> {
    loop {
        let first = ask(question)?;
        if first.is_empty() {
            say("An empty passphrase protects nothing. If you want none, say --no-passphrase.");
            continue;
        }
        if *ask("The same again: ")? == *first {
            return Ok(first);
        }
        say("The two are not the same; once more.");
    }
}

fn proxy(text: &str) -> Result<SocksProxy, Failure> {
    let parsed = text.rsplit_once(':').and_then(|(host, port)| {
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        Some((host.to_owned(), port.parse().ok()?))
    });
    match parsed {
        Some((host, port)) if !host.is_empty() => Ok(SocksProxy { host, port, credentials: None }),
        _ => Err(Failure::Usage(format!("--proxy {text}: write HOST:PORT, like 127.0.0.1:9050"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_host_and_port() {
        for (text, host, port) in [("127.0.0.1:9050", "127.0.0.1", 9050), ("[::1]:1", "::1", 1)] {
            let found = proxy(text).unwrap();
            assert_eq!((&*found.host, found.port), (host, port));
        }
        for text in ["", ":1", "host", "host:x", "host:70000"] {
            assert!(proxy(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_passphrase_is_the_first_line_of_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("p");
        for text in ["secret words\nmore", "secret words\r\n", "secret words"] {
            fs::write(&file, text).unwrap();
            assert_eq!(*read_line(&file).unwrap(), "secret words");
        }
        fs::write(&file, "\nx").unwrap();
        assert!(matches!(read_line(&file), Err(Failure::Usage(_))));
        assert!(matches!(read_line(directory.path()), Err(Failure::File { .. })));
    }
}
