const ALPHABET = "abcdefghijklmnopqrstuvwxyz234567";

/** Lower case, without padding. */
export function encodeBase32(bytes: Uint8Array): string {
  let text = "";
  let bits = 0;
  let value = 0;
  for (const byte of bytes) {
    value = (value << 8) | byte;
    bits += 8;
    while (bits >= 5) {
      bits -= 5;
      text += ALPHABET[(value >> bits) & 31];
    }
    value &= (1 << bits) - 1;
  }
  return bits > 0 ? text + ALPHABET[(value << (5 - bits)) & 31] : text;
}

/**
 * Exactly `length` bytes, in either case; undefined if `text` is anything else. Ids and tokens have
 * lengths that fill their last character, so no bits are left over.
 */
export function decodeBase32(text: string, length: number): Uint8Array | undefined {
  if (text.length !== (length * 8) / 5) return undefined;
  const bytes = new Uint8Array(length);
  let bits = 0;
  let value = 0;
  let at = 0;
  for (const character of text) {
    // Not toLowerCase(): it maps some characters outside ASCII to ASCII ones.
    const code = character >= "A" && character <= "Z" ? character.toLowerCase() : character;
    const digit = ALPHABET.indexOf(code);
    if (digit < 0) return undefined;
    value = (value << 5) | digit;
    bits += 5;
    if (bits >= 8) {
      bits -= 8;
      bytes[at++] = value >> bits;
      value &= (1 << bits) - 1;
    }
  }
  return bytes;
}
