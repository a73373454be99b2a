//! A group with its state in memory: how it begins, what it is, and what is said in it.

use openmls::group::PastEpochDeletionPolicy;
use openmls::prelude::tls_codec::{DeserializeBytes as _, Serialize as _};
use openmls::prelude::{
    ContentType, CredentialType, Extension, ExtensionType, Extensions, GroupContext, GroupId,
    MlsGroup, MlsGroupCreateConfig, MlsGroupJoinConfig, MlsMessageBodyIn, MlsMessageIn,
    MlsMessageOut, OpenMlsProvider as _, PURE_CIPHERTEXT_WIRE_FORMAT_POLICY, ProcessMessageError,
    ProcessedMessageContent, ProposalType, ProtocolMessage, RequiredCapabilitiesExtension,
    SenderRatchetConfiguration, StagedWelcome, ValidationError, Welcome,
};

use super::policy::{self, INFO, MEMBER};
use super::provider::Provider;
use super::{Device, Entry, Junk, Leaf, MlsError, Opened, PAST_EPOCHS, SUITE, device};
use crate::identity::AccountId;
use crate::seal::EpochKeys;
use crate::wire;

/// A sender's messages may come so far out of order, and so many of them may be missing.
const OUT_OF_ORDER: u32 = 64;
const FORWARD_MAX: u32 = 20_000;

/// A group with its state in memory.
pub struct Group {
    pub(super) mls: MlsGroup,
    pub(super) provider: Provider,
    pub(super) roster: Vec<Leaf>,
    pub(super) info: wire::GroupInfo,
    /// Who has let us in; known only to the one that has just joined.
    pub(super) inviter: Option<AccountId>,
}

impl Group {
    /// A new group with one member.
    ///
    /// # Errors
    /// [`MlsError`].
    pub fn create(
        device: &Device,
        group_id: [u8; 16],
        info: &wire::GroupInfo,
        member: &wire::Member,
    ) -> Result<Self, MlsError> {
        let provider = Provider::default();
        let leaf = Extensions::single(policy::extension(MEMBER, member));
        let leaf = leaf.map_err(|_| MlsError::internal("a leaf's extension"))?;
        let config = MlsGroupCreateConfig::builder()
            .ciphersuite(SUITE)
            .wire_format_policy(PURE_CIPHERTEXT_WIRE_FORMAT_POLICY)
            .set_past_epoch_deletion_policy(PastEpochDeletionPolicy::MaxEpochs(PAST_EPOCHS))
            .sender_ratchet_configuration(ratchet())
            .use_ratchet_tree_extension(true)
            .capabilities(device::capabilities())
            .with_group_context_extensions(context(info)?)
            .with_leaf_node_extensions(leaf)
            .map_err(|_| MlsError::internal("a leaf's extension"))?
            .build();
        let mls = MlsGroup::new_with_group_id(
            &provider,
            &device.signer(),
            &config,
            GroupId::from_slice(&group_id),
            device.credential_with_key(),
        );
        Self::checked(mls.map_err(|error| MlsError::library(&error))?, provider)
    }

    /// A group from its stored state.
    ///
    /// # Errors
    /// [`MlsError::State`].
    pub fn load(group_id: &[u8], entries: Vec<(Vec<u8>, Vec<u8>)>) -> Result<Self, MlsError> {
        let provider = Provider::with(entries);
        let id = GroupId::from_slice(group_id);
        let mls = MlsGroup::load(provider.storage(), &id).ok().flatten();
        let mls = mls.ok_or(MlsError::State)?;
        let mut group = Self::unread(mls, provider);
        group.refresh()?;
        Ok(group)
    }

    /// Joins by a Welcome. Every leaf is checked.
    ///
    /// # Errors
    /// [`MlsError`].
    pub fn join(
        _device: &Device,
        welcome: &[u8],
        entries: Vec<(Vec<u8>, Vec<u8>)>,
    ) -> Result<Self, MlsError> {
        let mut provider = Provider::with(entries);
        let config = MlsGroupJoinConfig::builder()
            .wire_format_policy(PURE_CIPHERTEXT_WIRE_FORMAT_POLICY)
            .set_past_epoch_deletion_policy(PastEpochDeletionPolicy::MaxEpochs(PAST_EPOCHS))
            .sender_ratchet_configuration(ratchet())
            .use_ratchet_tree_extension(true)
            .build();
        let welcome = read_welcome(welcome)?;
        // Leaves outlive the packages they came from; and what is old is no reason to stay away.
        let staged = StagedWelcome::build_from_welcome(&provider, &config, welcome)
            .and_then(|joining| joining.skip_lifetime_validation().build());
        let staged = staged.map_err(|error| Junk::Mls(error.to_string()))?;
        let inviter = staged.welcome_sender().map_err(|error| MlsError::library(&error))?;
        let inviter = policy::checked(0, inviter)?.account;
        let mls = staged.into_group(&provider).map_err(|error| Junk::Mls(error.to_string()))?;
        // What the key package left there is none of the group's business.
        provider.forget_saved();
        Ok(Self { inviter: Some(inviter), ..Self::checked(mls, provider)? })
    }

