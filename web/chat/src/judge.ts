import type { ClientState, Commit, Extension, PrivateMessage, RatchetTree } from "ts-mls";
import type { AuthenticatedContentCommit } from "ts-mls/authenticatedContent.js";
import { applyProposals, throwIfDefined, validateLeafNodeUpdateOrCommit } from "ts-mls/clientState.js";
import { encode } from "ts-mls/codec/tlsEncoder.js";
import { verifyFramedContentSignature } from "ts-mls/framedContent.js";
import { CodecError, CryptoVerificationError, UsageError, ValidationError } from "ts-mls/mlsError.js";
import { decodePrivateMessageContent, decryptSenderData, encodePrivateMessageContent, privateContentAADEncoder, toAuthenticatedContent } from "ts-mls/privateMessage.js";
import { ratchetToGeneration } from "ts-mls/secretTree.js";
import { leafToNodeIndex, toLeafIndex } from "ts-mls/treemath.js";
import { applyUpdatePath } from "ts-mls/updatePath.js";

import { hex, same } from "./bytes.js";
import { LostTrack, RefusedInput } from "./errors.js";
import { stateAfter } from "./follow.js";
import { decodeMessage, openPackageLeaf } from "./key-package.js";
import { checkTogether, groupInfoOf, membersOf, NO_PSKS, openLeaf, type MemberLeaf, type Roster } from "./mls.js";
import { suite } from "./suite.js";

/** A commit that every member takes over. */
export interface GoodCommit {
  readonly after: ClientState;
  readonly roster: Roster;
  readonly committer: MemberLeaf;
  /** Somebody comes with it, or comes again. */
  readonly adds: boolean;
  /** It removes this device. */
  readonly removesUs: boolean;
  readonly consumed: readonly Uint8Array[];
}

const KINDS: ReadonlySet<unknown> = new Set(["add", "remove", "group_context_extensions"]);

/**
 * Section 23, what is junk: judged from the group's state and the commit alone, so that everyone judges alike.
 * Throws {@link RefusedInput} where the commit is junk for all, and {@link LostTrack} where this device alone may be
 * unable to follow. `before` stays good either way.
 */
export async function judgeCommit(before: ClientState, bytes: Uint8Array): Promise<GoodCommit> {
  try {
    return await judge(before, bytes);
  } catch (error) {
    if (error instanceof RefusedInput || error instanceof LostTrack) throw error;
    // What is not known to be seen by all may be seen by this device alone.
    throw new LostTrack("the library fails", { cause: error });
  }
}

async function judge(before: ClientState, bytes: Uint8Array): Promise<GoodCommit> {
  const message = decodeMessage(bytes);
  if (message.wireformat !== "mls_private_message") throw new RefusedInput("malformed", "no private message");
  const sealed = message.privateMessage;
  const { groupId, epoch } = before.groupContext;
  if (!same(sealed.groupId, groupId) || sealed.epoch !== epoch) throw new RefusedInput("malformed", "another epoch");
  if (sealed.contentType !== "commit") throw new RefusedInput("malformed", "no commit");

  // Rule 1, the first half: who says it. ts-mls does not tell, so the message is opened here in its pieces.
  const { content, sender, consumed } = await open(before, sealed);
  const { commit } = content.content;
  const committer = membersOf(before.ratchetTree).find(({ index }) => index === sender)!;
  const { extensions, removed, adds } = checkProposals(before, commit);
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

  // The rest of what all see: the proposals and the public half of the path, then 5 and 6 of the group there is then.
  const context = { ...before.groupContext, extensions };
  const applied = await seenByAll(() => treeAfter(before, commit, sender, context));
  const { tree } = applied;
  checkKeys(tree);
  const roster = { info, members: membersOf(tree) };
  checkTogether(roster);

  // Who is removed cannot open the path, and takes its removal for granted: also where somebody else gets its leaf.
  const removesUs = removed.has(before.privatePath.leafIndex);
  const judged = { roster, committer, adds, removesUs };
  if (removesUs) {
    const after: ClientState = { ...before, ratchetTree: tree, groupActiveState: { kind: "removedFromGroup" } };
    return { ...judged, after, consumed: [] };
  }
  const followed = await stateAfter(before, { content, sender, context, ...applied });
  return { ...judged, after: followed.after, consumed: [...consumed, ...followed.consumed] };
}

