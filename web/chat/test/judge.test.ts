import assert from "node:assert/strict";
import { test } from "node:test";

import { create } from "@bufbuild/protobuf";
import { createCommit, encodeMlsMessage, type Proposal } from "ts-mls";
import { OwnerKey } from "valise-client";

import { join, random } from "../src/bytes.js";
import { makeCommit } from "../src/commit.js";
import { certify } from "../src/credential.js";
import { GroupInfo_Kind, MemberSchema } from "../src/gen/valise/chat/v1/chat_pb.js";
import { content, Group } from "../src/group.js";
import { judgeCommit } from "../src/judge.js";
import { decodeMessage, newKeyPackage, openKeyPackage } from "../src/key-package.js";
import { encode } from "../src/message.js";
import { contextExtensions, GROUP_EXTENSION } from "../src/mls.js";
import { newProfile } from "../src/profile.js";
import { suite } from "../src/suite.js";
import {
  add,
  address,
  careless,
  change,
  claiming,
  groupOf,
  infoOf,
  merge,
  packageOf,
  people,
  remove,
  welcomeOf,
  withKeyOf,
  withLifetime,
  withMember,
  withoutMember,
  withUnknown,
} from "./forge.js";

test("every rule of junk, and none of it changes the group", async () => {
  const { ann, bob, cid } = people;
  const group = infoOf(GroupInfo_Kind.GROUP);
  const groups = await groupOf(group, [bob, cid]);
  const [atBob] = groups.joined as [Group, Group];
  const state = careless(groups.ann.state);
  const stranger = await claiming({});
  const commit = async (...proposals: Proposal[]): Promise<Uint8Array> => (await makeCommit(state, proposals)).commit;

  const cs = await suite();
  const withoutPath = await createCommit({ state, cipherSuite: cs }, { extraProposals: [add(await packageOf(stranger))] });
  const inClear = await createCommit({ state, cipherSuite: cs }, { wireAsPublicMessage: true });
  const ghost = { ...stranger, credential: stranger.credential.map((byte, i) => (i === 151 ? byte ^ 1 : byte)) };
  const other = await claiming({ account: ann.account, root: ann.root });
  // Ann's own leaf under another credential of hers: a leaf that becomes another device.
  const tree = state.ratchetTree.slice();
  const own = tree[0];
  assert.ok(own?.nodeType === "leaf");
  const credential = certify(ann.root, ann.account, other.device, ann.signature.publicKey);
  tree[0] = { nodeType: "leaf", leaf: { ...own.leaf, credential: { credentialType: "basic", identity: credential } } };
  const member = (more: object): Uint8Array => encode(MemberSchema, create(MemberSchema, { address, name: "Somebody", hpkeKey: random(32), ...more }));
  const having = async (bytes: Uint8Array): Promise<Uint8Array> => commit(add(await withMember(await packageOf(stranger), bytes)));
  const lasting = async (notBefore: bigint, notAfter: bigint): Promise<Uint8Array> =>
    commit(add(await withLifetime(await packageOf(stranger), notBefore, notAfter)));
  const infoBytes = async (extensionData: Uint8Array): Promise<Uint8Array> =>
    commit({
      proposalType: "group_context_extensions",
      groupContextExtensions: { extensions: [...contextExtensions(group).slice(0, 1), { extensionType: GROUP_EXTENSION, extensionData }] },
    });
  const [info] = contextExtensions(group).slice(1);
  const said = await groups.ann.seal(content({ case: "text", value: "no commit" }), true);

  const junk: [name: string, why: RegExp, commit: Uint8Array][] = [
    ["no MLS message", /MLS message/, random(300)],
    ["an application message", /no commit/, said],
    ["in the clear", /no private message/, encodeMlsMessage(inClear.commit)],
    ["no update path", /no update path/, encodeMlsMessage(withoutPath.commit)],
    ["a proposal of another kind", /proposal/, await commit({ proposalType: 0xf0a3, proposalData: random(4) })],
    ["a ghost", /certificate/, await commit(add(await packageOf(ghost)))],
    ["an extension the leaf cannot do", /extension of a key package/, await commit(add(await packageOf(stranger).then(withUnknown)))],
    ["a key that is in the tree", /a key twice|not unique/, await commit(add(await packageOf(stranger).then((made) => withKeyOf(made, own.leaf))))],
    ["no member extension", /leaf without a member/, await commit(add(await newKeyPackage(stranger, create(MemberSchema)).then(withoutMember)))],
    ["an HPKE key of another length", /HPKE key/, await having(member({ hpkeKey: random(31) }))],
    ["no HPKE key", /HPKE key/, await having(member({ hpkeKey: new Uint8Array() }))],
    ["a member that is too long", /too_large/, await having(member({ name: "x".repeat(1_024) }))],
    ["a member with a field of another wire type", /Member/, await having(join(member({}), new Uint8Array([0x10, 1])))],
    ["a member whose name is no text", /Member/, await having(join(member({}), new Uint8Array([0x12, 1, 0xff])))],
    ["a package that is good from some time on", /lifetime/, await lasting(1n, 2n ** 63n - 1n)],
    ["a package that is good up to some time", /lifetime/, await lasting(0n, 2n ** 63n - 2n)],
    ["a group info that is too long", /too_large/, await infoBytes(join(info!.extensionData, new Uint8Array([0x7a, 0x80, 0x08]), random(1_024)))],
    ["a home that is no address", /address/, await commit(change(infoOf(GroupInfo_Kind.GROUP, { home: "valise://elsewhere:1/" })))],
    ["a home with something before it", /address/, await commit(change(infoOf(GroupInfo_Kind.GROUP, { home: `\ufeff${address.relay}` })))],
    ["a device id that somebody else has", /a device twice/, await commit(add(await packageOf(await claiming({ device: bob.device }))))],
    ["another device in the committer's leaf", /another committer's leaf/, (await makeCommit({ ...state, ratchetTree: tree }, [change(group)])).commit],
    ["a second root of an account", /two roots of one account/, await commit(add(await packageOf(await claiming({ account: bob.account }))))],
    ["a device twice", /a device twice/, await commit(add(await packageOf(await claiming({ account: bob.account, device: bob.device, root: bob.root }))))],
    ["another kind", /another kind or home/, await commit(change(infoOf(GroupInfo_Kind.OWN_DEVICES)))],
    ["another home", /another kind or home/, await commit(change(infoOf(GroupInfo_Kind.GROUP, { home: "valise://elsewhere:1/mfrggzdfmztwq2lknnwg23tpobyxe43u" })))],
    ["no group info", /group context/, await commit({ proposalType: "group_context_extensions", groupContextExtensions: { extensions: contextExtensions(group).slice(0, 1) } })],
    [
      "another extension of the context",
      /group context/,
      await commit({
        proposalType: "group_context_extensions",
        groupContextExtensions: { extensions: [...contextExtensions(group), { extensionType: 0xf0a3, extensionData: new Uint8Array() }] },
      }),
    ],
  ];
  const before = atBob.kept();
  for (const [name, why, bytes] of junk) await assert.rejects(judgeCommit(atBob.state, bytes), why, name);
  assert.deepEqual(atBob.kept(), before);

  // All of that used up the first key of Ann's ratchet, and so does this one: it is good all the same.
  const good = await makeCommit(state, [add(await packageOf(stranger)), change(infoOf(GroupInfo_Kind.GROUP, { name: "Another name" }))]);
  const judged = await judgeCommit(atBob.state, good.commit);
  assert.deepEqual(judged.roster.info.name, "Another name");
  assert.deepEqual(judged.roster.members.map(({ account }) => account), [ann, bob, cid, stranger].map(({ account }) => account));
  assert.deepEqual(judged.committer.account, ann.account);
  assert.equal(judged.removesUs, false);
});

test("a direct group has two accounts, and one's own devices are of one", async () => {
  const { bob, cid } = people;
  const direct = await groupOf(infoOf(GroupInfo_Kind.DIRECT), [bob]);
  const third = await makeCommit(direct.ann.state, [add(await packageOf(cid))]);
  await assert.rejects(judgeCommit(direct.joined[0]!.state, third.commit), /too many accounts/);
  const second = await makeCommit(direct.ann.state, [add(await packageOf(await claiming({ account: bob.account, root: bob.root })))]);
  assert.equal((await judgeCommit(direct.joined[0]!.state, second.commit)).roster.members.length, 3);

  const phone = await claiming({ account: people.ann.account, root: people.ann.root });
  const own = await groupOf(infoOf(GroupInfo_Kind.OWN_DEVICES), [phone]);
  const stranger = await makeCommit(own.ann.state, [add(await packageOf(bob))]);
  await assert.rejects(judgeCommit(own.joined[0]!.state, stranger.commit), /too many accounts/);
});

test("who is removed learns so, also where somebody takes over the leaf in the same commit", async () => {
  const { bob, cid } = people;
  const { ann, joined } = await groupOf(infoOf(GroupInfo_Kind.GROUP), [bob, cid]);
  const stranger = await claiming({});
  const made = await makeCommit(ann.state, [remove(1), add(await packageOf(stranger))]);
  const [atBob, atCid] = await Promise.all(joined.map(({ state }) => judgeCommit(state, made.commit)));
  assert.equal(atBob!.removesUs, true);
  assert.equal(atCid!.removesUs, false);
  const seats = atCid!.roster.members.map(({ index, account }) => [index, account] as const);
  assert.deepEqual(seats.find(([index]) => index === 1)![1], stranger.account);
});

test("nobody joins a group with a ghost in it, and nobody adds one", async () => {
  const { bob } = people;
  const ann = await Group.begin(infoOf(GroupInfo_Kind.GROUP), await packageOf(people.ann), address);
  const stranger = await claiming({});
  const ghost = { ...stranger, credential: certify(OwnerKey.generate(), stranger.account, stranger.device, stranger.signature.publicKey) };
  ghost.credential.set(stranger.rootKey, 54);
  const [own, haunted] = await Promise.all([packageOf(bob), packageOf(ghost)]);
  const made = await makeCommit(careless(ann.state), [add(own), add(haunted)]);
  await assert.rejects(Group.join(welcomeOf(made.welcome), own, address));
  await assert.rejects(openKeyPackage(haunted.bytes), /certificate/);
  await assert.rejects(makeCommit(ann.state, [add(haunted)]));
});

test("a gap that is filled leaves a tree that can be joined", async () => {
  const people = await Promise.all(["Bob", "Cid", "Dan", "Eve", "Fay"].map((name) => newProfile(name)));
  const { ann, joined } = await groupOf(infoOf(GroupInfo_Kind.GROUP), people.slice(0, 4));
  const eve = joined[3]!;
  const gap = await makeCommit(ann.state, [remove(3)]);
  await merge(ann, gap);
  const followed = await judgeCommit(eve.state, gap.commit);
  await eve.advance(followed.after, followed.roster);
  // Eve, beyond the gap, fills it: the node above has Fay unmerged, and the root has not.
  const own = await packageOf(people[4]!);
  const filled = await makeCommit(eve.state, [add(own)]);
  await merge(eve, filled);
  const fay = await Group.join(welcomeOf(filled.welcome), own, address);
  assert.deepEqual(fay.keys, eve.keys);
  const atAnn = await judgeCommit(ann.state, filled.commit);
  await ann.advance(atAnn.after, atAnn.roster);
  assert.deepEqual(ann.keys, fay.keys);
  // And Fay can follow, and be followed.
  const next = await makeCommit(fay.state, [remove(1)]);
  assert.equal((await judgeCommit(ann.state, next.commit)).after.groupContext.epoch, fay.epoch + 1n);
  const other = await makeCommit(ann.state, [remove(1)]);
  assert.equal((await judgeCommit(fay.state, other.commit)).removesUs, false);
});

test("what is said has its place, and nobody says it in another one or twice", async () => {
  const { ann, joined } = await groupOf(infoOf(GroupInfo_Kind.GROUP), [people.bob, people.cid]);
  const [atBob, atCid] = joined as [Group, Group];
  const text = (value: string): ReturnType<typeof content> => content({ case: "text", value });
  const [one, two, three] = [await ann.seal(text("one"), true), await ann.seal(text("two"), true), await ann.seal(text("three"), true)];
  const at = (counter: bigint): { stream: Uint8Array; counter: bigint } => ({ stream: ann.stream, counter });
  await assert.rejects(atBob.open(one, at(2n)), /not of this place/);
  await assert.rejects(atBob.open(one, undefined), /not of this place/);
  const first = await atBob.open(one, at(1n));
  assert.deepEqual([first?.content?.body.value, first?.from.account, first?.missing], ["one", people.ann.account, 0n]);
  assert.equal(await atBob.open(one, at(1n)), undefined, "a copy");
  assert.equal((await atBob.open(three, at(3n)))?.missing, 1n, "one is missing");
  assert.equal(await atBob.open(two, at(2n)), undefined, "and comes too late to be shown");

  // The same bytes as a stream of another device are another stream: nobody counts in Ann's.
  Object.assign(atCid, { stream: ann.stream });
  atCid.counter = 99n;
  const inHers = await atCid.open(one, at(1n)).then(() => atCid.seal(text("in her stream"), true));
  assert.deepEqual((await atBob.open(inHers, at(100n)))?.from.account, people.cid.account);
  const four = await ann.seal(text("four"), true);
  assert.equal((await atBob.open(four, at(4n)))?.missing, 0n);
});

test("a commit without proposals brings fresh keys, and everyone follows", async () => {
  const { ann, joined } = await groupOf(infoOf(GroupInfo_Kind.GROUP), [people.bob, people.cid]);
  const made = await makeCommit(ann.state, []);
  const leafKey = ann.roster.members[0]!;
  await merge(ann, made);
  for (const other of joined) {
    const good = await judgeCommit(other.state, made.commit);
    await other.advance(good.after, good.roster);
    assert.deepEqual(other.keys, ann.keys);
    assert.equal(good.adds, false);
  }
  assert.deepEqual(ann.roster.members[0], leafKey, "the leaf says the same");
});

test("lengths have one encoding", async () => {
  const { ann } = await groupOf(infoOf(GroupInfo_Kind.GROUP), [people.bob]);
  const { commit } = await makeCommit(ann.state, []);
  // The group id's length, 16, in two bytes: ts-mls reads it.
  assert.equal(commit[4], 16);
  const longer = join(commit.subarray(0, 4), new Uint8Array([0x40, 16]), commit.subarray(5));
  assert.throws(() => decodeMessage(longer), /MLS message/);
});

test("no two commits of an epoch are sealed under one key", async () => {
  const { ann, joined } = await groupOf(infoOf(GroupInfo_Kind.GROUP), [people.bob]);
  const first = await makeCommit(ann.state, []);
  ann.state = first.meanwhile;
  const second = await makeCommit(ann.state, [change(infoOf(GroupInfo_Kind.GROUP, { name: "Second" }))]);
  const generations = (tree: typeof ann.state.secretTree): number[] => tree.flatMap((node) => (node && "handshake" in node ? [node.handshake.generation] : []));
  assert.deepEqual(Math.max(...generations(first.meanwhile.secretTree)), 1);
  assert.deepEqual(Math.max(...generations(second.meanwhile.secretTree)), 2);
  // Whoever has judged the first one, and whoever has not, can follow the second.
  await judgeCommit(joined[0]!.state, first.commit);
  assert.equal((await judgeCommit(joined[0]!.state, second.commit)).roster.info.name, "Second");
});
