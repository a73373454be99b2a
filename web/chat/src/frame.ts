import { create } from "@bufbuild/protobuf";

import { hmac, join, random, same } from "./bytes.js";
import { RefusedInput } from "./errors.js";
import { EnvelopeSchema, PartSchema } from "./gen/valise/chat/v1/chat_pb.js";
import { decode, encode } from "./message.js";
import { PARTS_MAX, WHOLE_BYTES_MAX } from "./numbers.js";
import { aeadOpen, aeadSeal, isPayload, pad, roomFor, unpad } from "./sealed.js";

/** What every member of a group has in an epoch: section 23, exporter. */
export interface EpochKeys {
  readonly hint: Uint8Array;
  readonly envelope: Uint8Array;
  readonly slot: Uint8Array;
}

/** One of the three forms of an envelope; messages without a stream are unordered. */
export type Envelope =
  | { readonly form: "messages"; readonly stream?: Uint8Array; readonly firstCounter: bigint; readonly messages: readonly Uint8Array[] }
  | { readonly form: "part"; readonly stream: Uint8Array; readonly firstCounter: bigint; readonly index: number; readonly count: number; readonly bytes: Uint8Array }
  | { readonly form: "poke" };

const HINT = 8;
const NONCE = 12;
/** Hint, nonce and tag. */
const OVERHEAD = HINT + NONCE + 16;
/** What of the largest frame is left for an envelope. */
export const ENVELOPE_BYTES_MAX = roomFor(OVERHEAD);
/** What a part's envelope spends around its bytes, at most: stream, counter, and the part's own fields. */
const PART_FIELDS = 18 + 11 + 4 + 2 + 3 + 4;

/** Whether a payload is a greeting. */
export function isGreeting(payload: Uint8Array): boolean {
  return payload.subarray(0, HINT).every((byte) => byte === 0);
}

/** Whether a payload was sealed under these keys. */
export function fits(keys: EpochKeys, payload: Uint8Array): boolean {
  return same(payload.subarray(0, HINT), hintOf(keys, payload.subarray(HINT, HINT + NONCE)));
}

/** The payload of an envelope. */
export function sealFrame(keys: EpochKeys, envelope: Envelope, drawNonce = () => random(NONCE)): Uint8Array {
  let nonce = drawNonce();
  let hint = hintOf(keys, nonce);
  while (isGreeting(hint)) {
    nonce = drawNonce();
    hint = hintOf(keys, nonce);
  }
  return join(hint, nonce, aeadSeal(keys.envelope, nonce, hint, pad(encodeEnvelope(envelope), OVERHEAD)));
}

/** The envelope of a payload. Throws {@link RefusedInput}. */
export function openFrame(keys: EpochKeys, payload: Uint8Array): Envelope {
  if (!isPayload(payload)) throw new RefusedInput("not_padded");
  if (!fits(keys, payload)) throw new RefusedInput("hint");
  const hint = payload.subarray(0, HINT);
  const nonce = payload.subarray(HINT, HINT + NONCE);
  const plain = aeadOpen(keys.envelope, nonce, hint, payload.subarray(HINT + NONCE));
  const content = plain && unpad(plain);
  if (!content) throw new RefusedInput("does_not_open");
  return decodeEnvelope(content);
}

/** The envelopes of one message that does not fit a frame. */
export function partsOf(stream: Uint8Array, counter: bigint, message: Uint8Array): Envelope[] {
  if (message.length > WHOLE_BYTES_MAX) throw new RefusedInput("too_large");
  const room = ENVELOPE_BYTES_MAX - PART_FIELDS;
  const count = Math.ceil(message.length / room);
  return Array.from({ length: count }, (_, index) => ({
    form: "part" as const,
    stream,
    firstCounter: counter,
    index,
    count,
    bytes: message.slice(index * room, (index + 1) * room),
  }));
}

export function encodeEnvelope(envelope: Envelope): Uint8Array {
  switch (envelope.form) {
    case "poke":
      return encode(EnvelopeSchema, create(EnvelopeSchema, { poke: true }));
    case "messages":
      return encode(
        EnvelopeSchema,
        create(EnvelopeSchema, {
          stream: envelope.stream ?? new Uint8Array(),
          firstCounter: envelope.firstCounter,
          messages: [...envelope.messages],
        }),
      );
    case "part": {
      const { stream, firstCounter, index, count, bytes } = envelope;
      return encode(EnvelopeSchema, create(EnvelopeSchema, { stream, firstCounter, part: { index, count, bytes } }));
    }
  }
}

/** Section 24: exactly one of three forms, everything else is malformed. */
export function decodeEnvelope(bytes: Uint8Array): Envelope {
  const { stream, firstCounter, messages, part, poke } = decode(EnvelopeSchema, bytes);
  const ordered = stream.length === 16 && firstCounter > 0n;
  const unordered = stream.length === 0 && firstCounter === 0n;
  if (poke && unordered && messages.length === 0 && !part) return { form: "poke" };
  if (part && ordered && messages.length === 0 && !poke) {
    const { index, count, bytes } = create(PartSchema, part);
    const good = count >= 2 && count <= PARTS_MAX && index < count && bytes.length > 0;
    if (good) return { form: "part", stream, firstCounter, index, count, bytes };
  }
  if (!part && !poke && messages.length > 0 && messages.every((message) => message.length > 0)) {
    if (ordered) return { form: "messages", stream, firstCounter, messages };
    if (unordered) return { form: "messages", firstCounter, messages };
  }
  throw new RefusedInput("malformed", "no form of an envelope");
}

function hintOf(keys: EpochKeys, nonce: Uint8Array): Uint8Array {
  return hmac(keys.hint, nonce).subarray(0, HINT);
}
