import { MalformedError } from "./errors.js";
import { LENGTH_PREFIX_BYTES_MAX, PACKET_BYTES_MAX } from "./limits.js";

/** Why a stream of packets cannot be read on. */
export class FramingError extends MalformedError {
  constructor(readonly kind: "too_large" | "bad_prefix") {
    super(`framing: ${kind}`);
  }
}

/** `packet` with its length before it. */
export function frame(packet: Uint8Array): Uint8Array {
  if (packet.length > PACKET_BYTES_MAX) throw new FramingError("too_large");
  const prefix: number[] = [];
  let length = packet.length;
  while (length > 0x7f) {
    prefix.push((length & 0x7f) | 0x80);
    length >>>= 7;
  }
  prefix.push(length);
  const framed = new Uint8Array(prefix.length + packet.length);
  framed.set(prefix);
  framed.set(packet, prefix.length);
  return framed;
}

/** Cuts a stream into packets. */
export class Deframer {
  #rest: Uint8Array = new Uint8Array(0);
  #broken: FramingError | undefined;

  /** Bytes that wait for the rest of their packet. */
  get waiting(): number {
    return this.#rest.length;
  }

  /** What broke the stream, if anything did; the packets before it were returned. */
  get broken(): FramingError | undefined {
    return this.#broken;
  }

  /** Takes the stream's next bytes and returns the packets that are whole now. */
  push(chunk: Uint8Array): Uint8Array[] {
    if (this.#broken) return [];
    const stream = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    const packets: Uint8Array[] = [];
    let at = 0;
    for (;;) {
      const prefix = readPrefix(stream, at);
      if (prefix === "bad_prefix") {
        this.#broken = new FramingError("bad_prefix");
        break;
      }
      if (!prefix) break;
      // Checked before the packet is there, so that nobody can make us wait for it.
      if (prefix.length > PACKET_BYTES_MAX) {
        this.#broken = new FramingError("too_large");
        break;
      }
      const end = at + prefix.bytes + prefix.length;
      if (end > stream.length) break;
      packets.push(stream.subarray(at + prefix.bytes, end));
      at = end;
    }
    // A copy, so that a few bytes do not keep a large chunk alive.
    this.#rest = this.#broken ? new Uint8Array(0) : stream.slice(at);
    return packets;
  }
}

function readPrefix(stream: Uint8Array, at: number): { length: number; bytes: number } | "bad_prefix" | undefined {
  let length = 0;
  for (let i = 0; i < LENGTH_PREFIX_BYTES_MAX; i++) {
    const byte = stream[at + i];
    if (byte === undefined) return undefined;
    // Multiplied, not shifted: five groups of seven bits do not fit 32.
    length += (byte & 0x7f) * 2 ** (7 * i);
    if (byte < 0x80) return { length, bytes: i + 1 };
  }
  return "bad_prefix";
}
