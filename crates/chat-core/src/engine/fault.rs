//! Why a step of the engine could not be made.

use crate::api::Refusal;
use crate::mls::MlsError;
use crate::vault::VaultError;

/// Sorted by blame: what was asked, what is on the disk, what should not be.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// What was asked cannot be done. Nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The profile's file could not be read or written. The engine ends: what was not acknowledged
    /// comes again.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The profile's content makes no sense.
    #[error("the profile is damaged: {0}")]
    Damaged(&'static str),
    /// A group's state cannot do what it has to.
    #[error(transparent)]
    Mls(#[from] MlsError),
}

impl Fault {
    pub(super) fn damaged(what: &'static str) -> Self {
        Self::Damaged(what)
    }

    /// Whether the disk or its file failed, and not what was to be kept in it.
    pub(super) fn is_of_the_disk(&self) -> bool {
        matches!(self, Self::Vault(error) if !matches!(error, VaultError::Taken))
    }

    pub(super) fn refused(code: &str, message: impl Into<String>) -> Self {
        Self::Refused(Refusal::new(code, message))
    }
}

impl Refusal {
    /// A refusal with a code for programs and words for people.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into() }
    }
}
