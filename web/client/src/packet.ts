import { create, fromBinary, toBinary, type MessageInitShape } from "@bufbuild/protobuf";

import { MalformedError } from "./errors.js";
import { ClientPacketSchema, ServerPacketSchema, type ClientPacket, type ServerPacket } from "./gen/valise/v1/valise_pb.js";

/** What a client may say, as `{ case, value }`. */
export type Say = Exclude<NonNullable<MessageInitShape<typeof ClientPacketSchema>["packet"]>, { case?: undefined }>;
/** What a relay may say, as `{ case, value }`. */
export type Said = Exclude<ServerPacket["packet"], { case: undefined }>;

/** Bytes each kind's fields of fixed length must have; `optional` ones may be empty. */
type Lengths = Record<string, { bytes: number; optional?: boolean }>;

const LENGTHS: Record<string, Lengths> = {
  "valise.v1.SignedRealmRecord": { signature: { bytes: 64 } },
  "valise.v1.Welcome": { nonce: { bytes: 32 }, signingKey: { bytes: 32 }, signature: { bytes: 64 } },
  "valise.v1.Hello": { memberToken: { bytes: 60, optional: true } },
  "valise.v1.Join": {
    ownerKey: { bytes: 32 },
    signature: { bytes: 64 },
    joinToken: { bytes: 60, optional: true },
  },
  "valise.v1.Joined": { memberToken: { bytes: 60 } },
  "valise.v1.Attach": { memberToken: { bytes: 60 }, ownerKey: { bytes: 32 }, signature: { bytes: 64 } },
  "valise.v1.Issued": { tokens: { bytes: 60 } },
  "valise.v1.Revoke": { token: { bytes: 60 } },
  "valise.v1.Deliver": { frameId: { bytes: 16 } },
  "valise.v1.Post": { frameId: { bytes: 16 }, capabilities: { bytes: 60 } },
  "valise.v1.Posted": { frameId: { bytes: 16 } },
  "valise.v1.Signal": { capabilities: { bytes: 60 } },
  "valise.v1.PutSlot": { slotToken: { bytes: 60 }, slotId: { bytes: 32 }, putId: { bytes: 16 } },
  "valise.v1.GetSlots": { slotIds: { bytes: 32 } },
  "valise.v1.PublishBundle": { publicationId: { bytes: 16 } },
  "valise.v1.TakeBundle": { takeToken: { bytes: 60 } },
};

/** The bytes of a packet, without length prefix. Throws {@link MalformedError} where a relay would close. */
export function encodePacket(say: Say): Uint8Array {
  const packet = create(ClientPacketSchema, { packet: say });
  checkLengths(packet);
  return toBinary(ClientPacketSchema, packet);
}

/** A relay's packet; undefined for one of an unknown kind, which is ignored. */
export function decodeServerPacket(bytes: Uint8Array): Said | undefined {
  const { packet } = decode(() => fromBinary(ServerPacketSchema, bytes));
  return packet.case === undefined ? undefined : packet;
}

/** A client's packet, as a relay reads it: for tests, and for tools. */
export function decodeClientPacket(bytes: Uint8Array): ClientPacket["packet"] {
  return decode(() => fromBinary(ClientPacketSchema, bytes)).packet;
}

function decode<T extends ClientPacket | ServerPacket>(read: () => T): T {
  let message: T;
  try {
    message = read();
  } catch (cause) {
    throw new MalformedError("a packet that does not decode", { cause });
  }
  checkLengths(message);
  return message;
}

function checkLengths({ packet }: ClientPacket | ServerPacket): void {
  if (packet.value === undefined) return;
  checkMessage(packet.value);
  if (packet.case === "welcome" && packet.value.realmRecord) checkMessage(packet.value.realmRecord);
}

function checkMessage(message: { $typeName: string }): void {
  for (const [field, { bytes, optional }] of Object.entries(LENGTHS[message.$typeName] ?? {})) {
    const value = (message as unknown as Record<string, Uint8Array | Uint8Array[]>)[field] ?? [];
    for (const one of value instanceof Uint8Array ? [value] : value) {
      if (one.length !== bytes && !(optional && one.length === 0)) {
        throw new MalformedError(`${message.$typeName}.${field} has ${one.length} bytes, not ${bytes}`);
      }
    }
  }
}
