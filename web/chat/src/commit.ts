import { encodeMlsMessage, type ClientState, type Proposal } from "ts-mls";
import { addHistoricalReceiverData, applyProposals, nextEpochContext } from "ts-mls/clientState.js";
import { createGroupInfoWithRatchetTree } from "ts-mls/createCommit.js";
import { createConfirmationTag, createContentCommitSignature } from "ts-mls/framedContent.js";
import { makeKeyPackageRef } from "ts-mls/keyPackage.js";
import { initializeEpoch } from "ts-mls/keySchedule.js";
import { protect } from "ts-mls/messageProtection.js";
import { getCommitSecret, pathToPathSecrets } from "ts-mls/pathSecrets.js";
import { mergePrivateKeyPaths, toPrivateKeyPath, updateLeafKey } from "ts-mls/privateKeyPath.js";
import { createSecretTree } from "ts-mls/secretTree.js";
import { treeHashRoot } from "ts-mls/treeHash.js";
import { leafToNodeIndex, leafWidth, toLeafIndex, toNodeIndex } from "ts-mls/treemath.js";
import { createUpdatePath, firstCommonAncestor } from "ts-mls/updatePath.js";
import { encryptGroupInfo, encryptGroupSecrets } from "ts-mls/welcome.js";

import { CannotError } from "./errors.js";
import { NO_PSKS } from "./mls.js";
import { suite } from "./suite.js";

/** A commit that is not the group's yet. */
export interface MadeCommit {
  /** The epoch it ends. */
  readonly epoch: bigint;
  /** The state meanwhile: what is made next, whatever it is, is sealed under a later key. */
  readonly meanwhile: ClientState;
  /** The state once it is the group's, from the one there is then. */
  readonly after: (now: ClientState) => ClientState;
  /** As `MLSMessage`s. */
  readonly commit: Uint8Array;
  readonly welcome: Uint8Array | undefined;
  /** The leaves it adds. */
  readonly added: readonly number[];
  /** Secrets that are over once it is the group's. */
  readonly consumed: readonly Uint8Array[];
}

/**
 * Makes a commit, always with an update path. It is RFC 9420, section 12.4.1, in ts-mls's own pieces: its
 * `createCommit` leaves the path out where a commit only adds, and seals it under the old extensions where one
 * changes them.
 */
export async function makeCommit(before: ClientState, proposals: readonly Proposal[]): Promise<MadeCommit> {
  const cs = await suite();
  const wireformat = "mls_private_message";
  const own = toLeafIndex(before.privatePath.leafIndex);
  const inside = proposals.map((proposal) => ({ proposalOrRefType: "proposal" as const, proposal }));
  const applied = await applyProposals(before, inside, own, NO_PSKS, true, cs);
  if (applied.additionalResult.kind !== "memberCommit") throw new CannotError("no commit of a member");
  const { addedLeafNodes, extensions: changed } = applied.additionalResult;
  const extensions = changed.length > 0 ? changed : before.groupContext.extensions;
  const context = { ...before.groupContext, extensions };

  // Who is added gets the path secret in the Welcome.
  const added = addedLeafNodes.map(([index]) => leafToNodeIndex(index));
  const [tree, path, secrets, leafKey] = await createUpdatePath(applied.tree, own, context, before.signaturePrivateKey, cs, added);
  const privatePath = mergePrivateKeyPaths(
    updateLeafKey(before.privatePath, await cs.hpke.exportPrivateKey(leafKey)),
    await toPrivateKeyPath(pathToPathSecrets(secrets), own, cs),
  );
  // Who is alone afterwards has no path, and nobody has to find the same secret.
  const top = secrets.at(-1);
  const commitSecret = top ? await getCommitSecret(tree, toNodeIndex(top.nodeIndex), top.secret, cs.kdf) : new Uint8Array(cs.kdf.size);

  const sender = { senderType: "member" as const, leafIndex: own };
  const { signature, framedContent } = await createContentCommitSignature(
    before.groupContext,
    wireformat,
    { proposals: inside, path },
    sender,
    new Uint8Array(),
    before.signaturePrivateKey,
    cs.signature,
  );
  const groupContext = await nextEpochContext(
    context,
    wireformat,
    framedContent,
    signature,
    await treeHashRoot(tree, cs.hash),
    before.confirmationTag,
    cs.hash,
  );
  const epoch = await initializeEpoch(before.keySchedule.initSecret, commitSecret, groupContext, applied.pskSecret, cs.kdf);
  const confirmationTag = await createConfirmationTag(epoch.keySchedule.confirmationKey, groupContext.confirmedTranscriptHash, cs.hash);
  const content = { ...framedContent, auth: { contentType: "commit" as const, signature, confirmationTag } };
  const { paddingConfig } = before.clientConfig;
  const sealed = await protect(
    before.keySchedule.senderDataSecret,
    new Uint8Array(),
    before.groupContext,
    before.secretTree,
    content,
    own,
    paddingConfig,
    cs,
  );

  const info = await createGroupInfoWithRatchetTree(groupContext, confirmationTag, before, tree, [], cs);
  const encryptedGroupInfo = await encryptGroupInfo(info, epoch.welcomeSecret, cs);
  const welcomed = await Promise.all(
    addedLeafNodes.map(async ([index, keyPackage]) => {
      const common = firstCommonAncestor(tree, index, own);
      const pathSecret = secrets.find(({ nodeIndex }) => nodeIndex === common)?.secret;
      const initKey = await cs.hpke.importPublicKey(keyPackage.initKey);
      const group = { joinerSecret: epoch.joinerSecret, pathSecret, psks: [] };
      const { enc, ct } = await encryptGroupSecrets(initKey, encryptedGroupInfo, group, cs.hpke);
      return { newMember: await makeKeyPackageRef(keyPackage, cs.hash), encryptedGroupSecrets: { kemOutput: enc, ciphertext: ct } };
    }),
  );
  const welcome = { cipherSuite: groupContext.cipherSuite, secrets: welcomed, encryptedGroupInfo };

  const secretTree = await createSecretTree(leafWidth(tree.length), epoch.encryptionSecret, cs.kdf);
  const after = (now: ClientState): ClientState => ({
    ...now,
    groupContext,
    ratchetTree: tree,
    secretTree,
    keySchedule: epoch.keySchedule,
    privatePath,
    unappliedProposals: {},
    // As far as messages of the epoch that ends have been opened by then.
    historicalReceiverData: addHistoricalReceiverData(now)[0],
    confirmationTag,
    groupActiveState: { kind: "active" },
  });
  return {
    epoch: before.groupContext.epoch,
    meanwhile: { ...before, secretTree: sealed.tree },
    after,
    added: addedLeafNodes.map(([index]) => index),
    commit: encodeMlsMessage({ version: "mls10", wireformat, privateMessage: sealed.privateMessage }),
    welcome: welcomed.length > 0 ? encodeMlsMessage({ version: "mls10", wireformat: "mls_welcome", welcome }) : undefined,
    consumed: [...sealed.consumed, before.keySchedule.initSecret, commitSecret, epoch.encryptionSecret, epoch.joinerSecret],
  };
}
