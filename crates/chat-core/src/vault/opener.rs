//! Where the secret is that opens a profile. It is said beside the wrapped key, in clear, so that a
//! front end knows what to ask for. It is a hint and no more: whoever changes it gets the profile
//! asked for the wrong secret, and not opened.

use super::VaultError;

/// Where the secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opener {
    /// A person remembers it. Profiles that say nothing, as older programs made them, are so too.
    Passphrase,
    /// The system's keyring has it, under this name.
    Keyring(String),
    /// There is none: somebody has chosen so.
    Nothing,
}

const PASSPHRASE: &str = "passphrase";
const KEYRING: &str = "keyring ";
const NOTHING: &str = "nothing";

impl Opener {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Passphrase => PASSPHRASE.into(),
            Self::Keyring(name) => [KEYRING, name].concat().into(),
            Self::Nothing => NOTHING.into(),
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, VaultError> {
        match std::str::from_utf8(bytes) {
            Ok(PASSPHRASE) => Ok(Self::Passphrase),
            Ok(NOTHING) => Ok(Self::Nothing),
            Ok(text) => match text.strip_prefix(KEYRING) {
                Some(name) if !name.is_empty() => Ok(Self::Keyring(name.to_owned())),
                _ => Err(VaultError::Opener),
            },
            Err(_) => Err(VaultError::Opener),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_opener_keeps_its_stored_form() {
        let keyring = Opener::Keyring("3f".to_owned());
        for (opener, stored) in [
            (Opener::Passphrase, "passphrase"),
            (keyring, "keyring 3f"),
            (Opener::Nothing, "nothing"),
        ] {
            assert_eq!(opener.encode(), stored.as_bytes());
            assert_eq!(Opener::decode(stored.as_bytes()).unwrap(), opener);
        }
    }

    #[test]
    fn what_nobody_wrote_is_refused() {
        for stored in [&b""[..], b"keyring", b"keyring ", b"token 5", b"nothing ", b"\xff"] {
            assert!(matches!(Opener::decode(stored), Err(VaultError::Opener)), "{stored:?}");
        }
    }
}
