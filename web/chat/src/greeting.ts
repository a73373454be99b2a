import { create } from "@bufbuild/protobuf";

import { hex, join, random } from "./bytes.js";
import { RefusedInput } from "./errors.js";
import { FirstContactSchema, GreetingSchema, type FirstContact, type Greeting } from "./gen/valise/chat/v1/chat_pb.js";
import { decode, encode, need } from "./message.js";
import { PARTS_MAX, WHOLE_BYTES_MAX } from "./numbers.js";
import { Parts } from "./parts.js";
import { isPayload, pad, roomFor, unpad } from "./sealed.js";
import { suite } from "./suite.js";

const INFO = Buffer.from("valise greeting 1");
const ZEROS = 8;
const ENC = 32;
/** Zeros, the encapsulated key, and the tag. */
const OVERHEAD = ZEROS + ENC + 16;
/** What a part spends on its fields, at most: transfer, index, count, and the head of its bytes. */
const PART_FIELDS = 18 + 2 + 3 + 4;

/** The payloads of a greeting, for the device whose HPKE key this is. */
export async function sealGreeting(hpkeKey: Uint8Array, greeting: Greeting): Promise<Uint8Array[]> {
  const { hpke } = await suite();
  const bytes = encode(GreetingSchema, greeting);
  if (bytes.length > WHOLE_BYTES_MAX) throw new RefusedInput("too_large", "greeting");
  const room = roomFor(OVERHEAD) - PART_FIELDS;
  const count = Math.max(1, Math.ceil(bytes.length / room));
  const transfer = random(16);
  // A key of small order makes a shared secret of zeros, which WebCrypto refuses as RFC 7748 asks.
  const key = await hpke.importPublicKey(hpkeKey);
  return Promise.all(
    Array.from({ length: count }, async (_, index) => {
      const part = create(FirstContactSchema, { transfer, index, count, bytes: bytes.slice(index * room, (index + 1) * room) });
      const { enc, ct } = await hpke.seal(key, pad(encode(FirstContactSchema, part), OVERHEAD), INFO);
      return join(new Uint8Array(ZEROS), enc, ct);
    }),
  );
}

/** The part in a payload that {@link isGreeting} says is one. Throws {@link RefusedInput}. */
export async function openFirstContact(seed: Uint8Array, payload: Uint8Array): Promise<FirstContact> {
  if (!isPayload(payload)) throw new RefusedInput("not_padded");
  const { hpke } = await suite();
  const { privateKey } = await hpke.deriveKeyPair(seed);
  let plain: Uint8Array;
  try {
    plain = await hpke.open(privateKey, payload.slice(ZEROS, ZEROS + ENC), payload.slice(ZEROS + ENC), INFO);
  } catch (cause) {
    throw new RefusedInput("does_not_open", "greeting", { cause });
  }
  const content = unpad(plain);
  if (!content) throw new RefusedInput("does_not_open", "greeting");
  const part = decode(FirstContactSchema, content);
  need(part.transfer, 16, "transfer");
  if (part.count < 1 || part.count > PARTS_MAX || part.index >= part.count || part.bytes.length === 0) {
    throw new RefusedInput("malformed", "part of a greeting");
  }
  return part;
}

/** Greetings of which some parts have come. */
export class Transfers {
  readonly #parts = new Parts();

  /** The greeting, once all its parts are there. Throws {@link RefusedInput}. */
  add(part: FirstContact): Greeting | undefined {
    const whole = this.#parts.add(hex(part.transfer), part);
    if (!whole) return undefined;
    const greeting = decode(GreetingSchema, whole);
    if (greeting.invite.length !== 0) need(greeting.invite, 32, "invite");
    return greeting;
  }
}
