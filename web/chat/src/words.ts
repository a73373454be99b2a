import { hmac, sha256 } from "./bytes.js";
import type { DeviceRecord } from "./gen/valise/chat/v1/chat_pb.js";
import { DeviceRecordSchema } from "./gen/valise/chat/v1/chat_pb.js";
import { encode } from "./message.js";

/** An account as the safety words know it. */
export interface Rooted {
  readonly account: Uint8Array;
  readonly rootKey: Uint8Array;
}

/** Enough work that nobody tries keys until the words fit. */
const ROUNDS = 5_200;

/**
 * Safety words: twelve indices into the English list of BIP-39, the same from both sides. Comparing the indices proves
 * what comparing the words does; a program that shows them brings the list.
 */
export function safetyWords(one: Rooted, other: Rooted): number[] {
  const [first, second] = Buffer.compare(one.account, other.account) <= 0 ? [one, other] : [other, one];
  return [...wordsOf(first), ...wordsOf(second)];
}

/** The six words both sides of a device link show. */
export function linkWords(secret: Uint8Array, device: DeviceRecord): number[] {
  const record = encode(DeviceRecordSchema, device);
  return sixWords("valise link words 2", (hash) => hmac(secret, hash, record));
}

function wordsOf({ account, rootKey }: Rooted): number[] {
  return sixWords("valise safety words 1", (hash) => sha256(hash, account, rootKey));
}

/** 11 bits each of the last hash, the high bit first. */
function sixWords(label: string, next: (hash: Uint8Array) => Uint8Array): number[] {
  let hash: Uint8Array = Buffer.from(label);
  for (let round = 0; round < ROUNDS; round += 1) hash = next(hash);
  const bits = BigInt(`0x${Buffer.from(hash).toString("hex")}`);
  const width = BigInt(hash.length * 8);
  return Array.from({ length: 6 }, (_, i) => Number((bits >> (width - 11n * BigInt(i + 1))) & 2_047n));
}