    pub(super) fn unread(mls: MlsGroup, provider: Provider) -> Self {
        let (roster, info) = (Vec::new(), wire::GroupInfo::default());
        Self { mls, provider, roster, info, inviter: None }
    }

    pub(super) fn checked(mls: MlsGroup, provider: Provider) -> Result<Self, MlsError> {
        if mls.ciphersuite() != SUITE {
            return Err(Junk::Forbidden("another cipher suite").into());
        }
        let mut group = Self::unread(mls, provider);
        for leaf in group.leaves() {
            policy::checked(leaf.0, &leaf.1)?;
        }
        group.refresh()?;
        policy::check_roster(group.info.kind(), &group.roster)?;
        Ok(group)
    }

    pub(super) fn leaves(&self) -> Vec<(u32, openmls::prelude::LeafNode)> {
        let tree = self.mls.public_group();
        let nodes = self.mls.members().filter_map(|member| {
            let node = tree.leaf(member.index)?;
            Some((member.index.u32(), node.clone()))
        });
        nodes.collect()
    }

    pub(super) fn refresh(&mut self) -> Result<(), MlsError> {
        let leaves = self.leaves();
        let roster = leaves.iter().map(|(index, node)| {
            policy::read(*index, node.credential(), node.signature_key(), node.extensions())
        });
        self.roster = roster.collect::<Result<_, _>>()?;
        self.info = policy::info(self.mls.extensions())?;
        Ok(())
    }

    /// What has changed in the stored state since the last call.
    pub fn changes(&mut self) -> Vec<Entry> {
        self.provider.changes()
    }

    /// The group's id.
    pub fn id(&self) -> &[u8] {
        self.mls.group_id().as_slice()
    }

    /// The current epoch.
    pub fn epoch(&self) -> u64 {
        self.mls.epoch().as_u64()
    }

    /// What the group is.
    pub fn info(&self) -> wire::GroupInfo {
        self.info.clone()
    }

    /// Our own leaf.
    pub fn own_leaf(&self) -> u32 {
        self.mls.own_leaf_index().u32()
    }

    /// Whether this device is the only one.
    pub fn is_alone(&self) -> bool {
        self.roster.len() == 1
    }

    /// Who has signed the Welcome that this group was just joined by.
    pub fn inviter(&self) -> Option<AccountId> {
        self.inviter
    }

    /// Whether we are a member.
    pub fn is_active(&self) -> bool {
        self.mls.is_active()
    }

    /// All devices.
    pub fn roster(&self) -> Vec<Leaf> {
        self.roster.clone()
    }

    /// The keys of the current epoch's frames and slots (RFC 9420, section 8.5).
    pub fn keys(&self) -> EpochKeys {
        let secret = |label: &str| -> [u8; 32] {
            let secret = self.mls.export_secret(self.provider.crypto(), label, &[], 32);
            let secret = secret.unwrap_or_default();
            // An inactive group has no secrets: nothing matches keys that nobody else has.
            secret.try_into().unwrap_or_else(|_| valise_client::random::bytes())
        };
        EpochKeys {
            epoch: self.epoch(),
            hint: secret("valise hint"),
            envelope: secret("valise envelope"),
            slot: secret("valise slot"),
        }
    }

    /// What members compare to know that they are in the same epoch of the same group.
    pub fn epoch_authenticator(&self) -> Vec<u8> {
        self.mls.epoch_authenticator().as_slice().to_vec()
    }

    /// Seals a message for the members.
    ///
    /// # Errors
    /// [`MlsError`], for example while a commit of ours waits for its decision.
    pub fn encrypt(
        &mut self,
        device: &Device,
        content: &[u8],
        authenticated: &[u8],
    ) -> Result<Vec<u8>, MlsError> {
        self.mls.set_aad(authenticated.to_vec());
        let message = self.mls.create_message(&self.provider, &device.signer(), content);
        to_bytes(message.map_err(|error| MlsError::library(&error))?)
    }

