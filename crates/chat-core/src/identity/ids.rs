//! The ids of accounts and devices, and the public half of a root key. `Display` is the short form;
//! `to_text` is the whole id in base32, as people copy it.

use std::fmt;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use valise_client::random;
use valise_proto::{IdError, from_base32, to_base32};

/// A text that is no id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not {what}: it has {characters} characters from a-z and 2-7; copy it whole")]
pub struct IdTextError {
    what: &'static str,
    characters: usize,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $len:expr, $what:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// The bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// The whole, in lower-case base32.
            pub fn to_text(&self) -> String {
                to_base32(&self.0)
            }

            /// Reads [`Self::to_text`] back, in either case, with blanks around it.
            ///
            /// # Errors
            /// [`IdTextError`].
            pub fn from_text(text: &str) -> Result<Self, IdTextError> {
                let error = IdTextError { what: $what, characters: ($len * 8usize).div_ceil(5) };
                let bytes = from_base32(text.trim()).ok_or(error)?;
                Self::try_from(&bytes[..]).map_err(|_| error)
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = IdError;

            fn try_from(bytes: &[u8]) -> Result<Self, IdError> {
                bytes.try_into().map(Self).map_err(|_| IdError {
                    what: stringify!($name),
                    expected: $len,
                    got: bytes.len(),
                })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&to_base32(&self.0[..5]))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    };
}

id!(/// An account: 32 random bytes, drawn once. No phone number, no mail address, no name.
    AccountId, 32, "an account id");
id!(/// A device of an account: 16 random bytes, drawn when the device is set up.
    DeviceId, 16, "a device id");
id!(/// The public half of an account's root key, Ed25519 (RFC 8032).
    RootPublicKey, 32, "a root key");

impl AccountId {
    /// A new account's id.
    pub fn random() -> Self {
        Self(random::bytes())
    }
}

impl DeviceId {
    /// A new device's id.
    pub fn random() -> Self {
        Self(random::bytes())
    }
}

impl RootPublicKey {
    /// Whether this key signed the statement.
    pub fn verifies(&self, statement: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(statement, signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_read_back_in_either_case() {
        let account = AccountId::random();
        assert_eq!(account.to_text().len(), 52);
        assert_eq!(AccountId::from_text(&account.to_text()), Ok(account));
        assert_eq!(
            AccountId::from_text(&format!(" {}\n", account.to_text().to_uppercase())),
            Ok(account)
        );
        let device = DeviceId::random();
        assert_eq!(device.to_text().len(), 26);
        assert_eq!(DeviceId::from_text(&device.to_text()), Ok(device));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = DeviceId::from_text("abc").unwrap_err();
        assert_eq!(
            error.to_string(),
            "this is not a device id: it has 26 characters from a-z and 2-7; copy it whole"
        );
        assert!(AccountId::from_text(&DeviceId([1; 16]).to_text()).is_err());
        assert!(DeviceId::from_text(&"1".repeat(26)).is_err());
        // The last character has two bits to spare, which must be zero: one text for each id.
        assert!(DeviceId::from_text(&"a".repeat(26)).is_ok());
        assert!(DeviceId::from_text(&format!("{}b", "a".repeat(25))).is_err());
    }

    #[test]
    fn shown_short() {
        assert_eq!(format!("{:?}", AccountId([0; 32])), "AccountId(aaaaaaaa)");
    }
}
