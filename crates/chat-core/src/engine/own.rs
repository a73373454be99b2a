//! This device and its account, from the stored form.

use super::core::Core;
use super::fault::Fault;
use super::outgoing::bytes_of;
use super::records::state;
use crate::identity::{AccountId, DeviceId, RootKey};
use crate::mls::Device;
use crate::seal::EpochKeys;
use crate::wire;

/// Who this device is in every group.
pub(super) fn device(me: &state::Me) -> Result<Device, Fault> {
    let device = DeviceId(bytes_of(&me.device)?);
    let seed = bytes_of(&me.signature_seed)?;
    // A device that is not linked yet has no account; nothing it could sign is used.
    let account = AccountId(bytes_of(&me.account).unwrap_or([0; 32]));
    let root = root(me).unwrap_or_else(|_| RootKey::generate());
    let signature_key = Device::public_key(&seed);
    let credential = root.certify(account, device, &signature_key);
    Ok(Device::new(credential, &seed))
}

/// The account's root key.
pub(super) fn root(me: &state::Me) -> Result<RootKey, Fault> {
    Ok(RootKey::from_seed(&bytes_of(&me.root_seed)?))
}

/// This device's entry in the account's record.
pub(super) fn device_record(me: &state::Me) -> Result<wire::DeviceRecord, Fault> {
    Ok(wire::DeviceRecord {
        device: me.device.clone(),
        signature_key: Device::public_key(&bytes_of(&me.signature_seed)?).to_vec(),
        hpke_key: me.hpke_public.clone(),
        name: me.device_name.clone(),
        since_ms: me.device_since_ms,
    })
}

/// Keys of an epoch, as stored.
pub(super) fn epoch_keys(epoch: &state::Epoch) -> Result<EpochKeys, Fault> {
    Ok(EpochKeys {
        epoch: epoch.epoch,
        hint: bytes_of(&epoch.hint)?,
        envelope: bytes_of(&epoch.envelope)?,
        slot: bytes_of(&epoch.slot)?,
    })
}

impl Core {
    /// The own account and the public half of its root.
    pub(super) fn own_root(&self) -> Result<(AccountId, [u8; 32]), Fault> {
        let account = AccountId(bytes_of(&self.me.account)?);
        Ok((account, *root(&self.me)?.public().as_bytes()))
    }
}
