import { decodeMlsMessage, encodeMlsMessage, generateKeyPackageWithKey, type KeyPackage, type MLSMessage, type PrivateKeyPackage } from "ts-mls";
import { extensionTypeToNumber } from "ts-mls/extension.js";
import { makeKeyPackageRef, verifyKeyPackage } from "ts-mls/keyPackage.js";
import { verifyLeafNodeSignatureKeyPackage } from "ts-mls/leafNode.js";

import { same } from "./bytes.js";
import { RefusedInput } from "./errors.js";
import { MemberSchema, type Member } from "./gen/valise/chat/v1/chat_pb.js";
import { encode } from "./message.js";
import { CAPABILITIES, LAST_RESORT, MEMBER_EXTENSION, openLeaf, type MemberLeaf } from "./mls.js";
import { KEY_PACKAGE_DAYS } from "./numbers.js";
import type { Profile } from "./profile.js";
import { suite, SUITE_NAME } from "./suite.js";

const DAY = 86_400n;
/** Clocks differ by so much, in seconds. */
const CLOCK_SLACK = 3_600n;

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
  const now = BigInt(Math.floor(Date.now() / 1_000));
  const { publicPackage, privatePackage } = await generateKeyPackageWithKey(
    { credentialType: "basic", identity: profile.credential },
    // A package has only extensions that its leaf can do: RFC 9420, section 10.
    lastResort ? { ...CAPABILITIES, extensions: [...CAPABILITIES.extensions, LAST_RESORT] } : CAPABILITIES,
    { notBefore: now - CLOCK_SLACK, notAfter: now + BigInt(KEY_PACKAGE_DAYS) * DAY },
    lastResort ? [{ extensionType: LAST_RESORT, extensionData: new Uint8Array() }] : [],
    { signKey: profile.signature.seed(), publicKey: profile.signature.publicKey },
    cs,
    [{ extensionType: MEMBER_EXTENSION, extensionData: encode(MemberSchema, member) }],
  );
  const bytes = encodeMlsMessage({ version: "mls10", wireformat: "mls_key_package", keyPackage: publicPackage });
  return { publicPackage, privatePackage, ref: await makeKeyPackageRef(publicPackage, cs.hash), lastResort, bytes };
}

/** A package that somebody else has left: whole, in its time, and no ghost. Throws {@link RefusedInput}. */
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
    has(extensions, CAPABILITIES.extensions) &&
    has(credentials, CAPABILITIES.credentials);
  if (!capable) throw new RefusedInput("malformed", "capabilities");
  checkPackageExtensions(keyPackage);
  const leaf = openLeaf(leafNode);
  const signed = await verified(() => verifyLeafNodeSignatureKeyPackage(leafNode, cs.signature));
  if (!signed || !(await verified(() => verifyKeyPackage(keyPackage, cs.signature)))) throw new RefusedInput("signature");
  const now = BigInt(Math.floor(Date.now() / 1_000));
  if (now < leafNode.lifetime.notBefore || now > leafNode.lifetime.notAfter) throw new RefusedInput("malformed", "lifetime");
  return { ...leaf, keyPackage };
}

/** RFC 9420, section 10: each extension once, and one that the leaf can do. ts-mls does not look. */
export function checkPackageExtensions({ extensions, leafNode: { capabilities } }: KeyPackage): void {
  const types = extensions.map(({ extensionType }) => extensionTypeToNumber(extensionType));
  if (!has(capabilities.extensions, types) || new Set(types).size !== types.length) {
    throw new RefusedInput("malformed", "extension of a key package");
  }
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
  if (!decoded || decoded[1] !== bytes.length) throw new RefusedInput("malformed", "MLS message");
  return decoded[0];
}

async function verified(verify: () => Promise<boolean>): Promise<boolean> {
  try {
    return await verify();
  } catch {
    return false; // a key that is none
  }
}
