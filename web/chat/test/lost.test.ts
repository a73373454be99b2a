import assert from "node:assert/strict";
import { test } from "node:test";

import { encodeMlsMessage, type ClientState } from "ts-mls";
import { encode } from "ts-mls/codec/tlsEncoder.js";
import { encryptWithLabel } from "ts-mls/crypto/hpke.js";
import { createContentCommitSignature } from "ts-mls/framedContent.js";
import { groupContextEncoder } from "ts-mls/groupContext.js";
import { protect, unprotectPrivateMessage } from "ts-mls/messageProtection.js";
import type { UpdatePath } from "ts-mls/updatePath.js";

import { random } from "../src/bytes.js";
import { makeCommit } from "../src/commit.js";
import { LostTrack, RefusedInput } from "../src/errors.js";
import { GroupInfo_Kind } from "../src/gen/valise/chat/v1/chat_pb.js";
import { judgeCommit } from "../src/judge.js";
import { decodeMessage } from "../src/key-package.js";
import { suite } from "../src/suite.js";
import { groupOf, infoOf, people, remove } from "./forge.js";

/** A commit with another path or another tag, signed and sealed as its maker can. */
async function forged(maker: ClientState, reader: ClientState, commit: Uint8Array, { path, tag }: { path?: (path: UpdatePath) => UpdatePath; tag?: Uint8Array }): Promise<Uint8Array> {
  const cs = await suite();
  const message = decodeMessage(commit);
  assert.ok(message.wireformat === "mls_private_message");
  const { senderDataSecret } = reader.keySchedule;
  const opened = await unprotectPrivateMessage(senderDataSecret, message.privateMessage, reader.secretTree, reader.ratchetTree, reader.groupContext, reader.clientConfig.keyRetentionConfig, cs);
  const { content, auth } = opened.content;
  assert.ok(content.contentType === "commit" && auth.contentType === "commit" && content.commit.path);
  const { leafIndex } = maker.privatePath;
  const made = await createContentCommitSignature(
    maker.groupContext,
    "mls_private_message",
    { ...content.commit, path: path ? path(content.commit.path) : content.commit.path },
    { senderType: "member", leafIndex },
    new Uint8Array(),
    maker.signaturePrivateKey,
    cs.signature,
  );
  const confirmationTag = tag ?? auth.confirmationTag;
  const whole = { ...made.framedContent, auth: { contentType: "commit" as const, signature: made.signature, confirmationTag } };
  const sealed = await protect(senderDataSecret, new Uint8Array(), maker.groupContext, maker.secretTree, whole, leafIndex, maker.clientConfig.paddingConfig, cs);
  return encodeMlsMessage({ version: "mls10", wireformat: "mls_private_message", privateMessage: sealed.privateMessage });
}

/** Edits the `nth` secret of the lowest node of a path. */
const secret = (nth: number, edit: (bytes: Uint8Array) => Uint8Array) => (path: UpdatePath): UpdatePath => ({
  ...path,
  nodes: path.nodes.map((node, level) => ({
    ...node,
    encryptedPathSecret: node.encryptedPathSecret.map((one, i) => (level === path.nodes.length - 1 && i === nth ? { ...one, ciphertext: edit(one.ciphertext) } : one)),
  })),
});

test("what one member alone may see is lost track, and what all see is junk", async () => {
  const { ann, joined } = await groupOf(infoOf(GroupInfo_Kind.GROUP), [people.bob, people.cid]);
  const [bob, cid] = joined.map(({ state }) => state) as [ClientState, ClientState];
  const { commit } = await makeCommit(ann.state, []);
  const forge = (edit: Parameters<typeof forged>[3]): Promise<Uint8Array> => forged(ann.state, bob, commit, edit);
  const before = joined.map((one) => one.kept());

  // Cid is below the root only: the secret for it is wrong, and Bob's is not.
  const broken = await forge({ path: secret(0, (bytes) => bytes.map((byte, i) => (i === 0 ? byte ^ 1 : byte))) });
  await assert.rejects(judgeCommit(cid, broken), LostTrack);
  // Bob opens the path, and finds the tag to be of another commit, which everyone who comes so far finds.
  await assert.rejects(judgeCommit(bob, broken), (error) => error instanceof RefusedInput && /confirmation tag/.test(error.message));
  const missing = await forge({ path: (path) => ({ ...path, nodes: path.nodes.map((node) => ({ ...node, encryptedPathSecret: [] })) }) });
  for (const state of [bob, cid]) await assert.rejects(judgeCommit(state, missing), LostTrack);

  // A path that is too short, or whose keys are not those that the leaf has signed, everyone sees.
  for (const path of [
    (one: UpdatePath): UpdatePath => ({ ...one, nodes: one.nodes.slice(1) }),
    (one: UpdatePath): UpdatePath => ({ ...one, nodes: one.nodes.map((node) => ({ ...node, hpkePublicKey: node.hpkePublicKey.map((byte) => byte ^ 1) })) }),
  ]) {
    const bad = await forge({ path });
    for (const state of [bob, cid]) await assert.rejects(judgeCommit(state, bad), (error) => error instanceof RefusedInput && /MLS refuses it/.test(error.message));
  }
  const tag = await forge({ tag: new Uint8Array(32) });
  for (const state of [bob, cid]) await assert.rejects(judgeCommit(state, tag), RefusedInput);

  // Nobody tells this device what has become of a commit in its own name.
  await assert.rejects(judgeCommit(ann.state, commit), LostTrack);
  assert.deepEqual(joined.map((one) => one.kept()), before);
});

test("a path secret that opens, and leads to other keys than the commit's", async () => {
  const { ann, joined } = await groupOf(infoOf(GroupInfo_Kind.GROUP), [people.bob, people.cid]);
  const [bob, cid] = joined.map(({ state }) => state) as [ClientState, ClientState];
  const { commit } = await makeCommit(ann.state, [remove(2)]);
  const { after } = await judgeCommit(bob, commit);
  const { treeHash, epoch } = after.groupContext;
  const context = encode(groupContextEncoder)({ ...bob.groupContext, treeHash, epoch });
  const leaf = bob.ratchetTree[2];
  assert.ok(leaf?.nodeType === "leaf");
  const { hpke } = await suite();
  const { ct, enc } = await encryptWithLabel(await hpke.importPublicKey(leaf.leaf.hpkePublicKey), "UpdatePathNode", context, random(32), hpke);
  const other = await forged(ann.state, bob, commit, {
    path: (path) => ({ ...path, nodes: path.nodes.map((node) => ({ ...node, encryptedPathSecret: [{ ciphertext: ct, kemOutput: enc }] })) }),
  });
  await assert.rejects(judgeCommit(bob, other), (error) => error instanceof LostTrack && /leads to other keys/.test(error.message));
  // Who is removed judges neither path secrets nor tag.
  assert.equal((await judgeCommit(cid, other)).removesUs, true);
});
