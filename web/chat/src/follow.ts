import type { ClientState, RatchetTree } from "ts-mls";
import type { AuthenticatedContentCommit } from "ts-mls/authenticatedContent.js";
import { addHistoricalReceiverData, nextEpochContext } from "ts-mls/clientState.js";
import { applyUpdatePathSecret } from "ts-mls/createCommit.js";
import { deriveSecret } from "ts-mls/crypto/kdf.js";
import { verifyConfirmationTag } from "ts-mls/framedContent.js";
import { initializeEpoch } from "ts-mls/keySchedule.js";
import { pathToRoot } from "ts-mls/pathSecrets.js";
import { mergePrivateKeyPaths, type PrivateKeyPath } from "ts-mls/privateKeyPath.js";
import { createSecretTree } from "ts-mls/secretTree.js";
import { treeHashRoot } from "ts-mls/treeHash.js";
import { leafWidth, root, toLeafIndex, toNodeIndex } from "ts-mls/treemath.js";

import { same } from "./bytes.js";
import { LostTrack, RefusedInput } from "./errors.js";
import { suite } from "./suite.js";

/** A commit of somebody else, of which everything that all members see is good. */
export interface SeenCommit {
  readonly content: AuthenticatedContentCommit;
  readonly sender: number;
  /** The group's context with the commit's extensions, still of the epoch before. */
  readonly context: ClientState["groupContext"];
  /** The tree after it. */
  readonly tree: RatchetTree;
  /** The nodes of those it adds. */
  readonly added: readonly number[];
  readonly pskSecret: Uint8Array;
}

/**
 * The state after a commit: RFC 9420, section 12.4.2, in ts-mls's own pieces. Its `processPrivateMessage` does not say
 * what was wrong, and does not see that a path secret leads to other public keys than the commit's (section 7.5).
 * Throws {@link LostTrack} for what this device alone may see, and {@link RefusedInput} for a wrong confirmation tag.
 */
export async function stateAfter(before: ClientState, commit: SeenCommit): Promise<{ after: ClientState; consumed: Uint8Array[] }> {
  const cs = await suite();
  const { content, context, tree, pskSecret } = commit;
  const { privatePath, commitSecret } = await openPath(before, commit);
  const groupContext = await nextEpochContext(
    context,
    "mls_private_message",
    content.content,
    content.auth.signature,
    await treeHashRoot(tree, cs.hash),
    before.confirmationTag,
    cs.hash,
  );
  const epoch = await initializeEpoch(before.keySchedule.initSecret, commitSecret, groupContext, pskSecret, cs.kdf);
  if (content.auth.contentType !== "commit") throw new RefusedInput("malformed", "no commit");
  const { confirmationTag } = content.auth;
  // It is compared last. Whoever comes so far has opened the path, so all who do have the same secrets.
  const confirmed = await verifyConfirmationTag(epoch.keySchedule.confirmationKey, confirmationTag, groupContext.confirmedTranscriptHash, cs.hash);
  if (!confirmed) throw new RefusedInput("malformed", "confirmation tag");
  const [historicalReceiverData, over] = addHistoricalReceiverData(before);
  const after: ClientState = {
    ...before,
    groupContext,
    ratchetTree: tree,
    secretTree: await createSecretTree(leafWidth(tree.length), epoch.encryptionSecret, cs.kdf),
    keySchedule: epoch.keySchedule,
    privatePath,
    confirmationTag,
    unappliedProposals: {},
    historicalReceiverData,
    groupActiveState: { kind: "active" },
  };
  for (const secret of [commitSecret, epoch.joinerSecret, epoch.encryptionSecret]) secret.fill(0);
  return { after, consumed: [...over, before.keySchedule.initSecret] };
}

/** The private keys above this device, checked against the commit's public ones up to the root. */
async function openPath(before: ClientState, { content, sender, context, tree, added }: SeenCommit): Promise<{ privatePath: PrivateKeyPath; commitSecret: Uint8Array }> {
  const cs = await suite();
  try {
    const next = { ...context, treeHash: await treeHashRoot(tree, cs.hash), epoch: context.epoch + 1n };
    const nodes = added.map((node) => toNodeIndex(node));
    const path = content.content.commit.path!;
    const found = await applyUpdatePathSecret(tree, before.privatePath, toLeafIndex(sender), next, path, nodes, cs);
    const secrets = await pathToRoot(tree, toNodeIndex(found.nodeIndex), found.pathSecret, cs.kdf);
    const privateKeys: Record<number, Uint8Array> = {};
    for (const [at, secret] of Object.entries(secrets)) {
      const { privateKey, publicKey } = await cs.hpke.deriveKeyPair(await deriveSecret(secret, "node", cs.kdf));
      const node = tree[Number(at)];
      if (node?.nodeType !== "parent" || !same(await cs.hpke.exportPublicKey(publicKey), node.parent.hpkePublicKey)) {
        throw new LostTrack("a path secret leads to other keys");
      }
      privateKeys[Number(at)] = await cs.hpke.exportPrivateKey(privateKey);
    }
    const top = secrets[root(leafWidth(tree.length))];
    if (!top) throw new LostTrack("a path that does not end at the root");
    const privatePath = mergePrivateKeyPaths(before.privatePath, { leafIndex: before.privatePath.leafIndex, privateKeys });
    return { privatePath, commitSecret: await deriveSecret(top, "path", cs.kdf) };
  } catch (error) {
    throw error instanceof LostTrack ? error : new LostTrack("a path secret does not open", { cause: error });
  }
}
