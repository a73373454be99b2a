import { create } from "@bufbuild/protobuf";

import { hmac, join, random, u32 } from "./bytes.js";
import { RefusedInput } from "./errors.js";
import type { EpochKeys } from "./frame.js";
import { SlotValueSchema } from "./gen/valise/chat/v1/chat_pb.js";
import { decode, encode } from "./message.js";
import { PARTS_MAX } from "./numbers.js";
import { ITEM_OVERHEAD, openItem, roomFor, sealItem } from "./sealed.js";

/** A value and the slot it belongs into. */
export interface SlotWrite {
  readonly slot: Uint8Array;
  readonly value: Uint8Array;
}

/** What part 0 says. */
export interface FirstValue {
  readonly bytes: Uint8Array;
  readonly count: number;
  readonly seed: Uint8Array;
}

/** What a value spends on its fields, at most. */
const FIELDS = 4 + 3 + 18;

/** Where an epoch's decision is, in this attempt. */
export function slotOfDecision({ slot }: EpochKeys, attempt: number): Uint8Array {
  return hmac(slot, "valise slot 1", u32(attempt), u32(0));
}

/** Where a later part is; nobody can write it beforehand, for the seed is drawn with the commit. */
export function slotOfPart({ slot }: EpochKeys, attempt: number, part: number, seed: Uint8Array): Uint8Array {
  return hmac(slot, "valise slot part 1", u32(attempt), u32(part), seed);
}

/** A commit as slot values, in the order in which they are put: the highest part first, the decision last. */
export function slotWrites(
  keys: EpochKeys,
  attempt: number,
  commit: Uint8Array,
  seed = random(16),
  nonce: (nth: number) => Uint8Array = () => random(12),
): SlotWrite[] {
  const room = roomFor(ITEM_OVERHEAD) - FIELDS;
  const count = Math.max(1, Math.ceil(commit.length / room));
  if (count > PARTS_MAX) throw new RefusedInput("too_large", "commit");
  return Array.from({ length: count }, (_, nth) => {
    const part = count - 1 - nth;
    const slot = part === 0 ? slotOfDecision(keys, attempt) : slotOfPart(keys, attempt, part, seed);
    const bytes = commit.slice(part * room, (part + 1) * room);
    const value = create(SlotValueSchema, { bytes, count, ...(part === 0 ? { seed } : {}) });
    return { slot, value: sealItem(keys.envelope, slot, encode(SlotValueSchema, value), nonce(nth)) };
  });
}

/** What is put where a later part is missing: it fits no commit. */
export function voidOf({ envelope }: EpochKeys, slot: Uint8Array, nonce = random(12)): Uint8Array {
  return sealItem(envelope, slot, new Uint8Array(), nonce);
}

/** What the decision's slot holds. Throws {@link RefusedInput}: then it is junk. */
export function openDecision(keys: EpochKeys, attempt: number, value: Uint8Array): FirstValue {
  const { bytes, count, seed } = open(keys, slotOfDecision(keys, attempt), value);
  if (seed.length !== 16) throw new RefusedInput("malformed", "seed");
  return { bytes, count, seed };
}

/** The bytes of a later part. Throws {@link RefusedInput}: then the commit is junk. */
export function openPart(keys: EpochKeys, attempt: number, part: number, first: FirstValue, value: Uint8Array): Uint8Array {
  const { bytes, count, seed } = open(keys, slotOfPart(keys, attempt, part, first.seed), value);
  if (count !== first.count || seed.length !== 0) throw new RefusedInput("malformed", "part of another commit");
  return bytes;
}

/** The commit of a decision and its later parts, in their order. */
export function joinParts(first: FirstValue, later: readonly Uint8Array[]): Uint8Array {
  return join(first.bytes, ...later);
}

function open(keys: EpochKeys, slot: Uint8Array, value: Uint8Array): FirstValue {
  const { bytes, count, seed } = decode(SlotValueSchema, openItem(keys.envelope, slot, value));
  if (bytes.length === 0 || count < 1 || count > PARTS_MAX) throw new RefusedInput("malformed", "slot value");
  return { bytes, count, seed };
}
