import {
  encodeRequiredCapabilities,
  mlsExporter,
  defaultKeyPackageEqualityConfig,
  emptyPskIndex,
  type AuthenticationService,
  type Capabilities,
  type ClientConfig,
  type ClientState,
  type Extension,
  type LeafNode,
  type RatchetTree,
} from "ts-mls";
import { parseAddress } from "valise-client";

import { hex, same } from "./bytes.js";
import { openCredential, type Identity } from "./credential.js";
import { RefusedInput } from "./errors.js";
import type { EpochKeys } from "./frame.js";
import { GroupInfo_Kind, GroupInfoSchema, MemberSchema, type GroupInfo, type Member } from "./gen/valise/chat/v1/chat_pb.js";
import { decode, encode, need } from "./message.js";
import { EXTENSION_BYTES_MAX, PAST_EPOCHS } from "./numbers.js";
import { suite, SUITE_NAME } from "./suite.js";

/** Leaf node extension: an encoded `Member`. */
export const MEMBER_EXTENSION = 0xf0a1;
/** Group context extension: an encoded `GroupInfo` of Valise. */
export const GROUP_EXTENSION = 0xf0a2;

/** MLS's extension of a key package that may be used again; ts-mls knows it by number. */
export const LAST_RESORT = 0x000a;

/** What every leaf says it can do: no more than the profile of section 23. */
export const CAPABILITIES: Capabilities = {
  versions: ["mls10"],
  ciphersuites: [SUITE_NAME],
  extensions: [LAST_RESORT, MEMBER_EXTENSION, GROUP_EXTENSION],
  proposals: [],
  credentials: ["basic"],
};

/** Refuses ghosts: a leaf whose account has not signed its key. */
const accountsSign: AuthenticationService = {
  async validateCredential(credential, signaturePublicKey) {
    if (credential.credentialType !== "basic" || !("identity" in credential)) return false;
    try {
      openCredential(credential.identity, signaturePublicKey);
      return true;
    } catch {
      return false;
    }
  },
};

export const CONFIG: ClientConfig = {
  keyRetentionConfig: { retainKeysForEpochs: PAST_EPOCHS, retainKeysForGenerations: 64, maximumForwardRatchetSteps: 20_000 },
  // Rule 8 has packages be good at all times: clocks differ.
  lifetimeConfig: { maximumTotalLifetime: 2n ** 63n, validateLifetimeOnReceive: false },
  keyPackageEqualityConfig: defaultKeyPackageEqualityConfig,
  // Frames are padded outside.
  paddingConfig: { kind: "alwaysPad", paddingLength: 0 },
  authService: accountsSign,
};

/** No pre-shared keys: their proposals are junk. */
export const NO_PSKS = emptyPskIndex;

/** A leaf that was checked. */
export interface MemberLeaf extends Identity {
  readonly index: number;
  readonly signatureKey: Uint8Array;
  readonly member: Member;
}

/** A group's state, as far as its members agree on it. */
export interface Roster {
  readonly info: GroupInfo;
  readonly members: readonly MemberLeaf[];
}

/** The extensions of a group context. */
export function contextExtensions(info: GroupInfo): Extension[] {
  const required = { extensionTypes: [MEMBER_EXTENSION, GROUP_EXTENSION], proposalTypes: [], credentialTypes: ["basic" as const] };
  return [
    { extensionType: "required_capabilities", extensionData: encodeRequiredCapabilities(required) },
    { extensionType: GROUP_EXTENSION, extensionData: encode(GroupInfoSchema, info) },
  ];
}

