import { createHash, randomBytes } from "node:crypto";

/** The only algorithm of version 1. */
export const ED25519 = 1;

/** The id of the realm of a root key: 20 bytes. */
export function realmId(rootKey: Uint8Array, algorithm = ED25519): Uint8Array {
  return sha256("valise realm 1", Uint8Array.of(algorithm), rootKey).subarray(0, 20);
}

/** The id of the mailbox of an owner key in a realm: 16 bytes. */
export function mailboxId(realm: Uint8Array, ownerKey: Uint8Array, algorithm = ED25519): Uint8Array {
  return sha256("valise mailbox 1", realm, Uint8Array.of(algorithm), ownerKey).subarray(0, 16);
}

/** What binds signatures to a TLS connection: the hash of its leaf certificate, in DER. */
export function channelOf(certificate: Uint8Array): Uint8Array {
  return sha256(certificate);
}

/** A fresh frame, put or publication id. Store it before its first use. */
export function randomId(): Uint8Array {
  return new Uint8Array(randomBytes(16));
}

function sha256(...parts: (string | Uint8Array)[]): Uint8Array {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return new Uint8Array(hash.digest());
}
