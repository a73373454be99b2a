import assert from "node:assert/strict";
import { before, test } from "node:test";

import { create } from "@bufbuild/protobuf";
import { createCommit, decodeMlsMessage, defaultAuthenticationService, encodeMlsMessage, type ClientState, type Extension, type LeafNode, type Proposal, type Welcome } from "ts-mls";
import { signKeyPackage } from "ts-mls/keyPackage.js";
import { signLeafNodeKeyPackage, type LeafNodeKeyPackage } from "ts-mls/leafNode.js";
import { OwnerKey } from "valise-client";

import { random } from "../src/bytes.js";
import { makeCommit, type MadeCommit } from "../src/commit.js";
import { certify } from "../src/credential.js";
import { AddressSchema, GroupInfo_Kind, GroupInfoSchema, MemberSchema, type GroupInfo } from "../src/gen/valise/chat/v1/chat_pb.js";
import { content, Group } from "../src/group.js";
import { judgeCommit } from "../src/judge.js";
import { newKeyPackage, openKeyPackage, type OwnKeyPackage } from "../src/key-package.js";
import { contextExtensions, rosterOf } from "../src/mls.js";
import { newProfile, type Profile } from "../src/profile.js";
import { suite } from "../src/suite.js";

const address = create(AddressSchema, { relay: "valise://relay.example:7443/mfrggzdfmztwq2lknnwg23tpobyxe43u", capability: random(60) });
const infoOf = (kind: GroupInfo["kind"], more: Partial<Pick<GroupInfo, "name" | "home">> = {}): GroupInfo =>
  create(GroupInfoSchema, { kind, name: "A group", home: address.relay, slotToken: random(60), ...more });

function packageOf(profile: Profile, name = profile.name): Promise<OwnKeyPackage> {
  return newKeyPackage(profile, create(MemberSchema, { address, name, hpkeKey: profile.hpke.publicKey }));
}

/** Somebody who claims to be another device, with a certificate that fits the claim. */
async function claiming(claim: Partial<Pick<Profile, "account" | "device" | "root">>): Promise<Profile> {
  const profile = { ...(await newProfile("Somebody")), ...claim };
  const { root, account, device, signature } = profile;
  return { ...profile, rootKey: root.publicKey, credential: certify(root, account, device, signature.publicKey) };
}

function welcomeOf(bytes: Uint8Array | undefined): Welcome {
  const [message] = decodeMlsMessage(bytes!, 0)!;
  assert.equal(message.wireformat, "mls_welcome");
  return (message as { welcome: Welcome }).welcome;
}

const add = ({ publicPackage }: OwnKeyPackage): Proposal => ({ proposalType: "add", add: { keyPackage: publicPackage } });
const remove = (removed: number): Proposal => ({ proposalType: "remove", remove: { removed } });
const change = (info: GroupInfo): Proposal => ({
  proposalType: "group_context_extensions",
  groupContextExtensions: { extensions: contextExtensions(info) },
});
/** A member that does not keep to the rules. */
const careless = (state: ClientState): ClientState => ({
  ...state,
  clientConfig: { ...state.clientConfig, authService: defaultAuthenticationService },
});

let people: { ann: Profile; bob: Profile; cid: Profile };
before(async () => {
  const [ann, bob, cid] = await Promise.all([newProfile("Ann"), newProfile("Bob"), newProfile("Cid")]);
  people = { ann, bob, cid };
});

/** The commit is the group's. */
async function merge(group: Group, made: MadeCommit): Promise<void> {
  const after = made.after(group.state);
  await group.advance(after, rosterOf(after));
}

/** Ann's group with those, as each of them has it. */
async function groupOf(info: GroupInfo, others: readonly Profile[]): Promise<{ ann: Group; joined: Group[] }> {
  const ann = await Group.begin(info, await packageOf(people.ann), address);
  const packages = await Promise.all(others.map((one) => packageOf(one)));
  const made = await makeCommit(ann.state, packages.map(add));
  await merge(ann, made);
  const welcome = welcomeOf(made.welcome);
  return { ann, joined: await Promise.all(packages.map((own) => Group.join(welcome, own, address))) };
}

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

/** A package with another leaf or other extensions, signed anew: so only that is wrong with it. */
async function signedAnew({ publicPackage, privatePackage, ...made }: OwnKeyPackage, leaf: Partial<LeafNode>, extensions?: Extension[]): Promise<OwnKeyPackage> {
  const { signature } = await suite();
  const key = privatePackage.signaturePrivateKey;
  assert.ok(publicPackage.leafNode.leafNodeSource === "key_package");
  const leafNode = await signLeafNodeKeyPackage({ ...publicPackage.leafNode, ...leaf } as LeafNodeKeyPackage, key, signature);
  const signed = await signKeyPackage({ ...publicPackage, leafNode, ...(extensions ? { extensions } : {}) }, key, signature);
  return { ...made, privatePackage, publicPackage: signed };
}

const withoutMember = (made: OwnKeyPackage): Promise<OwnKeyPackage> => signedAnew(made, { extensions: [] });
const withKeyOf = (made: OwnKeyPackage, { hpkePublicKey }: LeafNode): Promise<OwnKeyPackage> => signedAnew(made, { hpkePublicKey });
const withUnknown = (made: OwnKeyPackage): Promise<OwnKeyPackage> => signedAnew(made, {}, [{ extensionType: 0xf0a3, extensionData: new Uint8Array() }]);
