import { fromBinary } from "@bufbuild/protobuf";

import { DistrustError } from "./errors.js";
import { RealmRecordSchema, type RealmRecord, type SignedRealmRecord } from "./gen/valise/v1/valise_pb.js";
import { ED25519, realmId } from "./ids.js";
import { verifies } from "./keys.js";
import { REALM_RECORD_BYTES_MAX, REALM_RECORD_LIST_MAX } from "./limits.js";
import { realmRecordStatement } from "./statements.js";

/** The realm record in `signed`, if it is genuine and of `realm`. Throws {@link DistrustError}. */
export function openRealmRecord(signed: Pick<SignedRealmRecord, "record" | "signature">, realm: Uint8Array): RealmRecord {
  if (signed.record.length > REALM_RECORD_BYTES_MAX) throw new DistrustError("too_large");
  let record: RealmRecord;
  try {
    record = fromBinary(RealmRecordSchema, signed.record);
  } catch {
    throw new DistrustError("decode");
  }
  if (record.keyAlgorithm !== ED25519) throw new DistrustError("algorithm");
  if (record.endpoints.length > REALM_RECORD_LIST_MAX || record.relayKeys.length > REALM_RECORD_LIST_MAX) {
    throw new DistrustError("too_large");
  }
  if (!sameBytes(record.realm, realmId(record.rootKey))) throw new DistrustError("not_its_key");
  if (!sameBytes(record.realm, realm)) throw new DistrustError("another_realm");
  if (!verifies(record.rootKey, realmRecordStatement(signed.record), signed.signature)) {
    throw new DistrustError("signature");
  }
  if (record.relayKeys.some(({ key }) => key.length !== 32)) throw new DistrustError("relay_key");
  return record;
}

/** Whether both have the same bytes. Nothing secret is compared with this. */
export function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}
