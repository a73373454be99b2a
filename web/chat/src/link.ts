import { decodeBase32, encodeBase32, formatAddress, parseAddress, type Address } from "valise-client";

import { hmac, sha256 } from "./bytes.js";
import { RefusedInput } from "./errors.js";

/** What an invite link, or a link for a new device, leads to. */
export interface Link {
  readonly relay: Address;
  /** 16 random bytes. */
  readonly secret: Uint8Array;
}

/** Reads `valise://HOST:PORT/REALM#SECRET`. Throws {@link RefusedInput}. */
export function parseLink(text: string): Link {
  // ASCII only: a link is copied by machines that turn its letters to capitals, as QR codes do.
  const trimmed = text.trim().replace(/[A-Z]/g, (letter) => letter.toLowerCase());
  const sign = trimmed.indexOf("#");
  let relay: Address;
  try {
    relay = parseAddress(sign < 0 ? trimmed : trimmed.slice(0, sign));
  } catch (cause) {
    throw new RefusedInput("address", "", { cause });
  }
  if (sign < 0) throw new RefusedInput("no_secret");
  const secret = decodeSecret(trimmed.slice(sign + 1));
  if (!secret) throw new RefusedInput("secret");
  return { relay, secret };
}

/** The text of a link. */
export function formatLink({ relay, secret }: Link): string {
  return `${formatAddress({ ...relay, host: relay.host.toLowerCase() })}#${encodeBase32(secret)}`;
}

/** What the secret of an invite makes: the slot of the card, and the key that opens it. */
export function inviteSecrets(secret: Uint8Array): { slot: Uint8Array; key: Uint8Array } {
  return { slot: sha256("valise invite slot 1", secret), key: hmac(secret, "valise invite key 1") };
}

/** The same of a link for a new device. */
export function deviceLinkSecrets(secret: Uint8Array): { slot: Uint8Array; key: Uint8Array } {
  return { slot: sha256("valise link slot 1", secret), key: hmac(secret, "valise link key 1") };
}

/** 16 bytes are 26 characters with two bits left over, which have to be zeros: a secret has one text. */
function decodeSecret(text: string): Uint8Array | undefined {
  if (text.length !== 26) return undefined;
  // 20 bytes are 32 characters, and nothing is left over there.
  const bytes = decodeBase32(`${text}${"a".repeat(6)}`, 20);
  if (!bytes || bytes.subarray(16).some((byte) => byte !== 0)) return undefined;
  return bytes.slice(0, 16);
}