/** Rules 2 and 3 of what is proposed, and which extensions the context has then. */
function checkProposals(before: ClientState, { proposals }: Commit): { extensions: Extension[]; removed: Set<number>; adds: boolean } {
  const removed = new Set<number>();
  let extensions: Extension[] = before.groupContext.extensions;
  let adds = false;
  for (const one of proposals) {
    if (one.proposalOrRefType !== "proposal" || !KINDS.has(one.proposal.proposalType)) throw new RefusedInput("malformed", "proposal");
    const { proposal } = one;
    if (proposal.proposalType === "add") {
      openPackageLeaf(proposal.add.keyPackage);
      adds = true;
    }
    if (proposal.proposalType === "remove") removed.add(proposal.remove.removed);
    if (proposal.proposalType === "group_context_extensions") extensions = proposal.groupContextExtensions.extensions;
  }
  return { extensions, removed, adds };
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

/** The commit in a message of this epoch, signed by a member. */
async function open(before: ClientState, sealed: PrivateMessage): Promise<{ content: AuthenticatedContentCommit; sender: number; consumed: Uint8Array[] }> {
  const cs = await suite();
  const { groupContext, ratchetTree, secretTree, keySchedule, clientConfig } = before;
  const said = await seenByAll(() => decryptSenderData(sealed, keySchedule.senderDataSecret, cs), true);
  if (!said) throw new RefusedInput("malformed", "sender");
  // MLS does not open what claims to be one's own: nobody else can tell this device what has become of it.
  if (said.leafIndex === before.privatePath.leafIndex) throw new LostTrack("a commit in this device's own name");
  const leaf = ratchetTree[leafToNodeIndex(toLeafIndex(said.leafIndex))];
  if (leaf?.nodeType !== "leaf") throw new RefusedInput("malformed", "nobody's commit");

  const ratchet = await seenByAll(() => ratchetToGeneration(secretTree, said, "commit", clientConfig.keyRetentionConfig, cs));
  const aad = encode(privateContentAADEncoder)(sealed);
  const plain = await seenByAll(() => cs.hpke.decryptAead(ratchet.key, ratchet.nonce, aad, sealed.ciphertext), true);
  const decoded = await seenByAll(async () => decodePrivateMessageContent("commit")(plain, 0)?.[0]);
  if (decoded?.contentType !== "commit") throw new RefusedInput("malformed", "no commit");
  // As of a whole message: lengths have one encoding. Padding may follow.
  const again = encodePrivateMessageContent(clientConfig.paddingConfig)(decoded);
  if (!same(plain.subarray(0, again.length), again)) throw new RefusedInput("malformed", "commit");
  const content = toAuthenticatedContent(decoded, sealed, said.leafIndex) as AuthenticatedContentCommit;
  const { signaturePublicKey } = leaf.leaf;
  const signed = await seenByAll(
    () => verifyFramedContentSignature(signaturePublicKey, "mls_private_message", content.content, content.auth, groupContext, cs.signature),
    true,
  );
  if (!signed) throw new RefusedInput("signature");
  return { content, sender: said.leafIndex, consumed: ratchet.consumed };
}

/** What everybody sees of the tree: the proposals in it, and the new public keys of the committer's path. */
async function treeAfter(
  before: ClientState,
  { proposals, path }: Commit,
  sender: number,
  context: ClientState["groupContext"],
): Promise<{ tree: RatchetTree; added: number[]; pskSecret: Uint8Array }> {
  const cs = await suite();
  const { clientConfig } = before;
  const committer = toLeafIndex(sender);
  const { tree, additionalResult, pskSecret } = await applyProposals(before, proposals, committer, NO_PSKS, false, cs);
  if (additionalResult.kind !== "memberCommit") throw new RefusedInput("malformed", "no commit of a member");
  throwIfDefined(await validateLeafNodeUpdateOrCommit(path!.leafNode, sender, context, clientConfig.authService, cs.signature));
  checkKeys(tree);
  const added = additionalResult.addedLeafNodes.map(([index]) => leafToNodeIndex(toLeafIndex(index)));
  return { tree: await applyUpdatePath(tree, committer, path!, cs.hash), added, pskSecret };
}

/**
 * What comes from the commit, the tree, the group's context and the epoch's keys, all members see alike: so what is
 * wrong with that is junk. With `crypto` that goes for the errors of the primitives, too.
 */
async function seenByAll<T>(look: () => Promise<T>, crypto = false): Promise<T> {
  try {
    return await look();
  } catch (cause) {
    if (cause instanceof RefusedInput) throw cause;
    const known = [ValidationError, CryptoVerificationError, CodecError, UsageError].some((kind) => cause instanceof kind);
    if (known || crypto) throw new RefusedInput("malformed", `MLS refuses it: ${String(cause)}`, { cause });
    throw cause;
  }
}
