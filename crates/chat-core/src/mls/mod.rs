//! Groups: OpenMLS (RFC 9420) with one cipher suite, private messages only, and a policy that every
//! member applies alike. Nothing here does IO: a group's state goes in and out as entries, which the
//! caller keeps in one transaction with everything else.

mod device;
mod policy;
mod provider;
mod refusal;
#[cfg(test)]
mod tests;

use openmls::group::PastEpochDeletionPolicy;
use openmls::prelude::tls_codec::{DeserializeBytes as _, Serialize as _};
use openmls::prelude::{
    Ciphersuite, ContentType, Extension, Extensions, GroupContext, GroupId, LeafNodeIndex,
    LeafNodeParameters, MlsGroup, MlsGroupCreateConfig, MlsGroupJoinConfig, MlsMessageBodyIn,
    MlsMessageIn, MlsMessageOut, OpenMlsProvider as _, PURE_CIPHERTEXT_WIRE_FORMAT_POLICY,
    ProcessMessageError, ProcessedMessageContent, Proposal, ProtocolMessage,
    RequiredCapabilitiesExtension, Sender, SenderRatchetConfiguration, StagedCommit, StagedWelcome,
    ValidationError, Welcome,
};
use openmls::prelude::{CredentialType, ExtensionType, ProposalType};

use crate::identity::{AccountId, DeviceId, RootPublicKey};
use crate::seal::EpochKeys;
use crate::wire;
use policy::{INFO, MEMBER};
use provider::Provider;

pub use device::{
    Device, KEY_PACKAGE_TIME, NewKeyPackage, key_package, package_reference, read_key_package,
};
pub use policy::Leaf;
pub use refusal::Refusal;
#[cfg(test)]
pub(crate) use tests::break_path_keys;

/// The one suite that all libraries agree on (RFC 9420, section 17.1).
const SUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;

/// Messages of so many epochs before the current one can still be opened.
pub const PAST_EPOCHS: usize = 8;

/// A sender's messages may come so far out of order, and so many of them may be missing.
const OUT_OF_ORDER: u32 = 64;
const FORWARD_MAX: u32 = 20_000;

/// Something that every member refuses, for the same reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Junk {
    /// Not what it should be.
    #[error("{0} is not well formed")]
    Malformed(&'static str),
    /// A device that its account has not signed, or an account with two roots.
    #[error("a device that its account has not signed")]
    Ghost,
    /// Well formed, and not allowed.
    #[error("{0} is not allowed")]
    Forbidden(&'static str),
    /// MLS itself refuses it.
    #[error("MLS refuses it: {0}")]
    Mls(String),
}

/// A group cannot do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MlsError {
    /// It would be refused by everyone.
    #[error(transparent)]
    Junk(#[from] Junk),
    /// The message was opened before, or is our own.
    #[error("the message was opened before")]
    Copy,
    /// Its epoch is over for so long that its keys are gone.
    #[error("the message is too old to be opened")]
    TooOld,
    /// Its epoch has not begun here.
    #[error("the message is of an epoch that has not begun here")]
    Future,
    /// The state is not what it was when it was written.
    #[error("the group's state cannot be read")]
    State,
    /// The library fails.
    #[error("MLS fails: {0}")]
    Library(String),
}

impl MlsError {
    /// Whether a message is lost that the reader should know of.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::TooOld)
    }

    fn library(error: &impl std::fmt::Display) -> Self {
        Self::Library(error.to_string())
    }

    fn internal(what: &str) -> Self {
        Self::Library(what.to_owned())
    }
}

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

/// What a commit is to change.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Change {
    /// Key packages to add.
    pub add: Vec<Vec<u8>>,
    /// Leaves to remove.
    pub remove: Vec<u32>,
    /// The group's new info.
    pub info: Option<wire::GroupInfo>,
    /// What our own leaf says of us from then on.
    pub member: Option<wire::Member>,
}

/// A commit that waits for the slot's decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// For the members.
    pub commit: Vec<u8>,
    /// For those who are added.
    pub welcome: Option<Vec<u8>>,
}

