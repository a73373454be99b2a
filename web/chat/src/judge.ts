import { processPrivateMessage, type ClientState, type Commit, type Extension, type PrivateMessage, type RatchetTree } from "ts-mls";
import { applyProposals } from "ts-mls/clientState.js";
import { unprotectPrivateMessage } from "ts-mls/messageProtection.js";
import { toLeafIndex } from "ts-mls/treemath.js";

import { hex, same } from "./bytes.js";
import { RefusedInput } from "./errors.js";
import { decodeMessage, openPackageLeaf } from "./key-package.js";
import { checkTogether, groupInfoOf, membersOf, NO_PSKS, openLeaf, type MemberLeaf, type Roster } from "./mls.js";
import { suite } from "./suite.js";

/** A commit that every member takes over. */
export interface GoodCommit {
  readonly after: ClientState;
  readonly roster: Roster;
  readonly committer: MemberLeaf;
  /** It removes this device. */
  readonly removesUs: boolean;
  readonly consumed: readonly Uint8Array[];
}

const KINDS: ReadonlySet<unknown> = new Set(["add", "remove", "group_context_extensions"]);

/**
 * Section 23, what is junk: judged from the group's state and the commit alone, so that everyone judges alike.
 * Throws, whatever it is, where the commit is junk. `before` stays good either way.
 */
export async function judgeCommit(before: ClientState, bytes: Uint8Array): Promise<GoodCommit> {
  const message = decodeMessage(bytes);
  if (message.wireformat !== "mls_private_message") throw new RefusedInput("malformed", "no private message");
  const sealed = message.privateMessage;
  const { groupId, epoch } = before.groupContext;
  if (!same(sealed.groupId, groupId) || sealed.epoch !== epoch) throw new RefusedInput("malformed", "another epoch");

  // Rule 1, the first half: who says it. ts-mls does not tell, so the message is opened here first.
  const { commit, sender } = await open(before, sealed);
  const membersBefore = membersOf(before.ratchetTree);
  const committer = membersBefore.find(({ index }) => index === sender);
  if (!committer) throw new RefusedInput("malformed", "nobody's commit");

  // Rules 2, 3 and 4.
  const removed = new Set<number>();
  let extensions: readonly Extension[] = before.groupContext.extensions;
  for (const one of commit.proposals) {
    if (one.proposalOrRefType !== "proposal" || !KINDS.has(one.proposal.proposalType)) throw new RefusedInput("malformed", "proposal");
    const { proposal } = one;
    if (proposal.proposalType === "add") openPackageLeaf(proposal.add.keyPackage);
    if (proposal.proposalType === "remove") removed.add(proposal.remove.removed);
    if (proposal.proposalType === "group_context_extensions") extensions = proposal.groupContextExtensions.extensions;
  }
  if (!commit.path) throw new RefusedInput("malformed", "no update path");
  const renewed = openLeaf(commit.path.leafNode);
  const keeps =
    same(renewed.account, committer.account) &&
    same(renewed.device, committer.device) &&
    same(renewed.rootKey, committer.rootKey) &&
    same(renewed.signatureKey, committer.signatureKey);
  if (!keeps) throw new RefusedInput("malformed", "another committer's leaf");

  // Rule 7.
  const [was, info] = [groupInfoOf(before.groupContext.extensions), groupInfoOf(extensions)];
  if (info.kind !== was.kind || info.home !== was.home) throw new RefusedInput("malformed", "another kind or home");

  // The rest of rule 1, then 5 and 6 of the group there is after it.
  const removesUs = removed.has(before.privatePath.leafIndex);
  const { after, consumed } = removesUs ? await end(before, commit, sender) : await apply(before, sealed);
  checkKeys(after.ratchetTree);
  const roster = { info, members: membersOf(after.ratchetTree) };
  checkTogether(roster);
  return { after, roster, committer, removesUs, consumed };
}

/** RFC 9420, section 7.3: no key is in the tree twice. ts-mls looks at the tree before, and not at what is new. */
export function checkKeys(tree: RatchetTree): void {
  const nodes = tree.filter((node) => node !== undefined);
  const encryption = nodes.map((node) => hex((node.nodeType === "leaf" ? node.leaf : node.parent).hpkePublicKey));
  const signature = nodes.flatMap((node) => (node.nodeType === "leaf" ? [hex(node.leaf.signaturePublicKey)] : []));
  for (const keys of [encryption, signature]) {
    if (new Set(keys).size !== keys.length) throw new RefusedInput("malformed", "a key twice");
  }
}

async function open(before: ClientState, sealed: PrivateMessage): Promise<{ commit: Commit; sender: number }> {
  const { content } = await unprotectPrivateMessage(
    before.keySchedule.senderDataSecret,
    sealed,
    before.secretTree,
    before.ratchetTree,
    before.groupContext,
    before.clientConfig.keyRetentionConfig,
    await suite(),
  );
  if (content.content.contentType !== "commit" || content.content.sender.senderType !== "member") {
    throw new RefusedInput("malformed", "no commit of a member");
  }
  return { commit: content.content.commit, sender: content.content.sender.leafIndex };
}

async function apply(before: ClientState, sealed: PrivateMessage): Promise<{ after: ClientState; consumed: readonly Uint8Array[] }> {
  const result = await processPrivateMessage(before, sealed, NO_PSKS, await suite());
  if (result.kind !== "newState" || result.newState.groupContext.epoch !== before.groupContext.epoch + 1n) {
    throw new RefusedInput("malformed", "no commit");
  }
  return { after: result.newState, consumed: result.consumed };
}

/**
 * Who is removed cannot follow into the next epoch, and sees only that the proposals can be applied. ts-mls would not
 * see the removal where somebody who is added in the same commit takes over the leaf.
 */
async function end(before: ClientState, commit: Commit, sender: number): Promise<{ after: ClientState; consumed: readonly Uint8Array[] }> {
  const { tree } = await applyProposals(before, commit.proposals, toLeafIndex(sender), NO_PSKS, false, await suite());
  return { after: { ...before, ratchetTree: tree, groupActiveState: { kind: "removedFromGroup" } }, consumed: [] };
}
