//! Who this device is in every group, and the key packages by which others let it in.

use openmls::prelude::tls_codec::{DeserializeBytes as _, Serialize as _};
use openmls::prelude::{
    BasicCredential, Capabilities, CredentialType, CredentialWithKey, ExtensionType, Extensions,
    KeyPackage, Lifetime, MlsMessageBodyIn, MlsMessageIn, MlsMessageOut, OpenMlsProvider as _,
    ProtocolVersion,
};
use openmls_basic_credential::SignatureKeyPair;

use super::policy::{self, INFO, Leaf, MEMBER};
use super::{Junk, MlsError, Provider, SUITE};
use crate::identity::Credential;
use crate::wire;

/// A device's signature key and credential.
#[derive(Clone)]
pub struct Device {
    credential: Credential,
    seed: zeroize::Zeroizing<[u8; 32]>,
}

impl Device {
    /// A device with its signature key's 32-byte seed (RFC 8032).
    pub fn new(credential: Credential, seed: &[u8; 32]) -> Self {
        Self { credential, seed: zeroize::Zeroizing::new(*seed) }
    }

    /// The public half of a seed's signature key.
    pub fn public_key(seed: &[u8; 32]) -> [u8; 32] {
        // The one computation of it that the crate has.
        *crate::identity::RootKey::from_seed(seed).public().as_bytes()
    }

    /// What it shows of itself.
    pub fn credential(&self) -> &Credential {
        &self.credential
    }

    pub(super) fn signer(&self) -> SignatureKeyPair {
        let public = Self::public_key(&self.seed);
        let scheme = SUITE.signature_algorithm();
        SignatureKeyPair::from_raw(scheme, self.seed.to_vec(), public.to_vec())
    }

    pub(super) fn credential_with_key(&self) -> CredentialWithKey {
        CredentialWithKey {
            credential: BasicCredential::new(self.credential.encode()).into(),
            signature_key: Self::public_key(&self.seed).to_vec().into(),
        }
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Device({:?}, redacted)", self.credential.device)
    }
}

/// What every device of ours can do: the one suite, basic credentials, our two extensions, and key
/// packages for the last resort, whose extension MLS wants to see here.
pub(super) fn capabilities() -> Capabilities {
    let extensions =
        [ExtensionType::LastResort, ExtensionType::Unknown(MEMBER), ExtensionType::Unknown(INFO)];
    Capabilities::new(
        Some(&[ProtocolVersion::Mls10]),
        Some(&[SUITE]),
        Some(&extensions),
        Some(&[]),
        Some(&[CredentialType::Basic]),
    )
}

/// A key package and its secrets.
pub struct NewKeyPackage {
    /// For others, as an MLS message.
    pub bytes: Vec<u8>,
    /// By which a Welcome names it.
    pub reference: Vec<u8>,
    /// For [`super::Group::join`]; to be kept until then, and not longer.
    pub entries: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The time of a key package, in seconds since 1970: all of it. A clock must not decide who follows a
/// commit, and what ends a package is that it is used, or that the bundle is published anew.
pub const KEY_PACKAGE_TIME: (u64, u64) = (0, i64::MAX as u64);

/// Makes a key package; one for the last resort may be used more than once.
///
/// # Errors
/// [`MlsError`].
pub fn key_package(
    device: &Device,
    member: &wire::Member,
    last_resort: bool,
) -> Result<NewKeyPackage, MlsError> {
    key_package_in(device, member, last_resort, KEY_PACKAGE_TIME)
}

/// As [`key_package`], with a time that others may refuse.
pub(super) fn key_package_in(
    device: &Device,
    member: &wire::Member,
    last_resort: bool,
    (not_before, not_after): (u64, u64),
) -> Result<NewKeyPackage, MlsError> {
    let provider = Provider::default();
    let extensions = Extensions::single(policy::extension(MEMBER, member));
    let extensions = extensions.map_err(|_| MlsError::internal("a leaf's extension"))?;
    let mut builder = KeyPackage::builder()
        .key_package_lifetime(Lifetime::init(not_before, not_after))
        .leaf_node_capabilities(capabilities())
        .leaf_node_extensions(extensions);
    if last_resort {
        builder = builder.mark_as_last_resort();
    }
    let made = builder
        .build(SUITE, &provider, &device.signer(), device.credential_with_key())
        .map_err(|error| MlsError::library(&error))?;
    let package = made.into_key_package();
    let reference =
        package.hash_ref(provider.crypto()).map_err(|error| MlsError::library(&error))?;
    let bytes = MlsMessageOut::from(package).tls_serialize_detached();
    Ok(NewKeyPackage {
        bytes: bytes.map_err(|error| MlsError::library(&error))?,
        reference: reference.as_slice().to_vec(),
        entries: provider.entries(),
    })
}

/// Whose key package it is. It is whole, good at all times, of our suite, and no ghost's.
///
/// # Errors
/// [`Junk`].
pub fn read_key_package(bytes: &[u8]) -> Result<Leaf, Junk> {
    policy::checked_package(&validated(bytes)?)
}

/// By what a Welcome would name a key package.
///
/// # Errors
/// [`Junk`].
pub fn package_reference(bytes: &[u8]) -> Result<Vec<u8>, Junk> {
    let reference = validated(bytes)?.hash_ref(Provider::default().crypto());
    let reference = reference.map_err(|_| Junk::Malformed("a key package"))?;
    Ok(reference.as_slice().to_vec())
}

/// A key package that is whole.
pub(super) fn validated(bytes: &[u8]) -> Result<KeyPackage, Junk> {
    let message = MlsMessageIn::tls_deserialize_exact_bytes(bytes);
    let message = message.map_err(|_| Junk::Malformed("a key package"))?;
    let MlsMessageBodyIn::KeyPackage(package) = message.extract() else {
        return Err(Junk::Malformed("a key package"));
    };
    let provider = Provider::default();
    let package = package.validate(provider.crypto(), ProtocolVersion::Mls10);
    let package = package.map_err(|_| Junk::Malformed("a key package's signature or time"))?;
    if package.ciphersuite() != SUITE {
        return Err(Junk::Forbidden("another cipher suite"));
    }
    Ok(package)
}
