import { ScalarType, type DescField, type DescMessage } from "@bufbuild/protobuf";

const [VARINT, BITS64, BYTES, GROUP, END, BITS32] = [0, 1, 2, 3, 4, 5];
const DEPTH_MAX = 100;

/**
 * Whether the bytes are a message as proto3 writes it: each field that is known has its own wire type, and nothing is
 * cut off. The decoder does not look, and whoever reads what others refuse would be split from them (section 23).
 */
export function isWellFormed(schema: DescMessage, bytes: Uint8Array): boolean {
  try {
    walk(bytes, 0, schema, 0);
    return true;
  } catch {
    return false;
  }
}

/** Goes through fields up to the end, or up to the end of the group with this number; where that is. */
function walk(bytes: Uint8Array, from: number, schema: DescMessage | undefined, depth: number, group = 0): number {
  if (depth > DEPTH_MAX) throw new RangeError("nested too deeply");
  let at = from;
  while (at < bytes.length) {
    const [tag, afterTag] = varint(bytes, at);
    const [number, type] = [Number(tag >> 3n), Number(tag & 7n)];
    if (tag > 0xffff_ffffn || number === 0) throw new RangeError("tag");
    at = afterTag;
    const field = schema?.fields.find((one) => one.number === number);
    if (field && type !== wireType(field)) throw new RangeError("wire type");
    if (type === END) {
      if (number !== group) throw new RangeError("end of a group");
      return at;
    }
    if (type === VARINT) at = varint(bytes, at)[1];
    else if (type === BITS64) at += 8;
    else if (type === BITS32) at += 4;
    else if (type === GROUP) at = walk(bytes, at, undefined, depth + 1, number);
    else if (type === BYTES) {
      const [length, start] = varint(bytes, at);
      if (length > BigInt(bytes.length - start)) throw new RangeError("length");
      at = start + Number(length);
      if (field?.message) walk(bytes.subarray(start, at), 0, field.message, depth + 1);
    } else throw new RangeError("wire type");
  }
  if (at !== bytes.length || group !== 0) throw new RangeError("cut off");
  return at;
}

/** A number of at most 64 bits, and where it ends. */
function varint(bytes: Uint8Array, from: number): [value: bigint, end: number] {
  let value = 0n;
  for (let i = 0; i < 10; i += 1) {
    const byte = bytes[from + i];
    if (byte === undefined || (i === 9 && byte > 1)) break;
    value |= BigInt(byte & 0x7f) << BigInt(7 * i);
    if (byte < 0x80) return [value, from + i + 1];
  }
  throw new RangeError("varint");
}

/** Of the kinds of fields that the protocol has. */
function wireType(field: DescField): number {
  if (field.message) return BYTES;
  return field.scalar === ScalarType.BYTES || field.scalar === ScalarType.STRING ? BYTES : VARINT;
}
