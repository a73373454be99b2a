import type { ClientState, GroupContext, RatchetTree, Welcome } from "ts-mls";
import { validateRatchetTree } from "ts-mls/clientState.js";
import { ratchetTreeFromExtension, verifyGroupInfoConfirmationTag, verifyGroupInfoSignature } from "ts-mls/groupInfo.js";
import { deriveKeySchedule } from "ts-mls/keySchedule.js";
import { verifyParentHashes } from "ts-mls/parentHash.js";
import { pathToRoot } from "ts-mls/pathSecrets.js";
import { mergePrivateKeyPaths, toPrivateKeyPath } from "ts-mls/privateKeyPath.js";
import { findLeafIndex } from "ts-mls/ratchetTree.js";
import { createSecretTree } from "ts-mls/secretTree.js";
import { treeHashRoot } from "ts-mls/treeHash.js";
import { directPath, leafToNodeIndex, leafWidth, toLeafIndex } from "ts-mls/treemath.js";
import { firstCommonAncestor } from "ts-mls/updatePath.js";
import { decryptGroupInfo, decryptGroupSecrets } from "ts-mls/welcome.js";

import { same } from "./bytes.js";
import { RefusedInput } from "./errors.js";
import { checkKeys } from "./judge.js";
import type { OwnKeyPackage } from "./key-package.js";
import { CONFIG } from "./mls.js";
import { suite, SUITE_NAME } from "./suite.js";

/**
 * The state of who joins by a Welcome, and which leaf has signed that: RFC 9420, section 12.4.3.1, in ts-mls's own pieces. Its `joinGroup` refuses
 * trees in which nodes above each other have other unmerged leaves, which every group with a filled gap has.
 */
export async function joinByWelcome(welcome: Welcome, own: OwnKeyPackage): Promise<{ state: ClientState; signer: number }> {
  const cs = await suite();
  const refuse = (what: string): never => {
    throw new RefusedInput("malformed", what);
  };
  const { initPrivateKey, hpkePrivateKey, signaturePrivateKey } = own.privatePackage;
  if (welcome.cipherSuite !== SUITE_NAME) refuse("another cipher suite");
  const initKey = await cs.hpke.importPrivateKey(initPrivateKey);
  const secrets = await decryptGroupSecrets(initKey, own.ref, welcome, cs.hpke);
  if (!secrets || secrets.psks.length > 0) throw new RefusedInput("malformed", "secrets of a Welcome");
  const noPsk = new Uint8Array(cs.kdf.size);
  const info = await decryptGroupInfo(welcome, secrets.joinerSecret, noPsk, cs);
  const tree = info && ratchetTreeFromExtension(info);
  if (!info || !tree) throw new RefusedInput("malformed", "group info of a Welcome");
  const { groupContext, confirmationTag } = info;
  if (groupContext.cipherSuite !== SUITE_NAME || groupContext.version !== "mls10") refuse("another cipher suite");

  const signer = tree[leafToNodeIndex(toLeafIndex(info.signer))];
  if (signer?.nodeType !== "leaf") throw new RefusedInput("malformed", "signer of a Welcome");
  if (!(await verifyGroupInfoSignature(info, signer.leaf.signaturePublicKey, cs.signature))) throw new RefusedInput("signature");
  await checkTree(tree, groupContext);
  if (!(await verifyGroupInfoConfirmationTag(info, secrets.joinerSecret, noPsk, cs))) refuse("confirmation tag");

  const leaf = findLeafIndex(tree, own.publicPackage.leafNode);
  if (leaf === undefined) throw new RefusedInput("malformed", "a Welcome without this device");
  const leafKey = { leafIndex: leaf, privateKeys: { [leafToNodeIndex(leaf)]: hpkePrivateKey } };
  const privatePath = secrets.pathSecret
    ? mergePrivateKeyPaths(
        await toPrivateKeyPath(
          await pathToRoot(tree, firstCommonAncestor(tree, leaf, toLeafIndex(info.signer)), secrets.pathSecret, cs.kdf),
          leaf,
          cs,
        ),
        leafKey,
      )
    : leafKey;
  const [keySchedule, encryptionSecret] = await deriveKeySchedule(secrets.joinerSecret, noPsk, groupContext, cs.kdf);
  const secretTree = await createSecretTree(leafWidth(tree.length), encryptionSecret, cs.kdf);
  for (const over of [encryptionSecret, secrets.joinerSecret]) over.fill(0);
  const state: ClientState = {
    groupContext,
    ratchetTree: tree,
    privatePath,
    signaturePrivateKey,
    confirmationTag,
    unappliedProposals: {},
    keySchedule,
    secretTree,
    historicalReceiverData: new Map(),
    groupActiveState: { kind: "active" },
    clientConfig: CONFIG,
  };
  return { state, signer: info.signer };
}

/** RFC 9420, section 12.4.3.1: the tree is what the group context says, and whole. */
async function checkTree(tree: RatchetTree, context: GroupContext): Promise<void> {
  const cs = await suite();
  if (!same(await treeHashRoot(tree, cs.hash), context.treeHash)) throw new RefusedInput("malformed", "tree hash");
  // The leaves alone are judged by ts-mls; of the nodes above them it judges the parent hashes.
  const leaves: RatchetTree = tree.map((node, at) => (at % 2 === 0 ? node : undefined));
  const error = await validateRatchetTree(leaves, context, CONFIG.lifetimeConfig, CONFIG.authService, await treeHashRoot(leaves, cs.hash), cs);
  if (error) throw error;
  if (!(await verifyParentHashes(tree, cs.hash))) throw new RefusedInput("malformed", "parent hashes");
  checkKeys(tree);
  const width = leafWidth(tree.length);
  for (const [at, node] of tree.entries()) {
    if (!node) continue;
    if ((node.nodeType === "leaf") !== (at % 2 === 0)) throw new RefusedInput("malformed", "tree");
    if (node.nodeType === "leaf") continue;
    for (const unmerged of node.parent.unmergedLeaves) {
      const leaf = leafToNodeIndex(toLeafIndex(unmerged));
      const above: number[] = directPath(leaf, width);
      const below = above.slice(0, above.indexOf(at));
      // A leaf below this node, and every node between the two says the same of it. What is higher has merged it.
      const says = (i: number): boolean => {
        const between = tree[i];
        return between?.nodeType !== "parent" || between.parent.unmergedLeaves.includes(unmerged);
      };
      if (!above.includes(at) || tree[leaf]?.nodeType !== "leaf" || !below.every(says)) {
        throw new RefusedInput("malformed", "unmerged leaves");
      }
    }
  }
}