    /// Opens a message of a member, of this epoch or a recent one. Its key is gone then.
    ///
    /// # Errors
    /// [`MlsError`]; nothing has changed.
    pub fn open(&mut self, message: &[u8]) -> Result<Opened, MlsError> {
        // Told from its head: what is only looked at must not use up the key of somebody's commit.
        let message = protocol_message(message, ContentType::Application)?;
        let epoch = message.epoch().as_u64();
        if epoch > self.epoch() {
            return Err(MlsError::Future);
        }
        if epoch + PAST_EPOCHS as u64 <= self.epoch().saturating_sub(1) {
            return Err(MlsError::TooOld);
        }
        let processed =
            self.mls.process_message(&self.provider, message).map_err(|e| refused(&e))?;
        let authenticated = processed.aad().to_vec();
        // The credential is of the leaf whose key the signature was checked with.
        let basic = openmls::prelude::BasicCredential::try_from(processed.credential().clone());
        let credential = basic
            .ok()
            .and_then(|basic| crate::identity::Credential::decode(basic.identity()).ok())
            .ok_or(Junk::Malformed("a sender"))?;
        match processed.into_content() {
            ProcessedMessageContent::ApplicationMessage(content) => Ok(Opened {
                account: credential.account,
                device: credential.device,
                root_key: credential.root_key,
                epoch,
                authenticated,
                content: content.into_bytes(),
            }),
            ProcessedMessageContent::OwnPrivateMessage => Err(MlsError::Copy),
            _ => Err(Junk::Forbidden("a proposal or commit outside the slots").into()),
        }
    }
}

/// The key packages a Welcome is for, by their references.
///
/// # Errors
/// [`Junk`].
pub fn welcome_references(welcome: &[u8]) -> Result<Vec<Vec<u8>>, Junk> {
    let welcome = read_welcome(welcome)?;
    Ok(welcome.secrets().iter().map(|secret| secret.new_member().as_slice().to_vec()).collect())
}

pub(super) fn read_welcome(bytes: &[u8]) -> Result<Welcome, Junk> {
    let message = MlsMessageIn::tls_deserialize_exact_bytes(bytes);
    match message.map_err(|_| Junk::Malformed("a welcome"))?.extract() {
        MlsMessageBodyIn::Welcome(welcome) if welcome.ciphersuite() == SUITE => Ok(welcome),
        _ => Err(Junk::Malformed("a welcome")),
    }
}

pub(super) fn protocol_message(bytes: &[u8], kind: ContentType) -> Result<ProtocolMessage, Junk> {
    let message = MlsMessageIn::tls_deserialize_exact_bytes(bytes);
    let MlsMessageBodyIn::PrivateMessage(message) =
        message.map_err(|_| Junk::Malformed("a message"))?.extract()
    else {
        return Err(Junk::Forbidden("a message in the clear"));
    };
    let message = ProtocolMessage::from(message);
    if message.content_type() == kind {
        Ok(message)
    } else {
        Err(Junk::Forbidden("a message in a slot, or a commit outside"))
    }
}

pub(super) fn to_bytes(message: MlsMessageOut) -> Result<Vec<u8>, MlsError> {
    message.tls_serialize_detached().map_err(|error| MlsError::library(&error))
}

pub(super) fn ratchet() -> SenderRatchetConfiguration {
    SenderRatchetConfiguration::new(OUT_OF_ORDER, FORWARD_MAX)
}

/// The group context: what every member must be able to do, and what the group is.
pub(super) fn context(info: &wire::GroupInfo) -> Result<Extensions<GroupContext>, MlsError> {
    let required = RequiredCapabilitiesExtension::new(
        &[ExtensionType::Unknown(MEMBER), ExtensionType::Unknown(INFO)],
        &[] as &[ProposalType],
        &[CredentialType::Basic],
    );
    let all = vec![Extension::RequiredCapabilities(required), policy::extension(INFO, info)];
    policy::sound(info)?;
    Extensions::from_vec(all).map_err(|_| MlsError::internal("a group's extensions"))
}

/// What MLS says of a message it does not open.
pub(super) fn refused<E: std::fmt::Display>(error: &ProcessMessageError<E>) -> MlsError {
    match error {
        ProcessMessageError::ValidationError(ValidationError::NoPastEpochData) => MlsError::TooOld,
        // Its key is gone: it was opened, or passed over long ago.
        ProcessMessageError::ValidationError(ValidationError::UnableToDecrypt(_)) => MlsError::Copy,
        other => Junk::Mls(other.to_string()).into(),
    }
}
