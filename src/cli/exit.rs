//! How the process ends: the codes of sysexits.h, by which service managers and scripts know
//! whether trying again makes sense.

use std::io;
use std::process::ExitCode;

use super::{InviteError, MigrationKeyError, NodeError};
use crate::app::StartError;
use crate::config::ConfigError;
use crate::identity::{IdentityError, StateError};
use crate::migration::KeyError;
use crate::store::StoreError;
use crate::store::jetstream::BusError;

/// An exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All went well.
    Ok = 0,
    /// The command line is wrong.
    Usage = 64,
    /// A file of the state directory is damaged, missing or another one's.
    Data = 65,
    /// There is no such state directory yet.
    NoInput = 66,
    /// An address is taken.
    Unavailable = 69,
    /// The state directory cannot be made.
    CannotCreate = 73,
    /// Disk or network failed.
    InputOutput = 74,
    /// Another process is in the way, or the end was not awaited; trying again may help.
    TryAgain = 75,
    /// The system does not allow it, or others could read what must be private.
    NoPermission = 77,
    /// The configuration is wrong.
    Configuration = 78,
}

impl Exit {
    /// Every code.
    pub const ALL: [Self; 10] = [
        Self::Ok,
        Self::Usage,
        Self::Data,
        Self::NoInput,
        Self::Unavailable,
        Self::CannotCreate,
        Self::InputOutput,
        Self::TryAgain,
        Self::NoPermission,
        Self::Configuration,
    ];

    /// The number.
    pub const fn code(self) -> u8 {
        self as u8
    }

