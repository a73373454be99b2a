//! How a command ends: its errors, and the codes of sysexits.h, by which scripts know whether
//! trying again makes sense.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use valise_chat_core::api::Refusal;
use valise_chat_core::engine::EngineError;
use valise_chat_core::vault::VaultError;
use valise_client::{ConnectError, RequestError, VisitError};

use super::target::TargetError;
use crate::keyring::KeyringError;
use crate::tui::TuiError;

/// An exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All went well.
    Ok = 0,
    /// The command line is wrong.
    Usage = 64,
    /// A name, a link, a file or the profile is not what it should be.
    Data = 65,
    /// There is no such profile or file.
    NoInput = 66,
    /// The relay or the other side cannot do it.
    Unavailable = 69,
    /// A fault of this program.
    Software = 70,
    /// A file cannot be made.
    CannotCreate = 73,
    /// Disk or terminal failed.
    InputOutput = 74,
    /// Not now; trying again may help.
    TryAgain = 75,
    /// A wrong passphrase, or something that has to be allowed first.
    NoPermission = 77,
}

impl Exit {
    fn of_io(error: &io::Error, otherwise: Self) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::NoPermission,
            io::ErrorKind::NotFound => Self::NoInput,
            _ => otherwise,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line says too little.
    #[error("{0}")]
    Usage(String),
    /// What was given cannot be used.
    #[error("{0}")]
    Data(String),
    /// What was named cannot be found, or is several.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The engine says no.
    #[error("{}", .0.message)]
    Refused(#[from] Refusal),
    /// There is no engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The keyring does not help.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The relay has not got everything in time.
    #[error("{0}")]
    NotYet(String),
    /// It cannot be done, now or later.
    #[error("{0}")]
    Unavailable(String),
    /// A file could not be read or written.
    #[error("cannot {doing}: {error}")]
    File {
        /// What was tried, and with which file.
        doing: String,
        /// What the system says.
        error: io::Error,
    },
    /// The file is there already.
    #[error("{0} is there already; choose another name, nothing is overwritten")]
    FileExists(PathBuf),
    /// The terminal UI.
    #[error(transparent)]
    Terminal(#[from] TuiError),
    /// Nobody reads what is printed any more: no error to talk about.
    #[error("standard output was closed")]
    OutputClosed,
}

impl Failure {
    /// What to do about it, where the cause does not say that itself.
    pub fn advice(&self) -> Option<&'static str> {
        let Self::Engine(EngineError::Relay(VisitError::Connect(error))) = self else {
            return None;
        };
        match error {
            ConnectError::Unreachable { .. } | ConnectError::TimedOut(_) => {
                Some("Does the relay run, and is its address right? No profile was made.")
            }
            ConnectError::Opening(_) => Some(
                "Another relay answers at this address, or somebody stands before it. Compare the \
                 address with what its operator gave you. No profile was made.",
            ),
            _ => None,
        }
    }

    /// A [`Failure::File`].
    pub fn file(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::File { doing: doing.into(), error }
    }
}

impl From<&Failure> for Exit {
    fn from(failure: &Failure) -> Self {
        match failure {
            Failure::Usage(_) => Self::Usage,
            Failure::Data(_) | Failure::Target(_) => Self::Data,
            Failure::Refused(refusal) => of_refusal(&refusal.code),
            Failure::Engine(error) => of_engine(error),
            Failure::Keyring(error) => match error {
                KeyringError::Missing => Self::NoInput,
                KeyringError::Locked => Self::NoPermission,
                _ => Self::Unavailable,
            },
            Failure::NotYet(_) => Self::TryAgain,
            Failure::Unavailable(_) => Self::Unavailable,
            Failure::File { error, .. } => Self::of_io(error, Self::InputOutput),
            Failure::FileExists(_) => Self::CannotCreate,
            Failure::Terminal(TuiError::Terminal(_)) => Self::InputOutput,
            Failure::Terminal(TuiError::Ended(_)) => Self::TryAgain,
            Failure::OutputClosed => Self::Ok,
        }
    }
}

fn of_refusal(code: &str) -> Exit {
    match code {
        "unreachable" | "not_reachable" | "no_tokens" | "no_capability" | "contended" | "ended" => {
            Exit::TryAgain
        }
        "new_relay" | "identity" | "not_linked" | "removed" => Exit::NoPermission,
        "refused_by_relay" | "not_possible" | "taken" => Exit::Unavailable,
        "version" | "rpc" => Exit::Software,
        // A name, a number, a link or a text that cannot be used.
        _ => Exit::Data,
    }
}

fn of_engine(error: &EngineError) -> Exit {
    match error {
        EngineError::Invalid(_) | EngineError::Damaged(_) => Exit::Data,
        EngineError::Exists(_) => Exit::CannotCreate,
        EngineError::Relay(VisitError::Connect(_)) => Exit::Unavailable,
        EngineError::Relay(VisitError::Request(error)) => match error {
            // For example a wrong invite code.
            RequestError::Refused { retry_after_ms: 0, .. } | RequestError::OtherAnswer => {
                Exit::Unavailable
            }
            RequestError::Refused { .. } | RequestError::Closed(_) => Exit::TryAgain,
        },
        EngineError::Vault(error) => match error {
            VaultError::Missing(_) => Exit::NoInput,
            VaultError::Exists(_) => Exit::CannotCreate,
            VaultError::WrongPassphrase | VaultError::Exposed(_) => Exit::NoPermission,
            VaultError::Locked(_) | VaultError::Memory => Exit::TryAgain,
            VaultError::Newer { .. }
            | VaultError::Damaged(_)
            | VaultError::Opener
            | VaultError::FileNewer { .. }
            | VaultError::FileDamaged(_)
            | VaultError::Cost => Exit::Data,
            VaultError::Taken => Exit::Software,
            VaultError::File { error, .. } => Exit::of_io(error, Exit::InputOutput),
            VaultError::Full | VaultError::Database(_) => Exit::InputOutput,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_its_code() {
        let refused = |code: &str| {
            Failure::Refused(Refusal { code: code.to_owned(), message: String::new() })
        };
        let vault = |error| Failure::Engine(EngineError::Vault(error));
        let file = |kind: io::ErrorKind| Failure::file("read x")(kind.into());
        let path = PathBuf::from;
        let table = [
            (Failure::Usage(String::new()), 64),
            (refused("bad_link"), 65),
            (vault(VaultError::Damaged("a row")), 65),
            (vault(VaultError::Missing(path("/p"))), 66),
            (file(io::ErrorKind::NotFound), 66),
            (refused("refused_by_relay"), 69),
            (refused("version"), 70),
            (Failure::FileExists(path("/f")), 73),
            (Failure::Engine(EngineError::Exists(path("/p"))), 73),
            (file(io::ErrorKind::StorageFull), 74),
            (refused("ended"), 75),
            (Failure::NotYet(String::new()), 75),
            (vault(VaultError::Locked(path("/p"))), 75),
            (vault(VaultError::WrongPassphrase), 77),
            (refused("new_relay"), 77),
            (file(io::ErrorKind::PermissionDenied), 77),
            (Failure::Keyring(KeyringError::Missing), 66),
            (Failure::Keyring(KeyringError::None(String::new())), 69),
            (Failure::Keyring(KeyringError::Locked), 77),
            (Failure::OutputClosed, 0),
        ];
        for (failure, code) in table {
            assert_eq!(Exit::from(&failure) as u8, code, "{failure:?}");
        }
    }
}
