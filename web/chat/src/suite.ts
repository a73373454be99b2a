import { getCiphersuiteFromName, getCiphersuiteImpl, type CiphersuiteImpl } from "ts-mls";

export const SUITE_NAME = "MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519";

let loaded: Promise<CiphersuiteImpl> | undefined;

/** Cipher suite 1, and no other. Its HPKE is that of greetings, too. */
export function suite(): Promise<CiphersuiteImpl> {
  loaded ??= getCiphersuiteImpl(getCiphersuiteFromName(SUITE_NAME));
  return loaded;
}

/** An X25519 key pair as it is kept: 32 random bytes, and the public key `DeriveKeyPair` makes of them. */
export interface HpkeKey {
  readonly seed: Uint8Array;
  readonly publicKey: Uint8Array;
}

/** The key pair of a seed. */
export async function hpkeKey(seed: Uint8Array): Promise<HpkeKey> {
  const { hpke } = await suite();
  const { publicKey } = await hpke.deriveKeyPair(seed);
  return { seed, publicKey: await hpke.exportPublicKey(publicKey) };
}
