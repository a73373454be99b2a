//! Who may be in a group, judged the same by every member: from the group's state and the commit
//! alone. One function says whether a leaf is what it claims; everything that lets a leaf in goes
//! through it. What breaks these rules is junk, whoever signed it.

use openmls::prelude::{BasicCredential, ExtensionType, GroupContext, UnknownExtension};
use openmls::prelude::{
    Credential as MlsCredential, Extension, Extensions, KeyPackage, LeafNode, SignaturePublicKey,
};
use prost::Message as _;
use valise_proto::RelayAddress;

use super::Junk;
use super::device::KEY_PACKAGE_TIME;
use crate::identity::{AccountId, Credential, DeviceId, RootPublicKey};
use crate::wire::{self, group_info::Kind};

/// The leaf node extension that holds a `wire::Member`.
pub(super) const MEMBER: u16 = 0xF0A1;
/// The group context extension that holds a `wire::GroupInfo`.
pub(super) const INFO: u16 = 0xF0A2;

/// Each of the two has at most so many bytes: an address of the longest host, a name of 64
/// characters and a key have fewer than 700.
const EXTENSION_BYTES_MAX: usize = 1_024;

/// X25519.
const HPKE_KEY_BYTES: usize = 32;

/// A device in a group.
#[derive(Debug, Clone, PartialEq)]
pub struct Leaf {
    /// Its place in the tree.
    pub index: u32,
    /// Its account.
    pub account: AccountId,
    /// Which of the account's devices.
    pub device: DeviceId,
    /// The account's root key, which signed the device.
    pub root_key: RootPublicKey,
    /// The device's MLS signature key.
    pub signature_key: Vec<u8>,
    /// What the device says of itself: address, name, HPKE key.
    pub member: wire::Member,
}

/// A leaf that is what it claims: its device certificate is by its root key and of its signature
/// key. There is no other way to make a [`Leaf`] of something new.
pub(super) fn checked(index: u32, node: &LeafNode) -> Result<Leaf, Junk> {
    let leaf = read(index, node.credential(), node.signature_key(), node.extensions())?;
    let credential = credential(node.credential())?;
    credential.verify(&leaf.signature_key).map_err(|_| Junk::Ghost)?;
    Ok(leaf)
}

/// The leaf of a key package that is good at all times: so whoever follows need not look at a clock,
/// and clocks cannot split a group.
pub(super) fn checked_package(package: &KeyPackage) -> Result<Leaf, Junk> {
    let time = package.life_time();
    if (time.not_before(), time.not_after()) != KEY_PACKAGE_TIME {
        return Err(Junk::Forbidden("a key package that is not good at all times"));
    }
    checked(0, package.leaf_node())
}

/// A leaf that was checked when it came into the group.
pub(super) fn read(
    index: u32,
    mls_credential: &MlsCredential,
    signature_key: &SignaturePublicKey,
    extensions: &Extensions<LeafNode>,
) -> Result<Leaf, Junk> {
    let credential = credential(mls_credential)?;
    let found = extensions.unknown(MEMBER).ok_or(Junk::Malformed("a leaf without an address"))?;
    let member = wire::Member::decode(found.0.as_slice())
        .map_err(|_| Junk::Malformed("a leaf's address"))?;
    if found.0.len() > EXTENSION_BYTES_MAX || member.hpke_key.len() != HPKE_KEY_BYTES {
        return Err(Junk::Malformed("what a leaf says of its device"));
    }
    let Credential { account, device, root_key, .. } = credential;
    let signature_key = signature_key.as_slice().to_vec();
    Ok(Leaf { index, account, device, root_key, signature_key, member })
}

fn credential(mls_credential: &MlsCredential) -> Result<Credential, Junk> {
    let basic = BasicCredential::try_from(mls_credential.clone());
    let basic = basic.map_err(|_| Junk::Malformed("a credential that is not basic"))?;
    Credential::decode(basic.identity()).map_err(|_| Junk::Malformed("a credential"))
}

/// What a group's context says it is.
pub(super) fn info(extensions: &Extensions<GroupContext>) -> Result<wire::GroupInfo, Junk> {
    let info = extensions.unknown(INFO).ok_or(Junk::Malformed("a group without its info"))?;
    if info.0.len() > EXTENSION_BYTES_MAX {
        return Err(Junk::Malformed("a group's info of this size"));
    }
    let info = wire::GroupInfo::decode(info.0.as_slice());
    let info = info.map_err(|_| Junk::Malformed("a group's info"))?;
    sound(&info)?;
    if extensions.iter().any(|found| !is_known(found)) {
        return Err(Junk::Forbidden("a group context extension"));
    }
    Ok(info)
}

/// Whether a group can be this at all.
pub(super) fn sound(info: &wire::GroupInfo) -> Result<(), Junk> {
    if info.kind() == Kind::Unspecified {
        return Err(Junk::Malformed("a group's kind"));
    }
    if info.home.parse::<RelayAddress>().is_err() {
        return Err(Junk::Malformed("a group's home"));
    }
    if info.encoded_len() > EXTENSION_BYTES_MAX {
        return Err(Junk::Malformed("a group's name of this length"));
    }
    Ok(())
}

fn is_known(extension: &Extension) -> bool {
    matches!(
        extension.extension_type(),
        ExtensionType::RequiredCapabilities | ExtensionType::Unknown(INFO)
    )
}

/// An extension of ours.
pub(super) fn extension(number: u16, message: &impl prost::Message) -> Extension {
    Extension::Unknown(number, UnknownExtension(message.encode_to_vec()))
}

/// Whether these leaves may be in a group together. All of them were checked one by one.
pub(super) fn check_roster(kind: Kind, roster: &[Leaf]) -> Result<(), Junk> {
    let mut accounts: Vec<(AccountId, RootPublicKey)> = Vec::new();
    let mut devices = std::collections::HashSet::new();
    for leaf in roster {
        match accounts.iter().find(|(account, _)| *account == leaf.account) {
            Some((_, root)) if *root != leaf.root_key => return Err(Junk::Ghost),
            Some(_) => {}
            None => accounts.push((leaf.account, leaf.root_key)),
        }
        // Whatever its account is: messages, addresses and what is told of them go by the device.
        if !devices.insert(leaf.device) {
            return Err(Junk::Forbidden("a device twice"));
        }
    }
    match kind {
        Kind::OwnDevices if accounts.len() > 1 => Err(Junk::Forbidden("a second account")),
        Kind::Direct if accounts.len() > 2 => Err(Junk::Forbidden("a third account")),
        _ => Ok(()),
    }
}

/// Whether a group may become this.
pub(super) fn check_info(old: &wire::GroupInfo, new: &wire::GroupInfo) -> Result<(), Junk> {
    if old.kind == new.kind && old.home == new.home {
        Ok(())
    } else {
        Err(Junk::Forbidden("another kind or home of the group"))
    }
}
