import { fromBinary, toBinary, type DescMessage, type MessageShape } from "@bufbuild/protobuf";
import { configureTextEncoding, getTextEncoding } from "@bufbuild/protobuf/wire";

import { RefusedInput } from "./errors.js";
import { isWellFormed } from "./wire.js";

// Texts are UTF-8 (section 23), and a byte order mark is a part of them: by default the decoder lets both pass.
const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
configureTextEncoding({ ...getTextEncoding(), decodeUtf8: (bytes) => strict.decode(bytes) });

/** The bytes of a message: fields in the order of their numbers, shortest lengths, nothing for absent ones. */
export function encode<D extends DescMessage>(schema: D, message: MessageShape<D>): Uint8Array {
  return toBinary(schema, message);
}

/** A message that came from others. Throws {@link RefusedInput}. */
export function decode<D extends DescMessage>(schema: D, bytes: Uint8Array): MessageShape<D> {
  if (!isWellFormed(schema, bytes)) throw new RefusedInput("malformed", schema.typeName);
  try {
    return fromBinary(schema, bytes);
  } catch (cause) {
    throw new RefusedInput("malformed", schema.typeName, { cause });
  }
}

/** Refuses a field that has not exactly `length` bytes. */
export function need(bytes: Uint8Array, length: number, what: string): Uint8Array {
  if (bytes.length !== length) throw new RefusedInput("malformed", `${what} has ${bytes.length} bytes, not ${length}`);
  return bytes;
}
