import { createCipheriv, createDecipheriv } from "node:crypto";

import { PAYLOAD_SIZES } from "valise-client";

import { join, random, u32 } from "./bytes.js";
import { CannotError, RefusedInput } from "./errors.js";

const NONCE = 12;
const TAG = 16;
const LENGTH = 4;

/** How much content fits the largest payload when so many bytes of it are not plaintext. */
export function roomFor(overhead: number): number {
  return PAYLOAD_SIZES[PAYLOAD_SIZES.length - 1]! - overhead - LENGTH;
}

/** What an item or slot value spends on its nonce and tag. */
export const ITEM_OVERHEAD = NONCE + TAG;

/** `length 4 | content | zeros`, such that with `overhead` more bytes it has the smallest payload size it fits. */
export function pad(content: Uint8Array, overhead: number): Uint8Array {
  const size = PAYLOAD_SIZES.find((size) => content.length + LENGTH + overhead <= size);
  if (size === undefined) throw new CannotError(`${content.length} bytes do not fit a payload`);
  const padded = new Uint8Array(size - overhead);
  padded.set(u32(content.length));
  padded.set(content, LENGTH);
  return padded;
}

/** The content of {@link pad}; undefined if `plain` is anything else. */
export function unpad(plain: Uint8Array): Uint8Array | undefined {
  if (plain.length < LENGTH) return undefined;
  const end = LENGTH + Buffer.from(plain.buffer, plain.byteOffset, LENGTH).readUInt32BE();
  if (end > plain.length || plain.subarray(end).some((byte) => byte !== 0)) return undefined;
  return plain.slice(LENGTH, end);
}

/** Whether `payload` has one of the four sizes. */
export function isPayload(payload: Uint8Array): boolean {
  return (PAYLOAD_SIZES as readonly number[]).includes(payload.length);
}

/** AES-256-GCM; the tag comes last. */
export function aeadSeal(key: Uint8Array, nonce: Uint8Array, associated: Uint8Array, plain: Uint8Array): Uint8Array {
  const cipher = createCipheriv("aes-256-gcm", key, nonce);
  cipher.setAAD(associated);
  return join(cipher.update(plain), cipher.final(), cipher.getAuthTag());
}

/** The plaintext of {@link aeadSeal}; undefined if it does not open. */
export function aeadOpen(key: Uint8Array, nonce: Uint8Array, associated: Uint8Array, sealed: Uint8Array): Uint8Array | undefined {
  if (sealed.length < TAG) return undefined;
  const decipher = createDecipheriv("aes-256-gcm", key, nonce);
  decipher.setAAD(associated);
  decipher.setAuthTag(sealed.subarray(sealed.length - TAG));
  try {
    return join(decipher.update(sealed.subarray(0, sealed.length - TAG)), decipher.final());
  } catch {
    return undefined;
  }
}

/** `nonce 12 | AES-256-GCM(length 4 | content | zeros)`: items of bundles, cards, slot values. */
export function sealItem(key: Uint8Array, associated: Uint8Array, content: Uint8Array, nonce = random(NONCE)): Uint8Array {
  return join(nonce, aeadSeal(key, nonce, associated, pad(content, ITEM_OVERHEAD)));
}

/** The content of {@link sealItem}. Throws {@link RefusedInput}. */
export function openItem(key: Uint8Array, associated: Uint8Array, value: Uint8Array): Uint8Array {
  if (!isPayload(value)) throw new RefusedInput("not_padded");
  const plain = aeadOpen(key, value.subarray(0, NONCE), associated, value.subarray(NONCE));
  const content = plain && unpad(plain);
  if (!content) throw new RefusedInput("does_not_open");
  return content;
}
