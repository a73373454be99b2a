import { decodeMlsMessage, encodeMlsMessage, generateKeyPackageWithKey, type KeyPackage, type MLSMessage, type PrivateKeyPackage } from "ts-mls";
import { extensionTypeToNumber } from "ts-mls/extension.js";
import { makeKeyPackageRef, verifyKeyPackage } from "ts-mls/keyPackage.js";
import { verifyLeafNodeSignatureKeyPackage } from "ts-mls/leafNode.js";

import { same } from "./bytes.js";
import { RefusedInput } from "./errors.js";
import { MemberSchema, type Member } from "./gen/valise/chat/v1/chat_pb.js";
import { encode } from "./message.js";
import { CAPABILITIES, GROUP_EXTENSION, LAST_RESORT, MEMBER_EXTENSION, openLeaf, type MemberLeaf } from "./mls.js";
import { KEY_PACKAGE_LIFETIME } from "./numbers.js";
import type { Profile } from "./profile.js";
import { suite, SUITE_NAME } from "./suite.js";

/** A key package of our own, with what opens a Welcome that uses it. */
export interface OwnKeyPackage {
  readonly publicPackage: KeyPackage;
  readonly privatePackage: PrivateKeyPackage;
  /** How a Welcome names it. */
  readonly ref: Uint8Array;
  readonly lastResort: boolean;
  /** As an `MLSMessage`. */
  readonly bytes: Uint8Array;
}

/** A key package of somebody else's device, and whose. */
export interface ForeignKeyPackage extends Omit<MemberLeaf, "index"> {
  readonly keyPackage: KeyPackage;
}

/** Makes a package whose leaf says this of its member. */
export async function newKeyPackage(profile: Profile, member: Member, lastResort = false): Promise<OwnKeyPackage> {
  const cs = await suite();
  const { publicPackage, privatePackage } = await generateKeyPackageWithKey(
    { credentialType: "basic", identity: profile.credential },
    CAPABILITIES,
    KEY_PACKAGE_LIFETIME,
    lastResort ? [{ extensionType: LAST_RESORT, extensionData: new Uint8Array() }] : [],
    { signKey: profile.signature.seed(), publicKey: profile.signature.publicKey },
    cs,
    [{ extensionType: MEMBER_EXTENSION, extensionData: encode(MemberSchema, member) }],
  );
  const bytes = encodeMlsMessage({ version: "mls10", wireformat: "mls_key_package", keyPackage: publicPackage });
  return { publicPackage, privatePackage, ref: await makeKeyPackageRef(publicPackage, cs.hash), lastResort, bytes };
}

/** A package that somebody else has left: whole, good at all times, and no ghost. Throws {@link RefusedInput}. */
export async function openKeyPackage(bytes: Uint8Array): Promise<ForeignKeyPackage> {
  const message = decodeMessage(bytes);
  if (message.wireformat !== "mls_key_package") throw new RefusedInput("malformed", "no key package");
  const { keyPackage } = message;
  const { leafNode } = keyPackage;
  const cs = await suite();
  if (keyPackage.version !== "mls10" || keyPackage.cipherSuite !== SUITE_NAME) throw new RefusedInput("malformed", "suite");
  if (leafNode.leafNodeSource !== "key_package") throw new RefusedInput("malformed", "leaf");
  if (same(keyPackage.initKey, leafNode.hpkePublicKey)) throw new RefusedInput("malformed", "one key for two purposes");
  const { versions, ciphersuites, extensions, credentials } = leafNode.capabilities;
  const capable =
    has(versions, CAPABILITIES.versions) &&
    has(ciphersuites, CAPABILITIES.ciphersuites) &&
    has(extensions, [MEMBER_EXTENSION, GROUP_EXTENSION]) &&
    has(credentials, CAPABILITIES.credentials);
  if (!capable) throw new RefusedInput("malformed", "capabilities");
  const leaf = openPackageLeaf(keyPackage);
  const signed = await verified(() => verifyLeafNodeSignatureKeyPackage(leafNode, cs.signature));
  if (!signed || !(await verified(() => verifyKeyPackage(keyPackage, cs.signature)))) throw new RefusedInput("signature");
  return { ...leaf, keyPackage };
}

/** Rules 3 and 8 of section 23, and RFC 9420, section 10: each extension once, and one that the leaf can do. ts-mls does not look. */
export function openPackageLeaf({ extensions, leafNode }: KeyPackage): Omit<MemberLeaf, "index"> {
  if (leafNode.leafNodeSource !== "key_package") throw new RefusedInput("malformed", "leaf");
  const { capabilities, lifetime } = leafNode;
  const always = lifetime.notBefore === KEY_PACKAGE_LIFETIME.notBefore && lifetime.notAfter === KEY_PACKAGE_LIFETIME.notAfter;
  if (!always) throw new RefusedInput("malformed", "lifetime");
  const types = extensions.map(({ extensionType }) => extensionTypeToNumber(extensionType));
  if (!has(capabilities.extensions, types) || new Set(types).size !== types.length) {
    throw new RefusedInput("malformed", "extension of a key package");
  }
  return openLeaf(leafNode);
}

function has<T>(those: readonly T[], these: readonly T[]): boolean {
  return these.every((one) => those.includes(one));
}

/** One whole `MLSMessage`. Throws {@link RefusedInput}. */
export function decodeMessage(bytes: Uint8Array): MLSMessage {
  let decoded: [MLSMessage, number] | undefined;
  try {
    decoded = decodeMlsMessage(bytes, 0);
  } catch (cause) {
    throw new RefusedInput("malformed", "MLS message", { cause });
  }
  // Lengths have one encoding (RFC 9420, section 2.1.2), and ts-mls reads others, too.
  const whole = decoded && decoded[1] === bytes.length && same(encodeMlsMessage(decoded[0]), bytes);
  if (!decoded || !whole) throw new RefusedInput("malformed", "MLS message");
  return decoded[0];
}

async function verified(verify: () => Promise<boolean>): Promise<boolean> {
  try {
    return await verify();
  } catch {
    return false; // a key that is none
  }
}