    fn of_io(error: &io::Error, otherwise: Self) -> Self {
        if error.kind() == io::ErrorKind::PermissionDenied { Self::NoPermission } else { otherwise }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl From<&clap::Error> for Exit {
    /// Help and version are no errors.
    fn from(error: &clap::Error) -> Self {
        if error.use_stderr() { Self::Usage } else { Self::Ok }
    }
}

impl From<&ConfigError> for Exit {
    fn from(_: &ConfigError) -> Self {
        Self::Configuration
    }
}

impl From<&StateError> for Exit {
    fn from(error: &StateError) -> Self {
        match error {
            StateError::InUse(_) => Self::TryAgain,
            StateError::NotADirectory(_) => Self::CannotCreate,
            StateError::OpenToOthers { .. } => Self::NoPermission,
            StateError::Io { source, .. } => Self::of_io(source, Self::InputOutput),
        }
    }
}

impl From<&IdentityError> for Exit {
    fn from(error: &IdentityError) -> Self {
        match error {
            IdentityError::State(error) => error.into(),
            IdentityError::NoRealm(_) | IdentityError::NoRootKey(_) => Self::NoInput,
            IdentityError::Occupied(_) => Self::CannotCreate,
            IdentityError::NoSuchNode | IdentityError::NoRoom => Self::Usage,
            IdentityError::PutOut { .. } => Self::NoPermission,
            IdentityError::Endpoints(_) | IdentityError::EndpointsTooLong => Self::Configuration,
            IdentityError::NodeFile
            | IdentityError::KeyFile { .. }
            | IdentityError::TokenKeys { .. }
            | IdentityError::Record { .. }
            | IdentityError::Missing { .. }
            | IdentityError::OtherRealm { .. }
            | IdentityError::Expired { .. }
            | IdentityError::NoSigningKey { .. } => Self::Data,
        }
    }
}

impl From<&StoreError> for Exit {
    fn from(error: &StoreError) -> Self {
        match error {
            StoreError::Locked(_) | StoreError::Reopening => Self::TryAgain,
            StoreError::Io { source, .. } => Self::of_io(source, Self::InputOutput),
            StoreError::Engine(_) => Self::InputOutput,
            StoreError::Damaged { .. }
            | StoreError::MissingCommits { .. }
            | StoreError::NewerFormat { .. } => Self::Data,
        }
    }
}

impl From<&BusError> for Exit {
    fn from(error: &BusError) -> Self {
        match error {
            BusError::Away(_)
            | BusError::Shut(_)
            | BusError::NoStream(_)
            | BusError::Silent
            | BusError::InProcess => Self::Unavailable,
            BusError::Refused { .. } | BusError::Unsafe(_) | BusError::NotMarked => {
                Self::Configuration
            }
            BusError::Fenced(_) => Self::NoPermission,
            BusError::Damaged { .. } => Self::Data,
        }
    }
}

impl From<&StartError> for Exit {
    fn from(error: &StartError) -> Self {
        match error {
            StartError::State(error) => error.into(),
            StartError::Identity(error) => error.into(),
            StartError::Tls(_) => Self::Configuration,
            StartError::Store(error) => error.into(),
            StartError::Cluster(error) => error.into(),
            StartError::Migration(error) => error.into(),
            StartError::Disk { source, .. } => Self::of_io(source, Self::InputOutput),
            StartError::Bind { source, .. } => Self::of_io(source, Self::Unavailable),
        }
    }
}

impl From<&KeyError> for Exit {
    fn from(error: &KeyError) -> Self {
        match error {
            KeyError::File { source, .. } => Self::of_io(source, Self::InputOutput),
            KeyError::OpenToOthers { .. } => Self::NoPermission,
            KeyError::Damaged(_) => Self::Data,
        }
    }
}

impl From<&MigrationKeyError> for Exit {
    fn from(error: &MigrationKeyError) -> Self {
        match error {
            MigrationKeyError::Config(error) => error.into(),
            MigrationKeyError::Identity(error) => error.into(),
            MigrationKeyError::Key(error) => error.into(),
        }
    }
}

impl From<&NodeError> for Exit {
    fn from(error: &NodeError) -> Self {
        match error {
            NodeError::Usage(_) => Self::Usage,
            NodeError::Config(error) => error.into(),
            NodeError::Identity(error) => error.into(),
            NodeError::State(error) => error.into(),
            NodeError::File { source, .. } => Self::of_io(source, Self::InputOutput),
        }
    }
}

impl From<&InviteError> for Exit {
    fn from(error: &InviteError) -> Self {
        match error {
            InviteError::Config(error) => error.into(),
            InviteError::Identity(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::Command;
    use super::*;

    #[test]
    fn the_numbers_are_those_of_sysexits() {
        let numbers = Exit::ALL.map(Exit::code);
        assert_eq!(numbers, [0, 64, 65, 66, 69, 73, 74, 75, 77, 78]);
    }

    #[test]
    fn every_end_has_its_code() {
        let path = PathBuf::from;
        let io = |kind| io::Error::from(kind);
        let state_io =
            |kind| StateError::Io { path: path("x"), action: "read it", source: io(kind) };
        let bind =
            |kind| StartError::Bind { address: "127.0.0.1:1".parse().unwrap(), source: io(kind) };
        let missing = StoreError::MissingCommits { recorded: 2, recovered: 1, missing: 1 };
        assert_eq!(Exit::from(&ConfigError::NoStateDirectory), Exit::Configuration);
        let cases: [(StartError, Exit); 12] = [
            (StateError::InUse(path("x")).into(), Exit::TryAgain),
            (StateError::NotADirectory(path("x")).into(), Exit::CannotCreate),
            (
                StateError::OpenToOthers { path: "x".to_owned(), mode: 0o755 }.into(),
                Exit::NoPermission,
            ),
            (state_io(io::ErrorKind::StorageFull).into(), Exit::InputOutput),
            (state_io(io::ErrorKind::PermissionDenied).into(), Exit::NoPermission),
            (IdentityError::NoRealm(path("x")).into(), Exit::NoInput),
            (IdentityError::Endpoints(0).into(), Exit::Configuration),
            (IdentityError::Expired { days: 1, root_key: path("x") }.into(), Exit::Data),
            (StoreError::Locked(path("x")).into(), Exit::TryAgain),
            (missing.into(), Exit::Data),
            (bind(io::ErrorKind::AddrInUse), Exit::Unavailable),
            (bind(io::ErrorKind::PermissionDenied), Exit::NoPermission),
        ];
        for (error, expected) in cases {
            assert_eq!(Exit::from(&error), expected, "{error}");
        }
    }

    #[test]
    fn help_is_no_mistake() {
        for (flag, expected) in
            [("--help", Exit::Ok), ("--version", Exit::Ok), ("--colour", Exit::Usage)]
        {
            let error = Command::parse(["valise".into(), flag.into()]).unwrap_err();
            assert_eq!(Exit::from(&error), expected, "{flag}");
        }
    }
}
