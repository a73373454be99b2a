import { DistrustError } from "./errors.js";
import type { RealmRecord, Welcome } from "./gen/valise/v1/valise_pb.js";
import { verifies } from "./keys.js";
import { EPOCH_AHEAD_MAX, VERSION } from "./limits.js";
import { openRealmRecord, sameBytes } from "./realm-record.js";
import { welcomeStatement } from "./statements.js";

/** What an app has kept of a realm. */
export interface SeenRealm {
  /** The highest epoch seen. */
  readonly epoch: bigint;
  /** The encoded record of that epoch; with it, a second one of the same epoch is noticed. */
  readonly record?: Uint8Array;
}

/** What a client knows when it looks at a `Welcome`. */
export interface Expectation {
  readonly realm: Uint8Array;
  /** Computed from the certificate this connection was served. */
  readonly channel: Uint8Array;
  readonly seen?: SeenRealm | undefined;
  /** Whether the user has agreed to a jump of more than 1,000 epochs. */
  readonly believeEpochAhead?: boolean | undefined;
  /** Days since 1970-01-01, UTC; today by default. */
  readonly today?: number | undefined;
}

/** Makes the checks of section 5, in its order. Throws {@link DistrustError}; returns the realm record. */
export function checkWelcome(welcome: Welcome, expected: Expectation): RealmRecord {
  const signed = welcome.realmRecord;
  if (!signed) throw new DistrustError("decode");
  const record = openRealmRecord(signed, expected.realm);
  checkEpoch(record, signed.record, expected);

  const relayKey = record.relayKeys.find(({ key }) => sameBytes(key, welcome.signingKey));
  if (!relayKey) throw new DistrustError("key_unknown");
  const today = expected.today ?? Math.floor(Date.now() / 86_400_000);
  if (today > relayKey.lastDay) throw new DistrustError("key_expired");

  const place = { realm: expected.realm, channel: expected.channel, nonce: welcome.nonce };
  const statement = welcomeStatement(place, welcome.features, welcome.versions);
  if (!verifies(welcome.signingKey, statement, welcome.signature)) throw new DistrustError("welcome_signature");

  if (!welcome.versions.includes(VERSION)) throw new DistrustError("version");
  return record;
}

/** Whether a record may count, as far as its epoch goes. Throws {@link DistrustError}. */
export function checkEpoch(
  record: RealmRecord,
  bytes: Uint8Array,
  { seen, believeEpochAhead }: Pick<Expectation, "seen" | "believeEpochAhead">,
): void {
  // Whoever has seen no record has nothing to compare with, so the first one may have any epoch.
  if (!seen) return;
  if (record.epoch < seen.epoch) throw new DistrustError("epoch_old");
  if (record.epoch > seen.epoch + EPOCH_AHEAD_MAX && !believeEpochAhead) throw new DistrustError("epoch_ahead");
  if (record.epoch === seen.epoch && seen.record && !sameBytes(bytes, seen.record)) {
    throw new DistrustError("signed_twice");
  }
}
