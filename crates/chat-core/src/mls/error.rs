//! Why a group does not do something: what everyone refuses, and what this device cannot.

/// Something that every member refuses, for the same reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Junk {
    /// Not what it should be.
    #[error("{0} is not well formed")]
    Malformed(&'static str),
    /// A device that its account has not signed, or an account with two roots.
    #[error("a device that its account has not signed")]
    Ghost,
    /// Well formed, and not allowed.
    #[error("{0} is not allowed")]
    Forbidden(&'static str),
    /// MLS itself refuses it.
    #[error("MLS refuses it: {0}")]
    Mls(String),
}

/// A group cannot do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MlsError {
    /// It would be refused by everyone.
    #[error(transparent)]
    Junk(#[from] Junk),
    /// The message was opened before, or is our own.
    #[error("the message was opened before")]
    Copy,
    /// Its epoch is over for so long that its keys are gone.
    #[error("the message is too old to be opened")]
    TooOld,
    /// Its epoch has not begun here.
    #[error("the message is of an epoch that has not begun here")]
    Future,
    /// The state is not what it was when it was written.
    #[error("the group's state cannot be read")]
    State,
    /// The library fails.
    #[error("MLS fails: {0}")]
    Library(String),
}

impl MlsError {
    /// Whether a message is lost that the reader should know of.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::TooOld)
    }

    pub(super) fn library(error: &impl std::fmt::Display) -> Self {
        Self::Library(error.to_string())
    }

    pub(super) fn internal(what: &str) -> Self {
        Self::Library(what.to_owned())
    }
}
