// ts-mls is written for browsers, too: two names of theirs, as Node has them.
import type { webcrypto } from "node:crypto";

declare global {
  type CryptoKey = webcrypto.CryptoKey;
  type BufferSource = ArrayBufferView | ArrayBuffer;
}
