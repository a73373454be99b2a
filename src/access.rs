//! Who may join: anyone, whoever has an invite code, or the owner keys on a list.

use std::collections::HashSet;

use valise_proto::{OwnerKey, Reason};

/// The access policy in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Anyone may join.
    Open,
    /// An unused invite code is needed, made by `valise invite-code`.
    Codes,
    /// Only these owner keys may join.
    AllowList(HashSet<OwnerKey>),
}

/// On what condition an owner key may join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// As it stands.
    Free,
    /// With an invite code.
    WithCode,
}

impl Access {
    /// Whether the owner key may join.
    ///
    /// # Errors
    /// `not_allowed`.
    pub fn admit(&self, owner: &OwnerKey) -> Result<Admission, Reason> {
        match self {
            Self::Open => Ok(Admission::Free),
            Self::Codes => Ok(Admission::WithCode),
            Self::AllowList(owners) if owners.contains(owner) => Ok(Admission::Free),
            Self::AllowList(_) => Err(Reason::NotAllowed),
        }
    }
}
