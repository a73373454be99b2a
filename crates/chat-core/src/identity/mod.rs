//! Who is who: accounts and their root keys, devices and their certificates, the records that list
//! them, the words two people compare, and the links that begin a contact.

mod card;
mod credential;
mod ids;
mod invite;
mod record;
mod root_key;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;
pub mod words;

pub use card::{CARD_BYTES_MAX, is_sound};
pub use credential::{Credential, CredentialError};
pub use ids::{AccountId, DeviceId, IdTextError, RootPublicKey};
pub use invite::{InviteLink, LinkError};
pub use record::{
    AccountRecord, Change, DEVICES_MAX, DeviceEntry, RECORD_BYTES_MAX, RecordError, SignedRecord,
    Verdict, judge, reapply,
};
pub use root_key::RootKey;
