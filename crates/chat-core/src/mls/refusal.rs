//! Why a commit is refused, and by whom. What every member sees alike is junk, and everyone goes on
//! to the next attempt. What may be seen by one member alone is never junk: whoever took it for that
//! would go on alone. The list is in docs/decisions/0024.

use openmls::group::StageCommitError;
use openmls::prelude::ProcessMessageError;
use openmls::treesync::errors::ApplyUpdatePathError;

use super::Junk;

/// Why a commit is not applied here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Everyone refuses it.
    #[error(transparent)]
    Junk(#[from] Junk),
    /// This device cannot follow it; others may have.
    #[error("this device cannot follow a commit: {0}")]
    Lost(String),
}

impl Refusal {
    /// A commit in this device's name that it does not know of.
    pub(super) fn own() -> Self {
        Self::Lost("it is in this device's own name".to_owned())
    }
}

/// What MLS says of a commit that it does not open.
pub(super) fn of_commit<E: std::fmt::Display>(error: &ProcessMessageError<E>) -> Refusal {
    if is_seen_by_all(error) {
        Junk::Mls(error.to_string()).into()
    } else {
        Refusal::Lost(error.to_string())
    }
}

/// Whether all members see it, from what they have in common: the commit, the tree, the group's
/// context and the keys of the epoch. What is not listed counts as seen by one alone.
fn is_seen_by_all<E>(error: &ProcessMessageError<E>) -> bool {
    match error {
        // Form, epoch, membership, decryption under the epoch's keys, signatures. Judging leaves no
        // trace, so nobody has used a key up that others still have.
        ProcessMessageError::IncompatibleWireFormat
        | ProcessMessageError::ValidationError(_)
        | ProcessMessageError::UnauthorizedExternalApplicationMessage
        | ProcessMessageError::UnauthorizedExternalCommitMessage
        | ProcessMessageError::UnsupportedProposalType => true,
        ProcessMessageError::InvalidCommit(error) => is_seen_by_all_members(error),
        // The library, the storage, the group's own state here.
        _ => false,
    }
}

fn is_seen_by_all_members(error: &StageCommitError) -> bool {
    match error {
        // From the commit and the tree.
        StageCommitError::EpochMismatch
        | StageCommitError::WrongPlaintextContentType
        | StageCommitError::PathLeafNodeVerificationFailure
        | StageCommitError::RequiredPathNotFound
        | StageCommitError::ConfirmationTagMissing
        | StageCommitError::AttemptedSelfRemoval
        | StageCommitError::MissingProposal
        | StageCommitError::InconsistentSenderIndex
        | StageCommitError::SenderTypeExternal
        | StageCommitError::SenderTypeNewMemberProposal
        | StageCommitError::TooManyNewMembers
        | StageCommitError::ProposalValidationError(_)
        | StageCommitError::ExternalCommitValidation(_)
        | StageCommitError::VerifiedUpdatePathError(_)
        | StageCommitError::GroupContextExtensionsProposalValidationError(_)
        | StageCommitError::LeafNodeValidation(_)
        | StageCommitError::DuplicatePskId(_) => true,
        // Some may have the key and some not, but whoever has it refuses the proposal's kind.
        StageCommitError::PskError(_) => true,
        // It is compared last: whoever comes so far has opened the path, and found in it the public
        // keys of the commit up to the root. So all who come so far have the same secrets.
        StageCommitError::ConfirmationTagMismatch => true,
        StageCommitError::UpdatePathError(error) => matches!(
            error,
            ApplyUpdatePathError::PathLengthMismatch
                | ApplyUpdatePathError::ParentHashMismatch
                | ApplyUpdatePathError::MissingParentHash
                | ApplyUpdatePathError::TreeFull
                | ApplyUpdatePathError::InconsistentSenderIndex
        ),
        // A path secret is sealed for each subtree by itself: that it is missing, does not open, or
        // does not lead to the commit's public keys, only those below see.
        _ => false,
    }
}
