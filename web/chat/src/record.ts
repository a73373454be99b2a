import { create } from "@bufbuild/protobuf";
import { verifies, type OwnerKey } from "valise-client";

import { hex, join, same, sha256 } from "./bytes.js";
import { RefusedInput } from "./errors.js";
import { AccountRecordSchema, SignedRecordSchema, type AccountRecord, type SignedRecord } from "./gen/valise/chat/v1/chat_pb.js";
import { decode, encode, need } from "./message.js";
import { DEVICE_NAME_BYTES_MAX, DEVICES_MAX, RECORD_BYTES_MAX } from "./numbers.js";

/** A record whose signature was checked, with the bytes it was made over. */
export interface GenuineRecord {
  readonly signed: SignedRecord;
  readonly record: AccountRecord;
}

/** What somebody who knows a record makes of another one. */
export type Verdict =
  | { readonly kind: "first" | "reset" | "older" | "same" | "fork" }
  | {
      readonly kind: "newer";
      /** Only the root's signature ties it to the known one. */
      readonly skipped: boolean;
      /** The account was changed in two ways at once, and this is the one that counts for everyone. */
      readonly forked: boolean;
      readonly rootChanged: boolean;
      readonly added: Uint8Array[];
      readonly removed: Uint8Array[];
    };

/** What the root key signs. */
export function recordStatement(record: Uint8Array): Uint8Array {
  return join("valise account record 1", record);
}

/** Signs a record. */
export function signRecord(root: OwnerKey, record: Omit<AccountRecord, "$typeName" | "$unknown">): GenuineRecord {
  const made = create(AccountRecordSchema, record);
  const bytes = encode(AccountRecordSchema, made);
  const signed = create(SignedRecordSchema, { record: bytes, signature: root.sign(recordStatement(bytes)) });
  return { signed, record: made };
}

/** Checks that a record is genuine: section 22. Throws {@link RefusedInput}. */
export function openRecord(signed: SignedRecord | undefined): GenuineRecord {
  if (!signed) throw new RefusedInput("malformed", "no record");
  if (signed.record.length > RECORD_BYTES_MAX) throw new RefusedInput("too_large", "record");
  const record = decode(AccountRecordSchema, signed.record);
  need(record.account, 32, "account");
  need(record.rootKey, 32, "root key");
  need(record.noticeKey, 32, "notice key");
  if (record.sequence < 1n) throw new RefusedInput("malformed", "sequence");
  need(record.previous, record.sequence === 1n ? 0 : 32, "previous");
  if (record.devices.length < 1 || record.devices.length > DEVICES_MAX) throw new RefusedInput("malformed", "devices");
  for (const { device, signatureKey, hpkeKey, name } of record.devices) {
    need(device, 16, "device");
    need(signatureKey, 32, "signature key");
    need(hpkeKey, 32, "HPKE key");
    if (Buffer.byteLength(name) > DEVICE_NAME_BYTES_MAX) throw new RefusedInput("malformed", "name of a device");
  }
  const devices = new Set(record.devices.map(({ device }) => hex(device)));
  if (devices.size !== record.devices.length) throw new RefusedInput("malformed", "a device twice");
  if (!verifies(record.rootKey, recordStatement(signed.record), signed.signature)) throw new RefusedInput("signature");
  return { signed, record };
}

/** By what the next record names this one. */
export function recordHash({ signed }: GenuineRecord): Uint8Array {
  return sha256(signed.record);
}

/** Section 22, judging: the first case that fits counts. Both are genuine and of one account. */
export function judge(known: GenuineRecord | undefined, incoming: GenuineRecord): Verdict {
  if (!known) return { kind: "first" };
  const [old, now] = [known.record, incoming.record];
  const rootChanged = !same(old.rootKey, now.rootKey);
  if (rootChanged) {
    const statement = recordStatement(incoming.signed.record);
    const signedByOld = verifies(old.rootKey, statement, incoming.signed.previousSignature);
    if (now.sequence <= old.sequence || !signedByOld) return { kind: "reset" };
  }
  if (now.sequence < old.sequence) return { kind: "older" };
  const [oldHash, newHash] = [recordHash(known), recordHash(incoming)];
  const rival = now.sequence === old.sequence;
  if (rival && same(oldHash, newHash)) return { kind: "same" };
  if (rival && Buffer.compare(oldHash, newHash) < 0) return { kind: "fork" };
  const next = now.sequence === old.sequence + 1n;
  const forked = rival || (next && !same(now.previous, oldHash));
  const without = (some: AccountRecord, other: AccountRecord): Uint8Array[] =>
    some.devices.map(({ device }) => device).filter((device) => !other.devices.some((one) => same(one.device, device)));
  return { kind: "newer", skipped: !rival && !next, forked, rootChanged, added: without(now, old), removed: without(old, now) };
}