/** Rule 3 of section 23 for one leaf: its account has signed it, and it says how it is reached. */
export function openLeaf(leaf: LeafNode): Omit<MemberLeaf, "index"> {
  const { credential } = leaf;
  if (credential.credentialType !== "basic" || !("identity" in credential)) throw new RefusedInput("malformed", "credential");
  const identity = openCredential(credential.identity, leaf.signaturePublicKey);
  const found = leaf.extensions.filter(({ extensionType }) => extensionType === MEMBER_EXTENSION);
  // RFC 9420 has each type at most once in a list; ts-mls does not look.
  if (found.length !== 1 || !eachOnce(leaf.extensions)) throw new RefusedInput("malformed", "leaf without a member");
  const bytes = found[0]!.extensionData;
  if (bytes.length > EXTENSION_BYTES_MAX) throw new RefusedInput("too_large", "member");
  const member = decode(MemberSchema, bytes);
  need(member.hpkeKey, 32, "HPKE key");
  return { ...identity, signatureKey: leaf.signaturePublicKey, member };
}

/** The occupied leaves, each checked. */
export function membersOf(tree: RatchetTree): MemberLeaf[] {
  return tree.flatMap((node, at) => (node?.nodeType === "leaf" ? [{ index: at / 2, ...openLeaf(node.leaf) }] : []));
}

/** What the group context says, if it has nothing but what the profile lets it have: rule 7. */
export function groupInfoOf(extensions: readonly Extension[]): GroupInfo {
  const types = extensions.map(({ extensionType }) => extensionType);
  const allowed = types.every((type) => type === "required_capabilities" || type === GROUP_EXTENSION);
  const found = extensions.filter(({ extensionType }) => extensionType === GROUP_EXTENSION);
  if (!allowed || found.length !== 1 || !eachOnce(extensions)) throw new RefusedInput("malformed", "group context");
  const bytes = found[0]!.extensionData;
  if (bytes.length > EXTENSION_BYTES_MAX) throw new RefusedInput("too_large", "group info");
  const info = decode(GroupInfoSchema, bytes);
  if (![GroupInfo_Kind.OWN_DEVICES, GroupInfo_Kind.DIRECT, GroupInfo_Kind.GROUP].includes(info.kind)) {
    throw new RefusedInput("malformed", "kind of group");
  }
  try {
    parseAddress(info.home);
  } catch (cause) {
    throw new RefusedInput("address", "home of a group", { cause });
  }
  return info;
}

function eachOnce(extensions: readonly Extension[]): boolean {
  return new Set(extensions.map(({ extensionType }) => extensionType)).size === extensions.length;
}

/** Rules 5 and 6: who may be together in a group. */
export function checkTogether({ info, members }: Roster): void {
  const roots = new Map<string, Uint8Array>();
  const devices = new Set<string>();
  for (const { account, device, rootKey } of members) {
    const known = roots.get(hex(account));
    if (known && !same(known, rootKey)) throw new RefusedInput("malformed", "two roots of one account");
    roots.set(hex(account), rootKey);
    // Whatever its account is: messages and addresses go by the device.
    if (devices.has(hex(device))) throw new RefusedInput("malformed", "a device twice");
    devices.add(hex(device));
  }
  const most = info.kind === GroupInfo_Kind.OWN_DEVICES ? 1 : info.kind === GroupInfo_Kind.DIRECT ? 2 : Infinity;
  if (roots.size > most) throw new RefusedInput("malformed", "too many accounts");
}

/** The whole group, checked as whoever joins checks it. Throws {@link RefusedInput}. */
export function rosterOf({ ratchetTree, groupContext }: Pick<ClientState, "ratchetTree" | "groupContext">): Roster {
  const roster = { info: groupInfoOf(groupContext.extensions), members: membersOf(ratchetTree) };
  checkTogether(roster);
  return roster;
}

/** The three keys of the current epoch. */
export async function epochKeys(state: ClientState): Promise<EpochKeys> {
  const cs = await suite();
  const key = (label: string): Promise<Uint8Array> =>
    mlsExporter(state.keySchedule.exporterSecret, label, new Uint8Array(), 32, cs);
  const [hint, envelope, slot] = await Promise.all([key("valise hint"), key("valise envelope"), key("valise slot")]);
  return { hint, envelope, slot };
}
