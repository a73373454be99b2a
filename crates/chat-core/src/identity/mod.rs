//! Who is who: accounts and their root keys, devices and their certificates, the records that list
//! them, the words two people compare, and the links that begin a contact.

mod credential;
mod ids;
mod root_key;

pub use credential::{Credential, CredentialError};
pub use ids::{AccountId, DeviceId, IdTextError, RootPublicKey};
pub use root_key::RootKey;