/// A foreign commit that may be applied.
pub struct Judged {
    staged: Box<StagedCommit>,
    summary: Summary,
}

/// What a commit has changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Who came.
    pub added: Vec<Leaf>,
    /// Who went.
    pub removed: Vec<Leaf>,
    /// Whose leaf says something else of it.
    pub changed: Vec<Leaf>,
    /// Whether the group's info is another.
    pub info_changed: bool,
    /// Whether this device went.
    pub removed_me: bool,
    /// Whose commit it was.
    pub committer: AccountId,
    /// The key packages by which devices that were there came again, by their references.
    pub again: Vec<Vec<u8>>,
}

/// A group with its state in memory.
pub struct Group {
    mls: MlsGroup,
    provider: Provider,
    roster: Vec<Leaf>,
    info: wire::GroupInfo,
    /// Who has let us in; known only to the one that has just joined.
    inviter: Option<AccountId>,
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

    fn unread(mls: MlsGroup, provider: Provider) -> Self {
        let (roster, info) = (Vec::new(), wire::GroupInfo::default());
        Self { mls, provider, roster, info, inviter: None }
    }

    fn checked(mls: MlsGroup, provider: Provider) -> Result<Self, MlsError> {
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

    fn leaves(&self) -> Vec<(u32, openmls::prelude::LeafNode)> {
        let tree = self.mls.public_group();
        let nodes = self.mls.members().filter_map(|member| {
            let node = tree.leaf(member.index)?;
            Some((member.index.u32(), node.clone()))
        });
        nodes.collect()
    }

    fn refresh(&mut self) -> Result<(), MlsError> {
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

    /// Makes a commit. The group waits then: for [`Self::merge_own`] or [`Self::abandon_own`].
    ///
    /// # Errors
    /// [`MlsError::Junk`] if others would refuse it.
    pub fn prepare(&mut self, device: &Device, change: Change) -> Result<Prepared, MlsError> {
        let mut added = Vec::new();
        let mut packages = Vec::new();
        for bytes in &change.add {
            let package = device::validated(bytes)?;
            added.push(policy::checked_package(&package)?);
            packages.push(package);
        }
        let info = change.info.as_ref().unwrap_or(&self.info);
        policy::check_info(&self.info, info)?;
        policy::check_roster(info.kind(), &self.roster_after(&change.remove, added))?;
        let mut parameters = LeafNodeParameters::builder();
        if let Some(member) = &change.member {
            let extensions = Extensions::single(policy::extension(MEMBER, member));
            let extensions = extensions.map_err(|_| MlsError::internal("a leaf's extension"))?;
            parameters = parameters.with_extensions(extensions);
        }
        let mut builder = self
            .mls
            .commit_builder()
            .consume_proposal_store(false)
            .force_self_update(true)
            .leaf_node_parameters(parameters.build())
            .propose_adds(packages)
            .propose_removals(change.remove.iter().map(|index| LeafNodeIndex::new(*index)));
        if let Some(info) = &change.info {
            let proposed = builder.propose_group_context_extensions(context(info)?);
            builder = proposed.map_err(|error| MlsError::library(&error))?;
        }
        let provider = &self.provider;
        let bundle = builder
            .load_psks(provider.storage())
            .map_err(|error| MlsError::library(&error))?
            .build(provider.rand(), provider.crypto(), &device.signer(), |_| true)
            .map_err(|error| MlsError::library(&error))?
            .stage_commit(provider)
            .map_err(|error| MlsError::library(&error))?;
        let (commit, welcome, _) = bundle.into_messages();
        Ok(Prepared { commit: to_bytes(commit)?, welcome: welcome.map(to_bytes).transpose()? })
    }

    fn roster_after(&self, removed: &[u32], added: Vec<Leaf>) -> Vec<Leaf> {
        let stays = self.roster.iter().filter(|leaf| !removed.contains(&leaf.index));
        stays.cloned().chain(added).collect()
    }

    /// Our commit is the group's.
    ///
    /// # Errors
    /// [`MlsError`].
    pub fn merge_own(&mut self) -> Result<Summary, MlsError> {
        let before = self.roster.clone();
        let info = self.info.clone();
        let merged = self.mls.merge_pending_commit(&self.provider);
        merged.map_err(|error| MlsError::library(&error))?;
        self.refresh()?;
        let me = before.iter().find(|leaf| leaf.index == self.own_leaf());
        let committer = me.ok_or(MlsError::State)?.account;
        Ok(self.compare(&before, &info, committer))
    }

    /// What is different now. A leaf that another device took over is gone and new.
    fn compare(&self, before: &[Leaf], info: &wire::GroupInfo, committer: AccountId) -> Summary {
        let was = |leaf: &&Leaf| before.iter().any(|old| is_same(old, leaf));
        let is = |leaf: &&Leaf| self.roster.iter().any(|new| is_same(new, leaf));
        let changed =
            |leaf: &&Leaf| before.iter().any(|old| is_same(old, leaf) && old.member != leaf.member);
        Summary {
            added: self.roster.iter().filter(|leaf| !was(leaf)).cloned().collect(),
            removed: before.iter().filter(|leaf| !is(leaf)).cloned().collect(),
            changed: self.roster.iter().filter(changed).cloned().collect(),
            info_changed: self.info != *info,
            removed_me: !self.mls.is_active(),
            committer,
            again: Vec::new(),
        }
    }

    /// Somebody else's commit is the group's: ours is no more.
    ///
    /// # Errors
    /// [`MlsError`].
    pub fn abandon_own(&mut self) -> Result<(), MlsError> {
        let cleared = self.mls.clear_pending_commit(self.provider.storage());
        cleared.map_err(|error| MlsError::library(&error))
    }

    /// Whether a commit of ours waits.
    pub fn has_pending(&self) -> bool {
        self.mls.pending_commit().is_some()
    }

    /// Judges a commit of this epoch by another member: what is junk is junk for everyone. A commit
    /// that is refused leaves no trace, so that whoever judges it twice, or starts anew in between,
    /// has used up no key that the next one needs.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn judge(&mut self, commit: &[u8]) -> Result<Judged, Refusal> {
        let message = protocol_message(commit, ContentType::Commit)?;
        let before = self.provider.entries();
        let judged = self.judge_message(message);
        if judged.is_err() {
            self.provider.reset(before);
            let id = self.mls.group_id().clone();
            let mls = MlsGroup::load(self.provider.storage(), &id).ok().flatten();
            self.mls = mls.ok_or_else(|| Refusal::Lost(MlsError::State.to_string()))?;
        }
        judged
    }

    fn judge_message(&mut self, message: ProtocolMessage) -> Result<Judged, Refusal> {
        let processed = self.mls.process_message(&self.provider, message);
        let processed = processed.map_err(|error| refusal::of_commit(&error))?;
        let Sender::Member(sender) = *processed.sender() else {
            return Err(Junk::Forbidden("a commit from outside").into());
        };
        let staged = match processed.into_content() {
            ProcessedMessageContent::StagedCommitMessage(staged) => staged,
            // MLS does not open what claims to be our own, so nobody here can judge it.
            ProcessedMessageContent::OwnPrivateMessage
            | ProcessedMessageContent::OwnPendingCommit => return Err(Refusal::own()),
            _ => return Err(Junk::Forbidden("anything but a commit in a slot").into()),
        };
        let committer = self.roster.iter().find(|leaf| leaf.index == sender.u32());
        let committer = committer.cloned().ok_or(Junk::Malformed("a sender"))?;
        let summary = self.judge_staged(&staged, &committer)?;
        Ok(Judged { staged, summary })
    }

    fn judge_staged(&self, staged: &StagedCommit, committer: &Leaf) -> Result<Summary, Junk> {
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        let mut again = Vec::new();
        for queued in staged.queued_proposals() {
            match queued.proposal() {
                Proposal::Add(add) => {
                    let leaf = policy::checked_package(add.key_package())?;
                    if self.roster.iter().any(|old| is_same(old, &leaf)) {
                        let reference = add.key_package().hash_ref(self.provider.crypto());
                        let reference = reference.map_err(|_| Junk::Malformed("a key package"))?;
                        again.push(reference.as_slice().to_vec());
                    }
                    added.push(leaf);
                }
                Proposal::Remove(remove) => removed.push(remove.removed().u32()),
                Proposal::GroupContextExtensions(_) => {}
                _ => return Err(Junk::Forbidden("a proposal of another kind")),
            }
        }
        let path = staged.update_path_leaf_node();
        let path = path.ok_or(Junk::Forbidden("a commit without fresh keys"))?;
        let renewed = policy::checked(committer.index, path)?;
        let is_the_same = is_same(&renewed, committer)
            && renewed.root_key == committer.root_key
            && renewed.signature_key == committer.signature_key;
        if !is_the_same {
            return Err(Junk::Forbidden("a leaf that becomes another device"));
        }
        let info = policy::info(staged.group_context().extensions())?;
        policy::check_info(&self.info, &info)?;
        policy::check_roster(info.kind(), &self.roster_after(&removed, added.clone()))?;
        let gone = self.roster.iter().filter(|leaf| removed.contains(&leaf.index)).cloned();
        Ok(Summary {
            added,
            removed: gone.collect(),
            changed: Vec::new(),
            info_changed: info != self.info,
            removed_me: removed.contains(&self.own_leaf()),
            committer: committer.account,
            again,
        })
    }

    /// Takes a commit over that was judged.
    ///
    /// # Errors
    /// [`MlsError`].
    pub fn apply(&mut self, judged: Judged) -> Result<Summary, MlsError> {
        let Judged { staged, summary } = judged;
        let before = self.roster.clone();
        let info = self.info.clone();
        let merged = self.mls.merge_staged_commit(&self.provider, *staged);
        merged.map_err(|error| MlsError::library(&error))?;
        if summary.removed_me {
            // The tree is not ours to read any more.
            return Ok(summary);
        }
        self.refresh()?;
        let again = summary.again;
        Ok(Summary { again, ..self.compare(&before, &info, summary.committer) })
    }
}

/// Whether two leaves are of one device.
fn is_same(a: &Leaf, b: &Leaf) -> bool {
    a.account == b.account && a.device == b.device
}

/// The key packages a Welcome is for, by their references.
///
/// # Errors
/// [`Junk`].
pub fn welcome_references(welcome: &[u8]) -> Result<Vec<Vec<u8>>, Junk> {
    let welcome = read_welcome(welcome)?;
    Ok(welcome.secrets().iter().map(|secret| secret.new_member().as_slice().to_vec()).collect())
}

fn read_welcome(bytes: &[u8]) -> Result<Welcome, Junk> {
    let message = MlsMessageIn::tls_deserialize_exact_bytes(bytes);
    match message.map_err(|_| Junk::Malformed("a welcome"))?.extract() {
        MlsMessageBodyIn::Welcome(welcome) if welcome.ciphersuite() == SUITE => Ok(welcome),
        _ => Err(Junk::Malformed("a welcome")),
    }
}

fn protocol_message(bytes: &[u8], kind: ContentType) -> Result<ProtocolMessage, Junk> {
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

fn to_bytes(message: MlsMessageOut) -> Result<Vec<u8>, MlsError> {
    message.tls_serialize_detached().map_err(|error| MlsError::library(&error))
}

fn ratchet() -> SenderRatchetConfiguration {
    SenderRatchetConfiguration::new(OUT_OF_ORDER, FORWARD_MAX)
}

/// The group context: what every member must be able to do, and what the group is.
fn context(info: &wire::GroupInfo) -> Result<Extensions<GroupContext>, MlsError> {
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
fn refused<E: std::fmt::Display>(error: &ProcessMessageError<E>) -> MlsError {
    match error {
        ProcessMessageError::ValidationError(ValidationError::NoPastEpochData) => MlsError::TooOld,
        // Its key is gone: it was opened, or passed over long ago.
        ProcessMessageError::ValidationError(ValidationError::UnableToDecrypt(_)) => MlsError::Copy,
        other => Junk::Mls(other.to_string()).into(),
    }
}
