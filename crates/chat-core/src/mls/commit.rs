//! Changes of a group: making one, judging those of others, and taking over what was decided.

use openmls::prelude::{
    ContentType, Extensions, LeafNodeIndex, LeafNodeParameters, MlsGroup, OpenMlsProvider as _,
    ProcessedMessageContent, Proposal, ProtocolMessage, Sender, StagedCommit,
};

use super::group::{Group, context, protocol_message, to_bytes};
use super::policy::{self, MEMBER};
use super::{Device, Junk, Leaf, MlsError, Refusal, device, refusal};
use crate::identity::AccountId;
use crate::wire;

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
    pub(super) staged: Box<StagedCommit>,
    pub(super) summary: Summary,
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

impl Group {
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
