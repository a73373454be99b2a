/** What is signed on a connection begins with these. */
export interface Place {
  readonly realm: Uint8Array;
  /** The channel, or {@link NO_CHANNEL}. */
  readonly channel: Uint8Array;
  /** `Welcome.nonce` of this connection. */
  readonly nonce: Uint8Array;
}

/** Signed as the channel by a client that cannot see the certificate. */
export const NO_CHANNEL: Uint8Array = new Uint8Array(32);

/** Signed by a relay key. */
export function welcomeStatement(place: Place, features: bigint, versions: readonly number[]): Uint8Array {
  const tail = Buffer.alloc(8 + 4 * versions.length);
  tail.writeBigUInt64BE(features);
  versions.forEach((version, i) => tail.writeUInt32BE(version, 8 + 4 * i));
  return statement("valise welcome 1", place.realm, place.channel, place.nonce, tail);
}

/** Signed by the owner key. */
export function joinStatement(place: Place): Uint8Array {
  return statement("valise join 1", place.realm, place.channel, place.nonce);
}

/** Signed by the owner key; `attachesBefore` counts refused ones too. */
export function attachStatement(place: Place, mailbox: Uint8Array, attachesBefore: number): Uint8Array {
  const tail = Buffer.alloc(4);
  tail.writeUInt32BE(attachesBefore);
  return statement("valise attach 1", place.realm, place.channel, place.nonce, mailbox, tail);
}

/** Signed by the root key, over the bytes as they are. */
export function realmRecordStatement(record: Uint8Array): Uint8Array {
  return statement("valise realm record 1", record);
}

function statement(label: string, ...parts: Uint8Array[]): Uint8Array {
  return Buffer.concat([Buffer.from(label, "ascii"), ...parts]);
}
