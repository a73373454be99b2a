//! A device's credential: an MLS basic credential (RFC 9420, section 5.3) whose identity says which
//! device of which account it is, with a certificate by the account's root key. Every member checks
//! it on every leaf, so nobody can add a device that the account has not signed.

use prost::Message;

use super::{AccountId, DeviceId, RootPublicKey};
use crate::wire;

/// The checked form of `wire::Credential`. Only [`Self::verify`] says that it is true.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// The device's account.
    pub account: AccountId,
    /// Which of the account's devices.
    pub device: DeviceId,
    /// The account's root key, as this credential claims.
    pub root_key: RootPublicKey,
    /// Ed25519 by the root key over `"valise device 1" | account | device | MLS signature key`.
    pub certificate: [u8; 64],
}

/// A credential that must not be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// Not the one encoding of a credential.
    #[error("the credential is not well formed")]
    Malformed,
    /// An MLS signature key of another length than Ed25519's.
    #[error("an MLS signature key has 32 bytes, not {0}")]
    SignatureKey(usize),
    /// The certificate is not by the root key, or about another device or key.
    #[error("the account's root key has not signed this device with this signature key")]
    Certificate,
}

impl Credential {
    /// The identity of the MLS basic credential.
    pub fn encode(&self) -> Vec<u8> {
        wire::Credential {
            account: self.account.0.to_vec(),
            device: self.device.0.to_vec(),
            root_key: self.root_key.0.to_vec(),
            certificate: self.certificate.to_vec(),
        }
        .encode_to_vec()
    }

    /// Reads [`Self::encode`] back: exactly these four fields, in order, with their lengths. There
    /// is one encoding of a credential, so that all members judge the same bytes alike.
    ///
    /// # Errors
    /// [`CredentialError::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, CredentialError> {
        let malformed = CredentialError::Malformed;
        let wire = wire::Credential::decode(bytes).map_err(|_| malformed)?;
        let credential = Self {
            account: AccountId::try_from(&wire.account[..]).map_err(|_| malformed)?,
            device: DeviceId::try_from(&wire.device[..]).map_err(|_| malformed)?,
            root_key: RootPublicKey::try_from(&wire.root_key[..]).map_err(|_| malformed)?,
            certificate: wire.certificate.try_into().map_err(|_| malformed)?,
        };
        if credential.encode() == bytes { Ok(credential) } else { Err(malformed) }
    }

    /// Whether the root key has signed this device with this MLS signature key. Whether it is the
    /// account's root key is for the account's record to say.
    ///
    /// # Errors
    /// [`CredentialError::SignatureKey`], [`CredentialError::Certificate`].
    pub fn verify(&self, signature_key: &[u8]) -> Result<(), CredentialError> {
        let signature_key = signature_key
            .try_into()
            .map_err(|_| CredentialError::SignatureKey(signature_key.len()))?;
        let statement = statement(&self.account, &self.device, signature_key);
        if self.root_key.verifies(&statement, &self.certificate) {
            Ok(())
        } else {
            Err(CredentialError::Certificate)
        }
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credential({} {} {})", self.account, self.device, self.root_key)
    }
}

/// What a device certificate signs.
pub(super) fn statement(
    account: &AccountId,
    device: &DeviceId,
    signature_key: &[u8; 32],
) -> Vec<u8> {
    [&b"valise device 1"[..], &account.0, &device.0, signature_key].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::RootKey;

    const KEY: [u8; 32] = [7; 32];

    fn credential() -> Credential {
        RootKey::from_seed(&[1; 32]).certify(AccountId([2; 32]), DeviceId([3; 16]), &KEY)
    }

    #[test]
    fn a_certificate_is_about_one_device_and_one_key() {
        assert_eq!(credential().verify(&KEY), Ok(()));
        assert_eq!(credential().verify(&[8; 32]), Err(CredentialError::Certificate));
        assert_eq!(credential().verify(&[7; 31]), Err(CredentialError::SignatureKey(31)));
        let other_account = Credential { account: AccountId([9; 32]), ..credential() };
        let other_device = Credential { device: DeviceId([9; 16]), ..credential() };
        let root_key = RootKey::from_seed(&[9; 32]).public();
        let other_root = Credential { root_key, ..credential() };
        for wrong in [other_account, other_device, other_root] {
            assert_eq!(wrong.verify(&KEY), Err(CredentialError::Certificate));
        }
    }

    #[test]
    fn there_is_one_encoding() {
        let encoded = credential().encode();
        assert_eq!(Credential::decode(&encoded), Ok(credential()));
        let malformed = Err(CredentialError::Malformed);
        for len in 0..encoded.len() {
            assert_eq!(Credential::decode(&encoded[..len]), malformed);
        }
        // An unknown field, and a known one twice: protobuf would take both.
        assert_eq!(Credential::decode(&[&encoded[..], &[0x28, 1]].concat()), malformed);
        assert_eq!(Credential::decode(&[&encoded[..], &encoded[..]].concat()), malformed);
    }

    #[test]
    fn a_flipped_bit_is_refused() {
        let encoded = credential().encode();
        for bit in 0..encoded.len() * 8 {
            let mut flipped = encoded.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let accepted = Credential::decode(&flipped).is_ok_and(|c| c.verify(&KEY).is_ok());
            assert!(!accepted, "bit {bit}");
        }
    }
}
