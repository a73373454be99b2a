import { hmac, sha256 } from "./bytes.js";
import type { DeviceRecord } from "./gen/valise/chat/v1/chat_pb.js";
import { DeviceRecordSchema } from "./gen/valise/chat/v1/chat_pb.js";
import { encode } from "./message.js";

/** An account as the safety words know it. */
export interface Rooted {
  readonly account: Uint8Array;
  readonly rootKey: Uint8Array;
}

/** Enough work that nobody tries keys until twelve words fit. */
const ROUNDS = 5_200;

/**
 * Safety words: twelve indices into the English list of BIP-39, the same from both sides. Comparing the indices proves
 * what comparing the words does; a program that shows them brings the list.
 */
export function safetyWords(one: Rooted, other: Rooted): number[] {
  const [first, second] = Buffer.compare(one.account, other.account) <= 0 ? [one, other] : [other, one];
  return [...wordsOf(first), ...wordsOf(second)];
}

/** The four words both sides of a device link show. */
export function linkWords(secret: Uint8Array, device: DeviceRecord): number[] {
  return indices(hmac(secret, "valise link words 1", encode(DeviceRecordSchema, device)), 4);
}

function wordsOf({ account, rootKey }: Rooted): number[] {
  let hash: Uint8Array = Buffer.from("valise safety words 1");
  for (let round = 0; round < ROUNDS; round += 1) hash = sha256(hash, account, rootKey);
  return indices(hash, 6);
}

/** 11 bits each, the high bit first. */
function indices(hash: Uint8Array, count: number): number[] {
  const bits = BigInt(`0x${Buffer.from(hash).toString("hex")}`);
  const width = BigInt(hash.length * 8);
  return Array.from({ length: count }, (_, i) => Number((bits >> (width - 11n * BigInt(i + 1))) & 2_047n));
}
