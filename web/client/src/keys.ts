import { createPrivateKey, createPublicKey, generateKeyPairSync, sign, verify, type KeyObject } from "node:crypto";

// node:crypto reads Ed25519 keys in DER only; these are the fixed bytes before the 32 of the key.
const PKCS8 = Buffer.from("302e020100300506032b657004220420", "hex");
const SPKI = Buffer.from("302a300506032b6570032100", "hex");

/** The key pair that owns a mailbox (or, in tests, a realm). */
export class OwnerKey {
  readonly #secret: KeyObject;
  /** The public key, 32 bytes. */
  readonly publicKey: Uint8Array;

  private constructor(secret: KeyObject) {
    this.#secret = secret;
    this.publicKey = rawPublicKey(createPublicKey(secret));
  }

  /** A new key pair. */
  static generate(): OwnerKey {
    return new OwnerKey(generateKeyPairSync("ed25519").privateKey);
  }

  /** The key pair of a seed of 32 bytes, which is the private key of RFC 8032. */
  static fromSeed(seed: Uint8Array): OwnerKey {
    if (seed.length !== 32) throw new RangeError("a seed has 32 bytes");
    return new OwnerKey(createPrivateKey({ key: Buffer.concat([PKCS8, seed]), format: "der", type: "pkcs8" }));
  }

  /** The seed, to be stored as the secret it is. */
  seed(): Uint8Array {
    return new Uint8Array(this.#secret.export({ format: "der", type: "pkcs8" }).subarray(PKCS8.length));
  }

  /** The signature over a whole statement. */
  sign(statement: Uint8Array): Uint8Array {
    return new Uint8Array(sign(null, statement, this.#secret));
  }
}

/** Whether `signature` over `statement` is by `publicKey`. Never throws. */
export function verifies(publicKey: Uint8Array, statement: Uint8Array, signature: Uint8Array): boolean {
  if (publicKey.length !== 32 || signature.length !== 64) return false;
  try {
    const key = createPublicKey({ key: Buffer.concat([SPKI, publicKey]), format: "der", type: "spki" });
    return verify(null, statement, key, signature);
  } catch {
    return false; // 32 bytes that are no point of the curve
  }
}

function rawPublicKey(key: KeyObject): Uint8Array {
  return new Uint8Array(key.export({ format: "der", type: "spki" }).subarray(SPKI.length));
}
