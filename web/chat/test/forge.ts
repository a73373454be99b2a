import assert from "node:assert/strict";

import { create } from "@bufbuild/protobuf";
import { decodeMlsMessage, defaultAuthenticationService, type ClientState, type Extension, type LeafNode, type Proposal, type Welcome } from "ts-mls";
import { signKeyPackage } from "ts-mls/keyPackage.js";
import { signLeafNodeKeyPackage, type LeafNodeKeyPackage } from "ts-mls/leafNode.js";

import { random } from "../src/bytes.js";
import { makeCommit, type MadeCommit } from "../src/commit.js";
import { certify } from "../src/credential.js";
import { AddressSchema, GroupInfoSchema, MemberSchema, type GroupInfo } from "../src/gen/valise/chat/v1/chat_pb.js";
import { Group } from "../src/group.js";
import { newKeyPackage, type OwnKeyPackage } from "../src/key-package.js";
import { contextExtensions, MEMBER_EXTENSION, rosterOf } from "../src/mls.js";
import { newProfile, type Profile } from "../src/profile.js";
import { suite } from "../src/suite.js";

export const address = create(AddressSchema, { relay: "valise://relay.example:7443/mfrggzdfmztwq2lknnwg23tpobyxe43u", capability: random(60) });
export const infoOf = (kind: GroupInfo["kind"], more: Partial<Pick<GroupInfo, "name" | "home">> = {}): GroupInfo =>
  create(GroupInfoSchema, { kind, name: "A group", home: address.relay, slotToken: random(60), ...more });

export function packageOf(profile: Profile, name = profile.name): Promise<OwnKeyPackage> {
  return newKeyPackage(profile, create(MemberSchema, { address, name, hpkeKey: profile.hpke.publicKey }));
}

/** Somebody who claims to be another device, with a certificate that fits the claim. */
export async function claiming(claim: Partial<Pick<Profile, "account" | "device" | "root">>): Promise<Profile> {
  const profile = { ...(await newProfile("Somebody")), ...claim };
  const { root, account, device, signature } = profile;
  return { ...profile, rootKey: root.publicKey, credential: certify(root, account, device, signature.publicKey) };
}

export function welcomeOf(bytes: Uint8Array | undefined): Welcome {
  const [message] = decodeMlsMessage(bytes!, 0)!;
  assert.equal(message.wireformat, "mls_welcome");
  return (message as { welcome: Welcome }).welcome;
}

export const add = ({ publicPackage }: OwnKeyPackage): Proposal => ({ proposalType: "add", add: { keyPackage: publicPackage } });
export const remove = (removed: number): Proposal => ({ proposalType: "remove", remove: { removed } });
export const change = (info: GroupInfo): Proposal => ({
  proposalType: "group_context_extensions",
  groupContextExtensions: { extensions: contextExtensions(info) },
});
/** A member that does not keep to the rules. */
export const careless = (state: ClientState): ClientState => ({
  ...state,
  clientConfig: { ...state.clientConfig, authService: defaultAuthenticationService },
});

/** Three people with an account each. */
export const people = await (async () => {
  const [ann, bob, cid] = await Promise.all([newProfile("Ann"), newProfile("Bob"), newProfile("Cid")]);
  return { ann, bob, cid };
})();

/** The commit is the group's. */
export async function merge(group: Group, made: MadeCommit): Promise<void> {
  const after = made.after(group.state);
  await group.advance(after, rosterOf(after));
}

/** Ann's group with those, as each of them has it. */
export async function groupOf(info: GroupInfo, others: readonly Profile[]): Promise<{ ann: Group; joined: Group[] }> {
  const ann = await Group.begin(info, await packageOf(people.ann), address);
  const packages = await Promise.all(others.map((one) => packageOf(one)));
  const made = await makeCommit(ann.state, packages.map(add));
  await merge(ann, made);
  const welcome = welcomeOf(made.welcome);
  return { ann, joined: await Promise.all(packages.map((own) => Group.join(welcome, own, address))) };
}

/** A package with another leaf or other extensions, signed anew: so only that is wrong with it. */
export async function signedAnew({ publicPackage, privatePackage, ...made }: OwnKeyPackage, leaf: Partial<LeafNode>, extensions?: Extension[]): Promise<OwnKeyPackage> {
  const { signature } = await suite();
  const key = privatePackage.signaturePrivateKey;
  assert.ok(publicPackage.leafNode.leafNodeSource === "key_package");
  const leafNode = await signLeafNodeKeyPackage({ ...publicPackage.leafNode, ...leaf } as LeafNodeKeyPackage, key, signature);
  const signed = await signKeyPackage({ ...publicPackage, leafNode, ...(extensions ? { extensions } : {}) }, key, signature);
  return { ...made, privatePackage, publicPackage: signed };
}

export const withoutMember = (made: OwnKeyPackage): Promise<OwnKeyPackage> => signedAnew(made, { extensions: [] });
export const withKeyOf = (made: OwnKeyPackage, { hpkePublicKey }: LeafNode): Promise<OwnKeyPackage> => signedAnew(made, { hpkePublicKey });
export const withUnknown = (made: OwnKeyPackage): Promise<OwnKeyPackage> => signedAnew(made, {}, [{ extensionType: 0xf0a3, extensionData: new Uint8Array() }]);
/** A package whose leaf says this of its member, as bytes. */
export const withMember = (made: OwnKeyPackage, extensionData: Uint8Array): Promise<OwnKeyPackage> =>
  signedAnew(made, { extensions: [{ extensionType: MEMBER_EXTENSION, extensionData }] });
/** A package that ends at some time. */
export const withLifetime = (made: OwnKeyPackage, notBefore: bigint, notAfter: bigint): Promise<OwnKeyPackage> =>
  signedAnew(made, { lifetime: { notBefore, notAfter } } as Partial<LeafNode>);
