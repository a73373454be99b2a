//! Groups: OpenMLS (RFC 9420) with one cipher suite, private messages only, and a policy that every
//! member applies alike. Nothing here does IO: a group's state goes in and out as entries, which the
//! caller keeps in one transaction with everything else.

mod commit;
mod device;
mod error;
mod group;
mod policy;
mod provider;
mod refusal;
#[cfg(test)]
mod tests;

use openmls::prelude::Ciphersuite;

use crate::identity::{AccountId, DeviceId, RootPublicKey};
use provider::Provider;

pub use commit::{Change, Judged, Prepared, Summary};
pub use device::{
    Device, KEY_PACKAGE_TIME, NewKeyPackage, key_package, package_reference, read_key_package,
};
pub use error::{Junk, MlsError};
pub use group::{Group, welcome_references};
pub use policy::Leaf;
pub use refusal::Refusal;
#[cfg(test)]
pub(crate) use tests::break_path_keys;

/// The one suite that all libraries agree on (RFC 9420, section 17.1).
const SUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;

/// Messages of so many epochs before the current one can still be opened.
pub const PAST_EPOCHS: usize = 8;

/// A change of a group's stored state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: Vec<u8>,
    /// `None`: it is removed.
    pub value: Option<Vec<u8>>,
}

/// A message that was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Who has signed it.
    pub account: AccountId,
    /// With which device.
    pub device: DeviceId,
    /// Which root key vouches for it.
    pub root_key: RootPublicKey,
    /// In which epoch.
    pub epoch: u64,
    /// What was authenticated with it.
    pub authenticated: Vec<u8>,
    /// What it says.
    pub content: Vec<u8>,
}
