import { create } from "@bufbuild/protobuf";
import { OwnerKey } from "valise-client";

import { random } from "./bytes.js";
import { certify, type Identity } from "./credential.js";
import { DeviceRecordSchema } from "./gen/valise/chat/v1/chat_pb.js";
import { signRecord, type GenuineRecord } from "./record.js";
import { hpkeKey, type HpkeKey } from "./suite.js";

/** An account and its only device, with everything that device keeps secret: section 21. */
export interface Profile extends Identity {
  readonly root: OwnerKey;
  /** Signs MLS leaves; never leaves the device. */
  readonly signature: OwnerKey;
  /** Opens greetings; never leaves the device. */
  readonly hpke: HpkeKey;
  /** Of the device's mailbox. */
  readonly owner: OwnerKey;
  /** Seals the bundle's items; everyone with the device's card has it. */
  readonly bundleKey: Uint8Array;
  readonly noticeSeed: Uint8Array;
  readonly record: GenuineRecord;
  /** The MLS credential's identity. */
  readonly credential: Uint8Array;
  readonly name: string;
}

/** A new account with one device. */
export async function newProfile(name: string, deviceName = "node"): Promise<Profile> {
  checkName(name);
  const [account, device, noticeSeed] = [random(32), random(16), random(32)];
  const [root, signature] = [OwnerKey.generate(), OwnerKey.generate()];
  const [hpke, notice] = await Promise.all([hpkeKey(random(32)), hpkeKey(noticeSeed)]);
  const record = signRecord(root, {
    account,
    sequence: 1n,
    previous: new Uint8Array(),
    rootKey: root.publicKey,
    noticeKey: notice.publicKey,
    devices: [
      create(DeviceRecordSchema, {
        device,
        signatureKey: signature.publicKey,
        hpkeKey: hpke.publicKey,
        name: deviceName,
        sinceMs: BigInt(Date.now()),
      }),
    ],
  });
  return {
    account,
    device,
    rootKey: root.publicKey,
    root,
    signature,
    hpke,
    owner: OwnerKey.generate(),
    bundleKey: random(32),
    noticeSeed,
    record,
    credential: certify(root, account, device, signature.publicKey),
    name,
  };
}

/** Section 34: 1 to 64 characters, no control characters. */
export function isName(name: string): boolean {
  const length = [...name].length;
  return length >= 1 && length <= 64 && !/\p{Cc}/u.test(name);
}

/** Throws where it is no name. */
export function checkName(name: string): void {
  if (!isName(name)) throw new RangeError("a name has 1 to 64 characters, none of control");
}
